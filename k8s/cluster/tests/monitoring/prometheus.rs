//! A Prometheus with the configuration of k8s/monitoring. Only the discovery of pods is replaced by fixed targets, with
//! the labels that Kubernetes would give them.

use crate::{TIMEOUT, monitoring, print_skipped, read};
use harness::http;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running program of Prometheus's project, which is killed when this value is dropped.
pub(crate) struct Daemon {
    child: Child,
    /// The URL at which the program listens, without a path.
    pub(crate) url: String,
}

impl Daemon {
    /// Starts the first of `programs` that is installed, and waits until it listens. `None` if none is installed; then
    /// `package` is that of Debian and Ubuntu.
    pub(crate) fn start(programs: &[&str], package: &str, arguments: &[String]) -> Option<Self> {
        let mut spawned = programs.iter().map(|program| {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
        });
        let is_there = |child: &std::io::Result<Child>| !matches!(child, Err(e) if e.kind() == ErrorKind::NotFound);
        let Some(child) = spawned.find(is_there) else {
            let program = programs[0];
            print_skipped(&format!("{program} is not installed; on Debian and Ubuntu: apt-get install {package}"));
            return None;
        };
        let mut child = child.expect("the program starts");
        let mut log = BufReader::new(child.stderr.take().expect("standard error is piped")).lines();
        let mut lines = String::new();
        let address = log.by_ref().map_while(Result::ok).find_map(|line| {
            lines += &format!("{line}\n");
            let (_, rest) = line.split_once("msg=\"Listening on\" address=")?;
            Some(rest.trim_matches('"').to_owned())
        });
        let address = address.unwrap_or_else(|| panic!("{programs:?} ended before it listened:\n{lines}"));
        // Without a reader, the program would block when the pipe of its log is full.
        std::thread::spawn(move || log.for_each(drop));
        Some(Self { child, url: format!("http://{address}") })
    }

    /// The field `data` of the answer to `GET path` of the HTTP API, with these parameters.
    pub(crate) fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let request = http::agent().get(format!("{}{path}", self.url)).query_pairs(parameters.iter().copied());
        let answer = request.call().map_err(|error| error.to_string())?;
        let text = answer.into_body().read_to_string().map_err(|error| error.to_string())?;
        let mut answer: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        if answer["status"] == "success" { Ok(answer["data"].take()) } else { Err(answer["error"].to_string()) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().expect("the program can be killed");
        self.child.wait().expect("the program ends");
    }
}

/// A running Prometheus.
pub(crate) struct Prometheus(Daemon);

impl Prometheus {
    /// Starts Prometheus and waits until it answers queries. `None` if Prometheus is not installed.
    pub(crate) fn start(folder: &Path, config: &Value) -> Option<Self> {
        let file = folder.join("prometheus.yml");
        fs::write(&file, config.to_string()).expect("the configuration can be written");
        let data = folder.join("prometheus");
        // Samples of an earlier run could give values to expressions that have none in this run.
        if data.exists() {
            fs::remove_dir_all(&data).expect("the old data can be removed");
        }
        let arguments = [
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", data.display()),
            "--web.listen-address=127.0.0.1:0".to_owned(),
        ];
        let daemon = Daemon::start(&["prometheus"], "prometheus", &arguments)?;
        let start = Instant::now();
        while http::get(&format!("{}/-/ready", daemon.url)).is_err() {
            assert!(start.elapsed() < TIMEOUT, "Prometheus is ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(Self(daemon))
    }

    /// The current values of an expression.
    pub(crate) fn query(&self, expression: &str) -> Result<Vec<f64>, String> {
        let answer = self.0.get("/api/v1/query", &[("query", expression)])?;
        let samples = answer["result"].as_array().cloned().unwrap_or_default();
        Ok(samples.iter().filter_map(|sample| sample["value"][1].as_str()?.parse().ok()).collect())
    }

    /// Whether an expression currently has a finite value.
    pub(crate) fn has_value(&self, expression: &str) -> Result<bool, String> {
        Ok(self.query(expression)?.iter().any(|value| value.is_finite()))
    }

    /// The targets that are scraped.
    pub(crate) fn active_targets(&self) -> Vec<Value> {
        let answer = self.0.get("/api/v1/targets", &[("state", "active")]).expect("Prometheus answers");
        answer["activeTargets"].as_array().cloned().unwrap_or_default()
    }
}

/// A target with the labels that Kubernetes would give to a port of a pod in `namespace`.
pub(crate) fn target(namespace: &str, component: &str, pod: &str, port: &str, address: &str) -> Value {
    json!({"targets": [address], "labels": {
        "__meta_kubernetes_namespace": namespace,
        "__meta_kubernetes_pod_container_name": component,
        "__meta_kubernetes_pod_container_port_name": port,
        "__meta_kubernetes_pod_label_app_kubernetes_io_component": component,
        "__meta_kubernetes_pod_label_app_kubernetes_io_name": "roundhouse",
        "__meta_kubernetes_pod_labelpresent_app_kubernetes_io_name": "true",
        "__meta_kubernetes_pod_name": pod,
        "__meta_kubernetes_pod_phase": "Running",
    }})
}

/// The configuration of k8s/monitoring with `targets` instead of the discovery of pods, and with the Alertmanagers at
/// the addresses `alertmanagers`.
pub(crate) fn config(targets: Vec<Value>, alertmanagers: &[&str]) -> Value {
    let mut config = read(&monitoring().join("prometheus.yml"));
    config["global"]["scrape_interval"] = "1s".into();
    config["global"]["evaluation_interval"] = "1s".into();
    config["rule_files"] = json!([monitoring().join("rules.yml")]);
    let shipped = config["alerting"]["alertmanagers"].take();
    assert_eq!(shipped, json!([{"static_configs": [{"targets": ["alertmanager:9093"]}]}]));
    config["alerting"]["alertmanagers"] = json!([{"static_configs": [{"targets": alertmanagers}]}]);
    let job = config["scrape_configs"][0].as_object_mut().expect("a job");
    let discovery = job.remove("kubernetes_sd_configs");
    assert_eq!(discovery, Some(json!([{"role": "pod", "namespaces": {"own_namespace": true}}])));
    job.insert("static_configs".into(), targets.into());
    config
}
