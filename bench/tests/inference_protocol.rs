//! Clients of the Open Inference Protocol at the dispatcher, before a real replica. They compare their answers with those
//! of `POST /predict`. Without a client, its test prints that it was skipped.

use harness::stack::ServiceProcess;
use harness::{http, paths};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// A dispatcher and its replica.
struct System {
    dispatcher: ServiceProcess,
    _replica: ServiceProcess,
}

impl System {
    /// Starts both programs, with logs in the folder `name`, and waits until the replica is ready.
    fn start(name: &str) -> Self {
        let logs = paths::output(name);
        std::fs::create_dir_all(&logs).expect("the folder can be made");
        let start = |name, flags: &[&str]| {
            let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
            ServiceProcess::start(name, &flags, &logs).unwrap_or_else(|error| panic!("{error:#}"))
        };
        let replica = start("replica", &["--listen=127.0.0.1:0", "--capacity=2"]);
        let source = format!("--replicas=static:{}", replica.address);
        let flags = ["--listen=127.0.0.1:0", &source, "--objective=20s", "--deadline=30s"];
        let dispatcher = start("dispatcher", &flags);
        let give_up = Instant::now() + Duration::from_secs(120);
        while let Err(error) = http::get(&format!("http://{}/v2/health/ready", dispatcher.address)) {
            assert!(Instant::now() < give_up, "{error:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { dispatcher, _replica: replica }
    }
}

/// The interpreter of the Python environment `tool`, which the environment variable `variable` may name; `None` if there
/// is none, or no replica.
fn python(tool: &str, variable: &str) -> Option<PathBuf> {
    let python = std::env::var_os(variable).map_or(paths::tool(tool).join("bin/python"), Into::into);
    if python.exists() && paths::program("replica").exists() {
        return Some(python);
    }
    // `eprintln!` would print nothing, because the output of passing tests is captured.
    let reason = format!("skipped: there is no {} or no replica; see cargo xtask doctor", python.display());
    writeln!(std::io::stderr(), "{reason}").expect("standard error is open");
    None
}

/// Runs a client, which must succeed.
fn run(client: &mut Command) {
    let output = client.output().expect("the client starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn tritons_client_gets_the_same_classes_through_the_dispatcher() {
    let Some(python) = python("tritonclient", "ROUNDHOUSE_TRITONCLIENT") else { return };
    let system = System::start("triton-client");
    let script = paths::root().join("replica/tests/program/client.py");
    run(Command::new(python).arg(script).arg(&system.dispatcher.address));
}

#[test]
fn kserves_client_gets_the_same_class_through_the_dispatcher() {
    let Some(python) = python("kserve", "ROUNDHOUSE_KSERVE") else { return };
    let system = System::start("kserve-client");
    let [script, picture] =
        ["bench/tests/kserve_client.py", "replica/tests/data/grey.jpg"].map(|path| paths::root().join(path));
    run(Command::new(python).arg(script).arg(&system.dispatcher.address).arg(picture));
}
