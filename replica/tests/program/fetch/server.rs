//! Servers on this machine that `replica fetch` downloads from: HTTP, HTTPS, and a proxy.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A server that runs until the test ends.
pub(super) struct Server {
    /// The address, `127.0.0.1:port`.
    pub(super) address: String,
    /// The heads of the requests so far.
    pub(super) heads: Arc<Mutex<Vec<String>>>,
}

/// What a server sends, and then does with the connection.
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    /// Keep the connection open and send nothing more.
    pub(super) stalls: bool,
}

/// An answer with headers, lines that end with CR LF, and a body whose length is told.
pub(super) fn answer(status: &str, headers: &str, body: &[u8]) -> Answer {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len());
    Answer { bytes: [head.as_bytes(), body].concat(), stalls: false }
}

/// A file.
pub(super) fn file(body: &[u8]) -> Answer {
    answer("200 OK", "Content-Type: application/octet-stream\r\n", body)
}

/// An answer of any bytes, after which the connection ends.
pub(super) fn raw(bytes: &[u8]) -> Answer {
    Answer { bytes: bytes.to_vec(), stalls: false }
}

impl Server {
    /// A server with HTTP that answers each request by its head.
    pub(super) fn http(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(answer, |stream, serve| serve(stream))
    }

    /// A server with HTTPS for 127.0.0.1, and the PEM of the authority `name` that has signed its certificate.
    pub(super) fn https(name: &str, answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> (Self, String) {
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, name);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("a certificate");
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()])
            .and_then(|params| params.signed_by(&key, &authority))
            .expect("a certificate");
        let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .expect("they belong together");
        let config = Arc::new(config);
        let server = Self::start(answer, move |stream, serve| {
            let connection = ServerConnection::new(config.clone()).expect("a valid configuration");
            serve(&mut StreamOwned::new(connection, stream))
        });
        (server, authority.pem())
    }

    fn start(
        answer: impl Fn(&str) -> Answer + Send + Sync + 'static,
        serve_in: impl Fn(&mut TcpStream, &dyn Fn(&mut dyn ReadWrite) -> io::Result<()>) -> io::Result<()>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = heads.clone();
        thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let stalls = std::cell::Cell::new(false);
                let serve = |stream: &mut dyn ReadWrite| {
                    let head = head(stream)?;
                    let Answer { bytes, stalls: keep } = answer(&head);
                    seen.lock().expect("no panic").push(head);
                    stream.write_all(&bytes)?;
                    stream.flush()?;
                    stalls.set(keep);
                    Ok(())
                };
                // A client that does not trust the certificate, or has had enough, ends the connection.
                let _client_has_left = serve_in(&mut stream, &serve);
                if stalls.get() {
                    kept.push(stream);
                } else {
                    let _client_has_left = stream.shutdown(Shutdown::Write);
                }
            }
        });
        Self { address, heads }
    }

    /// The heads of the requests so far, in one text.
    pub(super) fn seen(&self) -> String {
        self.heads.lock().expect("no panic").concat()
    }
}

/// A proxy that connects its clients to what they ask for by CONNECT. Returns its address, and the hosts that were asked
/// for.
pub(super) fn proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut client) = stream else { continue };
            let seen = seen.clone();
            thread::spawn(move || -> io::Result<()> {
                let head = head(&mut client)?;
                let host = head.split(' ').nth(1).unwrap_or_default().to_owned();
                seen.lock().expect("no panic").push(head.split("\r\n").next().unwrap_or_default().to_owned());
                let server = TcpStream::connect(host)?;
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
                thread::spawn(move || io::copy(&mut from_client, &mut to_server));
                io::copy(&mut &server, &mut client)?;
                client.shutdown(Shutdown::Write)
            });
        }
    });
    (address, asked)
}

/// A connection, encrypted or not.
trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

/// Reads the head of a request, byte by byte, since a tunnel may follow.
fn head(stream: &mut (impl Read + ?Sized)) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
