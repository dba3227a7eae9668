//! The settings under which forward passes are compared: a network, and the vector instructions that engines may use.

use super::{RunContext, server};
use crate::python::Python;
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A network whose forward passes are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum TimedNetwork {
    /// The bundled ResNet-18
    Resnet18,
    /// A ResNet-50 with random weights
    Resnet50,
}

impl TimedNetwork {
    /// The file with the weights. Random weights are written first if there is no file yet.
    ///
    /// # Errors
    /// If `peers/forward.py` fails.
    pub(super) fn weights(self, run: &RunContext, python: &Python) -> Result<PathBuf> {
        match self {
            Self::Resnet18 => Ok(server::weights()),
            Self::Resnet50 => {
                let file = run.folder.join("resnet50.safetensors");
                if !file.exists() {
                    let status = python.script("forward.py").arg("random").arg(&file).status();
                    let status = status.context("run bench/peers/forward.py")?;
                    ensure!(status.success(), "bench/peers/forward.py random failed ({status})");
                }
                Ok(file)
            }
        }
    }

    /// What follows the names of this network's figures. The figures of the bundled network have the shortest names.
    fn suffix(self) -> &'static str {
        match self {
            Self::Resnet18 => "",
            Self::Resnet50 => "_resnet50",
        }
    }
}

/// The vector instructions that engines may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum AllowedInstructions {
    /// All instructions that the processor has
    Best,
    /// The replica and OpenVINO use no more than AVX2; ONNX Runtime cannot be restricted
    Avx2,
}

/// A network with the instructions for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ForwardSetting {
    pub(super) network: TimedNetwork,
    pub(super) instructions: AllowedInstructions,
}

impl ForwardSetting {
    /// What follows the names of figures under this setting.
    pub(super) fn suffix(self) -> String {
        let instructions = match self.instructions {
            AllowedInstructions::Best => "",
            AllowedInstructions::Avx2 => "_avx2",
        };
        format!("{}{instructions}", self.network.suffix())
    }

    /// Restricts the replica that `command` starts.
    pub(super) fn restrict_replica(self, command: &mut Command) {
        if self.instructions == AllowedInstructions::Avx2 {
            command.arg("--instructions=avx2");
        }
    }

    /// Restricts the peer that `command` starts, if the peer uses oneDNN.
    pub(super) fn restrict_peer(self, command: &mut Command) {
        if self.instructions == AllowedInstructions::Avx2 {
            command.env("ONEDNN_MAX_CPU_ISA", "AVX2");
        }
    }
}

/// The processor's name and those of its instructions that matter to forward passes, as Linux lists them (`lscpu`).
pub(super) fn processor() -> String {
    let Ok(text) = fs::read_to_string("/proc/cpuinfo") else { return "unknown processor".into() };
    let field = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.trim() == name).map_or("", |(_, value)| value.trim()).to_owned()
    };
    let flags = field("flags");
    let matters = |flag: &&str| {
        ["avx", "amx", "fma"].iter().any(|start| flag.starts_with(start)) && !flag.starts_with("avx512_vp")
    };
    format!("{}: {}", field("model name"), flags.split(' ').filter(matters).collect::<Vec<_>>().join(" "))
}
