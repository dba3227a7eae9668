//! TLS for a listener, with a certificate and its private key. If they come from files, these are read again when they
//! change. Knows nothing of HTTP except the names of its versions in ALPN.

use crate::file_watcher;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};

/// The ALPN names of the protocols that the server offers, the preferred one first.
const ALPN_PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The reason why TLS cannot start, or why changed files are not used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read. The message names the file.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// A file is not a PEM file of the expected kind.
    #[error("{0}; give a PEM file with the certificate chain, and a PEM file with its private key")]
    Pem(String),
    /// The certificate and the key do not belong together, or the kind of the key is not supported.
    #[error("the certificate and the key cannot be used: {0}; give a certificate and its own private key")]
    Unusable(rustls::Error),
}

/// Accepts TLS connections with the present certificate, which all clones share.
#[derive(Clone)]
pub struct Tls {
    /// Performs the handshake of a connection.
    pub acceptor: TlsAcceptor,
}

impl Tls {
    /// Reads the certificate chain and the key, and starts a task that reads them again when they change.
    ///
    /// # Errors
    /// If a file cannot be read, is no PEM file of the expected kind, or does not belong to the other file.
    ///
    /// # Panics
    /// If it is called outside a tokio runtime.
    pub fn open(certificate: PathBuf, key: PathBuf) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let paths = [certificate, key];
        let contents = file_watcher::contents(&paths)?;
        let resolver = Arc::new(Resolver { certificate: RwLock::new(parse(&contents, &provider)?) });
        let tls = Self::with_resolver(resolver.clone(), provider.clone())?;
        tokio::spawn(file_watcher::follow(paths, contents, move |contents| {
            let new = parse(contents, &provider)?;
            *resolver.certificate.write().expect(UNPOISONED) = new;
            Ok::<_, Error>(())
        }));
        Ok(tls)
    }

    /// Uses a certificate chain and its key for as long as the program runs. Both are PEM texts.
    ///
    /// # Errors
    /// If a text is not PEM of the expected kind, or the key does not belong to the certificate.
    pub fn of_pem(certificate: String, key: String) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let certificate = parse(&[certificate.into_bytes(), key.into_bytes()], &provider)?;
        Self::with_resolver(Arc::new(Resolver { certificate: RwLock::new(certificate) }), provider)
    }

    fn with_resolver(resolver: Arc<Resolver>, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Error::Unusable)?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = ALPN_PROTOCOLS.map(<[u8]>::to_vec).into();
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}

/// Gives each handshake the present certificate.
#[derive(Debug)]
struct Resolver {
    /// A handshake holds the lock only while it copies the pointer.
    certificate: RwLock<Arc<CertifiedKey>>,
}

/// The invariant of the lock around the certificate.
const UNPOISONED: &str = "no thread panics while it holds the certificate";

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certificate.read().expect(UNPOISONED).clone())
    }
}

/// Parses the contents of the two PEM files.
fn parse([chain, key]: &[Vec<u8>; 2], provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    let pem_error =
        |file: &str, error: &dyn std::fmt::Display| Error::Pem(format!("the {file} file cannot be parsed: {error}"));
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| pem_error("certificate", &error))?;
    if chain.is_empty() {
        return Err(pem_error("certificate", &"it contains no certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| pem_error("key", &error))?;
    CertifiedKey::from_der(chain, key, provider).map(Arc::new).map_err(Error::Unusable)
}
