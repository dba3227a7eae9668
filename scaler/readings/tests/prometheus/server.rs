//! A real Prometheus for a test, on a port that the system picks. It is killed when dropped. It needs `prometheus` and
//! `promtool` on the path (`apt-get install prometheus`).

#![allow(dead_code, reason = "each test program uses a part of this module")]

use readings::prometheus::client::{BaseUrl, Client};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

/// The time limit of every wait. It is long, because busy machines are slow.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// The message of a test that needs Prometheus and does not find it.
pub(crate) const SKIPPED: &str = "skipped: prometheus or promtool is not on the path; run apt-get install prometheus";

/// Reports a skipped test on the process's standard error, which the test harness does not capture.
pub(crate) fn skipped() {
    writeln!(std::io::stderr(), "{SKIPPED}").expect("standard error is open");
}

/// A Prometheus that scrapes its targets once a second, and gives their series a label that `up` lacks.
pub(crate) struct Prometheus {
    child: Child,
    folder: PathBuf,
    /// The address of its HTTP interface, `host:port`.
    pub(crate) address: String,
}

impl Prometheus {
    /// Starts a Prometheus that scrapes `targets`, with its configuration and data in `folder`; `None` if the program
    /// is not installed.
    pub(crate) async fn start(folder: &Path, targets: &[SocketAddr]) -> Option<Self> {
        write_config(folder, targets);
        let (child, address) = run(folder, "127.0.0.1:0").await?;
        Some(Self { child, folder: folder.into(), address })
    }

    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("the process was started by this test");
    }

    /// Starts Prometheus again after [`Self::kill`], with the same address and data.
    pub(crate) async fn restart(&mut self) {
        (self.child, self.address) = run(&self.folder, &self.address).await.expect("the program was found before");
    }

    /// Makes Prometheus scrape these targets instead of the present ones.
    pub(crate) async fn scrape(&self, targets: &[SocketAddr]) {
        write_config(&self.folder, targets);
        self.signal("HUP").await;
    }

    /// Sends a signal, by its name such as STOP.
    pub(crate) async fn signal(&self, name: &str) {
        let process = self.child.id().expect("Prometheus runs").to_string();
        let sent =
            Command::new("kill").args(["-s", name, &process]).status().await.expect("the command kill is installed");
        assert!(sent.success(), "kill -s {name} {process} failed");
    }
}

/// Starts a Prometheus that scrapes `targets`. Returns its process and the base URL for queries; `None` if the program
/// is not installed.
pub(crate) async fn prometheus(folder: &Path, targets: &[SocketAddr]) -> Option<(Child, BaseUrl)> {
    let Prometheus { child, address, .. } = Prometheus::start(folder, targets).await?;
    Some((child, base(&address)))
}

/// Starts a Prometheus that scrapes nothing and has the data of `openmetrics`, a text in the OpenMetrics format.
/// Returns its process and the base URL for queries; `None` if the programs are not installed.
pub(crate) async fn archive(folder: &Path, openmetrics: &str) -> Option<(Child, BaseUrl)> {
    let text = folder.join("history");
    std::fs::write(&text, openmetrics).expect("the folder is writable");
    let mut promtool = Command::new("promtool");
    promtool.args(["tsdb", "create-blocks-from", "openmetrics"]).arg(&text).arg(folder.join("data"));
    let output = match promtool.kill_on_drop(true).output().await {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => panic!("start promtool: {error}"),
    };
    assert!(
        output.status.success(),
        "promtool tsdb create-blocks-from openmetrics failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::write(folder.join("prometheus.yml"), "global: {}\n").expect("the folder is writable");
    let (child, address) = run(folder, "127.0.0.1:0").await?;
    let client = Client::new(base(&address), None).expect("a client without a token reads no file");
    let ready = async {
        while client.query("vector(1)").await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, ready).await.expect("Prometheus reads its blocks in time");
    Some((child, base(&address)))
}

fn base(address: &str) -> BaseUrl {
    format!("http://{address}").parse().expect("the address makes a URL")
}

fn write_config(folder: &Path, targets: &[SocketAddr]) {
    let targets: Vec<String> = targets.iter().map(|target| format!("{:?}", target.to_string())).collect();
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 900ms}}\nscrape_configs:\n  - job_name: dispatcher\n    \
         static_configs: [{{targets: [{}]}}]\n    \
         metric_relabel_configs: [{{target_label: app, replacement: roundhouse}}]\n",
        targets.join(", ")
    );
    std::fs::write(folder.join("prometheus.yml"), config).expect("the folder is writable");
}

/// Starts the program with the configuration in `folder`. Returns its process and its address; `None` if the program is
/// not installed.
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
        Err(error) => panic!("start prometheus: {error}"),
    };
    let log = child.stderr.take().expect("standard error is piped");
    let address = tokio::time::timeout(TIMEOUT, listening(log)).await.expect("Prometheus logs its address in time");
    Some((child, address))
}

/// The address in Prometheus's log. A task reads the rest of the log, since Prometheus would block on a full pipe.
async fn listening(log: impl AsyncRead + Unpin + Send + 'static) -> String {
    let mut lines = BufReader::new(log).lines();
    let mut before = Vec::new();
    while let Some(line) = lines.next_line().await.expect("the log is text") {
        let address = line.split("address=127.0.0.1:").nth(1).map(|rest| rest.split_whitespace().next().unwrap_or(""));
        match address {
            Some(port) if port != "0" && !port.is_empty() => {
                let address = format!("127.0.0.1:{port}");
                tokio::spawn(async move { while let Ok(Some(_line)) = lines.next_line().await {} });
                return address;
            }
            _ => before.push(line),
        }
    }
    panic!("prometheus ended before it logged an address:\n{}", before.join("\n"));
}
