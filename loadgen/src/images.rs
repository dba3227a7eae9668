//! The images that are sent: those of a folder, or generated ones with labels.

use crate::drawing::{self, ImageStyle};
use crate::labels::{self, LabelSource};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use imagesize::ImageType;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

/// Largest size of all images of a folder together, in bytes. All of them are kept in memory.
const MAX_BYTES: u64 = 4 << 30;

/// Largest image file, in bytes. A larger file is skipped, since no server accepts it.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Length of the start of a file that tells whether it is an image, in bytes.
const HEADER_BYTES: u64 = 12;

/// Extensions of image files, in lower case. The content of a file decides whether it is an image, and of which format.
const EXTENSIONS: [&str; 18] = [
    "jpg", "jpeg", "jpe", "jfif", "jif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "heic", "heif",
    "avif", "jp2", "ico",
];

/// A folder that macOS adds to archives. Its files have the names of images, but are none.
const RESOURCE_FORKS: &str = "__MACOSX";

/// An encoded image, and its label if it is known.
#[derive(Debug, Clone)]
pub struct ImageFile {
    /// The path of the file relative to the folder, or the number of the generated image.
    pub name: String,
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
    /// What is wrong with the labels, as a sentence without its end. `None` if every label belongs to an image.
    pub label_problem: Option<String>,
}

/// Draws the first `count` images of the series `seed`. Shows the progress unless `quiet`.
pub fn generate(count: u64, seed: u64, style: &ImageStyle, quiet: bool) -> Vec<ImageFile> {
    let bar = progress_bar("drawing images", count, quiet);
    let image = |index| {
        bar.inc(1);
        let drawing = drawing::draw(seed, index, style);
        let label = Some(drawing::LABELS[drawing.class].to_owned());
        let name = format!("generated {index}");
        ImageFile { name, file: drawing.jpeg.into(), content_type: Format::Jpeg.content_type(), label }
    };
    let images = (0..count).map(image).collect();
    bar.finish_and_clear();
    images
}

/// Reads every JPEG, PNG, WebP, GIF, BMP and TIFF file in `folder`, at any depth, with the labels of `source`. The
/// content of a file decides, and not its name. Hidden files and folders are left out. Shows the progress unless `quiet`.
///
/// # Errors
/// If the folder cannot be read, has no image or more than 4 GiB of images, or if its labels.csv is malformed.
pub fn read_folder(folder: &Path, source: LabelSource, quiet: bool) -> Result<Folder> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort();
    let (mut found, mut skipped, mut bytes) = (Vec::new(), 0, 0);
    let bar = progress_bar("reading images", files.len() as u64, quiet);
    for path in files {
        bar.inc(1);
        let Some((file, format)) = read_image(&path) else {
            skipped += 1;
            continue;
        };
        bytes += file.len() as u64;
        ensure!(bytes <= MAX_BYTES, "{} has more than 4 GiB of images; use fewer or smaller images", folder.display());
        found.push((path.strip_prefix(folder).unwrap_or(&path).to_owned(), file, format));
    }
    bar.finish_and_clear();
    if found.is_empty() {
        bail!(
            "there is no readable .jpg, .png, .webp, .gif, .bmp or .tiff file in {} (files skipped as unreadable: \
             {skipped}); give another folder, or leave out --pictures to send generated images",
            folder.display()
        );
    }
    let paths: HashSet<PathBuf> = found.iter().map(|(path, ..)| path.clone()).collect();
    let mut labels = labels::read(folder, source, &paths)?;
    let image = |(path, file, format): (PathBuf, Vec<u8>, Format)| {
        let label = labels.by_path.remove(&path);
        let name = path.to_string_lossy().into_owned();
        ImageFile { name, file: file.into(), content_type: format.content_type(), label }
    };
    let images = found.into_iter().map(image).collect();
    Ok(Folder { images, skipped, label_problem: labels.problem })
}

/// The contents and the format of an image file; `None` for any other file, and for a file that is too large or cannot
/// be read.
fn read_image(path: &Path) -> Option<(Vec<u8>, Format)> {
    let file = read_start(path, MAX_FILE_BYTES + 1)?;
    let format = Format::of(&file)?;
    let is_small = file.len() as u64 <= MAX_FILE_BYTES;
    (is_small && format.is_sized(&file)).then_some((file, format))
}

/// The first `length` bytes of a file; `None` if it cannot be read.
fn read_start(path: &Path, length: u64) -> Option<Vec<u8>> {
    // Opening a named pipe would block until another process writes to it.
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut start = Vec::new();
    File::open(path).ok()?.take(length).read_to_end(&mut start).ok()?;
    Some(start)
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

/// Appends all files in `folder` that may be images: those with the extension of an image, and those without an
/// extension that begin like an image.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("read folder {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("read folder {}", folder.display()))?.path();
        let name = path.file_name().unwrap_or_default();
        // Hidden files are no images of the folder, even those that are named like one, such as ._photo.jpg.
        if name.as_encoded_bytes().starts_with(b".") || name == RESOURCE_FORKS {
            continue;
        }
        // A link to a folder is not followed: it may lead to a folder above, and the search would never end.
        if path.is_dir() && !path.is_symlink() {
            collect(&path, files)?;
        } else if may_be_image(&path) {
            files.push(path);
        }
    }
    Ok(())
}

/// Whether a file has the extension of an image, or has no extension and begins like an image.
fn may_be_image(path: &Path) -> bool {
    match path.extension().map(OsStr::to_ascii_lowercase) {
        Some(extension) => EXTENSIONS.iter().any(|known| extension == *known),
        // A text may begin with the two letters of a BMP.
        None => read_start(path, HEADER_BYTES)
            .and_then(|start| Format::of(&start))
            .is_some_and(|format| format != Format::Bmp),
    }
}

/// An image format that the server accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
}

impl Format {
    /// The format of a file that begins with these bytes, [`HEADER_BYTES`] or more; `None` if it is none of these
    /// formats.
    fn of(start: &[u8]) -> Option<Self> {
        match imagesize::image_type(start).ok()? {
            ImageType::Jpeg => Some(Self::Jpeg),
            ImageType::Png => Some(Self::Png),
            ImageType::Webp => Some(Self::WebP),
            ImageType::Gif => Some(Self::Gif),
            ImageType::Bmp => Some(Self::Bmp),
            ImageType::Tiff => Some(Self::Tiff),
            _ => None,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::WebP => "image/webp",
            Self::Gif => "image/gif",
            Self::Bmp => "image/bmp",
            Self::Tiff => "image/tiff",
        }
    }

    /// Whether the header of a file of this format is complete and has a size above zero. The checksum of a PNG header
    /// is compared, too.
    fn is_sized(self, file: &[u8]) -> bool {
        match self {
            Self::Png => png::Decoder::new(Cursor::new(file)).read_info().is_ok(),
            _ => imagesize::blob_size(file).is_ok_and(|size| size.width > 0 && size.height > 0),
        }
    }
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

    fn read(folder: &Path) -> Result<Folder> {
        read_folder(folder, LabelSource::File, true)
    }

    #[test]
    fn a_written_folder_is_read_with_its_labels() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let style = ImageStyle::default();
        write_folder(root.path(), 13, 5, &style).expect("writable");
        std::fs::write(root.path().join("notes.txt"), "not an image").expect("writable");
        let Folder { images, skipped, label_problem } = read(root.path()).expect("readable");
        let generated = generate(13, 5, &style, true);
        assert_eq!((images.len(), skipped, label_problem), (13, 0, None));
        for (read, generated) in images.iter().zip(&generated) {
            assert_eq!((&read.file, &read.label), (&generated.file, &generated.label));
        }
    }

    /// A PNG of one pixel.
    fn pixel() -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 1, 1);
        encoder.set_color(png::ColorType::Grayscale);
        let mut writer = encoder.write_header().expect("a header");
        writer.write_image_data(&[7]).expect("one pixel");
        writer.finish().expect("an image");
        file
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
        let Folder { images, skipped, .. } = read(root.path()).expect("readable");
        let labels: Vec<_> = images.iter().map(|image| image.label.as_deref()).collect();
        assert_eq!((labels, skipped), (vec![None, Some("one, two")], 4));
    }

    #[test]
    fn the_content_of_a_file_decides_and_not_its_name() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let jpeg = generate(1, 5, &ImageStyle::default(), true).remove(0).file;
        let png = pixel();
        let gif = b"GIF89a\x01\0\x01\0\0\0\0;";
        let bmp = [&b"BM"[..], &[0; 12], &[40, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 24, 0], &[0; 24]].concat();
        for (name, content, _) in IMAGES {
            let content = match content {
                "png" => &png[..],
                "jpeg" => &jpeg[..],
                "gif" => &gif[..],
                _ => &bmp[..],
            };
            std::fs::write(root.path().join(name), content).expect("writable");
        }
        for name in ["README", "Thumbs.db", "1.txt"] {
            std::fs::write(root.path().join(name), "BMs and other text that is no image").expect("writable");
        }
        let Folder { images, skipped, .. } = read(root.path()).expect("readable");
        let found: Vec<_> = images.iter().map(|image| image.content_type).collect();
        assert_eq!((found, skipped), (IMAGES.map(|(.., media_type)| media_type).to_vec(), 0));
    }

    /// Files in the order of their names: name, content and media type.
    const IMAGES: [(&str, &str, &str); 6] = [
        ("a.JPEG", "png", "image/png"),
        ("b", "jpeg", "image/jpeg"),
        ("c.Png", "jpeg", "image/jpeg"),
        ("d.gif", "gif", "image/gif"),
        ("e.bmp", "bmp", "image/bmp"),
        ("f.webp", "png", "image/png"),
    ];

    #[test]
    fn hidden_files_and_resource_forks_are_left_out_and_not_counted() {
        let root = tempfile::tempdir().expect("a temporary folder");
        for folder in ["__MACOSX", ".thumbnails"] {
            std::fs::create_dir(root.path().join(folder)).expect("writable");
        }
        for name in ["._x.jpg", ".DS_Store", "__MACOSX/x.jpg", ".thumbnails/x.jpg"] {
            std::fs::write(root.path().join(name), "no image").expect("writable");
        }
        std::fs::write(root.path().join("x.png"), pixel()).expect("writable");
        let Folder { images, skipped, .. } = read(root.path()).expect("readable");
        assert_eq!((images.len(), skipped), (1, 0));
    }

    #[test]
    fn labels_that_match_no_image_are_a_problem_that_is_said() {
        let root = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(root.path().join("cat")).expect("writable");
        std::fs::write(root.path().join("cat/1.png"), pixel()).expect("writable");
        std::fs::write(root.path().join("labels.csv"), "file,label\n1.png,dog\n").expect("writable");
        let Folder { images, label_problem, .. } = read(root.path()).expect("readable");
        assert_eq!(images[0].label, None);
        assert!(label_problem.is_some_and(|problem| problem.contains("no row") && problem.contains("\"1.png\"")));
        let Folder { images, label_problem, .. } =
            read_folder(root.path(), LabelSource::Subfolders, true).expect("readable");
        assert_eq!((images[0].label.as_deref(), label_problem), (Some("cat"), None));
    }

    #[test]
    fn errors_name_empty_missing_and_malformed_folders() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let error = |path: &Path| format!("{:#}", read(path).expect_err("refused"));
        std::fs::write(root.path().join("x.jpg"), "not an image").expect("writable");
        let empty = error(root.path());
        assert!(empty.contains("no readable .jpg") && empty.contains("unreadable: 1"), "{empty}");
        assert!(error(&root.path().join("gone")).contains("gone"));
        std::fs::write(root.path().join("x.jpg"), pixel()).expect("writable");
        for bad in ["file,label\nx.jpg\n", "file,label\n\"x.jpg\n", "file,label\nx.jpg,a,b\n"] {
            std::fs::write(root.path().join("labels.csv"), bad).expect("writable");
            let error = error(root.path());
            assert!(error.contains("line 2") && error.contains("labels.csv"), "{bad:?}: {error}");
        }
    }
}
