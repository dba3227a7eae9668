//! An alert of the shipped rules reaches the receiver of an operator, by a real Prometheus and a real Alertmanager with
//! the shipped configurations.

use crate::prometheus::{Daemon, Prometheus, config, target};
use crate::{TIMEOUT, elements, monitoring, read};
use harness::stack::ServiceProcess;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};

/// Starts Alertmanager with the shipped configuration, which sends to the webhook at `url`. `None` if Alertmanager is
/// not installed.
fn start_alertmanager(folder: &Path, url: &str) -> Option<Daemon> {
    let mut config = read(&monitoring().join("alertmanager.yml"));
    assert_eq!(config["receivers"], json!([{"name": "operators"}]), "the operator fills in the receiver");
    config["receivers"][0]["webhook_configs"] = json!([{"url": url}]);
    // Alerts are collected for 30 s, which would only delay the test.
    config["route"]["group_wait"] = "1s".into();
    let file = folder.join("alertmanager.yml");
    fs::write(&file, config.to_string()).expect("the configuration can be written");
    let arguments = [
        format!("--config.file={}", file.display()),
        format!("--storage.path={}", folder.join("alertmanager").display()),
        "--cluster.listen-address=".to_owned(),
        "--web.listen-address=127.0.0.1:0".to_owned(),
    ];
    // Debian's package gives the program another name.
    Daemon::start(&["prometheus-alertmanager", "alertmanager"], "prometheus-alertmanager", &arguments)
}

/// Answers the requests of one connection, and returns the body of each as JSON.
fn bodies(stream: TcpStream) -> impl Iterator<Item = Value> {
    let mut reader = BufReader::new(stream);
    std::iter::from_fn(move || {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").ok()?;
        serde_json::from_slice(&body).ok()
    })
}

/// Starts a receiver of webhooks. Returns its URL, and the notifications that it gets.
fn start_webhook() -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (sender, notifications) = sync_channel(64);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            for body in bodies(stream) {
                // The test ends when it has its alert, and leaves further ones.
                let _unread = sender.try_send(body);
            }
        }
    });
    (format!("http://{address}/"), notifications)
}

/// The shipped rules without the times for which a condition must hold. They would only delay the test.
fn rules_without_delay() -> Value {
    let mut rules = read(&monitoring().join("rules.yml"));
    for group in rules["groups"].as_array_mut().expect("groups") {
        for rule in group["rules"].as_array_mut().expect("rules") {
            rule.as_object_mut().expect("a rule").remove("for");
        }
    }
    rules
}

#[test]
fn an_alert_reaches_the_receiver() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (url, notifications) = start_webhook();
    let Some(alertmanager) = start_alertmanager(folder.path(), &url) else { return };
    let flags = ["--listen=127.0.0.1:0", "--replicas=static:127.0.0.1:9"].map(str::to_owned);
    let dispatcher = ServiceProcess::start("dispatcher", &flags, folder.path()).expect("the dispatcher starts");
    let address = alertmanager.url.strip_prefix("http://").expect("a URL");
    // The namespace has a dispatcher and no scaler.
    let targets = vec![target("shop", "dispatcher", "dispatcher-a", "http", &dispatcher.address)];
    let mut config = config(targets, &[address]);
    let rules = folder.path().join("rules.yml");
    fs::write(&rules, rules_without_delay().to_string()).expect("written");
    config["rule_files"] = json!([rules]);
    assert_eq!(config["global"]["external_labels"], json!({"runbooks": ""}), "an operator fills in the address");
    config["global"]["external_labels"]["runbooks"] = "https://docs.example/".into();
    let Some(_prometheus) = Prometheus::start(folder.path(), &config) else { return };

    // Before its first scrape, Prometheus knows of no namespace.
    let alert = loop {
        let notification = notifications.recv_timeout(TIMEOUT).expect("the receiver is notified");
        let mut alerts = elements(&notification["alerts"]);
        let is_expected = |alert: &&Value| {
            alert["labels"]["alertname"] == "RoundhouseNoScaler" && alert["labels"]["namespace"] == "shop"
        };
        if let Some(alert) = alerts.find(is_expected) {
            assert_eq!(notification["receiver"], "operators");
            break alert.clone();
        }
    };
    assert_eq!(alert["status"], "firing");
    let labels = json!({"alertname": "RoundhouseNoScaler", "namespace": "shop", "severity": "page"});
    assert_eq!(alert["labels"], labels, "the label `runbooks` is for the annotation only");
    let runbook = "https://docs.example/docs/operations.md#roundhousenoscaler";
    assert_eq!(alert["annotations"]["runbook_url"], runbook);
    assert_eq!(alert["annotations"]["summary"], "no scaler answers Prometheus");
}
