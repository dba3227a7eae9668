//! One stretch of load: wrk on one thread, one body over and over. Knows nothing of who answers.

use super::tool;
use crate::paths;
use anyhow::{Context, Result, ensure};
use std::collections::HashMap;
use std::fmt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Pages, pools and connections have settled by then.
const WARM_UP: Duration = Duration::from_millis(500);

/// For what the warm-up left in flight.
const SETTLE: Duration = Duration::from_millis(100);

/// What to send where.
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    /// `host:port`.
    pub address: &'a str,
    /// Bytes of every request's body.
    pub body: u32,
    /// Kept open, each with one request at a time.
    pub connections: u32,
}

/// What came back. wrk adds to the latencies the requests that a slow answer kept it from sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Answered, whatever the answer.
    pub requests: u64,
    /// First request → last answer.
    pub length: Duration,
    /// Half of the requests took no longer.
    pub p50: Duration,
    /// 99 % took no longer.
    pub p99: Duration,
    /// Those that failed.
    pub errors: Errors,
}

/// Failed requests by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Errors {
    /// Connecting, sending or receiving.
    pub socket: u64,
    /// Answers of status 400 and above.
    pub status: u64,
    /// No answer within wrk's two seconds.
    pub timeout: u64,
}

impl Errors {
    /// Whether nothing failed.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { socket, status, timeout } = self;
        write!(formatter, "{socket} socket errors, {status} error answers, {timeout} timeouts")
    }
}

impl Load<'_> {
    /// Sends for a moment and forgets what came back.
    ///
    /// # Errors
    /// When wrk does not start.
    pub fn warm_up(self) -> Result<()> {
        // wrk takes whole seconds only, so it is stopped.
        let mut wrk = self.command(1)?.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start wrk")?;
        std::thread::sleep(WARM_UP);
        wrk.kill().context("stop wrk")?;
        wrk.wait().context("stop wrk")?;
        std::thread::sleep(SETTLE);
        Ok(())
    }

    /// Sends for `seconds`.
    ///
    /// # Errors
    /// When wrk fails or nothing was answered.
    pub fn send(self, seconds: u32) -> Result<Outcome> {
        let done = self.command(seconds)?.output().context("run wrk")?;
        let printed = String::from_utf8_lossy(&done.stdout);
        let said = || format!("wrk against {} said:\n{printed}{}", self.address, String::from_utf8_lossy(&done.stderr));
        ensure!(done.status.success(), "{}", said());
        let outcome = read(&printed).with_context(said)?;
        ensure!(outcome.requests > 0, "{} answered nothing; {}", self.address, outcome.errors);
        Ok(outcome)
    }

    fn command(self, seconds: u32) -> Result<Command> {
        let mut command = tool::WRK.command()?;
        command.arg("-t1").arg(format!("-c{}", self.connections)).arg(format!("-d{seconds}s"));
        command.arg("-s").arg(paths::root().join("xtask/src/bench/post.lua"));
        command.arg(format!("http://{}/predict", self.address)).arg("--").arg(self.body.to_string());
        Ok(command)
    }
}

/// The line that `post.lua` prints.
fn read(printed: &str) -> Result<Outcome> {
    let line = printed.lines().find_map(|line| line.strip_prefix("outcome ")).context("no outcome")?;
    let pairs: HashMap<_, _> = line.split_whitespace().filter_map(|pair| pair.split_once('=')).collect();
    let number = |name| -> Result<u64> {
        let value = pairs.get(name).with_context(|| format!("no {name}"))?;
        value.parse().with_context(|| format!("{name} is {value:?}"))
    };
    Ok(Outcome {
        requests: number("requests")?,
        length: Duration::from_micros(number("duration_us")?),
        p50: Duration::from_micros(number("p50_us")?),
        p99: Duration::from_micros(number("p99_us")?),
        errors: Errors {
            socket: number("connect")? + number("read")? + number("write")?,
            status: number("status")?,
            timeout: number("timeout")?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_is_found_in_what_wrk_prints() {
        let printed = "Running 2s test @ http://127.0.0.1:1/predict\n  1 threads and 64 connections\n\
            outcome requests=900 duration_us=2000100 p50_us=2150 p99_us=9001 connect=1 read=2 write=4 status=8 \
            timeout=16\n";
        let outcome = read(printed).expect("it is there");
        let errors = Errors { socket: 7, status: 8, timeout: 16 };
        let (p50, p99) = (Duration::from_micros(2150), Duration::from_micros(9001));
        assert_eq!(outcome, Outcome { requests: 900, length: Duration::from_micros(2_000_100), p50, p99, errors });
    }

    #[test]
    fn anything_else_is_refused() {
        for (printed, word) in [
            ("unable to connect to 127.0.0.1:1", "no outcome"),
            ("outcome requests=1", "no duration_us"),
            ("outcome requests=-1", "-1"),
        ] {
            let error = read(printed).expect_err("refused");
            assert!(format!("{error:#}").contains(word), "{printed:?}: {error:#}");
        }
    }
}
