//! Reads and copies header values. Knows nothing of particular headers.

use crate::wire::{Code, RequestError};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

/// The value of the header `name` as text; `None` if the header is absent.
///
/// # Errors
/// If the value is not visible ASCII (status 400).
pub fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, RequestError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let error = |_| RequestError::new(Code::BadRequest, format!("the header {name} is not visible ASCII text"));
    value.to_str().map(Some).map_err(error)
}

/// Values that many requests have. A copy of a static value allocates no memory.
static COMMON: [HeaderValue; 5] = [
    HeaderValue::from_static("image/jpeg"),
    HeaderValue::from_static("image/png"),
    HeaderValue::from_static("image/webp"),
    HeaderValue::from_static("application/octet-stream"),
    HeaderValue::from_static("application/json"),
];

/// A copy of `value` in memory of its own. A received value is a slice of the buffer that the whole request was read
/// into. A stored `clone` of the value would keep that buffer in memory.
pub fn deep_copy(value: &HeaderValue) -> HeaderValue {
    own_value(value.as_bytes())
}

/// A header value in memory of its own.
///
/// # Panics
/// If `value` is not valid. The values of a head that was parsed are valid.
pub fn own_value(value: &[u8]) -> HeaderValue {
    let common = COMMON.iter().find(|common| common.as_bytes() == value);
    common.cloned().unwrap_or_else(|| HeaderValue::from_bytes(value).expect("the bytes of a valid value are valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_copy_does_not_keep_the_buffer_of_the_request() {
        for line in ["content-type: image/jpeg", "content-type: multipart/form-data; boundary=7"] {
            let buffer = bytes::Bytes::from(line.as_bytes().to_vec());
            let value = HeaderValue::from_maybe_shared(buffer.slice(14..)).expect("a value");
            let copy = deep_copy(&value);
            assert_eq!(copy, value);
            drop(value);
            assert!(buffer.is_unique(), "{copy:?} keeps the buffer");
        }
    }

    #[test]
    fn values_are_text_absent_or_refused() {
        let mut headers = HeaderMap::new();
        headers.insert("good", HeaderValue::from_static("12"));
        headers.insert("bad", HeaderValue::from_bytes(b"\xff").expect("opaque bytes are a value"));
        let text = |name| text(&headers, &HeaderName::from_static(name));
        assert_eq!(text("good"), Ok(Some("12")));
        assert_eq!(text("none"), Ok(None));
        assert_eq!(text("bad").map_err(|error| error.code), Err(Code::BadRequest));
    }
}
