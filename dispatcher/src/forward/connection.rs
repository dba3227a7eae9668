//! An open connection to a replica, and the exchange of one request for its answer over it. The request's own task
//! writes and reads, so that no data passes from task to task. Does not decide what a failed exchange means.

use super::answer::{Answer, AnswerReader, Malformed};
use crate::own_fault;
use bytes::Bytes;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The longest time for opening a connection. Replicas are on a local network, so a replica that takes longer counts as
/// unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);

/// The size of one read in bytes. A usual answer fits, and is then parsed where it was read.
const READ_BYTES: usize = 8 << 10;

/// The largest number of pieces in one write. A body has few pieces; the rest follows in further writes.
const WRITE_PIECES: usize = 16;

/// The reason for which no connection could be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// No process listens at the replica's address.
    Refused,
    /// The replica cannot be reached, or does not answer in time.
    Unreachable,
    /// The host name of the replica could not be looked up. The error does not tell whether the name is gone or this
    /// machine lacks descriptors.
    Unresolved,
    /// This process or this machine has no socket or port left.
    NoSocket,
}

/// The reason for which an exchange brought no answer. The connection cannot be used any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExchangeError {
    /// The replica's bytes are no answer of the wire contract.
    Malformed(Malformed),
    /// The connection ended before the whole answer had arrived.
    Ended {
        /// Whether a byte of the answer had arrived.
        had_begun: bool,
        /// The time from the first write to the end.
        lasted: Duration,
    },
}

/// An open connection to a replica. One request at a time uses the connection. It has no buffers, so that an idle one
/// takes little memory.
#[derive(Debug)]
pub struct ReplicaConnection {
    stream: TcpStream,
}

impl ReplicaConnection {
    /// Opens a connection to the replica `address`.
    pub(crate) async fn open(address: &str) -> Result<Self, OpenError> {
        let opened = async {
            let stream = TcpStream::connect(address).await?;
            // A request is written in as few pieces as possible, so Nagle's algorithm would only delay it.
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(Self { stream })
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, opened).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => {
                tracing::debug!(address, %error, "cannot connect to the replica");
                Err(match error.kind() {
                    _ if own_fault::is_own(&error) => OpenError::NoSocket,
                    _ if own_fault::is_unresolved(&error) => OpenError::Unresolved,
                    ErrorKind::ConnectionRefused => OpenError::Refused,
                    _ => OpenError::Unreachable,
                })
            }
            Err(_elapsed) => Err(OpenError::Unreachable),
        }
    }

    /// Whether no request can use the connection: the replica has closed it, or has sent bytes that answer no request.
    pub(super) fn is_stale(&self) -> bool {
        // Costs no system call unless the runtime has seen that something has arrived.
        !self.stream.try_read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Whether the replica closes the connection within `time`, although no request was sent over it.
    pub(super) async fn closes_within(&self, time: Duration) -> bool {
        tokio::time::timeout(time, self.stream.readable()).await.is_ok() && self.is_stale()
    }

    /// Sends a request with `head` and the pieces of its `body`, and receives the whole answer, whose body has at most
    /// `max_answer_bytes`. The exchange has `started` just now. The answer counts although the request is not yet written whole, because a replica may
    /// refuse a body before it has read it.
    ///
    /// # Cancel safety
    /// After the future is dropped, the connection cannot be used any further.
    pub(super) async fn exchange(
        &mut self,
        head: &[u8],
        body: &[Bytes],
        max_answer_bytes: usize,
        started: Instant,
    ) -> Result<Answer, ExchangeError> {
        let mut unsent = Unsent::new(head, body);
        let mut can_write = true;
        let mut reader = AnswerReader::new(max_answer_bytes);
        poll_fn(|context| {
            let stream = &mut self.stream;
            while can_write && !unsent.is_empty() {
                match unsent.poll_write(stream, context) {
                    Poll::Ready(Ok(())) => {}
                    // The replica may have answered before it closed the connection. The read below finds out.
                    Poll::Ready(Err(_)) => can_write = false,
                    Poll::Pending => break,
                }
            }
            poll_answer(stream, context, &mut reader).map(|read| match read {
                Ok(Some(answer)) => {
                    // After a partial request, the replica would take the next one for the rest of it.
                    Ok(Answer { allows_reuse: answer.allows_reuse && unsent.is_empty(), ..answer })
                }
                Ok(None) => {
                    reader.end().map_err(ExchangeError::Malformed)?;
                    Err(ExchangeError::Ended { had_begun: reader.has_begun(), lasted: started.elapsed() })
                }
                Err(malformed) => Err(ExchangeError::Malformed(malformed)),
            })
        })
        .await
    }
}

/// Reads until the answer is complete. The result is `None` if the connection ends before.
fn poll_answer(
    stream: &mut TcpStream,
    context: &mut Context<'_>,
    reader: &mut AnswerReader,
) -> Poll<Result<Option<Answer>, Malformed>> {
    loop {
        // The memory is on the stack and is not initialised, so that it costs nothing.
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut space);
        if ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer)).is_err() || buffer.filled().is_empty() {
            return Poll::Ready(Ok(None));
        }
        if let Some(answer) = reader.read(buffer.filled())? {
            return Poll::Ready(Ok(Some(answer)));
        }
    }
}

/// The part of a request that is not yet written.
struct Unsent<'a> {
    head: &'a [u8],
    /// The pieces of the body, from the first that is not written whole.
    body: &'a [Bytes],
    /// The bytes of the first piece that are written already.
    written: usize,
}

impl<'a> Unsent<'a> {
    fn new(head: &'a [u8], body: &'a [Bytes]) -> Self {
        Self { head, body, written: 0 }
    }

    fn is_empty(&self) -> bool {
        self.head.is_empty() && self.body.is_empty()
    }

    /// The next pieces to write, at most [`WRITE_PIECES`].
    fn slices(&self) -> Slices<'a> {
        let mut slices = Slices { slices: [IoSlice::new(&[]); WRITE_PIECES], used: 0 };
        slices.push(self.head);
        let mut written = self.written;
        for piece in self.body.iter().take(WRITE_PIECES - 1) {
            slices.push(&piece[written..]);
            written = 0;
        }
        slices
    }

    /// Writes as much as one system call takes.
    fn poll_write(&mut self, stream: &mut TcpStream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = ready!(Pin::new(stream).poll_write_vectored(context, &self.slices()))?;
        if written == 0 {
            return Poll::Ready(Err(ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, written: usize) {
        let of_head = written.min(self.head.len());
        self.head = &self.head[of_head..];
        self.written += written - of_head;
        while let Some((first, rest)) = self.body.split_first()
            && self.written >= first.len()
        {
            self.written -= first.len();
            self.body = rest;
        }
    }
}

/// The slices of one vectored write.
struct Slices<'a> {
    slices: [IoSlice<'a>; WRITE_PIECES],
    used: usize,
}

impl<'a> Slices<'a> {
    fn push(&mut self, bytes: &'a [u8]) {
        self.slices[self.used] = IoSlice::new(bytes);
        self.used += 1;
    }
}

impl<'a> Deref for Slices<'a> {
    type Target = [IoSlice<'a>];

    fn deref(&self) -> &[IoSlice<'a>] {
        &self.slices[..self.used]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_written_in_parts_loses_and_repeats_no_byte() {
        let pieces: Vec<Bytes> = [&b"one"[..], b"", b"three", b"x"].into_iter().map(Bytes::from_static).collect();
        let whole = b"headonethreex";
        for part in 1..=whole.len() {
            let mut unsent = Unsent::new(b"head", &pieces);
            let mut left = &whole[..];
            while !left.is_empty() {
                assert!(!unsent.is_empty());
                let slices = unsent.slices();
                let next: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                assert_eq!(next, left, "parts of {part}");
                let written = part.min(left.len());
                unsent.advance(written);
                left = &left[written..];
            }
            assert!(unsent.is_empty(), "parts of {part}");
        }
        assert!(Unsent::new(b"", &[]).is_empty());
    }

    #[test]
    fn a_body_of_many_pieces_needs_several_writes() {
        let pieces = vec![Bytes::from_static(b"x"); 2 * WRITE_PIECES];
        assert_eq!(Unsent::new(b"head", &pieces).slices().len(), WRITE_PIECES);
    }
}
