//! TLS for a listener: a certificate with its key, read again when the files change.

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

/// Protocols in the order of preference, as ALPN names them.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// A file holds something else.
    #[error("{0}; expected a PEM file with the certificate chain, and one with its private key")]
    Pem(String),
    /// Certificate and key do not belong together, or the key's kind is not supported.
    #[error("the certificate and the key cannot be used: {0}")]
    Unusable(rustls::Error),
}

/// Accepts TLS connections as whoever the present certificate says.
#[derive(Clone)]
pub struct Tls {
    /// Speaks the handshake.
    pub acceptor: TlsAcceptor,
}

impl Tls {
    /// Reads certificate chain and key, and follows the files from then on; must be called within a runtime.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(certificate: PathBuf, key: PathBuf) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let paths = [certificate, key];
        let contents = file_watcher::contents(&paths)?;
        let identity = Arc::new(Identity { present: RwLock::new(parse(&contents, &provider)?) });
        let mut config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(Error::Unusable)?
            .with_no_client_auth()
            .with_cert_resolver(identity.clone());
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        tokio::spawn(file_watcher::follow(paths, contents, move |contents| {
            let new = parse(contents, &provider)?;
            *identity.present.write().expect("nobody panics with it") = new;
            Ok::<_, Error>(())
        }));
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}

/// Whoever this server is at present.
#[derive(Debug)]
struct Identity {
    /// Locked for as long as a pointer is copied, once a handshake.
    present: RwLock<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.present.read().expect("nobody panics with it").clone())
    }
}

fn parse([chain, key]: &[Vec<u8>; 2], provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    let wrong = |what: &str, error: &dyn std::fmt::Display| Error::Pem(format!("the {what} cannot be read: {error}"));
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong("certificate", &error))?;
    if chain.is_empty() {
        return Err(wrong("certificate", &"it holds none"));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| wrong("key", &error))?;
    CertifiedKey::from_der(chain, key, provider).map(Arc::new).map_err(Error::Unusable)
}
