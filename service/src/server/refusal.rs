//! The answers with which hyper refuses heads that it cannot parse. They have no body, and get the one that all errors
//! have. Does no I/O.

use crate::respond;
use crate::trace::TraceContext;
use crate::wire::{Code, RequestError, header};
use bytes::Bytes;
use hyper::{HeaderMap, StatusCode};
use memchr::memmem;

/// How the status line of each such answer begins.
const BEGINNING: &[u8] = b"HTTP/1.1 4";

/// The first headers of such an answer. No answer of a program has them in this order, since it has a body.
const HEADERS: &[u8] = b"\r\nconnection: close\r\ncontent-length: 0\r\n";

/// The end of a head.
const END: &[u8] = b"\r\n\r\n";

/// The place and the status of the answer with which hyper refuses a head, if `bytes` end with such an answer. Other answers
/// may come before.
pub(super) fn find(bytes: &[u8]) -> Option<(usize, StatusCode)> {
    // Nearly all answers have a body, so this check ends here for them.
    if !bytes.ends_with(END) {
        return None;
    }
    let at = memmem::rfind(bytes, BEGINNING)?;
    let answer = &bytes[at..];
    let line_end = memchr::memchr(b'\r', answer)?;
    let status = StatusCode::from_bytes(answer.get(9..12)?).ok()?;
    answer[line_end..].starts_with(HEADERS).then_some((at, status))
}

/// The answer to send instead, with its head.
pub(super) fn answer(status: StatusCode) -> Vec<u8> {
    let error = if status == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE {
        let advice =
            "the head of the request has over 100 headers or over --max-header-bytes; send fewer or shorter ones";
        RequestError::new(Code::TooLarge, advice)
    } else {
        RequestError::new(
            Code::BadRequest,
            "the head of the request is malformed (RFC 9112, section 3); check its request line and headers",
        )
    };
    let request_id = TraceContext::from_headers(&HeaderMap::new()).request_id();
    let body: Bytes = respond::error(&error, &request_id).into_body().into_inner().unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\n{}: {request_id}\r\n\
         content-length: {}\r\n\r\n",
        header::REQUEST_ID,
        body.len()
    );
    [head.as_bytes(), &body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_of_hyper_are_found() {
        let bare = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: now\r\n\r\n";
        let good = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        for (text, found) in [
            (bare.to_owned(), Some((0, StatusCode::BAD_REQUEST))),
            (bare.replace("400 Bad", "431 Bad"), Some((0, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE))),
            (format!("{good}{bare}"), Some((good.len(), StatusCode::BAD_REQUEST))),
            (format!("{bare}{good}"), None),
            (good.to_owned(), None),
            ("HTTP/1.1 100 Continue\r\n\r\n".to_owned(), None),
            // The answer to HEAD.
            (bare.replace("length: 0", "length: 128"), None),
            (bare.replace("connection: close\r\n", "content-type: application/json\r\n"), None),
            (END.escape_ascii().to_string(), None),
            ("\r\n\r\n".to_owned(), None),
        ] {
            assert_eq!(find(text.as_bytes()), found, "{text:?}");
        }
    }

    #[test]
    fn the_answer_has_the_form_of_all_errors() {
        for (status, code) in [(400, "bad_request"), (431, "too_large")] {
            let answer = answer(StatusCode::from_u16(status).expect("a status"));
            let text = String::from_utf8(answer).expect("the answer is UTF-8");
            let (head, body) = text.split_once("\r\n\r\n").expect("a head");
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
            let body: crate::wire::ErrorBody = serde_json::from_str(body).expect("JSON");
            assert_eq!((body.success, &*body.code), (false, code));
            assert!(!body.error.is_empty() && head.contains(&format!("x-request-id: {}", body.request_id)), "{head}");
        }
    }
}
