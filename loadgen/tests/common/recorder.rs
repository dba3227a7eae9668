//! A server that notes when each POST arrived, answers at once, and stands still for a while if told to.

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

/// When it stands still: after its first request, and for how long.
pub type Stall = (Duration, Duration);

/// Every POST's arrival, as it was noticed.
#[derive(Debug, Clone, Default)]
pub struct Arrivals(Arc<Mutex<Vec<Instant>>>);

impl Arrivals {
    fn note(&self) -> Instant {
        let now = Instant::now();
        let mut arrivals = self.0.lock().expect("nobody panics while noting");
        arrivals.push(now);
        arrivals[0]
    }

    /// Since the first of them, in order.
    pub fn times(&self) -> Vec<Duration> {
        let arrivals = self.0.lock().expect("nobody panics while noting");
        arrivals.iter().map(|arrival| *arrival - arrivals[0]).collect()
    }
}

/// Serves on loopback on this thread, telling the address first; returns only if it cannot. If it `never_sleeps`, it
/// takes its core, and nobody pays for waking it.
pub fn serve(
    arrivals: &Arrivals,
    stall: Option<Stall>,
    never_sleeps: bool,
    tell: impl FnOnce(SocketAddr),
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if never_sleeps {
            tokio::spawn(async {
                loop {
                    tokio::task::yield_now().await;
                }
            });
        }
        let listener = tokio::net::TcpSocket::new_v4()?;
        listener.bind(([127, 0, 0, 1], 0).into())?;
        let listener = listener.listen(4096)?;
        tell(listener.local_addr()?);
        let stall = Arc::new(Mutex::new(stall));
        loop {
            let (stream, _peer) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (arrivals, stall) = (arrivals.clone(), stall.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                // A GET asks for metrics, and is no load.
                if request.method() == Method::POST {
                    let first = arrivals.note();
                    stand_still(&stall, first);
                }
                async move { Ok::<_, Infallible>(answer(request).await) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    })
}

/// Stops this thread, and with it every connection, once its time has come.
fn stand_still(stall: &Mutex<Option<Stall>>, first: Instant) {
    let mut stall = stall.lock().expect("nobody panics while standing still");
    if let Some((after, length)) = *stall
        && first.elapsed() >= after
    {
        *stall = None;
        std::thread::sleep(length);
    }
}

async fn answer(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let read = request.into_body().collect().await;
    let prediction = Prediction { class_index: 7, label: "striped square".into(), confidence: 0.998 };
    let answer = Answer::new(vec![prediction], "recorder", "recorder", Timing::default());
    let body = serde_json::to_vec(&answer).expect("an answer is JSON");
    let status = if read.is_ok() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    Response::builder().status(status).body(Full::new(body.into())).expect("checked parts make a response")
}
