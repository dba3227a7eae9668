//! The dashboard fits Grafana's schema, and the objects of the Prometheus Operator fit its schemas. `schemas.py` has the
//! comparison, since both schemas are published as Python packages.

use crate::{monitoring, print_skipped};
use harness::paths;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Compares a file with a schema. The error has the differences.
fn compare(command: &str, file: &Path) -> Result<(), String> {
    let script = paths::root().join("k8s/cluster/tests/monitoring/schemas.py");
    let mut python = Command::new(paths::tool("monitoring-schemas").join("bin/python"));
    let output = python.arg(script).arg(command).arg(file).output().expect("python runs");
    let text = [output.stdout, output.stderr].concat();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&text).into_owned()) }
}

/// Checks that `file` fits the schema, and that the comparison notices each of the `mistakes`: a text in the file, and
/// a text that does not fit in its place.
fn check(command: &str, file: &Path, mistakes: &[(&str, &str)]) {
    if !paths::tool("monitoring-schemas").join("bin/python").exists() {
        return print_skipped("target/tools/monitoring-schemas does not exist; to make it: cargo xtask setup");
    }
    assert_eq!(compare(command, file), Ok(()), "{}", file.display());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = fs::read_to_string(file).expect("the file can be read");
    for (right, wrong) in mistakes {
        assert!(text.contains(right), "{}: {right}", file.display());
        let changed = folder.path().join("changed");
        fs::write(&changed, text.replace(right, wrong)).expect("written");
        assert!(compare(command, &changed).is_err(), "{}: {wrong} was not noticed", file.display());
    }
}

#[test]
fn dashboards_fit_the_schema_of_grafana() {
    let mistakes = [
        ("\"lineWidth\"", "\"lineWdth\""),
        ("\"showPoints\": \"never\"", "\"showPoints\": \"seldom\""),
        ("\"schemaVersion\": 39", "\"schemaVersion\": \"39\""),
        ("\"colorMode\"", "\"colourMode\""),
    ];
    for file in fs::read_dir(monitoring().join("dashboards")).expect("there is a folder of dashboards").flatten() {
        check("dashboard", &file.path(), &mistakes);
    }
}

#[test]
fn objects_of_the_prometheus_operator_fit_its_schemas() {
    let folder = paths::root().join("k8s/components/prometheus-operator");
    let mistakes = [("relabelings:", "relabellings:"), ("action: labeldrop", "action: labeldorp"), ("15s", "15 s")];
    check("custom-resources", &folder.join("pod-monitor.yaml"), &mistakes);
    let mistakes = [("  groups:", "  gruops:"), ("for: 1m", "for: a minute"), ("record:", "recrod:")];
    check("custom-resources", &folder.join("prometheus-rule.yaml"), &mistakes);
}
