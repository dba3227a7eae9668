//! Triton's client at the dispatcher, before a real replica. The client compares its answers with those of
//! `POST /predict`. Without the client, the test prints that it was skipped.

use harness::stack::ServiceProcess;
use harness::{http, paths};
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn tritons_client_gets_the_same_classes_through_the_dispatcher() {
    let python = std::env::var_os("ROUNDHOUSE_TRITONCLIENT").map_or(paths::tool("tritonclient/bin/python"), Into::into);
    if !python.exists() || !paths::program("replica").exists() {
        // `eprintln!` would print nothing, because the output of passing tests is captured.
        let reason = format!("skipped: there is no {} or no replica; see cargo xtask doctor", python.display());
        writeln!(std::io::stderr(), "{reason}").expect("standard error is open");
        return;
    }
    let logs = paths::output("inference-protocol");
    std::fs::create_dir_all(&logs).expect("the folder can be made");
    let start = |name, flags: &[&str]| {
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        ServiceProcess::start(name, &flags, &logs).unwrap_or_else(|error| panic!("{error:#}"))
    };
    let replica = start("replica", &["--listen=127.0.0.1:0", "--capacity=2"]);
    let source = format!("--replicas=static:{}", replica.address);
    let times = ["--objective=20s", "--deadline=30s"];
    let dispatcher = start("dispatcher", &[&["--listen=127.0.0.1:0", &source][..], &times].concat());
    let script = paths::root().join("replica/tests/program/client.py");
    wait_until_ready(&dispatcher.address);
    let output = Command::new(python).arg(script).arg(&dispatcher.address).output().expect("the client starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until the dispatcher has a ready replica. The replica needs some seconds to load its model.
fn wait_until_ready(address: &str) {
    let give_up = Instant::now() + Duration::from_secs(120);
    while let Err(error) = http::get(&format!("http://{address}/v2/health/ready")) {
        assert!(Instant::now() < give_up, "{error:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
