//! Opens connections to the server: an address, TCP, and TLS if the URL asks for it. Connections are direct: proxies
//! from the environment are not used.

use super::Error;
use super::addresses::{Addresses, Override};
use super::stream::Stream;
use crate::tls::{self, TlsSettings};
use anyhow::{Context, Result, ensure};
use hyper::Uri;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

/// Longest time to open a TCP connection, over all addresses that are tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest time of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Wait of the first connection for the server's refusal of the client's certificate. With TLS 1.3, the server sends it
/// after the client's handshake is over.
const REFUSAL_WAIT: Duration = Duration::from_millis(200);

/// The version of HTTP that connections speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1: one request at a time on each connection.
    Http1,
    /// HTTP/2, with this number of requests at a time on each connection.
    Http2(usize),
}

/// The server, as connections need it.
pub struct Destination {
    /// The version of HTTP that connections speak.
    pub protocol: Protocol,
    /// The host and the port of the URL, as `host:port`.
    pub host_and_port: String,
    addresses: Addresses,
    /// The settings of TLS, and the name that the certificate must have; `None` for `http://`.
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// The turn of the handshake that may compute.
    turn: Mutex<()>,
}

impl std::fmt::Debug for Destination {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Destination").field("host_and_port", &self.host_and_port).finish_non_exhaustive()
    }
}

/// The reason why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The connection was refused, or not opened in time.
    #[error(transparent)]
    Connect(io::Error),
    /// The TLS handshake failed. The message says what to do.
    #[error("{}", tls::explain(.0))]
    Tls(io::Error),
    /// The server does not speak HTTP/2.
    #[error("the server does not speak HTTP/2; leave out --http2")]
    NotHttp2,
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Connect(error) if is_descriptor_limit(&error) => Self::OpenFiles,
            OpenError::Connect(_) => Self::Connect,
            OpenError::Tls(_) => Self::Tls,
            OpenError::NotHttp2 => Self::InvalidHttp,
        }
    }
}

/// Whether the process or the system has no file descriptor left: EMFILE or ENFILE, which have the same numbers on
/// Linux, macOS and the BSDs.
fn is_descriptor_limit(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

impl Destination {
    /// The server of `uri`. Looks its name up, and opens no connection.
    ///
    /// # Errors
    /// If the URL has no host, its scheme is neither `http` nor `https`, its name has no address, or a file or a flag
    /// of TLS is wrong.
    pub async fn find(uri: &Uri, protocol: Protocol, settings: &TlsSettings, overrides: &[Override]) -> Result<Self> {
        let host_and_port = host_and_port(uri)?;
        let is_https = uri.scheme_str() == Some("https");
        ensure!(
            is_https || !settings.is_given(),
            "--ca, --insecure, --client-cert and --client-key need https:// in --url ({uri})"
        );
        let (host, port) = host_and_port.rsplit_once(':').expect("the text is host:port");
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let tls = if is_https {
            let alpn: &[u8] = if protocol == Protocol::Http1 { b"http/1.1" } else { b"h2" };
            let config = settings.client_config(alpn)?;
            Some((TlsConnector::from(Arc::new(config)), tls::server_name(host)?))
        } else {
            None
        };
        let port = port.parse().with_context(|| format!("--url ({uri}): the port is not a number up to 65535"))?;
        let addresses = Addresses::find(host, port, overrides).await;
        let addresses = addresses.with_context(|| format!("connect to {host_and_port}"))?;
        Ok(Self { protocol, host_and_port, addresses, tls, turn: Mutex::new(()) })
    }

    /// Opens a connection: TCP to the address whose turn it is, or else to the others, and then TLS.
    ///
    /// # Errors
    /// If no address accepts the connection within 2 s, or the TLS handshake fails or takes more than 5 s.
    pub async fn open(&self) -> Result<Stream, OpenError> {
        let stream = self.connect().await.map_err(OpenError::Connect)?;
        let Some((connector, name)) = &self.tls else { return Ok(Stream::Plain(stream)) };
        let handshake = in_turn(&self.turn, connector.connect(name.clone(), stream));
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake);
        let too_slow = || io::Error::new(io::ErrorKind::TimedOut, format!("no end within {HANDSHAKE_TIMEOUT:?}"));
        let stream = handshake.await.map_err(|_elapsed| OpenError::Tls(too_slow()))?.map_err(OpenError::Tls)?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if self.protocol != Protocol::Http1 && !is_http2 {
            return Err(OpenError::NotHttp2);
        }
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// Opens a connection and closes it, so that a missing server and wrong settings of TLS are noticed.
    ///
    /// # Errors
    /// As [`Destination::open`], or if the server refuses the client's certificate.
    pub async fn check(&self) -> Result<(), OpenError> {
        let mut stream = self.open().await?;
        if let Stream::Tls(_) = stream
            && let Ok(Err(error)) = tokio::time::timeout(REFUSAL_WAIT, stream.read(&mut [0])).await
        {
            return Err(OpenError::Tls(error));
        }
        Ok(())
    }

    /// Opens a TCP connection.
    async fn connect(&self) -> io::Result<TcpStream> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let addresses = self.addresses.in_turn().await;
        let mut last_error = io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {CONNECT_TIMEOUT:?}"));
        for (index, &address) in addresses.iter().enumerate() {
            // The addresses that are left share the time that is left, so that one address without an answer cannot use
            // up the time of the others.
            let left = deadline.saturating_duration_since(Instant::now()) / (addresses.len() - index) as u32;
            match tokio::time::timeout(left, open_socket(address)).await {
                Ok(Ok(stream)) => {
                    if index > 0 {
                        self.addresses.avoid(&addresses[..index]).await;
                    }
                    return Ok(stream);
                }
                Ok(Err(error)) => last_error = error,
                Err(_elapsed) => {}
            }
        }
        Err(last_error)
    }
}

/// Waits for `future`, and polls it only while it holds `turn`. A step of a TLS handshake computes for up to a
/// millisecond. When a server that had stalled answers a hundred handshakes at once, a request that becomes due would
/// otherwise wait for all of them; so it waits for one.
async fn in_turn<F: Future>(turn: &Mutex<()>, future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        let held = turn.lock().await;
        if let Poll::Ready(output) = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await {
            return output;
        }
        drop(held);
        // The poll has left this task's waker with the future, so the next wake-up is that of the future.
        let mut is_woken = false;
        poll_fn(|_context| if std::mem::replace(&mut is_woken, true) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

async fn open_socket(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The host and the port of a URL, as `host:port`.
///
/// # Errors
/// If the URL names no host, has a user or a password, or its scheme is neither `http` nor `https`.
pub fn host_and_port(uri: &Uri) -> Result<String> {
    let default_port = match uri.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => anyhow::bail!("--url ({uri}) must start with http:// or https://, as in http://127.0.0.1:5052/predict"),
    };
    let authority = uri
        .authority()
        .with_context(|| format!("--url ({uri}) names no host; write it like http://127.0.0.1:5052/predict"))?;
    // The URL is in every report.
    ensure!(
        !authority.as_str().contains('@'),
        "--url has a user or a password before its host; leave them out, and send --header 'Authorization: Basic …' or \
         --bearer-token-file"
    );
    ensure!(!authority.host().is_empty(), "--url ({uri}) names no host; write it like http://127.0.0.1:5052/predict");
    Ok(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(default_port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_has_a_default_port_and_other_schemes_are_refused() {
        let address = |uri: &str| host_and_port(&uri.parse().expect("a URI")).map_err(|error| error.to_string());
        assert_eq!(address("http://a/predict").as_deref(), Ok("a:80"));
        assert_eq!(address("https://a/predict").as_deref(), Ok("a:443"));
        assert_eq!(address("http://[::1]:5052/predict").as_deref(), Ok("[::1]:5052"));
        let secret = address("http://user:secret@a/").expect_err("refused");
        assert!(secret.contains("Authorization") && !secret.contains("secret"), "{secret}");
        assert!(address("ftp://a/").expect_err("refused").contains("https://"));
        assert!(address("/predict").expect_err("refused").contains("http://"));
    }

    #[tokio::test]
    async fn flags_of_tls_without_https_are_refused() {
        let settings = TlsSettings { is_insecure: true, ..TlsSettings::default() };
        let uri = "http://127.0.0.1:1/".parse().expect("a URI");
        let error = Destination::find(&uri, Protocol::Http1, &settings, &[]).await.expect_err("refused");
        assert!(error.to_string().contains("need https://"), "{error}");
    }
}
