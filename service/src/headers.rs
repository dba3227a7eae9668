//! Reading a request's headers.

use crate::wire::{Code, Fault};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

/// The value of `name` as text; nothing if it is absent.
///
/// # Errors
/// 400 when it is not visible ASCII.
pub fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Fault> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| Fault::new(Code::BadRequest, format!("the header {name} is not text")))
}

/// Values that many requests have; these cost no memory.
static COMMON: [HeaderValue; 5] = [
    HeaderValue::from_static("image/jpeg"),
    HeaderValue::from_static("image/png"),
    HeaderValue::from_static("image/webp"),
    HeaderValue::from_static("application/octet-stream"),
    HeaderValue::from_static("application/json"),
];

/// The same value in memory of its own. As it was received it is a part of the buffer that the request was read into,
/// and would keep all of that alive.
pub fn detached(value: &HeaderValue) -> HeaderValue {
    let common = COMMON.iter().find(|common| *common == value);
    common.cloned().unwrap_or_else(|| HeaderValue::from_bytes(value.as_bytes()).expect("it was a value already"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detached_value_leaves_its_buffer() {
        for line in ["content-type: image/jpeg", "content-type: multipart/form-data; boundary=7"] {
            let buffer = bytes::Bytes::from(line.as_bytes().to_vec());
            let value = HeaderValue::from_maybe_shared(buffer.slice(14..)).expect("a value");
            let own = detached(&value);
            assert_eq!(own, value);
            drop(value);
            assert!(buffer.is_unique(), "{own:?} keeps it");
        }
    }

    #[test]
    fn text_is_told_from_bytes_and_from_nothing() {
        let mut headers = HeaderMap::new();
        headers.insert("good", HeaderValue::from_static("12"));
        headers.insert("bad", HeaderValue::from_bytes(b"\xff").expect("opaque bytes are a value"));
        let text = |name| text(&headers, &HeaderName::from_static(name));
        assert_eq!(text("good"), Ok(Some("12")));
        assert_eq!(text("none"), Ok(None));
        assert_eq!(text("bad").map_err(|fault| fault.code), Err(Code::BadRequest));
    }
}
