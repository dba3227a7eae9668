//! The message and the exit status of a benchmark that fails.

use std::process::{Command, Output};

/// Runs a benchmark that fails at once. Of the environment variables for backtraces, only `variables` are set.
fn failing(variables: &[(&str, &str)]) -> Output {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    bench.args(["parity", "--python=/no/such/python"]).env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE");
    bench.envs(variables.iter().copied()).output().expect("bench runs")
}

#[test]
fn a_failing_benchmark_prints_its_message_and_a_backtrace_only_if_rust_lib_backtrace_is_1() {
    const MESSAGE: &str = "error: --python: /no/such/python --version fails; name a Python interpreter, or leave the \
        flag out\n";
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
