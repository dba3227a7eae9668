//! Downloads one file and checks its hash. Explains every failure without the secrets of a URL.

use super::client::{CONNECT_TIMEOUT, Client, MAX_REDIRECTS};
use super::source::{RemoteFile, redacted};
use super::staging::create_file;
use super::transfer::{Limits, Progress, progress_text, write_error};
use anyhow::{Result, anyhow, bail};
use sha2::{Digest, Sha256};
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::time::{Duration, Instant};
use ureq::http::{HeaderMap, StatusCode, header};
use ureq::{Body, Error, ResponseExt, Timeout};

/// Bytes of the body of a refusal that are shown.
const SHOWN_BYTES: u64 = 200;

/// Downloads `file` to `path`. `stall_timeout` is that of `client`.
///
/// # Errors
/// If the server refuses, the connection fails, a limit is reached, or the bytes have another hash.
pub(super) fn download(
    client: &Client,
    file: &RemoteFile,
    path: &Path,
    limits: &mut Limits,
    stall_timeout: Duration,
) -> Result<()> {
    let started = Instant::now();
    let answer = match client.get(&file.uri, limits.time_left()?) {
        Ok(answer) => answer,
        Err(error) => {
            limits.time_left()?;
            bail!("{}", failure(&error, stall_timeout));
        }
    };
    let place = if *answer.get_uri() == file.uri {
        String::new()
    } else {
        format!(" (redirected to {})", redacted(&answer.get_uri().to_string()))
    };
    let (head, body) = answer.into_parts();
    if head.status != StatusCode::OK {
        bail!("{}", refusal(client, file, head.status, &place, body));
    }
    let total = content_length(&head.headers);
    limits.check_size(total.unwrap_or(0))?;
    let to = create_file(path).map_err(|error| write_error(path, error))?;
    let mut body = Hashing { reader: body.into_reader(), hash: Sha256::new(), bytes: 0 };
    limits.copy(&mut body, to, Progress::new(file.name.clone(), total)).map_err(|fault| {
        fault.explained(path, |error| {
            let of = total.map_or_else(String::new, |total| format!(" of {total}"));
            anyhow!("{} after {}{of} bytes{place}", failure(&Error::from(error), stall_timeout), body.bytes)
        })
    })?;
    let bytes = body.bytes;
    let found: [u8; 32] = body.hash.finalize().into();
    if found != file.sha256 {
        let kind = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        bail!(
            "the SHA-256 is {}, but {} was expected; the server sent {bytes} bytes with the Content-Type {}{place}; if the \
             URL is right (text/html is often a login page), give the hash of the file that it has now",
            hex(&found),
            hex(&file.sha256),
            redacted(kind.unwrap_or("(none)")),
        );
    }
    tracing::info!("{file}: {}, and the SHA-256 is right", progress_text(bytes, None, started.elapsed()));
    Ok(())
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The message for an answer with another status than 200, with the beginning of its body. Some servers repeat what they
/// were sent, in parts or in another encoding. So the body is left out if the request had a secret: a signature in the
/// query, or the header `Authorization`.
fn refusal(client: &Client, file: &RemoteFile, status: StatusCode, place: &str, body: Body) -> String {
    let mut text = Vec::new();
    // The status is what matters, so a body that breaks off is shown as far as it came.
    let _broken_off = body.into_reader().take(SHOWN_BYTES).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let text: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let advice = match status.as_u16() {
        401 | 403 => {
            "check that the signature of the URL has not expired, or the value of ROUNDHOUSE_FETCH_AUTHORIZATION"
        }
        404 | 410 => "check the path of the URL",
        408 | 429 | 500.. => "the server has a problem, which may pass; the next start of the container tries again",
        _ => "check the URL",
    };
    let has_secret = client.has_secret() || file.uri.query().is_some_and(|query| !query.is_empty());
    let body = if text.is_empty() || has_secret { String::new() } else { format!(": {text}") };
    format!("the server answered {status}{place}{body}; {advice}")
}

/// The message for a request that failed, or a body that broke off.
fn failure(error: &Error, stall_timeout: Duration) -> String {
    let reach = "check the host and the port, and that this pod may connect to them (NetworkPolicy, HTTPS_PROXY)";
    let no_host = "the host cannot be found; check its name, and that this pod may ask a DNS server";
    match error {
        Error::HostNotFound => no_host.into(),
        Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            format!("no connection within {CONNECT_TIMEOUT:?}; {reach}")
        }
        Error::Timeout(_) => format!("no byte arrived for {stall_timeout:?} (--stall-timeout)"),
        Error::TooManyRedirects => format!("there are more than {MAX_REDIRECTS} redirects; check the URL"),
        Error::ConnectProxyFailed(_) => {
            "the proxy refused the connection; check that it allows CONNECT to the host".into()
        }
        Error::Io(error) if error.kind() == ErrorKind::UnexpectedEof => "the server ended the connection".into(),
        Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => {
            format!("the connection is refused; {reach}")
        }
        _ => {
            let text = redacted(&error.to_string());
            // The standard library has no kind for it.
            if text.contains("failed to lookup address") {
                no_host.into()
            } else if text.contains("certificate") {
                format!("the server cannot be trusted: {text}; name your authority's PEM file with SSL_CERT_FILE")
            } else {
                text
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hashes and counts what is read.
struct Hashing<R> {
    reader: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}
