//! The token that a coordinator presents to its workers.

use anyhow::{Context, Result, ensure};
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use subtle::ConstantTimeEq;

/// Longest token, in bytes.
const MAX_BYTES: usize = 1024;

/// A secret that coordinator and workers share.
#[derive(Clone)]
pub struct Token(HeaderValue);

impl Token {
    /// Reads the token from a file. White space around it is ignored.
    ///
    /// # Errors
    /// If the file cannot be read, or has no token, a token of more than 1024 bytes or one that a header cannot carry;
    /// the message names the file, and never the token.
    pub fn read(path: &Path) -> Result<Self> {
        let context = || format!("read the token of the workers from {}", path.display());
        let mut text = Vec::new();
        // The file may have white space around the token.
        let mut file = File::open(path).with_context(context)?.take(2 * MAX_BYTES as u64);
        file.read_to_end(&mut text).with_context(context)?;
        Self::new(text.trim_ascii()).with_context(context)
    }

    fn new(token: &[u8]) -> Result<Self> {
        ensure!(!token.is_empty(), "the file is empty; write a long random text into it");
        ensure!(token.len() <= MAX_BYTES, "the token is longer than {MAX_BYTES} bytes; use a shorter one");
        ensure!(token.iter().all(u8::is_ascii_graphic), "the token must have letters, digits and ASCII signs only");
        let mut value = HeaderValue::from_bytes(&[b"Bearer ", token].concat())?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// Adds the token to the headers of a request.
    pub fn add_to(&self, headers: &mut HeaderMap) {
        headers.insert(AUTHORIZATION, self.0.clone());
    }

    /// Whether the headers of a request have this token. The time of the comparison does not depend on the place of the
    /// first difference.
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION);
        given.is_some_and(|given| self.0.as_bytes().ct_eq(given.as_bytes()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_accepted() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("token");
        std::fs::write(&file, " s3cret-token\n").expect("written");
        let token = Token::read(&file).expect("a token");
        let mut headers = HeaderMap::new();
        assert!(!token.is_in(&headers));
        token.add_to(&mut headers);
        assert!(token.is_in(&headers));
        for wrong in ["s3cret-token", "Bearer s3cret-toke", "Bearer s3cret-token2", "Bearer ", "Bearer S3cret-token"] {
            headers.insert(AUTHORIZATION, HeaderValue::from_static(wrong));
            assert!(!token.is_in(&headers), "{wrong}");
        }
    }

    #[test]
    fn a_file_without_a_token_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("token");
        let error = |content: &[u8]| {
            std::fs::write(&file, content).expect("written");
            Token::read(&file).err().map(|error| format!("{error:#}")).expect("refused")
        };
        assert!(error(b" \n").contains("is empty") && error(b" \n").contains("token"));
        assert!(error(b"two words").contains("letters, digits"));
        assert!(error(b"\xff\xfe").contains("letters, digits"));
        assert!(error(&[b'x'; 5000]).contains("longer than 1024"));
        let missing = Token::read(&folder.path().join("gone")).err().expect("refused");
        assert!(format!("{missing:#}").contains("gone"));
    }
}
