//! The dashboard fits Grafana's schema, and the objects of the Prometheus Operator fit its schemas. `schemas.py` has the
//! comparison, since both schemas are published as Python packages.

use crate::{monitoring, print_skipped};
use harness::paths;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The faults of each file by a schema. All files are compared at once, since reading a schema takes seconds.
fn faults(command: &str, files: &[PathBuf]) -> Vec<Vec<String>> {
    let script = paths::root().join("k8s/cluster/tests/monitoring/schemas.py");
    let mut python = Command::new(paths::tool("monitoring-schemas").join("bin/python"));
    let output = python.arg(script).arg(command).args(files).output().expect("python runs");
    let faults = serde_json::from_slice(&output.stdout);
    faults.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Checks that `file` fits the schema, and that the comparison notices each of the `mistakes`: a text in the file, and
/// a text that does not fit in its place.
fn check(command: &str, file: &Path, mistakes: &[(&str, &str)]) {
    if !paths::tool("monitoring-schemas").join("bin/python").exists() {
        return print_skipped("target/tools/monitoring-schemas does not exist; to make it: cargo xtask setup");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = fs::read_to_string(file).expect("the file can be read");
    let changed = mistakes.iter().enumerate().map(|(index, (right, wrong))| {
        assert!(text.contains(right), "{}: {right}", file.display());
        let changed = folder.path().join(index.to_string());
        fs::write(&changed, text.replace(right, wrong)).expect("written");
        changed
    });
    let files: Vec<PathBuf> = [file.to_owned()].into_iter().chain(changed).collect();
    let faults = faults(command, &files);
    assert_eq!(faults.len(), files.len());
    assert_eq!(faults[0], Vec::<String>::new(), "{}", file.display());
    for (mistake, faults) in mistakes.iter().zip(&faults[1..]) {
        assert!(!faults.is_empty(), "{}: {mistake:?} was not noticed", file.display());
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
