//! Runs wrk, which sends the same body again and again from one thread. Knows nothing of the server.

use super::tool;
use crate::python::peers;
use anyhow::{Context, Result, ensure};
use std::collections::HashMap;
use std::fmt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Length of the load before a measurement. After it, a server's memory and connection pools no longer change.
const WARM_UP: Duration = Duration::from_millis(500);

/// Time after the warm-up in which the server answers the requests that are still in flight.
const SETTLE: Duration = Duration::from_millis(100);

/// A load on one address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WrkLoad<'a> {
    /// The server's address, `host:port`.
    pub(crate) address: &'a str,
    /// The size of every request's body, in bytes.
    pub(crate) body: u32,
    /// The number of connections, which are kept. Each has one request at a time.
    pub(crate) connections: u32,
}

/// The report of a run of wrk. wrk corrects its latencies: where a slow answer has kept it from sending requests, it
/// adds latencies for these requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WrkReport {
    /// The number of requests that were answered, with any status.
    pub(crate) requests: u64,
    /// The length of the run.
    pub(crate) length: Duration,
    /// The median latency.
    pub(crate) p50: Duration,
    /// The 99th percentile of the latency.
    pub(crate) p99: Duration,
    /// The numbers of failed requests.
    pub(crate) errors: WrkErrors,
}

/// The numbers of failed requests by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WrkErrors {
    /// Errors of connecting, sending and receiving.
    pub(crate) socket: u64,
    /// Answers with a status of 400 or above.
    pub(crate) status: u64,
    /// Requests that were not answered within wrk's timeout of two seconds.
    pub(crate) timeout: u64,
}

impl WrkErrors {
    /// Whether no request failed.
    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Display for WrkErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { socket, status, timeout } = self;
        write!(formatter, "{socket} socket errors, {status} error answers, {timeout} timeouts")
    }
}

impl WrkLoad<'_> {
    /// Sends requests for half a second, without a report.
    ///
    /// # Errors
    /// If wrk is not installed or does not start.
    pub(crate) fn warm_up(self) -> Result<()> {
        // wrk runs for whole seconds only, so it is killed before the first one is over.
        let mut wrk = self.command(1)?.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start wrk")?;
        std::thread::sleep(WARM_UP);
        wrk.kill().context("stop wrk after the warm-up")?;
        wrk.wait().context("stop wrk after the warm-up")?;
        std::thread::sleep(SETTLE);
        Ok(())
    }

    /// Sends requests for `seconds` seconds. Returns the report.
    ///
    /// # Errors
    /// If wrk fails, or no request was answered.
    pub(crate) fn send(self, seconds: u32) -> Result<WrkReport> {
        let output = self.command(seconds)?.output().context("run wrk")?;
        let [stdout, stderr] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        let printed = || format!("wrk against {} printed:\n{stdout}{stderr}", self.address);
        ensure!(output.status.success(), "{}", printed());
        let report = read(&stdout).with_context(printed)?;
        ensure!(report.requests > 0, "{} answered no request: {}", self.address, report.errors);
        Ok(report)
    }

    fn command(self, seconds: u32) -> Result<Command> {
        let mut command = tool::WRK.command()?;
        command.arg("-t1").arg(format!("-c{}", self.connections)).arg(format!("-d{seconds}s"));
        command.arg("-s").arg(peers().join("wrk.lua"));
        command.arg(format!("http://{}/predict", self.address)).arg("--").arg(self.body.to_string());
        Ok(command)
    }
}

/// Parses the line that `bench/peers/wrk.lua` prints.
fn read(printed: &str) -> Result<WrkReport> {
    let line = printed.lines().find_map(|line| line.strip_prefix("outcome ")).context("no line starts with outcome")?;
    let pairs: HashMap<_, _> = line.split_whitespace().filter_map(|pair| pair.split_once('=')).collect();
    let number = |name| -> Result<u64> {
        let value = pairs.get(name).with_context(|| format!("the line that starts with outcome has no {name}"))?;
        value.parse().with_context(|| format!("{name} is {value:?}, not a number"))
    };
    Ok(WrkReport {
        requests: number("requests")?,
        length: Duration::from_micros(number("duration_us")?),
        p50: Duration::from_micros(number("p50_us")?),
        p99: Duration::from_micros(number("p99_us")?),
        errors: WrkErrors {
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
    fn the_report_is_read_from_the_output_of_wrk() {
        let printed = "Running 2s test @ http://127.0.0.1:1/predict\n  1 threads and 64 connections\n\
            outcome requests=900 duration_us=2000100 p50_us=2150 p99_us=9001 connect=1 read=2 write=4 status=8 \
            timeout=16\n";
        let report = read(printed).expect("well formed");
        let errors = WrkErrors { socket: 7, status: 8, timeout: 16 };
        let (p50, p99) = (Duration::from_micros(2150), Duration::from_micros(9001));
        assert_eq!(report, WrkReport { requests: 900, length: Duration::from_micros(2_000_100), p50, p99, errors });
    }

    #[test]
    fn malformed_output_is_an_error() {
        for (printed, word) in [
            ("unable to connect to 127.0.0.1:1", "no line"),
            ("outcome requests=1", "no duration_us"),
            ("outcome requests=-1", "-1"),
        ] {
            let error = read(printed).expect_err("refused");
            assert!(format!("{error:#}").contains(word), "{printed:?}: {error:#}");
        }
    }
}
