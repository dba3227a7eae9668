//! A Prometheus that the Prometheus Operator manages must give the targets the same labels as the own Prometheus.

use crate::prometheus::{Prometheus, config, target};
use crate::{TIMEOUT, elements, read, text};
use harness::paths;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// The rules for relabelling that the operator writes for a PodMonitor in `namespace` (`pkg/prometheus/promcfg.go` of its
/// repository), those of the PodMonitor last.
fn relabelling(monitor: &Value, namespace: &str) -> Vec<Value> {
    let mut rules = vec![
        json!({"source_labels": ["job"], "target_label": "__tmp_prometheus_job_name"}),
        json!({"source_labels": ["__meta_kubernetes_pod_phase"], "regex": "(Failed|Succeeded)", "action": "drop"}),
    ];
    for (label, value) in monitor["spec"]["selector"]["matchLabels"].as_object().expect("labels") {
        let label = label.replace(['.', '/', '-'], "_");
        let sources = ["", "present"].map(|kind| format!("__meta_kubernetes_pod_label{kind}_{label}"));
        rules.push(json!({"source_labels": sources, "regex": format!("({});true", text(value)), "action": "keep"}));
    }
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    let port = &endpoint["port"];
    rules.extend([
        json!({"source_labels": ["__meta_kubernetes_pod_container_port_name"], "regex": port, "action": "keep"}),
        json!({"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"}),
        json!({"source_labels": ["__meta_kubernetes_pod_container_name"], "target_label": "container"}),
        json!({"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"}),
        json!({"target_label": "job", "replacement": format!("{namespace}/{}", text(&monitor["metadata"]["name"]))}),
        json!({"target_label": "endpoint", "replacement": port}),
    ]);
    rules.extend(elements(&endpoint["relabelings"]).map(|rule| {
        let fields = rule.as_object().expect("a rule").iter().map(|(name, value)| {
            let name = match name.as_str() {
                "sourceLabels" => "source_labels",
                "targetLabel" => "target_label",
                same => same,
            };
            (name.to_owned(), value.clone())
        });
        Value::Object(fields.collect::<Map<_, _>>())
    }));
    rules
}

/// `target` with another value of a label.
fn with_label(mut target: Value, label: &str, value: &str) -> Value {
    target["labels"][label] = value.into();
    target
}

#[test]
fn targets_of_the_operator_have_the_labels_of_the_own_prometheus() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pod = |component, name| target("shop", component, name, "http", "127.0.0.1:9");
    let targets = vec![
        pod("dispatcher", "dispatcher-a"),
        pod("scaler", "scaler-a"),
        pod("replica", "replica-a"),
        // None of these is a target.
        target("shop", "prometheus", "prometheus-a", "web", "127.0.0.1:9"),
        with_label(pod("replica", "replica-ended"), "__meta_kubernetes_pod_phase", "Succeeded"),
        with_label(pod("replica", "replica-failed"), "__meta_kubernetes_pod_phase", "Failed"),
        with_label(pod("replica", "database"), "__meta_kubernetes_pod_label_app_kubernetes_io_name", "postgres"),
    ];
    let mut config = config(targets, &[]);
    let monitor = read(&paths::root().join("k8s/components/prometheus-operator/pod-monitor.yaml"));
    let mut job = config["scrape_configs"][0].clone();
    job["job_name"] = "podMonitor/shop/roundhouse/0".into();
    job["relabel_configs"] = relabelling(&monitor, "shop").into();
    config["scrape_configs"].as_array_mut().expect("jobs").push(job);
    let Some(prometheus) = Prometheus::start(folder.path(), &config) else { return };
    let start = Instant::now();
    let active = loop {
        let active = prometheus.active_targets();
        if active.len() >= 6 || start.elapsed() > TIMEOUT {
            break active;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let labels = |pool: &str| {
        let mut labels: Vec<String> = active
            .iter()
            .filter(|target| target["scrapePool"] == pool)
            .map(|target| target["labels"].to_string())
            .collect();
        labels.sort();
        labels
    };
    let expected = ["dispatcher", "replica", "scaler"].map(|component| {
        json!({"app": "roundhouse", "instance": format!("{component}-a"), "job": component, "namespace": "shop"})
            .to_string()
    });
    assert_eq!(labels("roundhouse"), expected, "{active:#?}");
    assert_eq!(labels("podMonitor/shop/roundhouse/0"), expected, "{active:#?}");
}
