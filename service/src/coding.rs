//! Refuses bodies that are compressed or coded in another way. A coded image would otherwise look like a corrupt one,
//! and a coded form like a malformed one. Knows nothing of the body itself.

use crate::wire::{Code, RequestError};
use hyper::HeaderMap;
use hyper::header::CONTENT_ENCODING;

/// The longest name of a coding that an error repeats, in bytes.
const MAX_NAME: usize = 64;

/// Checks that the body of a request is not coded: `Content-Encoding` is absent or `identity`. The header may occur
/// several times, and may have a list of codings. Names of codings have no case (RFC 9110, 8.4.1), and an empty element
/// of a list means nothing (5.6.1).
///
/// # Errors
/// If there is another coding, the error has status 415 and names it.
pub fn check(headers: &HeaderMap) -> Result<(), RequestError> {
    let values = headers.get_all(CONTENT_ENCODING).into_iter();
    let mut codings = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    match codings.find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity")) {
        None => Ok(()),
        Some(coding) => Err(unsupported("Content-Encoding", coding)),
    }
}

/// The error for a body whose header `name` has the value `coding`.
pub fn unsupported(name: &str, coding: &[u8]) -> RequestError {
    let coding = String::from_utf8_lossy(&coding[..coding.len().min(MAX_NAME)]);
    let message = format!("{name} {coding:?} is not supported; send the body uncompressed and without this coding");
    RequestError::new(Code::UnsupportedMediaType, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn only_bodies_without_a_coding_are_accepted() {
        for (lines, refused) in [
            (&[][..], None),
            (&["identity"], None),
            (&["Identity"], None),
            (&[""], None),
            (&[" , identity,"], None),
            (&["identity", "identity"], None),
            (&["gzip"], Some("Content-Encoding \"gzip\"")),
            (&["GZIP"], Some("Content-Encoding \"GZIP\"")),
            (&["x-gzip"], Some("\"x-gzip\"")),
            (&["br"], Some("\"br\"")),
            (&["identity, deflate"], Some("\"deflate\"")),
            (&["zstd,gzip"], Some("\"zstd\"")),
            (&["identity", "gzip"], Some("\"gzip\"")),
            (&["aws-chunked"], Some("\"aws-chunked\"")),
        ] {
            let mut headers = HeaderMap::new();
            for value in lines {
                headers.append(CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            match (check(&headers), refused) {
                (Ok(()), None) => {}
                (Err(error), Some(named)) => {
                    assert_eq!(error.code, Code::UnsupportedMediaType, "{lines:?}");
                    assert!(error.message.contains(named), "{lines:?}: {}", error.message);
                }
                (found, _) => panic!("{lines:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn an_error_repeats_a_coding_only_in_part_and_without_control_characters() {
        let mut headers = HeaderMap::new();
        let value = [&b"\xff\t"[..], &[b'x'; 1000]].concat();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_bytes(&value).expect("opaque bytes are a value"));
        let error = check(&headers).expect_err("the coding is unknown");
        assert!(error.message.len() < 200 && !error.message.contains('\t'), "{}", error.message);
    }
}
