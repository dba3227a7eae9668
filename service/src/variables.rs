//! The environment variables of all programs. In a cluster they come from one ConfigMap that all programs share, so a name
//! that a program does not know may be that of another program, or mistyped.

use std::ffi::OsStr;

/// The first part of the name of each variable.
const PREFIX: &str = "ROUNDHOUSE_";

/// The names of the variables of all programs, without [`PREFIX`], in alphabetical order. Tests of the programs compare
/// them with the flags.
const NAMES: [&str; 97] = [
    "ACCESS_LOG",
    "ADMIN_LISTEN",
    "ADVISE",
    "ARCHITECTURE",
    "ATTAINMENT",
    "BALANCE",
    "BATCH_WAIT",
    "BODY_TIMEOUT",
    "CAPACITY",
    "CPU_SHARE",
    "CROP",
    "DEADLINE",
    "DECODE_BYTES",
    "DELETION_COST",
    "DEVICE",
    "DISPATCHER",
    "DOWN_RATE",
    "DOWN_WINDOW",
    "DRAIN_DELAY",
    "DRY_RUN",
    "EXTERNAL_METRICS_CERTIFICATE",
    "EXTERNAL_METRICS_KEY",
    "EXTERNAL_METRICS_LISTEN",
    "FETCH",
    "FETCH_AUTHORIZATION",
    "FETCH_MAX_SIZE",
    "FETCH_STALL_TIMEOUT",
    "FETCH_TIMEOUT",
    "FETCH_TO",
    "GRACE",
    "HEADER_TIMEOUT",
    "HEADROOM",
    "HEDGE",
    "IDENTITY",
    "IDLE_TIMEOUT",
    "INTERPOLATION",
    "INTERVAL",
    "KEDA_LISTEN",
    "KERNEL",
    "LABELS",
    "LEASE",
    "LIST",
    "LISTEN",
    "LOG",
    "MAX",
    "MAX_BATCH",
    "MAX_BODY_BYTES",
    "MAX_CONNECTIONS_PER_PEER",
    "MAX_CONNECTION_AGE",
    "MAX_HEADER_BYTES",
    "MAX_PIXELS",
    "MEAN",
    "MEMORY_LIMIT",
    "MIN",
    "MIN_AGREEMENT",
    "MODEL",
    "NAME",
    "OBJECTIVE",
    "ORDER",
    "ORIENT",
    "OTLP_ENDPOINT",
    "PODS_PER_SECOND",
    "POLICY",
    "PRECISION",
    "PROMETHEUS",
    "PROMETHEUS_AGE_QUERY",
    "PROMETHEUS_DOWN_QUERY",
    "PROMETHEUS_QUERY",
    "PROMETHEUS_SELECTOR",
    "PROMETHEUS_STALE_AFTER",
    "PROMETHEUS_TOKEN_FILE",
    "QUANTILE",
    "QUEUE_BYTES",
    "QUEUE_LENGTH",
    "RELOAD_INTERVAL",
    "REPLICA",
    "REPLICAS",
    "RESIZE",
    "RESIZE_MODE",
    "ROLE",
    "SCALER",
    "SCALER_CONFIG",
    "SHA256",
    "SLOW_LOG",
    "STD",
    "TARGET",
    "THREADS",
    "TLS_CERTIFICATE",
    "TLS_KEY",
    "TOKEN_FILE",
    "TORCHSCRIPT",
    "TRACE_RATIO",
    "UP_RATE",
    "WEIGHTS",
    "WEIGHTS_KEY",
    "WORKERS",
    "WRITE_TIMEOUT",
];

/// The most names that [`warn_of_unknown`] logs.
const MAX_WARNINGS: usize = 20;

/// The least similarity of a name that is suggested, between 0 and 1.
const SIMILAR: f64 = 0.8;

/// Logs a warning for each variable of this process that looks like one of Roundhouse and is none, since it has no effect.
pub fn warn_of_unknown() {
    let names = std::env::vars_os().filter_map(|(name, _value)| name.into_string().ok());
    for name in names.filter(|name| is_unknown(name)).take(MAX_WARNINGS) {
        let advice = match similar(&name) {
            Some(known) => format!("did you mean {PREFIX}{known}?"),
            None => "see --help for the names".into(),
        };
        tracing::warn!("the environment variable {name} is no setting of any program and has no effect; {advice}");
    }
}

/// The environment variables of the flags of `command` and of its subcommands that are missing in the list of all
/// programs. They would be called unknown in the log of other programs.
pub fn missing(command: &clap::Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(|argument| argument.get_env().and_then(OsStr::to_str));
    let own = own.filter(|name| is_unknown(name)).map(str::to_owned);
    own.chain(command.get_subcommands().flat_map(missing)).collect()
}

/// Whether `name` looks like the name of a variable of Roundhouse and is none.
fn is_unknown(name: &str) -> bool {
    let is_known = name.strip_prefix(PREFIX).is_some_and(|rest| NAMES.contains(&rest));
    // Kubernetes sets variables for each Service, also for one whose name is `roundhouse` or begins with `roundhouse-`.
    !is_known && name.to_ascii_uppercase().strip_prefix(PREFIX).is_some_and(|rest| !is_of_service(rest))
}

/// Whether Kubernetes sets a variable with this name for a Service, such as `API_SERVICE_HOST` or `API_PORT_80_TCP_ADDR`.
/// The name of the Service itself may be missing, since the prefix may be that name.
fn is_of_service(name: &str) -> bool {
    let name = format!("_{name}_");
    name.ends_with("_SERVICE_HOST_") || name.contains("_SERVICE_PORT_") || name.contains("_PORT_")
}

/// The known name that is most like `name`; `None` if none is like it.
fn similar(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix(PREFIX)?;
    let scored = NAMES.map(|known| (strsim::jaro_winkler(known, name), known));
    let (score, known) = scored.into_iter().max_by(|a, b| a.0.total_cmp(&b.0))?;
    (score >= SIMILAR).then_some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_is_unknown_and_the_right_one_is_suggested() {
        for (name, suggestion) in [
            ("ROUNDHOUSE_OBJECTVE", Some("OBJECTIVE")),
            ("ROUNDHOUSE_Objective", Some("OBJECTIVE")),
            ("roundhouse_max", Some("MAX")),
            ("ROUNDHOUSE_DEAD_LINE", Some("DEADLINE")),
            ("ROUNDHOUSE_", None),
            ("ROUNDHOUSE_ZZZ", None),
        ] {
            assert!(is_unknown(name), "{name}");
            assert_eq!(similar(name), suggestion, "{name}");
        }
    }

    #[test]
    fn settings_and_variables_of_services_are_known() {
        for name in [
            "ROUNDHOUSE_OBJECTIVE",
            "ROUNDHOUSE_MAX",
            "OBJECTIVE",
            "PATH",
            "ROUNDHOUSE_API_SERVICE_HOST",
            "ROUNDHOUSE_API_SERVICE_PORT_HTTP",
            "ROUNDHOUSE_API_PORT",
            "ROUNDHOUSE_API_PORT_80_TCP_ADDR",
            // The Service `roundhouse`.
            "ROUNDHOUSE_SERVICE_HOST",
            "ROUNDHOUSE_SERVICE_PORT",
            "ROUNDHOUSE_SERVICE_PORT_HTTP",
            "ROUNDHOUSE_PORT",
            "ROUNDHOUSE_PORT_80_TCP",
        ] {
            assert!(!is_unknown(name), "{name}");
        }
    }

    #[test]
    fn the_names_are_in_alphabetical_order() {
        assert!(NAMES.is_sorted());
    }
}
