//! Reads a request's body within three limits: the size of the body, the time in which it must arrive, and the memory
//! that all requests share. Knows nothing of the body's format.

use crate::memory_budget::{MemoryBudget, Reservation};
use crate::readiness::Readiness;
use crate::server::RefusedFraming;
use crate::wire::{Code, RequestError};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use hyper::header::EXPECT;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The limits of one body.
#[derive(Debug, Clone)]
pub struct BodyLimits {
    /// The largest body, in bytes.
    pub max_bytes: usize,
    /// The time in which the whole body must arrive. It counts from the call of [`Upload::read`], after the headers.
    pub timeout: Duration,
    /// Tells whether the process still accepts connections. If not, it waits for no silent client.
    pub readiness: Readiness,
}

/// The bytes that each request counts towards the memory budget besides its body and its headers: about the size of its
/// task. Otherwise clients could open any number of requests whose bodies never begin.
pub const REQUEST_BYTES: usize = 2 << 10;

/// Most bytes of a refused body that are read and thrown away before the answer. The connection of a client that sent a
/// picture of common size can then be used again. A longer rest costs the connection; see `server`.
const DISCARD_BYTES: usize = 1 << 20;

/// The longest time for reading and throwing away a refused body.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Once the process accepts no more connections, the longest time for which an incomplete body may be silent.
const DRAINING_SILENCE: Duration = Duration::from_secs(1);

/// Pieces of a body that have fewer bytes are copied. Otherwise each short piece would keep in memory the whole buffer
/// that it was read into.
const COPY_BELOW: usize = 4 << 10;

/// A whole body, in the pieces in which it arrived. Its bytes count towards its [`MemoryBudget`] until it is dropped.
#[derive(Debug)]
pub struct Chunks {
    pieces: Pieces,
    len: usize,
    memory: Reservation,
}

/// The pieces of a body. Most bodies have one piece, which needs no memory for a list.
#[derive(Debug)]
enum Pieces {
    One(Bytes),
    Many(Vec<Bytes>),
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        *self = match std::mem::replace(self, Self::Many(Vec::new())) {
            Self::Many(pieces) if pieces.is_empty() => Self::One(piece),
            Self::Many(mut pieces) => {
                pieces.push(piece);
                Self::Many(pieces)
            }
            Self::One(first) => Self::Many(vec![first, piece]),
        }
    }

    fn as_slice(&self) -> &[Bytes] {
        match self {
            Self::One(piece) => std::slice::from_ref(piece),
            Self::Many(pieces) => pieces,
        }
    }
}

impl Chunks {
    /// An empty body whose bytes will count towards `memory_budget`.
    pub fn new(memory_budget: MemoryBudget) -> Self {
        Self { pieces: Pieces::Many(Vec::new()), len: 0, memory: Reservation::empty(memory_budget) }
    }

    /// A body of one piece, for which `memory` is reserved.
    pub(crate) fn whole(body: Bytes, memory: Reservation) -> Self {
        Self { len: body.len(), pieces: Pieces::One(body), memory }
    }

    /// The length of the body in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the body has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces of the body, in order.
    pub fn pieces(&self) -> &[Bytes] {
        self.pieces.as_slice()
    }

    /// The body in one piece. Only a body of several pieces is copied.
    pub fn to_bytes(&self) -> Bytes {
        match self.pieces() {
            [] => Bytes::new(),
            [whole] => whole.clone(),
            pieces => pieces.concat().into(),
        }
    }

    /// Appends `piece` and returns true. Returns false if the memory budget has no room for it. Short pieces are
    /// collected in `gathered` until [`Chunks::flush`] is called or a long piece follows.
    fn push(&mut self, piece: Bytes, gathered: &mut BytesMut) -> bool {
        let has_room = self.memory.grow(piece.len());
        if has_room {
            self.len += piece.len();
            if self.pieces().is_empty() {
                self.pieces.push(if piece.len() < COPY_BELOW { Bytes::copy_from_slice(&piece) } else { piece });
            } else if piece.len() < COPY_BELOW {
                gathered.extend_from_slice(&piece);
            } else {
                self.flush(gathered);
                self.pieces.push(piece);
            }
        }
        has_room
    }

    /// Appends the short pieces in `gathered` as one piece.
    fn flush(&mut self, gathered: &mut BytesMut) {
        if !gathered.is_empty() {
            self.pieces.push(gathered.split().freeze());
        }
    }
}

/// The body of a request before it is read or refused.
#[derive(Debug)]
pub struct Upload {
    body: Incoming,
    /// Whether the client waits for `100 Continue` before it sends the body. hyper sends that when the body is first
    /// polled, so a body that is refused must not be polled.
    expects_continue: bool,
}

/// Marks an answer that is sent while a task of its own reads the rest of the request's body
/// ([`Upload::discard_beside`]). The connection then stays open.
#[derive(Debug, Clone, Copy)]
pub struct BodyIsRead;

impl Upload {
    /// The body of a request with these `headers`.
    pub fn new(headers: &HeaderMap, body: Incoming) -> Self {
        let expects = |value: &[u8]| value.eq_ignore_ascii_case(b"100-continue");
        Self { body, expects_continue: headers.get(EXPECT).is_some_and(|value| expects(value.as_bytes())) }
    }

    /// Reads a whole body. Never buffers more bytes than the limits allow, even if the body is too large. Besides the
    /// body, [`REQUEST_BYTES`] and `header_bytes` count towards `memory_budget`, until the body is dropped.
    ///
    /// # Errors
    /// If the body is larger than its limit (413), all requests together would exceed the memory budget (503), the body
    /// does not arrive in time (408), `deadline` passes first (504), or the body is malformed or ends early (400).
    pub async fn read(
        mut self,
        limits: &BodyLimits,
        memory_budget: &MemoryBudget,
        header_bytes: usize,
        deadline: Option<Instant>,
    ) -> Result<Chunks, RequestError> {
        let started = Instant::now();
        let latest = started + limits.timeout;
        let end = deadline.map_or(latest, |deadline| deadline.min(latest));
        let received = AtomicUsize::new(0);
        let read = {
            let mut collecting = std::pin::pin!(self.collect(limits, memory_budget, header_bytes, &received));
            let next_check = |now: Instant| (now + DRAINING_SILENCE).min(end).into();
            let mut check = std::pin::pin!(tokio::time::sleep_until(next_check(started)));
            let mut received_before = 0;
            loop {
                tokio::select! {
                    biased;
                    read = &mut collecting => break read,
                    () = &mut check => {
                        let (now, received) = (Instant::now(), received.load(Ordering::Relaxed));
                        let is_silent = received == std::mem::replace(&mut received_before, received);
                        if now >= end {
                            break Err(late(limits, latest == end));
                        } else if is_silent && limits.readiness.is_finishing() {
                            let message = "the server stops before the whole body has arrived; send the request again";
                            break Err(RequestError::new(Code::SlowBody, message));
                        }
                        check.as_mut().reset(next_check(now));
                    }
                }
            }
        };
        if let Err(error) = &read
            && matches!(error.code, Code::TooLarge | Code::QueueFull)
        {
            Box::pin(self.discard()).await;
        }
        read
    }

    /// Reads a whole body within the limits of size and memory. The caller limits the time. `received` is set to the
    /// bytes so far.
    async fn collect(
        &mut self,
        limits: &BodyLimits,
        memory_budget: &MemoryBudget,
        header_bytes: usize,
        received: &AtomicUsize,
    ) -> Result<Chunks, RequestError> {
        let mut chunks = Chunks::new(memory_budget.clone());
        let mut gathered = BytesMut::new();
        let no_memory = || {
            let message = "other requests use all memory that is allowed for requests; retry in 1 s";
            Err(RequestError::new(Code::QueueFull, message).retry_after(Duration::from_secs(1)))
        };
        if self.body.size_hint().lower() > limits.max_bytes as u64 {
            return Err(too_large(limits));
        }
        if !chunks.memory.grow(REQUEST_BYTES + header_bytes) {
            return no_memory();
        }
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| match is_chunk_too_large(&error) {
                true => too_large(limits),
                false => RequestError::new(Code::BadRequest, format!("the body is malformed or ended early: {error}")),
            })?;
            // A frame without data holds trailers, which are no part of the body.
            let Ok(piece) = frame.into_data() else { continue };
            if piece.len() > limits.max_bytes - chunks.len() {
                return Err(too_large(limits));
            }
            if !chunks.push(piece, &mut gathered) {
                return no_memory();
            }
            received.store(chunks.len(), Ordering::Relaxed);
        }
        chunks.flush(&mut gathered);
        Ok(chunks)
    }

    /// Reads and throws away the rest of a refused body in a task of its own, so that the answer does not wait for it.
    /// Returns the mark for the answer; `None` if the body is not read, because it is long or the client waits to be
    /// asked for it.
    pub fn discard_beside(self) -> Option<BodyIsRead> {
        let is_read = !self.is_left_unread();
        tokio::spawn(self.discard());
        is_read.then_some(BodyIsRead)
    }

    /// Whether [`Upload::discard`] reads nothing of the body.
    fn is_left_unread(&self) -> bool {
        self.expects_continue || self.body.size_hint().lower() > DISCARD_BYTES as u64
    }

    /// Reads and throws away the rest of a refused body, if it is short: at most 1 MiB, and for at most 1 s. Does not
    /// read a body for which the client waits to be asked.
    pub async fn discard(mut self) {
        if self.is_left_unread() {
            return;
        }
        let drain = async {
            let mut left = DISCARD_BYTES;
            while let Some(Ok(frame)) = self.body.frame().await {
                match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                    Some(rest) => left = rest,
                    None => break,
                }
            }
        };
        // After the timeout, the caller sends its answer although the body has not ended.
        let _elapsed = tokio::time::timeout(DISCARD_TIMEOUT, drain).await;
    }
}

/// The error for a body that has not arrived in time: within its own limit, or else before the request's deadline.
fn late(limits: &BodyLimits, is_own_limit: bool) -> RequestError {
    if is_own_limit {
        let timeout = limits.timeout.as_secs_f64();
        RequestError::new(Code::SlowBody, format!("the body did not arrive within {timeout} s (--body-timeout)"))
    } else {
        RequestError::new(Code::DeadlineExceeded, "the deadline passed before the whole body had arrived")
    }
}

fn too_large(limits: &BodyLimits) -> RequestError {
    let max = limits.max_bytes;
    let message = format!("the body is over the limit of {max} bytes (--max-body-bytes); send a smaller image");
    RequestError::new(Code::TooLarge, message)
}

/// Whether the connection's stream found a chunk that is larger than the largest body.
fn is_chunk_too_large(error: &hyper::Error) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    let refused = io.and_then(std::io::Error::get_ref).and_then(|inner| inner.downcast_ref());
    refused == Some(&RefusedFraming::ChunkTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(memory_budget: &MemoryBudget, lengths: &[usize]) -> (Chunks, Vec<u8>) {
        let (mut chunks, mut gathered, mut whole) = (Chunks::new(memory_budget.clone()), BytesMut::new(), Vec::new());
        for (index, &length) in lengths.iter().enumerate() {
            let piece = vec![index as u8; length];
            whole.extend_from_slice(&piece);
            assert!(chunks.push(piece.into(), &mut gathered));
        }
        chunks.flush(&mut gathered);
        (chunks, whole)
    }

    #[test]
    fn pieces_keep_their_order_and_short_pieces_are_joined() {
        for (lengths, pieces) in [
            (&[][..], 0),
            (&[3], 1),
            (&[3, 2, 1], 2),
            (&[COPY_BELOW, COPY_BELOW, 1, 1, COPY_BELOW], 4),
            (&[1; 1000], 2),
        ] {
            let (chunks, whole) = chunks(&MemoryBudget::new(usize::MAX), lengths);
            assert_eq!(chunks.pieces().len(), pieces, "{lengths:?}");
            assert_eq!(chunks.to_bytes(), whole);
            assert_eq!(chunks.pieces().concat(), whole);
            assert_eq!(chunks.len(), whole.len());
        }
    }

    #[test]
    fn a_short_body_does_not_keep_the_buffer_that_it_was_read_into() {
        let held = |length| {
            let buffer = Bytes::from(vec![7; 2 * COPY_BELOW]);
            let mut chunks = Chunks::new(MemoryBudget::new(usize::MAX));
            assert!(chunks.push(buffer.slice(..length), &mut BytesMut::new()));
            assert_eq!(chunks.to_bytes(), buffer[..length]);
            !buffer.is_unique()
        };
        assert!(!held(COPY_BELOW - 1), "a short piece is copied");
        assert!(held(COPY_BELOW), "a long piece is not copied");
    }

    #[test]
    fn bodies_share_a_memory_budget_and_return_their_bytes_to_it() {
        let memory_budget = MemoryBudget::new(10);
        let (first, _) = chunks(&memory_budget, &[4, 4]);
        let mut second = Chunks::new(memory_budget.clone());
        assert!(!second.push(vec![0; 3].into(), &mut BytesMut::new()), "two bytes are left");
        assert!(second.push(vec![0; 2].into(), &mut BytesMut::new()));
        drop(first);
        assert!(second.push(vec![0; 8].into(), &mut BytesMut::new()));
        drop(second);
        assert_eq!(memory_budget.left(), 10);
    }
}
