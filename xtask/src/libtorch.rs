//! libtorch from the PyPI wheel of PyTorch, unpacked into `target/libtorch`: a part of it, since the rest is Python
//! and kernels for GPUs.
//!
//! pip downloads and checks the hashes; the archive's own checksums are checked while unpacking; a manifest written
//! last says that everything is there.

use crate::paths;
use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One wheel by name, version and SHA-256, as pip's `--require-hashes` takes it.
struct Wheel {
    requirement: &'static str,
    sha256: &'static str,
}

/// What a platform needs. The wheels are those of CPython 3.12, whatever Python runs pip: only their libraries count.
struct Platform {
    /// pip's names for the platform.
    tags: &'static [&'static str],
    wheels: &'static [Wheel],
}

const TORCH: &str = "torch==2.13.0";

/// `libtorch_cpu.so` of the Linux wheels names two CUDA libraries even where there is no GPU.
const CUPTI: &str = "nvidia-cuda-cupti==13.0.85";
const CUDART: &str = "nvidia-cuda-runtime==13.0.96";

const LINUX_X86_64: Platform = Platform {
    tags: &["manylinux_2_28_x86_64", "manylinux_2_25_x86_64", "manylinux2014_x86_64"],
    wheels: &[
        Wheel { requirement: TORCH, sha256: "796633c4cdf0fe2cdced72d8f88f22e73dbcfce83132763162f6d4bff13b820b" },
        Wheel { requirement: CUPTI, sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8" },
        Wheel { requirement: CUDART, sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548" },
    ],
};

const LINUX_AARCH64: Platform = Platform {
    tags: &["manylinux_2_28_aarch64", "manylinux_2_25_aarch64", "manylinux2014_aarch64"],
    wheels: &[
        Wheel { requirement: TORCH, sha256: "572df8be8ffb4599c88cbd6a0726f1f854f4da65d2e3c09f0e2c2283333cd6d4" },
        Wheel { requirement: CUPTI, sha256: "796bd679890ee55fb14a94629b698b6db54bcfd833d391d5e94017dd9d7d3151" },
        Wheel { requirement: CUDART, sha256: "ef9bcbe90493a2b9d810e43d249adb3d02e98dd30200d86607d8d02687c43f55" },
    ],
};

const MACOS_AARCH64: Platform = Platform {
    tags: &["macosx_14_0_arm64"],
    wheels: &[Wheel { requirement: TORCH, sha256: "2fe228aba290d14b9f31b049be550dbd469c3fd3013d7a19705b30454da97027" }],
};

/// Libraries of the wheels that classifying on a CPU never loads.
const UNUSED: [&str; 8] = [
    "libtorch_cuda",
    "libc10_cuda",
    "libcaffe2_nvrtc",
    "libtorch_nvshmem",
    "libtorch_python",
    "libtorch_global_deps",
    "libshm",
    // On Linux it is replaced by one line for the linker.
    "libtorch.so",
];

const MANIFEST: &str = "roundhouse-manifest.txt";

/// Whether libtorch comes from here, rather than from a `LIBTORCH` of the user's own.
pub fn is_ours() -> bool {
    match std::env::var_os("LIBTORCH") {
        // Cargo itself sets it to ours, by .cargo/config.toml.
        Some(own) => Path::new(&own) == paths::libtorch(),
        None => true,
    }
}

/// Whether nothing has to be downloaded.
pub fn is_there() -> bool {
    !is_ours() || verify(&paths::libtorch()).is_ok()
}

/// Makes sure that libtorch is there and whole.
///
/// # Errors
/// When the platform has no wheel, or the download or its check fails.
pub fn ensure() -> Result<()> {
    if !is_ours() {
        let own = PathBuf::from(std::env::var_os("LIBTORCH").unwrap_or_default());
        ensure!(own.join("lib").is_dir(), "LIBTORCH={} has no folder lib; unset it or correct it", own.display());
        return Ok(());
    }
    let home = paths::libtorch();
    if home.exists() {
        match verify(&home) {
            Ok(()) => return Ok(()),
            Err(error) => println!("{} is not whole ({error:#}); fetching it again", home.display()),
        }
    }
    let platform = platform()?;
    let downloads = paths::target().join("libtorch-download");
    let wheels = download(platform, &downloads)?;
    let fresh = paths::target().join("libtorch-unpacking");
    if fresh.exists() {
        fs::remove_dir_all(&fresh).with_context(|| format!("remove {}", fresh.display()))?;
    }
    unpack(&wheels, &fresh)?;
    if home.exists() {
        fs::remove_dir_all(&home).with_context(|| format!("remove {}", home.display()))?;
    }
    fs::rename(&fresh, &home).with_context(|| format!("move libtorch to {}", home.display()))?;
    fs::remove_dir_all(&downloads).with_context(|| format!("remove {}", downloads.display()))
}

fn platform() -> Result<&'static Platform> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Ok(&LINUX_X86_64),
        ("linux", "aarch64") => Ok(&LINUX_AARCH64),
        ("macos", "aarch64") => Ok(&MACOS_AARCH64),
        (system, processor) => {
            bail!("there is no libtorch wheel for {system} on {processor}; set LIBTORCH to one of your own (2.13)")
        }
    }
}

/// pip shows its own progress bar, and refuses a file whose hash differs.
fn download(platform: &Platform, folder: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let list = folder.join("requirements.txt");
    let requirements: String =
        platform.wheels.iter().map(|wheel| format!("{} --hash=sha256:{}\n", wheel.requirement, wheel.sha256)).collect();
    fs::write(&list, requirements).with_context(|| format!("write {}", list.display()))?;
    println!("downloading libtorch (about 530 MB on Linux)");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"])
        .args(["--require-hashes", "--implementation", "cp", "--python-version", "3.12"])
        .args(platform.tags.iter().flat_map(|tag| ["--platform", tag]))
        .arg("--dest")
        .arg(folder)
        .arg("--requirement")
        .arg(&list);
    let status = pip.status().context("run python3 -m pip")?;
    ensure!(status.success(), "pip could not download libtorch ({status}); its message stands above");
    let mut wheels = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "whl") {
            wheels.push(path);
        }
    }
    Ok(wheels)
}

fn unpack(wheels: &[PathBuf], home: &Path) -> Result<()> {
    let mut manifest = String::new();
    for wheel in wheels {
        let name = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = File::open(wheel).with_context(|| format!("open {name}"))?;
        let mut archive = zip::ZipArchive::new(file).with_context(|| format!("read {name}"))?;
        let style = ProgressStyle::with_template("unpacking {msg} {wide_bar} {pos}/{len} files")?;
        let bar = ProgressBar::new(archive.len() as u64).with_style(style).with_message(name.clone());
        for index in 0..archive.len() {
            bar.inc(1);
            let mut entry = archive.by_index(index).with_context(|| format!("read {name}"))?;
            let inside = entry.name()?.into_owned();
            let Some(place) = place(&inside) else { continue };
            let path = home.join(&place);
            fs::create_dir_all(path.parent().expect("every place is in a folder"))?;
            let mut out = File::create(&path).with_context(|| format!("create {}", path.display()))?;
            // Reading to the end also checks the entry's checksum.
            let size = io::copy(&mut entry, &mut out).with_context(|| format!("unpack {inside} of {name}"))?;
            if place.starts_with("lib/") {
                manifest.push_str(&format!("{size} {place}\n"));
            }
        }
        bar.finish_and_clear();
    }
    if cfg!(target_os = "linux") {
        let script = "INPUT(libtorch_cpu.so)\n";
        fs::write(home.join("lib/libtorch.so"), script)?;
        manifest.push_str(&format!("{} lib/libtorch.so\n", script.len()));
    }
    fs::write(home.join(MANIFEST), manifest).context("write the manifest")
}

/// Where a file of a wheel goes, if anywhere.
fn place(inside: &str) -> Option<String> {
    if inside.ends_with('/') {
        return None;
    }
    if let Some(header) = inside.strip_prefix("torch/include/") {
        return Some(format!("include/{header}"));
    }
    let file = inside.rsplit('/').next()?;
    let from_torch = inside.strip_prefix("torch/lib/") == Some(file)
        && (file.contains(".so") || file.ends_with(".dylib"))
        && !UNUSED.iter().any(|unused| file.starts_with(unused));
    let from_cuda = file.starts_with("libcupti.so") || file.starts_with("libcudart.so");
    (from_torch || from_cuda).then(|| format!("lib/{file}"))
}

/// Compares the libraries with the manifest. The headers were written before it, so it vouches for them.
fn verify(home: &Path) -> Result<()> {
    let manifest = fs::read_to_string(home.join(MANIFEST)).context("read its manifest")?;
    for line in manifest.lines() {
        let (size, file) = line.split_once(' ').context("its manifest is malformed")?;
        let found = fs::metadata(home.join(file)).with_context(|| format!("look at {file}"))?.len();
        ensure!(found.to_string() == size, "{file} has {found} bytes instead of {size}");
    }
    ensure!(home.join("include/torch/script.h").is_file(), "its headers are missing");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_cpu_needs_is_kept() {
        for (inside, kept) in [
            ("torch/lib/libtorch_cpu.so", Some("lib/libtorch_cpu.so")),
            ("torch/lib/libgomp.so.1", Some("lib/libgomp.so.1")),
            ("torch/lib/libtorch.dylib", Some("lib/libtorch.dylib")),
            ("nvidia/cu13/lib/libcupti.so.13", Some("lib/libcupti.so.13")),
            ("torch/include/torch/script.h", Some("include/torch/script.h")),
            ("torch/include/torch/", None),
            ("torch/lib/libtorch_cuda.so", None),
            ("torch/lib/libtorch_cuda_linalg.so", None),
            ("torch/lib/libtorch.so", None),
            ("nvidia/cu13/lib/libnvperf_host.so", None),
            ("torch/nn/functional.py", None),
        ] {
            assert_eq!(place(inside).as_deref(), kept, "{inside}");
        }
    }

    #[test]
    fn a_file_of_another_size_is_found() {
        let home = std::env::temp_dir().join(format!("roundhouse-verify-{}", std::process::id()));
        fs::create_dir_all(home.join("lib")).expect("writable");
        fs::create_dir_all(home.join("include/torch")).expect("writable");
        fs::write(home.join("include/torch/script.h"), "").expect("writable");
        fs::write(home.join("lib/a.so"), "123").expect("writable");
        assert!(verify(&home).is_err(), "no manifest");
        fs::write(home.join(MANIFEST), "3 lib/a.so\n").expect("writable");
        assert!(verify(&home).is_ok());
        fs::write(home.join("lib/a.so"), "12").expect("writable");
        assert!(format!("{:#}", verify(&home).expect_err("cut short")).contains("2 bytes instead of 3"));
        fs::remove_dir_all(&home).expect("ours");
    }
}
