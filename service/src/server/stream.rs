//! The bytes of one connection, between the socket (or TLS) and hyper. Records in the connection's [`Activity`] when a
//! head is incomplete and when the client does not read, and bounds the memory of incomplete heads. hyper receives the
//! header blocks of HTTP/2 only when they are complete. Knows no requests.

use super::activity::Activity;
use super::frames::{Frames, PREFACE};
use super::framing::{Framing, RefusedFraming};
use super::limits::{ConnectionLimits, Limit};
use super::opening::{Opening, Repeated, Written};
use super::refusal;
use crate::memory_budget::{MemoryBudget, Reservation};
use bytes::Bytes;
use std::future::poll_fn;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::{Pin, pin};
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
    /// Bytes that hyper has not yet received: those that were read before it got the connection, and with HTTP/2 the
    /// present header block until it is complete.
    prefix: Vec<u8>,
    /// The number of bytes of `prefix` that hyper has taken.
    taken: usize,
    /// The number of bytes of `prefix` that hyper may take.
    complete: usize,
    framing: Framing,
    frames: Frames,
    /// The most bytes of an HTTP/2 header block that are held back. hyper refuses a longer one.
    max_block_bytes: usize,
    /// Whether hyper receives the present header block although it is incomplete.
    is_block_passed: bool,
    is_http1: bool,
    /// Whether the connection has passed to another protocol than HTTP.
    is_raw: bool,
    /// The bytes to the client that the server writes before hyper.
    unsent: Vec<u8>,
    /// The beginning of an HTTP/2 connection that hyper has not got.
    opening: Option<Box<Opening>>,
    /// What hyper is about to write although it was sent in its place.
    repeated: Option<Box<Repeated>>,
    /// The memory of the incomplete head.
    head_memory: Reservation,
    /// The reason if a body is refused. No further bytes are read.
    refused: Option<RefusedFraming>,
    /// The bytes that may still be thrown away after the last answer.
    linger_left: usize,
}

impl<S: AsyncRead + AsyncWrite + Resettable + Unpin> GuardedStream<S> {
    /// The bytes of `stream`. The incomplete heads of all connections share `head_memory`.
    pub(super) fn new(
        stream: S,
        activity: Arc<Activity>,
        head_memory: MemoryBudget,
        limits: &ConnectionLimits,
    ) -> Self {
        Self {
            stream,
            activity,
            prefix: Vec::new(),
            taken: 0,
            complete: 0,
            framing: Framing::new(limits.max_chunk_bytes),
            frames: Frames::default(),
            max_block_bytes: limits.max_header_bytes as usize,
            is_block_passed: false,
            is_http1: true,
            is_raw: false,
            unsent: Vec::new(),
            opening: None,
            repeated: None,
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
        self.complete = 0;
        read
    }

    /// Returns bytes that begin with the next head. hyper receives them first.
    ///
    /// # Errors
    /// If heads of other connections use all memory for incomplete heads.
    pub(super) fn give_back(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.restart();
        (self.prefix, self.taken) = (bytes, 0);
        let followed = self.follow(0);
        self.complete = self.prefix.len();
        followed
    }

    /// Records that bytes of the client were read that nothing will use, so that the connection is not closed before the
    /// client has read its last answer.
    pub(super) fn note_surplus(&mut self) {
        self.linger_left = self.linger_left.min(LINGER_BYTES - 1);
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
    /// then, hyper would hold several times the memory of the head. For HTTP/2, [`GuardedStream::poll_open`] does the
    /// same. `expected` is the protocol that TLS has negotiated.
    ///
    /// # Errors
    /// If the stream fails, or heads of other connections use all memory for incomplete heads.
    pub(super) async fn read_first_head(&mut self, expected: Option<Protocol>, max_bytes: usize) -> Result<Protocol> {
        loop {
            let known = self.prefix.len().min(3);
            if expected == Some(Protocol::Http2) || (expected.is_none() && self.prefix[..known] == PREFACE[..known]) {
                if known == 3 || expected.is_some() {
                    self.is_http1 = false;
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
            self.complete = self.prefix.len();
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
        (self.prefix, self.taken, self.complete) = (read_ahead.into(), 0, 0);
        self.complete = self.prefix.len();
        (self.is_http1, self.is_raw) = (false, true);
    }

    async fn read_more(&mut self, max_bytes: usize) -> Result<usize> {
        poll_fn(|context| self.poll_read_more(context, max_bytes)).await
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
        self.hold(head_bytes).map(|()| kept)
    }

    /// Counts the `bytes` of an incomplete head towards the memory for them.
    fn hold(&mut self, bytes: usize) -> Result<()> {
        if self.head_memory.resize(bytes.saturating_sub(FREE_HEAD_BYTES)) {
            return Ok(());
        }
        self.activity.end_by(Limit::HeadMemory);
        Err(Error::new(ErrorKind::OutOfMemory, "incomplete heads of requests use all memory that is allowed for them"))
    }

    /// Follows the frames in `bytes`. Returns the number of bytes before a header block that is not complete and is held
    /// back. `held` is the number of bytes of that block which are held back already.
    fn follow_frames(&mut self, bytes: &[u8], held: usize) -> usize {
        let (mut at, mut complete) = (0, 0);
        while at < bytes.len() {
            at += self.frames.next(&bytes[at..]).0;
            if !self.frames.is_in_block() {
                (complete, self.is_block_passed) = (at, false);
            }
        }
        let held = if complete == 0 { held } else { 0 };
        self.is_block_passed |= self.frames.is_in_block() && held + at - complete >= self.max_block_bytes;
        self.activity.set_partial_head(self.frames.is_in_block());
        if self.is_block_passed { at } else { complete }
    }

    /// Follows the frames in the bytes of the prefix from the index `from`, and lets hyper take what is complete.
    fn follow_prefix(&mut self, from: usize) -> Result<()> {
        let prefix = std::mem::take(&mut self.prefix);
        let before = self.complete;
        match self.follow_frames(&prefix[from..], from - before) {
            0 => {}
            complete => self.complete = from + complete,
        }
        self.prefix = prefix;
        self.hold_block()
    }

    /// Counts the header block that is held back towards the memory for incomplete heads. A block that hyper receives
    /// although it is incomplete keeps what it has.
    fn hold_block(&mut self) -> Result<()> {
        if self.is_block_passed { Ok(()) } else { self.hold(self.prefix.len() - self.complete) }
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
        if this.is_raw {
            if this.taken < this.complete {
                this.take_prefix(buffer);
                return Poll::Ready(Ok(()));
            }
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        if !this.is_http1 {
            return this.poll_read_frames(context, buffer);
        }
        let before = buffer.filled().len();
        if this.taken < this.complete {
            this.take_prefix(buffer);
        } else if let Some(refused) = this.refused {
            return Poll::Ready(Err(Error::new(ErrorKind::InvalidData, refused)));
        } else {
            let allowed = this.allowed_bytes();
            if allowed < buffer.remaining() as u64 {
                ready!(Pin::new(&mut (&mut this.stream).take(allowed)).poll_read(context, buffer))?;
            } else {
                ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            }
            let kept = this.inspect(&mut buffer.filled_mut()[before..])?;
            buffer.set_filled(before + kept);
            if let Some(refused) = this.refused
                && kept == 0
            {
                return Poll::Ready(Err(Error::new(ErrorKind::InvalidData, refused)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Resettable + Unpin> GuardedStream<S> {
    /// Reads the next bytes into the prefix, whose memory grows with its length up to `max_bytes`. Returns their number.
    fn poll_read_more(&mut self, context: &mut Context<'_>, max_bytes: usize) -> Poll<Result<usize>> {
        if self.prefix.len() == self.prefix.capacity() {
            let length = self.prefix.len().max(FIRST_READ_BYTES / 2);
            let more = length.min(max_bytes.saturating_sub(self.prefix.len())).max(1);
            self.prefix.reserve_exact(more);
        }
        let room = (self.prefix.capacity() - self.prefix.len()) as u64;
        let mut reader = (&mut self.stream).take(room);
        pin!(reader.read_buf(&mut self.prefix)).poll(context)
    }

    /// Moves bytes of the prefix to `buffer`.
    fn take_prefix(&mut self, buffer: &mut ReadBuf<'_>) {
        let rest = &self.prefix[self.taken..self.complete];
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.taken += count;
        if self.taken == self.prefix.len() {
            (self.prefix, self.taken, self.complete) = (Vec::new(), 0, 0);
        } else if self.taken == self.complete {
            // The rest is held back.
            self.prefix.drain(..self.taken);
            (self.taken, self.complete) = (0, 0);
        }
    }

    /// Reads bytes of HTTP/2, and holds the last header block back until it is complete. hyper would keep several times
    /// the memory of such a block.
    fn poll_read_frames(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        loop {
            if self.taken < self.complete {
                self.take_prefix(buffer);
                return Poll::Ready(Ok(()));
            }
            let held = self.prefix.len();
            if held > 0 {
                match ready!(self.poll_read_more(context, self.max_block_bytes))? {
                    // hyper notices that the connection ends within a block.
                    0 => self.complete = held,
                    _ => self.follow_prefix(held)?,
                }
                continue;
            }
            ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
            let read = &buffer.filled()[before..];
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let complete = self.follow_frames(read, 0);
            self.prefix.extend_from_slice(&read[complete..]);
            self.hold_block()?;
            buffer.set_filled(before + complete);
            if complete > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Resettable + Unpin> GuardedStream<S> {
    /// Begins HTTP/2 in the place of hyper: sends `settings`, which are those that hyper would send, acknowledges those of
    /// the client, and waits for the end of the first header block. hyper takes 20 KiB for a connection, also for that of
    /// a client which never sends a request. Ready when hyper should continue, which may also be to report an error.
    ///
    /// # Errors
    /// If the stream fails, or heads of other connections use all memory for incomplete heads.
    pub(super) fn poll_open(&mut self, context: &mut Context<'_>, settings: &Bytes) -> Poll<Result<()>> {
        let mut opening = self.opening.take().unwrap_or_else(|| {
            self.unsent.extend_from_slice(settings);
            Box::default()
        });
        let opened = self.poll_opening(context, &mut opening);
        self.opening = Some(opening);
        opened
    }

    fn poll_opening(&mut self, context: &mut Context<'_>, opening: &mut Opening) -> Poll<Result<()>> {
        loop {
            if opening.follow(&self.prefix, &mut self.unsent) || self.prefix.len() >= self.max_block_bytes {
                return Poll::Ready(Ok(()));
            }
            self.activity.set_partial_head(opening.is_partial());
            self.hold(self.prefix.len())?;
            // The acknowledgements are sent before more is read, so that they do not add up.
            ready!(self.poll_unsent(context))?;
            if ready!(self.poll_read_more(context, self.max_block_bytes))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Lets hyper continue a connection that the server has begun with `settings`.
    ///
    /// # Errors
    /// If heads of other connections use all memory for incomplete heads.
    pub(super) fn end_opening(&mut self, settings: Bytes) -> Result<()> {
        let Opening { followed, frames, acknowledgements } = *self.opening.take().unwrap_or_default();
        self.repeated = Some(Box::new(Repeated::new(settings, acknowledgements)));
        self.frames = frames;
        self.is_block_passed = self.frames.is_in_block();
        self.complete = followed;
        self.follow_prefix(followed)
    }

    /// Writes the bytes that are sent in the place of hyper.
    fn poll_unsent(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        while !self.unsent.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(context, &self.unsent);
            match ready!(self.note(written, false))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                count => drop(self.unsent.drain(..count)),
            }
            if self.unsent.is_empty() {
                self.unsent = Vec::new();
                let flushed = Pin::new(&mut self.stream).poll_flush(context);
                return self.note(flushed, true);
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
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, mut bytes: &[u8]) -> Poll<Result<usize>> {
        ready!(self.poll_unsent(context))?;
        if let Some(repeated) = &mut self.repeated {
            match repeated.next(bytes)? {
                Written::Dropped(count) => return Poll::Ready(Ok(count)),
                Written::Sent(count) => bytes = &bytes[..count],
                Written::All => self.repeated = None,
            }
        }
        match if self.is_http1 { refusal::find(bytes) } else { None } {
            None => {}
            Some((0, status)) => {
                self.unsent = refusal::answer(status);
                return Poll::Ready(Ok(bytes.len()));
            }
            Some((before, _)) => bytes = &bytes[..before],
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let (Some(repeated), Poll::Ready(Ok(count))) = (&mut self.repeated, &written) {
            repeated.sent(*count);
        }
        self.note(written, false)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        if self.repeated.is_some() || pieces.iter().any(|piece| refusal::find(piece).is_some()) {
            let first = pieces.iter().find(|piece| !piece.is_empty());
            return self.poll_write(context, first.map_or(&[], |piece| &**piece));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.note(written, false)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_unsent(context))?;
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
