//! Resident memory after many requests of mixed sizes, and whether it still grows.

use super::clients::Client;
use super::figure::Figure;
use super::{Bench, subject};
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;

/// Megabytes (10^6 bytes): at the end, at its highest, and how much came after the first tenth of the requests.
///
/// # Errors
/// When the replica does not start, or fails to answer.
pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let pictures = &bench.pictures().mixed;
    let read = |path: &PathBuf| fs::read(path).with_context(|| format!("read {}", path.display()));
    let pictures: Vec<Vec<u8>> = pictures.iter().map(read).collect::<Result<_>>()?;
    let replica = subject::start(bench.folder)?;
    let client = Client::of(&replica);
    let progress = bench.progress(bench.requests, "memory");
    let early = bench.requests / 10;
    let mut early_mb = 0.0;
    for (number, picture) in (1..=bench.requests).zip(pictures.iter().cycle()) {
        client.post(picture)?;
        if number == early {
            early_mb = status(replica.id(), "VmRSS")?;
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    let last_mb = status(replica.id(), "VmRSS")?;
    let figure = |name: &str, value| Figure { name: name.into(), value, unit: "MB" };
    Ok(vec![
        figure("rss_mb", last_mb),
        figure("rss_growth_mb", last_mb - early_mb),
        figure("rss_peak_mb", status(replica.id(), "VmHWM")?),
    ])
}

fn status(process: u32, name: &str) -> Result<f64> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    megabytes(&text, name).with_context(|| format!("no {name} in {path}"))
}

/// proc_pid_status(5) counts in units of 1024 bytes, which it calls kB.
fn megabytes(status: &str, name: &str) -> Option<f64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: f64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_by_name() {
        let status = "VmHWM:\t  400000 kB\nVmRSS:\t  250000 kB\nRssAnon:\t 9 kB\n";
        assert_eq!(megabytes(status, "VmRSS"), Some(256.0));
        assert_eq!(megabytes(status, "VmHWM"), Some(409.6));
        assert_eq!(megabytes(status, "Vm"), None);
    }
}
