//! Reads an HTTP answer and compares its prediction with the image's label. Pure. Knows nothing of connections.

use crate::sample::RequestOutcome;
use hyper::StatusCode;
use serde::Deserialize;
use service::wire::{ErrorBody, Timing};
use std::borrow::Cow;

/// Longest error code that is kept, in characters. The codes of the HTTP API are shorter, but an unknown server may
/// send any text.
const MAX_CODE_CHARS: usize = 40;

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

/// Longest name of a replica that is kept, in characters.
const MAX_REPLICA_CHARS: usize = 100;

/// The content of an HTTP answer, or the failure of a request without one.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The outcome of the request.
    pub outcome: RequestOutcome,
    /// The name of the replica that answered; `None` if the answer does not have it.
    pub replica: Option<Box<str>>,
    /// The duration of each stage at the server; `None` if the answer does not have it.
    pub timing: Option<Timing>,
}

impl Answer {
    /// A request that failed with `code`.
    pub fn failed(code: impl Into<Cow<'static, str>>) -> Self {
        Self { outcome: RequestOutcome::Failed { code: code.into() }, replica: None, timing: None }
    }
}

/// The outcome of a request that was answered with `status` and `body`. `label` is the label of the image that was
/// sent, if it is known.
pub fn read(status: StatusCode, body: &[u8], label: Option<&str>) -> Answer {
    if status != StatusCode::OK {
        return match serde_json::from_slice::<ErrorBody>(body) {
            Ok(error) => Answer::failed(printable(&error.code, MAX_CODE_CHARS)),
            Err(_) => Answer::failed(format!("http_{}", status.as_u16())),
        };
    }
    match serde_json::from_slice::<PartialAnswer<'_>>(body) {
        Ok(answer) => Answer {
            outcome: RequestOutcome::Answered { right: label.map(|label| answer.prediction.label == label) },
            replica: answer.replica.map(|replica| printable(&replica, MAX_REPLICA_CHARS).into()),
            timing: answer.timing_ms,
        },
        Err(_) => Answer::failed("invalid_answer"),
    }
}

/// The first `length` characters of `text`. Control characters are replaced, so that a server's text cannot send commands
/// to the terminal on which it is printed.
fn printable(text: &str, length: usize) -> String {
    let replace = |character: char| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character };
    text.chars().take(length).map(replace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_body_and_label_decide_the_outcome() {
        let failed = |code: &'static str| RequestOutcome::Failed { code: code.into() };
        let answer = br#"{"success":true,"prediction":{"class_index":0,"label":"plain circle","confidence":0.9},
            "predictions":[],"model":"m","replica":"r",
            "timing_ms":{"queue":0,"decode":0,"batch":0,"inference":0,"total":0}}"#;
        let error = br#"{"success":false,"code":"queue_full","error":"full","request_id":"x"}"#;
        let rows = [
            (200, &answer[..], Some("plain circle"), RequestOutcome::Answered { right: Some(true) }),
            (200, answer, Some("plain star"), RequestOutcome::Answered { right: Some(false) }),
            (200, answer, None, RequestOutcome::Answered { right: None }),
            (200, b"<html>", None, failed("invalid_answer")),
            (503, error, None, failed("queue_full")),
            (503, br#"{"success":false,"code":"\u001b[2Jx","error":"","request_id":""}"#, None, failed("\u{fffd}[2Jx")),
            (502, b"Bad Gateway", None, failed("http_502")),
        ];
        for (status, body, label, expected) in rows {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(read(status, body, label).outcome, expected);
        }
    }

    #[test]
    fn the_replica_and_its_timing_are_read_if_the_answer_has_them() {
        let body = br#"{"prediction":{"label":"x"},"replica":"a\u0007b",
            "timing_ms":{"queue":1.5,"decode":2,"batch":0,"inference":3,"total":7}}"#;
        let answer = read(StatusCode::OK, body, None);
        assert_eq!(answer.replica.as_deref(), Some("a\u{fffd}b"));
        assert_eq!(answer.timing.map(|timing| (timing.queue, timing.total)), Some((1.5, 7.0)));
        let bare = read(StatusCode::OK, br#"{"prediction":{"label":"x"}}"#, None);
        assert_eq!((bare.replica, bare.timing), (None, None));
    }
}
