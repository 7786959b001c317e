//! Certificates that the cluster's own authority signs: what each signer demands of a request, and the
//! certificate itself.
//!
//! All of it is a function of request, time and key: the serial number is a hash of the request's uid,
//! which is random, and the signature draws nothing.
//! Limit: an RSA or P-256 authority; requests of any key that can be verified.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use env::Timestamp;
use machinery::Object;
use machinery::signing::SigningKey;
use serde_json::Value;
use sha2::{Digest, Sha256};
use x509_cert::certificate::{Certificate, TbsCertificate, Version};
use x509_cert::der::asn1::{
    Any, BitString, GeneralizedTime, ObjectIdentifier, OctetString, UtcTime,
};
use x509_cert::der::pem::LineEnding;
use x509_cert::der::{Decode, DecodePem, Encode, EncodePem};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages,
    SubjectKeyIdentifier,
};
use x509_cert::request::CertReq;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_cert::time::{Time, Validity};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{FromDer, ParsedCriAttribute};

/// The signers of the cluster itself.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// For kubelets, as clients.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// For kubelets, as servers.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// For whatever else.
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// Clocks may be behind by so much.
const BACKDATE_S: i64 = 5 * 60;
/// What lives shorter than this lives for all of its time from now on.
const SHORT_S: i64 = 8 * 3600;
const SHORTEST_S: i64 = 600;

const BASIC_CONSTRAINTS: &str = "2.5.29.19";
const KEY_USAGE: &str = "2.5.29.15";
const EXTENDED_KEY_USAGE: &str = "2.5.29.37";
const ALTERNATIVE_NAME: &str = "2.5.29.17";
const AUTHORITY_KEY: &str = "2.5.29.35";
const SUBJECT_KEY: &str = "2.5.29.14";

/// The cluster's authority.
#[derive(Debug, Clone)]
pub struct Authority {
    certificate: Arc<Certificate>,
    key: Arc<SigningKey>,
    /// `--cluster-signing-duration`: no certificate lives longer.
    life: Duration,
}

impl Authority {
    /// `--cluster-signing-cert-file` and `--cluster-signing-key-file`, in PEM.
    pub fn from_pem(certificate: &str, key: &str, life: Duration) -> Result<Self, String> {
        let certificate = Certificate::from_pem(certificate)
            .map_err(|error| format!("the authority's certificate cannot be read: {error}"))?;
        let key = SigningKey::from_pem(key.as_bytes()).map_err(|error| error.to_string())?;
        let own = certificate.tbs_certificate.subject_public_key_info.to_der();
        if own.ok().as_deref() != Some(key.public().info()) {
            return Err("the authority's key does not fit its certificate".to_owned());
        }
        Ok(Self { certificate: Arc::new(certificate), key: Arc::new(key), life })
    }
}

/// A request for a certificate, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    der: Vec<u8>,
    /// The subject's common name.
    pub name: String,
    /// The subject's organisations.
    pub groups: Vec<String>,
    dns: usize,
    addresses: usize,
    emails: usize,
    links: usize,
    /// The extension that holds further names, as it was sent.
    names: Option<Vec<u8>>,
}

impl Request {
    /// Reads `spec.request`; says what is wrong with it.
    pub fn read(csr: &Object) -> Result<Self, String> {
        let pem = STANDARD.decode(csr.text("/spec/request")).map_err(|error| error.to_string())?;
        let (_, block) = parse_x509_pem(&pem).map_err(|error| error.to_string())?;
        if block.label != "CERTIFICATE REQUEST" {
            return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
        }
        let (rest, parsed) = X509CertificationRequest::from_der(&block.contents)
            .map_err(|error| format!("the request cannot be parsed: {error}"))?;
        if !rest.is_empty() {
            return Err("the request has trailing data".to_owned());
        }
        // Who does not hold the key must not get a certificate for it.
        parsed
            .verify_signature()
            .map_err(|error| format!("the request is not signed by its own key: {error}"))?;
        let info = &parsed.certification_request_info;
        let text = |one: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            one.as_str().unwrap_or_default().to_owned()
        };
        let mut request = Self {
            name: info.subject.iter_common_name().next().map(text).unwrap_or_default(),
            groups: info.subject.iter_organization().map(text).collect(),
            der: block.contents.clone(),
            ..Self::default()
        };
        for attribute in info.attributes() {
            if let ParsedCriAttribute::ExtensionRequest(wanted) = attribute.parsed_attribute() {
                for extension in &wanted.extensions {
                    if extension.oid.to_id_string() == ALTERNATIVE_NAME {
                        request.read_names(extension)?;
                    }
                }
            }
        }
        Ok(request)
    }

    fn read_names(
        &mut self,
        extension: &x509_parser::extensions::X509Extension<'_>,
    ) -> Result<(), String> {
        use x509_parser::extensions::ParsedExtension;
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
            return Err("the request's subjectAltName cannot be parsed".to_owned());
        };
        self.names = Some(extension.value.to_vec());
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(_) => self.dns += 1,
                GeneralName::IPAddress(_) => self.addresses += 1,
                GeneralName::RFC822Name(_) => self.emails += 1,
                GeneralName::URI(_) => self.links += 1,
                _ => return Err("the request has a subjectAltName of another kind".to_owned()),
            }
        }
        Ok(())
    }

    /// What keeps a signer from signing this for these usages.
    pub fn check(&self, signer: &str, usages: &BTreeSet<&str>) -> Result<(), String> {
        match signer {
            CLIENT => client_usages(usages),
            KUBELET_CLIENT => self.kubelet_client(usages),
            KUBELET_SERVING => self.kubelet_serving(usages),
            _ => Ok(()),
        }
    }

    fn is_node(&self) -> Result<(), String> {
        if self.groups != ["system:nodes"] {
            return Err("subject organization is not system:nodes".to_owned());
        }
        Ok(())
    }

    fn has_node_name(&self) -> Result<(), String> {
        if !self.name.starts_with("system:node:") {
            return Err("subject common name does not begin with system:node: ".to_owned());
        }
        Ok(())
    }

    /// Whether this is what a kubelet asks for to be a client.
    pub fn kubelet_client(&self, usages: &BTreeSet<&str>) -> Result<(), String> {
        self.is_node()?;
        for (count, what) in
            [(self.dns, "DNS"), (self.emails, "Email"), (self.addresses, "IP"), (self.links, "URI")]
        {
            if count > 0 {
                return Err(format!("{what} subjectAltNames are not allowed"));
            }
        }
        self.has_node_name()?;
        exact_usages(usages, "client auth")
    }

    fn kubelet_serving(&self, usages: &BTreeSet<&str>) -> Result<(), String> {
        self.is_node()?;
        if self.dns + self.addresses == 0 {
            return Err("DNS or IP subjectAltName is required".to_owned());
        }
        for (count, what) in [(self.emails, "email"), (self.links, "URI")] {
            if count > 0 {
                return Err(format!("{what} subjectAltNames are not allowed"));
            }
        }
        exact_usages(usages, "server auth")?;
        self.has_node_name()
    }
}

fn client_usages(usages: &BTreeSet<&str>) -> Result<(), String> {
    let odd = usages
        .iter()
        .find(|one| !["digital signature", "key encipherment", "client auth"].contains(one));
    if let Some(odd) = odd {
        return Err(format!("invalid usage for client certificate: {odd}"));
    }
    if !usages.contains("client auth") {
        return Err("missing required usage for client certificate: client auth".to_owned());
    }
    Ok(())
}

/// Keys that cannot encipher need not say that they do.
fn exact_usages(usages: &BTreeSet<&str>, purpose: &str) -> Result<(), String> {
    let mut rest: BTreeSet<&str> = usages.clone();
    rest.remove("key encipherment");
    if rest != BTreeSet::from(["digital signature", purpose]) {
        let wanted = ["digital signature", "key encipherment", purpose];
        return Err(format!("usages did not match [{}]", wanted.join(" ")));
    }
    Ok(())
}

/// The usages of a CertificateSigningRequest.
pub fn usages(csr: &Object) -> BTreeSet<&str> {
    csr.list("/spec/usages").iter().filter_map(Value::as_str).collect()
}

/// Signs; answers the certificate in PEM.
pub fn sign(
    authority: &Authority,
    csr: &Object,
    request: &Request,
    now: Timestamp,
) -> Result<String, String> {
    build(authority, csr, request, now)
        .map_err(|error| format!("cannot make a certificate: {error}"))
}

fn build(
    authority: &Authority,
    csr: &Object,
    request: &Request,
    now: Timestamp,
) -> x509_cert::der::Result<String> {
    let wanted = CertReq::from_der(&request.der)?;
    let own = &authority.certificate.tbs_certificate;
    let (oid, has_null) = authority.key.algorithm();
    let signature = AlgorithmIdentifierOwned {
        oid: ObjectIdentifier::new_unwrap(oid),
        parameters: has_null.then(Any::null),
    };
    let tbs_certificate = TbsCertificate {
        version: Version::V3,
        serial_number: serial_number(csr, request)?,
        signature: signature.clone(),
        issuer: own.subject.clone(),
        validity: validity(authority, csr, now)?,
        subject: wanted.info.subject,
        subject_public_key_info: wanted.info.public_key,
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: Some(extensions(authority, csr, request)?),
    };
    let signed = authority.key.sign(&tbs_certificate.to_der()?);
    let certificate = Certificate {
        tbs_certificate,
        signature_algorithm: signature,
        signature: BitString::from_bytes(&signed)?,
    };
    certificate.to_pem(LineEnding::LF)
}

fn serial_number(csr: &Object, request: &Request) -> x509_cert::der::Result<SerialNumber> {
    let mut hash = Sha256::new();
    hash.update(csr.uid());
    hash.update(&request.der);
    let mut bytes = hash.finalize()[..16].to_vec();
    // Positive, and not shortened.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::new(&bytes)
}

fn validity(
    authority: &Authority,
    csr: &Object,
    now: Timestamp,
) -> x509_cert::der::Result<Validity> {
    let most_s = i64::try_from(authority.life.as_secs()).unwrap_or(i64::MAX);
    let life_s = match csr.integer("/spec/expirationSeconds") {
        Some(wanted_s) => wanted_s.clamp(SHORTEST_S, most_s.max(SHORTEST_S)),
        None => most_s,
    };
    let now_s = now.as_second();
    let from_s = now_s - BACKDATE_S;
    let to_s = if life_s < SHORT_S { now_s + life_s } else { from_s.saturating_add(life_s) };
    let last = authority.certificate.tbs_certificate.validity.not_after;
    let last_s = i64::try_from(last.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
    Ok(Validity { not_before: time(from_s)?, not_after: time(to_s.min(last_s))? })
}

fn time(second: i64) -> x509_cert::der::Result<Time> {
    let since = Duration::from_secs(u64::try_from(second).unwrap_or_default());
    // The short form ends with the year 2049.
    match UtcTime::from_unix_duration(since) {
        Ok(time) => Ok(Time::UtcTime(time)),
        Err(_) => GeneralizedTime::from_unix_duration(since).map(Time::GeneralTime),
    }
}

fn extensions(
    authority: &Authority,
    csr: &Object,
    request: &Request,
) -> x509_cert::der::Result<Vec<Extension>> {
    let extension =
        |id: &str, critical: bool, value: Vec<u8>| -> x509_cert::der::Result<Extension> {
            let extn_id = ObjectIdentifier::new_unwrap(id);
            Ok(Extension { extn_id, critical, extn_value: OctetString::new(value)? })
        };
    let mut all = Vec::new();
    let (usage, purposes) = key_usages(&usages(csr));
    if let Some(usage) = usage {
        all.push(extension(KEY_USAGE, true, usage.to_der()?)?);
    }
    if !purposes.is_empty() {
        all.push(extension(EXTENDED_KEY_USAGE, false, ExtendedKeyUsage(purposes).to_der()?)?);
    }
    let constraints = BasicConstraints { ca: false, path_len_constraint: None };
    all.push(extension(BASIC_CONSTRAINTS, true, constraints.to_der()?)?);
    let own = authority.certificate.tbs_certificate.extensions.iter().flatten();
    let mut own = own.filter(|one| one.extn_id == ObjectIdentifier::new_unwrap(SUBJECT_KEY));
    if let Some(own) = own.next() {
        let id = SubjectKeyIdentifier::from_der(own.extn_value.as_bytes())?;
        let of_authority = AuthorityKeyIdentifier {
            key_identifier: Some(id.0),
            authority_cert_issuer: None,
            authority_cert_serial_number: None,
        };
        all.push(extension(AUTHORITY_KEY, false, of_authority.to_der()?)?);
    }
    if let Some(names) = &request.names {
        all.push(extension(ALTERNATIVE_NAME, false, names.clone())?);
    }
    Ok(all)
}

/// What a key may be used for, in the two extensions that say so.
fn key_usages(usages: &BTreeSet<&str>) -> (Option<KeyUsage>, Vec<ObjectIdentifier>) {
    let mut bits = KeyUsage(Default::default());
    let mut purposes = Vec::new();
    for usage in usages {
        let (bit, purpose) = match *usage {
            "signing" | "digital signature" => (Some(KeyUsages::DigitalSignature), ""),
            "content commitment" => (Some(KeyUsages::NonRepudiation), ""),
            "key encipherment" => (Some(KeyUsages::KeyEncipherment), ""),
            "key agreement" => (Some(KeyUsages::KeyAgreement), ""),
            "data encipherment" => (Some(KeyUsages::DataEncipherment), ""),
            "cert sign" => (Some(KeyUsages::KeyCertSign), ""),
            "crl sign" => (Some(KeyUsages::CRLSign), ""),
            "encipher only" => (Some(KeyUsages::EncipherOnly), ""),
            "decipher only" => (Some(KeyUsages::DecipherOnly), ""),
            "any" => (None, "2.5.29.37.0"),
            "server auth" => (None, "1.3.6.1.5.5.7.3.1"),
            "client auth" => (None, "1.3.6.1.5.5.7.3.2"),
            "code signing" => (None, "1.3.6.1.5.5.7.3.3"),
            "email protection" | "s/mime" => (None, "1.3.6.1.5.5.7.3.4"),
            "ipsec end system" => (None, "1.3.6.1.5.5.7.3.5"),
            "ipsec tunnel" => (None, "1.3.6.1.5.5.7.3.6"),
            "ipsec user" => (None, "1.3.6.1.5.5.7.3.7"),
            "timestamping" => (None, "1.3.6.1.5.5.7.3.8"),
            "ocsp signing" => (None, "1.3.6.1.5.5.7.3.9"),
            "microsoft sgc" => (None, "1.3.6.1.4.1.311.10.3.3"),
            "netscape sgc" => (None, "2.16.840.1.113730.4.1"),
            _ => (None, ""),
        };
        if let Some(bit) = bit {
            bits.0 |= bit;
        }
        if !purpose.is_empty() {
            purposes.push(ObjectIdentifier::new_unwrap(purpose));
        }
    }
    ((!bits.0.is_empty()).then_some(bits), purposes)
}

#[cfg(test)]
pub(crate) mod tests {
    use machinery::signing::VerifyingKey;
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256, SanType,
    };
    use serde_json::json;
    use x509_parser::prelude::X509Certificate;

    use super::*;

    /// An authority of its own.
    pub fn authority(life: Duration) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Authority::from_pem(&certificate, &key.serialize_pem(), life).unwrap()
    }

    /// A request of somebody for a certificate by a signer.
    pub fn csr(
        signer: &str,
        name: &str,
        group: &str,
        names: &[SanType],
        usages: &[&str],
    ) -> Object {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        if !group.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.subject_alt_names = names.to_vec();
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        Object(json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": "csr", "uid": "u-1"},
            "spec": {"request": STANDARD.encode(pem), "signerName": signer, "username": name,
                "usages": usages},
        }))
    }

    #[test]
    fn each_signer_has_its_demands() {
        let dns = SanType::DnsName("n-1".try_into().unwrap());
        let email = SanType::Rfc822Name("a@b.c".try_into().unwrap());
        let client = ["client auth", "digital signature"];
        let serving = ["server auth", "digital signature", "key encipherment"];
        let (node, nodes) = ("system:node:n-1", "system:nodes");
        for (signer, name, group, names, usages, wrong) in [
            (CLIENT, "jane", "dev", vec![], &client[..], ""),
            (
                CLIENT,
                "jane",
                "",
                vec![],
                &["server auth"],
                "invalid usage for client certificate: server auth",
            ),
            (CLIENT, "jane", "", vec![], &["digital signature"], "missing required usage"),
            (KUBELET_CLIENT, node, nodes, vec![], &client, ""),
            (
                KUBELET_CLIENT,
                node,
                "dev",
                vec![],
                &client,
                "subject organization is not system:nodes",
            ),
            (KUBELET_CLIENT, "jane", nodes, vec![], &client, "subject common name"),
            (
                KUBELET_CLIENT,
                node,
                nodes,
                vec![dns.clone()],
                &client,
                "DNS subjectAltNames are not allowed",
            ),
            (KUBELET_CLIENT, node, nodes, vec![], &serving, "usages did not match"),
            (KUBELET_SERVING, node, nodes, vec![dns.clone()], &serving, ""),
            (
                KUBELET_SERVING,
                node,
                nodes,
                vec![],
                &serving,
                "DNS or IP subjectAltName is required",
            ),
            (
                KUBELET_SERVING,
                node,
                nodes,
                vec![dns, email],
                &serving,
                "email subjectAltNames are not allowed",
            ),
            (LEGACY, "anybody", "any", vec![], &["code signing"], ""),
        ] {
            let object = csr(signer, name, group, &names, usages);
            let request = Request::read(&object).unwrap();
            let found = request.check(signer, &super::usages(&object)).err().unwrap_or_default();
            assert!(found.starts_with(wrong) && found.is_empty() == wrong.is_empty(), "{found}");
        }
    }

    #[test]
    fn a_certificate_says_what_was_asked_for() {
        let authority = authority(Duration::from_secs(365 * 24 * 3600));
        let dns = SanType::DnsName("n-1".try_into().unwrap());
        let mut object = csr(LEGACY, "jane", "dev", &[dns], &["client auth", "digital signature"]);
        let request = Request::read(&object).unwrap();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (wanted_s, life_s) in
            [(None, 365 * 24 * 3600), (Some(3600), 3900), (Some(1_i64 << 40), 365 * 24 * 3600)]
        {
            if let Some(wanted_s) = wanted_s {
                object.set("/spec/expirationSeconds", wanted_s);
            }
            let pem = sign(&authority, &object, &request, now).unwrap();
            let (_, block) = parse_x509_pem(pem.as_bytes()).unwrap();
            let made = block.parse_x509().unwrap();
            let ca = authority.certificate.to_der().unwrap();
            let (_, ca) = X509Certificate::from_der(&ca).unwrap();
            made.verify_signature(Some(ca.public_key())).unwrap();
            assert_eq!(made.issuer().to_string(), "CN=kubernetes");
            assert!(made.subject().to_string().contains("O=dev"), "{}", made.subject());
            assert_eq!(
                made.subject_alternative_name().unwrap().unwrap().value.general_names.len(),
                1
            );
            let extended = made.extended_key_usage().unwrap().unwrap().value;
            assert!(extended.client_auth && !extended.server_auth);
            assert!(!made.is_ca());
            let validity = made.validity();
            let found_s = validity.not_after.timestamp() - validity.not_before.timestamp();
            assert_eq!(found_s, life_s);
            assert_eq!(validity.not_before.timestamp(), now.as_second() - 300);
            assert_eq!(made.public_key().raw.len(), 91);
        }
        let again = || sign(&authority, &object, &request, now).unwrap();
        assert_eq!(again(), again(), "nothing is drawn");
        assert!(VerifyingKey::all_from_pem(again().as_bytes()).is_ok());
    }

    #[test]
    fn who_does_not_hold_the_key_gets_nothing() {
        let object = csr(CLIENT, "jane", "", &[], &["client auth"]);
        let mut pem = STANDARD.decode(object.text("/spec/request")).unwrap();
        let (_, block) = parse_x509_pem(&pem).unwrap();
        let mut der = block.contents;
        *der.last_mut().unwrap() ^= 1;
        let body = STANDARD.encode(&der);
        pem = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n"
        )
        .into_bytes();
        let mut forged = object.clone();
        forged.set("/spec/request", STANDARD.encode(pem));
        let why = Request::read(&forged).unwrap_err();
        assert!(why.contains("is not signed by its own key"), "{why}");
        let mut broken = object;
        broken.set("/spec/request", "eA==");
        assert!(Request::read(&broken).is_err());
    }
}
