//! Reads one answer of a replica from the bytes of its connection. Accepts only the form that replicas use: a status
//! line, headers, and a body of a declared length. Pure: knows nothing of sockets, and the bytes may come in any pieces.

use super::answer_memory::AnswerMemory;
use super::headers::AnswerHeaders;
use bytes::Bytes;
use hyper::StatusCode;
use std::mem::MaybeUninit;

/// The longest head of an answer, in bytes. A usual head has some 200 bytes.
pub(super) const MAX_HEAD_BYTES: usize = 16 << 10;

/// The largest number of headers of an answer.
const MAX_HEADERS: usize = 64;

/// The largest body of an answer to `/predict`, in bytes. A usual body has a few hundred bytes, and one with 1000
/// predictions less than 100 KiB.
pub(super) const MAX_BODY_BYTES: usize = 1 << 20;

/// The largest body of an answer to an inference request, or with the predictions of all classes, in bytes. The
/// probabilities of an image take 13 KiB of JSON, and a request may have as many images as a replica has slots.
pub(super) const MAX_LONG_BODY_BYTES: usize = 64 << 20;

/// The memory that is allocated for a body before its bytes arrive, in bytes. Without this limit, a head alone could
/// take the largest length.
const FIRST_BODY_BYTES: usize = 64 << 10;

/// The reason for which the bytes of an answer break the wire contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// The bytes are no head of HTTP/1.0 or HTTP/1.1.
    #[error("the head is no HTTP/1.1: {0}")]
    Head(httparse::Error),
    /// The head is longer than [`MAX_HEAD_BYTES`].
    #[error("the head has more than {MAX_HEAD_BYTES} bytes")]
    LongHead,
    /// The status is below 200, which announces another answer or another protocol.
    #[error("the status {0} is not final")]
    Status(u16),
    /// There is not exactly one header `Content-Length` with a whole number.
    #[error("the head does not have exactly one valid Content-Length")]
    Length,
    /// The body is chunked or compressed.
    #[error("the body has a Transfer-Encoding or a Content-Encoding")]
    Encoding,
    /// The body is longer than the limit of its request.
    #[error("the body has {length} bytes, more than {limit}")]
    LongBody {
        /// The declared length in bytes.
        length: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// Other long answers take the memory that this body needs.
    #[error("no memory is left for a body of {0} bytes")]
    NoMemory(usize),
}

/// A whole answer of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// The status, 200 or above.
    pub(super) status: StatusCode,
    /// The values of those headers that the dispatcher reads.
    pub(super) headers: AnswerHeaders,
    /// The body.
    pub(super) body: Bytes,
    /// Whether another request may follow on the connection.
    pub(super) allows_reuse: bool,
}

/// An answer of which a part has arrived.
#[derive(Debug)]
pub(super) struct AnswerReader {
    /// The largest body in bytes.
    max_body_bytes: usize,
    /// The memory that a body above [`MAX_BODY_BYTES`] holds; `None` for any other.
    memory: Option<AnswerMemory>,
    /// The bytes of a head that is not yet complete.
    partial_head: Vec<u8>,
    /// The head once it is complete.
    head: Option<Head>,
    /// The bytes of the body that have arrived.
    body: Vec<u8>,
}

/// The head of an answer.
#[derive(Debug)]
struct Head {
    status: StatusCode,
    headers: AnswerHeaders,
    /// The length of the body in bytes, which may exceed the limit until [`AnswerReader::take_head`] has checked it.
    length: u64,
    is_persistent: bool,
}

impl AnswerReader {
    /// Reads an answer whose body has at most `max_body_bytes`.
    pub(super) fn new(max_body_bytes: usize) -> Self {
        Self { max_body_bytes, memory: None, partial_head: Vec::new(), head: None, body: Vec::new() }
    }

    /// Whether a byte of the answer has arrived.
    pub(super) fn has_begun(&self) -> bool {
        !self.partial_head.is_empty() || self.head.is_some()
    }

    /// Takes the next `bytes` of the connection. Returns the answer once it is complete.
    ///
    /// # Errors
    /// If the bytes are no answer of the wire contract. The connection cannot be used any further.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Option<Answer>, Malformed> {
        if self.head.is_some() {
            return Ok(self.read_body(bytes));
        }
        if self.partial_head.is_empty() {
            // The usual answer arrives whole, so that its head is never copied.
            return match Head::parse(bytes)? {
                Some((head, length)) => {
                    self.take_head(head)?;
                    Ok(self.read_body(&bytes[length..]))
                }
                None => self.keep_partial_head(bytes),
            };
        }
        self.keep_partial_head(bytes)?;
        // A head ends with a line break. Without this condition, a head that arrives byte by byte would be parsed from
        // its start for each byte.
        if !bytes.contains(&b'\n') {
            return Ok(None);
        }
        let Some((head, length)) = Head::parse(&self.partial_head)? else { return Ok(None) };
        self.take_head(head)?;
        let received = std::mem::take(&mut self.partial_head);
        Ok(self.read_body(&received[length..]))
    }

    /// Checks the bytes of an answer that has ended too early.
    ///
    /// # Errors
    /// If the bytes that have arrived do not begin an answer, so that the early end is not the fault.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.head.is_some() { Ok(()) } else { Head::parse(&self.partial_head).map(drop) }
    }

    fn take_head(&mut self, head: Head) -> Result<(), Malformed> {
        let (length, limit) = (head.length, self.max_body_bytes);
        let length = usize::try_from(length).ok().filter(|&length| length <= limit);
        let length = length.ok_or(Malformed::LongBody { length: head.length, limit })?;
        if length > MAX_BODY_BYTES {
            self.memory = Some(AnswerMemory::reserve(length).ok_or(Malformed::NoMemory(length))?);
        }
        self.head = Some(head);
        Ok(())
    }

    fn keep_partial_head(&mut self, bytes: &[u8]) -> Result<Option<Answer>, Malformed> {
        // A body that has come together with the end of a long head counts here, too. No usual answer is near the limit.
        if self.partial_head.len() + bytes.len() > MAX_HEAD_BYTES {
            return Err(Malformed::LongHead);
        }
        self.partial_head.extend_from_slice(bytes);
        Ok(None)
    }

    fn read_body(&mut self, bytes: &[u8]) -> Option<Answer> {
        let head = self.head.as_ref().expect("the callers have the head");
        let missing = head.length as usize - self.body.len();
        let (body, surplus) = bytes.split_at(missing.min(bytes.len()));
        if body.len() < missing {
            if self.body.capacity() - self.body.len() < body.len() {
                // The memory doubles as the bytes arrive, but never exceeds the length.
                let more = self.body.len().max(FIRST_BODY_BYTES).max(body.len());
                self.body.reserve_exact(more.min(missing));
            }
            self.body.extend_from_slice(body);
            return None;
        }
        let body = if self.body.is_empty() {
            Bytes::copy_from_slice(body)
        } else {
            self.body.extend_from_slice(body);
            std::mem::take(&mut self.body).into()
        };
        let body = match self.memory.take() {
            Some(memory) => memory.hold(body),
            None => body,
        };
        // Bytes after the answer answer no request. They would be taken for the answer to the next one.
        let allows_reuse = head.is_persistent && surplus.is_empty();
        Some(Answer { status: head.status, headers: head.headers, body, allows_reuse })
    }
}

impl Head {
    /// Parses the head at the start of `bytes`. Returns it with its length in bytes; `None` if it is not complete.
    fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let mut space = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut response, bytes, &mut space)
            .map_err(Malformed::Head)?;
        let httparse::Status::Complete(head_length) = parsed else { return Ok(None) };
        if head_length > MAX_HEAD_BYTES {
            return Err(Malformed::LongHead);
        }
        let code = response.code.expect("a complete head has a status");
        if code < 200 {
            return Err(Malformed::Status(code));
        }
        let status = StatusCode::from_u16(code).map_err(|_| Malformed::Status(code))?;
        let read = AnswerHeaders::read(response.headers)?;
        // An HTTP/1.0 server closes the connection unless it says otherwise, and few say so.
        let is_persistent = response.version == Some(1) && !read.closes;
        let head = Self { status, headers: read.headers, length: read.length, is_persistent };
        Ok(Some((head, head_length)))
    }
}

#[cfg(test)]
mod tests;
