//! Python environments of pinned packages under `target/tools`, made on first use. Knows nothing of which packages are
//! needed for what.

use crate::paths;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Packages that are installed together.
#[derive(Debug, Clone, Copy)]
pub struct Environment {
    /// The environment's folder in `target/tools`.
    pub name: &'static str,
    /// Requirements for pip, each pinned with `==`.
    pub packages: &'static [&'static str],
    /// Size of the download, for the user.
    pub download: &'static str,
}

/// The file that holds the list of installed packages. It is written last, so an interrupted installation has none.
const MANIFEST: &str = "roundhouse-packages.txt";

impl Environment {
    /// The environment's interpreter. Makes the environment, if it does not exist with these very packages.
    ///
    /// # Errors
    /// When python3 or its venv is missing, or pip cannot install a package.
    pub fn ensure(self) -> Result<PathBuf> {
        let folder = paths::target().join("tools").join(self.name);
        let python = folder.join("bin/python");
        let (manifest, packages) = (folder.join(MANIFEST), self.packages.join("\n"));
        if fs::read_to_string(&manifest).is_ok_and(|found| found == packages) {
            return Ok(python);
        }
        ensure!(
            runs(Path::new("python3"), &["-c", "import venv, ensurepip"]),
            "python3 with venv is missing; on Debian and Ubuntu: sudo apt-get install python3-venv"
        );
        println!("making a Python environment in {} (downloads {})", folder.display(), self.download);
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        // pip shows its own progress.
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--only-binary=:all:"]).args(self.packages);
        run(&mut pip)?;
        fs::write(&manifest, packages).with_context(|| format!("write {}", manifest.display()))?;
        Ok(python)
    }
}

/// Whether `python` runs with these arguments and succeeds.
pub fn runs(python: &Path, arguments: &[&str]) -> bool {
    let mut run = Command::new(python);
    run.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    run.status().is_ok_and(|status| status.success())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    ensure!(status.success(), "this failed ({status}), and its message stands above: {command:?}");
    Ok(())
}
