//! Trust in the certificates of `--ca`: those of authorities, and that of a server which has issued its own.

use anyhow::{Context, Result};
use std::sync::Arc;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{self, CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// The text of the library's error for a server whose certificate says that it is one of an authority.
pub const AUTHORITY: &str = "CaUsedAsEndEntity";

/// Accepts the certificates that one of these certificates has issued, and these certificates themselves.
#[derive(Debug)]
pub struct TrustedCertificates {
    certificates: Vec<CertificateDer<'static>>,
    chains: Arc<WebPkiServerVerifier>,
}

impl TrustedCertificates {
    /// Trusts `certificates`, at least one.
    ///
    /// # Errors
    /// If a certificate is not one of an authority, nor one that its owner has issued.
    pub fn new(certificates: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone()).context("a certificate is not one of an authority")?;
        }
        let chains = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build();
        Ok(Self { certificates, chains: chains.context("trust the certificates")? })
    }
}

impl ServerCertVerifier for TrustedCertificates {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.chains.verify_server_cert(certificate, intermediates, name, ocsp_response, now) {
            // `openssl req -x509` makes such certificates. This error comes after the check of the dates, and before
            // that of the name.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(error)))
                if error.to_string() == AUTHORITY && self.certificates.contains(certificate) =>
            {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            outcome => outcome,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
    use std::time::Duration;
    use tokio_rustls::rustls::crypto::ring;

    /// A certificate of localhost that says that it is one of an authority, as `openssl req -x509` makes it.
    fn authority() -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(2025, 1, 1);
        params.not_after = date_time_ymd(2027, 1, 1);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    #[test]
    fn a_server_may_send_the_trusted_certificate_itself() {
        let (own, other) = (authority(), authority());
        let trusted = TrustedCertificates::new(vec![own.clone()], Arc::new(ring::default_provider())).expect("good");
        let accepts = |certificate: &CertificateDer<'_>, name: &'static str, year: u64| {
            let now = UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_557_600 + 1_000_000));
            let name = ServerName::try_from(name).expect("a name");
            trusted.verify_server_cert(certificate, &[], &name, &[], now).is_ok()
        };
        assert!(accepts(&own, "localhost", 2026));
        assert!(!accepts(&own, "a.example", 2026), "another name");
        assert!(!accepts(&own, "localhost", 2030), "the certificate has expired");
        assert!(!accepts(&other, "localhost", 2026), "a certificate that is not named");
    }
}
