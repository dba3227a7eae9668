//! Tests k8s/monitoring and k8s/components/prometheus-operator with a real Prometheus, a real Alertmanager and the real
//! programs.

mod alertmanager;
mod expressions;
mod objective;
mod operator;
mod prometheus;
mod rules;
mod schemas;

use harness::paths;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest time that a test waits for an event.
const TIMEOUT: Duration = Duration::from_secs(90);

/// The path of k8s/monitoring.
fn monitoring() -> PathBuf {
    paths::root().join("k8s/monitoring")
}

/// Prints why a test is skipped. Unlike `eprintln!`, this is not captured by the test harness.
fn print_skipped(reason: &str) {
    writeln!(std::io::stderr(), "skipped: {reason}").expect("standard error is open");
}

/// Parses a YAML or JSON file. The YAML parser reads JSON, too.
fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn elements(value: &Value) -> impl Iterator<Item = &Value> + Clone {
    value.as_array().into_iter().flatten()
}
