//! `cargo xtask images`: container images of the programs, built by docker or podman.

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use harness::{command, paths};
use std::process::Command;
use std::time::Duration;

/// First part of every image's name.
const PREFIX: &str = "roundhouse";

/// The images that can be built, and the largest permitted size of each, bytes.
const IMAGES: [(&str, u64); 4] =
    [("dispatcher", 40_000_000), ("scaler", 40_000_000), ("loadgen", 40_000_000), ("replica", 550_000_000)];

/// Time limit of building one image, which compiles everything and downloads libtorch.
const BUILD_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

/// Flags of `cargo xtask images`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask images\n  cargo xtask images --only replica --tag 0.1.0\n  \
                        cargo xtask images -- --build-arg BASE=registry.example/rust@sha256:…")]
pub struct Options {
    /// Program that builds the images; if not given, the first that runs
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// Tag of the images
    #[arg(long, default_value = "latest")]
    tag: String,
    /// Build only these images
    #[arg(long, value_delimiter = ',', value_parser = IMAGES.map(|(name, _)| name))]
    only: Vec<String>,
    /// Flags for the engine's build
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<String>,
}

/// A program that builds images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    Docker,
    Podman,
}

/// Builds the images and prints their sizes.
///
/// # Errors
/// If no engine runs, an image cannot be built, or an image is larger than permitted.
pub fn run(options: &Options) -> Result<()> {
    let engine = engine(options.engine)?;
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
    ensure!(large.is_empty(), "larger than permitted: {}", large.join(", "));
    Ok(())
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    fn command(self) -> Command {
        let mut command = Command::new(self.name());
        // docker's default before version 23 was an older builder, which has no cache mounts.
        command.env("DOCKER_BUILDKIT", "1");
        command
    }

    /// The reason why the engine does not run; `None` if it runs.
    fn obstacle(self) -> Option<String> {
        // `info` asks the daemon, which may not run where the program is installed.
        match command::output(self.command().arg("info"), command::PROBE_LIMIT) {
            Ok(output) if output.status.success() => None,
            Ok(output) => {
                let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                let last = errors.lines().rev().find(|line| !line.trim().is_empty());
                Some(format!("{} says: {}", self.name(), last.unwrap_or("nothing").trim()))
            }
            Err(error) => Some(format!("{}: {error:#}", self.name())),
        }
    }

    /// Flags that leave the time of the build out of the image, so that the same layers make the same image.
    fn without_timestamp(self) -> [&'static str; 2] {
        match self {
            Self::Docker => ["--build-arg", "SOURCE_DATE_EPOCH=0"],
            Self::Podman => ["--timestamp", "0"],
        }
    }

    /// Uncompressed size of an image, bytes.
    fn size(self, tag: &str) -> Result<u64> {
        let mut inspect = self.command();
        inspect.args(["image", "inspect", "--format", "{{.Size}}", tag]);
        let output = command::output(&mut inspect, command::PROBE_LIMIT)?;
        let printed = String::from_utf8_lossy(&output.stdout);
        printed.trim().parse().with_context(|| format!("{} tells no size of {tag}: {printed}", self.name()))
    }
}

/// The requested engine, or the first that runs.
fn engine(requested: Option<Engine>) -> Result<Engine> {
    let candidates = requested.map_or_else(|| vec![Engine::Docker, Engine::Podman], |engine| vec![engine]);
    choose(&candidates, Engine::obstacle)
}

/// The first candidate without an obstacle.
fn choose(candidates: &[Engine], obstacle: impl Fn(Engine) -> Option<String>) -> Result<Engine> {
    let mut obstacles = Vec::new();
    for &candidate in candidates {
        match obstacle(candidate) {
            None => return Ok(candidate),
            Some(reason) => obstacles.push(format!("  {reason}")),
        }
    }
    bail!(
        "no program that builds images runs here:\n{}\nstart docker, or install podman (Debian: apt-get install podman)",
        obstacles.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_engine_that_runs_is_taken() {
        let both = [Engine::Docker, Engine::Podman];
        let running = |engine| move |candidate| (candidate != engine).then(|| "it does not run".to_owned());
        for engine in both {
            assert_eq!(choose(&both, running(engine)).expect("one runs"), engine);
        }
        let error = choose(&both, |engine| Some(format!("{}: no", engine.name()))).expect_err("none runs").to_string();
        for part in ["docker: no", "podman: no", "apt-get install podman"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(choose(&[Engine::Docker], running(Engine::Podman)).is_err(), "another was requested");
    }
}
