//! Downloads the wheels of PyTorch and of ONNX Runtime from PyPI, and unpacks libtorch and ONNX Runtime's library into
//! `target/libtorch`. Keeps only headers and libraries for CPUs; the rest of the wheels is Python and code for GPUs.
//! [`ensure_cuda`] makes `target/libtorch-cuda`, which also has CUDA's libraries.
//!
//! pip downloads the wheels and checks their hashes. Unpacking checks the checksums in the archives. The manifest lists
//! the versions and the libraries and is written last. If there is a manifest, libtorch was unpacked completely.

use anyhow::{Context, Result, bail, ensure};
use harness::{command, paths};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The size of the wheels for Linux on x86, in bytes. The wheels for other platforms are smaller.
pub const DOWNLOAD_BYTES: u64 = 554_000_000;

/// The size of the wheels with CUDA, in bytes.
pub const CUDA_DOWNLOAD_BYTES: u64 = 2_340_000_000;

/// Time limit for the download.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(60 * 60);

/// A wheel on PyPI, as pip's option `--require-hashes` needs it.
struct Wheel {
    /// The name and version, `NAME==VERSION`.
    requirement: &'static str,
    /// The SHA-256 of the file, hexadecimal.
    sha256: &'static str,
}

/// The wheels for a platform. They are built for CPython 3.12, but any Python can download them, because only their
/// libraries are used.
struct Platform {
    /// The platform's names in pip's option `--platform`.
    tags: &'static [&'static str],
    wheels: &'static [Wheel],
    /// Libraries of the wheels that are kept, besides those for a CPU: the first parts of their names.
    extra_libraries: &'static [&'static str],
}

const TORCH: &str = "torch==2.13.0";

/// The library that computes ONNX networks. Programs load it when they need it, and are not linked with it.
const ONNX_RUNTIME: &str = "onnxruntime==1.31.1";

const TORCH_LINUX_X86_64: Wheel =
    Wheel { requirement: TORCH, sha256: "796633c4cdf0fe2cdced72d8f88f22e73dbcfce83132763162f6d4bff13b820b" };
const ONNX_RUNTIME_LINUX_X86_64: Wheel =
    Wheel { requirement: ONNX_RUNTIME, sha256: "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536" };
const CUPTI_LINUX_X86_64: Wheel =
    Wheel { requirement: CUPTI, sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8" };
const CUDART_LINUX_X86_64: Wheel =
    Wheel { requirement: CUDART, sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548" };

/// One of two CUDA libraries with which `libtorch_cpu.so` of the Linux wheels is linked, even for machines without GPU.
const CUPTI: &str = "nvidia-cuda-cupti==13.0.85";
/// The other CUDA library with which `libtorch_cpu.so` of the Linux wheels is linked.
const CUDART: &str = "nvidia-cuda-runtime==13.0.96";

const LINUX_X86_64: Platform = Platform {
    tags: &["manylinux_2_28_x86_64", "manylinux_2_25_x86_64", "manylinux2014_x86_64"],
    wheels: &[TORCH_LINUX_X86_64, CUPTI_LINUX_X86_64, CUDART_LINUX_X86_64, ONNX_RUNTIME_LINUX_X86_64],
    extra_libraries: &[],
};

/// The versions of CUDA's libraries are those that the wheel of PyTorch requires.
const LINUX_X86_64_CUDA: Platform = Platform {
    tags: &[
        "manylinux_2_28_x86_64",
        "manylinux_2_27_x86_64",
        "manylinux_2_25_x86_64",
        "manylinux_2_18_x86_64",
        "manylinux2014_x86_64",
        "manylinux2010_x86_64",
    ],
    wheels: &[
        TORCH_LINUX_X86_64,
        CUPTI_LINUX_X86_64,
        CUDART_LINUX_X86_64,
        ONNX_RUNTIME_LINUX_X86_64,
        Wheel {
            requirement: "nvidia-cublas==13.1.1.3",
            sha256: "37936a16db8fe4ac1f065c2139360608a543a09275cb1a1af612e08cfa065436",
        },
        Wheel {
            requirement: "nvidia-cuda-nvrtc==13.0.88",
            sha256: "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
        },
        Wheel {
            requirement: "nvidia-cudnn-cu13==9.20.0.48",
            sha256: "0c45dd8eeb50b603f07995b1b300c62ffe6a1980482b82b3bcf94a4ca9d49304",
        },
        Wheel {
            requirement: "nvidia-cufft==12.0.0.61",
            sha256: "6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3",
        },
        Wheel {
            requirement: "nvidia-cufile==1.15.1.6",
            sha256: "08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44",
        },
        Wheel {
            requirement: "nvidia-curand==10.4.0.35",
            sha256: "1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc",
        },
        Wheel {
            requirement: "nvidia-cusparse==12.6.3.3",
            sha256: "2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b",
        },
        Wheel {
            requirement: "nvidia-cusparselt-cu13==0.8.1",
            sha256: "786ce87568c303fadb5afcc7102d454cd3040d75f6f8626f5db460d1871f4dd0",
        },
        Wheel {
            requirement: "nvidia-nccl-cu13==2.29.7",
            sha256: "edd81538446786ec3b73972543e53bb43bcaf0bfc8ef76cb679fcc390ffe136d",
        },
        Wheel {
            requirement: "nvidia-nvjitlink==13.0.88",
            sha256: "13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b",
        },
        Wheel {
            requirement: "nvidia-nvshmem-cu13==3.4.5",
            sha256: "290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80",
        },
    ],
    extra_libraries: &[
        "libc10_cuda",
        "libcaffe2_nvrtc",
        "libtorch_cuda.so",
        "libtorch_nvshmem",
        "libcublas",
        "libcudnn",
        "libcufft.so",
        "libcufile.so",
        "libcurand",
        "libcusparse",
        "libnccl",
        "libnvJitLink",
        "libnvrtc-builtins.so",
        "libnvrtc.so",
        "libnvshmem_host",
    ],
};

const LINUX_AARCH64: Platform = Platform {
    tags: &["manylinux_2_28_aarch64", "manylinux_2_25_aarch64", "manylinux2014_aarch64"],
    wheels: &[
        Wheel { requirement: TORCH, sha256: "572df8be8ffb4599c88cbd6a0726f1f854f4da65d2e3c09f0e2c2283333cd6d4" },
        Wheel { requirement: CUPTI, sha256: "796bd679890ee55fb14a94629b698b6db54bcfd833d391d5e94017dd9d7d3151" },
        Wheel { requirement: CUDART, sha256: "ef9bcbe90493a2b9d810e43d249adb3d02e98dd30200d86607d8d02687c43f55" },
        Wheel { requirement: ONNX_RUNTIME, sha256: "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc" },
    ],
    extra_libraries: &[],
};

const MACOS_AARCH64: Platform = Platform {
    tags: &["macosx_14_0_arm64"],
    wheels: &[
        Wheel { requirement: TORCH, sha256: "2fe228aba290d14b9f31b049be550dbd469c3fd3013d7a19705b30454da97027" },
        Wheel { requirement: ONNX_RUNTIME, sha256: "96dd2564b10ea7153ad9c207e7cd8e5917cb3ba521e0e0a62ac03486fdc8d56c" },
    ],
    extra_libraries: &[],
};

/// The first parts of the names of libraries that are not needed on a CPU.
const UNUSED: [&str; 8] = [
    "libtorch_cuda",
    "libc10_cuda",
    "libcaffe2_nvrtc",
    "libtorch_nvshmem",
    "libtorch_python",
    "libtorch_global_deps",
    "libshm",
    // On Linux, [`unpack`] writes a linker script of one line in place of this library.
    "libtorch.so",
];

/// The name of the manifest. Its first line lists the wheels' versions. Each other line has a library's size and path.
const MANIFEST: &str = "roundhouse-manifest.txt";

/// Whether the build uses `target/libtorch`, rather than a libtorch that the user has set in `$LIBTORCH`.
fn uses_target_folder() -> bool {
    match std::env::var_os("LIBTORCH") {
        // `.cargo/config.toml` sets the variable to `target/libtorch`, unless the user has set it.
        Some(own) => Path::new(&own) == paths::libtorch(),
        None => true,
    }
}

/// Whether a usable libtorch is present, so that nothing has to be downloaded.
pub fn is_present() -> bool {
    if uses_target_folder() {
        platform().is_ok_and(|platform| verify(&paths::libtorch(), platform).is_ok())
    } else {
        check_own().is_ok()
    }
}

/// Checks the libtorch that the build uses. Downloads a missing, incomplete or outdated `target/libtorch`.
///
/// # Errors
/// If `$LIBTORCH` names an unusable folder, PyPI has no wheel for this platform, or the download or its check fails.
pub fn ensure() -> Result<()> {
    if !uses_target_folder() {
        return check_own();
    }
    ensure_at(&paths::libtorch(), platform()?, DOWNLOAD_BYTES)
}

/// Whether `target/libtorch-cuda` is complete and has the right version.
pub fn is_cuda_present() -> bool {
    verify(&cuda_home(), &LINUX_X86_64_CUDA).is_ok()
}

fn cuda_home() -> PathBuf {
    paths::target().join("libtorch-cuda")
}

/// Downloads a missing, incomplete or outdated `target/libtorch-cuda`: a libtorch for NVIDIA's GPUs, of 3.3 GB.
///
/// # Errors
/// If PyPI has none for this platform, or the download or its check fails.
pub fn ensure_cuda() -> Result<()> {
    let (system, processor) = (std::env::consts::OS, std::env::consts::ARCH);
    let is_supported = (system, processor) == ("linux", "x86_64");
    ensure!(is_supported, "there is no libtorch with CUDA for {system} on {processor} here, only for Linux on x86_64");
    ensure_at(&cuda_home(), &LINUX_X86_64_CUDA, CUDA_DOWNLOAD_BYTES)
}

/// Downloads libtorch for `platform` into `home` unless it is there. `bytes` is the size of the download.
fn ensure_at(home: &Path, platform: &Platform, bytes: u64) -> Result<()> {
    if home.exists() {
        match verify(home, platform) {
            Ok(()) => return Ok(()),
            Err(error) => println!("{} cannot be used ({error:#}); downloading libtorch again", home.display()),
        }
    }
    // Each home has folders of its own, so that the download of one libtorch does not remove that of the other.
    let beside = |suffix: &str| {
        let mut path = home.as_os_str().to_owned();
        path.push(suffix);
        PathBuf::from(path)
    };
    let downloads = beside("-download");
    let wheels = download(platform, &downloads, bytes)?;
    let fresh = beside("-unpacking");
    remove(&fresh)?;
    unpack(platform, &wheels, &fresh)?;
    remove(home)?;
    fs::rename(&fresh, home).with_context(|| format!("move libtorch to {}", home.display()))?;
    remove(&downloads)
}

/// Checks the libtorch that the user has set in `$LIBTORCH`.
fn check_own() -> Result<()> {
    let own = PathBuf::from(std::env::var_os("LIBTORCH").unwrap_or_default());
    ensure!(own.join("lib").is_dir(), "LIBTORCH={} has no folder lib; correct the variable or unset it", own.display());
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn platform() -> Result<&'static Platform> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Ok(&LINUX_X86_64),
        ("linux", "aarch64") => Ok(&LINUX_AARCH64),
        ("macos", "aarch64") => Ok(&MACOS_AARCH64),
        (system, processor) => {
            bail!("PyPI has no libtorch for {system} on {processor}; set LIBTORCH to the folder of a libtorch 2.13")
        }
    }
}

/// Downloads a platform's wheels into `folder` and returns their paths. pip shows a progress bar, keeps wheels that are
/// already in the folder, and refuses a file with another hash.
fn download(platform: &Platform, folder: &Path, bytes: u64) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let list = folder.join("requirements.txt");
    let requirements: String =
        platform.wheels.iter().map(|wheel| format!("{} --hash=sha256:{}\n", wheel.requirement, wheel.sha256)).collect();
    fs::write(&list, requirements).with_context(|| format!("write {}", list.display()))?;
    println!("downloading libtorch and ONNX Runtime (about {} MB on Linux)", bytes / 1_000_000);
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"])
        .args(["--require-hashes", "--implementation", "cp", "--python-version", "3.12"])
        .args(platform.tags.iter().flat_map(|tag| ["--platform", tag]))
        .arg("--dest")
        .arg(folder)
        .arg("--requirement")
        .arg(&list);
    command::run(&mut pip, DOWNLOAD_LIMIT).context("download libtorch")?;
    wheels(platform, folder)
}

/// The paths of a platform's wheels in `folder`. Ignores wheels of other versions, which an interrupted download may
/// have left before an upgrade.
fn wheels(platform: &Platform, folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let find = |wheel: &Wheel| {
        // A wheel's file is NAME-VERSION-TAGS.whl, with _ instead of - in the name.
        let prefix = format!("{}-", wheel.requirement.replace('-', "_").replace("==", "-"));
        let is_wheel = |file: &&PathBuf| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&prefix) && name.ends_with(".whl")
        };
        files
            .iter()
            .find(is_wheel)
            .cloned()
            .with_context(|| format!("pip downloaded no {prefix}*.whl to {}", folder.display()))
    };
    platform.wheels.iter().map(find).collect()
}

fn unpack(platform: &Platform, wheels: &[PathBuf], home: &Path) -> Result<()> {
    let mut manifest = versions(platform) + "\n";
    for wheel in wheels {
        manifest.push_str(&unpack_wheel(wheel, home, platform.extra_libraries)?);
    }
    if cfg!(target_os = "linux") {
        let script = "INPUT(libtorch_cpu.so)\n";
        fs::write(home.join("lib/libtorch.so"), script)
            .with_context(|| format!("write lib/libtorch.so in {}", home.display()))?;
        manifest.push_str(&format!("{} lib/libtorch.so\n", script.len()));
    }
    fs::write(home.join(MANIFEST), manifest).with_context(|| format!("write {MANIFEST} in {}", home.display()))
}

/// Unpacks a wheel and returns the manifest's lines for the libraries in it.
fn unpack_wheel(wheel: &Path, home: &Path, extra_libraries: &[&str]) -> Result<String> {
    let name = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = File::open(wheel).with_context(|| format!("open {}", wheel.display()))?;
    let mut archive = zip::ZipArchive::new(file).with_context(|| format!("read {name}"))?;
    let style = ProgressStyle::with_template("unpacking {msg} {wide_bar} {pos}/{len} files")?;
    let bar = ProgressBar::new(archive.len() as u64).with_style(style).with_message(name.clone());
    let mut lines = String::new();
    for index in 0..archive.len() {
        bar.inc(1);
        let mut entry = archive.by_index(index).with_context(|| format!("read {name}"))?;
        let inside = entry.name()?.into_owned();
        let Some(destination) = destination(&inside, extra_libraries) else { continue };
        let path = home.join(&destination);
        let parent = path.parent().expect("every destination is in a folder");
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        let mut out = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        // Reading the entry to its end also checks its checksum.
        let size = io::copy(&mut entry, &mut out).with_context(|| format!("unpack {inside} of {name}"))?;
        if destination.starts_with("lib/") {
            lines.push_str(&format!("{size} {destination}\n"));
        }
    }
    bar.finish_and_clear();
    Ok(lines)
}

/// The path in the folder of libtorch for a wheel's file; `None` if the file is not used.
fn destination(inside: &str, extra_libraries: &[&str]) -> Option<String> {
    if inside.ends_with('/') {
        return None;
    }
    if let Some(header) = inside.strip_prefix("torch/include/") {
        return Some(format!("include/{header}"));
    }
    // Programs load the library by a name without the version.
    if let Some(library) = inside.strip_prefix("onnxruntime/capi/libonnxruntime.") {
        return Some(format!("lib/libonnxruntime.{}", if library.ends_with("dylib") { "dylib" } else { "so.1" }));
    }
    let file = inside.rsplit('/').next()?;
    let from_torch = inside.strip_prefix("torch/lib/") == Some(file)
        && (file.contains(".so") || file.ends_with(".dylib"))
        && !UNUSED.iter().any(|unused| file.starts_with(unused));
    let from_cuda = file.starts_with("libcupti.so") || file.starts_with("libcudart.so");
    let is_extra = file.contains(".so") && extra_libraries.iter().any(|extra| file.starts_with(extra));
    (from_torch || from_cuda || is_extra).then(|| format!("lib/{file}"))
}

/// Compares the versions and the libraries' sizes with the manifest. The headers are not compared, because they were
/// written before the manifest and so are complete if there is a manifest.
fn verify(home: &Path, platform: &Platform) -> Result<()> {
    let manifest = fs::read_to_string(home.join(MANIFEST)).context("read the manifest")?;
    let mut lines = manifest.lines();
    let (found, expected) = (lines.next().unwrap_or_default(), versions(platform));
    ensure!(found == expected, "the manifest lists other versions than {expected}");
    for line in lines {
        let (size, file) = line.split_once(' ').with_context(|| format!("malformed line in the manifest: {line}"))?;
        let found = fs::metadata(home.join(file)).with_context(|| format!("read the size of {file}"))?.len();
        ensure!(found.to_string() == size, "{file} has {found} bytes instead of {size}");
    }
    ensure!(home.join("include/torch/script.h").is_file(), "include/torch/script.h is missing");
    Ok(())
}

/// The first line of the manifest, which lists every wheel with its version.
fn versions(platform: &Platform) -> String {
    platform.wheels.iter().map(|wheel| wheel.requirement).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_headers_and_libraries_for_cpus_are_kept() {
        for (inside, kept) in [
            ("torch/lib/libtorch_cpu.so", Some("lib/libtorch_cpu.so")),
            ("torch/lib/libgomp.so.1", Some("lib/libgomp.so.1")),
            ("torch/lib/libtorch.dylib", Some("lib/libtorch.dylib")),
            ("nvidia/cu13/lib/libcupti.so.13", Some("lib/libcupti.so.13")),
            ("torch/include/torch/script.h", Some("include/torch/script.h")),
            ("onnxruntime/capi/libonnxruntime.so.1.31.1", Some("lib/libonnxruntime.so.1")),
            ("onnxruntime/capi/libonnxruntime.1.31.1.dylib", Some("lib/libonnxruntime.dylib")),
            ("onnxruntime/capi/libonnxruntime_providers_shared.so", None),
            ("torch/include/torch/", None),
            ("torch/lib/libtorch_cuda.so", None),
            ("torch/lib/libtorch_cuda_linalg.so", None),
            ("torch/lib/libtorch.so", None),
            ("nvidia/cu13/lib/libnvperf_host.so", None),
            ("torch/nn/functional.py", None),
        ] {
            assert_eq!(destination(inside, &[]).as_deref(), kept, "{inside}");
        }
    }

    #[test]
    fn libraries_of_cuda_are_kept_if_they_are_asked_for() {
        for (inside, kept) in [
            ("torch/lib/libtorch_cuda.so", Some("lib/libtorch_cuda.so")),
            ("torch/lib/libtorch_cpu.so", Some("lib/libtorch_cpu.so")),
            ("nvidia/cudnn/lib/libcudnn_engines_precompiled.so.9", Some("lib/libcudnn_engines_precompiled.so.9")),
            ("nvidia/cusparselt/lib/libcusparseLt.so.0", Some("lib/libcusparseLt.so.0")),
            ("nvidia/cu13/lib/libnvrtc.so.13", Some("lib/libnvrtc.so.13")),
            // These are for linear algebra, another version of CUDA, a debugger, Python, and the compiler.
            ("torch/lib/libtorch_cuda_linalg.so", None),
            ("nvidia/cu13/lib/libnvrtc.alt.so.13", None),
            ("nvidia/cu13/lib/libnvperf_host.so", None),
            ("torch/lib/libtorch_python.so", None),
            ("nvidia/cudnn/include/cudnn.h", None),
            ("nvidia/cu13/include/cublas.h", None),
            ("torch/lib/libtorch.so", None),
        ] {
            assert_eq!(destination(inside, LINUX_X86_64_CUDA.extra_libraries).as_deref(), kept, "{inside}");
        }
    }

    fn write(folder: &Path, file: &str, text: &str) {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().expect("in the folder")).expect("writable");
        fs::write(path, text).expect("writable");
    }

    #[test]
    fn a_library_of_another_size_or_version_is_detected() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = folder.path();
        write(home, "include/torch/script.h", "");
        write(home, "lib/a.so", "123");
        let check = || verify(home, &LINUX_X86_64).map_err(|error| format!("{error:#}"));
        let manifest = |versions: &str| write(home, MANIFEST, &format!("{versions}\n3 lib/a.so\n"));
        assert!(check().is_err(), "no manifest");
        let versions = versions(&LINUX_X86_64);
        manifest(&versions);
        assert_eq!(check(), Ok(()));
        manifest(&versions.replace("2.13.0", "2.12.0"));
        assert!(check().expect_err("older").contains("other versions than torch==2.13.0"));
        // Manifests of older xtasks have no line with the versions.
        write(home, MANIFEST, "3 lib/a.so\n");
        assert!(check().expect_err("of an unknown version").contains("other versions"));
        manifest(&versions);
        write(home, "lib/a.so", "12");
        assert!(check().expect_err("cut short").contains("2 bytes instead of 3"));
    }

    #[test]
    fn a_left_over_wheel_of_another_version_is_not_unpacked() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let folder = folder.path();
        let expected = [
            "torch-2.13.0-cp312-cp312-manylinux_2_28_x86_64.whl",
            "nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl",
            "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.whl",
            "onnxruntime-1.31.1-cp312-cp312-manylinux_2_28_x86_64.whl",
        ];
        for name in ["torch-2.12.0-cp312-cp312-manylinux_2_28_x86_64.whl", "requirements.txt", expected[0], expected[1]]
        {
            write(folder, name, "");
        }
        let error = wheels(&LINUX_X86_64, folder).expect_err("one is missing").to_string();
        assert!(error.contains("nvidia_cuda_runtime-13.0.96-"), "{error}");
        write(folder, expected[2], "");
        write(folder, expected[3], "");
        let found = wheels(&LINUX_X86_64, folder).expect("all are there");
        assert_eq!(found, expected.map(|name| folder.join(name)));
    }
}
