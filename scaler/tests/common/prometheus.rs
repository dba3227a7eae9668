//! A real Prometheus that scrapes dispatchers. Needs `prometheus` on the path (`apt-get install prometheus`).

#![allow(dead_code, reason = "each program of tests uses a part")]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

/// Until it listens.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a test without it does nothing.
pub(crate) const SKIPPED: &str = "skipped: there is no prometheus; to have it: apt-get install prometheus";

/// Scrapes once a second; killed when dropped.
pub(crate) struct Prometheus {
    child: Child,
    folder: PathBuf,
    /// `host:port`.
    pub(crate) address: String,
}

impl Prometheus {
    /// With its configuration and its data in this folder; nothing if there is no such program.
    pub(crate) async fn start(folder: &Path, targets: &[SocketAddr]) -> Option<Self> {
        write(folder, targets);
        let (child, address) = run(folder, "127.0.0.1:0").await?;
        Some(Self { child, folder: folder.into(), address })
    }

    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("it runs");
    }

    /// Again, with the same data, after it was killed.
    pub(crate) async fn restart(&mut self) {
        (self.child, self.address) = run(&self.folder, &self.address).await.expect("it was there");
    }

    /// These targets from now on.
    pub(crate) async fn scrape(&self, targets: &[SocketAddr]) {
        write(&self.folder, targets);
        self.signal("HUP").await;
    }

    /// Sends a signal by its name, such as STOP.
    pub(crate) async fn signal(&self, name: &str) {
        let process = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-s", name, &process]).status().await.expect("there is a kill");
        assert!(sent.success(), "the process is there to be told");
    }
}

fn write(folder: &Path, targets: &[SocketAddr]) {
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
        .arg("--log.level=info")
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
