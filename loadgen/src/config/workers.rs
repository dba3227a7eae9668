//! Flags of `loadgen run` that divide its load among workers, and those of `loadgen worker`.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Largest number of workers of one run.
const MAX_WORKERS: usize = 64;

/// Flags of `loadgen run` that choose the workers.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Addresses of workers (`loadgen worker`) that send the load together, separated by commas, as in
    /// 10.0.0.5:5060,10.0.0.6:5060; this process then sends nothing
    #[arg(
        long,
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        value_parser = address,
        conflicts_with_all = ["log", "find_capacity", "runs", "metrics_listen"]
    )]
    pub workers: Vec<String>,
    /// File with the token that the workers require
    #[arg(long, value_name = "FILE", requires = "workers")]
    pub workers_token_file: Option<PathBuf>,
}

impl Args {
    /// The reason why the addresses cannot be used together with each other and with `--closed`; `None` if they can.
    pub fn error(&self, closed: Option<u32>) -> Option<&'static str> {
        let mut sorted: Vec<&String> = self.workers.iter().collect();
        sorted.sort_unstable();
        if self.workers.len() > MAX_WORKERS {
            Some("--workers has more than 64 addresses; name fewer")
        } else if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            Some("--workers has an address twice; a worker sends one part of a load at a time")
        } else if closed.is_some_and(|closed| (closed as usize) < self.workers.len()) {
            Some("--closed is less than the number of --workers; a worker would have nothing to send")
        } else {
            None
        }
    }
}

/// Flags of `loadgen worker`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example, with two machines that send and a third that coordinates them:\n  \
    loadgen worker --listen 10.0.0.5:5060 --token-file token\n  \
    loadgen worker --listen 10.0.0.6:5060 --token-file token\n  \
    loadgen run --workers 10.0.0.5:5060,10.0.0.6:5060 --workers-token-file token \\\n      \
    --url http://10.0.0.9:5052/predict --rate 20000 --duration 60s\n\n\
    The connection between them is not encrypted. Ctrl-C ends the worker.")]
pub struct WorkerArgs {
    /// Address to listen on; --token-file is required unless it is a loopback address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5060")]
    pub listen: SocketAddr,
    /// File with the token that a run must present (--workers-token-file)
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// Parses the address of a worker, `host:port`.
fn address(text: &str) -> Result<String, String> {
    let text = text.trim();
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let is_host = host.starts_with('[') == host.ends_with(']')
        && (host.starts_with('[') || !host.contains(':'))
        && !host.is_empty()
        && host.chars().all(|character| character.is_ascii_graphic() && !"/?#@,".contains(character));
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    if is_host && is_port && text.len() <= 300 {
        Ok(text.to_owned())
    } else {
        Err("write the address of a worker like 10.0.0.5:5060 or [fd00::5]:5060".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_worker_is_a_host_and_a_port() {
        for good in ["127.0.0.1:5060", "worker-1.load:80", "[::1]:5060"] {
            assert_eq!(address(good).as_deref(), Ok(good));
        }
        for bad in ["", ":5060", "a", "a:", "a:0", "a:70000", "::1:5060", "[::1]", "http://a:5060", "a b:1", "a\n:1"] {
            assert!(address(bad).is_err_and(|error| error.contains("10.0.0.5:5060")), "{bad:?}");
        }
    }

    #[test]
    fn too_many_repeated_and_idle_workers_are_refused() {
        let args = |workers: Vec<String>| Args { workers, workers_token_file: None };
        let many = |count: usize| args((0..count).map(|index| format!("a:{}", index + 1)).collect());
        assert_eq!(many(64).error(None), None);
        assert!(many(65).error(None).is_some_and(|error| error.contains("more than 64")));
        assert!(args(vec!["a:1".into(), "b:1".into(), "a:1".into()]).error(None).is_some_and(|e| e.contains("twice")));
        assert_eq!(many(2).error(Some(2)), None);
        assert!(many(3).error(Some(2)).is_some_and(|error| error.contains("--closed")));
        assert_eq!(many(0).error(Some(1)), None);
    }
}
