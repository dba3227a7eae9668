//! A fake dispatcher that serves only `/metrics`, rendered by the recorder that the real dispatcher uses. Its load is
//! steady. A test chooses by [`Behavior`] how the fake answers, or that it does not answer.

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

/// The service time of each request, in seconds. It is the middle of its bucket, so the scaler sees no variation.
const SERVICE_SECONDS: f64 = 0.09;

/// The time between two updates of the counters.
const TICK: Duration = Duration::from_millis(20);

/// How the fake answers requests for `/metrics`.
#[derive(Clone)]
pub(crate) enum Behavior {
    /// The fake answers status 200 with the metrics.
    Well,
    /// The fake refuses connections.
    Refuses,
    /// The fake accepts connections and never answers.
    Hangs,
    /// The fake sends a body one byte at a time, without end.
    Drips,
    /// The fake answers this status, with valid metrics as the body.
    Status(u16),
    /// The fake sends these bytes instead of an HTTP response.
    Raw(Vec<u8>),
    /// The fake sends half of the body that `Content-Length` announces, and closes the connection.
    Cut,
    /// The fake answers a valid response and status 500 in turns.
    Flaps,
    /// The fake answers status 200 with the metrics text after this change.
    Rewritten(Arc<dyn Fn(String) -> Vec<u8> + Send + Sync>),
}

impl Behavior {
    /// The fake answers status 200 with the metrics text after `change`.
    pub(crate) fn rewritten(change: impl Fn(String) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::Rewritten(Arc::new(change))
    }

    /// The fake answers status 200, with `value` as the value in the line that begins with `start`.
    pub(crate) fn value(start: &'static str, value: &'static str) -> Self {
        Self::rewritten(move |text| with_value(&text, start, value).into())
    }
}

/// Replaces the value in the line of `text` that begins with `start`.
pub(crate) fn with_value(text: &str, start: &str, value: &str) -> String {
    let line = text
        .lines()
        .find(|line| line.starts_with(start))
        .unwrap_or_else(|| panic!("no line begins with {start} in:\n{text}"));
    let series = line.rsplit_once(' ').expect("a sample ends with a value").0;
    text.replace(line, &format!("{series} {value}"))
}

/// A running fake dispatcher on a port of its own. It stops when dropped.
pub(crate) struct FakeDispatcher {
    pub(crate) address: SocketAddr,
    behavior: watch::Sender<Behavior>,
    simulation: Arc<Simulation>,
    _tasks: JoinSet<()>,
    /// A bound socket that reserves the port while the fake refuses connections.
    _port: TcpSocket,
}

impl FakeDispatcher {
    /// Starts a fake dispatcher that counts `per_second` requests a second.
    pub(crate) fn start(per_second: f64) -> Self {
        let port = socket("127.0.0.1:0".parse().expect("the text is an address"));
        let address = port.local_addr().expect("the socket is bound");
        let (behavior, behaviors) = watch::channel(Behavior::Well);
        let simulation =
            Arc::new(Simulation { process: Mutex::new(SimulatedProcess::new()), per_second: Mutex::new(per_second) });
        let mut tasks = JoinSet::new();
        tasks.spawn(drive(simulation.clone()));
        tasks.spawn(serve(address, behaviors, simulation.clone()));
        Self { address, behavior, simulation, _tasks: tasks, _port: port }
    }

    /// Sets how the fake answers from now on.
    pub(crate) fn set_behavior(&self, behavior: Behavior) {
        self.behavior.send_replace(behavior);
    }

    /// The present metrics text.
    pub(crate) fn text(&self) -> String {
        self.simulation.text()
    }

    /// Makes the fake answer every later scrape with the present text after `change`, so that no counter changes.
    pub(crate) fn freeze(&self, change: impl Fn(String) -> String) {
        let text = change(self.text());
        self.set_behavior(Behavior::rewritten(move |_present| text.clone().into()));
    }

    /// Sets the load to `per_second` requests a second.
    pub(crate) fn set_load(&self, per_second: f64) {
        *self.simulation.per_second.lock().expect("no thread panics while it holds the lock") = per_second;
    }

    /// Simulates a restart: all counters and the uptime start at zero.
    pub(crate) fn restart(&self) {
        *self.simulation.process.lock().expect("no thread panics while it holds the lock") = SimulatedProcess::new();
    }

    /// Adds `by` to the counter of admitted requests at once.
    pub(crate) fn leap(&self, by: u64) {
        self.simulation.record(|| counter!(metric::ENQUEUED).increment(by));
    }
}

/// The dispatcher that the fake simulates.
struct Simulation {
    process: Mutex<SimulatedProcess>,
    per_second: Mutex<f64>,
}

impl Simulation {
    fn text(&self) -> String {
        let process = self.process.lock().expect("no thread panics while it holds the lock");
        let uptime = process.started.elapsed().as_secs_f64();
        with_local_recorder(&process.recorder, || gauge!(metric::UPTIME).set(uptime));
        process.recorder.handle().render()
    }

    fn record(&self, change: impl FnOnce()) {
        with_local_recorder(&self.process.lock().expect("no thread panics while it holds the lock").recorder, change);
    }
}

/// The metrics of the simulated process, from one restart to the next.
struct SimulatedProcess {
    started: Instant,
    recorder: PrometheusRecorder,
}

impl SimulatedProcess {
    fn new() -> Self {
        let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS);
        let recorder = builder.expect("there are buckets").build_recorder();
        with_local_recorder(&recorder, || {
            gauge!(metric::QUEUE_LENGTH).set(0.0);
            gauge!(metric::CAPACITY).set(1.0);
            counter!(metric::ENQUEUED).absolute(0);
        });
        Self { started: Instant::now(), recorder }
    }
}

/// Counts arrivals and answers at the present rate.
async fn drive(simulation: Arc<Simulation>) {
    let (mut tick, mut last, mut due) = (tokio::time::interval(TICK), Instant::now(), 0.0);
    loop {
        tick.tick().await;
        let per_second = *simulation.per_second.lock().expect("no thread panics while it holds the lock");
        due += per_second * last.elapsed().as_secs_f64();
        last = Instant::now();
        let count = due as u64;
        due -= count as f64;
        simulation.record(|| {
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
    let socket = TcpSocket::new_v4().expect("sockets can be created");
    socket.set_reuseaddr(true).expect("the system has the option");
    socket.bind(address).expect("the port is free");
    socket
}

/// Serves the metrics, each connection by the behavior at its start.
async fn serve(address: SocketAddr, mut behaviors: watch::Receiver<Behavior>, simulation: Arc<Simulation>) {
    let mut accepted = 0_u64;
    loop {
        if matches!(*behaviors.borrow_and_update(), Behavior::Refuses) {
            if behaviors.changed().await.is_err() {
                return;
            }
            continue;
        }
        let listener: TcpListener = socket(address).listen(64).expect("the socket is bound");
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                changed = behaviors.changed() => match changed {
                    Ok(()) if matches!(*behaviors.borrow(), Behavior::Refuses) => break,
                    Ok(()) => {}
                    Err(_dropped) => return,
                },
                Ok((stream, _)) = listener.accept() => {
                    accepted += 1;
                    let behavior = match behaviors.borrow().clone() {
                        Behavior::Flaps if accepted.is_multiple_of(2) => Behavior::Status(500),
                        Behavior::Flaps => Behavior::Well,
                        behavior => behavior,
                    };
                    let simulation = simulation.clone();
                    connections.spawn(async move {
                        // The scaler may have closed the connection. Then the write fails.
                        let _gone = answer(stream, behavior, &simulation).await;
                    });
                }
                Some(_ended) = connections.join_next() => {}
            }
        }
    }
}

async fn answer(mut stream: TcpStream, behavior: Behavior, simulation: &Simulation) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let text = simulation.text();
    match behavior {
        Behavior::Hangs => std::future::pending().await,
        Behavior::Drips => {
            stream.write_all(&head(200, 1 << 20)).await?;
            loop {
                stream.write_all(b"#").await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Behavior::Status(status) => reply(&mut stream, status, text.as_bytes()).await,
        Behavior::Raw(bytes) => stream.write_all(&bytes).await,
        Behavior::Cut => {
            stream.write_all(&head(200, text.len())).await?;
            stream.write_all(&text.as_bytes()[..text.len() / 2]).await
        }
        Behavior::Rewritten(change) => reply(&mut stream, 200, &change(text)).await,
        Behavior::Well | Behavior::Flaps | Behavior::Refuses => reply(&mut stream, 200, text.as_bytes()).await,
    }
}

fn head(status: u16, length: usize) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} Fake\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    )
    .into()
}

async fn reply(stream: &mut TcpStream, status: u16, body: &[u8]) -> std::io::Result<()> {
    stream.write_all(&head(status, body.len())).await?;
    stream.write_all(body).await?;
    stream.shutdown().await
}
