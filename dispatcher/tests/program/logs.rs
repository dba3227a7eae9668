//! Tests of the dispatcher's logs of requests.

use crate::process::{self, Program, RunningDispatcher, until_logged};
use crate::stub::{self, StubBehavior, StubReplica};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

#[tokio::test]
async fn each_request_has_a_line_in_the_access_log_with_its_id_and_attempts() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("access.jsonl");
    let (bad, good) =
        (StubReplica::start(StubBehavior::closes()).await, StubReplica::start(StubBehavior::Prompt).await);
    let flags = [&format!("--access-log={}", path.display()), "--max-body-bytes=1000"];
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&bad, &good]), &flags).await;
    dispatcher.until_states(&["ready", "ready"]).await;
    for number in 0..4 {
        let id = format!("order-{number}");
        assert_eq!(dispatcher.post(&[("x-request-id", &id)]).await.status, 200);
    }
    assert_eq!(dispatcher.post_body(&[("x-request-id", "large")], vec![0; 1001]).await.status, 413);
    let gated = StubBehavior::Gated(Arc::new(Semaphore::new(0)));
    good.set_behavior(gated);
    let late = dispatcher.post(&[("x-request-id", "late"), ("x-request-timeout-ms", "100")]).await;
    assert_eq!(late.status, 504);
    dispatcher.program.signal("TERM").await;
    let lines = wait_for_lines(&path, 6).await;
    let line =
        |id: &str| lines.iter().find(|line| line["request_id"] == id).unwrap_or_else(|| panic!("{id}: {lines:?}"));
    for number in 0..4 {
        let line = line(&format!("order-{number}"));
        assert_eq!((&line["status"], &line["code"], &line["verdict"]), (&200.into(), &"ok".into(), &"good".into()));
        assert_eq!(line["replica"], good.address);
        assert!(line["total_ms"].as_f64() >= line["queue_ms"].as_f64(), "{line}");
    }
    let failures = lines.iter().filter(|line| line["failures"] == serde_json::json!(["reset"])).count();
    assert!((1..=3).contains(&failures), "{lines:?}");
    assert_eq!((&line("large")["status"], &line("large")["attempts"]), (&413.into(), &0.into()));
    let failures = line("late")["failures"].as_array().cloned().unwrap_or_default();
    assert_eq!(failures.last(), Some(&"deadline".into()), "{}", line("late"));
    assert_eq!(line("late")["attempts"], failures.len());
    assert_eq!(line("late")["replica"], good.address);
    assert_eq!((&line("late")["code"], &line("late")["verdict"]), (&"deadline_exceeded".into(), &"failed".into()));
}

/// Waits until the file `path` has `count` lines of JSON.
async fn wait_for_lines(path: &Path, count: usize) -> Vec<serde_json::Value> {
    let read = async {
        loop {
            let text = std::fs::read_to_string(path).expect("the log is there");
            let lines: Vec<_> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            if lines.len() >= count {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("the lines are written within ten seconds")
}

#[tokio::test]
async fn slow_requests_are_logged_with_their_id() {
    let stub = StubReplica::start(StubBehavior::Delayed(Duration::from_millis(120))).await;
    let source = format!("--replicas={}", stub::static_list(&[&stub]));
    let (program, mut log) = Program::start_with_log(&[&source, "--slow-log=100ms"]).await;
    let dispatcher = RunningDispatcher::new(program);
    assert_eq!(dispatcher.post(&[("x-request-id", "order-7")]).await.status, 200);
    until_logged(&mut log, "order-7").await;
}

#[tokio::test]
async fn an_access_log_that_cannot_be_written_is_an_error_that_names_the_flag() {
    let output =
        process::command(&["--replicas=static:127.0.0.1:1", "--access-log=/no/such/folder/log"]).output().await;
    let error = String::from_utf8(output.expect("the program runs").stderr).expect("UTF-8");
    assert!(error.contains("--access-log /no/such/folder/log"), "{error}");
}

#[tokio::test]
async fn a_reader_of_the_access_log_that_has_stopped_neither_delays_requests_nor_keeps_the_process() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let mut dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &["--access-log=-"]).await;
    // The test does not read the standard output, whose pipe takes 64 KiB.
    let id = "x".repeat(128);
    for _ in 0..400 {
        assert_eq!(dispatcher.post(&[("x-request-id", &id)]).await.status, 200);
    }
    dispatcher.program.signal("TERM").await;
    let ended = tokio::time::timeout(Duration::from_secs(20), dispatcher.program.child.wait()).await;
    assert!(ended.expect("the process ends").expect("it was started here").success());
}
