//! Client certificates: the handshake takes any whose key the client holds, and the server then decides
//! whether it is one of ours, so that a wrong one is answered 401 and not by a broken connection.

use std::sync::Arc;
use std::time::Duration;

use env::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Shown;
use crate::config::User;

/// How a server shows itself over TLS, and whose certificates it takes.
#[derive(Debug, Clone)]
pub struct Tls {
    pub(crate) config: ServerConfig,
    clients: Arc<dyn ClientCertVerifier>,
}

/// Why certificates and keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The authorities of clients.
    #[error("the authorities of clients cannot be used: {0}")]
    Authorities(String),
    /// The server's own certificate and key.
    #[error("the certificate cannot be used with its key: {0}")]
    Own(#[from] Error),
}

impl Tls {
    /// The server's own certificates and key, and the authorities of its clients.
    pub fn new(
        authorities: RootCertStore,
        own: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider.clone())
                .build()
                .map_err(|error| TlsError::Authorities(error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(Later(clients.clone())))
            .with_single_cert(own, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { config, clients })
    }

    /// What a client's certificates show at this time, and until when they do.
    pub(crate) fn shown(
        &self,
        certificates: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> (Shown, Timestamp) {
        let [first, others @ ..] = certificates else { return (Shown::Nothing, Timestamp::MAX) };
        let seconds = u64::try_from(now.as_second()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        if let Err(error) = self.clients.verify_client_cert(first, others, now) {
            tracing::debug!(%error, "a client's certificate was refused");
            return (Shown::BadCertificate, Timestamp::MAX);
        }
        let shown = user(first).map_or(Shown::Nothing, Shown::User);
        (shown, certificates.iter().filter_map(end).min().unwrap_or(Timestamp::MAX))
    }
}

/// When a certificate ends.
fn end(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// The user that a certificate names: CN is the name, every O a group.
pub(crate) fn user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok().filter(|name| !name.is_empty())?;
    let groups: Vec<String> = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok().map(str::to_owned))
        .collect();
    Some(User::with_groups(name, groups))
}

/// Takes every certificate for now, but checks that the client holds its key.
#[derive(Debug)]
struct Later(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Later {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
