//! A server whose answers a test chooses, with HTTP/1.1 or HTTP/2, with or without TLS.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// The body of an answer as in the HTTP API.
pub const ANSWER: &str = r#"{"success":true,"prediction":{"class_index":0,"label":"plain circle","confidence":0.9},
    "predictions":[],"model":"m","replica":"r",
    "timing_ms":{"queue":0,"decode":0,"batch":0,"inference":0,"total":0}}"#;

/// An answer, and the time before it.
#[derive(Debug, Clone)]
pub struct Reply {
    pub after: Duration,
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

impl Reply {
    /// An answer with status 200, at once.
    pub fn ok(body: impl Into<Bytes>) -> Self {
        Self { after: Duration::ZERO, status: 200, headers: Vec::new(), body: body.into() }
    }
}

/// What happens to the first connection of HTTP/2 after some requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The server announces by GOAWAY that it takes no further request, and answers those that it has.
    GoAway,
    /// The server closes the connection, with requests on it.
    Close,
}

/// The settings of a server.
#[derive(Default)]
pub struct Settings {
    pub tls: Option<ServerConfig>,
    /// Whether connections without TLS speak HTTP/2.
    pub is_http2: bool,
    /// SETTINGS_MAX_CONCURRENT_STREAMS.
    pub max_streams: Option<u32>,
    /// What happens to the first connection after this number of requests on it.
    pub ending: Option<(usize, Ending)>,
}

/// What a server has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Connections that carried a request of the load.
    pub connections: AtomicUsize,
    /// Requests that were read.
    pub requests: AtomicUsize,
    /// The most requests at once on one connection.
    pub most_streams: AtomicUsize,
    /// The name that a client asked for in its TLS handshake.
    pub server_name: Mutex<Option<String>>,
}

impl Seen {
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub fn most_streams(&self) -> usize {
        self.most_streams.load(Ordering::Relaxed)
    }
}

type Handler = dyn Fn(&Parts, &Bytes) -> Reply + Send + Sync;

/// Starts a server on a thread of its own, which runs until the test ends. `handler` runs on that thread, so a handler
/// that blocks stalls the whole server. Returns the address, which is one of 127.0.0.1, and what the server sees.
pub fn start(
    settings: Settings,
    handler: impl Fn(&Parts, &Bytes) -> Reply + Send + Sync + 'static,
) -> (SocketAddr, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let (sender, receiver) = mpsc::channel();
    let shared = seen.clone();
    let handler: Arc<Handler> = Arc::new(handler);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(serve(settings, handler, shared, sender));
    });
    (receiver.recv().expect("the server has an address"), seen)
}

async fn serve(settings: Settings, handler: Arc<Handler>, seen: Arc<Seen>, announce: mpsc::Sender<SocketAddr>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    announce.send(listener.local_addr().expect("an address")).expect("the test waits");
    let Settings { tls, is_http2, max_streams, ending } = settings;
    let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    let first_used = Arc::new(AtomicUsize::new(0));
    loop {
        let (stream, _peer) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("the option exists");
        let connection = Connection {
            handler: handler.clone(),
            seen: seen.clone(),
            max_streams,
            ending,
            first_used: first_used.clone(),
        };
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            match acceptor {
                None => connection.serve(stream, is_http2).await,
                Some(acceptor) => {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let (is_http2, name) = {
                        let tls = stream.get_ref().1;
                        (tls.alpn_protocol() == Some(b"h2"), tls.server_name().map(ToOwned::to_owned))
                    };
                    *connection.seen.server_name.lock().expect("no thread panics") = name;
                    connection.serve(stream, is_http2).await;
                }
            }
        });
    }
}

struct Connection {
    handler: Arc<Handler>,
    seen: Arc<Seen>,
    max_streams: Option<u32>,
    ending: Option<(usize, Ending)>,
    first_used: Arc<AtomicUsize>,
}

impl Connection {
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, is_http2: bool) {
        let Self { handler, seen, max_streams, ending, first_used } = self;
        let ends = Arc::new(Notify::new());
        let (requests, streams) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let notify = ends.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (handler, seen, streams) = (handler.clone(), seen.clone(), streams.clone());
            // loadgen also sends GET requests, to read metrics. They are not a part of the load.
            let is_load = request.method() == Method::POST;
            let at_once = streams.fetch_add(1, Ordering::Relaxed) + 1;
            seen.most_streams.fetch_max(at_once, Ordering::Relaxed);
            let count = requests.fetch_add(usize::from(is_load), Ordering::Relaxed) + usize::from(is_load);
            if is_load && count == 1 {
                seen.connections.fetch_add(1, Ordering::Relaxed);
            }
            if let Some((limit, _)) = ending
                && count == limit
                && first_used.fetch_add(1, Ordering::Relaxed) == 0
            {
                notify.notify_one();
            }
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                let reply = if is_load {
                    seen.requests.fetch_add(1, Ordering::Relaxed);
                    handler(&head, &body)
                } else {
                    Reply { status: 404, ..Reply::ok("") }
                };
                if !reply.after.is_zero() {
                    tokio::time::sleep(reply.after).await;
                }
                streams.fetch_sub(1, Ordering::Relaxed);
                let mut response = Response::new(Full::new(reply.body));
                *response.status_mut() = StatusCode::from_u16(reply.status).expect("a status");
                for (name, value) in reply.headers {
                    response.headers_mut().insert(name, value.parse().expect("a value"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let io = TokioIo::new(stream);
        if !is_http2 {
            let _ended = http1::Builder::new().serve_connection(io, service).await;
            return;
        }
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.max_concurrent_streams(max_streams);
        let mut connection = pin!(builder.serve_connection(io, service));
        tokio::select! {
            _ended = connection.as_mut() => return,
            () = ends.notified() => {}
        }
        if ending.is_some_and(|(_, ending)| ending == Ending::GoAway) {
            connection.as_mut().graceful_shutdown();
            let _ended = connection.await;
        }
    }
}

/// A certificate for `localhost` and 127.0.0.1, and its key, in PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Identity {
    pub fn new() -> Self {
        Self::of(&["localhost", "127.0.0.1"])
    }

    pub fn of(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate can be generated");
        Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    /// As `new`, with a certificate that is one of an authority, too.
    pub fn authority() -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut parameters = rcgen::CertificateParams::new(names).expect("the names are valid");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key can be generated");
        let certificate = parameters.self_signed(&key).expect("a certificate can be generated");
        Self { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// The settings of a server with this certificate. If `clients` is given, it requires that certificate of clients.
    pub fn server(&self, clients: Option<&Self>, protocols: &[&str]) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider supports them");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let mut roots = RootCertStore::empty();
                roots.add(client.der()).expect("a certificate");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.expect("there is a root"))
            }
        };
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key");
        let mut config = builder.with_single_cert(vec![self.der()], key).expect("they belong together");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }

    fn der(&self) -> tokio_rustls::rustls::pki_types::CertificateDer<'static> {
        PemObject::from_pem_slice(self.certificate.as_bytes()).expect("a certificate")
    }
}
