//! Follows the framing of HTTP/1.1 requests in the bytes of a connection: where heads and bodies begin and end (RFC
//! 9112, sections 2, 6 and 7.1). hyper parses the requests. This file only lets the server see how long a head has been
//! on its way, and refuses what hyper accepts and this server does not: a request with both `Content-Length` and
//! `Transfer-Encoding`, a chunk that is larger than any body may be, a line with the size of a chunk that has no end, and
//! trailers whose lines do not end with CR LF. Does no I/O.

/// The names of the headers that decide where a body ends.
const CONTENT_LENGTH: &[u8] = b"content-length";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";

/// The largest size of a chunk that counts as a length: 15 hexadecimal digits after leading zeros. Parsers disagree on
/// larger ones, because their integers overflow at different digits.
const LARGEST_LENGTH: u64 = (1 << 60) - 1;

/// The most bytes of the line with the size of a chunk. hyper limits the extensions in that line, but neither leading
/// zeros nor blanks after the size.
const MAX_CHUNK_LINE_BYTES: usize = 16 << 10;

/// No parser accepts this byte in the name of a header. hyper answers 400 to a head with this byte, and closes the
/// connection.
const INVALID: u8 = 0;

/// The reason for which a body is refused, of which hyper accepts the framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusedFraming {
    /// A chunk has more bytes than a whole body may have.
    #[error("a chunk of the body is larger than the largest body")]
    ChunkTooLarge,
    /// The size of a chunk is too large to be a length.
    #[error("the size of a chunk of the body has over 15 digits")]
    NoLength,
    /// The line with the size of a chunk has no end within its limit.
    #[error("a line with the size of a chunk of the body is too long")]
    LongChunkLine,
    /// A line after the last chunk ends with CR or LF alone. hyper and other parsers disagree on the end of such a
    /// request (RFC 9112, 2.2).
    #[error("a line of the trailers does not end with CR LF")]
    BareLineEnd,
}

/// The place in the bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first line of a request. Empty lines are skipped here.
    Start,
    FirstLine,
    /// In the name of a header, or at the beginning of a line that may be the empty line after the last header.
    Name,
    Value,
    /// In the value of `Content-Length`.
    Length,
    /// In a body, of which this many bytes follow.
    Body(u64),
    /// In the size of a chunk, whose digits so far have this value.
    ChunkSize(u64),
    /// After the size of a chunk, in the rest of its line.
    ChunkLine(u64),
    /// In a chunk, of which this many bytes follow.
    Chunk(u64),
    /// After a chunk, before the end of its line.
    ChunkEnd,
    /// In a line after the last chunk.
    Trailer {
        is_empty: bool,
        /// Whether the byte before was CR.
        after_cr: bool,
    },
    /// In a head that is refused.
    Refused,
}

/// Before a line after the last chunk.
const TRAILER_START: Place = Place::Trailer { is_empty: true, after_cr: false };

/// Follows the requests of one connection.
#[derive(Debug)]
pub(super) struct Framing {
    place: Place,
    /// The number of bytes of the head that has not ended; 0 outside of heads.
    head_bytes: usize,
    /// The first bytes of the present name. Longer names matter no more.
    name: [u8; TRANSFER_ENCODING.len()],
    /// The length of the present name, up to one byte more than `name` holds.
    name_length: usize,
    content_length: Option<u64>,
    is_chunked: bool,
    max_chunk_bytes: u64,
    /// The bytes so far of the line with the size of the present chunk.
    chunk_line_bytes: usize,
    /// The heads that have ended.
    heads: usize,
}

impl Framing {
    /// Begins before the first request. A chunk may have at most `max_chunk_bytes`.
    pub(super) fn new(max_chunk_bytes: u64) -> Self {
        Self {
            place: Place::Start,
            head_bytes: 0,
            name: [0; TRANSFER_ENCODING.len()],
            name_length: 0,
            content_length: None,
            is_chunked: false,
            max_chunk_bytes,
            chunk_line_bytes: 0,
            heads: 0,
        }
    }

    /// Begins before a request again, after `heads` requests.
    pub(super) fn restart(&mut self, heads: usize) {
        *self = Self { heads, ..Self::new(self.max_chunk_bytes) };
    }

    /// The number of bytes of a head that has begun and not ended; 0 if there is no such head.
    pub(super) fn head_bytes(&self) -> usize {
        self.head_bytes
    }

    /// Whether the present head is refused. hyper need not wait for its end.
    pub(super) fn is_refused(&self) -> bool {
        self.place == Place::Refused
    }

    /// The number of heads that have ended.
    pub(super) fn heads(&self) -> usize {
        self.heads
    }

    /// The number of the request whose body has begun and not ended, where the first request has the number 1; 0 if there
    /// is none.
    pub(super) fn arriving(&self) -> usize {
        let is_mid_body = !matches!(self.place, Place::Start | Place::Refused) && self.head_bytes == 0;
        if is_mid_body { self.heads } else { 0 }
    }

    /// The number of bytes that follow for the present body; `None` if that is unknown or there is no body.
    pub(super) fn body_bytes_left(&self) -> Option<u64> {
        match self.place {
            Place::Body(left) => Some(left),
            _ => None,
        }
    }

    /// Follows the next `bytes` of the connection. If they give a request both `Content-Length` and
    /// `Transfer-Encoding`, one byte is changed, so that hyper refuses the request.
    ///
    /// # Errors
    /// If a body is refused. The number of bytes before the one that is refused is returned, too.
    pub(super) fn advance(&mut self, bytes: &mut [u8]) -> Result<(), (usize, RefusedFraming)> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let rest = &bytes[at..];
            // The number of bytes that this step passes.
            let passed = match self.place {
                Place::Start if matches!(byte, b'\r' | b'\n') => 1,
                Place::Start => {
                    self.place = Place::FirstLine;
                    0
                }
                Place::FirstLine | Place::Value => {
                    let (passed, line_ends) = line(rest);
                    self.count(passed);
                    if line_ends {
                        self.begin_line();
                    }
                    passed
                }
                Place::Name if self.name_length == 0 && is_other_header(rest) => {
                    self.place = Place::Value;
                    0
                }
                Place::Name => {
                    self.count(1);
                    if self.name_step(byte) {
                        bytes[at] = INVALID;
                    }
                    1
                }
                Place::Length => {
                    self.count(1);
                    self.length_step(byte);
                    1
                }
                Place::Body(left) => {
                    let passed = left.min(rest.len() as u64);
                    self.place = if passed < left { Place::Body(left - passed) } else { Place::Start };
                    passed as usize
                }
                Place::ChunkSize(size) => match (byte as char).to_digit(16) {
                    Some(digit) => {
                        let size = 16 * size + u64::from(digit);
                        if size > LARGEST_LENGTH {
                            return Err((at, RefusedFraming::NoLength));
                        }
                        self.place = Place::ChunkSize(size);
                        self.count_chunk_line(at, 1)?
                    }
                    // hyper refuses a size that another byte follows.
                    None if size > self.max_chunk_bytes && matches!(byte, b'\r' | b';' | b' ' | b'\t') => {
                        return Err((at, RefusedFraming::ChunkTooLarge));
                    }
                    None => {
                        self.place = Place::ChunkLine(size);
                        0
                    }
                },
                Place::ChunkLine(size) => {
                    let (passed, line_ends) = line(rest);
                    self.count_chunk_line(at, passed)?;
                    if line_ends {
                        self.chunk_line_bytes = 0;
                        self.place = if size == 0 { TRAILER_START } else { Place::Chunk(size) };
                    }
                    passed
                }
                Place::Chunk(left) => {
                    let passed = left.min(rest.len() as u64);
                    self.place = if passed < left { Place::Chunk(left - passed) } else { Place::ChunkEnd };
                    passed as usize
                }
                Place::ChunkEnd => {
                    let (passed, line_ends) = line(rest);
                    if line_ends {
                        self.place = Place::ChunkSize(0);
                    }
                    passed
                }
                Place::Trailer { is_empty, after_cr } => {
                    self.place = match (byte, after_cr) {
                        (b'\n', true) if is_empty => Place::Start,
                        (b'\n', true) => TRAILER_START,
                        (b'\n', false) | (_, true) => return Err((at, RefusedFraming::BareLineEnd)),
                        (b'\r', false) => Place::Trailer { is_empty, after_cr: true },
                        _ => Place::Trailer { is_empty: false, after_cr: false },
                    };
                    1
                }
                Place::Refused => rest.len(),
            };
            at += passed;
        }
        Ok(())
    }

    fn count(&mut self, bytes: usize) {
        self.head_bytes += bytes;
    }

    /// Counts the next `bytes` of the line with the size of a chunk, which are at the index `at`, and returns their number.
    fn count_chunk_line(&mut self, at: usize, bytes: usize) -> Result<usize, (usize, RefusedFraming)> {
        self.chunk_line_bytes += bytes;
        if self.chunk_line_bytes > MAX_CHUNK_LINE_BYTES {
            return Err((at, RefusedFraming::LongChunkLine));
        }
        Ok(bytes)
    }

    fn begin_line(&mut self) {
        self.place = Place::Name;
        self.name_length = 0;
    }

    /// Follows one byte of a header's name. Returns true if the head must be refused.
    fn name_step(&mut self, byte: u8) -> bool {
        match byte {
            b'\n' if self.name_length == 0 => self.end_head(),
            // A line without a colon, which hyper refuses.
            b'\n' => self.place = Place::Refused,
            b'\r' => {}
            b':' => {
                let name = self.name.get(..self.name_length).unwrap_or_default();
                if name.eq_ignore_ascii_case(CONTENT_LENGTH) {
                    self.place = Place::Length;
                    // A second length replaces the first. hyper refuses two that differ.
                    self.content_length = Some(0);
                } else {
                    self.place = Place::Value;
                    self.is_chunked |= name.eq_ignore_ascii_case(TRANSFER_ENCODING);
                }
                if self.is_chunked && self.content_length.is_some() {
                    self.place = Place::Refused;
                    return true;
                }
            }
            _ => {
                if let Some(place) = self.name.get_mut(self.name_length) {
                    *place = byte;
                }
                self.name_length = (self.name_length + 1).min(self.name.len() + 1);
            }
        }
        false
    }

    /// Follows one byte of the value of `Content-Length`.
    fn length_step(&mut self, byte: u8) {
        match byte {
            b'\n' => self.begin_line(),
            b'0'..=b'9' => {
                let length = self.content_length.unwrap_or(0);
                self.content_length = Some(length.saturating_mul(10).saturating_add((byte - b'0').into()));
            }
            // hyper refuses a length with other characters.
            _ => {}
        }
    }

    fn end_head(&mut self) {
        self.head_bytes = 0;
        self.heads += 1;
        let (length, is_chunked) = (self.content_length.take().unwrap_or(0), std::mem::take(&mut self.is_chunked));
        self.place = match length {
            _ if is_chunked => Place::ChunkSize(0),
            0 => Place::Start,
            length => Place::Body(length),
        };
    }
}

/// Whether `bytes` begin with the name of a header whose length is not that of the two names. This is so for nearly every
/// header, and saves the steps through its name.
fn is_other_header(bytes: &[u8]) -> bool {
    let beginning = &bytes[..bytes.len().min(TRANSFER_ENCODING.len() + 1)];
    let is_empty_line = matches!(bytes[0], b'\r' | b'\n');
    !is_empty_line
        && match memchr::memchr(b':', beginning) {
            Some(length) => length != CONTENT_LENGTH.len() && length != TRANSFER_ENCODING.len(),
            None => beginning.len() > TRANSFER_ENCODING.len(),
        }
}

/// The number of bytes up to the end of the line, and whether the line ends within `bytes`. A line may end with LF
/// alone, because hyper accepts that.
fn line(bytes: &[u8]) -> (usize, bool) {
    match memchr::memchr(b'\n', bytes) {
        Some(end) => (end + 1, true),
        None => (bytes.len(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_CHUNK: u64 = 0xffff;

    /// Follows `text` in pieces of `size` bytes. Returns the bytes as hyper would receive them, the bytes of the head
    /// that has not ended, and the reason if a body is refused.
    fn follow(text: &str, size: usize) -> (Vec<u8>, usize, Option<RefusedFraming>) {
        let (mut framing, mut seen) = (Framing::new(MAX_CHUNK), Vec::new());
        for piece in text.as_bytes().chunks(size) {
            let mut piece = piece.to_vec();
            if let Err((before, refused)) = framing.advance(&mut piece) {
                seen.extend_from_slice(&piece[..before]);
                return (seen, framing.head_bytes(), Some(refused));
            }
            seen.extend_from_slice(&piece);
        }
        (seen, framing.head_bytes(), None)
    }

    #[test]
    fn requests_are_followed_in_pieces_of_any_size() {
        let get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let fixed = "POST /predict HTTP/1.1\r\nCONTENT-length:  12 \r\nX: y\r\n\r\nTransfer-Enc";
        let chunked = "POST / HTTP/1.1\nTransfer-Encoding: chunked\n\n5\r\nPOST \r\nA;x=y\r\n0123456789\r\n000\r\nLast: 1\r\n\r\n";
        for (text, head) in [
            (get.to_owned(), 0),
            (format!("\r\n\r\n{get}{get}"), 0),
            (format!("{fixed}{get}{chunked}{fixed}"), 0),
            (format!("{chunked}{get}GET"), 3),
            (format!("{fixed}\r\n{chunked}GET / HTTP/1.1\r\nHost"), 20),
            // The body has the words of a head, but is none.
            ("POST / HTTP/1.1\r\nContent-Length: 40\r\n\r\nContent-Length: 4\r\nTransfer-Encoding: c".to_owned(), 0),
            // Names that only begin like the two, or follow them.
            (
                "GET / HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encodings: 1\r\nX-Transfer-Encoding: 2\r\n\r\n"
                    .to_owned(),
                0,
            ),
        ] {
            for size in 1..=text.len() {
                assert_eq!(follow(&text, size), (text.clone().into_bytes(), head, None), "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn a_request_with_two_framings_is_made_invalid() {
        for head in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
            "transfer-ENCODING:chunked\nA: b\ncontent-length:5\n\n",
        ] {
            let text = format!("GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\n{head}");
            for size in 1..=text.len() {
                let (seen, _, _) = follow(&text, size);
                assert_eq!(seen.iter().filter(|&&byte| byte == INVALID).count(), 1, "{text:?} by {size}");
                let last_name = head.lines().rfind(|line| !line.is_empty()).expect("a header");
                let name = last_name.split(':').next().expect("a name");
                let at = text.find(name).expect("the name is in the text") + name.len();
                assert_eq!(seen[at], INVALID, "the colon after {name}");
            }
        }
    }

    #[test]
    fn a_size_of_a_chunk_that_is_too_large_or_no_length_is_refused() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (too_large, no_length) = (Some(RefusedFraming::ChunkTooLarge), Some(RefusedFraming::NoLength));
        for (body, before, reason) in [
            ("10000\r\n", "10000", too_large),
            ("1\r\na\r\n12345;x", "1\r\na\r\n12345", too_large),
            ("FFFFFFFFFFFFFFF \r\n", "FFFFFFFFFFFFFFF", too_large),
            ("FFFFFFFFFFFFFFFF", "FFFFFFFFFFFFFFF", no_length),
            ("FFFFFFFFFFFFFFFFF\r\n", "FFFFFFFFFFFFFFF", no_length),
            ("0001000000000000000", "000100000000000000", no_length),
            ("FFFF\r\n", "FFFF\r\n", None),
            ("000000000000000000000000000001\r\n", "000000000000000000000000000001\r\n", None),
        ] {
            let (text, expected) = (format!("{head}{body}"), format!("{head}{before}"));
            for size in 1..=text.len() {
                let (seen, _, refused) = follow(&text, size);
                assert_eq!((seen, refused), (expected.clone().into_bytes(), reason), "{body:?} by {size}");
            }
        }
    }

    #[test]
    fn the_line_with_the_size_of_a_chunk_has_an_end() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let longest = MAX_CHUNK_LINE_BYTES - "5\r\n".len();
        for (before, filler) in [("", "0"), ("5", " "), ("5;", "x")] {
            for (length, reason) in [(longest, None), (longest + 2, Some(RefusedFraming::LongChunkLine))] {
                let filler = filler.repeat(length - before.len().saturating_sub(1));
                let line = if before.is_empty() { format!("{filler}5\r\n") } else { format!("{before}{filler}\r\n") };
                let text = format!("{head}5\r\nimage\r\n{line}");
                for size in [1, 1000, text.len()] {
                    assert_eq!(follow(&text, size).2, reason, "{length} bytes of {before:?} by {size}");
                }
            }
        }
    }

    #[test]
    fn trailers_whose_lines_do_not_end_with_both_bytes_are_refused() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
        for (trailers, before) in [
            ("\nX\r\nContent-Length: 9\r\n\r\n", ""),
            ("\r\r\n", "\r"),
            ("X: y\n\r\n", "X: y"),
            ("X: y\r\nZ: a\rb\r\n\r\n", "X: y\r\nZ: a\r"),
        ] {
            let (text, expected) = (format!("{head}{trailers}"), format!("{head}{before}"));
            for size in 1..=text.len() {
                let (seen, _, refused) = follow(&text, size);
                let reason = Some(RefusedFraming::BareLineEnd);
                assert_eq!((seen, refused), (expected.clone().into_bytes(), reason), "{trailers:?} by {size}");
            }
        }
    }

    #[test]
    fn no_bytes_of_a_client_make_it_panic() {
        let mut random = 7_u64;
        let alphabet = b"\r\n\r\n: 0aF;content-lengthtransfer-encoding\0\xff";
        for _ in 0..2000 {
            let mut bytes: Vec<u8> = (0..200)
                .map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    alphabet[(random >> 33) as usize % alphabet.len()]
                })
                .collect();
            let mut framing = Framing::new(MAX_CHUNK);
            if let Err((before, _)) = framing.advance(&mut bytes) {
                assert!(before < bytes.len());
            }
        }
    }
}
