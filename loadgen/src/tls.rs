//! TLS of connections to the server: the certificates that are trusted, the client's own certificate, and the version
//! of HTTP that ALPN asks for. Opens no connection.

use crate::trusted_certificates::{AUTHORITY, TrustedCertificates};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

/// Longest PEM file, in bytes. The list of all public authorities has about 250 KB.
const MAX_PEM_BYTES: u64 = 16 << 20;

/// The choices that a user makes about TLS.
#[derive(Debug, Clone, Default)]
pub struct TlsSettings {
    /// A PEM file with the certificates of the trusted authorities, in place of the system's.
    pub authorities: Option<PathBuf>,
    /// Whether every certificate of the server is accepted.
    pub is_insecure: bool,
    /// The PEM files with the client's certificate chain and its private key.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl TlsSettings {
    /// Whether any of the settings differs from its default.
    pub fn is_given(&self) -> bool {
        self.authorities.is_some() || self.is_insecure || self.client.is_some()
    }

    /// The settings in rustls' form. Each connection offers `protocol` in ALPN, `h2` or `http/1.1`.
    ///
    /// # Errors
    /// If a file cannot be read or is no PEM file of the expected kind, the key does not belong to the certificate, or
    /// the system has no trusted authorities.
    pub fn client_config(&self, protocol: &[u8]) -> Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .context("choose the versions of TLS")?;
        let builder = if self.is_insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(algorithms)))
        } else if let Some(path) = &self.authorities {
            let trusted = TrustedCertificates::new(certificates(path, "--ca")?, provider);
            let trusted = trusted.with_context(|| format!("--ca ({})", path.display()))?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(trusted))
        } else {
            builder.with_root_certificates(system_roots()?)
        };
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let certificates = certificates(chain, "--client-cert")?;
                let pem = read(key, "--client-key")?;
                let key_der = PrivateKeyDer::from_pem_slice(&pem)
                    .with_context(|| format!("--client-key ({}): the file has no private key in PEM", key.display()))?;
                builder.with_client_auth_cert(certificates, key_der).with_context(|| {
                    format!(
                        "--client-cert ({}) and --client-key ({}) cannot be used; give a certificate and its own key",
                        chain.display(),
                        key.display()
                    )
                })?
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(config)
    }
}

/// The authorities that the system trusts.
fn system_roots() -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _ignored) = roots.add_parsable_certificates(found.certs);
    ensure!(
        added > 0,
        "this system has no list of trusted authorities{}; name one with --ca FILE, or accept any certificate with \
         --insecure",
        found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default()
    );
    Ok(roots)
}

/// The certificates of a PEM file that `flag` names, at least one.
fn certificates(path: &Path, flag: &str) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read(path, flag)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{flag} ({}): the file is not PEM", path.display()))?;
    ensure!(!certificates.is_empty(), "{flag} ({}): the file has no certificate in PEM", path.display());
    Ok(certificates)
}

/// The contents of the file that `flag` names.
fn read(path: &Path, flag: &str) -> Result<Vec<u8>> {
    let mut pem = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_PEM_BYTES + 1).read_to_end(&mut pem));
    read.with_context(|| format!("{flag}: read {}", path.display()))?;
    ensure!(pem.len() as u64 <= MAX_PEM_BYTES, "{flag} ({}): the file is longer than 16 MiB", path.display());
    Ok(pem)
}

/// The name that the server's certificate must have: `host`, which is a name or an IP address without brackets.
///
/// # Errors
/// If `host` is neither.
pub fn server_name(host: &str) -> Result<ServerName<'static>> {
    let name = ServerName::try_from(host.to_owned());
    name.with_context(|| format!("--url: {host:?} is neither a name nor an address, so no certificate can have it"))
}

/// What is wrong with a handshake that failed, and what to do about it.
pub fn explain(error: &io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                "the server closed the connection within the TLS handshake; does it speak TLS at this port?".into()
            }
            _ => format!("the TLS handshake failed: {error}"),
        };
    };
    match tls {
        rustls::Error::InvalidMessage(_) => {
            format!("the server's answer is not TLS ({tls}); if it speaks plain HTTP, write http:// in --url")
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "no trusted authority issued the server's certificate; name its authority with --ca FILE, or accept any \
             certificate with --insecure"
                .into()
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!(
            "the server's certificate has another name ({tls}); write the certificate's name in --url, with --resolve \
             if needed, or accept any certificate with --insecure"
        ),
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) if other.to_string() == AUTHORITY => {
            "the server's certificate is one of an authority; name this certificate with --ca FILE, or accept any \
             certificate with --insecure"
                .into()
        }
        rustls::Error::InvalidCertificate(_) => {
            format!("the server's certificate is not valid ({tls}); accept any certificate with --insecure")
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server requires a certificate of the client; give --client-cert and --client-key".into()
        }
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        | rustls::Error::NoApplicationProtocol => {
            "the server does not offer this version of HTTP (ALPN); add --http2 or leave it out".into()
        }
        rustls::Error::AlertReceived(_) => format!(
            "the server refused the TLS handshake ({tls}); if it requires a certificate of the client, give \
             --client-cert and --client-key"
        ),
        _ => format!("the TLS handshake failed: {tls}"),
    }
}

/// Accepts every certificate of the server. It still checks that the server has the certificate's key.
#[derive(Debug)]
struct AcceptAnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_missing_or_of_another_kind_are_refused_by_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let chain = file("chain.pem", &made.cert.pem());
        let key = file("key.pem", &made.signing_key.serialize_pem());
        let other_key = file("other.pem", &other.signing_key.serialize_pem());
        let text = file("text", "hello");
        let broken = file("broken", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
        let config = |authorities: &Path, client: Option<(&Path, &Path)>| {
            let client = client.map(|(chain, key)| (chain.to_owned(), key.to_owned()));
            TlsSettings { authorities: Some(authorities.to_owned()), is_insecure: false, client }.client_config(b"h2")
        };
        let two = file("two.pem", &format!("{}{}", made.cert.pem(), other.cert.pem()));
        assert!(config(&two, Some((&chain, &key))).is_ok());
        for (result, words) in [
            (config(&folder.path().join("gone"), None), ["--ca", "gone"]),
            (config(&text, None), ["--ca", "no certificate"]),
            (config(&broken, None), ["--ca", "not PEM"]),
            (config(&key, None), ["--ca", "no certificate"]),
            (config(&chain, Some((&text, &key))), ["--client-cert", "no certificate"]),
            (config(&chain, Some((&chain, &text))), ["--client-key", "no private key"]),
            (config(&chain, Some((&chain, &other_key))), ["--client-cert", "its own key"]),
            (config(Path::new("/dev/zero"), None), ["--ca", "16 MiB"]),
        ] {
            let error = format!("{:#}", result.expect_err("refused"));
            assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
        }
    }

    #[test]
    fn the_error_of_a_self_signed_authority_names_the_flag_that_trusts_it() {
        let other = rustls::OtherError(Arc::new(io::Error::other(AUTHORITY)));
        let error = rustls::Error::InvalidCertificate(CertificateError::Other(other));
        let text = explain(&io::Error::other(error));
        assert!(text.contains("--ca FILE") && text.contains("--insecure"), "{text}");
    }

    #[test]
    fn a_certificate_is_for_a_name_or_an_address() {
        for good in ["localhost", "a.example", "127.0.0.1", "::1"] {
            assert!(server_name(good).is_ok(), "{good}");
        }
        assert!(server_name("a b").expect_err("refused").to_string().contains("\"a b\""));
    }
}
