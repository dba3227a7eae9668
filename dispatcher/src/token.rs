//! The token that clients must send with a request. The program reads the token's file again when the file changes.

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use service::file_watcher;
use service::wire::{Code, RequestError};
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use subtle::ConstantTimeEq;

/// The secret that a request must have as its bearer token (RFC 6750).
#[derive(Clone)]
pub struct Token {
    current: Arc<RwLock<Vec<u8>>>,
}

/// The reason for which a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// The file is empty, or holds characters that are not allowed in a token.
    #[error("the token file must hold one line of visible ASCII characters without spaces")]
    Malformed,
}

impl Token {
    /// Reads the token from the file `path`, and reads it again whenever the file changes.
    ///
    /// # Errors
    /// If the file cannot be read or holds no token.
    ///
    /// # Panics
    /// If there is no tokio runtime.
    pub fn open(path: PathBuf) -> Result<Self, Error> {
        let paths = [path];
        let contents = file_watcher::contents(&paths)?;
        let current = Arc::new(RwLock::new(parse(&contents[0])?));
        let token = Self { current: current.clone() };
        tokio::spawn(file_watcher::follow(paths, contents, move |[content]| {
            *current.write().expect("no thread panics while it holds the lock") = parse(content)?;
            Ok::<_, Error>(())
        }));
        Ok(token)
    }

    /// Checks that a request has the token. The time of the check reveals only the length of the token.
    ///
    /// # Errors
    /// If the token is missing or wrong, the error has status 401.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), RequestError> {
        let refused = |reason: &str| {
            Err(RequestError::new(Code::Unauthorized, format!("{reason}; send Authorization: Bearer TOKEN")))
        };
        let Some(value) = headers.get(AUTHORIZATION) else { return refused("a token is required") };
        let (scheme, given) = value.as_bytes().split_at(value.len().min(b"Bearer ".len()));
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return refused("the Authorization header has no bearer token");
        }
        let current = self.current.read().expect("no thread panics while it holds the lock");
        if current.ct_eq(given.trim_ascii()).into() { Ok(()) } else { refused("the token is wrong") }
    }
}

fn parse(content: &[u8]) -> Result<Vec<u8>, Error> {
    let token = content.trim_ascii();
    let is_token = !token.is_empty() && token.iter().all(u8::is_ascii_graphic);
    is_token.then(|| token.to_vec()).ok_or(Error::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[tokio::test]
    async fn only_the_whole_token_is_accepted() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        std::fs::write(&file, "s3cret\n").expect("the temporary folder is writable");
        let token = Token::open(file.path().to_owned()).expect("the token file is valid");
        for (value, is_accepted) in [
            (None, false),
            (Some("Bearer s3cret"), true),
            (Some("bearer  s3cret"), true),
            (Some("Bearer s3cre"), false),
            (Some("Bearer s3crets"), false),
            (Some("Bearer "), false),
            (Some("Bearer"), false),
            (Some(""), false),
            (Some("Basic s3cret"), false),
            (Some("s3cret"), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(value.map(|value| (AUTHORIZATION, HeaderValue::from_static(value))));
            assert_eq!(token.check(&headers).is_ok(), is_accepted, "{value:?}");
        }
    }

    #[test]
    fn a_token_file_holds_one_line_of_visible_characters() {
        for bad in ["", "\n", "two words", "two\nlines", "caf\u{e9}"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
