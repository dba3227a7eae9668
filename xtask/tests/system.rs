//! Tests of the whole system with its real programs: images, bad requests, and killed processes.
//!
//! Each test starts its own system on free ports. Only one test runs at a time, because two cores are too few for more.

use harness::stack::{ScalerProgram, Stack, StackSetup};
use harness::{http, paths};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The lock that a test holds while its system runs.
static SYSTEM_LOCK: Mutex<()> = Mutex::new(());

struct System {
    stack: Stack,
    folder: PathBuf,
    _lock: MutexGuard<'static, ()>,
}

impl System {
    fn start(name: &str, replicas: usize) -> Self {
        let lock = SYSTEM_LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let folder = paths::output("test").join(name);
        let scaler = ["--min", "--max"].map(|bound| format!("{bound}={replicas}"));
        let program = ScalerProgram::Scaler;
        let setup = StackSetup { listen: "127.0.0.1:0", folder: folder.clone(), program, scaler: scaler.into() };
        let system = Self { stack: Stack::start(setup).expect("the system starts"), folder, _lock: lock };
        system.wait_until("every replica is in rotation", || {
            system.stack.ready_replicas().is_ok_and(|r| r.len() == replicas)
        });
        system
    }

    /// Posts an image to `/predict`. Returns the status and the JSON of the answer.
    fn post(&self, content_type: &str, body: &[u8]) -> (u16, Value) {
        let url = format!("http://{}/predict?top_k=3", self.stack.dispatcher.address);
        let agent = http::agent();
        let mut answer = agent.post(&url).content_type(content_type).send(body).expect("the dispatcher answers");
        let text = answer.body_mut().read_to_string().expect("the answer is text");
        (answer.status().as_u16(), serde_json::from_str(&text).expect("the answer is JSON"))
    }

    /// Starts loadgen with `rate` requests per second at equal intervals. Its report will be in the system's folder.
    fn start_load(&self, seconds: u32, rate: u32) -> Child {
        Command::new(paths::program("loadgen"))
            .args(["run", "--quiet", "--generate=48", "--seed=99", "--arrivals=uniform"])
            .arg(format!("--url=http://{}/predict", self.stack.dispatcher.address))
            .arg(format!("--rate={rate}"))
            .arg(format!("--duration={seconds}s"))
            .arg(format!("--json={}", self.folder.join("report.json").display()))
            .stdin(Stdio::null())
            .spawn()
            .expect("loadgen starts")
    }

    fn report(&self, mut load: Child) -> Value {
        // Status 99 means that this machine was too busy to send on time, which these tests permit.
        assert!(matches!(load.wait().expect("loadgen is a child of this process").code(), Some(0 | 99)));
        let text = fs::read_to_string(self.folder.join("report.json")).expect("loadgen wrote its report");
        serde_json::from_str(&text).expect("the report is JSON")
    }

    /// The process ids of the replicas, which are the scaler's children.
    fn replicas(&self) -> Vec<u32> {
        let scaler = self.stack.scaler.id();
        let processes = fs::read_dir("/proc").expect("Linux has /proc").flatten();
        let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        processes.filter(|&process| parent(process) == Some(scaler)).collect()
    }

    fn wait_until(&self, what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !done() {
            let log = fs::read_to_string(self.folder.join("scaler.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "not within 30 s: {what}; the scaler's log:\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn send(signal: Signal, process: u32) {
    let id = Pid::from_raw(process.cast_signed()).expect("a process id is not 0");
    kill_process(id, signal).expect("the process runs and may be signalled");
}

/// The id of the parent of `process` (proc(5): the second field after the name in brackets).
fn parent(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

fn alive(process: u32) -> bool {
    // A zombie (state Z) has ended, but its parent has not waited for it yet.
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Draws eight images in `folder` with loadgen. Returns the last one, which shows a striped square.
fn striped_square(folder: &std::path::Path) -> Vec<u8> {
    let status =
        Command::new(paths::program("loadgen")).arg("pictures").arg(folder).args(["--count=8", "--seed=5"]).status();
    assert!(status.expect("loadgen runs").success());
    fs::read(folder.join("00007.jpg")).expect("loadgen has drawn eight images")
}

/// A file from the data of the replica's tests.
fn fixture(name: &str) -> Vec<u8> {
    fs::read(paths::root().join("replica/tests/data").join(name)).expect("a file of the replica's tests")
}

#[test]
fn images_are_classified_in_every_form_and_after_every_bad_request() {
    let system = System::start("pictures", 1);
    let replicas = system.replicas();
    let jpeg = striped_square(&system.folder.join("pictures"));
    let check = |content_type: &str, body: &[u8]| {
        let (status, answer) = system.post(content_type, body);
        assert_eq!(
            (status, &answer["prediction"]["label"]),
            (200, &"striped square".into()),
            "{content_type}: {answer}"
        );
        assert_eq!(answer["predictions"].as_array().map(Vec::len), Some(3));
        assert_eq!(answer["success"], true);
        assert!(answer["timing_ms"]["inference"].as_f64().is_some_and(|time| time > 0.0), "{answer}");
    };
    check("image/jpeg", &jpeg);
    let head = "--B\r\nContent-Disposition: form-data; name=\"image\"; filename=\"p.jpg\"\r\n\r\n".as_bytes();
    check("multipart/form-data; boundary=B", &[head, &jpeg, b"\r\n--B--\r\n"].concat());
    let encoded = Command::new("base64").arg("-w0").arg(system.folder.join("pictures/00007.jpg")).output();
    let encoded = String::from_utf8(encoded.expect("base64 runs").stdout).expect("base64 is text");
    check("application/json", format!("{{\"image\":\"{encoded}\"}}").as_bytes());

    let thirty_megabytes = vec![0xff; 30_000_000];
    let bomb = (fixture("bomb.jpg"), fixture("bomb.png"));
    for (what, content_type, body, status, code) in [
        ("truncated", "image/jpeg", &jpeg[..jpeg.len() / 2], 400, "bad_image"),
        ("nearly whole", "image/jpeg", &jpeg[..jpeg.len() - 50], 400, "bad_image"),
        ("empty", "image/jpeg", b"", 400, "bad_request"),
        ("text", "image/jpeg", b"not a picture", 400, "bad_image"),
        ("30 MB", "image/jpeg", &thirty_megabytes, 413, "too_large"),
        ("20000x20000 JPEG header", "image/jpeg", &bomb.0, 413, "too_large"),
        ("20000x20000 PNG header", "image/png", &bomb.1, 413, "too_large"),
        ("not JSON", "application/json", b"{", 400, "bad_request"),
        ("unknown content type", "text/plain", &jpeg, 415, "unsupported_media_type"),
    ] {
        let (found, answer) = system.post(content_type, body);
        assert_eq!((found, &answer["code"]), (status, &code.into()), "{what}: {answer}");
        assert!(answer["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{what}: {answer}");
        check("image/jpeg", &jpeg);
    }
    assert_eq!(system.replicas(), replicas, "the same process answered all requests");
}

#[test]
fn loadgen_posts_in_every_form_checks_the_labels_and_counts_replicas() {
    let system = System::start("forms", 1);
    for form in ["raw", "multipart", "json"] {
        let json = system.folder.join("report.json");
        let status = Command::new(paths::program("loadgen"))
            .args(["run", "--quiet", "--generate=24", "--arrivals=uniform", "--rate=6", "--duration=4s", "--top-k=3"])
            .arg(format!("--form={form}"))
            .arg(format!("--url=http://{}/predict", system.stack.dispatcher.address))
            .arg(format!("--scaler={}", system.stack.scaler.address))
            .arg(format!("--json={}", json.display()))
            .status();
        assert!(matches!(status.expect("loadgen starts").code(), Some(0 | 99)));
        let report: Value =
            serde_json::from_slice(&fs::read(&json).expect("loadgen wrote its report")).expect("the report is JSON");
        let summary = &report["summary"];
        assert_eq!((&summary["offered"], &summary["failed"]), (&24.into(), &0.into()), "{form}: {summary}");
        assert!(summary["accuracy"].as_f64() > Some(0.9), "{form}: {summary}");
        let usage = &summary["usage"];
        assert_eq!((&usage["source"], &usage["replica_seconds"]), (&"scaler".into(), &4.0.into()), "{form}: {usage}");
    }
}

#[test]
fn no_request_fails_when_a_replica_is_killed_and_the_scaler_replaces_it() {
    let system = System::start("kill-replica", 2);
    let before = system.replicas();
    let load = system.start_load(10, 6);
    std::thread::sleep(Duration::from_secs(3));
    send(Signal::KILL, before[0]);
    system.wait_until("the scaler has replaced the replica", || {
        let now = system.replicas();
        now.len() == 2 && !now.contains(&before[0]) && system.stack.ready_replicas().is_ok_and(|ready| ready.len() == 2)
    });
    let report = system.report(load);
    let summary = &report["summary"];
    assert_eq!((&summary["offered"], &summary["failed"]), (&60.into(), &0.into()), "{summary}");
    // The replicas have decoded and transformed the images and used the bundled weights, so the labels must be right.
    assert!(summary["accuracy"].as_f64().is_some_and(|accuracy| accuracy >= 0.98), "{summary}");
}

#[test]
fn requests_wait_for_a_new_replica_when_the_only_replica_is_killed() {
    let system = System::start("kill-only-replica", 1);
    let load = system.start_load(6, 3);
    std::thread::sleep(Duration::from_secs(2));
    send(Signal::KILL, system.replicas()[0]);
    let summary = &system.report(load)["summary"];
    assert_eq!((&summary["offered"], &summary["failed"]), (&18.into(), &0.into()), "{summary}");
}

#[test]
fn a_second_system_in_the_same_folder_is_refused_and_the_first_keeps_running() {
    let system = System::start("twice", 1);
    let program = ScalerProgram::Scaler;
    let setup = StackSetup { listen: "127.0.0.1:0", folder: system.folder.clone(), program, scaler: Vec::new() };
    let refused = Stack::start(setup).err().expect("the folder is in use").to_string();
    assert!(refused.contains("another running system uses"), "{refused}");
    assert_eq!(system.stack.ready_replicas().expect("the dispatcher answers").len(), 1);
}

#[test]
fn no_replica_outlives_a_killed_scaler() {
    let system = System::start("kill-scaler", 2);
    let replicas = system.replicas();
    assert_eq!(replicas.len(), 2);
    send(Signal::KILL, system.stack.scaler.id());
    system.wait_until("no replica is left", || !replicas.iter().any(|&process| alive(process)));
}

#[test]
fn a_dispatcher_answers_all_accepted_requests_after_sigterm() {
    let system = System::start("drain", 1);
    let jpeg = striped_square(&system.folder.join("pictures"));
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let posts: Vec<_> = (0..8).map(|_| scope.spawn(|| system.post("image/jpeg", &jpeg).0)).collect();
        // All requests are accepted before the signal. Most still wait then, because the replica takes 50 ms for each.
        let url = format!("http://{}/metrics", system.stack.dispatcher.address);
        system.wait_until("the dispatcher has accepted eight requests", || {
            let metrics = http::get(&url);
            metrics.is_ok_and(|text| text.contains("dispatcher_enqueued_requests_total 8"))
        });
        send(Signal::TERM, system.stack.dispatcher.id());
        posts.into_iter().map(|post| post.join().expect("each request is answered")).collect()
    });
    assert_eq!(answers, [200; 8]);
    system.wait_until("the dispatcher has ended", || !alive(system.stack.dispatcher.id()));
}
