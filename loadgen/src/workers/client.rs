//! The coordinator's connections to one worker. Nothing that a worker sends can take unbounded memory or time.

use crate::workers::clock::{self, ClockExchange, ClockOffset};
use crate::workers::message::{
    CLOCK, ClockReading, JSON_TYPE, MAX_LINE_BYTES, MAX_MESSAGE_BYTES, RUN, START, STOP, Start, TASK_TYPE, WorkerLine,
};
use crate::workers::task::Task;
use crate::workers::token::Token;
use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use service::wire::ErrorBody;
use std::convert::Infallible;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpStream;

/// Longest time for opening a connection, and for the answer to a short message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time for sending a task, and for the worker's connection to the server.
const TASK_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Longest time between two lines of a worker. It sends one each second.
pub const LINE_TIMEOUT: Duration = Duration::from_secs(10);

/// Number of exchanges for one comparison of clocks.
const EXCHANGES: usize = 10;

/// Longest error message of a worker that is shown, in characters.
const MAX_ERROR_CHARS: usize = 1000;

type RequestBody = BoxBody<Bytes, Infallible>;

/// A worker, as the coordinator knows it.
#[derive(Clone)]
pub struct Worker {
    /// The worker's address, `host:port`.
    pub address: String,
    /// The token that the worker requires; `None` without `--workers-token-file`.
    pub token: Option<Token>,
}

/// A connection to a worker for one request after another.
struct Connection {
    sender: SendRequest<RequestBody>,
    worker: Worker,
}

/// The lines of a worker that has a task. Dropping them closes the connection, and the worker stops its load.
pub struct Lines {
    body: Incoming,
    /// Bytes that have arrived and belong to no line that was returned.
    buffer: BytesMut,
    /// Keeps the connection open.
    _connection: Connection,
}

impl Worker {
    /// Tests whether the worker can take a task of this version of loadgen now.
    ///
    /// # Errors
    /// If the worker cannot be reached, refuses the token, has another version, or has a task already.
    pub async fn check(&self) -> Result<()> {
        let reading = self.open().await?.clock().await?;
        let version = env!("CARGO_PKG_VERSION");
        ensure!(
            reading.version == version,
            "it is loadgen {}, and this is loadgen {version}; use the same version",
            printable(&reading.version)
        );
        ensure!(!reading.is_busy, "it sends another load already; wait for its end, or use another worker");
        Ok(())
    }

    /// Gives the worker its task, and waits until it is ready. `bodies` are the bodies of the task's payloads.
    ///
    /// # Errors
    /// If the worker refuses the task, cannot reach the server, or its answer is no such answer.
    pub async fn give(&self, task: &Task, bodies: Vec<Bytes>) -> Result<Lines> {
        let give = async {
            let mut connection = self.open().await?;
            let head = task.head();
            let length = head.len() + bodies.iter().map(Bytes::len).sum::<usize>();
            let frames = std::iter::once(head).chain(bodies).map(|bytes| Ok(Frame::data(bytes)));
            let mut request = connection.request(Method::POST, RUN, StreamBody::new(stream::iter(frames)).boxed());
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TASK_TYPE));
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
            let response = connection.sender.send_request(request).await.context("it closed the connection")?;
            let mut lines = Lines { body: accepted(response).await?, buffer: BytesMut::new(), _connection: connection };
            match lines.next().await? {
                WorkerLine::Ready => Ok(lines),
                WorkerLine::Failed(reason) => bail!("{}", printable(&reason)),
                _ => bail!("its answer to a task does not begin as that of a worker"),
            }
        };
        tokio::time::timeout(TASK_TIMEOUT, give).await.ok().context("it was not ready within 10 minutes")?
    }

    /// Compares the clock of the worker with the time since `epoch`.
    ///
    /// # Errors
    /// If the worker does not answer, or the times that it tells cannot be.
    pub async fn compare_clocks(&self, epoch: Instant) -> Result<ClockOffset> {
        let mut connection = self.open().await?;
        let mut exchanges = Vec::with_capacity(EXCHANGES);
        for _ in 0..EXCHANGES {
            let sent = epoch.elapsed();
            let reading = connection.clock().await?;
            exchanges.push(ClockExchange {
                sent,
                received: epoch.elapsed(),
                received_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
                monotonic: Duration::from_micros(reading.monotonic_us),
                system: Duration::from_micros(reading.system_us),
            });
        }
        clock::compare(&exchanges).context("no clock was compared")
    }

    /// Starts the load when the worker's clock reads `start_us`.
    ///
    /// # Errors
    /// If the worker does not answer or refuses, for instance since this time has passed.
    pub async fn start(&self, start_us: u64) -> Result<()> {
        let body = serde_json::to_vec(&Start { start_us }).context("write the start as JSON")?;
        self.open().await?.message(Method::POST, START, body.into()).await.map(drop)
    }

    /// Stops the load.
    ///
    /// # Errors
    /// If the worker does not answer, or has no task any more.
    pub async fn stop(&self) -> Result<()> {
        self.open().await?.message(Method::POST, STOP, Bytes::new()).await.map(drop)
    }

    /// Opens a connection.
    async fn open(&self) -> Result<Connection> {
        let open = async {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            anyhow::Ok(stream)
        };
        let stream = tokio::time::timeout(MESSAGE_TIMEOUT, open).await.ok().context("no connection within 5 s")?;
        let stream = stream.context("no connection; does `loadgen worker` run there?")?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.context("no connection")?;
        // An error of the driver is an error of the request, too.
        tokio::spawn(async move { drop(driver.await) });
        Ok(Connection { sender, worker: self.clone() })
    }
}

impl Connection {
    fn request(&self, method: Method, path: &str, body: RequestBody) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("the paths of a worker are valid");
        let host = HeaderValue::from_str(&self.worker.address).expect("an address has only characters of a header");
        request.headers_mut().insert(HOST, host);
        if let Some(token) = &self.worker.token {
            token.add_to(request.headers_mut());
        }
        request
    }

    /// Sends a message, and returns the body of the answer.
    async fn message(&mut self, method: Method, path: &str, body: Bytes) -> Result<Bytes> {
        let mut request = self.request(method, path, Full::new(body).boxed());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON_TYPE));
        let answer = async {
            let response = self.sender.send_request(request).await.context("it closed the connection")?;
            whole(accepted(response).await?).await
        };
        tokio::time::timeout(MESSAGE_TIMEOUT, answer).await.ok().context("it did not answer within 5 s")?
    }

    async fn clock(&mut self) -> Result<ClockReading> {
        let body = self.message(Method::GET, CLOCK, Bytes::new()).await?;
        serde_json::from_slice(&body).context("its clock is no clock of a worker; does another program listen there?")
    }
}

impl Lines {
    /// The next line.
    ///
    /// # Errors
    /// If no line comes within [`LINE_TIMEOUT`], the connection ends, or the line is too long or no line of a worker.
    pub async fn next(&mut self) -> Result<WorkerLine> {
        let mut searched = 0;
        let end = loop {
            if let Some(end) = self.buffer[searched..].iter().position(|&byte| byte == b'\n') {
                break searched + end;
            }
            searched = self.buffer.len();
            ensure!(searched <= MAX_LINE_BYTES, "it sent a line of more than {} MiB", MAX_LINE_BYTES >> 20);
            let frame = tokio::time::timeout(LINE_TIMEOUT, self.body.frame()).await;
            let frame = frame.ok().with_context(|| format!("it sent nothing for {} s", LINE_TIMEOUT.as_secs()))?;
            let frame = frame.context("it ended its answer without a result")?;
            let frame = frame.context("it closed the connection")?;
            self.buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
        };
        let line = self.buffer.split_to(end + 1);
        serde_json::from_slice(&line).context("it sent a line that is not one of a worker")
    }
}

/// The body of an answer with status 200.
///
/// # Errors
/// If the status is another; the message is that of the answer.
async fn accepted(response: Response<Incoming>) -> Result<Incoming> {
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(response.into_body());
    }
    let body = tokio::time::timeout(MESSAGE_TIMEOUT, whole(response.into_body())).await;
    let body = body.ok().context("it did not answer within 5 s")??;
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(ErrorBody { error, .. }) => bail!("it refused ({}): {}", status.as_u16(), printable(&error)),
        Err(_) => bail!("it answered {}; does another program listen there?", status.as_u16()),
    }
}

/// A whole short body.
async fn whole(body: Incoming) -> Result<Bytes> {
    let body = Limited::new(body, MAX_MESSAGE_BYTES).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("its answer is too long or not complete: {error}"))?;
    Ok(body.to_bytes())
}

/// The beginning of a worker's text, without control characters, which could send commands to a terminal.
pub fn printable(text: &str) -> String {
    let replace = |character: char| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character };
    text.chars().take(MAX_ERROR_CHARS).map(replace).collect()
}
