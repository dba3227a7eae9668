//! Builds HTTP answers. Only this file turns a [`RequestError`] into an answer with a status. Does no I/O.

use crate::wire::{Code, ErrorBody, RequestError};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Method, Response, StatusCode};
use serde::Serialize;

/// An HTTP answer whose whole body is in memory.
pub type Reply = Response<Full<Bytes>>;

/// An answer whose body is `body`.
pub fn bytes(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// An answer with a JSON body.
///
/// # Panics
/// If `body` has a map whose keys are not strings. The types of [`crate::wire`] have no such map.
pub fn json(status: StatusCode, body: &impl Serialize) -> Reply {
    let json = serde_json::to_vec(body).expect("every map in a body has strings for keys");
    bytes(status, "application/json", json.into())
}

/// An answer with a text body and status 200.
pub fn text(content_type: &'static str, body: String) -> Reply {
    bytes(StatusCode::OK, content_type, body.into())
}

/// The answer for a failed request: an [`ErrorBody`], and the header `Retry-After` if the error has a time. The header
/// has whole seconds, rounded up, so that no client retries too early.
pub fn error(error: &RequestError, request_id: &str) -> Reply {
    let body = ErrorBody {
        success: false,
        code: error.code.as_str().into(),
        error: error.message.clone(),
        request_id: request_id.into(),
    };
    let status = StatusCode::from_u16(error.code.status()).expect("every code has a valid status");
    let mut reply = json(status, &body);
    if error.code == Code::Unauthorized {
        reply.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(after) = error.retry_after {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs_f64().ceil().max(1.0) as u64));
    }
    reply
}

/// Most characters of an error message of the Open Inference Protocol. Without a limit, a message could quote a whole
/// body.
const MAX_MESSAGE_LENGTH: usize = 500;

/// The answer for a failed request of the Open Inference Protocol, whose body is `{"error": "MESSAGE"}`.
pub fn inference_error(error: &RequestError) -> Reply {
    let message: String = error.message.chars().take(MAX_MESSAGE_LENGTH).collect();
    self::error(error, "").map(|_contract| serde_json::json!({"error": message}).to_string().into())
}

/// An answer with status 405. `allowed` lists the methods that the path accepts, such as `GET, HEAD`.
pub fn method_not_allowed(allowed: &'static str, request_id: &str) -> Reply {
    let message = format!("this path takes {allowed} only");
    let mut reply = error(&RequestError::new(Code::MethodNotAllowed, message), request_id);
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    reply
}

/// The answer of a path that can only be read: the result of `read` for GET and HEAD, status 405 for other methods.
pub fn read_only(method: &Method, read: impl FnOnce() -> Reply) -> Reply {
    match *method {
        Method::GET | Method::HEAD => read(),
        _ => method_not_allowed("GET, HEAD", ""),
    }
}

/// An answer with status 404. `advice` names a path that exists.
pub fn not_found(path: &str, advice: &str, request_id: &str) -> Reply {
    error(&RequestError::new(Code::NotFound, format!("no such path: {path}; {advice}")), request_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_of_the_inference_protocol_is_cut() {
        let reply = inference_error(&RequestError::new(Code::BadRequest, "\u{e9}".repeat(100_000)));
        assert_eq!(reply.status(), 400);
        let length = hyper::body::Body::size_hint(reply.body()).exact();
        assert_eq!(length, Some((MAX_MESSAGE_LENGTH * "\u{e9}".len() + r#"{"error":""}"#.len()) as u64));
    }
}
