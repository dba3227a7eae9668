//! loadgen against servers of the Open Inference Protocol: KServe's Python server, which is not ours, and our own replica,
//! to which it speaks as Triton's clients do. Without the other server, its test prints that it was skipped.

use harness::stack::ServiceProcess;
use harness::{http, loadgen, paths};
use serde_json::Value;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// KServe's Python server, which is killed at the end of the test.
struct KserveServer {
    child: Child,
    url: String,
}

impl KserveServer {
    /// Starts the server with the model of `kserve_server.py`, and waits until it is ready.
    fn start(python: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("the listener has an address").port();
        drop(listener);
        let child = Command::new(python)
            .arg(paths::root().join("bench/tests/kserve_server.py"))
            .arg(port.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let server = Self { child, url: format!("http://127.0.0.1:{port}") };
        await_ready(&format!("{}/v2/models/toy/ready", server.url));
        server
    }
}

impl Drop for KserveServer {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Waits until `url` answers with status 200, for two minutes at most.
fn await_ready(url: &str) {
    let give_up = Instant::now() + Duration::from_secs(120);
    while let Err(error) = http::get(url) {
        assert!(Instant::now() < give_up, "{error:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The interpreter of KServe's Python environment; `None` if there is none.
fn kserve() -> Option<PathBuf> {
    let python = std::env::var_os("ROUNDHOUSE_KSERVE").map_or(paths::tool("kserve").join("bin/python"), Into::into);
    if python.exists() {
        return Some(python);
    }
    // `eprintln!` would print nothing, because the output of passing tests is captured.
    let reason = format!("skipped: there is no {}; see cargo xtask doctor", python.display());
    writeln!(std::io::stderr(), "{reason}").expect("standard error is open");
    None
}

/// Sends 40 requests, of which none may fail. Returns the report.
fn send(folder: &Path, flags: &[&str]) -> Value {
    let load = ["--rate=20", "--duration=2s", "--arrivals=uniform", "--quiet"];
    let report = loadgen::run(&[&load[..], flags].concat(), &folder.join("report.json"));
    let report = report.unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(report["summary"]["answered"], 40, "{:?}: {}", flags, report["summary"]);
    report
}

#[test]
fn kserves_python_server_answers_tensors_and_images() {
    let Some(python) = kserve() else { return };
    let server = KserveServer::start(&python);
    let folder = paths::output("kserve-server");
    let images = folder.join("images");
    std::fs::create_dir_all(&images).expect("the folder can be made");
    // A JPEG file begins with the byte 255, which is above the middle.
    let picture = paths::root().join("replica/tests/data/grey.jpg");
    std::fs::copy(picture, images.join("grey.jpg")).expect("the picture can be copied");
    std::fs::write(images.join("labels.csv"), "file,label\ngrey.jpg,1\n").expect("written");
    let url = format!("--url={}/v2/models/toy/infer", server.url);
    let pictures = format!("--pictures={}", images.display());
    for form in ["oip-json", "oip-binary"] {
        let form = format!("--form={form}");
        let common = [&*url, "--target-kind=oip", &*form];
        send(&folder, &[&common[..], &["--tensor=input:FP32:1,3,8,8"]].concat());
    }
    // KServe's server takes only UTF-8 text as binary BYTES, so an image must be base64 in JSON.
    let flags = [&*url, "--target-kind=oip", "--form=oip-json", "--tensor=image:BYTES:1", &*pictures];
    let report = send(&folder, &flags);
    assert_eq!(report["summary"]["accuracy"], 1.0, "the highest score is that of class 1");
    let missing = format!("--url={}/v2/models/none/infer", server.url);
    let flags = [&*missing, "--target-kind=oip", "--rate=5", "--duration=1s", "--quiet"];
    let report = loadgen::run(&flags, &folder.join("missing.json")).unwrap_or_else(|error| panic!("{error:#}"));
    let summary = &report["summary"];
    assert!(summary["offered"].as_u64() > Some(0) && summary["errors"]["http_404"] == summary["offered"], "{summary}");
}

#[test]
fn our_replica_answers_the_requests_of_tritons_protocol() {
    let folder = paths::output("oip-replica");
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    let flags = ["--listen=127.0.0.1:0", "--capacity=4"].map(str::to_owned);
    let replica = ServiceProcess::start("replica", &flags, &folder).unwrap_or_else(|error| panic!("{error:#}"));
    await_ready(&format!("http://{}/v2/health/ready", replica.address));
    let picture = paths::root().join("replica/tests/data/grey.jpg");
    let body = std::fs::read(&picture).expect("the picture can be read");
    let answer = ureq::post(format!("http://{}/predict", replica.address))
        .header("content-type", "image/jpeg")
        .send(&body[..])
        .and_then(|mut answer| answer.body_mut().read_to_string())
        .expect("the replica classifies the picture");
    let answer: Value = serde_json::from_str(&answer).expect("the answer is JSON");
    // The answers of this protocol have an index and no label.
    let images = folder.join("images");
    std::fs::create_dir_all(&images).expect("the folder can be made");
    std::fs::write(images.join("grey.jpg"), body).expect("written");
    let labels = format!("file,label\ngrey.jpg,{}\n", answer["prediction"]["class_index"]);
    std::fs::write(images.join("labels.csv"), labels).expect("written");
    let pictures = format!("--pictures={}", images.display());
    let infer = format!("--url=http://{}/v2/models/resnet18/infer", replica.address);
    for form in ["--form=oip-json", "--form=oip-binary"] {
        let report = send(&folder, &[&infer, "--target-kind=oip", form, &pictures]);
        assert_eq!(report["summary"]["accuracy"], 1.0, "{form}");
    }
}
