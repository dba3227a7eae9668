//! The real dispatcher under load hangs, is killed and starts again, while the scaler reads its metrics.

use crate::FAULT;
use crate::control_plane::{TIMEOUT, control_plane, report};
use crate::fake_dispatcher::FakeDispatcher;
use crate::program::Scaler;
use crate::test_deployment::{LOAD, MORE_LOAD, TestDeployment};
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

/// The time that a stub replica takes for one image.
const SERVICE_TIME: Duration = Duration::from_millis(90);

/// The number of stub replicas, which is also the number of the Deployment's pods.
const REPLICAS: usize = 4;

/// The path of the dispatcher's program, which is beside the scaler's; `None` if the dispatcher was not built.
fn program() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_scaler")).with_file_name("dispatcher");
    path.exists().then_some(path)
}

/// A running dispatcher. It is killed when dropped.
struct RealDispatcher {
    child: Child,
    /// The address that the dispatcher serves on, `host:port`.
    address: String,
}

impl RealDispatcher {
    async fn start(program: &Path, listen: &str, replica: &str) -> Self {
        let mut child = Command::new(program)
            .args([format!("--listen={listen}"), format!("--replicas=static:{replica}")])
            .args(["--exit-with-parent", "--log=error"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the dispatcher's program can be executed");
        let mut printed = BufReader::new(child.stdout.take().expect("standard output is piped")).lines();
        let line = tokio::time::timeout(TIMEOUT, printed.next_line()).await;
        let line = line.expect("the dispatcher prints its address in time").expect("standard output is text");
        let address = line
            .as_deref()
            .and_then(|line| line.strip_prefix("listening on http://"))
            .expect("the first line is the dispatcher's address");
        let address = address.to_owned();
        tokio::spawn(async move { while let Ok(Some(_line)) = printed.next_line().await {} });
        Self { child, address }
    }

    /// Sends a signal, by its name such as STOP.
    async fn signal(&self, name: &str) {
        let process = self.child.id().expect("the dispatcher runs").to_string();
        let sent =
            Command::new("kill").args(["-s", name, &process]).status().await.expect("the command kill is installed");
        assert!(sent.success(), "kill -s {name} {process} failed");
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
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
    let address = listener.local_addr().expect("the listener is bound").to_string();
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
    let mut requests = JoinSet::new();
    loop {
        let pause = 1.0 / *per_second.lock().expect("no thread panics while it holds the lock");
        tokio::time::sleep(Duration::from_secs_f64(pause)).await;
        let request = Request::post(format!("http://{address}/predict")).header("content-type", "image/png");
        let request = request.body(Full::new(Bytes::from_static(b"picture"))).expect("the request is valid");
        let posted = client.request(request);
        requests.spawn(async move {
            let answered = async {
                if let Ok(response) = posted.await {
                    let _result = response.into_body().collect().await;
                }
            };
            // A request that never ended would stay in the set.
            let _result = tokio::time::timeout(Duration::from_secs(5), answered).await;
        });
        while requests.try_join_next().is_some() {}
    }
}

/// The dispatcher's series in the metrics `text`, without their values and without series for single replicas.
fn series(text: &str) -> BTreeSet<String> {
    let samples = text.lines().filter(|line| line.starts_with("dispatcher_"));
    let names = samples.map(|line| line.rsplit_once(' ').expect("a sample ends with a value").0);
    names.filter(|name| !name.contains("replica=")).map(ToOwned::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_dispatcher_may_hang_die_and_start_again() {
    let Some(control_plane) = control_plane() else { return };
    let Some(program) = program() else {
        return report("skipped: the dispatcher was not built; run cargo build --release --workspace --bin dispatcher");
    };
    let deployment = TestDeployment::new(&control_plane, "live").await;
    let replica = replicas().await;
    let mut dispatcher = RealDispatcher::start(&program, "127.0.0.1:0", &replica).await;
    let per_second = Arc::new(Mutex::new(LOAD));
    let mut tasks = JoinSet::new();
    tasks.spawn(post(dispatcher.address.clone(), per_second.clone()));
    let flags = deployment.flags(&[format!("--dispatcher={}", dispatcher.address)]);
    let mut scaler = Scaler::start(&deployment.kubeconfig(|_| {}), &flags).await;
    scaler.wait_until_steady().await;
    check_series_of_the_fake(&dispatcher).await;

    let began = Instant::now();
    dispatcher.signal("STOP").await;
    let hung = scaler.wait_for_explanation(&["did not answer within 1s"]).await;
    tokio::time::sleep(FAULT.saturating_sub(began.elapsed())).await;
    assert_eq!(deployment.replicas_since(began), [4], "while the dispatcher hangs");
    let age = scaler.metric("scaler_observation_age_seconds", &[]).await;
    assert!(age > FAULT.as_secs_f64() - 3.0, "the last observation is {age} s old");
    dispatcher.signal("CONT").await;
    let has_figures = |latest: &serde_json::Value| latest["inputs"].is_object();
    scaler.wait_for("a decision with figures", has_figures).await;

    dispatcher.child.kill().await.expect("the dispatcher was started by this test");
    let gone = scaler.wait_for_explanation(&["refused", "is the dispatcher running"]).await;
    let before = Instant::now();
    dispatcher = RealDispatcher::start(&program, &dispatcher.address, &replica).await;
    scaler.wait_for("a decision with figures", has_figures).await;
    // The new dispatcher counts from zero, and has no replica in rotation at first.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(scaler.has_logged("the dispatcher has started again"), "{}", scaler.log().join("\n"));
    assert!(
        deployment.replicas_since(before).iter().all(|replicas| *replicas >= 4),
        "{:?}",
        deployment.replica_history()
    );
    *per_second.lock().expect("no thread panics while it holds the lock") = MORE_LOAD;
    deployment.wait_for_replicas(&scaler, "six replicas for a higher load", |replicas| replicas >= 6).await;
    deployment.assert_never_scaled_down();
    scaler.assert_healthy();
    drop(dispatcher);
    report(&format!("live: {hung}; {gone}; {:?}", deployment.replica_history()));
}

/// Checks that the real dispatcher has every series that the fake dispatchers of the other tests have.
async fn check_series_of_the_fake(dispatcher: &RealDispatcher) {
    let (_, body) = fetch::get(&dispatcher.address, "/metrics", TIMEOUT).await.expect("the dispatcher answers");
    let real = series(std::str::from_utf8(&body).expect("metrics are text"));
    let fake = FakeDispatcher::start(LOAD);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let faked = series(&fake.text());
    assert!(faked.is_subset(&real), "{:?}", faked.difference(&real));
}
