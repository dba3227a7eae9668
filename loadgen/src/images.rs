//! The images that are sent: those of a folder, or generated ones with labels.

use crate::drawing::{self, ImageStyle};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use imagesize::ImageType;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

/// Largest size of all images of a folder together, in bytes. All of them are kept in memory.
const MAX_BYTES: u64 = 4 << 30;

/// Largest image file, in bytes. A larger file is skipped, since no server accepts it.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// An encoded image, and its label if it is known.
#[derive(Debug, Clone)]
pub struct ImageFile {
    /// The encoded file.
    pub file: Bytes,
    /// Media type of the file.
    pub content_type: &'static str,
    /// The right answer for this image; `None` if it is not known.
    pub label: Option<String>,
}

/// The image files of a folder.
#[derive(Debug)]
pub struct Folder {
    /// The images in the order of their paths; at least one.
    pub images: Vec<ImageFile>,
    /// Number of files whose extension is that of an image, but that are no images or cannot be read.
    pub skipped: usize,
}

/// Draws the first `count` images of the series `seed`. Shows the progress unless `quiet`.
pub fn generate(count: u64, seed: u64, style: &ImageStyle, quiet: bool) -> Vec<ImageFile> {
    let bar = progress_bar("drawing images", count, quiet);
    let image = |index| {
        bar.inc(1);
        let drawing = drawing::draw(seed, index, style);
        let label = Some(drawing::LABELS[drawing.class].to_owned());
        ImageFile { file: drawing.jpeg.into(), content_type: Format::Jpeg.content_type(), label }
    };
    let images = (0..count).map(image).collect();
    bar.finish_and_clear();
    images
}

/// Reads every JPEG, PNG and WebP file in `folder`, at any depth. The file `labels.csv` in the folder, if there is one,
/// gives the labels: each row is `file,label`, with the path of the file relative to the folder. Shows the progress
/// unless `quiet`.
///
/// # Errors
/// If the folder cannot be read, has no image or more than 4 GiB of images, or if its labels.csv is malformed.
pub fn read_folder(folder: &Path, quiet: bool) -> Result<Folder> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort_by(|a, b| a.0.cmp(&b.0));
    let labels = labels(folder)?;
    let (mut images, mut skipped, mut bytes) = (Vec::new(), 0, 0);
    let bar = progress_bar("reading images", files.len() as u64, quiet);
    for (path, format) in files {
        bar.inc(1);
        let Some(file) = read_image(&path, format) else {
            skipped += 1;
            continue;
        };
        bytes += file.len() as u64;
        ensure!(bytes <= MAX_BYTES, "{} has more than 4 GiB of images; use fewer or smaller images", folder.display());
        let name = path.strip_prefix(folder).unwrap_or(&path);
        let label = labels.get(name).cloned();
        images.push(ImageFile { file: file.into(), content_type: format.content_type(), label });
    }
    bar.finish_and_clear();
    if images.is_empty() {
        bail!(
            "there is no readable .jpg, .jpeg, .png or .webp file in {} (files skipped as unreadable: {skipped}); give \
             another folder, or leave out --pictures to send generated images",
            folder.display()
        );
    }
    Ok(Folder { images, skipped })
}

/// The contents of a file whose header is that of an image of this format; `None` for any other file, and for a file
/// that is too large or cannot be read.
fn read_image(path: &Path, format: Format) -> Option<Vec<u8>> {
    // Opening a named pipe would block until another process writes to it.
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut file = Vec::new();
    File::open(path).ok()?.take(MAX_FILE_BYTES + 1).read_to_end(&mut file).ok()?;
    let is_small = file.len() as u64 <= MAX_FILE_BYTES;
    let is_image = imagesize::image_type(&file).is_ok_and(|found| format.is(found)) && format.is_sized(&file);
    (is_small && is_image).then_some(file)
}

/// Draws the first `count` images of the series `seed`, and writes them and their labels.csv to `folder`.
///
/// # Errors
/// If the folder cannot be written.
pub fn write_folder(folder: &Path, count: u64, seed: u64, style: &ImageStyle) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let bar = progress_bar("writing images", count, false);
    let mut csv = String::from("file,label\n");
    for index in 0..count {
        let drawing = drawing::draw(seed, index, style);
        let name = format!("{index:05}.jpg");
        let path = folder.join(&name);
        std::fs::write(&path, drawing.jpeg).with_context(|| format!("write {}", path.display()))?;
        csv.push_str(&format!("{name},{}\n", drawing::LABELS[drawing.class]));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let path = folder.join("labels.csv");
    std::fs::write(&path, csv).with_context(|| format!("write {}", path.display()))
}

/// Appends all image files in `folder` to `files`, by the extensions of their names.
fn collect(folder: &Path, files: &mut Vec<(PathBuf, Format)>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("read folder {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("read folder {}", folder.display()))?.path();
        // A link to a folder is not followed: it may lead to a folder above, and the search would never end.
        if path.is_dir() && !path.is_symlink() {
            collect(&path, files)?;
        } else if let Some(format) = Format::from_name(&path) {
            files.push((path, format));
        }
    }
    Ok(())
}

/// An image format that the server accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Jpeg,
    Png,
    WebP,
}

impl Format {
    /// The format that belongs to the extension of a file's name; `None` if there is none.
    fn from_name(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "jpg" | "jpeg" | "jfif" => Some(Self::Jpeg),
            "png" | "apng" => Some(Self::Png),
            "webp" => Some(Self::WebP),
            _ => None,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::WebP => "image/webp",
        }
    }

    /// Whether the header of a file of this format is complete and has a size above zero. The checksum of a PNG header
    /// is compared, too.
    fn is_sized(self, file: &[u8]) -> bool {
        match self {
            Self::Png => png::Decoder::new(Cursor::new(file)).read_info().is_ok(),
            Self::Jpeg | Self::WebP => imagesize::blob_size(file).is_ok_and(|size| size.width > 0 && size.height > 0),
        }
    }

    /// Whether `found`, the format in the header of a file, is this format.
    fn is(self, found: ImageType) -> bool {
        matches!(
            (self, found),
            (Self::Jpeg, ImageType::Jpeg) | (Self::Png, ImageType::Png) | (Self::WebP, ImageType::Webp)
        )
    }
}

/// The labels of a folder's images, by the path relative to the folder; empty if there is no labels.csv.
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
            _ => bail!("{}, line {line}: a row must have two columns, file,label", path.display()),
        }
    };
    rows.records().map(row).collect()
}

/// A bar on standard error if that is a terminal; an invisible one if `quiet`.
fn progress_bar(name: &str, length: u64, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let template = format!("{name} {{wide_bar}} {{pos}}/{{len}}");
    ProgressBar::new(length)
        .with_style(ProgressStyle::with_template(&template).expect("the template of the progress bar is valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_folder_is_read_with_its_labels() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let style = ImageStyle::default();
        write_folder(root.path(), 13, 5, &style).expect("writable");
        std::fs::write(root.path().join("notes.txt"), "not an image").expect("writable");
        let Folder { images, skipped } = read_folder(root.path(), true).expect("readable");
        let generated = generate(13, 5, &style, true);
        assert_eq!((images.len(), skipped), (13, 0));
        for (read, generated) in images.iter().zip(&generated) {
            assert_eq!((&read.file, &read.label), (&generated.file, &generated.label));
        }
    }

    #[test]
    fn files_that_are_not_images_are_skipped_and_counted() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let within = root.path().join("a/b");
        std::fs::create_dir_all(&within).expect("writable");
        write_folder(&within, 2, 5, &ImageStyle::default()).expect("writable");
        std::fs::write(root.path().join("empty.png"), "").expect("writable");
        // This header has the size, but not its checksum.
        let header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x08\0\0\0\x08\x08\x02\0\0\0";
        std::fs::write(root.path().join("cut.png"), header).expect("writable");
        std::fs::write(root.path().join("text.jpeg"), "not an image").expect("writable");
        std::os::unix::fs::symlink("nowhere", root.path().join("broken.webp")).expect("writable");
        // Following this link would never end.
        std::os::unix::fs::symlink(root.path(), within.join("up")).expect("writable");
        std::fs::write(root.path().join("labels.csv"), "file,label\n a/b/00001.jpg ,\"one, two\"\n").expect("writable");
        let Folder { images, skipped } = read_folder(root.path(), true).expect("readable");
        let labels: Vec<_> = images.iter().map(|image| image.label.as_deref()).collect();
        assert_eq!((labels, skipped), (vec![None, Some("one, two")], 4));
    }

    #[test]
    fn errors_name_empty_missing_and_malformed_folders() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let error = |path: &Path| format!("{:#}", read_folder(path, true).expect_err("refused"));
        std::fs::write(root.path().join("x.jpg"), "not an image").expect("writable");
        let empty = error(root.path());
        assert!(empty.contains("no readable .jpg") && empty.contains("unreadable: 1"), "{empty}");
        assert!(error(&root.path().join("gone")).contains("gone"));
        for bad in ["file,label\nx.jpg\n", "file,label\n\"x.jpg\n", "file,label\nx.jpg,a,b\n"] {
            std::fs::write(root.path().join("labels.csv"), bad).expect("writable");
            assert!(error(root.path()).contains("line 2"), "{bad:?}: {}", error(root.path()));
        }
    }
}
