//! Reading a request's body within a size, a time, and what all bodies together may hold.

use crate::wire::{Code, Fault};
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

/// What one body may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes at most.
    pub max_bytes: usize,
    /// From the first header to the last byte.
    pub timeout: Duration,
    /// What all bodies share.
    pub memory_budget: MemoryBudget,
}

/// How much of a body that is refused is read and thrown away so that the client gets to see why: a connection closed
/// with unread bytes is reset, and the answer lost.
const DISCARD: usize = 64 << 20;

/// ... and for how long.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Pieces shorter than this are copied: each would keep alive the whole buffer that it was read into.
const SHORT: usize = 4 << 10;

/// Bytes that all bodies of this process may hold together, whether they are being read, wait or are with a replica.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    left: Arc<AtomicUsize>,
}

impl MemoryBudget {
    /// So many bytes together.
    pub fn new(bytes: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(bytes)) }
    }

    /// Takes `bytes`, if there are as many.
    fn take(&self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// A whole body, in the pieces in which it came; its bytes count towards its [`MemoryBudget`] until it is dropped.
#[derive(Debug)]
pub struct Chunks {
    pieces: Vec<Bytes>,
    len: usize,
    memory_budget: MemoryBudget,
}

impl Chunks {
    /// Nothing yet.
    pub fn new(memory_budget: MemoryBudget) -> Self {
        Self { pieces: Vec::new(), len: 0, memory_budget }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The body in one piece, copied only if it came in several.
    pub fn to_bytes(&self) -> Bytes {
        match &self.pieces[..] {
            [] => Bytes::new(),
            [whole] => whole.clone(),
            pieces => pieces.concat().into(),
        }
    }

    /// Whether there was room for it.
    fn push(&mut self, piece: Bytes, gathered: &mut BytesMut) -> bool {
        let has_room = self.memory_budget.take(piece.len());
        if has_room {
            self.len += piece.len();
            if self.pieces.is_empty() {
                // Most have one piece; `push` alone would make room for four.
                self.pieces.reserve_exact(1);
                self.pieces.push(if piece.len() < SHORT { Bytes::copy_from_slice(&piece) } else { piece });
            } else if piece.len() < SHORT {
                gathered.extend_from_slice(&piece);
            } else {
                self.flush(gathered);
                self.pieces.push(piece);
            }
        }
        has_room
    }

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

/// Sends a body's pieces on without copying them.
#[derive(Debug)]
pub struct Sending<T> {
    /// What the body belongs to; kept alive until it is sent.
    owner: T,
    next: usize,
    left: u64,
}

impl<T: Deref<Target: AsRef<Chunks>>> Sending<T> {
    /// The body of `owner`, from its start.
    pub fn new(owner: T) -> Self {
        let left = owner.as_ref().len as u64;
        Self { owner, next: 0, left }
    }
}

impl<T: Deref<Target: AsRef<Chunks>> + Unpin> Body for Sending<T> {
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

/// Reads a whole body.
///
/// # Errors
/// 413 past the size, and 503 past what all bodies may hold, without having buffered more than that; 408 past the time;
/// 504 past the request's deadline; 400 when the client stopped sending.
pub async fn read(mut body: Incoming, limits: &Limits, deadline: Instant) -> Result<Chunks, Fault> {
    let (latest, timeout) = (Instant::now() + limits.timeout, limits.timeout.as_secs_f64());
    match tokio::time::timeout_at(deadline.min(latest).into(), collect(&mut body, limits)).await {
        Ok(Err(fault)) if matches!(fault.code, Code::TooLarge | Code::QueueFull) => {
            Box::pin(discard(body)).await;
            Err(fault)
        }
        Ok(read) => read,
        Err(_elapsed) if latest < deadline => {
            Err(Fault::new(Code::SlowBody, format!("the body did not arrive within {timeout} s")))
        }
        Err(_elapsed) => Err(Fault::new(Code::DeadlineExceeded, "the deadline passed before the whole body was there")),
    }
}

async fn collect(body: &mut Incoming, limits: &Limits) -> Result<Chunks, Fault> {
    let mut chunks = Chunks::new(limits.memory_budget.clone());
    let mut gathered = BytesMut::new();
    let too_large =
        || Err(Fault::new(Code::TooLarge, format!("the body is over the limit of {} bytes", limits.max_bytes)));
    if body.size_hint().lower() > limits.max_bytes as u64 {
        return too_large();
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Fault::new(Code::BadRequest, format!("the body ended early: {error}")))?;
        // Trailers say nothing about a picture.
        let Ok(piece) = frame.into_data() else { continue };
        if piece.len() > limits.max_bytes - chunks.len() {
            return too_large();
        }
        if !chunks.push(piece, &mut gathered) {
            let fault = Fault::new(Code::QueueFull, "the bodies held now are as many bytes as may be; retry in 1 s");
            return Err(fault.retry_after(Duration::from_secs(1)));
        }
    }
    chunks.flush(&mut gathered);
    Ok(chunks)
}

/// Throws away what is still to come of a body that is refused, within bounds.
pub async fn discard(mut body: Incoming) {
    let drain = async {
        let mut left = DISCARD;
        while let Some(Ok(frame)) = body.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    // Whether it ended or was cut short, the answer comes next.
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
        for (lengths, pieces) in
            [(&[][..], 0), (&[3], 1), (&[3, 2, 1], 2), (&[SHORT, SHORT, 1, 1, SHORT], 4), (&[1; 1000], 2)]
        {
            let (chunks, whole) = chunks(&MemoryBudget::new(usize::MAX), lengths);
            assert_eq!(chunks.pieces.len(), pieces, "{lengths:?}");
            assert_eq!(chunks.to_bytes(), whole);
            let sending = Sending::new(Arc::new(chunks));
            assert_eq!(sending.size_hint().exact(), Some(whole.len() as u64));
            let sent = sending.collect().await.expect("infallible");
            assert_eq!(sent.to_bytes(), whole);
        }
    }

    #[test]
    fn a_short_body_leaves_the_buffer_that_it_was_read_into() {
        let held = |length| {
            let buffer = Bytes::from(vec![7; 2 * SHORT]);
            let mut chunks = Chunks::new(MemoryBudget::new(usize::MAX));
            assert!(chunks.push(buffer.slice(..length), &mut BytesMut::new()));
            assert_eq!(chunks.to_bytes(), buffer[..length]);
            !buffer.is_unique()
        };
        assert!(!held(SHORT - 1));
        assert!(held(SHORT), "a long one is not copied");
    }

    #[test]
    fn bodies_share_an_allowance_and_give_it_back() {
        let memory_budget = MemoryBudget::new(10);
        let (first, _) = chunks(&memory_budget, &[4, 4]);
        let mut second = Chunks::new(memory_budget.clone());
        assert!(!second.push(vec![0; 3].into(), &mut BytesMut::new()), "two are left");
        assert!(second.push(vec![0; 2].into(), &mut BytesMut::new()));
        drop(first);
        assert!(second.push(vec![0; 8].into(), &mut BytesMut::new()));
        drop(second);
        assert_eq!(memory_budget.left.load(Ordering::Relaxed), 10);
    }
}
