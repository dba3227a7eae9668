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

/// The same value in memory of its own. As it was received it is a part of the buffer that the request was read into,
/// and would keep all of that alive.
pub fn detached(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).expect("it was a value already")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detached_value_leaves_its_buffer() {
        let buffer = bytes::Bytes::from(b"content-type: image/jpeg".to_vec());
        let value = HeaderValue::from_maybe_shared(buffer.slice(14..)).expect("a value");
        let own = detached(&value);
        assert_eq!(own, value);
        drop(value);
        assert!(buffer.is_unique(), "{own:?} keeps it");
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
