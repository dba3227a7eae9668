//! The real dispatcher under load hangs, is killed and starts again, while the scaler reads its metrics.

use crate::FAULT;
use crate::control_plane::{PATIENCE, control_plane, say};
use crate::dispatcher;
use crate::program::Scaler;
use crate::scene::{LOAD, MORE_LOAD, Scene};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use service::fetch;
use service::respond::{self, Reply};
use service::wire::{Answer, Prediction, ReadyBody, Timing};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

/// Time that a stub replica takes for one image.
const SERVICE_TIME: Duration = Duration::from_millis(90);

/// As many replicas as the Deployment has pods.
const REPLICAS: usize = 4;

/// The path of the dispatcher's program, beside the scaler's; `None` if it was not built.
fn program() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_scaler")).with_file_name("dispatcher");
    path.exists().then_some(path)
}

/// A running dispatcher, killed when dropped.
struct Dispatcher {
    child: Child,
    /// `host:port`.
    address: String,
}

impl Dispatcher {
    async fn start(program: &Path, listen: &str, replica: &str) -> Self {
        let mut child = Command::new(program)
            .args([format!("--listen={listen}"), format!("--replicas=static:{replica}")])
            .args(["--exit-with-parent", "--log=error"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the dispatcher starts");
        let mut printed = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = tokio::time::timeout(PATIENCE, printed.next_line()).await.expect("in time").expect("text");
        let address = line.as_deref().and_then(|line| line.strip_prefix("listening on http://")).expect("its address");
        let address = address.to_owned();
        tokio::spawn(async move { while let Ok(Some(_line)) = printed.next_line().await {} });
        Self { child, address }
    }

    /// Sends a signal by its name, such as STOP.
    async fn signal(&self, name: &str) {
        let process = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-s", name, &process]).status().await.expect("there is a kill");
        assert!(sent.success(), "the process is there to be told");
    }
}

/// Starts stub replicas that follow the wire contract. Returns their addresses, separated by commas.
async fn replicas() -> String {
    let mut addresses = Vec::new();
    for _ in 0..REPLICAS {
        addresses.push(replica().await);
    }
    addresses.join(",")
}

/// Starts a stub replica with one slot. Returns its address.
async fn replica() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let handle = |request: Request<Incoming>| async move {
        if request.uri().path() == "/readyz" {
            return respond::json(StatusCode::OK, &ReadyBody { ready: true, capacity: Some(1) });
        }
        classify(request).await
    };
    tokio::spawn(service::server::serve(listener, None, handle, std::future::pending(), Duration::ZERO));
    address
}

async fn classify(request: Request<Incoming>) -> Reply {
    let _body = request.into_body().collect().await;
    tokio::time::sleep(SERVICE_TIME).await;
    let prediction = Prediction { class_index: 0, label: "cat".into(), confidence: 1.0 };
    respond::json(StatusCode::OK, &Answer::new(vec![prediction], "stub", "replica-1", Timing::default()))
}

/// Posts `per_second` images a second, without waiting for answers.
async fn post(address: String, per_second: Arc<Mutex<f64>>) {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut under_way = JoinSet::new();
    loop {
        let pause = 1.0 / *per_second.lock().expect("whole");
        tokio::time::sleep(Duration::from_secs_f64(pause)).await;
        let request = Request::post(format!("http://{address}/predict")).header("content-type", "image/png");
        let request = request.body(Full::new(Bytes::from_static(b"picture"))).expect("a request");
        let posted = client.request(request);
        under_way.spawn(async move {
            let answered = async {
                if let Ok(response) = posted.await {
                    let _whatever = response.into_body().collect().await;
                }
            };
            // A client gives up after this time.
            let _whatever = tokio::time::timeout(Duration::from_secs(5), answered).await;
        });
        while under_way.try_join_next().is_some() {}
    }
}

/// The dispatcher's series in an exposition, without their values; series with a replica label are left out.
fn series(text: &str) -> BTreeSet<String> {
    let samples = text.lines().filter(|line| line.starts_with("dispatcher_"));
    let names = samples.map(|line| line.rsplit_once(' ').expect("a value").0);
    names.filter(|name| !name.contains("replica=")).map(ToOwned::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_dispatcher_may_hang_die_and_start_again() {
    let Some(control_plane) = control_plane() else { return };
    let Some(program) = program() else {
        return say("skipped: the dispatcher was not built; cargo build --release --workspace --bin dispatcher");
    };
    let scene = Scene::new(&control_plane, "live").await;
    let replica = replicas().await;
    let mut live = Dispatcher::start(&program, "127.0.0.1:0", &replica).await;
    let per_second = Arc::new(Mutex::new(LOAD));
    let mut tasks = JoinSet::new();
    tasks.spawn(post(live.address.clone(), per_second.clone()));
    let flags = scene.flags(&[format!("--dispatcher={}", live.address)]);
    let mut scaler = Scaler::start(&scene.kubeconfig(|_| {}), &flags).await;
    scaler.until_steady().await;
    is_told_alike(&live).await;

    let began = Instant::now();
    live.signal("STOP").await;
    let hung = scaler.until_said(&["did not answer within 1s"]).await;
    tokio::time::sleep(FAULT.saturating_sub(began.elapsed())).await;
    assert_eq!(scene.asked_since(began), [4], "it hangs");
    let age = scaler.metric("scaler_observation_age_seconds", &[]).await;
    assert!(age > FAULT.as_secs_f64() - 3.0, "{age}");
    live.signal("CONT").await;
    let has_figures = |latest: &serde_json::Value| latest["inputs"].is_object();
    scaler.until("figures again", has_figures).await;

    live.child.kill().await.expect("it ran");
    let gone = scaler.until_said(&["refused", "is the dispatcher running"]).await;
    let before = Instant::now();
    live = Dispatcher::start(&program, &live.address, &replica).await;
    scaler.until("figures again", has_figures).await;
    // The new dispatcher counts from zero and has no replica in rotation at first.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(scaler.has_logged("the dispatcher has started again"), "{}", scaler.log().join("\n"));
    assert!(scene.asked_since(before).iter().all(|replicas| *replicas >= 4), "{:?}", scene.asked());
    *per_second.lock().expect("whole") = MORE_LOAD;
    scene.until_asked(&scaler, "more, when more arrive", |replicas| replicas >= 6).await;
    scene.never_went_down();
    scaler.is_well();
    drop(live);
    say(&format!("live: {hung}; {gone}; {:?}", scene.asked()));
}

/// Checks that the real dispatcher has every series that the stub dispatchers of the other tests have.
async fn is_told_alike(live: &Dispatcher) {
    let (_, body) = fetch::get(&live.address, "/metrics", PATIENCE).await.expect("it answers");
    let real = series(std::str::from_utf8(&body).expect("text"));
    let stub = dispatcher::Dispatcher::start(LOAD);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let told = series(&stub.text());
    assert!(told.is_subset(&real), "{:?}", told.difference(&real));
}
