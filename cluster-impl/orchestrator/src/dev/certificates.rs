//! The certificates of a cluster in one process: an authority, the server's and the administrator's, and
//! the key that signs the tokens of service accounts.
//!
//! Kept in a directory they stay the same across restarts, so that a kubeconfig stays good.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use apiserver::Tls;
use machinery::signing::SigningKey;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

/// The names under which pods, and tools on this machine, know the API server.
const NAMES: [&str; 5] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];
/// The address of the Service `kubernetes`.
const SERVICE_ADDRESS: [u8; 4] = [10, 96, 0, 1];
/// How long certificates are good for; a cluster that is kept gets new ones when they run out.
const LIFE: Duration = Duration::days(3650);
/// Clocks of who signs and who checks may differ.
const EARLIER: Duration = Duration::hours(1);

/// A certificate and its key, as PEM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// All of a cluster's certificates.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Certificates {
    pub authority: Pair,
    pub server: Pair,
    pub admin: Pair,
    /// Signs tokens; as PEM.
    pub tokens: String,
    /// The address that the server's certificate is made out to.
    address: IpAddr,
}

impl Certificates {
    /// New certificates for a server at this address.
    pub fn new(address: IpAddr) -> anyhow::Result<Self> {
        let mut own = params("kubernetes", "");
        own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        own.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        let key = KeyPair::generate()?;
        let certificate = own.self_signed(&key)?.pem();
        let authority = Pair { certificate, key: key.serialize_pem() };
        let issuer = Issuer::new(own, key);
        let mut server = params("kube-apiserver", "");
        for name in NAMES {
            server.subject_alt_names.push(SanType::DnsName(name.try_into()?));
        }
        let addresses = [address, IpAddr::from([127, 0, 0, 1]), IpAddr::from(SERVICE_ADDRESS)];
        server.subject_alt_names.extend(addresses.map(SanType::IpAddress));
        Ok(Self {
            authority,
            server: sign(server, ExtendedKeyUsagePurpose::ServerAuth, &issuer)?,
            admin: sign(
                params("kubernetes-admin", "system:masters"),
                ExtendedKeyUsagePurpose::ClientAuth,
                &issuer,
            )?,
            tokens: KeyPair::generate()?.serialize_pem(),
            address,
        })
    }

    /// The certificates that a directory holds; made, and kept there, if there are none for this address.
    pub fn kept(dir: &Path, address: IpAddr) -> anyhow::Result<Self> {
        let path = dir.join("certificates.json");
        if let Ok(text) = fs::read_to_string(&path) {
            let kept: Self = serde_json::from_str(&text).with_context(|| {
                format!("failed to read {}; without it, new certificates are made", path.display())
            })?;
            if kept.address == address {
                return Ok(kept);
            }
        }
        let new = Self::new(address)?;
        write_secret(&path, &serde_json::to_string(&new)?)?;
        Ok(new)
    }

    /// How the server shows itself, and whose clients it believes.
    pub fn tls(&self) -> anyhow::Result<Tls> {
        let mut clients = RootCertStore::empty();
        clients.add(certificate(&self.authority)?)?;
        let key = PrivateKeyDer::from_pem_slice(self.server.key.as_bytes())?;
        Ok(Tls::new(clients, vec![certificate(&self.server)?], key)?)
    }

    /// The key that signs tokens.
    pub fn signing_key(&self) -> anyhow::Result<SigningKey> {
        Ok(SigningKey::from_pem(self.tokens.as_bytes())?)
    }
}

fn certificate(pair: &Pair) -> anyhow::Result<CertificateDer<'static>> {
    Ok(CertificateDer::from_pem_slice(pair.certificate.as_bytes())?)
}

fn params(name: &str, group: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if !group.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - EARLIER, now + LIFE);
    params
}

fn sign(
    mut params: CertificateParams,
    usage: ExtendedKeyUsagePurpose,
    issuer: &Issuer<'_, KeyPair>,
) -> anyhow::Result<Pair> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?.pem();
    Ok(Pair { certificate, key: key.serialize_pem() })
}

/// Writes a file that only its owner may read, whole or not at all.
pub fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let what = || format!("failed to write {}", path.display());
    let mut half = path.as_os_str().to_owned();
    half.push(".new");
    let mut options = fs::File::options();
    let mut file = options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&half)
        .with_context(what)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(what)?;
    fs::rename(&half, path).with_context(what)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn certificates_are_kept_for_their_address() {
        let dir = std::env::temp_dir().join(format!("shakedown-dev-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let home = IpAddr::from([127, 0, 0, 1]);
        let first = Certificates::kept(&dir, home).unwrap();
        let again = Certificates::kept(&dir, home).unwrap();
        assert_eq!(first.server.certificate, again.server.certificate);
        first.tls().unwrap();
        let mode = fs::metadata(dir.join("certificates.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let elsewhere = Certificates::kept(&dir, IpAddr::from([127, 0, 0, 2])).unwrap();
        assert_ne!(first.authority.certificate, elsewhere.authority.certificate);
        fs::write(dir.join("certificates.json"), "{").unwrap();
        let broken = Certificates::kept(&dir, home).unwrap_err().to_string();
        assert!(broken.ends_with("without it, new certificates are made"), "{broken}");
        fs::remove_dir_all(&dir).unwrap();
    }
}
