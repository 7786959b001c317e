//! The cluster's certificates: one authority, and a certificate for every component and user.
//!
//! Names and groups are those that Kubernetes gives its users: common name and organisation. Keys
//! never leave the cluster's directory, which only its owner may read.

use std::net::IpAddr;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use shakedown_core::target::TargetError;
use time::{Duration, OffsetDateTime};

use crate::docker::failed;

/// The address of the service `kubernetes`.
const SERVICE_ADDRESS: [u8; 4] = [10, 96, 0, 1];
/// A cluster does not live longer.
const LIFE: Duration = Duration::days(365);
/// Clocks of the machine and of whoever checks may differ.
const EARLIER: Duration = Duration::hours(1);

/// A certificate and its key, as PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// The authority of a cluster.
pub struct Authority {
    /// Its own certificate, as PEM.
    pub certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

fn broken(error: rcgen::Error) -> TargetError {
    failed("making certificates", error, "")
}

fn params(name: &str, group: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if !group.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    let now = OffsetDateTime::now_utc();
    params.not_before = now - EARLIER;
    params.not_after = now + LIFE;
    params
}

impl Authority {
    /// A new authority.
    pub fn new() -> Result<Self, TargetError> {
        let mut params = params("shakedown-ca", "");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        let key = KeyPair::generate().map_err(broken)?;
        let certificate = params.self_signed(&key).map_err(broken)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Its certificate and key, for those who sign in its name.
    pub fn pair(&self) -> Pair {
        Pair { certificate: self.certificate.clone(), key: self.issuer.key().serialize_pem() }
    }

    /// A certificate by which a client says who it is.
    pub fn client(&self, name: &str, group: &str) -> Result<Pair, TargetError> {
        self.sign(params(name, group), &[ExtendedKeyUsagePurpose::ClientAuth])
    }

    /// A certificate for a server, which is also a client of its peers, under these names and addresses.
    pub fn server(
        &self,
        name: &str,
        names: &[&str],
        addresses: &[IpAddr],
    ) -> Result<Pair, TargetError> {
        let mut params = params(name, "");
        for name in names {
            let name = (*name).try_into().map_err(broken)?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(addresses.iter().map(|each| SanType::IpAddress(*each)));
        let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, &usages)
    }

    /// The serving certificate of the API server of a node.
    pub fn apiserver(&self, node: &str, address: IpAddr) -> Result<Pair, TargetError> {
        let names = [
            node,
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let loopback = IpAddr::from([127, 0, 0, 1]);
        self.server("kube-apiserver", &names, &[address, loopback, IpAddr::from(SERVICE_ADDRESS)])
    }

    /// The certificate of an etcd member, for clients and for peers.
    pub fn etcd(&self, node: &str, address: IpAddr) -> Result<Pair, TargetError> {
        self.server(node, &[node, "localhost"], &[address, IpAddr::from([127, 0, 0, 1])])
    }

    /// The serving certificate of the kubelet of a node.
    pub fn kubelet(&self, node: &str, address: IpAddr) -> Result<Pair, TargetError> {
        self.server(&format!("system:node:{node}"), &[node], &[address])
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        usages: &[ExtendedKeyUsagePurpose],
    ) -> Result<Pair, TargetError> {
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(broken)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(broken)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }
}

/// A key that signs the tokens of service accounts.
pub fn service_account_key() -> Result<Pair, TargetError> {
    let key = KeyPair::generate().map_err(broken)?;
    Ok(Pair { certificate: key.public_key_pem(), key: key.serialize_pem() })
}

impl Pair {
    /// Writes `<name>.crt` and `<name>.key`.
    pub fn write(&self, dir: &Path, name: &str) -> std::io::Result<()> {
        std::fs::write(dir.join(format!("{name}.crt")), &self.certificate)?;
        crate::record::write_secret(&dir.join(format!("{name}.key")), &self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_new_each_time_and_pem() {
        let authority = Authority::new().unwrap();
        let first = authority.client("system:kube-scheduler", "").unwrap();
        let second = authority.client("kubernetes-admin", "system:masters").unwrap();
        for text in [&authority.certificate, &first.certificate, &second.certificate] {
            assert!(text.starts_with("-----BEGIN CERTIFICATE-----"), "{text}");
        }
        assert_ne!(first.certificate, second.certificate);
        assert!(first.key.starts_with("-----BEGIN PRIVATE KEY-----"));
        let identity = format!("{}{}", first.certificate, first.key);
        reqwest::Identity::from_pem(identity.as_bytes()).unwrap();
    }

    #[test]
    fn a_name_that_no_certificate_can_hold_is_an_error() {
        let authority = Authority::new().unwrap();
        assert!(authority.server("x", &["ü"], &[]).is_err());
    }
}
