//! Classifies an answer: it goes to the client unchanged, or is the failure of an attempt. Pure.

use super::ReplicaAnswer;
use super::answer::Answer;
use super::headers::{AnswerHeaders, BodyKind};
use crate::failure::AttemptFailure;
use crate::request::Endpoint;
use hyper::StatusCode;
use service::wire::{Code, ErrorBody};

/// Returns the answer for the client, or the failure that status and body stand for.
pub(super) fn classify(answer: Answer, endpoint: &Endpoint) -> Result<ReplicaAnswer, AttemptFailure> {
    let Answer { status, headers, body, .. } = answer;
    let AnswerHeaders { kind, json_length, capacity, work, .. } = headers;
    let is_json = kind == BodyKind::Json;
    let (is_valid, is_busy) = match endpoint {
        Endpoint::Predict(_) => (is_json, is_json && is_busy(status, &body)),
        // Errors of the Open Inference Protocol have no code. A replica that tells its capacity says 503 only if its
        // slots are taken or its model is not loaded yet. The 503 of any other server is a failure like any 5xx.
        Endpoint::Infer(_) => {
            let is_unavailable = is_json && status == StatusCode::SERVICE_UNAVAILABLE;
            (kind != BodyKind::Other, is_unavailable && capacity.is_some())
        }
    };
    if is_valid && is_final(status) && (!is_json || status != StatusCode::OK || is_object(&body)) {
        Ok(ReplicaAnswer { status, kind, json_length, body })
    } else if is_busy && work.is_some() {
        // The work of a replica begins when it has the whole body, so it has read and parsed the body.
        Err(AttemptFailure::Crowded)
    } else if is_busy {
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
    use super::*;
    use crate::request::InferEndpoint;
    use service::wire::PredictQuery;
    use std::time::Duration;

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
            let kind = if is_json { BodyKind::Json } else { BodyKind::Other };
            let classified = classify(answer(status, kind, body), &Endpoint::Predict(PredictQuery::default()));
            assert_eq!(classified.err(), expected, "{status} {is_json} {body}");
        }
    }

    fn answer(status: u16, kind: BodyKind, body: &'static str) -> Answer {
        let status = StatusCode::from_u16(status).expect("the number is a valid status");
        let headers = AnswerHeaders { kind, ..AnswerHeaders::default() };
        Answer { status, headers, body: body.into(), allows_reuse: true }
    }

    #[test]
    fn answers_of_the_inference_protocol_may_be_binary_and_are_busy_by_their_status() {
        let endpoint = Endpoint::Infer(InferEndpoint { path: "/v2/models/m/infer".into(), json_length: None }.into());
        let (capacity, work) = (Some(4), Some(Duration::ZERO));
        for (status, kind, body, capacity, work, expected) in [
            (200, BodyKind::Json, "{}", capacity, work, None),
            (200, BodyKind::Binary, "{}\0\0", capacity, work, None),
            (200, BodyKind::Json, "{}\0\0", capacity, work, Some(AttemptFailure::Invalid)),
            (200, BodyKind::Other, "{}", capacity, work, Some(AttemptFailure::Invalid)),
            (404, BodyKind::Json, r#"{"error":"no such model"}"#, capacity, None, None),
            (503, BodyKind::Json, r#"{"error":"no slot"}"#, capacity, None, Some(AttemptFailure::Busy)),
            (503, BodyKind::Json, r#"{"error":"3 slots are missing"}"#, capacity, work, Some(AttemptFailure::Crowded)),
            (503, BodyKind::Json, r#"{"error":"of another server"}"#, None, None, Some(AttemptFailure::Server)),
            (503, BodyKind::Other, "no upstream", None, None, Some(AttemptFailure::Server)),
            (500, BodyKind::Json, r#"{"error":"a bug"}"#, capacity, work, Some(AttemptFailure::Server)),
        ] {
            let answer = answer(status, kind, body);
            let headers = AnswerHeaders { capacity, work, ..answer.headers };
            let classified = classify(Answer { headers, ..answer }, &endpoint);
            assert_eq!(classified.err(), expected, "{status} {kind:?} {body}");
        }
    }
}
