//! The Python that runs the scripts in `bench/peers`, and the packages that the scripts need.

use anyhow::{Result, ensure};
use harness::paths;
use harness::python_tool::Environment;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The environment with ONNX Runtime, OpenVINO and PIL.
pub(crate) const ENGINES: Environment = Environment {
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

/// The environment with PyTorch, torchvision and Flask. PyPI's PyTorch for Linux on x86 links CUDA's libraries and does
/// not load without them.
pub(crate) const TORCHVISION: Environment = Environment {
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

/// The environment of [`TORCHVISION`] with timm, transformers and torch's exporters to ONNX, for models as they write
/// them.
pub(crate) const ZOO: Environment = Environment {
    name: "zoo",
    packages: &[
        "numpy==2.4.6",
        "onnx==1.23.2",
        "onnxscript==0.7.2",
        "pillow==13.0.0",
        "safetensors==0.8.0",
        "timm==1.0.31",
        "torch==2.13.0",
        "torchvision==0.28.0",
        "transformers==5.24.0",
    ],
    download: "about 3 GB, most of it CUDA's libraries, 5 GB once unpacked",
};

/// A Python interpreter with the packages that the scripts need.
#[derive(Debug, Clone)]
pub(crate) struct Python {
    program: PathBuf,
}

impl Python {
    /// The interpreter `chosen` by the user, which must have the packages. If `None`, the interpreter of `environment`,
    /// which is made if it does not exist.
    ///
    /// # Errors
    /// If `chosen` does not run, or pip cannot install the packages.
    pub(crate) fn find(chosen: Option<&Path>, environment: Environment) -> Result<Self> {
        let Some(chosen) = chosen else { return Ok(Self { program: environment.ensure()? }) };
        let mut version = Command::new(chosen);
        let status = version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        ensure!(
            status.is_ok_and(|status| status.success()),
            "--python: {} --version fails; name a Python interpreter, or leave the flag out",
            chosen.display()
        );
        Ok(Self { program: chosen.to_owned() })
    }

    /// A command that runs the script `name` in `bench/peers`.
    pub(crate) fn script(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(peers().join(name));
        command
    }
}

/// The folder with the peers' scripts and configurations, `bench/peers`.
pub(crate) fn peers() -> PathBuf {
    paths::root().join("bench/peers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_a_python_that_does_not_run() {
        let error = Python::find(Some(Path::new("/no/such/python")), ENGINES).expect_err("refused");
        assert!(error.to_string().contains("/no/such/python"), "{error}");
    }

    #[test]
    fn every_package_is_pinned() {
        for package in [ENGINES, TORCHVISION, ZOO].iter().flat_map(|environment| environment.packages) {
            assert!(package.split_once("==").is_some_and(|(_, version)| version.contains('.')), "{package}");
        }
    }
}
