//! The labels of a folder's images: from its file labels.csv, or from the names of its subfolders.

use anyhow::{Context, Result, ensure};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// Name of the file with labels.
const FILE: &str = "labels.csv";

/// Largest labels.csv, in bytes. A million labels need less.
const MAX_BYTES: u64 = 256 << 20;

/// Names of columns with files, in lower case.
const FILES: [&str; 10] =
    ["file", "filename", "file_name", "filepath", "file_path", "path", "image", "image_path", "name", "image_name"];

/// Names of columns with labels, in lower case.
const LABELS: [&str; 8] = ["label", "labels", "class", "class_name", "classname", "target", "category", "label_name"];

/// The source of the labels of a folder's images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelSource {
    /// The file labels.csv in the folder, if there is one.
    File,
    /// The subfolder of the folder in which an image is: `cat/1.jpg` and `cat/small/2.jpg` have the label `cat`.
    Subfolders,
}

/// The labels of a folder's images.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// The labels by the path relative to the folder.
    pub by_path: HashMap<PathBuf, String>,
    /// What is wrong with the labels, as a sentence without its end: no label belongs to an image, or some labels do
    /// not. `None` if every label belongs to an image.
    pub problem: Option<String>,
}

/// The labels of the images at `paths`, which are relative to `folder`.
///
/// # Errors
/// If there is a labels.csv that cannot be read or is malformed, or if no image is in a subfolder although the
/// subfolders give the labels.
pub fn read(folder: &Path, source: LabelSource, paths: &HashSet<PathBuf>) -> Result<Labels> {
    match source {
        LabelSource::Subfolders => of_subfolders(folder, paths),
        LabelSource::File => {
            let path = folder.join(FILE);
            if !path.exists() {
                return Ok(Labels::default());
            }
            let text = read_text(&path).with_context(|| format!("read {}", path.display()))?;
            parse(&text, paths).with_context(|| format!("read {}", path.display()))
        }
    }
}

/// The labels that are the names of subfolders.
fn of_subfolders(folder: &Path, paths: &HashSet<PathBuf>) -> Result<Labels> {
    let label = |path: &PathBuf| {
        let mut components = path.components();
        let first = components.next()?.as_os_str().to_string_lossy().into_owned();
        components.next().map(|_file| (path.clone(), first))
    };
    let by_path: HashMap<PathBuf, String> = paths.iter().filter_map(label).collect();
    ensure!(
        !by_path.is_empty() || paths.is_empty(),
        "no image is in a subfolder of {}; make a subfolder for each label, or leave out --labels-from-folders",
        folder.display()
    );
    let outside = paths.len() - by_path.len();
    let problem = (outside > 0).then(|| format!("{outside} images are in no subfolder and have no label"));
    Ok(Labels { by_path, problem })
}

/// The content of a file without the byte order mark of UTF-8.
fn read_text(path: &Path) -> Result<Vec<u8>> {
    // Opening a named pipe would block until another process writes to it.
    ensure!(std::fs::metadata(path)?.is_file(), "it is no file");
    let mut text = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    ensure!(text.len() as u64 <= MAX_BYTES, "it is longer than {} MiB", MAX_BYTES >> 20);
    ensure!(
        !text.starts_with(b"\xFF\xFE") && !text.starts_with(b"\xFE\xFF"),
        "it is UTF-16 text; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"
    );
    let mark = if text.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
    Ok(text.split_off(mark))
}

/// The columns of labels.csv.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Columns {
    file: usize,
    label: usize,
    /// Whether the first row is a header.
    has_header: bool,
}

/// The labels in the text of a labels.csv.
fn parse(text: &[u8], paths: &HashSet<PathBuf>) -> Result<Labels> {
    let Some(first) = rows(text).next().transpose()? else { return Ok(Labels::default()) };
    let columns = columns(&first, text, paths)?;
    let (mut by_path, mut found, mut missing, mut first_missing) = (HashMap::new(), 0_usize, 0_usize, None);
    for row in rows(text).skip(usize::from(columns.has_header)) {
        let row = row?;
        let line = line(&row);
        ensure!(
            row.len() == first.len(),
            "line {line}: the row has {} columns and not {}; quote a cell with a comma",
            row.len(),
            first.len()
        );
        let name = &row[columns.file];
        if let Some(path) = known_path(name, paths) {
            found += 1;
            // An image whose cell is empty has no label. With an empty label, every answer to it would be wrong.
            if !row[columns.label].is_empty() {
                by_path.insert(path, row[columns.label].to_owned());
            }
        } else {
            missing += 1;
            first_missing.get_or_insert_with(|| (line, name.chars().take(80).collect::<String>()));
        }
    }
    let problem = first_missing.map(|(line, name)| {
        let subject = if found == 0 {
            format!("no row of {FILE} names an image of the folder")
        } else {
            format!("{missing} rows of {FILE} name no image of the folder")
        };
        format!("{subject}; the first is line {line} with the file {name:?}")
    });
    Ok(Labels { by_path, problem })
}

/// The rows of a labels.csv, the header included.
fn rows(text: &[u8]) -> impl Iterator<Item = csv::Result<csv::StringRecord>> {
    csv::ReaderBuilder::new()
        .flexible(true)
        .has_headers(false)
        .trim(csv::Trim::All)
        .delimiter(delimiter(text))
        .from_reader(text)
        .into_records()
}

/// The line of a row, from 1.
fn line(row: &csv::StringRecord) -> u64 {
    row.position().map_or(0, csv::Position::line)
}

/// The character that separates the columns: the most frequent of comma, semicolon and tab in the first line.
fn delimiter(text: &[u8]) -> u8 {
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let count = |delimiter: u8| line.iter().filter(|&&byte| byte == delimiter).count();
    // `max_by_key` returns the last of several equal counts, so the comma is the last.
    [b'\t', b';', b','].into_iter().max_by_key(|&delimiter| count(delimiter)).unwrap_or(b',')
}

/// The columns of the files and of the labels: those that the first row names, if it is a header. Otherwise, the column
/// of the files is the one that names the most images of the folder, and the other of two columns has the labels.
fn columns(first: &csv::StringRecord, text: &[u8], paths: &HashSet<PathBuf>) -> Result<Columns> {
    let position = |names: &[&str]| first.iter().position(|cell| names.contains(&cell.to_lowercase().as_str()));
    let of_two = |column: usize| (first.len() == 2).then(|| 1 - column);
    let named = match (position(&FILES), position(&LABELS)) {
        (Some(file), label) => label.or(of_two(file)).map(|label| (file, label)),
        (None, Some(label)) => of_two(label).map(|file| (file, label)),
        (None, None) => None,
    };
    if let Some((file, label)) = named {
        return Ok(Columns { file, label, has_header: true });
    }
    ensure!(
        first.len() == 2,
        "line {}: a row must have two columns, file,label; or a header must name the columns file (or path, image, \
         name) and label (or class, target)",
        line(first)
    );
    let mut images = [0_usize; 2];
    for row in rows(text) {
        for (cell, images) in row?.iter().zip(&mut images) {
            *images += usize::from(known_path(cell, paths).is_some());
        }
    }
    let file = usize::from(images[1] > images[0]);
    Ok(Columns { file, label: 1 - file, has_header: known_path(&first[file], paths).is_none() })
}

/// The path of the image that `name` means: one of `paths`. A backslash may stand for a slash, and `./` may come before
/// the path.
fn known_path(name: &str, paths: &HashSet<PathBuf>) -> Option<PathBuf> {
    let exact = Path::new(name);
    if paths.contains(exact) {
        return Some(exact.to_owned());
    }
    let slashes = name.replace('\\', "/");
    let path: PathBuf = Path::new(&slashes).components().filter(|part| *part != Component::CurDir).collect();
    paths.contains(&path).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> HashSet<PathBuf> {
        ["a.jpg", "cats/b.jpg"].into_iter().map(PathBuf::from).collect()
    }

    /// The labels of `a.jpg` and of `cats/b.jpg`, and the problem.
    fn parsed(text: &str) -> (Option<String>, Option<String>, Option<String>) {
        let Labels { mut by_path, problem } = parse(text.as_bytes(), &paths()).expect(text);
        (by_path.remove(Path::new("a.jpg")), by_path.remove(Path::new("cats/b.jpg")), problem)
    }

    #[test]
    fn columns_are_found_by_their_names_or_by_the_files_that_they_name() {
        for text in [
            "file,label\na.jpg,dog\ncats/b.jpg,cat\n",
            "label,file\ndog,a.jpg\ncat,cats/b.jpg\n",
            "Class;Image_Path\r\ndog;a.jpg\r\ncat;./cats/b.jpg\r\n",
            "id\tfilename\tsplit\ttarget\n1\ta.jpg\ttest\tdog\n2\tcats\\b.jpg\ttest\tcat\n",
            "path,anything\na.jpg,dog\ncats/b.jpg,cat\n",
            "anything,class\na.jpg,dog\ncats/b.jpg,cat\n",
            "x,y\ndog,a.jpg\ncat,cats/b.jpg\n",
            "a.jpg,dog\ncats/b.jpg,cat\n",
            "\"file\",\"label\"\n\" a.jpg \",\"dog\"\n\"cats/b.jpg\",\"cat\"\n",
        ] {
            let (a, b, _) = parsed(text);
            assert_eq!((a.as_deref(), b.as_deref()), (Some("dog"), Some("cat")), "{text:?}");
        }
    }

    #[test]
    fn an_image_with_an_empty_cell_has_no_label() {
        let (a, b, problem) = parsed("file,label\na.jpg,\ncats/b.jpg,cat\n");
        assert_eq!((a, b.as_deref(), problem), (None, Some("cat"), None));
    }

    #[test]
    fn rows_without_an_image_are_counted_and_said() {
        assert_eq!(parsed("file,label\na.jpg,dog\ncats/b.jpg,cat\n").2, None);
        assert_eq!(parsed("").2, None);
        assert_eq!(parsed("file,label\n").2, None);
        let some = parsed("file,label\na.jpg,dog\nc.jpg,cat\n").2.expect("a problem");
        assert_eq!(
            some,
            "1 rows of labels.csv name no image of the folder; the first is line 3 with the file \"c.jpg\""
        );
        let none = parsed("file,label\nc.jpg,dog\n").2.expect("a problem");
        assert_eq!(
            none,
            "no row of labels.csv names an image of the folder; the first is line 2 with the file \"c.jpg\""
        );
    }

    #[test]
    fn malformed_rows_are_refused_with_their_line() {
        let error = |text: &str| format!("{:#}", parse(text.as_bytes(), &paths()).expect_err("refused"));
        for (text, line) in [
            ("file,label\na.jpg\n", "line 2"),
            ("file,label\n\"a.jpg\n", "line 2"),
            ("file,label\na.jpg,a,b\n", "line 2"),
            ("a.jpg,1,2\n", "line 1"),
            ("a.jpg\n", "line 1"),
            ("file,split,other\na.jpg,1,2\n", "line 1"),
        ] {
            assert!(error(text).contains(line), "{text:?}: {}", error(text));
        }
        assert!(parse(b"file,label\na.jpg,\xff\n", &paths()).is_err());
    }

    #[test]
    fn a_byte_order_mark_is_left_out_and_utf_16_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let read_bytes = |bytes: &[u8]| {
            std::fs::write(folder.path().join(FILE), bytes).expect("written");
            read(folder.path(), LabelSource::File, &paths())
        };
        let labels = read_bytes(b"\xEF\xBB\xBFfile,label\na.jpg,dog\n").expect("text");
        assert_eq!(labels.by_path.get(Path::new("a.jpg")).map(String::as_str), Some("dog"));
        let error = format!("{:#}", read_bytes(b"\xFF\xFEf\0i\0").expect_err("refused"));
        assert!(error.contains("UTF-16") && error.contains(FILE), "{error}");
        std::fs::remove_file(folder.path().join(FILE)).expect("removed");
        std::fs::create_dir(folder.path().join(FILE)).expect("created");
        assert!(read(folder.path(), LabelSource::File, &paths()).is_err());
    }

    #[test]
    fn subfolders_give_labels() {
        let folder = Path::new("photos");
        let labels = read(folder, LabelSource::Subfolders, &paths()).expect("labels");
        assert_eq!(labels.by_path, HashMap::from([(PathBuf::from("cats/b.jpg"), "cats".to_owned())]));
        assert_eq!(labels.problem.as_deref(), Some("1 images are in no subfolder and have no label"));
        let flat = HashSet::from([PathBuf::from("a.jpg")]);
        let error = read(folder, LabelSource::Subfolders, &flat).expect_err("refused").to_string();
        assert!(error.contains("photos") && error.contains("--labels-from-folders"), "{error}");
    }
}
