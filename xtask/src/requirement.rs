//! The list of everything beyond Rust that the build and the tests need: how it is found, what needs it, how to get it.
//! Installs nothing; [`crate::install`] does.

use anyhow::{Result, bail};
use harness::command::{self, PROBE_LIMIT};
use harness::python_tool::Environment;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One thing that the build or a test needs.
#[derive(Debug)]
pub struct Requirement {
    /// Name for the table.
    pub name: &'static str,
    /// The step that fails, or the tests that are skipped, without it.
    pub needed_by: &'static str,
    /// Whether the requirement is met.
    is_met: fn() -> bool,
    /// How to meet the requirement.
    pub remedy: Remedy,
}

/// How a requirement is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// By packages of the system.
    Packages {
        /// Debian's names of the packages.
        debian: &'static [&'static str],
        /// The command for macOS; `None` if the requirement is of Linux only.
        macos: Option<&'static str>,
    },
    /// By Python packages in `target/tools`.
    Python(Environment),
    /// By this command or change, which only the user can make.
    User(&'static str),
}

/// How the system installs packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackageManager {
    /// Debian's and Ubuntu's, run by root.
    AptGet,
    /// Debian's and Ubuntu's, run through sudo.
    SudoAptGet,
    /// The one of macOS.
    Homebrew,
    /// Any other.
    Other,
}

const fn debian(packages: &'static [&'static str], macos: Option<&'static str>) -> Remedy {
    Remedy::Packages { debian: packages, macos }
}

/// Compares the dispatcher with its OpenAPI document; see `dispatcher/tests/program/openapi.rs`.
const SCHEMATHESIS: Environment =
    Environment { name: "schemathesis", packages: &["schemathesis==4.32.5"], download: "about 40 MB" };

/// Speaks the Open Inference Protocol; see `replica/tests/program/inference_protocol.rs`.
const TRITON_CLIENT: Environment =
    Environment { name: "tritonclient", packages: &["tritonclient[http]==2.73.0"], download: "about 30 MB" };

/// Knows the schemas of each version of Kubernetes; see `k8s/cluster/tests/manifests.rs`.
const KUBERNETES_VALIDATE: Environment =
    Environment { name: "kubernetes-validate", packages: &["kubernetes-validate==1.37.0"], download: "about 30 MB" };

const CONTROL_PLANE_PROGRAMS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// Requirements without which nothing can be built.
const OF_THE_BUILD: [Requirement; 3] = [
    Requirement {
        name: "C++ compiler",
        needed_by: "the build: libtorch's bindings",
        is_met: || command::succeeds(std::env::var("CXX").unwrap_or_else(|_unset| "c++".into()), &["--version"]),
        remedy: debian(&["g++"], Some("xcode-select --install")),
    },
    Requirement {
        name: "python3 with pip",
        needed_by: "the build: downloads libtorch",
        is_met: || libtorch::is_present() || command::succeeds("python3", &["-m", "pip", "--version"]),
        remedy: debian(&["python3", "python3-pip"], Some("brew install python")),
    },
    Requirement {
        name: "libtorch",
        needed_by: "the build: the replica",
        is_met: libtorch::is_present,
        remedy: Remedy::User("cargo xtask libtorch"),
    },
];

/// Requirements without which some tests are skipped.
const OF_TESTS: [Requirement; 16] = [
    Requirement {
        name: "prometheus",
        needed_by: "tests with a real Prometheus",
        is_met: || are_in_path(&["prometheus", "promtool"]),
        remedy: debian(&["prometheus"], Some("brew install prometheus")),
    },
    Requirement {
        name: "libfaketime",
        needed_by: "tests of the scaler with a clock that jumps",
        is_met: libfaketime_is_present,
        remedy: debian(&["libfaketime"], None),
    },
    Requirement {
        name: "chromium",
        needed_by: "tests of loadgen's pages in a browser",
        is_met: || ["chromium", "chromium-browser", "google-chrome"].iter().any(|name| are_in_path(&[name])),
        remedy: debian(&["chromium"], Some("brew install --cask chromium")),
    },
    Requirement {
        name: "script",
        needed_by: "tests of loadgen's screen in a terminal",
        is_met: || Path::new("/usr/bin/script").exists(),
        remedy: debian(&["bsdutils"], None),
    },
    Requirement {
        name: "kubectl",
        needed_by: "tests of the manifests, checks on a cluster",
        is_met: || are_in_path(&["kubectl"]),
        remedy: debian(&["kubernetes-client"], Some("brew install kubernetes-cli")),
    },
    Requirement {
        name: "ip",
        needed_by: "checks on a cluster",
        is_met: || are_in_path(&["ip"]),
        remedy: debian(&["iproute2"], None),
    },
    Requirement {
        name: "setpriv, unshare",
        needed_by: "checks on a cluster",
        is_met: || are_in_path(&["setpriv", "unshare"]),
        remedy: debian(&["util-linux"], None),
    },
    Requirement {
        name: "root",
        needed_by: "checks on a cluster, tests of control groups",
        is_met: || rustix::process::geteuid().is_root() && Path::new("/proc/self/ns/net").exists(),
        remedy: Remedy::User("run cargo xtask test as root, on Linux"),
    },
    Requirement {
        name: "xz",
        needed_by: "CI: unpacks a control plane",
        is_met: || has_control_plane() || are_in_path(&["xz"]),
        remedy: debian(&["xz-utils"], Some("brew install xz")),
    },
    Requirement {
        name: "openssl",
        needed_by: "tests with an API server: keys",
        is_met: || are_in_path(&["openssl"]),
        remedy: debian(&["openssl"], Some("brew install openssl")),
    },
    Requirement {
        name: "control plane",
        needed_by: "tests with an API server, checks on a cluster",
        is_met: has_control_plane,
        remedy: Remedy::User("set KUBEBUILDER_ASSETS, see docs/kubernetes.md"),
    },
    Requirement {
        name: "control plane from 1.21",
        needed_by: "tests of discovery by EndpointSlices",
        is_met: || api_server_version().is_some_and(|version| version >= (1, 21)),
        remedy: Remedy::User("set KUBEBUILDER_ASSETS to a newer one"),
    },
    Requirement {
        name: "python3 with venv",
        needed_by: "the Python tools of tests",
        is_met: || {
            [SCHEMATHESIS, TRITON_CLIENT, KUBERNETES_VALIDATE].iter().all(|tool| tool.is_made())
                || command::succeeds("python3", &["-c", "import venv, ensurepip"])
        },
        remedy: debian(&["python3-venv"], Some("brew install python")),
    },
    Requirement {
        name: "schemathesis",
        needed_by: "the test of the OpenAPI document",
        is_met: || SCHEMATHESIS.is_made(),
        remedy: Remedy::Python(SCHEMATHESIS),
    },
    Requirement {
        name: "tritonclient",
        needed_by: "the test of the Open Inference Protocol",
        is_met: || TRITON_CLIENT.is_made(),
        remedy: Remedy::Python(TRITON_CLIENT),
    },
    Requirement {
        name: "kubernetes-validate",
        needed_by: "the test of the manifests' schemas",
        is_met: || KUBERNETES_VALIDATE.is_made(),
        remedy: Remedy::Python(KUBERNETES_VALIDATE),
    },
];

/// Every requirement, and whether it is met.
pub fn survey() -> Vec<(&'static Requirement, bool)> {
    OF_THE_BUILD.iter().chain(&OF_TESTS).map(|requirement| (requirement, (requirement.is_met)())).collect()
}

/// The requirements that are not met.
pub fn missing() -> Vec<&'static Requirement> {
    survey().into_iter().filter(|(_, is_met)| !is_met).map(|(requirement, _)| requirement).collect()
}

/// Checks that a C++ compiler is there and libtorch is there or can be downloaded.
///
/// # Errors
/// If not: the message names everything that is missing, and the commands that install it.
pub fn check_build() -> Result<()> {
    let manager = PackageManager::of_this_system();
    // libtorch itself is downloaded when it is needed.
    let missing = OF_THE_BUILD[..2].iter().filter(|requirement| !(requirement.is_met)());
    let lines: Vec<String> =
        missing.map(|requirement| format!("  {}: {}", requirement.name, requirement.remedy.command(manager))).collect();
    if lines.is_empty() { Ok(()) } else { bail!("the build needs what this machine lacks:\n{}", lines.join("\n")) }
}

/// Debian's packages for these requirements, each once.
pub fn debian_packages(missing: &[&Requirement]) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for requirement in missing {
        let Remedy::Packages { debian, .. } = requirement.remedy else { continue };
        for package in debian {
            if !packages.contains(package) {
                packages.push(*package);
            }
        }
    }
    packages
}

impl Remedy {
    /// The one command, or change, that meets the requirement.
    pub fn command(self, manager: PackageManager) -> String {
        match (self, manager) {
            (Self::Packages { debian, .. }, PackageManager::AptGet) => format!("apt-get install {}", debian.join(" ")),
            (Self::Packages { debian, .. }, PackageManager::SudoAptGet) => {
                format!("sudo apt-get install {}", debian.join(" "))
            }
            (Self::Packages { macos: Some(command), .. }, PackageManager::Homebrew) => command.to_owned(),
            (Self::Packages { macos: None, .. }, PackageManager::Homebrew) => "run the tests on Linux".to_owned(),
            (Self::Packages { debian, .. }, PackageManager::Other) => {
                format!("install it with the package manager (Debian's name: {})", debian.join(" "))
            }
            (Self::Python(_), _) => "cargo xtask test, with access to PyPI".to_owned(),
            (Self::User(command), _) => command.to_owned(),
        }
    }
}

impl PackageManager {
    /// The package manager of the system that this program runs on.
    pub fn of_this_system() -> Self {
        if cfg!(target_os = "macos") {
            Self::Homebrew
        } else if !are_in_path(&["apt-get"]) {
            Self::Other
        } else if rustix::process::geteuid().is_root() {
            Self::AptGet
        } else {
            Self::SudoAptGet
        }
    }
}

/// The file of a program in a folder of `$PATH`.
fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Whether all these programs are in folders of `$PATH`.
pub fn are_in_path(programs: &[&str]) -> bool {
    programs.iter().all(|program| in_path(program).is_some())
}

/// Where Debian has the library, for each processor.
fn libfaketime_is_present() -> bool {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    folders.into_iter().any(|folder| folder.path().join("faketime/libfaketime.so.1").exists())
}

fn has_control_plane() -> bool {
    CONTROL_PLANE_PROGRAMS.iter().all(|name| control_plane_program(name).is_some())
}

/// A program of the control plane. etcd is a project of its own and may be in `$PATH` instead.
fn control_plane_program(name: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS")?);
    Some(folder.join(name)).filter(|file| file.is_file()).or_else(|| in_path(name).filter(|_| name == "etcd"))
}

/// Major and minor version of the API server's program.
fn api_server_version() -> Option<(u32, u32)> {
    let mut command = Command::new(control_plane_program("kube-apiserver")?);
    let output = command::output(command.arg("--version"), PROBE_LIMIT).ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// Reads a version such as `Kubernetes v1.20.2`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().rsplit_once('v')?.1.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = &'static Requirement> {
        OF_THE_BUILD.iter().chain(&OF_TESTS)
    }

    #[test]
    fn each_package_is_installed_once_and_only_for_what_is_missing() {
        let [compiler, pip, libtorch] = &OF_THE_BUILD;
        assert!(debian_packages(&[]).is_empty());
        assert_eq!(debian_packages(&[libtorch]), [""; 0]);
        assert_eq!(debian_packages(&[compiler, pip, pip]), ["g++", "python3", "python3-pip"]);
        let everything: Vec<&Requirement> = all().collect();
        let packages = debian_packages(&everything);
        assert!(packages.contains(&"prometheus") && packages.contains(&"kubernetes-client"), "{packages:?}");
    }

    #[test]
    fn every_requirement_tells_a_command_on_every_system() {
        use PackageManager::{AptGet, Homebrew, Other, SudoAptGet};
        let command = |name: &str, manager| {
            let requirement = all().find(|requirement| requirement.name == name).expect("it is listed");
            requirement.remedy.command(manager)
        };
        assert_eq!(command("prometheus", AptGet), "apt-get install prometheus");
        assert_eq!(command("python3 with pip", SudoAptGet), "sudo apt-get install python3 python3-pip");
        assert_eq!(command("kubectl", Homebrew), "brew install kubernetes-cli");
        assert_eq!(command("libfaketime", Homebrew), "run the tests on Linux");
        assert!(command("chromium", Other).contains("chromium"));
        assert!(command("schemathesis", AptGet).contains("PyPI"));
        assert!(command("control plane", AptGet).contains("KUBEBUILDER_ASSETS"));
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parse_version("Kubernetes v1.20.2\n"), Some((1, 20)));
        assert!(parse_version("Kubernetes v1.9.11") < Some((1, 21)));
        assert_eq!(parse_version("no version"), None);
    }
}
