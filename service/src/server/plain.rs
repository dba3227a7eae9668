//! Serves the plain requests of an HTTP/1.1 connection without hyper, whose server takes many instructions. Reads each body
//! into a block of its length. Leaves every other request to hyper, with all bytes that were read: one that is not plain,
//! that the program would refuse, or whose body is long or slow. hyper then serves the connection to its end.

use super::activity::Activity;
use super::answer::OpenRequest;
use super::plain_answer::{PlainAnswer, UnsentAnswer};
use super::plain_head::{MAX_HEADERS, PlainHead};
use super::stream::{GuardedStream, Resettable};
use crate::blocks;
use crate::body::{BodyLimits, Chunks, REQUEST_BYTES};
use crate::memory_budget::{MemoryBudget, Reservation};
use bytes::{Buf, BufMut};
use futures_util::future::BoxFuture;
use std::io::{ErrorKind, Result};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// The most bytes that are read at once before the length of a body is known. A usual head and a short body fit. The
/// next request of a client that does not wait for its answer may be among them.
const READ_BYTES: usize = 8 << 10;

/// The bytes of the next request that may be read ahead of the present answer.
const AHEAD_BYTES: usize = 4 << 10;

/// A body that has not arrived whole after this time goes to hyper. The time limits for slow bodies are there.
const SLOW_BODY: Duration = Duration::from_millis(200);

/// The most bytes of a body. A longer one costs so much more than its head that hyper's share does not matter. A usual
/// head has room in the same block.
const LONGEST_BODY: u64 = 240 << 10;

/// The most bytes by which the block of a body may exceed the body and its head.
const MAX_SURPLUS: usize = 8 << 10;

/// Answers plain requests.
pub trait PlainRequests: Send + Sync {
    /// The limits of one body.
    fn limits(&self) -> &BodyLimits;

    /// Checks the head of a request that has `arrived`. Returns `None` if the program refuses the request or does not
    /// know its path. hyper then gets the request, and the program refuses it as any other. Counts nothing, because hyper
    /// gets a request with a slow body after all.
    fn check(&self, head: &PlainHead<'_>, arrived: Instant) -> Option<TakenRequest>;
}

/// A request whose head was checked.
pub struct TakenRequest {
    /// The bytes of the head that the request keeps.
    pub kept_bytes: usize,
    /// The memory that the request shares with others.
    pub memory_budget: MemoryBudget,
    /// Answers the request once its body has arrived.
    pub answer: Answer,
}

/// A function that answers a request with this body, which had arrived whole at this instant.
pub type Answer = Box<dyn FnOnce(Chunks, Instant) -> Answering + Send>;

/// An answer on its way.
pub struct Answering {
    /// The answer.
    pub answer: BoxFuture<'static, PlainAnswer>,
    /// The connection polls `answer` at this instant, if not before.
    pub deadline: Instant,
}

/// A connection while all its requests are plain. As a future, it ends with the connection, or when hyper has to serve
/// the rest ([`PlainConnection::into_rest`]).
pub(super) struct PlainConnection<S: Resettable> {
    stream: GuardedStream<S>,
    activity: Arc<Activity>,
    requests: Arc<dyn PlainRequests>,
    max_head_bytes: usize,
    /// The bytes that follow the present request.
    ahead: Vec<u8>,
    /// The memory of more than [`AHEAD_BYTES`] of these, which hyper gets.
    ahead_memory: Option<Reservation>,
    /// The bytes of the last request. The next one probably has about as many.
    usual_bytes: usize,
    state: State,
    /// Whether the connection closes after the present answer.
    is_ending: bool,
    /// Whether the connection closes at once, because there is no memory for what the client has sent ahead.
    is_refused: bool,
    timer: Option<Timer>,
    /// The arrival of the head that hyper will read again; `None` if its body has not begun.
    arrived: Option<Instant>,
}

/// The arrival of the head of a request, as an extension of the request. It is there if the server had begun to read the
/// body before hyper saw the request.
#[derive(Debug, Clone, Copy)]
pub struct HeadArrived(pub Instant);

/// What hyper serves of a connection.
pub(super) struct Rest<S: Resettable> {
    /// The stream with all bytes that were read of requests that are not yet answered.
    pub(super) stream: GuardedStream<S>,
    /// The arrival of the first of these requests; `None` if its body has not begun.
    pub(super) arrived: Option<HeadArrived>,
    /// The memory of the bytes that the client has sent far ahead, which is held until the connection ends.
    pub(super) ahead_memory: Option<Reservation>,
}

/// The state of a connection.
enum State {
    /// Before the next head.
    Idle,
    /// A part of a body has arrived. Boxed, so that other connections need no memory for it.
    Body(Box<ArrivingBody>),
    Answering(OpenRequest, Answering),
    Writing(UnsentAnswer),
    /// All answers are sent, and the stream is closed.
    Closing,
    /// hyper serves the rest.
    Left,
}

/// The timer of a connection. It often rings too early, because it is moved only if it would ring too late: moving it for
/// every request would cost more.
struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// Whether the connection's task is woken when it rings.
    is_watched: bool,
}

impl Timer {
    fn new(at: Instant) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(at.into())), is_watched: false }
    }

    /// Whether the instant `at` has passed. If not, the task is woken then at the latest.
    fn is_past(&mut self, at: Instant, context: &mut Context<'_>) -> bool {
        loop {
            let is_late = self.sleep.deadline().into_std() > at;
            if self.is_watched && !is_late && !self.sleep.is_elapsed() {
                return false;
            }
            if is_late {
                self.sleep.as_mut().reset(at.into());
            }
            self.is_watched = true;
            if self.sleep.as_mut().poll(context).is_pending() {
                return false;
            }
            if Instant::now() >= at {
                return true;
            }
            self.sleep.as_mut().reset(at.into());
        }
    }
}

/// A request whose head has arrived.
struct BegunRequest {
    request: OpenRequest,
    answer: Answer,
    head_length: usize,
    /// The length of the body.
    length: usize,
    memory: Reservation,
    /// The bytes that count besides the body.
    other_bytes: usize,
    begun: Instant,
}

/// A body of which a part has arrived.
struct ArrivingBody {
    request: BegunRequest,
    /// The bytes that have arrived: perhaps the head, then the body, and perhaps the beginning of the next request.
    block: Vec<u8>,
    /// The index of the body in `block`.
    start: usize,
}

impl ArrivingBody {
    /// The index after the body in `block`.
    fn end(&self) -> usize {
        self.start + self.request.length
    }

    fn is_whole(&self) -> bool {
        self.block.len() >= self.end()
    }
}

impl<S: AsyncRead + AsyncWrite + Resettable + Unpin> PlainConnection<S> {
    /// Serves `stream`, whose first bytes may have been read. A head may have `max_head_bytes`.
    pub(super) fn new(
        mut stream: GuardedStream<S>,
        activity: Arc<Activity>,
        requests: Arc<dyn PlainRequests>,
        max_head_bytes: usize,
    ) -> Self {
        let ahead = stream.take_read();
        Self {
            stream,
            activity,
            requests,
            max_head_bytes,
            ahead,
            usual_bytes: 0,
            state: State::Idle,
            ahead_memory: None,
            is_ending: false,
            is_refused: false,
            timer: None,
            arrived: None,
        }
    }

    /// Closes the connection after the present answer.
    pub(super) fn end(mut self: Pin<&mut Self>) {
        self.is_ending = true;
    }

    /// What hyper has to serve; `None` if the connection is closed.
    ///
    /// # Errors
    /// If heads of other connections use all memory for incomplete heads.
    pub(super) fn into_rest(mut self) -> Result<Option<Rest<S>>> {
        let State::Left = self.state else { return Ok(None) };
        self.stream.give_back(self.ahead)?;
        let (arrived, ahead_memory) = (self.arrived.map(HeadArrived), self.ahead_memory);
        Ok(Some(Rest { stream: self.stream, arrived, ahead_memory }))
    }

    /// Leaves a request to hyper, a part of whose body has arrived.
    fn leave_body(&mut self, body: ArrivingBody) -> State {
        self.arrived = Some(body.request.begun);
        self.leave(body.block)
    }

    /// Leaves the connection to hyper, which reads `bytes` first.
    fn leave(&mut self, bytes: Vec<u8>) -> State {
        self.ahead = bytes;
        State::Left
    }

    /// Waits for the next head.
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<State>> {
        if !self.ahead.is_empty() {
            let ahead = std::mem::take(&mut self.ahead);
            return Poll::Ready(Ok(self.begin(&ahead)));
        }
        if self.usual_bytes > READ_BYTES {
            // One byte more, so that a read of the whole request does not fill the block. After a read that fills its
            // memory, the runtime would try another one.
            let mut block = blocks::take(self.usual_bytes + 1);
            return match pin!(self.stream.get_mut().read_buf(&mut block)).poll(context)? {
                Poll::Pending => {
                    blocks::give_back(block);
                    Poll::Pending
                }
                Poll::Ready(_count) => Poll::Ready(Ok(self.begin_in(block))),
            };
        }
        // The memory is on the stack and is not initialised, so that it costs nothing.
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(self.stream.get_mut()).poll_read(context, &mut buffer))?;
        Poll::Ready(Ok(self.begin(buffer.filled())))
    }

    /// Begins the request at the start of `bytes`, or leaves it to hyper. Without bytes, the client has closed the
    /// connection, and hyper ends it.
    fn begin(&mut self, bytes: &[u8]) -> State {
        match self.take_request(bytes) {
            Some(request) => self.begin_body(request, bytes),
            None if self.is_refused => State::Closing,
            None => self.leave(bytes.to_vec()),
        }
    }

    /// Like [`PlainConnection::begin`], for bytes in a block.
    fn begin_in(&mut self, block: Vec<u8>) -> State {
        let Some(request) = self.take_request(&block) else {
            return if self.is_refused { State::Closing } else { self.leave(block) };
        };
        let needed = request.head_length + request.length;
        // A body would otherwise hold the block of a longer one, which is more than is counted, and a longer body has no
        // room in it.
        if block.capacity() <= needed || block.capacity() - needed > MAX_SURPLUS {
            let begun = self.begin_body(request, &block);
            blocks::give_back(block);
            return begun;
        }
        let body = ArrivingBody { start: request.head_length, request, block };
        if body.is_whole() { self.answer(body) } else { State::Body(body.into()) }
    }

    /// Copies the body that begins in `bytes`, which begin with the head.
    fn begin_body(&mut self, request: BegunRequest, bytes: &[u8]) -> State {
        let end = request.head_length + request.length;
        if let Some((whole, next)) = bytes.split_at_checked(end) {
            self.ahead = next.to_vec();
            let mut block = blocks::take(request.length);
            block.extend_from_slice(&whole[request.head_length..]);
            return self.answer(ArrivingBody { request, block, start: 0 });
        }
        let mut block = blocks::take(end + 1);
        block.extend_from_slice(bytes);
        State::Body(ArrivingBody { start: request.head_length, request, block }.into())
    }

    /// The request at the start of `bytes`; `None` if hyper has to serve it.
    fn take_request(&mut self, bytes: &[u8]) -> Option<BegunRequest> {
        let mut space = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let head = PlainHead::parse(bytes, &mut space)?;
        let limits = self.requests.limits();
        let is_long = head.length > self.max_head_bytes
            || head.body_length > LONGEST_BODY
            || head.body_length > limits.max_bytes as u64;
        // hyper tells the client that the connection closes.
        if is_long || self.is_last() {
            return None;
        }
        let begun = Instant::now();
        let (head_length, length) = (head.length, head.body_length as usize);
        let TakenRequest { kept_bytes, memory_budget, answer } = self.requests.check(&head, begun)?;
        let ahead = bytes.len().saturating_sub(head_length + length);
        if ahead > AHEAD_BYTES {
            // hyper copies none of these bytes. They are held until the connection ends.
            let mut memory = Reservation::empty(memory_budget);
            self.is_refused = !memory.grow(ahead);
            self.ahead_memory = Some(memory);
            return None;
        }
        let mut memory = Reservation::empty(memory_budget);
        let other_bytes = REQUEST_BYTES + kept_bytes;
        if !memory.grow(other_bytes + (bytes.len() - head_length).min(length)) {
            return None;
        }
        self.usual_bytes = head_length + length;
        let request = OpenRequest::begin_plain(self.activity.clone());
        Some(BegunRequest { request, answer, head_length, length, memory, other_bytes, begun })
    }

    /// Whether the next answer is the last one of the connection.
    fn is_last(&self) -> bool {
        self.is_ending || self.activity.is_aged() || self.requests.limits().readiness.is_draining()
    }

    /// Answers a request whose body is whole.
    fn answer(&mut self, mut body: ArrivingBody) -> State {
        let end = body.end();
        if body.block.len() > end {
            self.ahead = body.block.split_off(end);
        }
        let ArrivingBody { request, block, start } = body;
        let BegunRequest { request, answer, mut memory, other_bytes, begun, .. } = request;
        // The block is what is held. The difference is small, so that a request with a whole body is not refused for it.
        let _no_room = memory.resize(other_bytes + block.capacity());
        let mut body = blocks::freeze(block);
        body.advance(start);
        // A body that came with its head had arrived then.
        let arrived = if start == 0 { begun } else { Instant::now() };
        State::Answering(request, answer(Chunks::whole(body, memory), arrived))
    }

    /// Reads the rest of a body.
    fn poll_body(&mut self, context: &mut Context<'_>, mut body: Box<ArrivingBody>) -> (Poll<Result<()>>, State) {
        let slow = SLOW_BODY.min(self.requests.limits().timeout);
        loop {
            let missing = body.end() - body.block.len();
            let room = (body.block.capacity() - body.block.len()).min(missing + AHEAD_BYTES);
            let mut limited = (&mut body.block).limit(room);
            match pin!(self.stream.get_mut().read_buf(&mut limited)).poll(context) {
                Poll::Pending if self.is_past(body.request.begun + slow, context) => {
                    return (Poll::Ready(Ok(())), self.leave_body(*body));
                }
                Poll::Pending => return (Poll::Pending, State::Body(body)),
                // hyper meets the error, too, and the program records the request.
                Poll::Ready(Err(_)) => return (Poll::Ready(Ok(())), self.leave_body(*body)),
                Poll::Ready(Ok(count)) => {
                    let arrived = body.block.len().min(body.end()) - body.start;
                    let held = body.request.other_bytes + arrived;
                    if count == 0 || !body.request.memory.resize(held) {
                        return (Poll::Ready(Ok(())), self.leave_body(*body));
                    }
                    if body.is_whole() {
                        return (Poll::Ready(Ok(())), self.answer(*body));
                    }
                }
            }
        }
    }

    /// Whether the instant `at` has passed. If not, the task is woken then at the latest.
    fn is_past(&mut self, at: Instant, context: &mut Context<'_>) -> bool {
        self.timer.get_or_insert_with(|| Timer::new(at)).is_past(at, context)
    }

    /// Finds out whether the client has left while its request is answered. Like hyper, reads no more than a part of the
    /// next request. Returns false if the client has left.
    fn poll_ahead(&mut self, context: &mut Context<'_>) -> bool {
        if !self.ahead.is_empty() {
            return true;
        }
        let mut space = [const { MaybeUninit::uninit() }; AHEAD_BYTES];
        let mut buffer = ReadBuf::uninit(&mut space);
        match Pin::new(self.stream.get_mut()).poll_read(context, &mut buffer) {
            Poll::Pending => true,
            Poll::Ready(read) => {
                self.ahead.extend_from_slice(buffer.filled());
                read.is_ok() && !self.ahead.is_empty()
            }
        }
    }

    fn poll_answer(&mut self, context: &mut Context<'_>, unsent: &mut UnsentAnswer) -> Poll<Result<()>> {
        while !unsent.is_sent() {
            let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, &unsent.slices()))?;
            if written == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            unsent.advance(written);
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// The state after an answer was sent.
    fn after_answer(&mut self) -> State {
        if !self.is_ending {
            return State::Idle;
        }
        // The client sends its next request elsewhere, since the answer has told it that the connection closes.
        if !self.ahead.is_empty() {
            self.stream.note_surplus();
        }
        State::Closing
    }
}

impl<S: AsyncRead + AsyncWrite + Resettable + Unpin> Future for PlainConnection<S> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        loop {
            let polled;
            (polled, this.state) = match std::mem::replace(&mut this.state, State::Idle) {
                State::Idle if this.is_ending => (Poll::Ready(Ok(())), State::Closing),
                State::Idle => match this.poll_head(context) {
                    Poll::Pending => (Poll::Pending, State::Idle),
                    Poll::Ready(Ok(next)) => (Poll::Ready(Ok(())), next),
                    Poll::Ready(Err(error)) => (Poll::Ready(Err(error)), State::Closing),
                },
                State::Body(body) => this.poll_body(context, body),
                State::Answering(request, mut answering) => match answering.answer.as_mut().poll(context) {
                    Poll::Ready(answer) => {
                        this.is_ending = this.is_last();
                        let unsent = answer.finish(this.is_ending);
                        drop(request);
                        (Poll::Ready(Ok(())), State::Writing(unsent))
                    }
                    Poll::Pending if this.poll_ahead(context) => {
                        if this.is_past(answering.deadline, context) {
                            context.waker().wake_by_ref();
                        }
                        (Poll::Pending, State::Answering(request, answering))
                    }
                    // hyper ends the connection.
                    Poll::Pending => (Poll::Ready(Ok(())), this.leave(Vec::new())),
                },
                State::Writing(mut unsent) => match this.poll_answer(context, &mut unsent) {
                    Poll::Pending => (Poll::Pending, State::Writing(unsent)),
                    written => (written, this.after_answer()),
                },
                State::Closing => (Pin::new(&mut this.stream).poll_shutdown(context), State::Closing),
                State::Left => (Poll::Ready(Ok(())), State::Left),
            };
            let is_over = match this.state {
                State::Left => true,
                State::Closing => this.activity.is_closed(),
                _ => false,
            };
            match polled {
                Poll::Ready(Ok(())) if !is_over => {}
                polled => return polled,
            }
        }
    }
}
