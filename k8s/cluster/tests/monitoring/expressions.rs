//! Every expression of the rules and of the dashboard must have a value beside the real programs.

use crate::prometheus::{Prometheus, config, target};
use crate::{TIMEOUT, elements, monitoring, read, text};
use harness::paths;
use harness::stack::{ScalerProgram, Stack, StackSetup};
use procfs::process::all_processes;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time after which a replica is killed. Without that, metrics of failures would have no values.
const KILL_AFTER: Duration = Duration::from_secs(5);

/// The namespace of the programs.
const NAMESPACE: &str = "roundhouse";

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
    let comparisons = expression.split(" and ").flat_map(|part| part.split(" or ")).map(|comparison| {
        let at = [" > ", " < "].iter().filter_map(|sign| comparison.rfind(sign)).max();
        comparison[..at.unwrap_or_else(|| panic!("{comparison:?} has no comparison"))].to_owned()
    });
    comparisons.collect()
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

/// An expression of the dashboard as Grafana sends it while `namespace` is chosen.
pub(crate) fn with_variables(expression: &Value, namespace: &str) -> String {
    let expression = text(expression).replace("$namespace", namespace).replace("$__rate_interval", "20s");
    assert!(!expression.contains('$'), "{expression} has a variable that this test does not know");
    expression
}

/// The expressions of a dashboard's panels, and the left sides of its annotations.
fn dashboard_expressions(dashboard: &Value) -> Vec<Expression> {
    let mut all = Vec::new();
    for panel in elements(&dashboard["panels"]) {
        for target in elements(&panel["targets"]) {
            let expression = with_variables(&target["expr"], NAMESPACE);
            assert!(expression.contains("{namespace=\""), "{expression} adds up several installations");
            all.push(Expression::new(format!("panel {}", panel["title"]), expression));
        }
    }
    for variable in elements(&dashboard["templating"]["list"]) {
        let query = text(&variable["query"]["query"]);
        let (metric, label) = query
            .strip_prefix("label_values(")
            .and_then(|query| query.strip_suffix(')')?.split_once(", "))
            .unwrap_or_else(|| panic!("{query} is no query for the values of a label"));
        let place = format!("variable {}", variable["name"]);
        // Without the matcher, a series without the label would count.
        all.push(Expression::new(place, format!("count({metric}{{{label}!=\"\"}})")));
    }
    for annotation in elements(&dashboard["annotations"]["list"]) {
        let place = format!("annotation {}", annotation["name"]);
        let expression = with_variables(&annotation["expr"], NAMESPACE);
        all.extend(left_sides(&expression).into_iter().map(|left| Expression::new(place.clone(), left)));
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

/// The targets of the dispatcher, the scaler and all ready replicas, and one that must not be scraped.
fn targets(stack: &Stack) -> Vec<Value> {
    let target = |component, pod: &str, port, address: &str| target(NAMESPACE, component, pod, port, address);
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
fn without_value(prometheus: &Prometheus, stack: &Stack, mut missing: Vec<Expression>) -> Vec<Expression> {
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
    let Some(prometheus) = Prometheus::start(&folder, &config(targets(&stack), &[])) else { return };

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
    assert_eq!(
        prometheus.query("up{app=\"roundhouse\", job=\"scaler\", instance=\"scaler-a\", namespace=\"roundhouse\"}"),
        Ok(vec![1.0])
    );
    // The check notices an expression without a value.
    assert_eq!(prometheus.query("dispatcher_no_such_metric"), Ok(vec![]));
}

#[test]
fn the_left_side_of_each_comparison_is_found() {
    for (expression, expected) in [
        ("a > 1", vec!["a"]),
        ("a{b=\"c\"} > 14.4 * 0.01 and d < 2", vec!["a{b=\"c\"}", "d"]),
        ("a > 1 and b > 2 or c > 3", vec!["a", "b", "c"]),
        ("max by (a) (b) > 1", vec!["max by (a) (b)"]),
    ] {
        assert_eq!(left_sides(expression), expected);
    }
}
