//! The secret that clients prove to know, read again when its file changes.

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use service::file_watcher;
use service::wire::{Code, RequestError as Fault};
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use subtle::ConstantTimeEq;

/// Compared with the bearer token of a request (RFC 6750).
#[derive(Clone)]
pub struct Token {
    present: Arc<RwLock<Vec<u8>>>,
}

/// Why a file holds no token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// It is empty, or holds what no header can.
    #[error("the token file must hold one line of visible ASCII characters")]
    Malformed,
}

impl Token {
    /// Reads the file and follows it from then on; must be called within a runtime.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(path: PathBuf) -> Result<Self, Error> {
        let paths = [path];
        let contents = file_watcher::contents(&paths)?;
        let present = Arc::new(RwLock::new(parse(&contents[0])?));
        let token = Self { present: present.clone() };
        tokio::spawn(file_watcher::follow(paths, contents, move |[content]| {
            *present.write().expect("nobody panics with it") = parse(content)?;
            Ok::<_, Error>(())
        }));
        Ok(token)
    }

    /// Whether the request carries the token; the time that this takes says nothing about the token but its length.
    ///
    /// # Errors
    /// 401.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Fault> {
        let refused =
            |what: &str| Err(Fault::new(Code::Unauthorized, format!("{what}; send Authorization: Bearer TOKEN")));
        let Some(value) = headers.get(AUTHORIZATION) else { return refused("a token is required") };
        let (scheme, given) = value.as_bytes().split_at(value.len().min(b"Bearer ".len()));
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return refused("the Authorization header is no bearer token");
        }
        let is_right = self.present.read().expect("nobody panics with it").ct_eq(given.trim_ascii());
        if is_right.into() { Ok(()) } else { refused("the token is wrong") }
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
    async fn only_the_whole_token_is_right() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(&file, "s3cret\n").expect("writable");
        let token = Token::open(file.path().to_owned()).expect("a token");
        for (value, is_right) in [
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
            assert_eq!(token.check(&headers).is_ok(), is_right, "{value:?}");
        }
    }

    #[test]
    fn a_token_is_one_visible_line() {
        for bad in ["", "\n", "two words", "two\nlines", "caf\u{e9}"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
