//! The sources of a model: URLs with a hash, and folders. Reads nothing, and shows no secret of a URL.

use super::name;
use crate::config::sha256;
use anyhow::{Context, Result, bail, ensure};
use percent_encoding::percent_decode_str;
use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use ureq::http::Uri;

/// Most sources of one run.
const MAX_SOURCES: usize = 100;

/// Most bytes of a URL. Signed URLs have some thousand.
const MAX_URL_BYTES: usize = 16 << 10;

/// A place that files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A file of a web server or an object store.
    Remote(RemoteFile),
    /// A folder of this file system, whose files are copied.
    Folder(PathBuf),
}

/// A file that is downloaded, and the hash that its bytes must have.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// The URL with its query, which may be a signature, and without the hash. Never shown.
    pub(super) uri: Uri,
    /// The name of the file: the last part of the URL's path, decoded.
    pub(super) name: String,
    /// The SHA-256 of the bytes.
    pub(super) sha256: [u8; 32],
}

impl Source {
    /// Parses sources that whitespace separates, as an environment variable has them.
    ///
    /// # Errors
    /// If there is none, there are too many, or one of them is malformed. No message has the query of a URL.
    pub(super) fn parse_all(texts: &[String]) -> Result<Vec<Self>> {
        let words: Vec<&str> = texts.iter().flat_map(|text| text.split_whitespace()).collect();
        ensure!(!words.is_empty(), "there is no source; give https://HOST/PATH#sha256=HEX, or a folder");
        ensure!(words.len() <= MAX_SOURCES, "there are {} sources; give at most {MAX_SOURCES}", words.len());
        words.into_iter().map(Self::parse).collect()
    }

    fn parse(text: &str) -> Result<Self> {
        let Some((scheme, _)) = text.split_once("://") else {
            return Ok(Self::Folder(text.into()));
        };
        ensure!(text.len() <= MAX_URL_BYTES, "a URL has {} bytes; give at most {MAX_URL_BYTES}", text.len());
        let (url, fragment) = match text.split_once('#') {
            Some((url, fragment)) => (url, Some(fragment)),
            None => (text, None),
        };
        let shown = redacted(url);
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => {}
            "s3" | "gs" | "az" | "oci" | "hf" => {
                bail!("{shown}: give the https:// URL of the object, signed if the store is private")
            }
            _ => bail!("{shown}: give a URL with https:// or http://, or a folder"),
        }
        let uri: Uri = url.parse().with_context(|| format!("{shown} is no URL"))?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        ensure!(
            !authority.contains('@'),
            "{shown}: a URL must have no password; put the header's value into ROUNDHOUSE_FETCH_AUTHORIZATION, such as \
             'Bearer TOKEN'"
        );
        ensure!(uri.host().is_some_and(|host| !host.is_empty()), "{shown} has no host");
        ensure!(
            uri.port_u16().is_some() || uri.host() == Some(authority),
            "{shown} has no valid port; give a number from 1 to 65535"
        );
        let Some(fragment) = fragment else {
            bail!(
                "{shown} has no hash; append #sha256=HEX to the URL, with the HEX of 'sha256sum FILE', or of 'curl -fL \
                 URL | sha256sum'"
            )
        };
        let hash = fragment
            .strip_prefix("sha256=")
            .with_context(|| format!("{shown}: after '#', expected sha256=HEX; give the HEX of 'sha256sum FILE'"))?;
        let sha256 = sha256(hash)
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("{shown}: the SHA-256 has {} characters", hash.chars().count()))?;
        let last = uri.path().rsplit('/').next().unwrap_or_default();
        let name: Vec<u8> = percent_decode_str(last).collect();
        let name = match name::entry_path(&name) {
            Ok(Some(path)) if path.components().count() == 1 && !name.contains(&b'/') => {
                path.to_str().map(str::to_owned)
            }
            _ => None,
        };
        let name = name.with_context(|| {
            format!(
                "{shown}: the last part of the path is no name for a file; give the URL of a file, such as weights.pth"
            )
        })?;
        Ok(Self::Remote(RemoteFile { uri, name, sha256 }))
    }
}

impl Display for RemoteFile {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(&redacted(&self.uri.to_string()))
    }
}

impl fmt::Debug for RemoteFile {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "RemoteFile({self})")
    }
}

/// `text` on one line, of at most 300 characters, without the queries and passwords of URLs in it: `https://host/file?…`.
pub(super) fn redacted(text: &str) -> String {
    let words = text.split_whitespace().map(|word| {
        let word = match word.split_once("://") {
            // A password ends with '@', before the path begins.
            Some((scheme, rest)) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                match rest[..end].rfind('@') {
                    Some(at) => format!("{scheme}://…{}", &rest[at..]),
                    None => word.to_owned(),
                }
            }
            None => word.to_owned(),
        };
        match word.split_once('?') {
            Some((before, _)) => format!("{before}?…"),
            None => word,
        }
    });
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn parse(text: &str) -> Result<Vec<Source>, String> {
        Source::parse_all(&[text.to_owned()]).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn urls_keep_their_query_and_give_the_name() {
        for (url, name) in [
            ("https://host/path/weights.pth", "weights.pth"),
            ("http://10.0.0.1:8080/weights.pth?X-Amz-Signature=a%2Fb&c=d/e.txt", "weights.pth"),
            ("HTTPS://host/a/my%20weights.pth", "my weights.pth"),
            ("https://[fd00::1]/labels.txt", "labels.txt"),
        ] {
            let Source::Remote(file) = parse(&format!("{url}#sha256={HASH}")).expect("valid").remove(0) else {
                panic!("{url} is no folder")
            };
            assert!(file.uri.to_string().eq_ignore_ascii_case(url), "{url}: {}", file.uri);
            assert_eq!((file.name.as_str(), file.sha256[0]), (name, 0xba), "{url}");
            assert!(!format!("{file}{file:?}").contains("Signature"), "{url}");
        }
    }

    #[test]
    fn sources_are_separated_by_any_whitespace() {
        let text = format!("\n  https://host/a#sha256={HASH}\n\t/model  models/b\n");
        let sources = parse(&text).expect("three sources");
        assert!(matches!(&sources[..], [Source::Remote(_), Source::Folder(a), Source::Folder(b)]
            if a == "/model" && b == "models/b"));
        assert!(
            parse(&"/model ".repeat(101)).expect_err("too many").contains("there are 101 sources; give at most 100")
        );
    }

    #[test]
    fn malformed_sources_are_refused_without_their_secrets() {
        for (text, expected) in [
            ("", "there is no source"),
            ("https://host/a.pth", "https://host/a.pth has no hash; append #sha256=HEX"),
            ("https://host/a.pth?sig=secret", "https://host/a.pth?… has no hash"),
            ("https://host/a.pth?sig=secret#md5=1", "expected sha256=HEX"),
            ("https://host/a.pth?sig=secret#sha256=12", "has 2 characters: give 64 hexadecimal digits"),
            ("https://user:secret@host/a.pth#sha256=HASH", "must have no password"),
            ("https:///a.pth#sha256=HASH", "is no URL"),
            ("https://ho st/a.pth#sha256=HASH", "has no hash"),
            ("https://host:port/a.pth?sig=secret#sha256=HASH", "has no valid port"),
            ("https://host:65536/a.pth#sha256=HASH", "has no valid port"),
            ("https://host:/a.pth#sha256=HASH", "has no valid port"),
            ("https://[::1/a.pth?sig=secret#sha256=HASH", "is no URL"),
            ("https://host#sha256=HASH", "is no name for a file"),
            ("https://host/a/#sha256=HASH", "is no name for a file"),
            ("https://host/a%2Fb#sha256=HASH", "is no name for a file"),
            ("https://host/%2e%2e#sha256=HASH", "is no name for a file"),
            ("https://host/.hidden#sha256=HASH", "is no name for a file"),
            ("https://host/%00#sha256=HASH", "is no name for a file"),
            ("s3://bucket/a.pth?sig=secret", "s3://bucket/a.pth?…: give the https:// URL"),
            ("ftp://host/a.pth#sha256=HASH", "give a URL with https:// or http://"),
        ] {
            let error = parse(&text.replace("HASH", HASH)).expect_err(text);
            assert!(error.contains(expected) && !error.contains("secret"), "{text}: {error}");
        }
        let long = format!("https://host/{}#sha256={HASH}", "x".repeat(MAX_URL_BYTES));
        assert!(parse(&long).expect_err("too long").len() < 100);
    }

    #[test]
    fn messages_lose_queries_and_passwords_and_line_breaks() {
        for (text, expected) in [
            ("location https://user:pw@host/a?b=c\n is bad", "location https://…@host/a?… is bad"),
            ("https://host/a@b", "https://host/a@b"),
            ("what?", "what?…"),
            ("x", "x"),
        ] {
            assert_eq!(redacted(text), expected);
        }
        assert_eq!(redacted(&"ä".repeat(400)).chars().count(), 301);
    }
}
