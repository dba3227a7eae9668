//! Runs other programs, each with a time limit, so that no step waits for ever. Does not know what the programs do.

use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// Time limit of a program that is started only to test whether it runs.
pub const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// Time between two checks whether a program has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The environment variables that name a proxy for HTTP.
const PROXY_VARIABLES: [&str; 6] = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Waits for the end of a program; `None` if it still runs after `limit`.
///
/// `Child::wait` is no alternative: it closes the child's standard input, which tells our services to stop.
///
/// # Errors
/// If the system cannot tell whether the program has ended.
pub fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Runs a program to its end, with the standard streams of this process.
///
/// # Errors
/// If the program cannot be started or is killed because it still runs after `limit`.
pub fn status(command: &mut Command, limit: Duration) -> Result<ExitStatus> {
    let mut child = command.spawn().with_context(|| format!("start {}", name(command)))?;
    finish(&mut child, command, limit)
}

/// Runs a program like [`status`] and checks its exit status.
///
/// # Errors
/// If the program cannot be started, fails, or is killed because it still runs after `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Result<()> {
    let status = status(command, limit)?;
    ensure!(status.success(), "{} failed ({status}); its messages are above", name(command));
    Ok(())
}

/// Runs a program to its end and returns its output. A program that writes more than a pipe holds (64 KiB) would block
/// until `limit`.
///
/// # Errors
/// If the program cannot be started or is killed because it still runs after `limit`.
pub fn output(command: &mut Command, limit: Duration) -> Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {}", name(command)))?;
    finish(&mut child, command, limit)?;
    child.wait_with_output().with_context(|| format!("read the output of {}", name(command)))
}

/// Whether a program can be started and succeeds. Its output is discarded.
pub fn succeeds(program: impl AsRef<OsStr>, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    status(&mut command, PROBE_LIMIT).is_ok_and(|status| status.success())
}

/// Removes the proxies from a program's environment. No proxy can reach this machine's loopback addresses.
pub fn without_proxy(command: &mut Command) -> &mut Command {
    for variable in PROXY_VARIABLES {
        command.env_remove(variable);
    }
    command
}

fn finish(child: &mut Child, command: &Command, limit: Duration) -> Result<ExitStatus> {
    if let Some(status) = wait(child, limit).with_context(|| format!("wait for {}", name(command)))? {
        return Ok(status);
    }
    // A program under sudo runs as root and cannot be killed. Waiting for it could take for ever.
    let is_killed = child.kill().is_ok();
    if is_killed {
        child.wait().with_context(|| format!("wait for {}", name(command)))?;
    }
    let result = if is_killed { "was killed" } else { "cannot be killed; end it yourself" };
    bail!("{} did not end within {} s and {result}", name(command), limit.as_secs())
}

/// The program and its first arguments, for messages.
fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let arguments = command.get_args().take(3).map(|argument| format!(" {}", argument.display()));
    program.file_name().unwrap_or(program.as_os_str()).display().to_string() + &arguments.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_stopped() {
        let started = Instant::now();
        let error = run(Command::new("sleep").arg("60"), Duration::from_millis(100)).expect_err("stopped").to_string();
        assert!(error.contains("sleep 60 did not end"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn the_error_names_the_program() {
        for (command, expected) in [(vec!["false"], "false failed"), (vec!["/no/such"], "start such")] {
            let error = run(Command::new(command[0]).args(&command[1..]), PROBE_LIMIT).expect_err("fails");
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
        assert!(succeeds("true", &[]) && !succeeds("false", &[]) && !succeeds("/no/such", &[]));
    }
}
