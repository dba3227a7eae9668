//! Reads a request's body within three limits: the size of the body, the time in which it must arrive, and the memory
//! that all bodies share. Knows nothing of the body's format.

use crate::wire::{Code, RequestError};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The limits of one body.
#[derive(Debug, Clone)]
pub struct BodyLimits {
    /// The largest body, in bytes.
    pub max_bytes: usize,
    /// The time in which the whole body must arrive. It counts from the call of [`read`], after the headers.
    pub timeout: Duration,
    /// The memory that the bodies of all requests share.
    pub memory_budget: MemoryBudget,
}

/// Most bytes of a refused body that are read and thrown away. The kernel resets a connection that is closed with
/// unread bytes, and the client would lose the answer.
const DISCARD_BYTES: usize = 64 << 20;

/// The longest time for reading and throwing away a refused body.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Pieces of a body that have fewer bytes are copied. Otherwise each short piece would keep in memory the whole buffer
/// that it was read into.
const COPY_BELOW: usize = 4 << 10;

/// The bytes that all bodies of this process may hold together, from their first byte until they are dropped.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    left: Arc<AtomicUsize>,
}

impl MemoryBudget {
    /// A budget of `bytes`. Its clones share these bytes.
    pub fn new(bytes: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(bytes)) }
    }

    /// Takes `bytes` from the budget and returns true. Returns false if fewer are left.
    fn take(&self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// A whole body, in the pieces in which it arrived. Its bytes count towards its [`MemoryBudget`] until it is dropped.
#[derive(Debug)]
pub struct Chunks {
    pieces: Vec<Bytes>,
    len: usize,
    memory_budget: MemoryBudget,
}

impl Chunks {
    /// An empty body whose bytes will count towards `memory_budget`.
    pub fn new(memory_budget: MemoryBudget) -> Self {
        Self { pieces: Vec::new(), len: 0, memory_budget }
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
        &self.pieces
    }

    /// The body in one piece. Only a body of several pieces is copied.
    pub fn to_bytes(&self) -> Bytes {
        match &self.pieces[..] {
            [] => Bytes::new(),
            [whole] => whole.clone(),
            pieces => pieces.concat().into(),
        }
    }

    /// Appends `piece` and returns true. Returns false if the memory budget has no room for it. Short pieces are
    /// collected in `gathered` until [`Chunks::flush`] is called or a long piece follows.
    fn push(&mut self, piece: Bytes, gathered: &mut BytesMut) -> bool {
        let has_room = self.memory_budget.take(piece.len());
        if has_room {
            self.len += piece.len();
            if self.pieces.is_empty() {
                // Most bodies have one piece. Without this call, `push` would reserve memory for four.
                self.pieces.reserve_exact(1);
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

impl Drop for Chunks {
    fn drop(&mut self) {
        self.memory_budget.left.fetch_add(self.len, Ordering::Relaxed);
    }
}

/// Reads a whole body. Never buffers more bytes than the limits allow, even if the body is too large.
///
/// # Errors
/// If the body is larger than its limit (413), all bodies together would exceed the memory budget (503), the body does
/// not arrive in time (408), `deadline` passes first (504), or the client stops sending (400).
pub async fn read(mut body: Incoming, limits: &BodyLimits, deadline: Instant) -> Result<Chunks, RequestError> {
    let (latest, timeout) = (Instant::now() + limits.timeout, limits.timeout.as_secs_f64());
    match tokio::time::timeout_at(deadline.min(latest).into(), collect(&mut body, limits)).await {
        Ok(Err(error)) if matches!(error.code, Code::TooLarge | Code::QueueFull) => {
            Box::pin(discard(body)).await;
            Err(error)
        }
        Ok(read) => read,
        Err(_elapsed) if latest < deadline => {
            let message = format!("the body did not arrive within {timeout} s (--body-timeout)");
            Err(RequestError::new(Code::SlowBody, message))
        }
        Err(_elapsed) => {
            Err(RequestError::new(Code::DeadlineExceeded, "the deadline passed before the whole body had arrived"))
        }
    }
}

/// Reads a whole body within the limits of size and memory. The caller limits the time.
async fn collect(body: &mut Incoming, limits: &BodyLimits) -> Result<Chunks, RequestError> {
    let mut chunks = Chunks::new(limits.memory_budget.clone());
    let mut gathered = BytesMut::new();
    let too_large = || {
        let max = limits.max_bytes;
        let message = format!("the body is over the limit of {max} bytes (--max-body-bytes); send a smaller image");
        Err(RequestError::new(Code::TooLarge, message))
    };
    if body.size_hint().lower() > limits.max_bytes as u64 {
        return too_large();
    }
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| RequestError::new(Code::BadRequest, format!("the body ended early: {error}")))?;
        // A frame without data holds trailers, which are no part of the body.
        let Ok(piece) = frame.into_data() else { continue };
        if piece.len() > limits.max_bytes - chunks.len() {
            return too_large();
        }
        if !chunks.push(piece, &mut gathered) {
            let message = "the bodies of other requests use all memory that is allowed for bodies; retry in 1 s";
            return Err(RequestError::new(Code::QueueFull, message).retry_after(Duration::from_secs(1)));
        }
    }
    chunks.flush(&mut gathered);
    Ok(chunks)
}

/// Reads and throws away the rest of a refused body: at most 64 MiB, and for at most 2 s.
pub async fn discard(mut body: Incoming) {
    let drain = async {
        let mut left = DISCARD_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    // After the timeout, the caller sends its answer although the body has not ended.
    let _elapsed = tokio::time::timeout(DISCARD_TIMEOUT, drain).await;
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
            assert_eq!(chunks.pieces.len(), pieces, "{lengths:?}");
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
        assert_eq!(memory_budget.left.load(Ordering::Relaxed), 10);
    }
}
