//! The exit status and the messages of programs that fail.

use harness::paths;
use std::process::Command;

#[test]
fn a_failing_task_prints_one_message_and_no_backtrace() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("libtorch")
        .env("LIBTORCH", "/no/such/folder")
        .env("RUST_BACKTRACE", "1")
        .env_remove("RUST_LIB_BACKTRACE")
        .output()
        .expect("xtask runs");
    let stderr = String::from_utf8(output.stderr).expect("the message is text");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn every_failing_program_prints_its_message_last_and_no_backtrace() {
    for (name, arguments) in [
        ("dispatcher", &["--replicas=file:/no/such/folder/replicas", "--listen=127.0.0.1:0"][..]),
        ("scaler", &["status", "--scaler=127.0.0.1:1"]),
        ("replica", &["--weights=/no/such/weights.pth", "--listen=127.0.0.1:0"]),
        ("loadgen", &["run", "--workload=/no/such/workload"]),
        ("lab", &["simulate", "--workload=/no/such/workload"]),
    ] {
        let mut program = Command::new(paths::program(name));
        program.args(arguments).env("RUST_BACKTRACE", "1").env_remove("RUST_LIB_BACKTRACE");
        let output = program.output().unwrap_or_else(|error| panic!("start {name}, which must be built: {error}"));
        let stderr = String::from_utf8(output.stderr).expect("the message is text");
        assert_eq!(output.status.code(), Some(1), "{name}: {stderr}");
        let last = stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: ") && !stderr.contains("Stack backtrace"), "{name}: {stderr}");
    }
}
