//! Tests k8s/monitoring with a real Prometheus and the real programs. Every expression of the panels and rules must
//! have a value, and each alert must be raised when it should be.
//!
//! Prometheus runs with the configuration of k8s/monitoring. Only the discovery of pods is replaced by fixed targets,
//! with the labels that Kubernetes would give them.

use harness::stack::{ScalerProgram, Stack, StackSetup};
use harness::{http, paths};
use procfs::process::all_processes;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time in which each expression must have had a value.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Time after which a replica is killed. Without that, metrics of failures would have no values.
const KILL_AFTER: Duration = Duration::from_secs(5);

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

/// A running Prometheus, which is killed when this value is dropped.
struct PrometheusProcess {
    child: Child,
    url: String,
}

impl PrometheusProcess {
    /// Starts Prometheus and waits until it listens. `None` if Prometheus is not installed.
    fn start(folder: &Path, config: &Value) -> Option<Self> {
        let file = folder.join("prometheus.yml");
        fs::write(&file, config.to_string()).expect("the configuration can be written");
        let data = folder.join("prometheus");
        // Samples of an earlier run could give values to expressions that have none in this run.
        if data.exists() {
            fs::remove_dir_all(&data).expect("the old data can be removed");
        }
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match child {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                print_skipped("prometheus is not installed; on Debian and Ubuntu: apt-get install prometheus");
                return None;
            }
            child => child.expect("prometheus starts"),
        };
        let mut log = BufReader::new(child.stderr.take().expect("standard error is piped")).lines();
        let address = log.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, rest) = line.split_once("msg=\"Listening on\" address=")?;
            Some(rest.trim_matches('"').to_owned())
        });
        let address = address.expect("prometheus logs the address at which it listens");
        // Without a reader, Prometheus would block when the pipe of its log is full.
        std::thread::spawn(move || log.for_each(drop));
        Some(Self { child, url: format!("http://{address}") })
    }

    /// The current values of an expression.
    fn query(&self, expression: &str) -> Result<Vec<f64>, String> {
        let url = format!("{}/api/v1/query", self.url);
        let agent = http::agent();
        let answer = agent.get(&url).query("query", expression).call().map_err(|error| error.to_string())?;
        let text = answer.into_body().read_to_string().map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        if answer["status"] != "success" {
            return Err(answer["error"].to_string());
        }
        let samples = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        Ok(samples.iter().filter_map(|sample| sample["value"][1].as_str()?.parse().ok()).collect())
    }

    /// Whether an expression currently has a finite value.
    fn has_value(&self, expression: &str) -> Result<bool, String> {
        Ok(self.query(expression)?.iter().any(|value| value.is_finite()))
    }
}

impl Drop for PrometheusProcess {
    fn drop(&mut self) {
        self.child.kill().expect("prometheus can be killed");
        self.child.wait().expect("prometheus ends");
    }
}

/// An expression of PromQL.
#[derive(Debug, Clone)]
struct Expression {
    /// The panel, annotation, rule or alert that has the expression.
    place: String,
    text: String,
}

impl Expression {
    fn new(place: String, text: impl Into<String>) -> Self {
        Self { place, text: text.into() }
    }
}

/// The left sides of the comparisons in the expression of an alert. They have values even while the alert is not
/// raised.
fn left_sides(expression: &str) -> Vec<String> {
    let comparisons = expression.split(" and ").map(|comparison| {
        let at = [" > ", " < "].iter().filter_map(|sign| comparison.rfind(sign)).max();
        comparison[..at.unwrap_or_else(|| panic!("{comparison:?} has no comparison"))].to_owned()
    });
    comparisons.collect()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("an expression")
}

fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The expressions of all recording rules, and the left sides of all alerts.
fn rule_expressions() -> Vec<Expression> {
    let rules = read(&monitoring().join("rules.yml"));
    let rules = elements(&rules["groups"]).flat_map(|group| elements(&group["rules"]));
    let expressions = rules.flat_map(|rule| match rule["alert"].as_str() {
        Some(alert) => {
            let place = format!("alert {alert}");
            left_sides(text(&rule["expr"])).into_iter().map(|left| Expression::new(place.clone(), left)).collect()
        }
        None => vec![Expression::new(format!("rule {}", rule["record"]), text(&rule["expr"]))],
    });
    expressions.collect()
}

/// The expressions of a dashboard's panels, and the left sides of its annotations.
fn dashboard_expressions(dashboard: &Value) -> Vec<Expression> {
    let mut all = Vec::new();
    for panel in elements(&dashboard["panels"]) {
        for target in elements(&panel["targets"]) {
            let expression = text(&target["expr"]).replace("$__rate_interval", "20s");
            all.push(Expression::new(format!("panel {}", panel["title"]), expression));
        }
    }
    for annotation in elements(&dashboard["annotations"]["list"]) {
        let place = format!("annotation {}", annotation["name"]);
        all.extend(left_sides(text(&annotation["expr"])).into_iter().map(|left| Expression::new(place.clone(), left)));
    }
    all
}

/// Every expression of the rules and the dashboards.
fn expressions() -> Vec<Expression> {
    let rules = rule_expressions();
    let dashboards = fs::read_dir(monitoring().join("dashboards")).expect("there is a folder of dashboards").flatten();
    let panels: Vec<_> = dashboards.flat_map(|file| dashboard_expressions(&read(&file.path()))).collect();
    assert!(!rules.is_empty() && !panels.is_empty());
    [rules, panels].concat()
}

/// A target with the labels that Kubernetes would give to a port of a pod.
fn target(component: &str, pod: &str, port: &str, address: &str) -> Value {
    json!({"targets": [address], "labels": {
        "__meta_kubernetes_namespace": "roundhouse",
        "__meta_kubernetes_pod_container_port_name": port,
        "__meta_kubernetes_pod_label_app_kubernetes_io_component": component,
        "__meta_kubernetes_pod_label_app_kubernetes_io_name": "roundhouse",
        "__meta_kubernetes_pod_name": pod,
        "__meta_kubernetes_pod_phase": "Running",
    }})
}

/// The targets of the dispatcher, the scaler and all ready replicas, and one that must not be scraped.
fn targets(stack: &Stack) -> Vec<Value> {
    let mut targets = vec![
        target("dispatcher", "dispatcher-a", "http", &stack.dispatcher.address),
        target("scaler", "scaler-a", "http", &stack.scaler.address),
        // This port has no metrics, so Prometheus must not scrape it.
        target("dispatcher", "dispatcher-a", "other", "127.0.0.1:9"),
    ];
    for (index, address) in stack.ready_replicas().expect("the dispatcher answers").iter().enumerate() {
        targets.push(target("replica", &format!("replica-{index}"), "http", address));
    }
    targets
}

/// The configuration of k8s/monitoring with `targets` instead of the discovery of pods.
fn config(targets: Vec<Value>) -> Value {
    let mut config = read(&monitoring().join("prometheus.yml"));
    config["global"] = json!({"scrape_interval": "1s", "evaluation_interval": "1s"});
    config["rule_files"] = json!([monitoring().join("rules.yml")]);
    let discovery = config["scrape_configs"][0]["kubernetes_sd_configs"].take();
    assert_eq!(discovery, json!([{"role": "pod", "namespaces": {"own_namespace": true}}]));
    let job = config["scrape_configs"][0].as_object_mut().expect("a job");
    job.remove("kubernetes_sd_configs");
    job.insert("static_configs".into(), targets.into());
    config
}

/// A running loadgen, which is killed when this value is dropped. Its exit status is ignored.
struct LoadgenProcess(Child);

impl LoadgenProcess {
    fn start(stack: &Stack, flags: &[&str]) -> Self {
        let url = format!("--url=http://{}/predict", stack.dispatcher.address);
        let mut command = Command::new(paths::program("loadgen"));
        command.args(["run", "--quiet", "--generate=24"]).arg(url).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("loadgen starts"))
    }
}

impl Drop for LoadgenProcess {
    fn drop(&mut self) {
        self.0.kill().expect("loadgen can be killed");
        self.0.wait().expect("loadgen ends");
    }
}

/// Kills a replica. Replicas are child processes of the scaler.
fn kill_replica(stack: &Stack) {
    let scaler = i32::try_from(stack.scaler.id()).expect("a process id");
    let mut processes = all_processes().expect("there is /proc").flatten();
    let replica = processes.find(|process| process.stat().is_ok_and(|stat| stat.ppid == scaler)).expect("a replica");
    kill_process(Pid::from_raw(replica.pid).expect("a process id"), Signal::KILL).expect("the replica runs");
}

/// Queries the expressions until each has had a value, for [`TIMEOUT`] at most. Kills a replica in the meantime.
/// Returns the expressions that never had a value.
fn without_value(prometheus: &PrometheusProcess, stack: &Stack, mut missing: Vec<Expression>) -> Vec<Expression> {
    let start = Instant::now();
    let mut is_replica_killed = false;
    while !missing.is_empty() && start.elapsed() < TIMEOUT {
        std::thread::sleep(Duration::from_secs(1));
        if !is_replica_killed && start.elapsed() > KILL_AFTER {
            kill_replica(stack);
            is_replica_killed = true;
        }
        missing.retain(|Expression { place, text }| {
            !prometheus.has_value(text).unwrap_or_else(|error| panic!("{place}: {text}: {error}"))
        });
    }
    missing
}

#[test]
fn every_expression_has_a_value() {
    let folder = paths::output("test").join("monitoring");
    let flags = ["--min=2", "--max=2", "--cpu-share=0.5"].map(str::to_owned);
    let stack = Stack::start(StackSetup {
        listen: "127.0.0.1:0",
        folder: folder.clone(),
        program: ScalerProgram::Scaler,
        scaler: flags.into(),
    });
    let stack = stack.expect("the system starts");
    let start = Instant::now();
    while stack.ready_replicas().expect("the dispatcher answers").len() < 2 {
        assert!(start.elapsed() < TIMEOUT, "two replicas are ready");
        std::thread::sleep(Duration::from_millis(100));
    }
    let Some(prometheus) = PrometheusProcess::start(&folder, &config(targets(&stack))) else { return };

    // The loads lead to requests that are answered, that cannot be answered in time, and that lose their replica.
    let _loads = [
        LoadgenProcess::start(&stack, &["--rate=20", "--duration=60s"]),
        LoadgenProcess::start(&stack, &["--rate=20", "--budget=25ms", "--duration=60s"]),
        LoadgenProcess::start(&stack, &["--closed=64", "--duration=15s"]),
    ];
    let all = expressions();
    let missing = without_value(&prometheus, &stack, all.clone());
    assert!(missing.is_empty(), "of {} expressions these have no value: {missing:#?}", all.len());
    assert_eq!(prometheus.query("count(up)"), Ok(vec![4.0]), "one target for each program, none for the other port");
    assert_eq!(prometheus.query("up{job=\"scaler\", instance=\"scaler-a\", namespace=\"roundhouse\"}"), Ok(vec![1.0]));
    // The check notices an expression without a value.
    assert_eq!(prometheus.query("dispatcher_no_such_metric"), Ok(vec![]));
}

#[test]
fn alerts_are_raised_when_they_should_be() {
    let run = |arguments: &[&str]| {
        let mut command = Command::new("promtool");
        match command.args(arguments).current_dir(monitoring()).output() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                print_skipped("promtool is not installed; on Debian and Ubuntu: apt-get install prometheus");
            }
            output => {
                let output = output.expect("promtool runs");
                let text = [output.stdout, output.stderr].concat();
                assert!(output.status.success(), "{arguments:?}:\n{}", String::from_utf8_lossy(&text));
            }
        }
    };
    run(&["check", "rules", "rules.yml"]);
    run(&["test", "rules", "rules.test.yml"]);
}

#[test]
fn the_left_side_of_each_comparison_is_found() {
    for (expression, expected) in [
        ("a > 1", vec!["a"]),
        ("a{b=\"c\"} > 14.4 * 0.01 and d < 2", vec!["a{b=\"c\"}", "d"]),
        ("(count(a == 1) or vector(0)) < 1", vec!["(count(a == 1) or vector(0))"]),
    ] {
        assert_eq!(left_sides(expression), expected);
    }
}
