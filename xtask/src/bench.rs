//! `cargo xtask bench`, `parity` and `experiment`: build all programs and run the program `bench`.

use crate::build;
use anyhow::{Context, Result};
use harness::paths;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Arguments for the program `bench`.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// Arguments for the program bench
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// Builds the programs, and replaces this process by `bench [SUBJECT] ARGUMENTS`. Builds only `bench` for its help.
///
/// # Errors
/// If a program does not build, or `bench` cannot be started.
pub fn run(subject: Option<&str>, Arguments { arguments }: &Arguments) -> Result<()> {
    if subject.is_none() && arguments.is_empty() || asks_for_help(arguments) {
        build::bench()?;
    } else {
        build::all()?;
    }
    let error = Command::new(paths::program("bench")).args(subject).args(arguments).exec();
    Err(error).context("run bench")
}

/// Whether the arguments ask for the help of `bench`. Arguments after `--` are for another program.
fn asks_for_help(arguments: &[OsString]) -> bool {
    let own = arguments.iter().take_while(|argument| *argument != "--");
    own.into_iter().any(|argument| ["-h", "--help", "help"].iter().any(|help| argument == help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_for_the_help_of_bench_are_recognised() {
        for (arguments, expected) in [
            (vec!["--help"], true),
            (vec!["replica", "-h"], true),
            (vec!["help", "replica"], true),
            (vec!["replica", "--only", "startup"], false),
            (vec!["hpa", "--", "--help"], false),
        ] {
            let owned: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            assert_eq!(asks_for_help(&owned), expected, "{arguments:?}");
        }
    }
}
