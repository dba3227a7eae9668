//! The image files that a benchmark sends and decodes.

use crate::progress;
use crate::python::Python;
use anyhow::{Context, Result, ensure};
use harness::paths;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Number of images in the file of [`Images::crops`].
const CROPS: usize = 8;

/// Image files for the replica and its peers.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    /// The path of a JPEG of 640 × 480 pixels and 38 KB.
    pub(crate) small: PathBuf,
    /// The path of a JPEG of 166 KB with the same image as `small`, at a higher quality.
    pub(crate) large: PathBuf,
    /// The paths of images of many sizes and in all formats, in the order of their names.
    pub(crate) mixed: Vec<PathBuf>,
    drawn: PathBuf,
    folder: PathBuf,
}

impl Images {
    /// Draws images into `folder`, and makes the files of them.
    ///
    /// # Errors
    /// If loadgen or `peers/images.py` fails.
    pub(crate) fn make(python: &Python, folder: &Path) -> Result<Self> {
        let (drawn, folder) = (folder.join("drawn"), folder.join("images"));
        let spinner = progress::spinner("making images");
        draw(&drawn, &["--count=16"])?;
        let status = python.script("images.py").arg(&drawn).arg(&folder).status();
        let status = status.context("run bench/peers/images.py")?;
        ensure!(status.success(), "bench/peers/images.py failed ({status})");
        spinner.finish_and_clear();
        let mixed = folder.join("mixed");
        let entries = fs::read_dir(&mixed).with_context(|| format!("list {}", mixed.display()))?;
        let paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
        let mut mixed = paths.with_context(|| format!("list {}", mixed.display()))?;
        mixed.sort();
        Ok(Self { small: folder.join("38k.jpg"), large: folder.join("166k.jpg"), mixed, drawn, folder })
    }

    /// Writes a file with the first eight drawn images as crops for the model, one after another: 224 × 224 pixels
    /// each, RGB, 8 bits a channel. Returns its path.
    ///
    /// # Errors
    /// If `bench-replica parity` fails.
    pub(crate) fn crops(&self) -> Result<PathBuf> {
        let row = |index| format!("drawn\t{}\n", self.drawn.join(format!("{index:05}.jpg")).display());
        let list = self.folder.join("list.txt");
        fs::write(&list, (0..CROPS).map(row).collect::<String>())
            .with_context(|| format!("write {}", list.display()))?;
        let mut parity = Command::new(paths::program("bench-replica"));
        let status = parity.arg("parity").arg(&self.folder).status().context(
            "run bench-replica parity; build it: cargo build --release --workspace --features bench/replica",
        )?;
        ensure!(status.success(), "bench-replica parity {} failed ({status})", self.folder.display());
        Ok(self.folder.join("ours.u8"))
    }
}

/// Draws labelled images into `folder` with `loadgen pictures FLAGS`. Their names are 00000.jpg, 00001.jpg, and so on.
///
/// # Errors
/// If loadgen fails.
pub(crate) fn draw(folder: &Path, flags: &[&str]) -> Result<()> {
    let mut loadgen = Command::new(paths::program("loadgen"));
    let output = loadgen
        .arg("pictures")
        .arg(folder)
        .args(flags)
        .output()
        .context("run loadgen pictures; build it: cargo build --release --workspace")?;
    ensure!(output.status.success(), "loadgen pictures failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
