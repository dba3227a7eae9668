//! Answers of this project's HTTP API.

use super::{Answer, Prediction};
use crate::server_timing::ServerTiming;
use serde::Deserialize;
use service::wire::Timing;
use std::borrow::Cow;

/// The part of [`service::wire::Answer`] that loadgen needs. Deserialising skips the rest.
#[derive(Deserialize)]
struct PartialAnswer<'a> {
    #[serde(borrow)]
    prediction: PartialPrediction<'a>,
    #[serde(default)]
    replica: Option<Box<str>>,
    #[serde(default)]
    timing_ms: Option<Timing>,
}

#[derive(Deserialize)]
struct PartialPrediction<'a> {
    #[serde(borrow)]
    label: Cow<'a, str>,
}

/// What the body of an answer with status 200 says; `None` if it is no answer of the API.
pub(super) fn read(body: &[u8], label: Option<&str>) -> Option<Answer> {
    let answer: PartialAnswer<'_> = serde_json::from_slice(body).ok()?;
    let timing = |timing: Timing| ServerTiming {
        queue_ms: timing.queue,
        decode_ms: timing.decode,
        batch_ms: timing.batch,
        inference_ms: timing.inference,
        total_ms: timing.total,
    };
    Some(Answer {
        outcome: Prediction::Label(answer.prediction.label).judge(label),
        replica: answer.replica,
        timing: answer.timing_ms.map(timing),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answered, outcome};
    use super::super::{TargetKind, failed};
    use super::*;
    use crate::sample::RequestOutcome;

    const ANSWER: &str = r#"{"success":true,"prediction":{"class_index":0,"label":"plain circle","confidence":0.9},
        "predictions":[],"model":"m","replica":"r",
        "timing_ms":{"queue":1,"decode":2,"batch":3,"inference":4,"total":10}}"#;

    #[test]
    fn status_body_and_label_decide_the_outcome() {
        let error = r#"{"success":false,"code":"queue_full","error":"full","request_id":"x"}"#;
        let rows = [
            (200, ANSWER, Some("plain circle"), answered(Some(true))),
            (200, ANSWER, Some("plain star"), answered(Some(false))),
            (200, ANSWER, None, answered(None)),
            (200, r#"{"prediction":{"label":"a"}}"#, Some("a"), answered(Some(true))),
            (200, "<html>", None, failed("invalid_answer")),
            (503, error, None, failed("queue_full")),
            (
                503,
                r#"{"success":false,"code":"\u001b[2Jx","error":"","request_id":""}"#,
                None,
                RequestOutcome::Failed { code: "\u{fffd}[2Jx".into() },
            ),
            (502, "Bad Gateway", None, failed("http_502")),
        ];
        for (status, body, label, expected) in rows {
            assert_eq!(outcome(TargetKind::Roundhouse, status, body, label), expected, "{status} {body}");
        }
    }

    #[test]
    fn the_replica_and_its_durations_are_kept() {
        let answer = read(ANSWER.as_bytes(), None).expect("an answer");
        let timing = answer.timing.expect("the answer states durations");
        assert_eq!(answer.replica.as_deref(), Some("r"));
        assert_eq!((timing.queue_ms, timing.decode_ms, timing.batch_ms), (1.0, 2.0, 3.0));
        assert_eq!((timing.inference_ms, timing.total_ms), (4.0, 10.0));
    }
}
