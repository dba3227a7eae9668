//! The addresses of the programs whose metrics are read: those that the flags name, and those that names resolve to.
//! Fetches `/metrics`. Knows nothing of the load.

use crate::program_metrics::{ProgramMetrics, desired_replicas};
use anyhow::{Context, Result, anyhow, bail, ensure};
use futures_util::future::join_all;
use hyper::StatusCode;
use service::fetch;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Largest number of addresses that are scraped.
pub const MAX_ADDRESSES: usize = 64;

/// Time between two lookups of a name.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(10);

/// Longest time for one lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time for a scrape before the load. It is longer than one during the load, because a program that starts may
/// be slow.
const FIRST_TIMEOUT: Duration = Duration::from_secs(5);

/// Most targets of a scaler that a message names, and the most characters of each name.
const MAX_LISTED: usize = 10;
const MAX_NAME_CHARS: usize = 100;

/// Invariant of the lock on the addresses.
const UNPOISONED: &str = "no task panics while it holds the lock on the addresses";

/// A program, or several, whose `/metrics` are read. The text is `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScrapeSource {
    /// The program at this address.
    Address(String),
    /// The programs at all addresses of this name.
    Name(String),
}

impl fmt::Display for ScrapeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => f.write_str(address),
            Self::Name(name) => write!(f, "dns:{name}"),
        }
    }
}

/// The programs whose metrics are read. Clones share the addresses that names resolved to.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// The host of the URL. It need not have metrics.
    host: Option<ScrapeSource>,
    /// The programs that flags name.
    named: Vec<ScrapeSource>,
    /// The target of the scalers whose replicas count; `None` if the scalers have one target, or if there is no scaler.
    pub scaler_target: Option<String>,
    /// The addresses that each name resolved to last.
    resolved: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
}

impl Watch {
    /// Watches `host`, the host of the URL, and the programs that flags name.
    pub fn new(host: Option<ScrapeSource>, named: Vec<ScrapeSource>, scaler_target: Option<String>) -> Self {
        Self { host, named, scaler_target, resolved: Arc::default() }
    }

    /// Resolves all names and scrapes each named program once, so that a mistake is noticed before the load.
    ///
    /// # Errors
    /// If a name cannot be resolved, no address of a source answers with the metrics of a dispatcher or a scaler, there
    /// are too many addresses, or the target whose replicas count is unknown or ambiguous.
    pub async fn check(&self) -> Result<()> {
        let mut programs = Vec::new();
        let mut addresses = BTreeSet::new();
        for source in &self.named {
            let of_source = match source {
                ScrapeSource::Address(address) => vec![address.clone()],
                ScrapeSource::Name(name) => self.resolve(name).await?,
            };
            let answers = join_all(of_source.iter().map(|address| scrape(address, FIRST_TIMEOUT))).await;
            addresses.extend(of_source);
            let (found, errors): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
            if let (true, Some(Err(error))) = (found.is_empty(), errors.into_iter().next()) {
                let hint = "leave --scrape or --scaler out if nothing runs there";
                return Err(error.context(format!("read the metrics of {source}; {hint}")));
            }
            programs.extend(found.into_iter().flatten());
        }
        ensure!(
            addresses.len() <= MAX_ADDRESSES,
            "the metrics of {} addresses are to be read, and {MAX_ADDRESSES} are the most; name fewer with --scrape",
            addresses.len()
        );
        let desired = desired_replicas(&programs);
        check_target(self.scaler_target.as_deref(), desired.keys().map(String::as_str))
    }

    /// The addresses of all sources, without repetitions, at most [`MAX_ADDRESSES`].
    pub fn addresses(&self) -> BTreeSet<String> {
        let resolved = self.resolved.lock().expect(UNPOISONED);
        let of_source = |source: &ScrapeSource| match source {
            ScrapeSource::Address(address) => vec![address.clone()],
            ScrapeSource::Name(name) => resolved.get(name).cloned().unwrap_or_default(),
        };
        self.host
            .iter()
            .chain(&self.named)
            .flat_map(of_source)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .take(MAX_ADDRESSES)
            .collect()
    }

    /// Resolves all names again and again. Never returns. A name that cannot be resolved keeps its last addresses.
    pub async fn follow_names(&self) {
        let mut tick = tokio::time::interval(LOOKUP_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            for source in &self.named {
                if let ScrapeSource::Name(name) = source {
                    let _kept_on_error = self.resolve(name).await;
                }
            }
        }
    }

    /// Resolves `name`, which is `HOST:PORT`, and keeps its addresses.
    async fn resolve(&self, name: &str) -> Result<Vec<String>> {
        let lookup = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host(name)).await;
        let found = lookup.with_context(|| format!("resolve {name}: no answer within {LOOKUP_TIMEOUT:?}"))?;
        let found = found.with_context(|| format!("resolve {name}; check the name after dns:"))?;
        let addresses: Vec<String> = found.map(|address| address.to_string()).collect();
        ensure!(!addresses.is_empty(), "resolve {name}: the name has no address; check the name after dns:");
        self.resolved.lock().expect(UNPOISONED).insert(name.to_owned(), addresses.clone());
        Ok(addresses)
    }
}

/// The metrics of the program at `address`, `HOST:PORT`.
///
/// # Errors
/// If the whole answer does not come within `timeout`, or is not that of a dispatcher or a scaler.
pub async fn scrape(address: &str, timeout: Duration) -> Result<ProgramMetrics> {
    let (status, body) = fetch::get(address, "/metrics", timeout).await?;
    ensure!(status == StatusCode::OK, "http://{address}/metrics answered with status {status}");
    ProgramMetrics::parse(&body).ok_or_else(|| {
        anyhow!(
            "http://{address}/metrics has no metrics of a dispatcher or a scaler; give the address that serves them"
        )
    })
}

/// Checks that the replicas of one target can be counted: `wanted` if it is given, or else the only one of `targets`.
/// Without targets there is nothing to check, because a scaler exports them from its first decision on.
fn check_target<'a>(wanted: Option<&str>, targets: impl ExactSizeIterator<Item = &'a str>) -> Result<()> {
    let count = targets.len();
    match wanted {
        None if count > 1 => bail!(
            "the scaler has {count} targets: {}; name the one whose replicas count with --scaler-target",
            list(&targets.collect::<Vec<_>>())
        ),
        Some(wanted) if count > 0 => {
            let targets: Vec<&str> = targets.collect();
            ensure!(
                targets.contains(&wanted),
                "--scaler-target {wanted:?}: the scaler has no such target; it has {}",
                list(&targets)
            );
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The names of the first targets. A program chooses them, so control characters are escaped and long names are cut.
fn list(targets: &[&str]) -> String {
    let name = |target: &&str| target.chars().take(MAX_NAME_CHARS).flat_map(char::escape_debug).collect();
    let mut names: Vec<String> = targets.iter().take(MAX_LISTED).map(name).collect();
    if targets.len() > MAX_LISTED {
        names.push("…".into());
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_must_be_named_among_several_and_must_exist() {
        let error = |wanted, targets: &[&'static str]| {
            check_target(wanted, targets.iter().copied()).err().map(|error| error.to_string())
        };
        assert_eq!(error(None, &["a"]), None);
        assert_eq!(error(Some("b"), &["a", "b"]), None);
        assert_eq!(error(Some("b"), &[]), None);
        assert!(error(None, &["a", "b"]).is_some_and(|error| error.contains("2 targets: a, b; name")));
        let many = error(None, &["\u{1b}[31m"; 10_000]).expect("too many");
        assert!(many.len() < 300 && many.contains("\\u{1b}[31m, …; name") && !many.contains('\u{1b}'), "{many}");
        assert!(error(Some("c"), &["a", "b"]).is_some_and(|error| error.contains("\"c\"") && error.contains("a, b")));
    }

    #[tokio::test]
    async fn a_name_stands_for_its_addresses_and_repetitions_count_once() {
        let address = ScrapeSource::Address("127.0.0.1:7".into());
        let named = vec![address.clone(), ScrapeSource::Name("localhost:9".into())];
        let watch = Watch::new(Some(address), named, None);
        assert_eq!(watch.addresses(), ["127.0.0.1:7".to_owned()].into());
        watch.resolve("localhost:9").await.expect("every machine knows localhost");
        let addresses = watch.addresses();
        assert!(addresses.contains("127.0.0.1:9") || addresses.contains("[::1]:9"), "{addresses:?}");
        assert!(watch.resolve("no-such-host.invalid:9").await.is_err());
        // A failed lookup keeps the addresses.
        assert_eq!(watch.addresses(), addresses);
    }
}
