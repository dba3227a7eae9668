//! The load generator that loadgen is compared with, installed once with cargo.

use crate::paths;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = "1.16.0";

/// As many as it keeps open.
const CONNECTIONS: &str = "64";

/// An installed one.
pub(super) struct Oha {
    program: PathBuf,
}

impl Oha {
    /// Installs it into `target/tools` unless it is there; that takes some minutes, and cargo shows its progress.
    pub(super) fn ensure() -> Result<Self> {
        let root = paths::root().join("target/tools/oha");
        let program = root.join("bin/oha");
        if !program.is_file() {
            println!("installing oha {VERSION} with cargo");
            let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
                .args(["install", "oha", "--locked", "--version", VERSION, "--root"])
                .arg(&root)
                .status()
                .context("run cargo install")?;
            ensure!(status.success(), "oha could not be installed ({status})");
        }
        Ok(Self { program })
    }

    /// Posts `body` at this rate; how many were answered with 200.
    pub(super) fn send(&self, core: &str, rate: u32, seconds: u32, body: &Path, address: &str) -> Result<f64> {
        let output = Command::new("taskset")
            .args(["-c", core])
            .arg(&self.program)
            .args(["--no-tui", "--output-format", "json", "-m", "POST", "-H", "content-type: image/jpeg"])
            .args(["-c", CONNECTIONS, "-q", &rate.to_string(), "-z", &format!("{seconds}s"), "-D"])
            .arg(body)
            .arg(format!("http://{address}/predict"))
            .output()
            .context("run oha")?;
        ensure!(output.status.success(), "oha failed: {}", String::from_utf8_lossy(&output.stderr));
        let found: Value = serde_json::from_slice(&output.stdout).context("read what oha prints")?;
        let answered = found["statusCodeDistribution"]["200"].as_f64().context("oha had no answer")?;
        let asked = f64::from(rate * seconds);
        ensure!(answered > 0.9 * asked, "oha was to send {asked} requests and had {answered} answers");
        Ok(answered)
    }
}
