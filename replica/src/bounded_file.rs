//! Reads whole files up to a size, so that a wrong path cannot fill the memory.

use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::path::Path;

/// The contents of a file that has at most `max_bytes` bytes.
///
/// # Errors
/// If the file cannot be read, or is larger.
pub(crate) fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    // One byte more than allowed, so that a larger file is noticed. Devices and pipes do not tell a size.
    File::open(path)?.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 <= max_bytes {
        true => Ok(bytes),
        false => Err(Error::new(ErrorKind::FileTooLarge, format!("the file has more than {max_bytes} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "12345").expect("writable");
        assert_eq!(read(file.path(), 5).expect("small enough"), b"12345");
        assert!(read(file.path(), 4).expect_err("too large").to_string().contains("more than 4 bytes"));
        assert!(read(Path::new("/dev/zero"), 1000).is_err());
    }
}
