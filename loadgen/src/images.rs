//! The pictures that are sent: a folder's, or generated labelled ones.

use crate::shapes::{self, Style};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

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
pub fn generate(count: u64, seed: u64) -> Vec<Picture> {
    let bar = bar("drawing pictures", count);
    let picture = |index| {
        bar.inc(1);
        let drawing = shapes::draw(seed, index, &Style::default());
        let label = Some(shapes::LABELS[drawing.class].to_owned());
        Picture { file: drawing.jpeg.into(), content_type: "image/jpeg", label }
    };
    let pictures = (0..count).map(picture).collect();
    bar.finish_and_clear();
    pictures
}

/// Every JPEG, PNG and WebP file in `folder`, at any depth, in the order of their names. A `labels.csv` beside them
/// (`file,label`, the file relative to the folder) gives the right answers.
///
/// # Errors
/// When the folder cannot be read, holds no picture, or its labels.csv is malformed.
pub fn folder(folder: &Path) -> Result<Vec<Picture>> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort();
    let labels = labels(folder)?;
    let mut pictures = Vec::new();
    for (path, content_type) in files {
        let file = std::fs::read(&path).with_context(|| format!("read picture {}", path.display()))?;
        let name = path.strip_prefix(folder).unwrap_or(&path);
        let label = labels.get(name).cloned();
        pictures.push(Picture { file: file.into(), content_type, label });
    }
    if pictures.is_empty() {
        bail!("there is no .jpg, .jpeg, .png or .webp file in {}", folder.display());
    }
    Ok(pictures)
}

/// Writes `count` generated pictures and their labels.csv.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(folder: &Path, count: u64, seed: u64) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let bar = bar("writing pictures", count);
    let mut csv = String::from("file,label\n");
    for index in 0..count {
        let drawing = shapes::draw(seed, index, &Style::default());
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

fn collect(folder: &Path, files: &mut Vec<(PathBuf, &'static str)>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("read folder {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("read folder {}", folder.display()))?.path();
        // Links to folders are not followed: they can lead back up.
        if path.is_dir() && !path.is_symlink() {
            collect(&path, files)?;
        } else if let Some(content_type) = content_type(&path) {
            files.push((path, content_type));
        }
    }
    Ok(())
}

fn content_type(path: &Path) -> Option<&'static str> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "jpg" | "jpeg" => Some("image/jpeg"),
        "png" => Some("image/png"),
        "webp" => Some("image/webp"),
        _ => None,
    }
}

fn labels(folder: &Path) -> Result<HashMap<PathBuf, String>> {
    let path = folder.join("labels.csv");
    if !path.exists() {
        return Ok(HashMap::new());
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let row = |(index, line): (usize, &str)| match line.split_once(',') {
        Some((file, label)) => Ok((PathBuf::from(file.trim()), label.trim().to_owned())),
        None => bail!("{}, line {}: expected file,label", path.display(), index + 1),
    };
    text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty()).map(row).collect()
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
        write(root.path(), 13, 5).expect("writable");
        std::fs::write(root.path().join("notes.txt"), "no picture").expect("writable");
        let read = folder(root.path()).expect("readable");
        let generated = generate(13, 5);
        assert_eq!(read.len(), 13);
        for (read, generated) in read.iter().zip(&generated) {
            assert_eq!((&read.file, &read.label), (&generated.file, &generated.label));
        }
    }

    #[test]
    fn empty_missing_and_malformed_folders_are_named() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let error = |path: &Path| format!("{:#}", folder(path).expect_err("refused"));
        assert!(error(root.path()).contains("no .jpg"));
        assert!(error(&root.path().join("gone")).contains("gone"));
        std::fs::write(root.path().join("labels.csv"), "file,label\nx.jpg\n").expect("writable");
        assert!(error(root.path()).contains("line 2"));
    }
}
