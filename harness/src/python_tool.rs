//! Python environments in `target/tools`, each with pinned packages. Does not know what the packages are for.

use crate::{command, paths};
use anyhow::{Context, Result};
use std::fs;
use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Time limit for making an environment, and for installing packages into it.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// Name of the file that lists the installed packages. It is written last, so that an interrupted installation does not
/// have it.
const MANIFEST: &str = "roundhouse-packages.txt";

/// Packages that are installed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Environment {
    /// Name of the environment's folder in `target/tools`.
    pub name: &'static str,
    /// Requirements for pip, each pinned with `==`.
    pub packages: &'static [&'static str],
    /// Size of the download in words, for messages.
    pub download: &'static str,
}

impl Environment {
    /// Whether the environment exists, with exactly its packages.
    pub fn is_made(self) -> bool {
        let manifest = fs::read_to_string(self.folder().join(MANIFEST));
        manifest.is_ok_and(|packages| packages == self.packages.join("\n")) && self.python().exists()
    }

    /// Makes the environment, unless it exists with exactly its packages. Returns the path of its interpreter.
    ///
    /// # Errors
    /// If python3 or its module venv is missing, or pip cannot install a package. Nothing is left behind then.
    pub fn ensure(self) -> Result<PathBuf> {
        if !self.is_made() {
            println!("making a Python environment in {} (downloads {})", self.folder().display(), self.download);
            self.make().inspect_err(|_error| {
                // Without this removal, a failed installation could leave gigabytes on the disk.
                let _absent = fs::remove_dir_all(self.folder());
            })?;
        }
        Ok(self.python())
    }

    fn make(self) -> Result<()> {
        let mut venv = Command::new("python3");
        command::run(venv.args(["-m", "venv", "--clear"]).arg(self.folder()), LIMIT)
            .context("python3 with venv is needed (Debian: apt-get install python3-venv)")?;
        let mut pip = Command::new(self.python());
        pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--retries=2"]).args(self.packages);
        if !stdout().is_terminal() {
            pip.arg("--quiet");
        }
        command::run(&mut pip, LIMIT)?;
        let manifest = self.folder().join(MANIFEST);
        fs::write(&manifest, self.packages.join("\n")).with_context(|| format!("write {}", manifest.display()))
    }

    fn python(self) -> PathBuf {
        self.folder().join("bin/python")
    }

    fn folder(self) -> PathBuf {
        paths::tool(self.name)
    }
}
