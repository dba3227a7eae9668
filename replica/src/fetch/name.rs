//! Names that files get below the directory. They come from URLs and archives, so each one is checked before a file is
//! made. Pure.

use std::path::PathBuf;

/// Most bytes of one part of a path. Usual file systems allow no more.
const MAX_PART_BYTES: usize = 255;

/// Most bytes of a path.
const MAX_PATH_BYTES: usize = 1024;

/// Most parts of a path.
const MAX_PARTS: usize = 16;

/// The reason why a name is refused. The message goes after the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The name is not text.
    #[error("is not UTF-8; give the file a name of plain letters")]
    NotUtf8,
    /// The name begins at the root of the file system.
    #[error("is absolute; pack the files with relative names")]
    Absolute,
    /// A part of the name is `..`, which would lead out of the directory.
    #[error("contains '..'; pack the files with names inside of one folder")]
    Parent,
    /// A control character could hide the rest of the name in a log.
    #[error("contains a control character; give the file a name of plain letters")]
    Control,
    /// The name is longer than a file system takes.
    #[error("is too long: more than {MAX_PATH_BYTES} bytes, {MAX_PARTS} parts, or {MAX_PART_BYTES} bytes in one part")]
    TooLong,
}

/// The path of an archive's entry below the directory. `None` for an entry that gets no file: the folder itself, and a
/// hidden file or folder, such as `._weights.pth`, which tar of macOS adds and a replica would take for weights.
///
/// # Errors
/// If the path could lead out of the directory, or a file system or a log could not hold it.
pub(super) fn entry_path(name: &[u8]) -> Result<Option<PathBuf>, Fault> {
    let name = std::str::from_utf8(name).map_err(|_| Fault::NotUtf8)?;
    if name.chars().any(char::is_control) {
        return Err(Fault::Control);
    }
    if name.starts_with('/') {
        return Err(Fault::Absolute);
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(Fault::Parent);
    }
    if name.len() > MAX_PATH_BYTES || parts.len() > MAX_PARTS || parts.iter().any(|part| part.len() > MAX_PART_BYTES) {
        return Err(Fault::TooLong);
    }
    let is_hidden = parts.is_empty() || parts.iter().any(|part| part.starts_with('.'));
    Ok((!is_hidden).then(|| parts.iter().collect()))
}

/// The beginning of a name, quoted, for a message. A hostile name may have a mebibyte.
pub(super) fn shown(name: &[u8]) -> String {
    let beginning = String::from_utf8_lossy(&name[..name.len().min(100)]);
    let more = if name.len() > 100 { "…" } else { "" };
    format!("{beginning:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn names_inside_of_the_directory_are_taken() {
        for (name, expected) in [
            ("weights.pth", Some("weights.pth")),
            ("./model/weights.pth", Some("model/weights.pth")),
            ("model//onnx/./a.onnx", Some("model/onnx/a.onnx")),
            ("gewichte-größe 1.pth", Some("gewichte-größe 1.pth")),
            ("a\\b", Some("a\\b")),
            ("..a", None),
            ("model/", Some("model")),
            ("./", None),
            ("", None),
            ("._weights.pth", None),
            ("model/.git/config", None),
            (".fetch-1/download", None),
        ] {
            assert_eq!(entry_path(name.as_bytes()), Ok(expected.map(PathBuf::from)), "{name:?}");
        }
        assert!(entry_path("x".repeat(255).as_bytes()).is_ok());
    }

    #[test]
    fn names_that_lead_out_or_cannot_be_stored_are_refused() {
        for (name, expected) in [
            (&b"/etc/passwd"[..], Fault::Absolute),
            (b"//etc/passwd", Fault::Absolute),
            (b"../x", Fault::Parent),
            (b"model/../../x", Fault::Parent),
            (b".hidden/../x", Fault::Parent),
            (b"x/..", Fault::Parent),
            (b"we\xffights.pth", Fault::NotUtf8),
            (b"a\nb", Fault::Control),
            (b"a\0b", Fault::Control),
            ("x".repeat(256).as_bytes(), Fault::TooLong),
            ("x/".repeat(17).as_bytes(), Fault::TooLong),
            ("./".repeat(513).as_bytes(), Fault::TooLong),
        ] {
            assert_eq!(entry_path(name), Err(expected), "{}", shown(name));
        }
    }

    proptest! {
        #[test]
        fn no_name_leads_out_of_the_directory(name in "[./a\\\\]{0,12}|.{0,12}") {
            if let Ok(Some(path)) = entry_path(name.as_bytes()) {
                prop_assert!(path.components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert!(path.components().next().is_some());
                prop_assert!(Path::new("/to").join(&path).starts_with("/to"));
            }
        }
    }
}
