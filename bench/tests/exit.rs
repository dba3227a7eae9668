//! How a failing benchmark ends.

use std::process::{Command, Output};

/// Runs a benchmark that fails at once, with these environment variables and no other ones for backtraces.
fn failing(variables: &[(&str, &str)]) -> Output {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    bench.args(["parity", "--python=/no/such/python"]).env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE");
    bench.envs(variables.iter().copied()).output().expect("bench runs")
}

#[test]
fn an_error_ends_with_its_message_and_a_backtrace_only_if_that_was_asked_for() {
    const MESSAGE: &str = "error: --python (/no/such/python) does not run\n";
    for (variables, has_backtrace) in [
        (&[][..], false),
        (&[("RUST_BACKTRACE", "1")], false),
        (&[("RUST_LIB_BACKTRACE", "0")], false),
        (&[("RUST_LIB_BACKTRACE", "1")], true),
    ] {
        let output = failing(variables);
        let stderr = String::from_utf8(output.stderr).expect("the message is text");
        assert_eq!(output.status.code(), Some(1), "{variables:?}: {stderr}");
        assert!(stderr.starts_with(MESSAGE), "{variables:?}: {stderr}");
        assert_eq!(stderr != MESSAGE, has_backtrace, "{variables:?}: {stderr}");
    }
}
