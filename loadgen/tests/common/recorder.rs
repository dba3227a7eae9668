//! A server that records when each POST arrives, and answers at once. It can stall once.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use service::wire::{Answer, Prediction, Timing};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A stall of the server: the time after the first request at which it begins, and its length.
pub type ServerStall = (Duration, Duration);

/// The arrival times and the request ids of all POSTs. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct RecordedArrivals(Arc<Mutex<Vec<(Instant, String)>>>);

impl RecordedArrivals {
    /// Records an arrival now, with its request id. Returns the time of the first arrival.
    fn record(&self, id: String) -> Instant {
        let now = Instant::now();
        let mut arrivals = self.0.lock().expect("no task panics while it holds the arrivals");
        arrivals.push((now, id));
        arrivals[0].0
    }

    /// The time from the first arrival to each arrival, in order.
    pub fn times(&self) -> Vec<Duration> {
        let arrivals = self.0.lock().expect("no task panics while it holds the arrivals");
        arrivals.iter().map(|(arrival, _)| *arrival - arrivals[0].0).collect()
    }

    /// The request id of each arrival, in order.
    pub fn ids(&self) -> Vec<String> {
        let arrivals = self.0.lock().expect("no task panics while it holds the arrivals");
        arrivals.iter().map(|(_, id)| id.clone()).collect()
    }
}

/// Serves on a free port of the loopback interface, on this thread, and calls `announce` with the address first.
///
/// # Errors
/// If the server cannot listen or accept connections. The function does not return otherwise.
pub fn serve(
    arrivals: &RecordedArrivals,
    stall: Option<ServerStall>,
    announce: impl FnOnce(SocketAddr),
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpSocket::new_v4()?;
        listener.bind(([127, 0, 0, 1], 0).into())?;
        let listener = listener.listen(4096)?;
        announce(listener.local_addr()?);
        let stall = Arc::new(Mutex::new(stall));
        loop {
            let (stream, _peer) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (arrivals, stall) = (arrivals.clone(), stall.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                // loadgen also sends GET requests, to read metrics. They are not a part of the load.
                if request.method() == Method::POST {
                    let id = request.headers().get("x-request-id").map(|id| String::from_utf8_lossy(id.as_bytes()));
                    let first = arrivals.record(id.unwrap_or_default().into_owned());
                    stall_if_due(&stall, first);
                }
                async move { Ok::<_, Infallible>(answer(request).await) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    })
}

/// Blocks this thread, and with it every connection, once the time of the stall has come. `first` is the first arrival.
fn stall_if_due(stall: &Mutex<Option<ServerStall>>, first: Instant) {
    let mut stall = stall.lock().expect("no task panics while it holds the stall");
    if let Some((after, length)) = *stall
        && first.elapsed() >= after
    {
        *stall = None;
        std::thread::sleep(length);
    }
}

/// Reads the whole request, and answers with a fixed prediction.
async fn answer(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let read = request.into_body().collect().await;
    let prediction = Prediction { class_index: 7, label: "striped square".into(), confidence: 0.998 };
    let answer = Answer::new(vec![prediction], "recorder", "recorder", Timing::default());
    let body = serde_json::to_vec(&answer).expect("an answer is JSON");
    let status = if read.is_ok() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    Response::builder().status(status).body(Full::new(body.into())).expect("the status is valid")
}
