//! The container images that the node runs. The image of a program is a folder with a root file system.
//!
//! The script k8s/images/gather makes them of the programs in this program's folder. The Dockerfile runs it, too.

use crate::paths;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// The programs that have a container image.
pub const PROGRAMS: [&str; 3] = ["dispatcher", "replica", "scaler"];

/// Folders in which file systems are mounted. A container engine adds them to every container image.
const MOUNT_POINTS: [&str; 4] = ["proc", "sys", "dev", "var/run"];

/// A folder with the container image of each program.
#[derive(Debug, Clone)]
pub struct ImageStore {
    folder: PathBuf,
}

impl ImageStore {
    /// Opens the store in `folder`. Makes the container images of the programs that were built after their images.
    ///
    /// # Errors
    /// If a program is missing, or its container image cannot be made.
    pub fn update(folder: PathBuf) -> Result<Self> {
        for name in PROGRAMS {
            let program = paths::program(name);
            let built = modified(&program)
                .with_context(|| format!("find {}; build it: cargo build --release --workspace", program.display()))?;
            // This file is written last, so that a container image is made again if making it was interrupted.
            let stamp = folder.join(format!("{name}.made"));
            if modified(&stamp).is_ok_and(|made| made > built) {
                continue;
            }
            make(&program, &folder.join(name)).with_context(|| format!("make the container image of {name}"))?;
            fs::write(&stamp, "").with_context(|| format!("write {}", stamp.display()))?;
        }
        Ok(Self { folder })
    }

    /// The path of the root file system in the container image of `program`.
    ///
    /// # Errors
    /// If the program has no container image. The message goes into the pod's status.
    pub fn root(&self, program: &str) -> Result<PathBuf> {
        let known = PROGRAMS.join(", ");
        ensure!(PROGRAMS.contains(&program), "this node has no container image {program:?}, only {known}");
        Ok(self.folder.join(program))
    }
}

fn make(program: &Path, image: &Path) -> Result<()> {
    if image.exists() {
        fs::remove_dir_all(image).with_context(|| format!("remove the old container image {}", image.display()))?;
    }
    let script = paths::root().join("k8s/images/gather");
    let output = Command::new("sh").arg(&script).arg(program).arg(image).output();
    let output = output.with_context(|| format!("run sh {}", script.display()))?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed ({}): {}", script.display(), output.status, message.trim());
    for folder in MOUNT_POINTS {
        let folder = image.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    }
    // Each container's own resolv.conf is mounted on this file.
    let resolver = image.join("etc/resolv.conf");
    fs::write(&resolver, "").with_context(|| format!("write {}", resolver.display()))
}

fn modified(path: &Path) -> std::io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn onnx_runtime_is_gathered_if_it_is_beside_libtorch() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let compile = |source: &str, arguments: &[&str]| -> Result<()> {
            fs::write(path("source.c"), source)?;
            let compiler = Command::new("cc").arg("source.c").args(arguments).current_dir(folder.path()).status()?;
            ensure!(compiler.success(), "cc failed: {compiler}");
            Ok(())
        };
        compile("int torch(void) { return 0; }", &["-shared", "-fPIC", "-o", "libtorch_cpu.so"])?;
        let search = format!("-Wl,-rpath,{}", folder.path().display());
        let link = ["-o", "program", "-L.", "-ltorch_cpu", &search];
        compile("int torch(void); int main(void) { return torch(); }", &link)?;
        for has_runtime in [false, true] {
            if has_runtime {
                fs::copy(path("libtorch_cpu.so"), path("libonnxruntime.so.1"))?;
            }
            make(&path("program"), &path("image"))?;
            let libraries = path("image/usr/lib/roundhouse");
            assert!(libraries.join("libtorch_cpu.so").exists());
            assert_eq!(libraries.join("libonnxruntime.so.1").exists(), has_runtime);
        }
        Ok(())
    }
}
