//! The head of a plain request: a `POST` over HTTP/1.1 with one `Content-Length`, and without any header that changes
//! the framing, the connection or the order of messages. Every other head is left to hyper. Pure.

use hyper::header::{self, HeaderName};
use std::mem::MaybeUninit;

/// The most headers of a plain request. hyper takes more.
pub(super) const MAX_HEADERS: usize = 32;

/// The memory for the headers of one head. It need not be initialised.
pub(super) type HeaderSpace<'a> = [MaybeUninit<httparse::Header<'a>>; MAX_HEADERS];

/// The headers with which a request is not plain: they change where its body ends, when it is sent, or what follows.
const SPECIAL: [HeaderName; 4] = [header::TRANSFER_ENCODING, header::EXPECT, header::UPGRADE, header::TRAILER];

/// The head of a plain request.
#[derive(Debug)]
pub struct PlainHead<'a> {
    /// The path, which has letters, digits and the characters `/-._~` only.
    pub path: &'a str,
    /// The query without its `?`, of letters, digits and the characters `/-._~=&` only; `None` if there is none.
    pub query: Option<&'a str>,
    headers: &'a [httparse::Header<'a>],
    /// The length of the head in bytes.
    pub(super) length: usize,
    /// The length of the body in bytes.
    pub(super) body_length: u64,
}

/// A header that is repeated or no visible ASCII text. hyper's way decides what that means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unusual;

impl<'a> PlainHead<'a> {
    /// The head at the beginning of `bytes`; `None` if it is incomplete, malformed or not plain.
    pub(super) fn parse<'h>(bytes: &'a [u8], space: &'h mut HeaderSpace<'a>) -> Option<PlainHead<'h>>
    where
        'a: 'h,
    {
        // httparse skips empty lines before the first one.
        if bytes.first() != Some(&b'P') {
            return None;
        }
        let mut request = httparse::Request::new(&mut []);
        let Ok(httparse::Status::Complete(length)) = request.parse_with_uninit_headers(bytes, space) else {
            return None;
        };
        let (Some("POST"), Some(1), Some(target)) = (request.method, request.version, request.path) else {
            return None;
        };
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~');
        if !path.starts_with('/')
            || !path.bytes().all(is_usual)
            || !query.unwrap_or_default().bytes().all(|byte| is_usual(byte) || matches!(byte, b'=' | b'&'))
        {
            return None;
        }
        let headers: &'h [httparse::Header<'a>] = request.headers;
        let mut body_length = None;
        for header in headers {
            let is = |name: &HeaderName| header.name.eq_ignore_ascii_case(name.as_str());
            if is(&header::CONTENT_LENGTH) {
                if body_length.replace(digits(header.value)?).is_some() {
                    return None;
                }
            } else if is(&header::CONNECTION) {
                if !header.value.eq_ignore_ascii_case(b"keep-alive") {
                    return None;
                }
            } else if SPECIAL.iter().any(is) {
                return None;
            }
        }
        Some(PlainHead { path, query, headers, length, body_length: body_length? })
    }

    /// Whether the head has the header `name`.
    pub fn has(&self, name: &HeaderName) -> bool {
        self.value(name) != Ok(None)
    }

    /// The value of the header `name`; `None` if the header is absent.
    ///
    /// # Errors
    /// If the header is repeated.
    pub fn value(&self, name: &HeaderName) -> Result<Option<&'a [u8]>, Unusual> {
        let (name, mut value) = (name.as_str(), None);
        for header in self.headers {
            if header.name.len() == name.len() && header.name.eq_ignore_ascii_case(name) {
                if value.is_some() {
                    return Err(Unusual);
                }
                value = Some(header.value);
            }
        }
        Ok(value)
    }

    /// The value of the header `name` as text; `None` if the header is absent.
    ///
    /// # Errors
    /// If the header is repeated, or its value is not visible ASCII.
    pub fn text(&self, name: &HeaderName) -> Result<Option<&'a str>, Unusual> {
        let Some(value) = self.value(name)? else { return Ok(None) };
        let is_visible = value.iter().all(|&byte| byte == b'\t' || matches!(byte, b' '..=b'~'));
        std::str::from_utf8(value).ok().filter(|_| is_visible).map(Some).ok_or(Unusual)
    }
}

/// The whole number that `value` consists of, at most 15 digits.
fn digits(value: &[u8]) -> Option<u64> {
    let is_number = (1..=15).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    is_number.then(|| value.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The path, the query, the length and the body's length of a plain head.
    fn parse(head: &str) -> Option<(String, Option<String>, usize, u64)> {
        let mut space = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let head = PlainHead::parse(head.as_bytes(), &mut space)?;
        Some((head.path.to_owned(), head.query.map(str::to_owned), head.length, head.body_length))
    }

    #[test]
    fn a_plain_head_is_a_post_with_one_length() {
        let head = "POST /predict?top_k=3 HTTP/1.1\r\nHost: x\r\ncontent-LENGTH: 12\r\nConnection: Keep-Alive\r\n\r\n";
        let expected = ("/predict".to_owned(), Some("top_k=3".to_owned()), head.len(), 12);
        assert_eq!(parse(&format!("{head}body")), Some(expected));
        for end in 0..head.len() {
            assert_eq!(parse(&head[..end]), None, "{end} bytes");
        }
    }

    #[test]
    fn every_other_head_is_left_to_hyper() {
        let length = "Content-Length: 5\r\n";
        for (line, headers) in [
            ("GET /predict HTTP/1.1", length),
            ("PUT /predict HTTP/1.1", length),
            ("POST /predict HTTP/1.0", length),
            ("\r\nPOST /predict HTTP/1.1", length),
            ("POST http://x/predict HTTP/1.1", length),
            ("POST * HTTP/1.1", length),
            ("POST /predict#x HTTP/1.1", length),
            ("POST /predict%20 HTTP/1.1", length),
            ("POST /predict?top_k=1?2 HTTP/1.1", length),
            ("POST /predict?top_k=%31 HTTP/1.1", length),
            ("POST /predict HTTP/1.1", ""),
            ("POST /predict HTTP/1.1", "Content-Length: 5\r\nContent-Length: 5\r\n"),
            ("POST /predict HTTP/1.1", "Content-Length: +5\r\n"),
            ("POST /predict HTTP/1.1", "Content-Length: 5, 5\r\n"),
            ("POST /predict HTTP/1.1", "Content-Length:\r\n"),
            ("POST /predict HTTP/1.1", "Content-Length: 0000000000000005\r\n"),
            ("POST /predict HTTP/1.1", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            ("POST /predict HTTP/1.1", "Content-Length: 5\r\nTRANSFER-encoding: identity\r\n"),
            ("POST /predict HTTP/1.1", "Content-Length: 5\r\nExpect: 100-continue\r\n"),
            ("POST /predict HTTP/1.1", "Content-Length: 5\r\nConnection: close\r\n"),
            ("POST /predict HTTP/1.1", "Content-Length: 5\r\nConnection: keep-alive, Upgrade\r\n"),
            ("POST /predict HTTP/1.1", "Content-Length: 5\r\nUpgrade: h2c\r\n"),
            ("POST /predict HTTP/1.1", "Content-Length: 5\r\nTrailer: X\r\n"),
            ("POST /predict HTTP/1.1", "Content-Length: 5\r\nBad Name: x\r\n"),
        ] {
            assert_eq!(parse(&format!("{line}\r\n{headers}\r\n")), None, "{line} {headers}");
        }
        let many = "X: y\r\n".repeat(MAX_HEADERS);
        assert_eq!(parse(&format!("POST /predict HTTP/1.1\r\n{length}{many}\r\n")), None);
    }

    #[test]
    fn a_repeated_or_binary_value_is_unusual() {
        let bytes = b"POST / HTTP/1.1\r\nContent-Length: 0\r\nA: 1\r\nB: 1\r\nb: 1\r\nC: \xff\r\nD: a\tb\r\n\r\n";
        let mut space = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let head = PlainHead::parse(bytes, &mut space).expect("the head is plain");
        let text = |name| head.text(&HeaderName::from_static(name));
        assert_eq!(
            [text("a"), text("b"), text("c"), text("d"), text("e")],
            [Ok(Some("1")), Err(Unusual), Err(Unusual), Ok(Some("a\tb")), Ok(None)]
        );
        assert!(head.has(&HeaderName::from_static("b")) && !head.has(&HeaderName::from_static("e")));
    }
}
