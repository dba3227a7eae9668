//! An answer to a plain request, as the bytes of HTTP/1.1. Does no I/O, but reads the clock for the header `Date`.

use crate::respond::Reply;
use bytes::Bytes;
use hyper::StatusCode;
use std::cell::RefCell;
use std::fmt::Write;
use std::io::IoSlice;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The memory for a head, in bytes. A usual head has some 250, so that it is allocated once.
const USUAL_HEAD_BYTES: usize = 384;

/// An answer whose head is being written.
#[derive(Debug)]
pub struct PlainAnswer {
    head: Vec<u8>,
    body: Bytes,
}

impl PlainAnswer {
    /// An answer whose only header so far is `Content-Type`.
    pub fn new(status: StatusCode, content_type: &str, body: Bytes) -> Self {
        let mut answer = Self::with_status(status, body);
        answer.header("content-type", content_type.as_bytes());
        answer
    }

    fn with_status(status: StatusCode, body: Bytes) -> Self {
        let mut head = Vec::with_capacity(USUAL_HEAD_BYTES);
        if status == StatusCode::OK {
            head.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        } else {
            let reason = status.canonical_reason().unwrap_or("<none>");
            head.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).as_bytes());
        }
        Self { head, body }
    }

    /// Adds a header. Neither `name` nor `value` has a line break.
    pub fn header(&mut self, name: &str, value: &[u8]) {
        self.head.extend_from_slice(name.as_bytes());
        self.head.extend_from_slice(b": ");
        self.head.extend_from_slice(value);
        self.head.extend_from_slice(b"\r\n");
    }

    /// Ends the head. If `closes`, the client learns that the connection closes after this answer.
    pub(super) fn finish(mut self, closes: bool) -> UnsentAnswer {
        let length = self.body.len();
        self.header("content-length", itoa::Buffer::new().format(length).as_bytes());
        if closes {
            self.header("connection", b"close");
        }
        DATE.with_borrow_mut(|date| self.header("date", date.at(SystemTime::now())));
        self.head.extend_from_slice(b"\r\n");
        UnsentAnswer { head: self.head, body: self.body, written: 0 }
    }
}

impl From<Reply> for PlainAnswer {
    fn from(reply: Reply) -> Self {
        let (parts, body) = reply.into_parts();
        let mut answer = Self::with_status(parts.status, body.into_inner().unwrap_or_default());
        for (name, value) in &parts.headers {
            answer.header(name.as_str(), value.as_bytes());
        }
        answer
    }
}

/// An answer of which a part may be written.
#[derive(Debug)]
pub(super) struct UnsentAnswer {
    head: Vec<u8>,
    body: Bytes,
    /// The bytes of head and body that are written.
    written: usize,
}

impl UnsentAnswer {
    /// The bytes that are not yet written: of the head, and of the body.
    pub(super) fn slices(&self) -> [IoSlice<'_>; 2] {
        let of_head = self.written.min(self.head.len());
        [IoSlice::new(&self.head[of_head..]), IoSlice::new(&self.body[self.written - of_head..])]
    }

    /// Records that `bytes` more are written.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.written += bytes;
    }

    /// Whether all bytes are written.
    pub(super) fn is_sent(&self) -> bool {
        self.written == self.head.len() + self.body.len()
    }
}

thread_local! {
    static DATE: RefCell<Date> = const { RefCell::new(Date { second: u64::MAX, text: String::new() }) };
}

/// The value of the header `Date` in the last second in which it was asked for. Formatting it costs as much as a tenth of
/// a request.
struct Date {
    second: u64,
    text: String,
}

impl Date {
    fn at(&mut self, now: SystemTime) -> &[u8] {
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if second != self.second {
            self.second = second;
            self.text.clear();
            let date = httpdate::HttpDate::from(UNIX_EPOCH + Duration::from_secs(second));
            write!(self.text, "{date}").expect("a string takes any text");
        }
        self.text.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::respond;

    fn written(answer: PlainAnswer, closes: bool) -> String {
        let answer = answer.finish(closes);
        let bytes = answer.slices().iter().flat_map(|slice| slice.iter().copied()).collect();
        String::from_utf8(bytes).expect("the answer is text")
    }

    #[test]
    fn an_answer_is_written_with_its_headers_length_and_date() {
        let mut answer = PlainAnswer::new(StatusCode::OK, "application/json", Bytes::from_static(b"{}"));
        answer.header("x-request-id", b"7");
        let text = written(answer, false);
        let (head, body) = text.split_once("\r\n\r\n").expect("the head ends");
        let lines: Vec<_> = head.lines().collect();
        let expected = ["HTTP/1.1 200 OK", "content-type: application/json", "x-request-id: 7", "content-length: 2"];
        assert_eq!((&lines[..4], body), (&expected[..], "{}"));
        let date = lines[4].strip_prefix("date: ").expect("the last header is the date");
        assert!(httpdate::parse_http_date(date).is_ok(), "{date}");
    }

    #[test]
    fn a_reply_keeps_its_status_and_headers() {
        let reply = respond::method_not_allowed("POST", "id");
        let text = written(reply.into(), true);
        assert!(text.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{text}");
        for line in ["allow: POST\r\n", "content-type: application/json\r\n", "connection: close\r\n"] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn an_answer_that_is_written_in_parts_loses_no_byte() {
        let whole = written(PlainAnswer::new(StatusCode::OK, "a", Bytes::from_static(b"body")), false);
        let mut answer = PlainAnswer::new(StatusCode::OK, "a", Bytes::from_static(b"body")).finish(false);
        let mut seen = Vec::new();
        while !answer.is_sent() {
            let next = answer.slices().iter().flat_map(|slice| slice.iter().copied()).next();
            seen.push(next.expect("a byte is left"));
            answer.advance(1);
        }
        // The date may have changed meanwhile, but not its length.
        assert_eq!(seen.len(), whole.len());
        assert!(seen.ends_with(b"\r\n\r\nbody"));
    }

    #[test]
    fn the_date_changes_with_the_second() {
        let mut date = Date { second: u64::MAX, text: String::new() };
        let at = |milliseconds| UNIX_EPOCH + Duration::from_millis(milliseconds);
        assert_eq!(date.at(at(0)), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date.at(at(999)), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date.at(at(1000)), b"Thu, 01 Jan 1970 00:00:01 GMT");
    }
}
