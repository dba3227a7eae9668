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
