//! A real Prometheus for a test, on a port that the system picks; killed when dropped. It needs `prometheus` and `promtool` on
//! the path (`apt-get install prometheus`).

#![allow(dead_code, reason = "each program of tests uses a part")]

use scaler::observe::prometheus::client::{BaseUrl, Client};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

/// Time limit of anything that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Why a test without Prometheus does nothing.
pub(crate) const SKIPPED: &str =
    "skipped: there is no prometheus or no promtool; to have them: apt-get install prometheus";

/// Reports a skipped test on the real standard error, so that no test is skipped silently.
pub(crate) fn skipped() {
    writeln!(std::io::stderr(), "{SKIPPED}").expect("standard error is open");
}

/// A Prometheus that scrapes its targets once a second.
pub(crate) struct Prometheus {
    child: Child,
    folder: PathBuf,
    /// `HOST:PORT`
    pub(crate) address: String,
}

impl Prometheus {
    /// Starts one with its configuration and its data in a folder; `None` if there is no such program.
    pub(crate) async fn start(folder: &Path, targets: &[SocketAddr]) -> Option<Self> {
        write_config(folder, targets);
        let (child, address) = run(folder, "127.0.0.1:0").await?;
        Some(Self { child, folder: folder.into(), address })
    }

    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("it runs");
    }

    /// Starts it again, with the same data, after it was killed.
    pub(crate) async fn restart(&mut self) {
        (self.child, self.address) = run(&self.folder, &self.address).await.expect("it was there");
    }

    /// Replaces the targets that Prometheus scrapes.
    pub(crate) async fn scrape(&self, targets: &[SocketAddr]) {
        write_config(&self.folder, targets);
        self.signal("HUP").await;
    }

    /// Sends a signal by its name, such as STOP.
    pub(crate) async fn signal(&self, name: &str) {
        let process = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-s", name, &process]).status().await.expect("there is a kill");
        assert!(sent.success(), "the process runs");
    }
}

/// A Prometheus that scrapes the targets once a second; `None` if there is no such program.
pub(crate) async fn prometheus(folder: &Path, targets: &[SocketAddr]) -> Option<(Child, BaseUrl)> {
    let Prometheus { child, address, .. } = Prometheus::start(folder, targets).await?;
    Some((child, base(&address)))
}

/// A Prometheus with the data of a text in the OpenMetrics format, which scrapes nothing and answers queries; `None` if
/// there is no such program.
pub(crate) async fn archive(folder: &Path, openmetrics: &str) -> Option<(Child, BaseUrl)> {
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
    std::fs::write(folder.join("prometheus.yml"), "global: {}\n").expect("writable");
    let (child, address) = run(folder, "127.0.0.1:0").await?;
    let client = Client::new(base(&address), None).expect("no token");
    let ready = async {
        while client.query("vector(1)").await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.expect("it reads its blocks");
    Some((child, base(&address)))
}

fn base(address: &str) -> BaseUrl {
    format!("http://{address}").parse().expect("a base")
}

fn write_config(folder: &Path, targets: &[SocketAddr]) {
    let targets: Vec<String> = targets.iter().map(|target| format!("{:?}", target.to_string())).collect();
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 900ms}}\nscrape_configs:\n  - job_name: dispatcher\n    \
         static_configs: [{{targets: [{}]}}]\n",
        targets.join(", ")
    );
    std::fs::write(folder.join("prometheus.yml"), config).expect("writable");
}

async fn run(folder: &Path, listen: &str) -> Option<(Child, String)> {
    let started = Command::new("prometheus")
        .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address={listen}"))
        .args(["--log.level=info", "--storage.tsdb.retention.time=10y"])
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
    Some((child, address))
}

/// The address in its log. The rest of the log is read and thrown away, or Prometheus would block on a full pipe.
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
