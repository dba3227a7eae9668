//! What `k8s/monitoring` shows and watches, on a real Prometheus and the real programs: every expression of every panel and
//! every rule has to find something. Prometheus' own configuration is used, but for how it finds pods: targets that are
//! given bear the labels that Kubernetes' would.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use xtask::stack::{ScalerProgram, Setup, Stack};
use xtask::{http, paths};

/// For all expressions to find something.
const PATIENCE: Duration = Duration::from_secs(90);

fn monitoring() -> PathBuf {
    paths::root().join("k8s/monitoring")
}

/// Past the capturing of what passing tests print: nothing is skipped silently.
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("standard error is open");
}

fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // JSON is YAML.
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A running Prometheus, and where it listens.
struct Prometheus {
    child: Child,
    url: String,
}

impl Prometheus {
    /// Nothing where there is none.
    fn start(folder: &Path, config: &Value) -> Option<Self> {
        let file = folder.join("prometheus.yml");
        fs::write(&file, config.to_string()).expect("writable");
        let data = folder.join("prometheus");
        let _none = fs::remove_dir_all(&data);
        let started = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match started {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                say("skipped: there is no prometheus (Debian: apt-get install prometheus)");
                return None;
            }
            started => started.expect("prometheus starts"),
        };
        let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
        let address = log.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, rest) = line.split_once("msg=\"Listening on\" address=")?;
            Some(rest.trim_matches('"').to_owned())
        });
        let address = address.expect("prometheus says where it listens");
        // Whoever logs must be read.
        std::thread::spawn(move || log.for_each(drop));
        Some(Self { child, url: format!("http://{address}") })
    }

    /// The values that an expression has now.
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
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// What is left of the comparisons that an alert is made of: each side has a value even when all is well.
fn left_sides(expression: &str) -> Vec<String> {
    let comparisons = expression.split(" and ").map(|comparison| {
        let at = [" > ", " < "].iter().filter_map(|sign| comparison.rfind(sign)).max();
        comparison[..at.unwrap_or_else(|| panic!("no comparison: {comparison}"))].to_owned()
    });
    comparisons.collect()
}

/// Every expression of the rules and the dashboards, with where it stands.
fn expressions() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let rules = read(&monitoring().join("rules.yml"));
    for rule in
        rules["groups"].as_array().expect("groups").iter().flat_map(|group| group["rules"].as_array().expect("rules"))
    {
        let expression = rule["expr"].as_str().expect("an expression");
        match rule["alert"].as_str() {
            Some(alert) => all.extend(left_sides(expression).into_iter().map(|left| (format!("alert {alert}"), left))),
            None => all.push((format!("rule {}", rule["record"]), expression.to_owned())),
        }
    }
    let dashboards: Vec<_> = fs::read_dir(monitoring().join("dashboards")).expect("dashboards").flatten().collect();
    assert!(!dashboards.is_empty());
    for dashboard in dashboards {
        let dashboard = read(&dashboard.path());
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expression = target["expr"].as_str().expect("an expression").replace("$__rate_interval", "20s");
                all.push((format!("panel {}", panel["title"]), expression));
            }
        }
        for annotation in dashboard["annotations"]["list"].as_array().into_iter().flatten() {
            let expression = annotation["expr"].as_str().expect("an expression");
            all.extend(
                left_sides(expression).into_iter().map(|left| (format!("annotation {}", annotation["name"]), left)),
            );
        }
    }
    all
}

/// As Kubernetes would describe a port of a pod.
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

/// loadgen's requests, whose outcome does not matter.
fn load(stack: &Stack, flags: &[&str]) -> Child {
    let url = format!("--url=http://{}/predict", stack.dispatcher.address);
    let mut command = Command::new(paths::program("loadgen"));
    command.args(["run", "--quiet", "--generate=24"]).arg(url).args(flags);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("loadgen starts")
}

/// One of the scaler's children (proc(5): the parent is the second field after the name in brackets).
fn a_replica(stack: &Stack) -> Pid {
    let scaler = stack.scaler.id().to_string();
    let processes = fs::read_dir("/proc").expect("there is /proc").flatten();
    let mut children = processes.filter_map(|entry| {
        let id: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        (stat.rsplit(')').next()?.split_whitespace().nth(1)? == scaler).then(|| Pid::from_raw(id)).flatten()
    });
    children.next().expect("a replica")
}

#[test]
fn every_expression_finds_something() {
    let folder = paths::output("test").join("monitoring");
    let flags = ["--min=2", "--max=2", "--cpu-share=0.5"].map(str::to_owned);
    let program = ScalerProgram::Scaler;
    let stack = Stack::start(Setup { listen: "127.0.0.1:0", folder: folder.clone(), program, scaler: flags.into() });
    let stack = stack.expect("the system starts");
    let began = Instant::now();
    while stack.ready_replicas().expect("it answers").len() < 2 {
        assert!(began.elapsed() < PATIENCE, "two replicas in rotation");
        std::thread::sleep(Duration::from_millis(100));
    }

    let mut targets = vec![
        target("dispatcher", "dispatcher-a", "http", &stack.dispatcher.address),
        target("scaler", "scaler-a", "http", &stack.scaler.address),
        // Not one that has the metrics.
        target("dispatcher", "dispatcher-a", "other", "127.0.0.1:9"),
    ];
    for (index, address) in stack.ready_replicas().expect("it answers").iter().enumerate() {
        targets.push(target("replica", &format!("replica-{index}"), "http", address));
    }
    let mut config = read(&monitoring().join("prometheus.yml"));
    config["global"] = json!({"scrape_interval": "1s", "evaluation_interval": "1s"});
    config["rule_files"] = json!([monitoring().join("rules.yml")]);
    let found = config["scrape_configs"][0]["kubernetes_sd_configs"].take();
    assert_eq!(found, json!([{"role": "pod", "namespaces": {"own_namespace": true}}]));
    let scraped = config["scrape_configs"][0].as_object_mut().expect("a job");
    scraped.remove("kubernetes_sd_configs");
    scraped.insert("static_configs".into(), targets.into());
    let Some(prometheus) = Prometheus::start(&folder, &config) else { return };

    // Requests that are answered, that cannot be in time, and that lose their replica.
    let mut loads = vec![
        load(&stack, &["--rate=20", "--duration=60s"]),
        load(&stack, &["--rate=20", "--budget=25ms", "--duration=60s"]),
        load(&stack, &["--closed=64", "--duration=15s"]),
    ];
    let all = expressions();
    let mut missing = all.clone();
    let began = Instant::now();
    let mut killed = false;
    while !missing.is_empty() && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_secs(1));
        if !killed && began.elapsed() > Duration::from_secs(5) {
            kill_process(a_replica(&stack), Signal::KILL).expect("it is ours");
            killed = true;
        }
        missing.retain(|(place, expression)| {
            let values = prometheus.query(expression).unwrap_or_else(|error| panic!("{place}: {expression}: {error}"));
            !values.iter().any(|value| value.is_finite())
        });
    }
    for load in &mut loads {
        let _ended = load.kill();
        let _reaped = load.wait();
    }
    assert!(missing.is_empty(), "of {} expressions these found nothing: {missing:#?}", all.len());
    assert_eq!(
        prometheus.query("count(up)").expect("it answers"),
        [4.0],
        "one for each program, none for the other port"
    );
    assert_eq!(prometheus.query("up{job=\"scaler\", instance=\"scaler-a\", namespace=\"roundhouse\"}"), Ok(vec![1.0]));
    // It would have been noticed.
    assert_eq!(prometheus.query("dispatcher_no_such_metric"), Ok(vec![]));
}

#[test]
fn alerts_are_raised_when_they_should_be() {
    let run = |arguments: &[&str]| {
        let mut command = Command::new("promtool");
        match command.args(arguments).current_dir(monitoring()).output() {
            Err(error) if error.kind() == ErrorKind::NotFound => say("skipped: there is no promtool"),
            output => {
                let output = output.expect("promtool runs");
                let said = [output.stdout, output.stderr].concat();
                assert!(output.status.success(), "{arguments:?}:\n{}", String::from_utf8_lossy(&said));
            }
        }
    };
    run(&["check", "rules", "rules.yml"]);
    run(&["test", "rules", "rules.test.yml"]);
}

#[test]
fn comparisons_have_left_sides() {
    for (expression, expected) in [
        ("a > 1", vec!["a"]),
        ("a{b=\"c\"} > 14.4 * 0.01 and d < 2", vec!["a{b=\"c\"}", "d"]),
        ("(count(a == 1) or vector(0)) < 1", vec!["(count(a == 1) or vector(0))"]),
    ] {
        assert_eq!(left_sides(expression), expected);
    }
}
