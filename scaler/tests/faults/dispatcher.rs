//! A stub of a dispatcher that serves only `/metrics`, rendered by the recorder that the real dispatcher uses. Its load
//! is steady. A test chooses with [`Manner`] how the stub answers, or whether it answers at all.

use metrics::{counter, gauge, histogram, with_local_recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};
use service::telemetry::LATENCY_BUCKETS as SECONDS;
use service::wire::metric;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Service time of each request, in seconds. It is the middle of its bucket, so the scaler sees no variation.
const SERVICE_SECONDS: f64 = 0.09;

/// Time between two updates of the counters.
const TICK: Duration = Duration::from_millis(20);

/// How `/metrics` is answered.
#[derive(Clone)]
pub(crate) enum Manner {
    /// Status 200 with the metrics.
    Well,
    /// The port is closed, so connections are refused.
    Refuses,
    /// Connections are accepted and never answered.
    Hangs,
    /// The body arrives one byte at a time and never ends.
    Drips,
    /// This status, with valid metrics as the body.
    Status(u16),
    /// These bytes instead of an HTTP response.
    Raw(Vec<u8>),
    /// Half of the body that `Content-Length` announces; then the connection is closed.
    Cut,
    /// A valid response and status 500 in turns.
    Flaps,
    /// Status 200 with the metrics text after this change.
    Told(Arc<dyn Fn(String) -> Vec<u8> + Send + Sync>),
}

impl Manner {
    /// Status 200 with the metrics text after this change.
    pub(crate) fn told(change: impl Fn(String) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::Told(Arc::new(change))
    }

    /// Status 200; the value in the line that begins with `start` is replaced by `value`.
    pub(crate) fn value(start: &'static str, value: &'static str) -> Self {
        Self::told(move |text| with_value(&text, start, value).into())
    }
}

/// Replaces the value in the line of `text` that begins with `start`.
pub(crate) fn with_value(text: &str, start: &str, value: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start} in {text}"));
    let series = line.rsplit_once(' ').expect("a value").0;
    text.replace(line, &format!("{series} {value}"))
}

/// A running stub on a port of its own. It stops when dropped.
pub(crate) struct Dispatcher {
    pub(crate) address: SocketAddr,
    manner: watch::Sender<Manner>,
    figures: Arc<Figures>,
    _tasks: JoinSet<()>,
    /// A bound socket that reserves the port while the stub refuses connections.
    _port: TcpSocket,
}

impl Dispatcher {
    /// Starts a stub that counts `per_second` requests a second.
    pub(crate) fn start(per_second: f64) -> Self {
        let port = socket("127.0.0.1:0".parse().expect("an address"));
        let address = port.local_addr().expect("bound");
        let (manner, told) = watch::channel(Manner::Well);
        let figures = Arc::new(Figures { process: Mutex::new(Process::new()), per_second: Mutex::new(per_second) });
        let mut tasks = JoinSet::new();
        tasks.spawn(drive(figures.clone()));
        tasks.spawn(serve(address, told, figures.clone()));
        Self { address, manner, figures, _tasks: tasks, _port: port }
    }

    /// Sets how the stub answers from now on.
    pub(crate) fn behave(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    /// The present metrics text.
    pub(crate) fn text(&self) -> String {
        self.figures.text()
    }

    /// Answers every later scrape with the present text after this change, so that no counter moves.
    pub(crate) fn freeze(&self, change: impl Fn(String) -> String) {
        let text = change(self.text());
        self.behave(Manner::told(move |_now| text.clone().into()));
    }

    /// Sets the load to `per_second` requests a second.
    pub(crate) fn load(&self, per_second: f64) {
        *self.figures.per_second.lock().expect("whole") = per_second;
    }

    /// Simulates a restart: all counters and the uptime start at zero.
    pub(crate) fn restart(&self) {
        *self.figures.process.lock().expect("whole") = Process::new();
    }

    /// Adds `by` to the counter of admitted requests at once.
    pub(crate) fn leap(&self, by: u64) {
        self.figures.record(|| counter!(metric::ENQUEUED).increment(by));
    }
}

struct Figures {
    process: Mutex<Process>,
    per_second: Mutex<f64>,
}

impl Figures {
    fn text(&self) -> String {
        let process = self.process.lock().expect("whole");
        let uptime = process.started.elapsed().as_secs_f64();
        with_local_recorder(&process.recorder, || gauge!(metric::UPTIME).set(uptime));
        process.recorder.handle().render()
    }

    fn record(&self, change: impl FnOnce()) {
        with_local_recorder(&self.process.lock().expect("whole").recorder, change);
    }
}

/// The counters of one simulated process, from its start to its restart.
struct Process {
    started: Instant,
    recorder: PrometheusRecorder,
}

impl Process {
    fn new() -> Self {
        let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS);
        let recorder = builder.expect("buckets").build_recorder();
        with_local_recorder(&recorder, || {
            gauge!(metric::QUEUE_LENGTH).set(0.0);
            gauge!(metric::CAPACITY).set(8.0);
            counter!(metric::ENQUEUED).absolute(0);
        });
        Self { started: Instant::now(), recorder }
    }
}

/// Counts arrivals and answers at a constant rate.
async fn drive(figures: Arc<Figures>) {
    let (mut tick, mut last, mut due) = (tokio::time::interval(TICK), Instant::now(), 0.0);
    loop {
        tick.tick().await;
        let per_second = *figures.per_second.lock().expect("whole");
        due += per_second * last.elapsed().as_secs_f64();
        last = Instant::now();
        let count = due as u64;
        due -= count as f64;
        figures.record(|| {
            for _ in 0..count {
                counter!(metric::ENQUEUED).increment(1);
                histogram!(metric::UPSTREAM_DURATION).record(SERVICE_SECONDS);
                histogram!(metric::REQUEST_DURATION).record(SERVICE_SECONDS);
            }
            gauge!(metric::IN_FLIGHT, "replica" => "10.0.0.1:6000").set((per_second * SERVICE_SECONDS).round());
        });
    }
}

fn socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option");
    socket.bind(address).expect("a free port");
    socket
}

async fn serve(address: SocketAddr, mut told: watch::Receiver<Manner>, figures: Arc<Figures>) {
    let mut turn = 0_u64;
    loop {
        if matches!(*told.borrow_and_update(), Manner::Refuses) {
            if told.changed().await.is_err() {
                return;
            }
            continue;
        }
        let listener: TcpListener = socket(address).listen(64).expect("a listener");
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                changed = told.changed() => match changed {
                    Ok(()) if matches!(*told.borrow(), Manner::Refuses) => break,
                    Ok(()) => {}
                    Err(_dropped) => return,
                },
                Ok((stream, _)) = listener.accept() => {
                    turn += 1;
                    let manner = match told.borrow().clone() {
                        Manner::Flaps if turn.is_multiple_of(2) => Manner::Status(500),
                        Manner::Flaps => Manner::Well,
                        manner => manner,
                    };
                    let figures = figures.clone();
                    connections.spawn(async move {
                        // The scaler may have closed the connection; then the write fails.
                        let _gone = answer(stream, manner, &figures).await;
                    });
                }
                Some(_ended) = connections.join_next() => {}
            }
        }
    }
}

async fn answer(mut stream: TcpStream, manner: Manner, figures: &Figures) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let text = figures.text();
    match manner {
        Manner::Hangs => std::future::pending().await,
        Manner::Drips => {
            stream.write_all(&head(200, 1 << 20)).await?;
            loop {
                stream.write_all(b"#").await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Manner::Status(status) => reply(&mut stream, status, text.as_bytes()).await,
        Manner::Raw(bytes) => stream.write_all(&bytes).await,
        Manner::Cut => {
            stream.write_all(&head(200, text.len())).await?;
            stream.write_all(&text.as_bytes()[..text.len() / 2]).await
        }
        Manner::Told(change) => reply(&mut stream, 200, &change(text)).await,
        Manner::Well | Manner::Flaps | Manner::Refuses => reply(&mut stream, 200, text.as_bytes()).await,
    }
}

fn head(status: u16, length: usize) -> Vec<u8> {
    format!("HTTP/1.1 {status} Told\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n").into()
}

async fn reply(stream: &mut TcpStream, status: u16, body: &[u8]) -> std::io::Result<()> {
    stream.write_all(&head(status, body.len())).await?;
    stream.write_all(body).await?;
    stream.shutdown().await
}
