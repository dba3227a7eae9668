//! The image files that are sent and decoded, made once for a run.

use crate::progress;
use crate::python::Python;
use anyhow::{Context, Result, ensure};
use harness::paths;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Number of images that [`Images::crops`] takes.
const CROPS: usize = 8;

/// Image files for the replica and its peers.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    /// A JPEG of 640 × 480 pixels and 38 KB.
    pub(crate) small: PathBuf,
    /// The same image at a higher quality, 166 KB.
    pub(crate) large: PathBuf,
    /// Images of many sizes and in all formats, in the order of their names.
    pub(crate) mixed: Vec<PathBuf>,
    drawn: PathBuf,
    folder: PathBuf,
}

impl Images {
    /// Makes the files in `folder`.
    ///
    /// # Errors
    /// When loadgen or `peers/images.py` fails.
    pub(crate) fn make(python: &Python, folder: &Path) -> Result<Self> {
        let (drawn, folder) = (folder.join("drawn"), folder.join("images"));
        let spinner = progress::spinner("making images");
        draw(&drawn, &["--count=16"])?;
        let status = python.script("images.py").arg(&drawn).arg(&folder).status().context("run images.py")?;
        ensure!(status.success(), "bench/peers/images.py failed ({status})");
        spinner.finish_and_clear();
        let mixed = folder.join("mixed");
        let entries = fs::read_dir(&mixed).with_context(|| format!("list {}", mixed.display()))?;
        let mut mixed = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        mixed.sort();
        Ok(Self { small: folder.join("38k.jpg"), large: folder.join("166k.jpg"), mixed, drawn, folder })
    }

    /// A file with the first eight drawn images as the model sees them: 224 × 224 pixels each, RGB, 8 bits a channel,
    /// image after image.
    ///
    /// # Errors
    /// When `bench-replica parity` fails.
    pub(crate) fn crops(&self) -> Result<PathBuf> {
        let row = |index| format!("drawn\t{}\n", self.drawn.join(format!("{index:05}.jpg")).display());
        let list = self.folder.join("list.txt");
        fs::write(&list, (0..CROPS).map(row).collect::<String>())
            .with_context(|| format!("write {}", list.display()))?;
        let mut parity = Command::new(paths::program("bench-replica"));
        let status = parity.arg("parity").arg(&self.folder).status().context("run bench-replica parity")?;
        ensure!(status.success(), "bench-replica parity failed ({status})");
        Ok(self.folder.join("ours.u8"))
    }
}

/// Draws labelled images into `folder` with `loadgen pictures FLAGS`. They are named 00000.jpg, 00001.jpg, and so on.
///
/// # Errors
/// When loadgen fails.
pub(crate) fn draw(folder: &Path, flags: &[&str]) -> Result<()> {
    let mut loadgen = Command::new(paths::program("loadgen"));
    let output = loadgen.arg("pictures").arg(folder).args(flags).output().context("run loadgen pictures")?;
    ensure!(output.status.success(), "loadgen pictures failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
