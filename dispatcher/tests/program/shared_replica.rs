//! A replica that several dispatchers share. It has the slots of the real one, with claims and grants, and computes no
//! images: it works for a fixed time on one request after the other.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use service::respond::{self, Reply};
use service::server;
use service::slot_channel;
use service::wire::{Answer, Code, Prediction, ReadyBody, RequestError, Timing, header};
use slots::{SlotClient, Slots};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, oneshot};

/// A replica that several dispatchers share.
pub(crate) struct SharedReplica {
    /// The address that the replica listens on, `host:port`.
    pub(crate) address: String,
    state: Arc<State>,
    /// Dropping this sender stops the replica.
    _stop: oneshot::Sender<()>,
}

struct State {
    slots: Slots,
    time: Duration,
    worker: Mutex<()>,
    attempts: AtomicUsize,
    busy: AtomicUsize,
    /// The time for which the replica has worked.
    worked: std::sync::Mutex<Duration>,
}

impl SharedReplica {
    /// Starts a replica with `capacity` slots that works for `time` on each request.
    pub(crate) async fn start(capacity: usize, time: Duration) -> Self {
        let listener = server::listen("127.0.0.1:0".parse().expect("an address")).await.expect("a free port");
        let address = listener.local_addr().expect("it listens").to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let state = Arc::new(State {
            slots: Slots::new(capacity),
            time,
            worker: Mutex::default(),
            attempts: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            worked: std::sync::Mutex::default(),
        });
        let shared = state.clone();
        let handle = move |request| answer(request, shared.clone());
        tokio::spawn(server::serve(listener, None, handle, async { drop(stopped.await) }, Duration::from_secs(1)));
        Self { address, state, _stop: stop }
    }

    /// The number of requests that the replica has received, and of those that found no free slot.
    pub(crate) fn attempts(&self) -> (usize, usize) {
        (self.state.attempts.load(Ordering::SeqCst), self.state.busy.load(Ordering::SeqCst))
    }

    /// The time for which the replica has worked.
    pub(crate) fn worked(&self) -> Duration {
        *self.state.worked.lock().expect("no thread panics while it holds the lock")
    }
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Reply {
    let capacity = state.slots.capacity();
    match request.uri().path() {
        "/readyz" => return respond::json(StatusCode::OK, &ReadyBody { ready: true, capacity: Some(capacity) }),
        slot_channel::PATH => {
            let opened = slots::channel::open(&state.slots, &request);
            return opened.unwrap_or_else(|fault| respond::error(&fault, ""));
        }
        _ => {}
    }
    state.attempts.fetch_add(1, Ordering::SeqCst);
    let client = SlotClient::from_headers(request.headers());
    let mut reply = match state.slots.take(client, 1) {
        Some(slot) => {
            let _worker = state.worker.lock().await;
            let started = Instant::now();
            tokio::time::sleep(state.time).await;
            let worked = started.elapsed();
            *state.worked.lock().expect("no thread panics while it holds the lock") += worked;
            drop(slot);
            let best = Prediction { class_index: 0, label: "cat".into(), confidence: 1.0 };
            let answer = Answer::new(vec![best], "stub", "shared", Timing::default());
            let mut reply = respond::json(StatusCode::OK, &answer);
            reply.headers_mut().insert(header::WORK_US, (worked.as_micros() as u64).into());
            reply
        }
        None => {
            state.busy.fetch_add(1, Ordering::SeqCst);
            let mut reply = respond::error(&RequestError::new(Code::Busy, "at capacity"), "");
            reply.headers_mut().insert(header::RETRY_MS, (state.time.as_millis() as u64).into());
            reply
        }
    };
    slots::add_headers(reply.headers_mut(), &state.slots, client);
    reply
}
