//! oha, the load generator that loadgen is compared with.

use crate::cores;
use anyhow::{Context, Result, ensure};
use harness::paths;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of oha that is installed.
const VERSION: &str = "1.16.0";

/// Connections that oha opens and keeps.
const CONNECTIONS: &str = "64";

/// The share of the requests that must be answered for the figures to count.
const MIN_ANSWERED: f64 = 0.9;

/// An installed oha.
pub(super) struct Oha {
    program: PathBuf,
}

impl Oha {
    /// Installs oha into `target/tools`, if it is not there. That takes some minutes. cargo prints its progress.
    ///
    /// # Errors
    /// If cargo cannot install oha.
    pub(super) fn ensure() -> Result<Self> {
        let root = paths::target().join("tools/oha");
        let program = root.join("bin/oha");
        if !program.is_file() {
            println!("installing oha {VERSION} with cargo");
            let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
                .args(["install", "oha", "--locked", "--version", VERSION, "--root"])
                .arg(&root)
                .status()
                .context("run cargo install oha")?;
            ensure!(status.success(), "cargo install oha --version {VERSION} failed ({status})");
        }
        Ok(Self { program })
    }

    /// Posts the file `body` to `address`, `rate` times a second for `seconds` seconds, from the core `core`. Returns
    /// the number of requests that were answered with status 200.
    ///
    /// # Errors
    /// If oha fails, or less than nine tenths of the requests were answered with status 200.
    pub(super) fn send(&self, core: u32, rate: u32, seconds: u32, body: &Path, address: SocketAddr) -> Result<f64> {
        let output = cores::command_on(core, &self.program)
            .args(["--no-tui", "--output-format", "json", "-m", "POST", "-H", "content-type: image/jpeg"])
            .args(["-c", CONNECTIONS, "-q", &rate.to_string(), "-z", &format!("{seconds}s"), "-D"])
            .arg(body)
            .arg(format!("http://{address}/predict"))
            .output()
            .with_context(|| format!("run {}", self.program.display()))?;
        ensure!(output.status.success(), "oha failed: {}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).context("parse the report that oha printed")?;
        let answered = report["statusCodeDistribution"]["200"].as_f64();
        let answered = answered.context("no request of oha was answered with status 200")?;
        let due = f64::from(rate * seconds);
        ensure!(
            answered > MIN_ANSWERED * due,
            "only {answered} of the {due} requests of oha were answered with status 200; try fewer --seconds, or stop \
             other programs"
        );
        Ok(answered)
    }
}
