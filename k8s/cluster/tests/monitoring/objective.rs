//! The rules and the dashboard take the objective from the dispatchers' metrics, whichever flags these have.

use crate::expressions::with_variables;
use crate::prometheus::{Prometheus, config, target};
use crate::{TIMEOUT, elements, monitoring, read, text};
use harness::stack::ServiceProcess;
use std::fs;
use std::time::{Duration, Instant};

/// The expression of the line `objective` in the dashboard's panel Latency, for `namespace`.
fn objective_line(namespace: &str) -> String {
    let dashboard = read(&monitoring().join("dashboards/roundhouse.json"));
    let latency = elements(&dashboard["panels"]).find(|panel| panel["title"] == "Latency").expect("a panel Latency");
    let line = elements(&latency["targets"]).find(|target| target["legendFormat"] == "objective").expect("a line");
    with_variables(&line["expr"], namespace)
}

/// The value of a metric without labels in `/metrics` of a program.
fn metric(program: &ServiceProcess, name: &str) -> f64 {
    let metrics = harness::http::get(&format!("http://{}/metrics", program.address)).expect("the dispatcher answers");
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} is missing: {metrics}"))
}

/// Starts a dispatcher without replicas.
fn dispatcher(folder: &std::path::Path, flags: &[&str]) -> ServiceProcess {
    let all = ["--listen=127.0.0.1:0", "--replicas=static:127.0.0.1:9"].iter().chain(flags);
    let all: Vec<String> = all.map(|&flag| flag.to_owned()).collect();
    ServiceProcess::start("dispatcher", &all, folder).expect("the dispatcher starts")
}

#[test]
fn alerts_and_the_dashboard_follow_the_flags_of_the_dispatchers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folders = ["shop", "lab"].map(|name| folder.path().join(name));
    folders.iter().for_each(|folder| fs::create_dir(folder).expect("made"));
    let shop = dispatcher(&folders[0], &[]);
    let lab = dispatcher(&folders[1], &["--objective=2s", "--attainment=0.9"]);

    // While no dispatcher is scraped, the rules take the default of the flag.
    let default = metric(&shop, "dispatcher_objective_ratio");
    let rules = read(&monitoring().join("rules.yml"));
    let mut rules = elements(&rules["groups"]).flat_map(|group| elements(&group["rules"]));
    let budget = rules.find(|rule| rule["record"] == "roundhouse:error_budget").expect("a rule");
    assert!(text(&budget["expr"]).ends_with(&format!(" + {default})")), "{budget} does not fall back to {default}");

    let targets = vec![
        target("shop", "dispatcher", "dispatcher-a", "http", &shop.address),
        target("lab", "dispatcher", "dispatcher-a", "http", &lab.address),
    ];
    let Some(prometheus) = Prometheus::start(folder.path(), &config(targets, &[])) else { return };
    let rounded = |expression: &str| prometheus.query(&format!("round({expression}, 0.001)"));
    // The last rule of both. Prometheus scrapes the two dispatchers at different times.
    let start = Instant::now();
    while ["shop", "lab"]
        .iter()
        .any(|namespace| rounded(&format!("roundhouse:miss_threshold:slow{{namespace=\"{namespace}\"}}")) == Ok(vec![]))
    {
        assert!(start.elapsed() < TIMEOUT, "the rules are evaluated");
        std::thread::sleep(Duration::from_millis(100));
    }
    for (namespace, objective, budget, fast, slow) in [("shop", 0.5, 0.01, 0.144, 0.06), ("lab", 2.0, 0.1, 0.55, 0.55)]
    {
        let of = |name: &str| rounded(&format!("{name}{{namespace=\"{namespace}\"}}"));
        assert_eq!(rounded(&objective_line(namespace)), Ok(vec![objective]), "{namespace}");
        assert_eq!(of("roundhouse:error_budget"), Ok(vec![budget]), "{namespace}");
        // Above these miss ratios, the alerts are raised; see rules.test.yml.
        assert_eq!(of("roundhouse:miss_threshold:fast"), Ok(vec![fast]), "{namespace}");
        assert_eq!(of("roundhouse:miss_threshold:slow"), Ok(vec![slow]), "{namespace}");
    }
}

#[test]
fn no_panel_has_the_objective_as_a_number() {
    let dashboard = read(&monitoring().join("dashboards/roundhouse.json"));
    for panel in elements(&dashboard["panels"]) {
        let thresholds = elements(&panel["fieldConfig"]["defaults"]["thresholds"]["steps"]);
        for value in thresholds.filter_map(|step| step["value"].as_f64()) {
            // Thresholds are allowed only where the unit is a multiple of the error budget.
            assert_eq!(panel["title"], "Misses, in error budgets", "a threshold at {value}");
        }
    }
}
