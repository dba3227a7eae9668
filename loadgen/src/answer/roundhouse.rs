//! Answers of this project's HTTP API.

use super::{Answer, Prediction, printable};
use serde::Deserialize;
use service::wire::Timing;
use std::borrow::Cow;

/// Longest name of a replica that is kept, in characters.
const MAX_NAME_CHARS: usize = 100;

/// The part of [`service::wire::Answer`] that loadgen needs. Deserialising skips the rest.
#[derive(Deserialize)]
struct PartialAnswer<'a> {
    #[serde(borrow)]
    prediction: PartialPrediction<'a>,
    #[serde(borrow, default)]
    replica: Option<Cow<'a, str>>,
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
    Some(Answer {
        outcome: Prediction::Label(answer.prediction.label).judge(label),
        replica: answer.replica.map(|name| name.chars().take(MAX_NAME_CHARS).map(printable).collect::<String>().into()),
        timing: answer.timing_ms,
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
        assert_eq!((timing.queue, timing.inference, timing.total), (1.0, 4.0, 10.0));
        let strange = read(br#"{"prediction":{"label":"x"},"replica":"a\u0007b"}"#, None).expect("an answer");
        assert_eq!((strange.replica.as_deref(), strange.timing), (Some("a\u{fffd}b"), None));
    }
}
