//! `cargo xtask images`: builds container images of the programs with docker or podman.

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use harness::{command, paths};
use std::process::Command;
use std::time::Duration;

/// The first part of every container image's name.
const PREFIX: &str = "roundhouse";

/// The container images that can be built, and the largest permitted size of each, in bytes.
const IMAGES: [(&str, u64); 4] =
    [("dispatcher", 40_000_000), ("scaler", 40_000_000), ("loadgen", 40_000_000), ("replica", 550_000_000)];

/// Time limit for building one container image, which compiles everything and downloads libtorch.
const BUILD_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

/// Flags of `cargo xtask images`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask images\n  cargo xtask images --only replica --tag 0.1.0\n  \
                        cargo xtask images -- --build-arg BASE=registry.example/rust@sha256:…")]
pub struct Options {
    /// Program that builds the images; by default docker if it runs, otherwise podman
    #[arg(long, value_enum)]
    engine: Option<Builder>,
    /// Tag of the images
    #[arg(long, default_value = "latest")]
    tag: String,
    /// Build only these images
    #[arg(long, value_delimiter = ',', value_parser = IMAGES.map(|(name, _)| name))]
    only: Vec<String>,
    /// Flags for docker build or podman build
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<String>,
}

/// A program that builds container images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Builder {
    Docker,
    Podman,
}

/// Builds the container images and prints their sizes.
///
/// # Errors
/// If neither docker nor podman runs, an image cannot be built, or an image is larger than permitted.
pub fn run(options: &Options) -> Result<()> {
    let candidates = options.engine.map_or_else(|| vec![Builder::Docker, Builder::Podman], |engine| vec![engine]);
    let engine = choose(&candidates, Builder::obstacle)?;
    let selected =
        IMAGES.iter().filter(|(name, _)| options.only.is_empty() || options.only.iter().any(|only| only == name));
    let mut sizes = Vec::new();
    for &(name, limit) in selected {
        let tag = format!("{PREFIX}/{name}:{}", options.tag);
        println!("\n== {tag}");
        let mut build = engine.command();
        build.args(["build", "--file", "k8s/images/Dockerfile", "--target", name, "--tag", &tag]);
        build.args(engine.without_timestamp()).args(&options.flags).arg(".").current_dir(paths::root());
        command::run(&mut build, BUILD_LIMIT).with_context(|| format!("build {tag}"))?;
        sizes.push((tag.clone(), engine.size(&tag)?, limit));
    }
    println!();
    for (tag, size, limit) in &sizes {
        println!("{tag:<32} {:>6.1} MB of {:.0} MB at most", *size as f64 / 1e6, *limit as f64 / 1e6);
    }
    let large: Vec<&str> = sizes.iter().filter(|(_, size, limit)| size > limit).map(|(tag, ..)| tag.as_str()).collect();
    ensure!(large.is_empty(), "larger than permitted: {}; the limits are above", large.join(", "));
    Ok(())
}

impl Builder {
    fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    fn command(self) -> Command {
        let mut command = Command::new(self.name());
        // The default builder of docker before version 23 has no cache mounts, which the Dockerfile uses.
        command.env("DOCKER_BUILDKIT", "1");
        command
    }

    /// The reason why the engine does not run; `None` if it runs.
    fn obstacle(self) -> Option<String> {
        // docker can be installed without a running daemon. `info` fails without a daemon.
        match command::output(self.command().arg("info"), command::PROBE_LIMIT) {
            Ok(output) if output.status.success() => None,
            Ok(output) => {
                let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                let last = errors.lines().rev().find(|line| !line.trim().is_empty());
                Some(format!("{} reports: {}", self.name(), last.unwrap_or("nothing").trim()))
            }
            Err(error) => Some(format!("{}: {error:#}", self.name())),
        }
    }

    /// Flags that keep the time of the build out of the image, so that equal layers give equal images.
    fn without_timestamp(self) -> [&'static str; 2] {
        match self {
            Self::Docker => ["--build-arg", "SOURCE_DATE_EPOCH=0"],
            Self::Podman => ["--timestamp", "0"],
        }
    }

    /// The uncompressed size of a container image, in bytes.
    fn size(self, tag: &str) -> Result<u64> {
        let mut inspect = self.command();
        inspect.args(["image", "inspect", "--format", "{{.Size}}", tag]);
        let output = command::output(&mut inspect, command::PROBE_LIMIT)?;
        let printed = String::from_utf8_lossy(&output.stdout);
        printed.trim().parse().with_context(|| format!("{} printed no size of {tag}: {printed}", self.name()))
    }
}

/// The first candidate for which `obstacle` returns `None`.
fn choose(candidates: &[Builder], obstacle: impl Fn(Builder) -> Option<String>) -> Result<Builder> {
    let mut obstacles = Vec::new();
    for &candidate in candidates {
        match obstacle(candidate) {
            None => return Ok(candidate),
            Some(reason) => obstacles.push(format!("  {reason}")),
        }
    }
    let advice = "start docker, or install podman (Debian: apt-get install podman)";
    bail!("no program that builds container images runs here:\n{}\n{advice}", obstacles.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_engine_that_runs_is_chosen() {
        let both = [Builder::Docker, Builder::Podman];
        let running = |engine| move |candidate| (candidate != engine).then(|| "it does not run".to_owned());
        for engine in both {
            assert_eq!(choose(&both, running(engine)).expect("one runs"), engine);
        }
        let error = choose(&both, |engine| Some(format!("{}: no", engine.name()))).expect_err("none runs").to_string();
        for part in ["docker: no", "podman: no", "apt-get install podman"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(choose(&[Builder::Docker], running(Builder::Podman)).is_err(), "docker was requested and does not run");
    }
}
