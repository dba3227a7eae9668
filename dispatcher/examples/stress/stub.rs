//! Replicas of capacity 1 on loopback, with a thread of their own. They remember whom they served and when.

use anyhow::Result;
use bytes::Bytes;
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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What a request is to a stub.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// Takes so long.
    Takes(Duration),
    /// Waits until this is true.
    Gate(watch::Receiver<bool>),
}

/// One request that was worked on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Served {
    /// Its `x-request-id`, if that was a number.
    pub(crate) id: Option<u32>,
    /// Its head had come.
    pub(crate) since: Instant,
    /// It was done.
    pub(crate) until: Instant,
}

/// Stubs that go on until this process ends.
pub(crate) struct Stubs {
    /// Where they are.
    pub(crate) addresses: Vec<SocketAddr>,
    log: Arc<Log>,
}

#[derive(Debug, Default)]
struct Log {
    served: Mutex<Vec<Served>>,
    /// Came while another was being served.
    refused: AtomicU64,
}

impl Stubs {
    /// Starts `count` of them.
    ///
    /// # Errors
    /// When loopback has no ports left.
    pub(crate) fn start(count: usize, work: &Work) -> Result<Self> {
        let listeners = (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0"));
        let listeners = listeners.collect::<std::io::Result<Vec<_>>>()?;
        let addresses = listeners.iter().map(std::net::TcpListener::local_addr).collect::<std::io::Result<_>>()?;
        let log = Arc::new(Log::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for listener in listeners {
            listener.set_nonblocking(true)?;
            let stub = Arc::new(Stub::new(work.clone(), log.clone()));
            runtime.spawn(async move {
                let listener = TcpListener::from_std(listener).expect("it was made for this");
                while let Ok((stream, _peer)) = listener.accept().await {
                    // Without it, answers wait for a full packet; they come all the same.
                    let _slow = stream.set_nodelay(true);
                    tokio::spawn(serve(stream, stub.clone()));
                }
            });
        }
        std::thread::Builder::new()
            .name("stubs".into())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        Ok(Self { addresses, log })
    }

    /// What was served since the last call, in the order in which it was done.
    pub(crate) fn take_served(&self) -> Vec<Served> {
        std::mem::take(&mut self.log.served.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Requests beyond their capacity.
    pub(crate) fn refused(&self) -> u64 {
        self.log.refused.load(Ordering::Relaxed)
    }
}

async fn serve(stream: tokio::net::TcpStream, stub: Arc<Stub>) {
    let service = service_fn(move |request| {
        let stub = stub.clone();
        async move { Ok::<_, Infallible>(stub.answer(request).await) }
    });
    // A client that leaves in the middle ends nothing but its own connection.
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

struct Stub {
    work: Work,
    log: Arc<Log>,
    is_busy: AtomicBool,
    answer: Bytes,
}

/// A stub's only slot, taken by one request. Writes the log when it is given back.
struct Slot {
    stub: Arc<Stub>,
    id: Option<u32>,
    since: Instant,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let served = Served { id: self.id, since: self.since, until: Instant::now() };
        self.stub.log.served.lock().unwrap_or_else(PoisonError::into_inner).push(served);
        self.stub.is_busy.store(false, Ordering::Relaxed);
    }
}

impl Stub {
    fn new(work: Work, log: Arc<Log>) -> Self {
        let prediction = Prediction { class_index: 7, label: "striped square".into(), confidence: 0.998 };
        let answer = Answer::new(vec![prediction; 2], "stub", "stub", Timing::default());
        let answer = serde_json::to_vec(&answer).expect("the contract's types are finite").into();
        Self { work, log, is_busy: AtomicBool::new(false), answer }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Reply {
        if request.method() == Method::GET {
            return respond::json(StatusCode::OK, &ReadyBody { ready: true, capacity: Some(1) });
        }
        let since = Instant::now();
        if self.is_busy.swap(true, Ordering::Relaxed) {
            self.log.refused.fetch_add(1, Ordering::Relaxed);
            return respond::error(&Fault::new(Code::Busy, "at capacity"), "");
        }
        let id = request.headers().get(header::REQUEST_ID).and_then(|id| id.to_str().ok()?.parse().ok());
        let slot = Slot { stub: self.clone(), id, since };
        if let Err(error) = request.into_body().collect().await {
            return respond::error(&Fault::new(Code::BadRequest, format!("the body ended early: {error}")), "");
        }
        match &self.work {
            Work::Takes(length) => {
                let length = *length;
                // Not tokio's timers, which round up to whole milliseconds; and like a forward pass, it goes on and
                // keeps the slot when nobody waits any more.
                let work = tokio::task::spawn_blocking(move || {
                    std::thread::sleep(length);
                    drop(slot);
                });
                work.await.expect("sleep does not panic");
            }
            Work::Gate(open) => {
                // A gate whose owner has gone is open.
                let mut open = open.clone();
                let _gone = open.wait_for(|open| *open).await;
                drop(slot);
            }
        }
        let mut reply = respond::bytes(StatusCode::OK, "application/json", self.answer.clone());
        reply.headers_mut().insert(header::CAPACITY, HeaderValue::from_static("1"));
        reply
    }
}
