//! A replica of fixed delay for benchmarks: takes any body, always gives the same answer. Has no model and no metrics,
//! and spends as little as it can, for it shares the machine with what is measured.

use anyhow::{Context, Result};
use clap::Parser;
use http_body_util::BodyExt;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use service::respond::{self, Reply};
use service::wire::{Answer, Code, Prediction, ReadyBody, RequestError as Fault, Timing, header};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Answers every POST after the same delay, whatever it holds.
#[derive(Debug, Parser)]
struct Args {
    /// Address to serve on; port 0 picks a free one and prints it
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// From the end of a body to its answer, such as 5ms; 0 for at once
    #[arg(long, default_value = "5ms", value_parser = delay)]
    delay: Duration,
    /// Requests at once; more are refused
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    capacity: u32,
    /// Exit when standard input closes, that is, when the parent process ends
    #[arg(long)]
    exit_with_parent: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    service::descriptors::raise();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> Result<()> {
    let stub = Arc::new(Stub::new(args.capacity as usize, args.delay)?);
    let listener = service::server::listen(args.listen).await?;
    tokio::select! {
        failed = accept(listener, stub) => failed.context("accept"),
        told = service::shutdown::requested(args.exit_with_parent) => told.map(drop).context("wait for signals"),
    }
}

async fn accept(listener: TcpListener, stub: Arc<Stub>) -> std::io::Result<()> {
    loop {
        let (stream, _peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let stub = stub.clone();
        let service = service_fn(move |request| {
            let stub = stub.clone();
            async move { Ok::<_, Infallible>(stub.answer(request).await) }
        });
        // A client that leaves in the middle ends nothing but its own connection.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// What every answer needs.
struct Stub {
    answer: Reply,
    ready: Reply,
    pause: Option<Pause>,
}

impl Stub {
    fn new(capacity: usize, delay: Duration) -> Result<Self> {
        let prediction = Prediction { class_index: 7, label: "striped square".into(), confidence: 0.998 };
        let timing = Timing { inference: delay.as_secs_f64() * 1e3, ..Timing::default() };
        let answer = Answer::new(vec![prediction; 2], "stub", "stub", timing);
        let mut answer = respond::json(StatusCode::OK, &answer);
        answer.headers_mut().insert(header::CAPACITY, HeaderValue::from(capacity));
        let ready = respond::json(StatusCode::OK, &ReadyBody { ready: true, capacity: Some(capacity) });
        let pause = (!delay.is_zero()).then(|| Pause::start(delay, capacity)).transpose()?;
        Ok(Self { answer, ready, pause })
    }

    async fn answer(&self, request: Request<Incoming>) -> Reply {
        if request.method() == Method::GET {
            return self.ready.clone();
        }
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            if let Err(error) = frame {
                return respond::error(&Fault::new(Code::BadRequest, format!("the body ended early: {error}")), "");
            }
        }
        match &self.pause {
            Some(pause) if !pause.pass().await => respond::error(&Fault::new(Code::Busy, "at capacity"), ""),
            _ => self.answer.clone(),
        }
    }
}

/// Lets each request pass after the same time. A thread of its own, because tokio's timers round up to whole
/// milliseconds: with one request at a time, that would swallow what a proxy adds.
struct Pause {
    length: Duration,
    /// Bounded by the capacity, so that a full one means too many requests at once.
    waiting: mpsc::SyncSender<(Instant, oneshot::Sender<()>)>,
}

impl Pause {
    fn start(length: Duration, capacity: usize) -> std::io::Result<Self> {
        let (waiting, arrived) = mpsc::sync_channel::<(Instant, oneshot::Sender<()>)>(capacity);
        std::thread::Builder::new().name("pause".into()).spawn(move || {
            // All wait equally long, so the first to come is the first to go.
            for (due, request) in arrived {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                // Whoever has left in the meantime need not be told.
                let _left = request.send(());
            }
        })?;
        Ok(Self { length, waiting })
    }

    /// Whether there was room.
    async fn pass(&self) -> bool {
        let (sender, passed) = oneshot::channel();
        self.waiting.try_send((Instant::now() + self.length, sender)).is_ok() && passed.await.is_ok()
    }
}

fn delay(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { service::options::positive_duration(text) }
}
