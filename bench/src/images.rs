//! The files that are sent and decoded, made once for a run out of drawn ones.

use crate::paths;
use crate::python::Python;
use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where they are.
#[derive(Debug, Clone)]
pub struct Pictures {
    /// JPEG, 640 × 480.
    pub small: PathBuf,
    /// The same picture at a higher quality.
    pub large: PathBuf,
    /// Of many sizes and all formats, in the order of their names.
    pub mixed: Vec<PathBuf>,
    drawn: PathBuf,
    folder: PathBuf,
}

impl Pictures {
    /// Makes them in `folder`.
    ///
    /// # Errors
    /// When something fails.
    pub fn make(python: &Python, folder: &Path) -> Result<Self> {
        let (drawn, folder) = (folder.join("drawn"), folder.join("pictures"));
        let spinner = ProgressBar::new_spinner().with_message("making pictures");
        spinner.enable_steady_tick(Duration::from_millis(200));
        draw(&drawn, 16)?;
        let made = python.script("pictures.py").arg(&drawn).arg(&folder).status().context("run pictures.py")?;
        ensure!(made.success(), "bench/pictures.py failed ({made})");
        spinner.finish_and_clear();
        let mixed = folder.join("mixed");
        let entries = fs::read_dir(&mixed).with_context(|| format!("list {}", mixed.display()))?;
        let mut mixed = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        mixed.sort();
        Ok(Self { small: folder.join("38k.jpg"), large: folder.join("166k.jpg"), mixed, drawn, folder })
    }

    /// The first eight drawn pictures as the model sees them: 224 × 224 RGB pixels of 8 bits, picture after picture.
    ///
    /// # Errors
    /// When the replica's example `parity` fails.
    pub fn crops(&self) -> Result<PathBuf> {
        let row = |index| format!("drawn\t{}\n", self.drawn.join(format!("{index:05}.jpg")).display());
        let list = self.folder.join("list.txt");
        fs::write(&list, (0..8).map(row).collect::<String>()).with_context(|| format!("write {}", list.display()))?;
        let mut parity = Command::new(paths::program("examples/parity"));
        let status = parity.arg(&self.folder).status().context("run the example parity")?;
        ensure!(status.success(), "the example parity failed ({status})");
        Ok(self.folder.join("ours.u8"))
    }
}

/// Has loadgen draw labelled pictures.
///
/// # Errors
/// When it fails.
pub fn draw(folder: &Path, count: u32) -> Result<()> {
    let mut loadgen = Command::new(paths::program("loadgen"));
    let drawn = loadgen.arg("pictures").arg(folder).arg(format!("--count={count}")).output().context("run loadgen")?;
    ensure!(drawn.status.success(), "loadgen could not draw pictures: {}", String::from_utf8_lossy(&drawn.stderr));
    Ok(())
}
