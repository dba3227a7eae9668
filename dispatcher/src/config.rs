//! The flags, and the checked configuration that they become.

use crate::discovery::ReplicaSource;
use crate::rotation::Balance;
use crate::worker::DispatchSettings;
use admission::Order;
use clap::Parser;
use service::body::REQUEST_BYTES;
use service::options::{ProcessFlags, RequestLimits, positive_duration};
use service::server::{ConnectionLimits, DrainConfig};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Queues images and sends each to a replica that has a free slot
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  dispatcher --replicas static:127.0.0.1:6000,127.0.0.1:6001\n  \
    dispatcher --replicas file:/run/roundhouse/replicas --deadline 3s\n  \
    dispatcher --replicas kubernetes:default/replica --admin-listen [::]:9090 --token-file /run/secrets/token\n\n\
    curl -H 'Content-Type: image/jpeg' --data-binary @image.jpg http://127.0.0.1:5052/predict"
)]
pub struct Args {
    /// Address to serve on, which the program prints; port 0 picks a free port. [::] takes IPv6 and IPv4, and becomes
    /// 0.0.0.0 on a machine without IPv6
    #[arg(long, env = "ROUNDHOUSE_LISTEN", default_value = "[::]:5052")]
    pub listen: SocketAddr,
    /// Source of the replicas' addresses: static:HOST:PORT,…, file:PATH (one host:port per line), dns:NAME:PORT or
    /// kubernetes:NAMESPACE/SERVICE[:PORTNAME]
    #[arg(long, env = "ROUNDHOUSE_REPLICAS")]
    pub replicas: ReplicaSource,
    /// Largest number of requests that may wait in the queue
    #[arg(long, env = "ROUNDHOUSE_QUEUE_LENGTH", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub queue_length: u32,
    /// Largest number of bytes that all requests may hold together, whether they arrive, wait or are at a replica:
    /// bodies, kept headers, and 2 KiB for each request. Half of them are divided between the tenants of --token-file
    /// by their shares, so that no tenant can take all
    #[arg(long, env = "ROUNDHOUSE_QUEUE_BYTES", default_value_t = 256 << 20)]
    pub queue_bytes: u64,
    /// Order in which waiting requests are sent to replicas
    #[arg(long, env = "ROUNDHOUSE_ORDER", value_enum, default_value = "late-last")]
    pub order: Order,
    /// Time within which requests should be answered; a request that can no longer be answered within it is late
    #[arg(long, env = "ROUNDHOUSE_OBJECTIVE", default_value = "500ms", value_parser = positive_duration)]
    pub objective: Duration,
    /// Share of requests that should be answered within the objective, above 0 and below 1; alerts read it from
    /// dispatcher_objective_ratio, and nothing else depends on it
    #[arg(long, env = "ROUNDHOUSE_ATTAINMENT", default_value_t = 0.99, value_parser = attainment)]
    pub attainment: f64,
    /// Rule by which a replica is chosen among those with a free slot
    #[arg(long, env = "ROUNDHOUSE_BALANCE", value_enum, default_value = "round-robin")]
    pub balance: Balance,
    /// Send a request to a second replica, too, when its objective is in danger: when it has been at the first for longer
    /// than 19 of 20 requests, a slot is free, no request waits and the retry budget permits it. The first answer counts
    #[arg(long, env = "ROUNDHOUSE_HEDGE")]
    pub hedge: bool,
    /// Address for /metrics, /livez, /readyz and /status; by default --listen serves them too
    #[arg(long, env = "ROUNDHOUSE_ADMIN_LISTEN")]
    pub admin_listen: Option<SocketAddr>,
    /// PEM file with the certificate chain for TLS; the program reads the file again when it changes
    #[arg(long, env = "ROUNDHOUSE_TLS_CERTIFICATE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,
    /// PEM file with the private key of the certificate; the program reads the file again when it changes
    #[arg(long, env = "ROUNDHOUSE_TLS_KEY", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,
    /// File with the tokens, one of which requests with images must have (Authorization: Bearer TOKEN). Each line is TOKEN
    /// [name=NAME] [share=N] [rate=N/s], at most 1000 tokens: waiting tenants take turns by their shares (1 by default),
    /// and requests above the rate (none by default) get 429. The program reads the file again when it changes
    #[arg(long, env = "ROUNDHOUSE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// File to which a line of JSON is appended for each request, or - for the standard output; off by default
    #[arg(long, env = "ROUNDHOUSE_ACCESS_LOG")]
    pub access_log: Option<PathBuf>,
    /// Log a warning for each request that takes at least this time, such as 2s, at most 10 a second; off by default
    #[arg(long, env = "ROUNDHOUSE_SLOW_LOG", value_parser = positive_duration)]
    pub slow_log: Option<Duration>,
    /// Collector to which OpenTelemetry spans are sent by OTLP over HTTP, such as http://collector:4318; off by default
    #[arg(long, env = "ROUNDHOUSE_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// Share of the traces that begin at this dispatcher which are recorded, 0 to 1; traces that the client has sampled
    /// are always recorded
    #[arg(long, env = "ROUNDHOUSE_TRACE_RATIO", default_value_t = 0.01, value_parser = ratio)]
    pub trace_ratio: f64,
    /// Limits of one request
    #[command(flatten)]
    pub request_limits: RequestLimits,
    /// Limits of one connection
    #[command(flatten)]
    pub connection_limits: ConnectionLimits,
    /// Flags that every program has
    #[command(flatten)]
    pub process: ProcessFlags,
}

/// The checked configuration.
#[derive(Debug)]
pub struct Config {
    /// Address to serve on.
    pub listen: SocketAddr,
    /// The source of the replicas' addresses.
    pub replicas: ReplicaSource,
    /// The settings of queueing and dispatching.
    pub settings: DispatchSettings,
    /// The time within which requests should be answered.
    pub objective: Duration,
    /// The share of requests that should be answered within the objective, above 0 and below 1.
    pub attainment: f64,
    /// The largest number of bytes that all requests may hold together.
    pub queue_bytes: usize,
    /// The part of these bytes that is divided between the tenants, so that each has bytes that no other can take.
    pub tenant_bytes: usize,
    /// Address of the admin paths; `None` if [`Config::listen`] serves them.
    pub admin_listen: Option<SocketAddr>,
    /// Files with the certificate chain and its private key; `None` without TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// File with the tokens, one of which requests with images must have; `None` if they need none.
    pub token_file: Option<PathBuf>,
    /// File of the access log, `-` for the standard output; `None` without that log.
    pub access_log: Option<PathBuf>,
    /// Time from which a request counts as slow and is logged; `None` without that log.
    pub slow_log: Option<Duration>,
    /// URL of the collector of spans; `None` without spans.
    pub otlp_endpoint: Option<String>,
    /// Share of the traces that begin here which are recorded, 0 to 1.
    pub trace_ratio: f64,
    /// Limits of one request.
    pub request_limits: RequestLimits,
    /// Limits of one connection.
    pub connection_limits: ConnectionLimits,
    /// The settings of draining before the process ends.
    pub drain: DrainConfig,
}

impl TryFrom<Args> for Config {
    type Error = anyhow::Error;

    fn try_from(args: Args) -> anyhow::Result<Self> {
        let RequestLimits { max_body_bytes, drain_delay, grace, .. } = args.request_limits;
        let connection_limits = ConnectionLimits { max_chunk_bytes: max_body_bytes, ..args.connection_limits };
        let header_bytes = u64::from(connection_limits.max_header_bytes);
        let largest_request = max_body_bytes.saturating_add(header_bytes + REQUEST_BYTES as u64);
        anyhow::ensure!(
            largest_request <= args.queue_bytes,
            "--max-body-bytes ({max_body_bytes}), --max-header-bytes ({header_bytes}) and {REQUEST_BYTES} bytes for the \
             task of a request must not exceed --queue-bytes ({}) together, or the queue could not hold the largest \
             request",
            args.queue_bytes
        );
        anyhow::ensure!(
            args.objective <= args.request_limits.deadline,
            "--objective ({}) must not be longer than --deadline ({}), after which no request is answered",
            humantime::format_duration(args.objective),
            humantime::format_duration(args.request_limits.deadline)
        );
        Ok(Self {
            listen: args.listen,
            replicas: args.replicas,
            settings: DispatchSettings {
                order: args.order,
                balance: args.balance,
                queue_length: args.queue_length as usize,
                deadline: args.request_limits.deadline,
                hedge: args.hedge,
            },
            objective: args.objective,
            attainment: args.attainment,
            queue_bytes: args.queue_bytes as usize,
            // What is left holds the largest request of any tenant.
            tenant_bytes: (args.queue_bytes / 2).min(args.queue_bytes - largest_request) as usize,
            admin_listen: args.admin_listen,
            tls: args.tls_certificate.zip(args.tls_key),
            token_file: args.token_file,
            access_log: args.access_log,
            slow_log: args.slow_log,
            otlp_endpoint: args.otlp_endpoint,
            trace_ratio: args.trace_ratio,
            request_limits: args.request_limits,
            connection_limits,
            drain: DrainConfig { delay: drain_delay, grace, exit_with_parent: args.process.exit_with_parent },
        })
    }
}

/// Parses a share above 0 and below 1. With 1, the error budget would be 0, and one late request would raise every alert.
fn attainment(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if share > 0.0 && share < 1.0 { Ok(share) } else { Err("must be above 0 and below 1, such as 0.99".into()) }
}

/// Parses a share, 0 to 1.
fn ratio(text: &str) -> Result<f64, String> {
    let ratio: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.0..=1.0).contains(&ratio) { Ok(ratio) } else { Err("must be a number from 0 to 1".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str]) -> Result<Config, String> {
        let all = ["dispatcher", "--replicas", "static:a:1"].iter().chain(flags);
        let args = Args::try_parse_from(all).map_err(|error| error.to_string())?;
        Config::try_from(args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_other_programs_know_the_environment_variables() {
        let missing = service::variables::missing(&<Args as clap::CommandFactory>::command());
        assert!(missing.is_empty(), "add {missing:?} to service::variables");
    }

    #[test]
    fn an_error_names_the_refused_flag_or_its_value() {
        assert!(config(&[]).is_ok());
        for (flags, word) in [
            (["--deadline", "0s"], "--deadline"),
            (["--deadline", "soon"], "soon"),
            (["--deadline", "367days"], "--deadline"),
            (["--body-timeout", "500000000000years"], "--body-timeout"),
            (["--grace", "500000000000years"], "--grace"),
            (["--drain-delay", "500000000000years"], "--drain-delay"),
            (["--objective", "500000000000years"], "--objective"),
            (["--max-header-bytes", "5"], "--max-header-bytes"),
            (["--queue-length", "0"], "queue-length"),
            (["--queue-bytes", "1"], "--max-body-bytes"),
            (["--listen", "here"], "here"),
            (["--max-body-bytes", "much"], "max-body-bytes"),
            (["--order", "lifo"], "late-last"),
            (["--balance", "random"], "round-robin"),
            (["--objective", "0s"], "--objective"),
            (["--objective", "6s"], "--deadline"),
            (["--admin-listen", "there"], "there"),
            (["--attainment", "0"], "--attainment"),
            (["--attainment", "1"], "--attainment"),
            (["--attainment", "99"], "such as 0.99"),
            (["--attainment=-0.5", "--hedge"], "above 0"),
            (["--attainment", "NaN"], "--attainment"),
            (["--attainment", "most"], "most"),
            (["--slow-log", "0s"], "--slow-log"),
            (["--trace-ratio", "1.5"], "--trace-ratio"),
            (["--trace-ratio", "NaN"], "--trace-ratio"),
            (["--tls-key", "key.pem"], "--tls-certificate"),
            (["--tls-certificate", "chain.pem"], "--tls-key"),
        ] {
            let error = config(&flags).expect_err("the flags are refused");
            assert!(error.contains(word), "{flags:?}: {error}");
        }
    }
}
