//! A folder of pictures that commands read one by one: which files, in which order, and of which class.

use crate::decode::{self, ImageLimits};
use crate::model::Input;
use crate::preprocess;
use crate::transform::Transform;
use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most files of a folder that are listed.
const MAX_FILES: usize = 2_000_000;

/// Most bytes of one file.
const MAX_BYTES: u64 = 64 << 20;

/// The list with the classes of the files, as `loadgen pictures` writes it: a heading, and then lines FILE,CLASS.
const LABELS: &str = "labels.csv";

/// The files of a folder and of its subfolders.
#[derive(Debug)]
pub struct PictureFolder {
    folder: PathBuf,
    files: Vec<PictureFile>,
}

/// A file, and the name of its class if the folder tells it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PictureFile {
    path: PathBuf,
    class: Option<String>,
}

/// A decoded picture.
pub struct Picture {
    /// The model's input.
    pub input: Input,
    /// The index of the right class, if it is known.
    pub class: Option<usize>,
}

impl PictureFolder {
    /// Lists the files of `folder` and of its subfolders, in the order of their paths. If there are more than `most`, that
    /// many are taken at equal distances, so that no class is left out. Hidden files and labels.csv are no pictures. The
    /// class of a picture is the name of its subfolder, or its class in labels.csv.
    ///
    /// # Errors
    /// If a folder cannot be read, or there are no files or too many.
    pub fn list(folder: &Path, most: usize) -> Result<Self> {
        let mut files = Vec::new();
        let of_files = labels(&folder.join(LABELS))?;
        for (path, is_folder) in entries(folder)? {
            if is_folder {
                let class = path.file_name().map(|name| name.to_string_lossy().into_owned());
                let inside = entries(&path)?.into_iter().filter(|(_, is_folder)| !is_folder);
                files.extend(inside.map(|(path, _)| PictureFile { path, class: class.clone() }));
            } else if let Some(name) = path.file_name().filter(|name| *name != LABELS) {
                let class = of_files.get(&*name.to_string_lossy()).cloned();
                files.push(PictureFile { path, class });
            }
            ensure!(
                files.len() <= MAX_FILES,
                "{} has more than {MAX_FILES} files; name a part of it",
                folder.display()
            );
        }
        ensure!(!files.is_empty(), "{} has no files; name a folder of pictures", folder.display());
        files.sort();
        let count = files.len();
        if count > most {
            let mut index = 0;
            files.retain(|_| {
                index += 1;
                index * most / count > (index - 1) * most / count
            });
        }
        Ok(Self { folder: folder.into(), files })
    }

    /// Decodes all files, and passes the pictures to `take`. Returns how many there were. A file that is no picture is
    /// left out, and named on standard error. Shows the progress with `message`. `labels` are the names of the classes.
    ///
    /// # Errors
    /// If no file is a picture, or `take` fails.
    pub fn read(
        &self,
        transform: &Transform,
        labels: &[String],
        message: &'static str,
        mut take: impl FnMut(Picture) -> Result<()>,
    ) -> Result<u64> {
        let classes = self.classes(labels);
        let bar = progress(self.files.len() as u64, message);
        let mut pictures = 0;
        for file in &self.files {
            match decoded(&file.path) {
                Ok(pixels) => {
                    let class = file.class.as_deref().and_then(|class| classes.get(class).copied());
                    take(Picture { input: preprocess::input(&pixels, transform), class })?;
                    pictures += 1;
                }
                Err(error) => bar.println(format!("left out {}: {error:#}", file.path.display())),
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        if pictures == 0 {
            bail!(
                "{}: none of {} files can be decoded; name a folder of pictures",
                self.folder.display(),
                self.files.len()
            );
        }
        Ok(pictures)
    }

    /// The indices of the folder's classes. If some of their names are none of the model's, but there are as many of them,
    /// they are counted in the order of their names, as torchvision's `ImageFolder` does.
    fn classes(&self, labels: &[String]) -> HashMap<&str, usize> {
        let names: BTreeSet<&str> = self.files.iter().filter_map(|file| file.class.as_deref()).collect();
        let index = |name: &str| labels.iter().position(|label| label == name);
        if names.iter().all(|name| index(name).is_some()) || names.len() != labels.len() {
            return names.into_iter().filter_map(|name| Some((name, index(name)?))).collect();
        }
        names.into_iter().zip(0..).collect()
    }
}

/// The visible files and folders in `folder`, and whether each is a folder.
fn entries(folder: &Path) -> Result<Vec<(PathBuf, bool)>> {
    let context = || format!("list {}", folder.display());
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).with_context(context)?.take(MAX_FILES + 1) {
        let entry = entry.with_context(context)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            // A link counts as what the link names.
            let is_folder = entry.path().is_dir();
            entries.push((entry.path(), is_folder));
        }
    }
    Ok(entries)
}

/// The classes in a labels.csv, by the names of the files; empty without such a file.
fn labels(path: &Path) -> Result<HashMap<String, String>> {
    if !path.exists() {
        return Ok(HashMap::new());
    }
    let bytes = limited(path)?;
    let text = std::str::from_utf8(&bytes).with_context(|| format!("{} is no text", path.display()))?;
    let mut classes = HashMap::new();
    for line in text.lines().skip(1) {
        let (file, class) = line
            .split_once(',')
            .with_context(|| format!("{}: expected FILE,CLASS in the line {line:?}", path.display()))?;
        classes.insert(file.to_owned(), class.to_owned());
    }
    Ok(classes)
}

/// The pixels of a picture.
fn decoded(path: &Path) -> Result<decode::Pixels> {
    Ok(decode::decode(&limited(path)?, ImageLimits::default())?)
}

/// The contents of a regular file of at most [`MAX_BYTES`].
fn limited(path: &Path) -> Result<Vec<u8>> {
    let context = || format!("read {}", path.display());
    let metadata = fs::metadata(path).with_context(context)?;
    ensure!(metadata.is_file(), "it is no regular file");
    ensure!(metadata.len() <= MAX_BYTES, "it has {} bytes, more than {MAX_BYTES}", metadata.len());
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes)).with_context(context)?;
    Ok(bytes)
}

/// A progress bar of `pictures` pictures.
fn progress(pictures: u64, message: &'static str) -> ProgressBar {
    let template = "{bar:24} {pos}/{len} pictures  {eta} left  {msg}";
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    let bar = ProgressBar::new(pictures).with_style(style).with_message(message);
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PNG of one pixel.
    fn png() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().expect("the header is valid");
        writer.write_image_data(&[9, 8, 7]).expect("one pixel has three bytes");
        drop(writer);
        bytes
    }

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder can be made");
        for (name, bytes) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("the file is in the folder")).expect("a folder can be made");
            fs::write(path, bytes).expect("a file can be written");
        }
        folder
    }

    fn names(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    /// The classes of all pictures.
    fn classes(files: &[(&str, &[u8])], labels: &[&str], most: usize) -> Result<Vec<Option<usize>>> {
        let folder = folder(files);
        let mut classes = Vec::new();
        PictureFolder::list(folder.path(), most)?.read(&Transform::IMAGENET, &names(labels), "reading", |picture| {
            classes.push(picture.class);
            Ok(())
        })?;
        Ok(classes)
    }

    #[test]
    fn subfolders_and_lists_tell_the_class_and_other_files_are_left_out() {
        let png = &png()[..];
        let files = [("b/1.png", png), ("a/x.dat", png), ("c/2.png", png), ("a/notes.txt", b"no"), (".hidden", b"")];
        // The order is that of the paths: a, b, c.
        assert_eq!(classes(&files, &["c", "b", "a"], 99).expect("three pictures"), [Some(2), Some(1), Some(0)]);
        assert_eq!(classes(&files, &["x", "y", "z"], 99).expect("three pictures"), [Some(0), Some(1), Some(2)]);
        assert_eq!(classes(&files, &["a", "b"], 99).expect("three pictures"), [Some(0), Some(1), None]);
        let list: (&str, &[u8]) = ("labels.csv", b"file,label\n0.png,dog\n");
        let files = [("0.png", png), ("1.png", png), list];
        assert_eq!(classes(&files, &["cat", "dog"], 99).expect("two pictures"), [Some(1), None]);
    }

    #[test]
    fn a_part_of_many_files_is_spread_over_all_classes() {
        let png = &png()[..];
        let paths: Vec<String> =
            (0..12).map(|index| format!("{}/{index:02}.png", ["a", "b", "c"][index / 4])).collect();
        let files: Vec<(&str, &[u8])> = paths.iter().map(|path| (path.as_str(), png)).collect();
        let found = classes(&files, &["a", "b", "c"], 6).expect("six pictures");
        assert_eq!(found, [Some(0), Some(0), Some(1), Some(1), Some(2), Some(2)]);
    }

    #[test]
    fn folders_without_pictures_are_refused_with_their_name() {
        for (files, reason) in [
            (&[][..], "has no files"),
            (&[("a.png", &b"damaged"[..])], "none of 1 files"),
            (&[("a/b/c.png", &b"too deep"[..])], "has no files"),
            (&[("labels.csv", &b"file,label\nwithout comma\n"[..]), ("a.png", b"")], "without comma"),
        ] {
            let error = format!("{:#}", classes(files, &["a"], 9).expect_err(reason));
            assert!(error.contains(reason), "{error}");
        }
        let missing = PictureFolder::list(Path::new("/no/such/folder"), 9).expect_err("missing");
        assert!(format!("{missing:#}").contains("/no/such/folder"));
    }
}
