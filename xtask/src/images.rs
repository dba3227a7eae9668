//! `cargo xtask images`: builds container images of the programs with docker or podman.

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use harness::{command, paths};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The first part of every container image's name, unless `--prefix` gives another. No registry can have this name: the
/// domain `invalid` is reserved (RFC 6761), so that no engine can fetch another publisher's image of the same name.
pub const PREFIX: &str = "roundhouse.invalid";

/// The tag of the container images, unless `--tag` gives another: the version of the workspace.
pub const TAG: &str = env!("CARGO_PKG_VERSION");

/// A container image that can be built.
struct Image {
    /// The last part of the image's name, and the stage of the Dockerfile.
    name: &'static str,
    /// The program that the image runs.
    program: &'static str,
    /// The largest permitted size, in bytes.
    limit: u64,
}

/// The container images that can be built. The last one is only built if `--only` names it.
const IMAGES: [Image; 5] = [
    Image { name: "dispatcher", program: "dispatcher", limit: 40_000_000 },
    Image { name: "scaler", program: "scaler", limit: 40_000_000 },
    Image { name: "loadgen", program: "loadgen", limit: 40_000_000 },
    Image { name: "replica", program: "replica", limit: 550_000_000 },
    Image { name: CUDA, program: "replica", limit: 4_000_000_000 },
];

/// The image of the replica with libtorch for NVIDIA's GPUs.
const CUDA: &str = "replica-cuda";

/// Time limit for building one container image, which compiles everything and downloads libtorch.
const BUILD_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

/// Time limit for collecting a program's libraries. Those of CUDA have 3 GB.
const GATHER_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Flags of `cargo xtask images`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask images\n  \
                        cargo xtask images --prefix registry.example/team --engine podman\n  \
                        cargo xtask images --programs target/release\n  \
                        cargo xtask images --only replica-cuda\n  \
                        cargo xtask images -- --build-arg BASE=registry.example/rust@sha256:…")]
pub struct Options {
    /// Program that builds the images; by default docker if it can build them, otherwise podman
    #[arg(long, value_enum)]
    engine: Option<Builder>,
    /// First part of the images' names: a registry, and perhaps a path in it
    #[arg(long, value_name = "REGISTRY/PATH", default_value = PREFIX, value_parser = prefix)]
    prefix: String,
    /// Tag of the images
    #[arg(long, default_value = TAG, value_parser = tag)]
    tag: String,
    /// Build only these images; replica-cuda (3.2 GB, for NVIDIA's GPUs) is not built otherwise
    #[arg(long, value_delimiter = ',', value_parser = IMAGES.map(|image| image.name))]
    only: Vec<String>,
    /// Folder with programs that were built on this machine, such as target/release; nothing is compiled in a container
    /// then, and no other image is fetched; Linux only
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
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

/// An image that was built.
struct Built {
    /// Its whole name: prefix, name and tag.
    name: String,
    /// The system and architecture that run it, such as `linux/amd64`.
    platform: String,
    /// Its uncompressed size, in bytes.
    size: u64,
    /// The largest permitted size, in bytes.
    limit: u64,
}

/// Builds the container images. Prints the platform and the size of each.
///
/// # Errors
/// If neither docker nor podman can build images, an image cannot be built, or an image is larger than permitted.
pub fn run(options: &Options) -> Result<()> {
    let candidates = options.engine.map_or_else(|| vec![Builder::Docker, Builder::Podman], |engine| vec![engine]);
    let engine = choose(&candidates, Builder::obstacle)?;
    let selected: Vec<&Image> = IMAGES.iter().filter(|image| is_selected(image.name, &options.only)).collect();
    let context = match &options.programs {
        Some(programs) => gather(programs, &selected)?,
        None => paths::root(),
    };
    let mut built = Vec::new();
    for image in selected {
        let name = format!("{}/{}:{}", options.prefix, image.name, options.tag);
        println!("\n== {name}");
        let mut build = engine.command();
        build.args(["build", "--target", image.name, "--tag", &name, "--file"]);
        build.arg(paths::root().join("k8s/images/Dockerfile"));
        build.args(["--build-arg", &format!("VERSION={TAG}")]);
        if options.programs.is_some() {
            build.args(["--build-arg", "PROGRAMS=gathered", "--build-arg", "CUDA_PROGRAMS=gathered"]);
        }
        build.args(engine.without_timestamp()).args(&options.flags).arg(&context);
        command::run(&mut build, BUILD_LIMIT).with_context(|| format!("build {name}"))?;
        let platform = engine.inspect(&name, "{{.Os}}/{{.Architecture}}")?;
        if options.programs.is_some() {
            // An image of another platform would have this machine's programs, which do not run there.
            let own = format!("linux/{}", architecture());
            ensure!(platform == own, "{name} is for {platform}, but --programs has programs for {own}");
        }
        let size = engine.inspect(&name, "{{.Size}}")?;
        let size = size.parse().with_context(|| format!("{} printed no size of {name}: {size}", engine.name()))?;
        built.push(Built { name, platform, size, limit: image.limit });
    }
    println!();
    for Built { name, platform, size, limit } in &built {
        println!("{name:<40} {platform:<12} {:>7.1} MB of {:.0} MB at most", *size as f64 / 1e6, *limit as f64 / 1e6);
    }
    let large: Vec<&str> = built.iter().filter(|image| image.size > image.limit).map(|image| &*image.name).collect();
    ensure!(large.is_empty(), "larger than permitted: {}; the limits are above", large.join(", "));
    println!("docs/kubernetes.md says how to load the images into a cluster, and how to push them to a registry");
    Ok(())
}

/// Whether the image `name` is built. `only` has the names of `--only`.
fn is_selected(name: &str, only: &[String]) -> bool {
    if only.is_empty() { name != CUDA } else { only.iter().any(|only| only == name) }
}

/// Writes a root file system for each image, with its program in the folder `programs`. Returns the folder with them.
fn gather(programs: &Path, images: &[&Image]) -> Result<PathBuf> {
    ensure!(cfg!(target_os = "linux"), "--programs needs Linux, since container images have programs for Linux");
    let folder = paths::output("images");
    if folder.exists() {
        // The engine copies the whole folder, images of an earlier run included.
        fs::remove_dir_all(&folder).with_context(|| format!("remove the old {}", folder.display()))?;
    }
    for image in images {
        let (program, root) = (programs.join(image.program), folder.join(image.name));
        ensure!(
            program.is_file(),
            "there is no program {}; build it: cargo build --release --locked --workspace",
            program.display()
        );
        let mut script = Command::new("sh");
        script.arg(paths::root().join("k8s/images/gather")).arg(&program).arg(&root);
        command::run(&mut script, GATHER_LIMIT).with_context(|| format!("collect the files of {}", image.name))?;
        let has_cuda = root.join("usr/lib/roundhouse/libtorch_cuda.so").exists();
        ensure!(
            has_cuda == (image.name == CUDA) || image.program != "replica",
            "the image {} cannot have {}, which {}",
            image.name,
            program.display(),
            if has_cuda {
                "needs CUDA: build only replica-cuda of it"
            } else {
                "has no CUDA; docs/kubernetes.md says how to build it"
            },
        );
    }
    Ok(folder)
}

/// This machine's architecture, as container images call it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Checks the value of `--prefix`. Engines read a name without a registry as one of Docker Hub.
fn prefix(text: &str) -> Result<String, String> {
    let registry = text.split('/').next().unwrap_or(text);
    if !(registry.contains(['.', ':']) || registry == "localhost") {
        return Err(format!("{registry:?} is no registry; for a path of Docker Hub, give docker.io/{text}"));
    }
    let is_part = |part: &str| {
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(is_allowed)
    };
    let (host, port) = registry.split_once(':').unwrap_or((registry, "443"));
    if is_part(&host.to_ascii_lowercase()) && port.parse::<u16>().is_ok() && text.split('/').skip(1).all(is_part) {
        Ok(text.to_owned())
    } else {
        Err("give a registry and a path in small letters, such as registry.example:5000/team".into())
    }
}

/// Checks the value of `--tag`.
fn tag(text: &str) -> Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=128).contains(&text.len()) && text.chars().all(is_allowed) && !text.starts_with(['.', '-']) {
        Ok(text.to_owned())
    } else {
        Err("a tag has 1 to 128 letters, digits, dots, hyphens and underscores, and begins with none of the first two marks".into())
    }
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

    /// The reason why the engine cannot build images; `None` if it can.
    fn obstacle(self) -> Option<String> {
        // docker can be installed without a running daemon, without which `info` fails. Since version 23, docker needs the
        // package buildx to build images, without which even the help of `build` fails.
        for probe in [&["info"][..], &["build", "--help"]] {
            match command::output(self.command().args(probe), command::PROBE_LIMIT) {
                Ok(output) if output.status.success() => {}
                Ok(output) => {
                    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                    let lines: Vec<&str> = errors.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
                    // The message is in the first line that says so, or else in the last one.
                    let error = lines.iter().find(|line| line.starts_with("ERROR")).or(lines.last());
                    return Some(format!("{} reports: {}", self.name(), error.unwrap_or(&"nothing")));
                }
                Err(error) => return Some(format!("{}: {error:#}", self.name())),
            }
        }
        None
    }

    /// Flags that keep the time of the build out of the image, so that equal layers give equal images.
    fn without_timestamp(self) -> [&'static str; 2] {
        match self {
            Self::Docker => ["--build-arg", "SOURCE_DATE_EPOCH=0"],
            Self::Podman => ["--timestamp", "0"],
        }
    }

    /// A property of a container image. `template` is Go's template of the output.
    fn inspect(self, image: &str, template: &str) -> Result<String> {
        let mut inspect = self.command();
        inspect.args(["image", "inspect", "--format", template, image]);
        let output = command::output(&mut inspect, command::PROBE_LIMIT)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} cannot inspect {image}: {}", self.name(), errors.trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
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

    #[test]
    fn the_large_image_is_built_only_if_it_is_named() {
        let selected = |only: &[&str]| -> Vec<&str> {
            let only: Vec<String> = only.iter().map(|&name| name.to_owned()).collect();
            IMAGES.iter().map(|image| image.name).filter(|name| is_selected(name, &only)).collect()
        };
        assert_eq!(selected(&[]), ["dispatcher", "scaler", "loadgen", "replica"]);
        assert_eq!(selected(&["replica-cuda", "scaler"]), ["scaler", "replica-cuda"]);
    }

    #[test]
    fn a_prefix_names_a_registry() {
        for good in [PREFIX, "localhost", "docker.io/team", "localhost:5000/a/b", "Registry.example:5000/a-b/c_d.e"] {
            assert_eq!(prefix(good).as_deref(), Ok(good));
        }
        let error = prefix("team/path").expect_err("engines would read it as a name of Docker Hub");
        assert!(error.contains("docker.io/team/path"), "{error}");
        for bad in ["", "a.b/", "a.b//c", "a.b/C", "a.b/c:1", "a.b:x/c", "a.b:/c", ".b/c", "a.b/c d", "a.b/-c"] {
            assert!(prefix(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_tag_is_one_that_engines_accept() {
        for good in [TAG, "latest", "_1", "0.1.0-rc.1", &"a".repeat(128)] {
            assert_eq!(tag(good).as_deref(), Ok(good));
        }
        for bad in ["", ".1", "-1", "a/b", "a:b", "a b", "a@b", &"a".repeat(129)] {
            assert!(tag(bad).is_err(), "{bad:?}");
        }
    }

    /// The text of a file of the repository.
    fn read(path: &str) -> String {
        let path = paths::root().join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
    }

    #[test]
    fn the_dockerfiles_have_a_stage_for_each_image_and_the_names_of_the_manifests() {
        let dockerfile = read("k8s/images/Dockerfile");
        for image in &IMAGES {
            assert!(dockerfile.contains(&format!("\nFROM scratch AS {}\n", image.name)), "{}", image.name);
        }
        assert!(dockerfile.contains(&format!("--tag {PREFIX}/replica:{TAG} .\n")), "the command in the first lines");
        assert!(dockerfile.contains(&format!("\nARG VERSION={TAG}\n")));
        let of_model = read("k8s/images/Dockerfile.model");
        assert!(of_model.contains(&format!("\nARG REPLICA={PREFIX}/replica:{TAG}\n")));
    }

    #[test]
    fn the_manifests_and_the_documents_have_the_names_of_the_images_that_are_built() {
        let built: Vec<String> = IMAGES.iter().map(|image| format!("{PREFIX}/{}:{TAG}", image.name)).collect();
        for program in ["dispatcher", "replica", "scaler"] {
            let manifest = read(&format!("k8s/base/{program}.yaml"));
            let mut names = manifest.lines().filter_map(|line| line.trim().strip_prefix("image: "));
            assert!(names.any(|name| name == format!("{PREFIX}/{program}:{TAG}")), "{program}.yaml");
        }
        let document = read("docs/kubernetes.md");
        let separators = |c: char| c.is_whitespace() || "`,{}()".contains(c);
        let names: Vec<_> = document.split(separators).filter(|word| word.starts_with(PREFIX)).collect();
        assert!(!names.is_empty());
        for name in names.iter().filter(|name| name.contains(':')) {
            assert!(built.iter().any(|built| built == name), "docs/kubernetes.md has {name}");
        }
    }
}
