//! Root file systems, as the Dockerfile's last stages hold them: made by the same script, of the programs beside this one.

use crate::paths;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What can be run.
const PROGRAMS: [&str; 3] = ["dispatcher", "replica", "scaler"];

/// What a container engine makes in every image for itself to mount things on.
const FOLDERS: [&str; 4] = ["proc", "sys", "dev", "var/run"];

/// Where they are.
#[derive(Debug, Clone)]
pub struct Images {
    folder: PathBuf,
}

impl Images {
    /// Makes those of programs that have changed since.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn make(folder: PathBuf) -> Result<Self> {
        for name in PROGRAMS {
            let (program, image) = (paths::program(name), folder.join(name));
            let changed = modified(&program).with_context(|| format!("look at {}", program.display()))?;
            // Written last: an image without it is not whole.
            let stamp = folder.join(format!("{name}.made"));
            if modified(&stamp).is_ok_and(|made| made > changed) {
                continue;
            }
            let _none = fs::remove_dir_all(&image);
            let script = paths::root().join("k8s/images/gather");
            let output = Command::new("sh").arg(script).arg(&program).arg(&image).output().context("run sh")?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "make an image of {name}: {said}");
            for folder in FOLDERS {
                fs::create_dir_all(image.join(folder))?;
            }
            fs::write(image.join("etc/resolv.conf"), "")?;
            fs::write(&stamp, "")?;
        }
        Ok(Self { folder })
    }

    /// The root file system with this program.
    ///
    /// # Errors
    /// When there is none, in words for whoever wrote the pod.
    pub fn root(&self, program: &str) -> Result<PathBuf> {
        ensure!(PROGRAMS.contains(&program), "the node has no image {program:?}, only {}", PROGRAMS.join(", "));
        Ok(self.folder.join(program))
    }
}

fn modified(path: &Path) -> std::io::Result<std::time::SystemTime> {
    fs::metadata(path)?.modified()
}
