//! Starts logging to standard error and the recording of metrics for Prometheus. Knows no metric by name.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The upper bounds of the buckets of every histogram whose name ends in `_seconds`, in seconds, of a program whose
/// longest time is at most 8 s; see [`latency_buckets`]. Most of them are below the default objective of 0.5 s.
pub const LATENCY_BUCKETS: [f64; 24] = [
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6,
    0.8, 1.0, 2.0, 4.0, 8.0,
];

/// The upper bounds of the buckets of every histogram whose name ends in `_batch_size`, in images.
const BATCH_SIZE_BUCKETS: [f64; 6] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0];

/// The upper bounds of the buckets, in seconds, of a program whose requests take `longest` at most and should be answered
/// within `objective`: [`LATENCY_BUCKETS`], the objective, and doubled bounds up to `longest`. Without a bucket at the
/// objective, no query could count the answers within it. Without those above 8 s, a quantile of slow requests would
/// always be 8 s.
pub fn latency_buckets(objective: Option<Duration>, longest: Duration) -> Vec<f64> {
    let mut buckets = LATENCY_BUCKETS.to_vec();
    let mut last = LATENCY_BUCKETS[LATENCY_BUCKETS.len() - 1];
    while last < longest.as_secs_f64() {
        last *= 2.0;
        buckets.push(last);
    }
    buckets.extend(objective.map(|objective| objective.as_secs_f64()));
    buckets.sort_by(f64::total_cmp);
    buckets.dedup();
    buckets
}

/// The reason why logging or metrics could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log filter is not a list of levels and `target=level` pairs.
    #[error("--log {0:?}: {1}; give a level such as info or debug, or a list such as dispatcher=debug,info")]
    Filter(String, String),
    /// The metrics recorder cannot be installed, for example because the process has one already.
    #[error("install the metrics recorder: {0}")]
    Recorder(String),
}

/// Starts logging and the metrics recorder. `filter` is a level or a list, such as `info` or `dispatcher=debug,info`.
/// `latency_buckets` are the buckets of every histogram whose name ends in `_seconds`; see [`latency_buckets`]. Returns the handle that renders `/metrics`. Must be called only once in a process.
///
/// # Errors
/// If `filter` is malformed, or the process has a metrics recorder already.
///
/// # Panics
/// If the process has a logger already.
pub fn start(filter: &str, latency_buckets: &[f64]) -> Result<PrometheusHandle, Error> {
    tracing_subscriber::fmt()
        .with_env_filter(parse(filter)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let recorder = |error: metrics_exporter_prometheus::BuildError| Error::Recorder(error.to_string());
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), latency_buckets)
        .map_err(recorder)?
        .set_buckets_for_metric(Matcher::Suffix("_batch_size".into()), &BATCH_SIZE_BUCKETS)
        .map_err(recorder)?
        .install_recorder()
        .map_err(recorder)
}

/// The log filter of `--log`. kube's client logs each failed request as an error, several times a second in an outage of
/// the API server. The programs log these failures themselves, so the client's own lines need a list or the level debug.
fn parse(filter: &str) -> Result<EnvFilter, Error> {
    let error = |error: &dyn std::fmt::Display| Error::Filter(filter.into(), error.to_string());
    let parsed = EnvFilter::try_new(filter).map_err(|cause| error(&cause))?;
    match filter.trim().parse::<LevelFilter>() {
        Ok(level) if level <= LevelFilter::INFO => {
            Ok(parsed.add_directive("kube_client=off".parse().map_err(|cause| error(&cause))?))
        }
        _ => Ok(parsed),
    }
}

/// Sorts the recorded values of histograms into their buckets every 5 s. Never returns. Without this task, the values
/// would use more and more memory until the next scrape.
pub async fn upkeep(metrics: PrometheusHandle) {
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    loop {
        tick.tick().await;
        metrics.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    /// The log in memory.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no test has panicked").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn errors_of_kubes_client_are_logged_only_on_demand() {
        for (filter, has_client, has_own) in [
            ("info", false, true),
            ("warn", false, true),
            ("off", false, false),
            ("debug", true, true),
            ("info,kube_client=error", true, true),
            ("kube_client=error", true, false),
        ] {
            let log = Log::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_env_filter(parse(filter).expect("good"))
                .with_writer(move || writer.clone());
            tracing::subscriber::with_default(subscriber.finish(), || {
                tracing::error!(target: "kube_client::client::builder", "failed with error refused");
                tracing::error!(target: "scaler::target", "cannot follow");
            });
            let text =
                String::from_utf8(log.0.lock().expect("no test has panicked").clone()).expect("the log is UTF-8");
            assert_eq!(
                [text.contains("failed with"), text.contains("cannot follow")],
                [has_client, has_own],
                "{filter}"
            );
        }
        assert!(matches!(parse("scaler=much"), Err(Error::Filter(..))));
    }

    #[test]
    fn buckets_reach_the_longest_time_and_have_one_at_the_objective() {
        let seconds = Duration::from_secs;
        assert_eq!(latency_buckets(None, seconds(5)), LATENCY_BUCKETS);
        assert_eq!(latency_buckets(Some(Duration::from_millis(500)), seconds(8)), LATENCY_BUCKETS);
        let buckets = latency_buckets(Some(Duration::from_millis(750)), seconds(30));
        assert_eq!(buckets.len(), LATENCY_BUCKETS.len() + 3);
        assert!(buckets.contains(&0.75) && buckets.ends_with(&[8.0, 16.0, 32.0]) && buckets.is_sorted());
    }
}
