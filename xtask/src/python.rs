//! Python for what is measured or compared with: environments of pinned packages under `target/tools`, made on first use.

use crate::paths;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Packages of one folder.
#[derive(Debug, Clone, Copy)]
pub struct Environment {
    /// Of the folder.
    name: &'static str,
    /// As pip takes them.
    packages: &'static [&'static str],
    /// What is downloaded, in words.
    download: &'static str,
}

/// Other engines for inference, and PIL.
pub const ENGINES: Environment = Environment {
    name: "engines",
    packages: &[
        "numpy==2.4.6",
        "onnx==1.23.2",
        "onnxruntime==1.31.1",
        "openvino==2026.4.1",
        "pillow==13.0.0",
        "safetensors==0.8.0",
    ],
    download: "about 130 MB",
};

/// PyTorch, torchvision and Flask. PyPI's PyTorch for Linux on x86 names CUDA's libraries and does not load without them.
pub const TORCHVISION: Environment = Environment {
    name: "torchvision",
    packages: &[
        "flask==3.1.3",
        "numpy==2.4.6",
        "pillow==13.0.0",
        "safetensors==0.8.0",
        "torch==2.13.0",
        "torchvision==0.28.0",
    ],
    download: "about 3 GB, most of it CUDA's libraries, 5 GB once unpacked",
};

/// Written last, so it vouches for the rest.
const MANIFEST: &str = "roundhouse-packages.txt";

/// Which Python runs the scripts under `bench/`.
#[derive(Debug, Clone)]
pub struct Python(PathBuf);

impl Python {
    /// `own` if there is one, which is to have the packages already; else the environment's, made if need be.
    ///
    /// # Errors
    /// When `own` or the system's Python does not run, or pip cannot download.
    pub fn find(own: Option<&Path>, environment: Environment) -> Result<Self> {
        match own {
            Some(own) => {
                ensure!(runs(own, &["--version"]), "--python ({}) does not run", own.display());
                Ok(Self(own.to_owned()))
            }
            None => environment.ensure().map(Self),
        }
    }

    /// Runs a script of `bench/`.
    pub fn script(&self, name: &str) -> Command {
        let mut command = Command::new(&self.0);
        command.arg(paths::root().join("bench").join(name));
        command
    }
}

impl Environment {
    fn ensure(self) -> Result<PathBuf> {
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

fn runs(python: &Path, arguments: &[&str]) -> bool {
    let mut run = Command::new(python);
    run.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    run.status().is_ok_and(|status| status.success())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    ensure!(status.success(), "this failed ({status}), and says why above: {command:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_python_that_is_none_is_named() {
        let error = Python::find(Some(Path::new("/no/such/python")), ENGINES).expect_err("refused");
        assert!(error.to_string().contains("/no/such/python"), "{error}");
    }

    #[test]
    fn every_package_is_pinned() {
        for package in [ENGINES, TORCHVISION].iter().flat_map(|environment| environment.packages) {
            assert!(package.split_once("==").is_some_and(|(_, version)| version.contains('.')), "{package}");
        }
    }
}
