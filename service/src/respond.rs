//! Values → HTTP responses. The one place where a fault gets its status.

use crate::wire::{Code, ErrorBody, Fault};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Method, Response, StatusCode};
use serde::Serialize;

/// Every answer is whole before it is sent.
pub type Reply = Response<Full<Bytes>>;

/// A body as it is.
pub fn whole(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// A JSON body.
pub fn json(status: StatusCode, body: &impl Serialize) -> Reply {
    let bytes = serde_json::to_vec(body).expect("the contract's types have string keys and finite shapes");
    whole(status, "application/json", bytes.into())
}

/// A text body with status 200.
pub fn text(content_type: &'static str, body: String) -> Reply {
    whole(StatusCode::OK, content_type, body.into())
}

/// The contract's error body, with `Retry-After` in whole seconds (rounded up, so that nobody comes back too early).
pub fn fault(fault: &Fault, request_id: &str) -> Reply {
    let body = ErrorBody {
        success: false,
        code: fault.code.as_str().into(),
        error: fault.message.clone(),
        request_id: request_id.into(),
    };
    let status = StatusCode::from_u16(fault.code.status()).expect("the contract's statuses are valid");
    let mut reply = json(status, &body);
    if fault.code == Code::Unauthorized {
        reply.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(after) = fault.retry_after {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs_f64().ceil().max(1.0) as u64));
    }
    reply
}

/// 405, naming the methods that the path takes.
pub fn method_not_allowed(allowed: &'static str, request_id: &str) -> Reply {
    let message = format!("this path takes {allowed} only");
    let mut reply = fault(&Fault::new(Code::MethodNotAllowed, message), request_id);
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    reply
}

/// What a path that can only be read answers: `read` to GET and HEAD, 405 to the rest.
pub fn readable(method: &Method, read: impl FnOnce() -> Reply) -> Reply {
    match *method {
        Method::GET | Method::HEAD => read(),
        _ => method_not_allowed("GET, HEAD", ""),
    }
}

/// 404, saying what there is instead.
pub fn not_found(path: &str, instead: &str, request_id: &str) -> Reply {
    fault(&Fault::new(Code::NotFound, format!("no such path: {path}; {instead}")), request_id)
}
