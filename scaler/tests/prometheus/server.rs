//! A Prometheus of a test's own, on a port that the system picks; killed when dropped.

#![allow(dead_code, reason = "each program of tests uses a part")]

use scaler::observe::prometheus::client::{Base, Client};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

/// Longer than anything that is waited for takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Past the capturing of what passing tests print: nothing is skipped silently.
pub(crate) fn skipped() {
    let text = "skipped: there is no prometheus or no promtool; to have them: apt-get install prometheus";
    writeln!(std::io::stderr(), "{text}").expect("standard error is open");
}

/// Scrapes the targets once a second. Nothing if there is no such program.
pub(crate) async fn prometheus(folder: &Path, targets: &[SocketAddr]) -> Option<(Child, Base)> {
    let targets: Vec<String> = targets.iter().map(|target| format!("{:?}", target.to_string())).collect();
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 900ms}}\nscrape_configs:\n  - job_name: dispatcher\n    \
         static_configs: [{{targets: [{}]}}]\n",
        targets.join(", ")
    );
    start(folder, &config).await
}

/// Knows what `openmetrics` says, and scrapes nobody; answers queries when it is handed over. Nothing if there is no such
/// program.
pub(crate) async fn archive(folder: &Path, openmetrics: &str) -> Option<(Child, Base)> {
    let text = folder.join("history");
    std::fs::write(&text, openmetrics).expect("writable");
    let mut promtool = Command::new("promtool");
    promtool.args(["tsdb", "create-blocks-from", "openmetrics"]).arg(&text).arg(folder.join("data"));
    let output = match promtool.kill_on_drop(true).output().await {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => panic!("promtool: {error}"),
    };
    assert!(output.status.success(), "promtool: {}", String::from_utf8_lossy(&output.stderr));
    let (child, base) = start(folder, "global: {}\n").await?;
    let client = Client::new(base.clone(), None).expect("no token");
    let ready = async {
        while client.query("vector(1)").await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.expect("it reads its blocks");
    Some((child, base))
}

async fn start(folder: &Path, config: &str) -> Option<(Child, Base)> {
    let path = folder.join("prometheus.yml");
    std::fs::write(&path, config).expect("writable");
    let started = Command::new("prometheus")
        .arg(format!("--config.file={}", path.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .args(["--web.listen-address=127.0.0.1:0", "--log.level=info", "--storage.tsdb.retention.time=10y"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => panic!("prometheus: {error}"),
    };
    let log = child.stderr.take().expect("piped");
    let address = tokio::time::timeout(PATIENCE, listening(log)).await.expect("it says where it listens");
    Some((child, format!("http://{address}").parse().expect("a base")))
}

/// The address in its log; what follows is read and thrown away, so that it never waits for a reader.
async fn listening(log: impl AsyncRead + Unpin + Send + 'static) -> String {
    let mut lines = BufReader::new(log).lines();
    let mut all = Vec::new();
    while let Some(line) = lines.next_line().await.expect("text") {
        let address = line.split("address=127.0.0.1:").nth(1).map(|rest| rest.split_whitespace().next().unwrap_or(""));
        match address {
            Some(port) if port != "0" && !port.is_empty() => {
                let address = format!("127.0.0.1:{port}");
                tokio::spawn(async move { while let Ok(Some(_line)) = lines.next_line().await {} });
                return address;
            }
            _ => all.push(line),
        }
    }
    panic!("prometheus ended:\n{}", all.join("\n"));
}
