//! Reads an HTTP answer and compares its prediction with the image's label. Pure. Knows nothing of connections.

use crate::sample::RequestOutcome;
use hyper::StatusCode;
use serde::Deserialize;
use service::wire::ErrorBody;
use std::borrow::Cow;

/// Longest error code that is kept, in characters. The codes of the HTTP API are shorter, but an unknown server may
/// send any text.
const MAX_CODE_CHARS: usize = 40;

/// The part of [`service::wire::Answer`] that loadgen needs. Deserialising skips the rest.
#[derive(Deserialize)]
struct PartialAnswer<'a> {
    #[serde(borrow)]
    prediction: PartialPrediction<'a>,
}

#[derive(Deserialize)]
struct PartialPrediction<'a> {
    #[serde(borrow)]
    label: Cow<'a, str>,
}

/// The outcome of a request that was answered with `status` and `body`. `label` is the label of the image that was
/// sent, if it is known.
pub fn outcome(status: StatusCode, body: &[u8], label: Option<&str>) -> RequestOutcome {
    let failed = |code: String| RequestOutcome::Failed { code: code.into() };
    if status != StatusCode::OK {
        return match serde_json::from_slice::<ErrorBody>(body) {
            Ok(error) => failed(error.code.chars().take(MAX_CODE_CHARS).map(printable).collect()),
            Err(_) => failed(format!("http_{}", status.as_u16())),
        };
    }
    match serde_json::from_slice::<PartialAnswer<'_>>(body) {
        Ok(answer) => RequestOutcome::Answered { right: label.map(|label| answer.prediction.label == label) },
        Err(_) => failed("invalid_answer".into()),
    }
}

/// Replaces control characters, so that a server's text cannot send commands to the terminal on which it is printed.
fn printable(character: char) -> char {
    if character.is_control() { char::REPLACEMENT_CHARACTER } else { character }
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
            assert_eq!(outcome(status, body, label), expected);
        }
    }
}
