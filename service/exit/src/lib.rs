//! How a program ends: the message that the user sees, and the exit status. It is a crate of its own, so that the task
//! runner (`xtask`) can use it without compiling a server's libraries.

use anyhow::{Error, Result};
use std::process::{ExitCode, Termination};

/// The environment variable that switches on the backtraces of errors.
const BACKTRACE: &str = "RUST_LIB_BACKTRACE";

/// Returns the exit status of a program: the status of its value (0 for `()`), or 1 after an error. An error is printed
/// to standard error with its causes, for example `error: start the replica: no such file`.
///
/// A backtrace follows only if `RUST_LIB_BACKTRACE=1` is set. `RUST_BACKTRACE` alone switches on the backtraces of
/// panics, but not those of errors.
pub fn report<T: Termination>(result: Result<T>) -> ExitCode {
    match result {
        Ok(status) => status.report(),
        Err(error) => {
            let backtrace = std::env::var_os(BACKTRACE).is_some_and(|value| value == "1");
            eprintln!("{}", message(&error, backtrace));
            ExitCode::FAILURE
        }
    }
}

fn message(error: &Error, backtrace: bool) -> String {
    let message = format!("error: {error:#}");
    if backtrace { format!("{message}\n\n{}", error.backtrace()) } else { message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_every_cause() {
        let error = Error::msg("no such file").context("start the replica");
        assert_eq!(message(&error, false), "error: start the replica: no such file");
        assert!(message(&error, true).starts_with("error: start the replica: no such file\n\n"));
    }
}
