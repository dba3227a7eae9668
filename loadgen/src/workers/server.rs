//! The server of `loadgen worker`: HTTP/1.1 with four paths. It has one task at a time.

use crate::config::workers::WorkerArgs;
use crate::workers::execution::PreparedTask;
use crate::workers::message::{CLOCK, ClockReading, JSON_TYPE, MAX_MESSAGE_BYTES, RUN, START, STOP, Start, TASK_TYPE};
use crate::workers::task::{self, ReceivedTask};
use crate::workers::token::Token;
use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use service::wire::ErrorBody;
use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::LocalSet;

/// Largest number of connections. Coordinators need two.
const MAX_CONNECTIONS: usize = 64;

/// Longest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Time in which the head of a request must arrive, also on an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time without a byte of a body.
const BODY_STALL: Duration = Duration::from_secs(15);

/// Longest time for a whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Time after which a connection ends whose peer does not acknowledge what was sent: its machine is gone.
#[cfg(target_os = "linux")]
const PEER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time from a start message to the start.
const MAX_AHEAD: Duration = Duration::from_secs(60);

/// Number of lines that wait for the coordinator.
const WAITING_LINES: usize = 16;

/// Longest wait for the end of the load and of all answers after a signal.
const END_GRACE: Duration = Duration::from_secs(10);

/// Pause after a failed accept, which fails for instance when no file descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Reply = Response<BoxBody<Bytes, Infallible>>;

/// A refused request: its status, and the reason.
type Refusal = (StatusCode, String);

/// Serves tasks until `stop` resolves. A load that goes on then is stopped, and its figures so far are sent.
///
/// # Errors
/// If a token is required and missing, its file cannot be read, or the address cannot be listened on.
pub async fn serve(args: &WorkerArgs, stop: impl Future<Output = ()>) -> Result<()> {
    let token = args.token_file.as_deref().map(Token::read).transpose()?;
    ensure!(
        token.is_some() || args.listen.ip().is_loopback(),
        "other machines can reach {}, and could make this one send any load; give --token-file FILE, or listen on a \
         loopback address such as 127.0.0.1:5060",
        args.listen
    );
    let listener = service::server::listen(args.listen).await?;
    LocalSet::new().run_until(WorkerServer::new(token).serve_on(listener, stop)).await;
    Ok(())
}

/// The state that all connections share.
struct WorkerServer {
    /// The origin of the worker's clock.
    epoch: Instant,
    token: Option<Token>,
    /// The place for a task.
    place: Arc<Semaphore>,
    /// The means to start and to stop the task; `None` without a task that is ready.
    control: RefCell<Option<Control>>,
    /// Whether the worker ends.
    is_ending: watch::Sender<bool>,
}

/// The means to start and to stop a task.
struct Control {
    start: Option<oneshot::Sender<Instant>>,
    stop: watch::Sender<bool>,
}

impl WorkerServer {
    fn new(token: Option<Token>) -> Rc<Self> {
        Rc::new(Self {
            epoch: Instant::now(),
            token,
            place: Arc::new(Semaphore::new(1)),
            control: RefCell::new(None),
            is_ending: watch::Sender::new(false),
        })
    }

    async fn serve_on(self: Rc<Self>, listener: TcpListener, stop: impl Future<Output = ()>) {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut stop = pin!(stop);
        loop {
            let accept = async {
                let permit = connections.clone().acquire_owned().await.expect("the semaphore is never closed");
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                accepted = accept => accepted,
                () = &mut stop => break,
            };
            match accepted {
                Ok((stream, _peer)) => drop(tokio::task::spawn_local(self.clone().serve_connection(stream, permit))),
                Err(error) => {
                    eprintln!("cannot accept a connection: {error}; if too many files are open, raise the limit");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        self.is_ending.send_replace(true);
        if let Some(control) = &*self.control.borrow() {
            control.stop.send_replace(true);
        }
        // The time may end first, if a client takes no answers.
        let _ended = tokio::time::timeout(END_GRACE, connections.acquire_many(MAX_CONNECTIONS as u32)).await;
    }

    async fn serve_connection(self: Rc<Self>, stream: TcpStream, _permit: OwnedSemaphorePermit) {
        // Without these options, an answer may be late, and the end of a coordinator's machine is noticed late.
        let _set = stream.set_nodelay(true).and_then(|()| limit_silence(&stream));
        let server = self.clone();
        let service = service_fn(move |request| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let mut is_ending = self.is_ending.subscribe();
        // An error means that the client has left or does not use HTTP.
        let _closed = tokio::select! {
            closed = connection.as_mut() => closed,
            _ending = is_ending.wait_for(|ending| *ending) => {
                connection.as_mut().graceful_shutdown();
                connection.as_mut().await
            }
        };
    }

    async fn answer(self: Rc<Self>, request: Request<Incoming>) -> Reply {
        if self.token.as_ref().is_some_and(|token| !token.is_in(request.headers())) {
            let message = "the token is missing or wrong; give the worker's token with --workers-token-file";
            let mut reply = refuse((StatusCode::UNAUTHORIZED, message.into()));
            reply.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return reply;
        }
        let answer = match (request.method(), request.uri().path()) {
            (&Method::GET, CLOCK) => Ok(json(StatusCode::OK, &self.clock())),
            (&Method::POST, RUN) => self.run(request).await,
            (&Method::POST, START) => self.start(request).await,
            (&Method::POST, STOP) => self.stop(&request),
            (_, CLOCK | RUN | START | STOP) => {
                Err((StatusCode::METHOD_NOT_ALLOWED, "/clock takes GET, the other paths take POST".into()))
            }
            _ => Err((StatusCode::NOT_FOUND, "the paths of a worker are /clock, /run, /start and /stop".into())),
        };
        answer.unwrap_or_else(refuse)
    }

    fn clock(&self) -> ClockReading {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        ClockReading {
            version: env!("CARGO_PKG_VERSION").into(),
            is_busy: self.place.available_permits() == 0,
            monotonic_us: self.epoch.elapsed().as_micros() as u64,
            system_us: system.as_micros() as u64,
        }
    }

    /// Takes a task, and answers with its lines.
    async fn run(self: Rc<Self>, request: Request<Incoming>) -> Result<Reply, Refusal> {
        require_type(&request, TASK_TYPE)?;
        let busy = "the worker has a task already; wait for its end, or use another worker";
        let place = self.place.clone().try_acquire_owned().map_err(|_| (StatusCode::CONFLICT, busy.to_owned()))?;
        let bytes = read_body(request, task::MAX_BYTES).await?;
        let bad = |error: anyhow::Error| (StatusCode::BAD_REQUEST, format!("{error:#}"));
        let received = ReceivedTask::read(&bytes).map_err(bad)?;
        if self.token.is_none() && received.args.target.has_files() {
            // Any program of this machine could have the worker send the content of a file to a server of its own.
            let message = "a flag of the run names a file, and a worker reads files only if it has a --token-file";
            return Err((StatusCode::FORBIDDEN, message.into()));
        }
        let task = PreparedTask::new(received).await.map_err(bad)?;
        let (lines, body) = mpsc::channel(WAITING_LINES);
        let (start, started) = oneshot::channel();
        let stop = watch::Sender::new(*self.is_ending.borrow());
        let stopped = stop.subscribe();
        *self.control.borrow_mut() = Some(Control { start: Some(start), stop });
        let server = self.clone();
        tokio::task::spawn_local(async move {
            task.execute(lines, started, stopped).await;
            *server.control.borrow_mut() = None;
            drop(place);
        });
        Ok(reply(StatusCode::OK, "application/x-ndjson", Lines(body).boxed()))
    }

    /// Starts the load at the time in the body.
    async fn start(&self, request: Request<Incoming>) -> Result<Reply, Refusal> {
        require_type(&request, JSON_TYPE)?;
        let body = read_body(request, MAX_MESSAGE_BYTES).await?;
        let bad = |message: String| (StatusCode::BAD_REQUEST, message);
        let Start { start_us } = serde_json::from_slice(&body).map_err(|error| bad(format!("the start: {error}")))?;
        let now = Instant::now();
        let start = self.epoch.checked_add(Duration::from_micros(start_us));
        let start = start.filter(|&start| start >= now && start <= now + MAX_AHEAD);
        let outside =
            || bad(format!("the start is not within the next {} s on this worker's clock", MAX_AHEAD.as_secs()));
        let start = start.ok_or_else(outside)?;
        let sender = self.control.borrow_mut().as_mut().and_then(|control| control.start.take());
        let sender = sender.ok_or((StatusCode::CONFLICT, "no task waits for its start".to_owned()))?;
        // The task may have ended meanwhile; its last line says so.
        let _sent = sender.send(start);
        Ok(json(StatusCode::OK, &serde_json::json!({})))
    }

    /// Stops the load.
    fn stop(&self, request: &Request<Incoming>) -> Result<Reply, Refusal> {
        require_type(request, JSON_TYPE)?;
        match &*self.control.borrow() {
            Some(control) => control.stop.send_replace(true),
            None => return Err((StatusCode::CONFLICT, "the worker has no task".into())),
        };
        Ok(json(StatusCode::OK, &serde_json::json!({})))
    }
}

/// Ends a connection whose peer does not acknowledge bytes for [`PEER_TIMEOUT`].
#[cfg(target_os = "linux")]
fn limit_silence(stream: &TcpStream) -> std::io::Result<()> {
    Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, PEER_TIMEOUT.as_millis() as u32)?)
}

/// Other systems end such a connection after some minutes.
#[cfg(not(target_os = "linux"))]
fn limit_silence(_stream: &TcpStream) -> std::io::Result<()> {
    Ok(())
}

/// Requires the media type of a body. A page in a browser cannot send the types of this server to another site without
/// its consent, which a worker never gives.
fn require_type(request: &Request<Incoming>, media_type: &str) -> Result<(), Refusal> {
    if request.headers().get(CONTENT_TYPE).is_some_and(|given| given == media_type) {
        Ok(())
    } else {
        Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("the content type must be {media_type}")))
    }
}

/// Reads a body, whose length the head must say.
async fn read_body(request: Request<Incoming>, limit: usize) -> Result<Bytes, Refusal> {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let length = length.ok_or((StatusCode::LENGTH_REQUIRED, "the header content-length is missing".to_owned()))?;
    if length > limit {
        return Err((StatusCode::PAYLOAD_TOO_LARGE, format!("the body has {length} bytes; the limit is {limit}")));
    }
    let mut body = request.into_body();
    let read = async {
        // The system provides the memory only as the bytes arrive.
        let mut bytes = BytesMut::with_capacity(length);
        while let Some(frame) =
            tokio::time::timeout(BODY_STALL, body.frame()).await.ok().context("the body has stalled")?
        {
            if let Ok(data) = frame.context("the body is not complete")?.into_data() {
                bytes.extend_from_slice(&data);
            }
        }
        Ok::<_, anyhow::Error>(bytes.freeze())
    };
    match tokio::time::timeout(BODY_TIMEOUT, read).await.ok().context("the body took too long").flatten() {
        Ok(bytes) => Ok(bytes),
        Err(error) => Err((StatusCode::REQUEST_TIMEOUT, format!("{error:#}"))),
    }
}

fn reply(status: StatusCode, content_type: &'static str, body: BoxBody<Bytes, Infallible>) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

fn json(status: StatusCode, body: &impl serde::Serialize) -> Reply {
    let body = serde_json::to_vec(body).expect("every map in a body has strings for keys");
    reply(status, JSON_TYPE, Full::new(Bytes::from(body)).boxed())
}

fn refuse((status, message): Refusal) -> Reply {
    let code = status.canonical_reason().unwrap_or_default().to_lowercase().replace(' ', "_");
    let error = message.chars().take(1000).collect();
    json(status, &ErrorBody { success: false, code, error, request_id: String::new() })
}

/// The body of the answer to a task: its lines. The channel tells the task when the connection has closed.
struct Lines(mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
