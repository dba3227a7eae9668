//! Reads a request's body within three limits: its size, its time, and the memory that all bodies share. Knows nothing
//! of the body's format.

use crate::wire::{Code, RequestError};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::convert::Infallible;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Limits of one body.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest body, in bytes.
    pub max_bytes: usize,
    /// Time from the first header to the last byte.
    pub timeout: Duration,
    /// The memory that all bodies share.
    pub memory_budget: MemoryBudget,
}

/// Number of bytes of a refused body that are read and thrown away, so that the client can read the answer. The kernel
/// resets a connection that is closed with unread bytes, and the answer would be lost.
const DISCARD_BYTES: usize = 64 << 20;

/// Longest time that is spent on throwing away a refused body.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Pieces shorter than this many bytes are copied. Each of them would otherwise keep the whole buffer that it was read
/// into in memory.
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

    /// Takes `bytes` from the budget, and returns true, if as many are left.
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

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the body has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The body in one piece. It is copied only if it arrived in several.
    pub fn to_bytes(&self) -> Bytes {
        match &self.pieces[..] {
            [] => Bytes::new(),
            [whole] => whole.clone(),
            pieces => pieces.concat().into(),
        }
    }

    /// Appends `piece`, and returns true, if the memory budget has room for it. Short pieces are collected in
    /// `gathered` until [`Chunks::flush`] or the next long piece.
    fn push(&mut self, piece: Bytes, gathered: &mut BytesMut) -> bool {
        let has_room = self.memory_budget.take(piece.len());
        if has_room {
            self.len += piece.len();
            if self.pieces.is_empty() {
                // Most bodies have one piece; `push` alone would reserve space for four.
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

impl AsRef<Self> for Chunks {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.memory_budget.left.fetch_add(self.len, Ordering::Relaxed);
    }
}

/// [`Chunks`] as the body of an outgoing request. The pieces are not copied.
#[derive(Debug)]
pub struct ChunksBody<T> {
    /// The value that the chunks belong to; kept alive until the body is sent.
    owner: T,
    /// Index of the next piece.
    next: usize,
    /// Bytes that are not yet sent.
    left: u64,
}

impl<T: Deref<Target: AsRef<Chunks>>> ChunksBody<T> {
    /// The chunks of `owner`, from their start.
    pub fn new(owner: T) -> Self {
        let left = owner.as_ref().len as u64;
        Self { owner, next: 0, left }
    }
}

impl<T: Deref<Target: AsRef<Chunks>> + Unpin> Body for ChunksBody<T> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.owner.as_ref().pieces.get(self.next).cloned();
        self.next += 1;
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Reads a whole body. A body that is too large is refused without buffering more than the limits allow.
///
/// # Errors
/// 413 if the body exceeds its size; 503 if all bodies together would exceed the memory budget; 408 if the body does
/// not arrive in time; 504 if `deadline` passes first; 400 if the client stops sending.
pub async fn read(mut body: Incoming, limits: &Limits, deadline: Instant) -> Result<Chunks, RequestError> {
    let (latest, timeout) = (Instant::now() + limits.timeout, limits.timeout.as_secs_f64());
    match tokio::time::timeout_at(deadline.min(latest).into(), collect(&mut body, limits)).await {
        Ok(Err(error)) if matches!(error.code, Code::TooLarge | Code::QueueFull) => {
            Box::pin(discard(body)).await;
            Err(error)
        }
        Ok(read) => read,
        Err(_elapsed) if latest < deadline => {
            Err(RequestError::new(Code::SlowBody, format!("the body did not arrive within {timeout} s")))
        }
        Err(_elapsed) => {
            Err(RequestError::new(Code::DeadlineExceeded, "the deadline passed before the whole body had arrived"))
        }
    }
}

/// Reads a whole body within `limits`, without its time limit.
async fn collect(body: &mut Incoming, limits: &Limits) -> Result<Chunks, RequestError> {
    let mut chunks = Chunks::new(limits.memory_budget.clone());
    let mut gathered = BytesMut::new();
    let too_large = || {
        let message = format!("the body is over the limit of {} bytes (--max-body-bytes)", limits.max_bytes);
        Err(RequestError::new(Code::TooLarge, message))
    };
    if body.size_hint().lower() > limits.max_bytes as u64 {
        return too_large();
    }
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| RequestError::new(Code::BadRequest, format!("the body ended early: {error}")))?;
        // Trailers hold no part of the body.
        let Ok(piece) = frame.into_data() else { continue };
        if piece.len() > limits.max_bytes - chunks.len() {
            return too_large();
        }
        if !chunks.push(piece, &mut gathered) {
            let message =
                "the bodies of the requests in progress use all memory that is allowed for them; retry in 1 s";
            return Err(RequestError::new(Code::QueueFull, message).retry_after(Duration::from_secs(1)));
        }
    }
    chunks.flush(&mut gathered);
    Ok(chunks)
}

/// Reads and throws away the rest of a refused body, up to 64 MiB and for 2 s at most.
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
    // The answer is sent next, whether the body has ended or not.
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

    #[tokio::test]
    async fn pieces_keep_their_order_and_short_ones_are_gathered() {
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
            let body = ChunksBody::new(Arc::new(chunks));
            assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
            let sent = body.collect().await.expect("infallible");
            assert_eq!(sent.to_bytes(), whole);
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
        assert!(!held(COPY_BELOW - 1));
        assert!(held(COPY_BELOW), "a long piece is not copied");
    }

    #[test]
    fn bodies_share_a_memory_budget_and_give_it_back() {
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
