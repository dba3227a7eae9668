//! Splits a body of `multipart/form-data` (RFC 7578) into its parts. It is as lenient as the forms that browsers and
//! libraries send require. The whole body is in memory, and nothing of it is copied. Knows nothing of images.

use crate::parameters::parameters;
use memchr::memmem;
use percent_encoding::percent_decode;
use service::wire::{Code, RequestError};
use std::borrow::Cow;

/// The largest number of parts. A form has a few fields.
pub const MAX_PARTS: usize = 100;

/// The largest length of the headers of one part, in bytes.
pub const MAX_HEADER_BYTES: usize = 16 << 10;

/// One part of a body.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Part<'a> {
    /// The name of the form's field; `None` if the part has none.
    pub name: Option<Cow<'a, [u8]>>,
    /// Whether the part has a file name, which may be empty.
    pub has_file_name: bool,
    /// The value of `Content-Type`; empty if the part has none.
    pub content_type: &'a [u8],
    /// The value of `Content-Encoding`; empty if the part has none.
    pub content_encoding: &'a [u8],
    /// The value of `Content-Transfer-Encoding`; empty if the part has none.
    pub transfer_encoding: &'a [u8],
    /// The bytes of the part.
    pub content: &'a [u8],
}

/// The parts of a body, in their order. The iterator ends after the first error.
#[derive(Debug)]
pub struct Parts<'a> {
    body: &'a [u8],
    /// Two hyphens and the boundary.
    delimiter: Vec<u8>,
    /// The number of parts that were read.
    count: usize,
    position: Position,
}

/// How far [`Parts`] has read.
#[derive(Debug, Clone, Copy)]
enum Position {
    /// Before the first delimiter.
    Preamble,
    /// At the headers of a part. The delimiters before and after it end with `line_break`.
    Headers { start: usize, line_break: &'static [u8] },
    /// After the last part, or after an error.
    End,
}

/// The end of a delimiter's line.
enum DelimiterEnd {
    /// A part follows after `length` bytes.
    Part { length: usize, line_break: &'static [u8] },
    /// No part follows.
    Close,
}

impl<'a> Parts<'a> {
    /// The parts of `body`. `content_type` is the value of the request's header, and has the boundary.
    ///
    /// # Errors
    /// If `content_type` has no boundary (status 400).
    pub fn new(content_type: &str, body: &'a [u8]) -> Result<Self, RequestError> {
        let boundary = parameters(content_type.as_bytes())
            .find(|parameter| parameter.name.eq_ignore_ascii_case(b"boundary") && !parameter.value.is_empty());
        let boundary = boundary.ok_or_else(|| {
            malformed("the Content-Type has no boundary; let the library that makes the form set this header")
        })?;
        let delimiter = [b"--", &boundary.value[..]].concat();
        Ok(Self { body, delimiter, count: 0, position: Position::Preamble })
    }

    /// Reads the next part; `None` after the last one.
    fn read(&mut self) -> Result<Option<Part<'a>>, RequestError> {
        if let Position::Preamble = self.position {
            self.position = self.skip_preamble()?;
        }
        let Position::Headers { start, line_break } = self.position else { return Ok(None) };
        self.count += 1;
        let number = self.count;
        if number > MAX_PARTS {
            let message = format!("the multipart body has over {MAX_PARTS} parts; send fewer fields");
            return Err(RequestError::new(Code::TooLarge, message));
        }
        let (mut part, content) = self.headers(start)?;
        let (end, next) = self.next_delimiter(content, line_break).ok_or_else(|| {
            malformed(format!("part {number} does not end with the boundary, so the body is cut short"))
        })?;
        part.content = &self.body[content..end.max(content)];
        self.position = next;
        Ok(Some(part))
    }

    /// Finds the first delimiter, which begins a line.
    fn skip_preamble(&self) -> Result<Position, RequestError> {
        for at in memmem::find_iter(self.body, &self.delimiter) {
            let begins_line = at == 0 || self.body[at - 1] == b'\n';
            if begins_line && let Some(position) = self.after_delimiter(at + self.delimiter.len()) {
                return Ok(position);
            }
        }
        Err(malformed("it has no line with the boundary of the Content-Type"))
    }

    /// Finds the delimiter after the content that begins at `content`. Returns the end of the content.
    fn next_delimiter(&self, content: usize, line_break: &[u8]) -> Option<(usize, Position)> {
        // The line break that ends the headers may also be the one that begins the delimiter of a part without content.
        let from = content - line_break.len();
        let delimiter = [line_break, &self.delimiter].concat();
        memmem::find_iter(&self.body[from..], &delimiter).find_map(|at| {
            let at = from + at;
            Some((at, self.after_delimiter(at + delimiter.len())?))
        })
    }

    /// The position after a delimiter whose boundary ends at `at`; `None` if other bytes follow, so that it is part of a
    /// content.
    fn after_delimiter(&self, at: usize) -> Option<Position> {
        Some(match delimiter_end(&self.body[at..])? {
            DelimiterEnd::Part { length, line_break } => Position::Headers { start: at + length, line_break },
            DelimiterEnd::Close => Position::End,
        })
    }

    /// Reads the headers that begin at `start`. Returns the part without its content, and where the content begins.
    fn headers(&self, start: usize) -> Result<(Part<'a>, usize), RequestError> {
        let number = self.count;
        let body = self.body;
        let limit = body.len().min(start + MAX_HEADER_BYTES);
        let mut part = Part::default();
        let mut at = start;
        loop {
            let mut end = line_end(body, at, limit, number)?;
            if body[at..end].trim_ascii().is_empty() {
                return Ok((part, end));
            }
            // A line that begins with a space continues the line before it.
            while matches!(body.get(end), Some(b' ' | b'\t')) {
                end = line_end(body, end, limit, number)?;
            }
            let line = &body[at..end];
            let Some(colon) = memchr::memchr(b':', line) else {
                return Err(malformed(format!("part {number} has a header line without a colon")));
            };
            part.set_header(line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
            at = end;
        }
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<Part<'a>, RequestError>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read().transpose();
        if !matches!(read, Some(Ok(_))) {
            self.position = Position::End;
        }
        read
    }
}

impl<'a> Part<'a> {
    /// Takes over the header `name` if it has a meaning here.
    fn set_header(&mut self, name: &[u8], value: &'a [u8]) {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        if is("content-disposition") {
            self.set_disposition(value);
        } else if is("content-type") {
            self.content_type = value;
        } else if is("content-encoding") {
            self.content_encoding = value;
        } else if is("content-transfer-encoding") {
            self.transfer_encoding = value;
        }
    }

    fn set_disposition(&mut self, value: &'a [u8]) {
        for parameter in parameters(value) {
            // `filename*` has a character set (RFC 5987), and `filename*0` is the first piece of a long name (RFC 2231).
            let stem = parameter.name.split(|&byte| byte == b'*').next().unwrap_or_default();
            self.has_file_name |= stem.eq_ignore_ascii_case(b"filename");
            if parameter.name.eq_ignore_ascii_case(b"name") {
                self.name = Some(parameter.value);
            } else if parameter.name.eq_ignore_ascii_case(b"name*") && self.name.is_none() {
                // CHARSET'LANGUAGE'TEXT, with the text percent-encoded.
                let text = parameter.value.splitn(3, |&byte| byte == b'\'').nth(2).unwrap_or_default().to_vec();
                self.name = Some(percent_decode(&text).collect::<Vec<u8>>().into());
            }
        }
    }
}

/// The index after the line that begins at `at`.
///
/// # Errors
/// If there is no line break before `limit`.
fn line_end(body: &[u8], at: usize, limit: usize, part: usize) -> Result<usize, RequestError> {
    match memchr::memchr(b'\n', &body[at..limit]) {
        Some(length) => Ok(at + length + 1),
        None if limit < body.len() => {
            let message = format!("part {part} of the multipart body has over {MAX_HEADER_BYTES} bytes of headers");
            Err(RequestError::new(Code::TooLarge, message))
        }
        None => Err(malformed(format!("part {part} has no empty line after its headers"))),
    }
}

/// Reads what follows the boundary of a delimiter. Returns `None` for bytes that no delimiter has there.
fn delimiter_end(rest: &[u8]) -> Option<DelimiterEnd> {
    if rest.starts_with(b"--") {
        return Some(DelimiterEnd::Close);
    }
    let padding = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let line_break: &[u8] = match &rest[padding..] {
        [b'\r', b'\n', ..] => b"\r\n",
        [b'\n', ..] => b"\n",
        _ => return None,
    };
    Some(DelimiterEnd::Part { length: padding + line_break.len(), line_break })
}

fn malformed(reason: impl std::fmt::Display) -> RequestError {
    RequestError::new(Code::BadRequest, format!("the multipart body is malformed: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures_util::stream;
    use proptest::prelude::*;
    use std::convert::Infallible;

    const CONTENT_TYPE: &str = "multipart/form-data; boundary=B";

    type NameAndContent = (Option<Vec<u8>>, Vec<u8>);

    /// The names and the contents of the parts of `body`; `None` if it is malformed.
    fn read(body: &[u8]) -> Option<Vec<NameAndContent>> {
        let parts = Parts::new(CONTENT_TYPE, body).expect("the boundary is given");
        parts.map(|part| part.ok().map(|part| (part.name.map(Cow::into_owned), part.content.to_vec()))).collect()
    }

    /// The same, read by the crate multer.
    async fn read_by_multer(body: Vec<u8>) -> Option<Vec<NameAndContent>> {
        let mut parts = multer::Multipart::new(stream::iter([Ok::<_, Infallible>(Bytes::from(body))]), "B");
        let mut found = Vec::new();
        while let Some(part) = parts.next_field().await.ok()? {
            let name = part.name().map(|name| name.as_bytes().to_vec());
            found.push((name, part.bytes().await.ok()?.to_vec()));
        }
        Some(found)
    }

    /// Bytes of a content, with many that resemble delimiters.
    fn content() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"\r\n".to_vec()),
            Just(b"--".to_vec()),
            Just(b"\n--b".to_vec()),
            Just(b"\r\n-".to_vec()),
            Just(b"--B".to_vec()),
            prop::collection::vec(any::<u8>(), 0..8),
        ];
        let joined = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
        joined.prop_filter("no delimiter", |content| {
            memmem::find(content, b"\n--B").is_none() && !content.starts_with(b"--B")
        })
    }

    fn header_line() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "Content-Disposition: form-data; name=\"n\"\r\n",
            "content-disposition:form-data; filename=\"a;b.png\"; name=\"m\"\r\n",
            "Content-Type: image/png\r\n",
            "X-Other: a\r\n",
        ])
    }

    proptest! {
        #[test]
        fn every_part_is_read_as_it_was_written(
            parts in prop::collection::vec(("[a-z]{1,5}", content()), 1..6),
            preamble in "([a-z ]{0,9}\r\n)?",
            is_lf_only in any::<bool>(),
        ) {
            let line_break = if is_lf_only { "\n" } else { "\r\n" };
            let mut body = preamble.into_bytes();
            for (name, content) in &parts {
                let head = format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
                body.extend_from_slice(head.replace("\r\n", line_break).as_bytes());
                body.extend_from_slice(content);
                body.extend_from_slice(line_break.as_bytes());
            }
            body.extend_from_slice(b"--B--");
            let expected = parts.into_iter().map(|(name, content)| (Some(name.into_bytes()), content)).collect();
            prop_assert_eq!(read(&body), Some(expected));
        }

        #[test]
        fn a_body_that_multer_reads_is_read_in_the_same_way(
            parts in prop::collection::vec((prop::collection::vec(header_line(), 1..4), content()), 1..4),
            kept in 0.0..1.3_f64,
        ) {
            let mut body = b"--B\r\n".to_vec();
            for (index, (headers, content)) in parts.iter().enumerate() {
                body.extend_from_slice(headers.concat().as_bytes());
                body.extend_from_slice(b"\r\n");
                body.extend_from_slice(content);
                body.extend_from_slice(if index + 1 < parts.len() { b"\r\n--B\r\n" } else { b"\r\n--B--\r\n" });
            }
            body.truncate((body.len() as f64 * kept) as usize);
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let theirs = runtime.block_on(read_by_multer(body.clone())).filter(|parts| !parts.is_empty());
            if theirs.is_some() {
                prop_assert_eq!(read(&body), theirs, "{:?}", String::from_utf8_lossy(&body));
            } else {
                prop_assert!(kept < 1.0 || body.is_empty(), "multer refuses {:?}", String::from_utf8_lossy(&body));
            }
        }

        #[test]
        fn no_bytes_make_the_reader_fail(body in prop::collection::vec(prop::sample::select(b"-B\r\n: ;=\"*x\xff".to_vec()), 0..200)) {
            let _read = read(&body);
        }
    }
}
