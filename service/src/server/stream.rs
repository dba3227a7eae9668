//! The bytes of one connection, between the socket (or TLS) and hyper. Records in the connection's [`Activity`] when a
//! head is incomplete and when the client does not read, and bounds the memory of incomplete heads. Knows no requests.

use super::activity::Activity;
use super::framing::{Framing, RefusedFraming};
use crate::body::{MemoryBudget, Reservation};
use bytes::Bytes;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// The bytes of an incomplete head that count towards no budget. Most heads are shorter, so that clients with such heads
/// are served also while others have used up the budget.
const FREE_HEAD_BYTES: usize = 2 << 10;

/// The bytes of the next request that may be read ahead of the present one. Without this limit, each waiting request could
/// hold a whole read buffer of the next one.
const AHEAD_BYTES: u64 = 4 << 10;

/// The most bytes of a chunked body that are read at once. They may contain the beginning of the next request.
const CHUNKED_READ_BYTES: u64 = 64 << 10;

/// The most headers of a request, which is hyper's limit.
const MAX_HEADERS: usize = 100;

/// The bytes for which the first read of a connection has room.
const FIRST_READ_BYTES: usize = 1 << 10;

/// The most bytes that are read and thrown away before a connection is closed whose client is still sending, in steps of
/// [`LINGER_STEP`]. Enough for a body that is somewhat larger than the largest one, whose client should see the status 413
/// and no broken connection.
const LINGER_BYTES: usize = 64 << 20;
const LINGER_STEP: usize = 8 << 10;

/// The first bytes of an HTTP/2 connection (RFC 9113, 3.4). `PRI` is no method of HTTP/1.1.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// The bytes of one connection.
#[derive(Debug)]
pub(super) struct GuardedStream<S: Resettable> {
    stream: S,
    activity: Arc<Activity>,
    /// The first bytes, which were read before hyper got the connection.
    prefix: Vec<u8>,
    /// The number of bytes of `prefix` that hyper has taken.
    taken: usize,
    framing: Framing,
    /// The bytes that hyper has still to receive of an HTTP/2 preface; 0 for HTTP/1.1.
    preface_left: usize,
    is_http1: bool,
    /// The memory of the incomplete head.
    head_memory: Reservation,
    /// The reason if a body is refused. No further bytes are read.
    refused: Option<RefusedFraming>,
    /// The bytes that may still be thrown away after the last answer.
    linger_left: usize,
}

impl<S: AsyncRead + AsyncWrite + Resettable + Unpin> GuardedStream<S> {
    /// The bytes of `stream`. The incomplete heads of all connections share `head_memory`. A chunk may have at most
    /// `max_chunk_bytes`.
    pub(super) fn new(stream: S, activity: Arc<Activity>, head_memory: MemoryBudget, max_chunk_bytes: u64) -> Self {
        Self {
            stream,
            activity,
            prefix: Vec::new(),
            taken: 0,
            framing: Framing::new(max_chunk_bytes),
            preface_left: 0,
            is_http1: true,
            head_memory: Reservation::empty(head_memory),
            refused: None,
            linger_left: LINGER_BYTES,
        }
    }

    /// The stream below, whose bytes a caller reads that knows where its requests begin and end; see
    /// [`GuardedStream::take_read`].
    pub(super) fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Takes the bytes that were read and that hyper has not received. They begin with a head.
    pub(super) fn take_read(&mut self) -> Vec<u8> {
        self.restart();
        let mut read = std::mem::take(&mut self.prefix);
        read.drain(..std::mem::take(&mut self.taken));
        read
    }

    /// Returns bytes that begin with the next head. hyper receives them first.
    ///
    /// # Errors
    /// If heads of other connections use all memory for incomplete heads.
    pub(super) fn give_back(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.restart();
        self.prefix = bytes;
        self.follow(0)
    }

    /// Expects the next head, after the requests that have begun.
    fn restart(&mut self) {
        self.framing.restart(self.activity.begun());
        self.activity.set_partial_head(false);
        self.activity.set_arriving(0);
        self.head_memory.resize(0);
    }

    /// Waits for the first bytes. Returns false if the client closes the connection instead.
    ///
    /// # Errors
    /// If the stream fails.
    pub(super) async fn wait(&mut self) -> Result<bool> {
        // On TLS, the client may have sent its first bytes with the handshake, so a wait for the socket could last for
        // ever. A small buffer costs little beside that of TLS.
        let mut first = [0; 64];
        let count = self.stream.read(&mut first).await?;
        self.prefix.reserve_exact(FIRST_READ_BYTES);
        self.prefix.extend_from_slice(&first[..count]);
        Ok(count > 0)
    }

    /// Reads until the protocol is known and, for HTTP/1.1, until the first head is complete or has `max_bytes`. Until
    /// then, hyper would hold several times the memory of the head. `expected` is the protocol that TLS has negotiated.
    ///
    /// # Errors
    /// If the stream fails, or heads of other connections use all memory for incomplete heads.
    pub(super) async fn read_first_head(&mut self, expected: Option<Protocol>, max_bytes: usize) -> Result<Protocol> {
        loop {
            let known = self.prefix.len().min(3);
            if expected == Some(Protocol::Http2) || (expected.is_none() && self.prefix[..known] == PREFACE[..known]) {
                if known == 3 || expected.is_some() {
                    (self.is_http1, self.preface_left) = (false, PREFACE.len());
                    self.activity.set_partial_head(true);
                    return Ok(Protocol::Http2);
                }
            } else {
                break;
            }
            if self.read_more(max_bytes).await? == 0 {
                break;
            }
        }
        let (mut followed, mut next_check) = (0, 0);
        loop {
            self.follow(followed)?;
            followed = self.prefix.len();
            // A part of the next head may have come with the first one, which is answered meanwhile.
            let is_complete = self.framing.heads() > 0 || self.framing.is_refused();
            if is_complete || self.refused.is_some() || followed >= max_bytes {
                return Ok(Protocol::Http1);
            }
            // hyper answers a malformed head, and should do so at once. A check whenever the length has doubled costs
            // little, also if the client sends single bytes.
            if followed >= next_check {
                next_check = 2 * followed;
                if is_malformed(&self.prefix) {
                    return Ok(Protocol::Http1);
                }
            }
            if self.read_more(max_bytes).await? == 0 {
                return Ok(Protocol::Http1);
            }
        }
    }

    /// Lets all further bytes pass without a look at them, first those that were `read_ahead`. They are no HTTP any more.
    pub(super) fn pass_on(&mut self, read_ahead: Bytes) {
        (self.prefix, self.taken) = (read_ahead.into(), 0);
        (self.is_http1, self.preface_left) = (false, 0);
    }

    /// Reads the next bytes into the prefix, whose memory grows with its length.
    async fn read_more(&mut self, max_bytes: usize) -> Result<usize> {
        if self.prefix.len() == self.prefix.capacity() {
            let more = self.prefix.len().min(max_bytes.saturating_sub(self.prefix.len())).max(1);
            self.prefix.reserve_exact(more);
        }
        let room = (self.prefix.capacity() - self.prefix.len()) as u64;
        (&mut self.stream).take(room).read_buf(&mut self.prefix).await
    }

    /// Follows the bytes of the prefix from the index `from`.
    fn follow(&mut self, from: usize) -> Result<()> {
        let mut prefix = std::mem::take(&mut self.prefix);
        let followed = self.inspect(&mut prefix[from..]);
        if let Ok(kept) = followed {
            prefix.truncate(from + kept);
        }
        self.prefix = prefix;
        followed.map(drop)
    }
}

impl<S: Resettable> GuardedStream<S> {
    /// The number of heads that have ended, for tests.
    #[cfg(test)]
    pub(super) fn heads(&self) -> usize {
        self.framing.heads()
    }

    /// Follows the framing in `bytes`. Returns the number of bytes that hyper may receive.
    fn inspect(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let kept = match self.framing.advance(bytes) {
            Ok(()) => bytes.len(),
            Err((before, refused)) => {
                self.refused = Some(refused);
                before
            }
        };
        let head_bytes = self.framing.head_bytes();
        self.activity.set_partial_head(head_bytes > 0);
        self.activity.set_arriving(self.framing.arriving());
        if self.head_memory.resize(head_bytes.saturating_sub(FREE_HEAD_BYTES)) {
            Ok(kept)
        } else {
            Err(Error::new(
                ErrorKind::OutOfMemory,
                "incomplete heads of requests use all memory that is allowed for them",
            ))
        }
    }

    /// The most bytes that may be read at once.
    fn allowed_bytes(&self) -> u64 {
        match self.framing.body_bytes_left() {
            Some(left) => left.saturating_add(AHEAD_BYTES),
            None if !self.is_http1 || !self.activity.is_answering() => u64::MAX,
            None if self.framing.arriving() == 0 => AHEAD_BYTES,
            None => CHUNKED_READ_BYTES,
        }
    }

    /// Records whether the client has taken the bytes that were written.
    fn note<T>(&self, written: Poll<T>, is_flush: bool) -> Poll<T> {
        match written {
            Poll::Pending => self.activity.set_blocked(true),
            // Only a flush shows that all bytes are written. A client that takes single bytes stays blocked.
            Poll::Ready(_) if is_flush => self.activity.set_blocked(false),
            Poll::Ready(_) => self.activity.bytes_taken(),
        }
        written
    }
}

impl<S: AsyncRead + Resettable + Unpin> AsyncRead for GuardedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if this.taken < this.prefix.len() {
            let rest = &this.prefix[this.taken..];
            let count = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..count]);
            this.taken += count;
            if this.taken == this.prefix.len() {
                (this.prefix, this.taken) = (Vec::new(), 0);
            }
        } else if let Some(refused) = this.refused {
            return Poll::Ready(Err(Error::new(ErrorKind::InvalidData, refused)));
        } else {
            let allowed = this.allowed_bytes();
            if allowed < buffer.remaining() as u64 {
                ready!(Pin::new(&mut (&mut this.stream).take(allowed)).poll_read(context, buffer))?;
            } else {
                ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            }
            if this.is_http1 {
                let kept = this.inspect(&mut buffer.filled_mut()[before..])?;
                buffer.set_filled(before + kept);
                if let Some(refused) = this.refused
                    && kept == 0
                {
                    return Poll::Ready(Err(Error::new(ErrorKind::InvalidData, refused)));
                }
            }
        }
        if this.preface_left > 0 {
            this.preface_left = this.preface_left.saturating_sub(buffer.filled().len() - before);
            if this.preface_left == 0 {
                this.activity.set_partial_head(false);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Resettable + Unpin> GuardedStream<S> {
    /// Whether the client has sent bytes that hyper has not read, or is about to send the rest of a request.
    fn is_client_sending(&self) -> bool {
        let has_lingered = self.linger_left < LINGER_BYTES;
        let is_mid_request = self.activity.is_mid_body() || self.framing.head_bytes() > 0;
        let has_next = self.framing.heads() > self.activity.begun();
        has_lingered || is_mid_request || has_next || self.refused.is_some()
    }

    /// Throws away what the client still sends, until it closes the connection or has sent too much.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut ignored = [0; LINGER_STEP];
        while self.linger_left > 0 {
            let mut buffer = ReadBuf::new(&mut ignored);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.linger_left = self.linger_left.saturating_sub(buffer.filled().len());
                }
                Poll::Ready(_) => break,
                Poll::Pending if self.is_client_sending() => {
                    self.activity.linger();
                    return Poll::Pending;
                }
                Poll::Pending => break,
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Resettable + Unpin> AsyncWrite for GuardedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(written, false)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.note(written, false)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.note(flushed, true)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_shutdown(context);
        ready!(self.note(closed, true))?;
        if self.is_http1 {
            ready!(self.poll_linger(context));
        }
        self.activity.close();
        Poll::Ready(Ok(()))
    }
}

impl<S: Resettable> Drop for GuardedStream<S> {
    fn drop(&mut self) {
        if self.activity.is_aborted() {
            self.stream.reset_when_closed();
        }
    }
}

/// Whether `head` cannot be the beginning of an HTTP/1.1 request.
fn is_malformed(head: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    httparse::Request::new(&mut headers).parse(head).is_err()
}

/// A stream whose socket can be closed with a reset.
pub(super) trait Resettable {
    /// Makes the kernel throw away unsent bytes when the socket is closed. Otherwise it keeps them for minutes for a
    /// client that does not read.
    fn reset_when_closed(&self);
}

impl Resettable for TcpStream {
    fn reset_when_closed(&self) {
        if let Err(error) = self.set_zero_linger() {
            tracing::debug!(%error, "cannot reset a connection; the kernel closes it later");
        }
    }
}

impl Resettable for TlsStream<TcpStream> {
    fn reset_when_closed(&self) {
        self.get_ref().0.reset_when_closed();
    }
}
