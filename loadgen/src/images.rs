//! The pictures that are sent: a folder's, or generated labelled ones.

use crate::shapes::{self, Style};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use image::{ImageFormat, ImageReader};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

/// Of a folder's pictures in all: they are kept in memory.
const MAX_BYTES: u64 = 4 << 30;

/// A file larger than this is no picture that a server takes, and is skipped.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A picture and, where it is known, its right answer.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The encoded file.
    pub file: Bytes,
    /// Its media type.
    pub content_type: &'static str,
    /// The label that is right.
    pub label: Option<String>,
}

/// Draws `count` pictures of the series that `seed` names.
pub fn generate(count: u64, seed: u64, style: &Style) -> Vec<Picture> {
    let bar = bar("drawing pictures", count);
    let picture = |index| {
        bar.inc(1);
        let drawing = shapes::draw(seed, index, style);
        let label = Some(shapes::LABELS[drawing.class].to_owned());
        Picture { file: drawing.jpeg.into(), content_type: ImageFormat::Jpeg.to_mime_type(), label }
    };
    let pictures = (0..count).map(picture).collect();
    bar.finish_and_clear();
    pictures
}

/// Every JPEG, PNG and WebP file in `folder`, at any depth, in the order of their names, and how many files look like
/// one by their name and are none, or cannot be read. A `labels.csv` beside them (`file,label`, the file relative to the
/// folder) gives the right answers.
///
/// # Errors
/// When the folder cannot be read, holds no picture, or more than memory does, or its labels.csv is malformed.
pub fn folder(folder: &Path) -> Result<(Vec<Picture>, usize)> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort_by(|a, b| a.0.cmp(&b.0));
    let labels = labels(folder)?;
    let (mut pictures, mut skipped, mut bytes) = (Vec::new(), 0, 0);
    let bar = bar("reading pictures", files.len() as u64);
    for (path, format) in files {
        bar.inc(1);
        let Some(file) = picture(&path, format) else {
            skipped += 1;
            continue;
        };
        bytes += file.len() as u64;
        ensure!(bytes <= MAX_BYTES, "{} holds more than 4 GiB of pictures; use fewer", folder.display());
        let name = path.strip_prefix(folder).unwrap_or(&path);
        let label = labels.get(name).cloned();
        pictures.push(Picture { file: file.into(), content_type: format.to_mime_type(), label });
    }
    bar.finish_and_clear();
    if pictures.is_empty() {
        bail!(
            "there is no readable .jpg, .jpeg, .png or .webp file in {}; {skipped} could not be read",
            folder.display()
        );
    }
    Ok((pictures, skipped))
}

/// A file that is a picture of this format, as far as its beginning tells.
fn picture(path: &Path, format: ImageFormat) -> Option<Vec<u8>> {
    // A pipe would be waited for.
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut file = Vec::new();
    File::open(path).ok()?.take(MAX_FILE_BYTES + 1).read_to_end(&mut file).ok()?;
    let is_small = file.len() as u64 <= MAX_FILE_BYTES;
    let is_picture = ImageReader::with_format(Cursor::new(&file), format).into_dimensions().is_ok();
    (is_small && is_picture).then_some(file)
}

/// Writes `count` generated pictures and their labels.csv.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(folder: &Path, count: u64, seed: u64, style: &Style) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let bar = bar("writing pictures", count);
    let mut csv = String::from("file,label\n");
    for index in 0..count {
        let drawing = shapes::draw(seed, index, style);
        let name = format!("{index:05}.jpg");
        let path = folder.join(&name);
        std::fs::write(&path, drawing.jpeg).with_context(|| format!("write {}", path.display()))?;
        csv.push_str(&format!("{name},{}\n", shapes::LABELS[drawing.class]));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let path = folder.join("labels.csv");
    std::fs::write(&path, csv).with_context(|| format!("write {}", path.display()))
}

fn collect(folder: &Path, files: &mut Vec<(PathBuf, ImageFormat)>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("read folder {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("read folder {}", folder.display()))?.path();
        // Links to folders are not followed: they can lead back up.
        if path.is_dir() && !path.is_symlink() {
            collect(&path, files)?;
        } else if let Some(format) = format(&path) {
            files.push((path, format));
        }
    }
    Ok(())
}

fn format(path: &Path) -> Option<ImageFormat> {
    let format = ImageFormat::from_path(path).ok()?;
    [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP].contains(&format).then_some(format)
}

fn labels(folder: &Path) -> Result<HashMap<PathBuf, String>> {
    let path = folder.join("labels.csv");
    if !path.exists() {
        return Ok(HashMap::new());
    }
    let mut rows = csv::ReaderBuilder::new()
        .flexible(true)
        .trim(csv::Trim::All)
        .from_path(&path)
        .with_context(|| format!("read {}", path.display()))?;
    let row = |row: csv::Result<csv::StringRecord>| {
        let row = row.with_context(|| format!("read {}", path.display()))?;
        let line = row.position().map_or(0, csv::Position::line);
        match (row.get(0), row.get(1), row.len()) {
            (Some(file), Some(label), 2) => Ok((PathBuf::from(file), label.to_owned())),
            _ => bail!("{}, line {line}: expected file,label", path.display()),
        }
    };
    rows.records().map(row).collect()
}

fn bar(name: &str, length: u64) -> ProgressBar {
    let template = format!("{name} {{wide_bar}} {{pos}}/{{len}}");
    ProgressBar::new(length).with_style(ProgressStyle::with_template(&template).expect("the template is valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_folder_reads_back_with_its_labels() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let style = Style::default();
        write(root.path(), 13, 5, &style).expect("writable");
        std::fs::write(root.path().join("notes.txt"), "no picture").expect("writable");
        let (read, skipped) = folder(root.path()).expect("readable");
        let generated = generate(13, 5, &style);
        assert_eq!((read.len(), skipped), (13, 0));
        for (read, generated) in read.iter().zip(&generated) {
            assert_eq!((&read.file, &read.label), (&generated.file, &generated.label));
        }
    }

    #[test]
    fn what_is_no_picture_is_skipped_and_counted() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let within = root.path().join("a/b");
        std::fs::create_dir_all(&within).expect("writable");
        write(&within, 2, 5, &Style::default()).expect("writable");
        std::fs::write(root.path().join("empty.png"), "").expect("writable");
        std::fs::write(root.path().join("text.jpeg"), "no picture").expect("writable");
        std::os::unix::fs::symlink("nowhere", root.path().join("broken.webp")).expect("writable");
        // A link to a folder could lead round and round.
        std::os::unix::fs::symlink(root.path(), within.join("up")).expect("writable");
        std::fs::write(root.path().join("labels.csv"), "file,label\n a/b/00001.jpg ,\"one, two\"\n").expect("writable");
        let (read, skipped) = folder(root.path()).expect("readable");
        let labels: Vec<_> = read.iter().map(|picture| picture.label.as_deref()).collect();
        assert_eq!((labels, skipped), (vec![None, Some("one, two")], 3));
    }

    #[test]
    fn empty_missing_and_malformed_folders_are_named() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let error = |path: &Path| format!("{:#}", folder(path).expect_err("refused"));
        std::fs::write(root.path().join("x.jpg"), "no picture").expect("writable");
        let empty = error(root.path());
        assert!(empty.contains("no readable .jpg") && empty.contains("1 could not be read"), "{empty}");
        assert!(error(&root.path().join("gone")).contains("gone"));
        for bad in ["file,label\nx.jpg\n", "file,label\n\"x.jpg\n", "file,label\nx.jpg,a,b\n"] {
            std::fs::write(root.path().join("labels.csv"), bad).expect("writable");
            assert!(error(root.path()).contains("line 2"), "{bad:?}: {}", error(root.path()));
        }
    }
}
