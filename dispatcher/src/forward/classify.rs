//! Classifies an answer: it goes to the client unchanged, or is the failure of an attempt. Pure.

use super::ReplicaAnswer;
use super::answer::Answer;
use crate::failure::AttemptFailure;
use hyper::StatusCode;
use service::wire::{Code, ErrorBody};

/// Returns the answer for the client, or the failure that status and body stand for.
pub(super) fn classify(answer: Answer) -> Result<ReplicaAnswer, AttemptFailure> {
    let Answer { status, headers, body, .. } = answer;
    let is_json = headers.is_json;
    if is_json && is_final(status) && (status != StatusCode::OK || is_object(&body)) {
        Ok(ReplicaAnswer { status, body })
    } else if is_json && is_busy(status, &body) {
        Err(AttemptFailure::Busy)
    } else if status.is_server_error() {
        Err(AttemptFailure::Server)
    } else {
        Err(AttemptFailure::Invalid)
    }
}

/// Whether the first and the last character of `body` are those of a JSON object, as the body of a success is. This finds
/// empty bodies and those of other kinds. Parsing every body would cost more than sending it.
fn is_object(body: &[u8]) -> bool {
    matches!(body.trim_ascii(), [b'{', .., b'}'])
}

/// Whether any other replica would answer with the same status, so that a retry would not help.
fn is_final(status: StatusCode) -> bool {
    status == StatusCode::OK || status.is_client_error() || status == StatusCode::GATEWAY_TIMEOUT
}

/// Whether the answer says that all slots of the replica are taken. A 503 with another body, such as that of a proxy,
/// is a failure like any 5xx.
fn is_busy(status: StatusCode, body: &[u8]) -> bool {
    status == StatusCode::SERVICE_UNAVAILABLE
        && serde_json::from_slice::<ErrorBody>(body).is_ok_and(|error| error.code == Code::Busy.as_str())
}

#[cfg(test)]
mod tests {
    use super::super::headers::AnswerHeaders;
    use super::*;

    #[test]
    fn status_and_body_distinguish_answers_from_failures() {
        let busy = r#"{"success":false,"code":"busy","error":"","request_id":""}"#;
        let other = r#"{"success":false,"code":"internal","error":"","request_id":""}"#;
        for (status, is_json, body, expected) in [
            (200, true, "{}", None),
            (200, true, " {\"a\": 1}\n", None),
            (400, true, other, None),
            (400, true, "\"no object\"", None),
            (504, true, other, None),
            (200, false, "{}", Some(AttemptFailure::Invalid)),
            (200, true, "", Some(AttemptFailure::Invalid)),
            (200, true, "{", Some(AttemptFailure::Invalid)),
            (200, true, "<html></html>", Some(AttemptFailure::Invalid)),
            (200, true, "[{}]", Some(AttemptFailure::Invalid)),
            (302, true, "{}", Some(AttemptFailure::Invalid)),
            (400, false, "", Some(AttemptFailure::Invalid)),
            (500, true, other, Some(AttemptFailure::Server)),
            (503, true, busy, Some(AttemptFailure::Busy)),
            (503, true, other, Some(AttemptFailure::Server)),
            (503, false, busy, Some(AttemptFailure::Server)),
        ] {
            let classified = classify(Answer {
                status: StatusCode::from_u16(status).expect("the number is a valid status"),
                headers: AnswerHeaders { is_json, ..AnswerHeaders::default() },
                body: body.into(),
                allows_reuse: true,
            });
            assert_eq!(classified.err(), expected, "{status} {is_json} {body}");
        }
    }
}
