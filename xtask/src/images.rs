//! `cargo xtask images`: container images of the programs, by docker or podman.

use crate::paths;
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use std::process::{Command, Stdio};

/// Every image's name begins so.
const PREFIX: &str = "roundhouse";

/// What can be built, and how large it may be, bytes.
const IMAGES: [(&str, u64); 4] =
    [("dispatcher", 40_000_000), ("scaler", 40_000_000), ("loadgen", 40_000_000), ("replica", 550_000_000)];

/// Flags of `cargo xtask images`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask images\n  cargo xtask images --only replica --tag 0.1.0\n  \
                        cargo xtask images -- --build-arg BASE=registry.example/rust@sha256:…")]
pub struct Options {
    /// What builds them; if not given, the first that runs
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// Their tag
    #[arg(long, default_value = "latest")]
    tag: String,
    /// Only these
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
/// When no engine runs, an image cannot be built, or one is larger than it may be.
pub fn run(options: &Options) -> Result<()> {
    let engine = engine(options.engine)?;
    let wanted =
        IMAGES.iter().filter(|(name, _)| options.only.is_empty() || options.only.iter().any(|only| only == name));
    let mut sizes = Vec::new();
    for &(name, limit) in wanted {
        let tag = format!("{PREFIX}/{name}:{}", options.tag);
        println!("\n== {tag}");
        let mut build = engine.command();
        build.args(["build", "--file", "k8s/images/Dockerfile", "--target", name, "--tag", &tag]);
        let status = build.args(engine.undated()).args(&options.flags).arg(".").current_dir(paths::root()).status();
        let status = status.with_context(|| format!("run {}", engine.name()))?;
        ensure!(status.success(), "{} could not build {tag} ({status})", engine.name());
        sizes.push((tag.clone(), engine.size(&tag)?, limit));
    }
    println!();
    for (tag, size, limit) in &sizes {
        println!("{tag:<32} {:>6.1} MB of {:.0} MB at most", *size as f64 / 1e6, *limit as f64 / 1e6);
    }
    let large: Vec<&str> = sizes.iter().filter(|(_, size, limit)| size > limit).map(|(tag, ..)| tag.as_str()).collect();
    ensure!(large.is_empty(), "larger than they may be: {}", large.join(", "));
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
        // Before version 23 the old builder, which knows no cache mounts, was docker's default.
        command.env("DOCKER_BUILDKIT", "1");
        command
    }

    /// Why it does not run, if it does not.
    fn obstacle(self) -> Option<String> {
        // Both ask what does the work, which may be another process, or none.
        match self.command().arg("info").stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => None,
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                let last = said.lines().rev().find(|line| !line.trim().is_empty());
                Some(format!("{} says: {}", self.name(), last.unwrap_or("nothing").trim()))
            }
            Err(error) => Some(format!("{}: {error}", self.name())),
        }
    }

    /// Flags that leave out when it was built, so that the same layers make the same image.
    fn undated(self) -> [&'static str; 2] {
        match self {
            Self::Docker => ["--build-arg", "SOURCE_DATE_EPOCH=0"],
            Self::Podman => ["--timestamp", "0"],
        }
    }

    /// Uncompressed, bytes.
    fn size(self, tag: &str) -> Result<u64> {
        let output = self.command().args(["image", "inspect", "--format", "{{.Size}}", tag]).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        said.trim().parse().with_context(|| format!("{} tells no size of {tag}: {said}", self.name()))
    }
}

/// The one that was asked for, or the first that runs.
fn engine(asked: Option<Engine>) -> Result<Engine> {
    let candidates = asked.map_or_else(|| vec![Engine::Docker, Engine::Podman], |asked| vec![asked]);
    choose(&candidates, Engine::obstacle)
}

/// PURE but for what `obstacle` does: the first that has none.
fn choose(candidates: &[Engine], obstacle: impl Fn(Engine) -> Option<String>) -> Result<Engine> {
    let mut obstacles = Vec::new();
    for &candidate in candidates {
        match obstacle(candidate) {
            None => return Ok(candidate),
            Some(why) => obstacles.push(format!("  {why}")),
        }
    }
    bail!(
        "nothing that builds images runs here:\n{}\nstart docker, or install podman (Debian: apt-get install podman)",
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
        assert!(choose(&[Engine::Docker], running(Engine::Podman)).is_err(), "another was asked for");
    }
}
