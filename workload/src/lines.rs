//! Reads a file line by line, with bounded memory. Knows nothing of what a line means.

use crate::error::{Error, Reason};
use std::io::{BufRead, Read};

/// Length of the longest file that is read unless its format is known to need more, in bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 64 << 20;

/// Length of the longest line, in bytes. All numbers of a week fit into it.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// The mark with which some programs begin UTF-8 files.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Number of characters of an invalid word that a message shows.
const MAX_WORD_CHARS: usize = 40;

/// A line without its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'text> {
    /// The number of the line, from 1.
    pub(crate) number: usize,
    /// The text of the line.
    pub(crate) text: &'text str,
}

impl<'text> Line<'text> {
    /// The text before the comment, without white space around it.
    pub(crate) fn content(&self) -> &'text str {
        self.text.split('#').next().unwrap_or_default().trim()
    }

    /// The error that `part`, a part of this line's text, is invalid.
    pub(crate) fn error(&self, part: &str, reason: impl FnOnce(String) -> Reason) -> Error {
        let before = part.as_ptr().addr().saturating_sub(self.text.as_ptr().addr());
        let column = self.text.get(..before).map_or(0, |before| before.chars().count()) + 1;
        let word = part.chars().take(MAX_WORD_CHARS).collect();
        Error::Content { line: self.number, column, reason: reason(word) }
    }
}

/// The lines of a file.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    input: R,
    buffer: Vec<u8>,
    /// The number of the line that was read last.
    number: usize,
    /// The number of bytes that were read.
    bytes: u64,
    /// Length of the longest file that is read, in bytes.
    pub(crate) max_bytes: u64,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, buffer: Vec::new(), number: 0, bytes: 0, max_bytes: MAX_FILE_BYTES }
    }

    /// Reads the next line; `None` at the end of the file.
    ///
    /// # Errors
    /// If the file cannot be read or is no UTF-8 text, or if the line or the file is too long.
    pub(crate) fn read(&mut self) -> Result<Option<Line<'_>>, Error> {
        self.buffer.clear();
        self.number += 1;
        let left = self.max_bytes - self.bytes;
        let longest = left.min(MAX_LINE_BYTES);
        let read = self.input.by_ref().take(longest + 1).read_until(b'\n', &mut self.buffer)? as u64;
        if read > left {
            return Err(Error::LongFile { mebibytes: self.max_bytes >> 20 });
        }
        if read > longest {
            return Err(Error::LongLine { line: self.number, mebibytes: MAX_LINE_BYTES >> 20 });
        }
        if read == 0 {
            return Ok(None);
        }
        self.bytes += read;
        let mut line = self.buffer.as_slice();
        if self.number == 1 {
            if line.starts_with(b"\xFF\xFE") || line.starts_with(b"\xFE\xFF") || line.contains(&0) {
                return Err(Error::Binary);
            }
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        let text = std::str::from_utf8(line).map_err(|_| Error::Encoding { line: self.number })?;
        Ok(Some(Line { number: self.number, text: text.trim_end_matches(['\r', '\n']) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_as_on_any_system_and_a_byte_order_mark_is_left_out() {
        let mut lines = Lines::new(&b"\xEF\xBB\xBFa # b\r\n\nlast"[..]);
        let mut found = Vec::new();
        while let Some(line) = lines.read().expect("text") {
            found.push((line.number, line.text.to_owned(), line.content().to_owned()));
        }
        let line = |number, text: &str, content: &str| (number, text.to_owned(), content.to_owned());
        assert_eq!(found, [line(1, "a # b", "a"), line(2, "", ""), line(3, "last", "last")]);
    }

    #[test]
    fn bytes_that_are_no_text_and_endless_files_are_refused() {
        let error = |bytes: &[u8]| {
            let mut lines = Lines::new(bytes);
            loop {
                match lines.read() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{bytes:?} is accepted"),
                    Err(error) => return error.to_string(),
                }
            }
        };
        assert!(error(b"\xFF\xFE7\0 \x006\0").contains("UTF-16"));
        assert!(error(b"7\0 \x006\0").contains("UTF-16"));
        assert!(error(b"5 5\n\xff\xfe").contains("line 2 is not UTF-8"));
        let endless = Lines::new(std::io::BufReader::new(std::io::repeat(b'7'))).read().expect_err("refused");
        assert!(endless.to_string().contains("longer than 64 MiB"), "{endless}");
        let mut allowed = Lines::new(std::io::BufReader::new(std::io::repeat(b'7')));
        allowed.max_bytes = 1 << 30;
        let endless = allowed.read().expect_err("refused");
        assert!(endless.to_string().contains("line 1 is longer than 64 MiB"), "{endless}");
    }
}
