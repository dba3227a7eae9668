//! The alerts are raised when they should be, each has a section in docs/operations.md, and the rules for the Prometheus
//! Operator are the same.

use crate::{elements, monitoring, print_skipped, read, text};
use harness::paths;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::process::Command;

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

/// The anchor that a heading has on GitHub and GitLab. The headings of alerts are single words.
fn anchor(heading: &str) -> String {
    heading.to_lowercase()
}

#[test]
fn every_alert_has_a_test_and_a_section_in_the_operations_document() {
    let document = fs::read_to_string(paths::root().join("docs/operations.md")).expect("there is docs/operations.md");
    let headings = document.lines().filter_map(|line| line.strip_prefix("### ").or(line.strip_prefix("## ")));
    let sections: BTreeSet<&str> = headings.filter(|heading| heading.starts_with("Roundhouse")).collect();
    let tests = read(&monitoring().join("rules.test.yml"));
    let tests = elements(&tests["tests"]).flat_map(|test| elements(&test["alert_rule_test"]));
    let raising = tests.filter(|test| elements(&test["exp_alerts"]).next().is_some());
    let raised: BTreeSet<&str> = raising.map(|test| text(&test["alertname"])).collect();
    let rules = read(&monitoring().join("rules.yml"));
    let rules = elements(&rules["groups"]).flat_map(|group| elements(&group["rules"]));
    let mut alerts = BTreeSet::new();
    for (rule, alert) in rules.filter_map(|rule| Some((rule, rule["alert"].as_str()?))) {
        let url = text(&rule["annotations"]["runbook_url"]);
        assert_eq!(url, format!("{{{{ $externalLabels.runbooks }}}}docs/operations.md#{}", anchor(alert)));
        alerts.insert(alert);
    }
    assert!(!alerts.is_empty());
    assert_eq!(sections, alerts, "docs/operations.md (left) and rules.yml (right) disagree");
    assert_eq!(raised, alerts, "rules.test.yml (left) does not raise all alerts of rules.yml (right)");
}

#[test]
fn the_rules_for_the_operator_are_those_of_the_own_prometheus() {
    let component = paths::root().join("k8s/components/prometheus-operator/prometheus-rule.yaml");
    let text = fs::read_to_string(&component).expect("there are rules for the operator");
    let (_, body) = text.split_once("\nspec:\n").expect("a PrometheusRule has a spec");
    let rules = fs::read_to_string(monitoring().join("rules.yml")).expect("there is rules.yml");
    let indented = rules.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") });
    let advice = "write prometheus-rule.yaml again; its first lines have the command";
    assert_eq!(body, indented.collect::<String>(), "{advice}");
}
