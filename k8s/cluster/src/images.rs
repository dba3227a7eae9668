//! The container images that the node runs: a root file system in a folder for each program.
//!
//! The script that the Dockerfile's last stages run, k8s/images/gather, makes them from the programs beside this one.

use crate::paths;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// The programs that have an image.
pub const PROGRAMS: [&str; 3] = ["dispatcher", "replica", "scaler"];

/// Folders that a container engine adds to every image, since it mounts file systems there.
const MOUNT_POINTS: [&str; 4] = ["proc", "sys", "dev", "var/run"];

/// A folder with an image of each program.
#[derive(Debug, Clone)]
pub struct ImageStore {
    folder: PathBuf,
}

impl ImageStore {
    /// Opens the store in `folder` and makes the images of those programs that were built since.
    ///
    /// # Errors
    /// If a program is missing, or its image cannot be made.
    pub fn update(folder: PathBuf) -> Result<Self> {
        for name in PROGRAMS {
            let program = paths::program(name);
            let built = modified(&program)
                .with_context(|| format!("find {}; build it: cargo build --release --workspace", program.display()))?;
            // Written last, so that an image whose making was interrupted is made again.
            let stamp = folder.join(format!("{name}.made"));
            if modified(&stamp).is_ok_and(|made| made > built) {
                continue;
            }
            make(&program, &folder.join(name)).with_context(|| format!("make an image of {name}"))?;
            fs::write(&stamp, "").with_context(|| format!("write {}", stamp.display()))?;
        }
        Ok(Self { folder })
    }

    /// The root file system of the image of this program.
    ///
    /// # Errors
    /// If the program has no image. The message goes into the pod's status.
    pub fn root(&self, program: &str) -> Result<PathBuf> {
        ensure!(PROGRAMS.contains(&program), "the node has no image {program:?}, only {}", PROGRAMS.join(", "));
        Ok(self.folder.join(program))
    }
}

fn make(program: &Path, image: &Path) -> Result<()> {
    if image.exists() {
        fs::remove_dir_all(image).with_context(|| format!("remove the old image {}", image.display()))?;
    }
    let script = paths::root().join("k8s/images/gather");
    let output = Command::new("sh").arg(&script).arg(program).arg(image).output().context("run sh")?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed ({}): {}", script.display(), output.status, message.trim());
    for folder in MOUNT_POINTS {
        fs::create_dir_all(image.join(folder))?;
    }
    // The file that each container's own is mounted on.
    fs::write(image.join("etc/resolv.conf"), "")?;
    Ok(())
}

fn modified(path: &Path) -> std::io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}
