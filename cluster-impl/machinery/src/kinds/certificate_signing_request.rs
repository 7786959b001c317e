//! CertificateSigningRequest.
//!
//! Limit: of the certificate only the PEM frame is looked at, not what is inside.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;

use super::{AGE, Kind, NAME, PLAIN, Subresource, age, column, or};
use crate::defaulting::{absent, empty};
use crate::validation::{Causes, items, metadata, names, text};
use crate::{Cause, Object, duration};

const LEGACY: &str = "kubernetes.io/legacy-unknown";
const SECONDS_MIN: i64 = 600;
/// Conditions that are True if they are there.
const TRUE: [&str; 3] = ["Approved", "Denied", "Failed"];
const USAGES: &[&str] = &[
    "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign",
    "data encipherment", "decipher only", "digital signature", "email protection", "encipher only",
    "ipsec end system", "ipsec tunnel", "ipsec user", "key agreement", "key encipherment",
    "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime", "server auth", "signing",
    "timestamping",
];

/// CertificateSigningRequest.
pub static CERTIFICATE_SIGNING_REQUEST: Kind = Kind {
    id: "certificatesigningrequests.certificates.k8s.io",
    group: "certificates.k8s.io",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    short_names: &["csr"],
    namespaced: false,
    has_status: true,
    subresources: &[Subresource {
        name: "approval",
        kind: "CertificateSigningRequest",
        group: "certificates.k8s.io",
        verbs: &["get", "patch", "update"],
    }],
    selectable: &[("spec.signerName", "/spec/signerName")],
    default: |object| absent(&mut object.0, "status", empty()),
    prepare_create: |object| object.set("/status", json!({})),
    prepare_update,
    validate,
    columns: &[
        NAME,
        AGE,
        column("SignerName", "string", 0),
        column("Requestor", "string", 0),
        column("RequestedDuration", "string", 0),
        column("Condition", "string", 0),
    ],
    cells,
    ..PLAIN
};

/// What was requested stays as it was, and so does the answer.
fn prepare_update(object: &mut Object, old: &Object) {
    for part in ["spec", "status"] {
        object.0[part] = old.0[part].clone();
    }
}

/// Before the approval is written: of the status, only the conditions change.
pub fn prepare_approval(object: &mut Object, old: &Object) {
    let conditions = object.0["status"]["conditions"].take();
    prepare_update(object, old);
    object.set("/status/conditions", conditions);
}

fn of_type<'o>(object: &'o Object, kind: &str) -> Vec<&'o Value> {
    object.list("/status/conditions").iter().filter(|one| one["type"] == kind).collect()
}

/// What is wrong with a write of the status, or of the approval.
pub fn validate_answer(object: &Object, old: &Object, is_approval: bool) -> Vec<Cause> {
    let mut causes = Causes::new();
    for kind in ["Approved", "Denied"].into_iter().filter(|_| !is_approval) {
        let (new, before) = (of_type(object, kind), of_type(old, kind));
        if new.len() > before.len() {
            let why = format!("updates may not add a condition of type {kind:?}");
            causes.forbidden("status.conditions", &why);
        } else if new.len() == before.len() && new != before {
            let why = format!("updates may not modify a condition of type {kind:?}");
            causes.forbidden("status.conditions", &why);
        }
    }
    let (new, before) = (object.text("/status/certificate"), old.text("/status/certificate"));
    if new != before && is_approval {
        causes.forbidden("status.certificate", "updates may not set certificate content");
    } else if new != before && !before.is_empty() {
        let why = "updates may not modify existing certificate content";
        causes.forbidden("status.certificate", why);
    }
    causes.into_list()
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, |_| Vec::new());
    let spec = &object.0["spec"];
    // It cannot change, and what an older server let in must not hold up its answer.
    if let (None, Err(why)) = (old, check_request(text(&spec["request"]))) {
        causes.invalid_as("spec.request", "\"\"", &why);
    }
    if items(&spec["usages"]).next().is_none() {
        causes.required("spec.usages", "");
    }
    let mut seen = BTreeSet::new();
    for (index, usage) in items(&spec["usages"]) {
        let (field, usage) = (format!("spec.usages[{index}]"), text(usage));
        if !USAGES.contains(&usage) {
            causes.not_supported(&field, usage, USAGES);
        }
        if !seen.insert(usage) {
            causes.duplicate(&field, usage);
        }
    }
    signer(&mut causes, text(&spec["signerName"]), old);
    if let Some(seconds) = spec["expirationSeconds"].as_i64().filter(|n| *n < SECONDS_MIN) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        causes.invalid("spec.expirationSeconds", seconds, why);
    }
    conditions(&mut causes, object);
    let certificate = object.text("/status/certificate");
    if !certificate.is_empty() && !has_frame(certificate, "CERTIFICATE") {
        let why = "must contain at least one CERTIFICATE PEM block";
        causes.invalid("status.certificate", "<certificate data>", why);
    }
    for kind in TRUE.into_iter().filter(|_| old.is_some()) {
        let before = old.map(|old| of_type(old, kind).len()).unwrap_or_default();
        if of_type(object, kind).len() < before {
            let why = format!("updates may not remove a condition of type {kind:?}");
            causes.forbidden("status.conditions", &why);
        }
    }
    causes.into_list()
}

/// Whether base64 holds a request that can be read and is signed by its own key.
fn check_request(encoded: &str) -> Result<(), String> {
    let wrong_type = || "PEM block type must be CERTIFICATE REQUEST".to_owned();
    let pem = STANDARD.decode(encoded).map_err(|_| wrong_type())?;
    let (_, block) = parse_x509_pem(&pem).map_err(|_| wrong_type())?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err(wrong_type());
    }
    let (rest, request) = X509CertificationRequest::from_der(&block.contents)
        .map_err(|error| format!("the request cannot be parsed: {error}"))?;
    if !rest.is_empty() {
        return Err("the request has trailing data".to_owned());
    }
    request
        .verify_signature()
        .map_err(|error| format!("the request is not signed by its own key: {error}"))
}

/// Whether base64 holds a PEM block of this type.
fn has_frame(encoded: &str, kind: &str) -> bool {
    let decoded = STANDARD.decode(encoded).unwrap_or_default();
    let text = String::from_utf8(decoded).unwrap_or_default();
    let begin = text.find(&format!("-----BEGIN {kind}-----"));
    begin.is_some_and(|begin| text[begin..].contains(&format!("-----END {kind}-----")))
}

fn signer(causes: &mut Causes, name: &str, old: Option<&Object>) {
    const FIELD: &str = "spec.signerName";
    if name.is_empty() {
        causes.required(FIELD, "");
        return;
    }
    if name == LEGACY && old.is_none_or(|old| old.text("/spec/signerName") != LEGACY) {
        let why = "the legacy signerName is not allowed via this API version";
        causes.invalid(FIELD, name, why);
        return;
    }
    let Some((domain, path)) = name.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        causes.invalid(FIELD, name, why);
        return;
    };
    causes.name(FIELD, domain, names::dns_subdomain);
    if domain.split('.').count() < 2 {
        let why = "should be a domain with at least two segments separated by dots";
        causes.invalid(FIELD, domain, why);
    }
    causes.name(FIELD, path, names::dns_subdomain);
}

fn conditions(causes: &mut Causes, object: &Object) {
    let mut seen = BTreeSet::new();
    for (index, condition) in items(&object.0["status"]["conditions"]) {
        let field = format!("status.conditions[{index}]");
        let (kind, status) = (text(&condition["type"]), text(&condition["status"]));
        if kind.is_empty() {
            causes.required(&format!("{field}.type"), "");
        }
        let allowed: &[&str] =
            if TRUE.contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        causes.one_of(&format!("{field}.status"), status, allowed);
        let other = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if seen.contains(other) {
            let why = "Approved and Denied conditions are mutually exclusive";
            causes.invalid(&format!("{field}.type"), kind, why);
        }
        if !seen.insert(kind) {
            causes.duplicate(&format!("{field}.type"), kind);
        }
    }
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let has = |kind: &str| !of_type(object, kind).is_empty();
    let mut state = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !object.text("/status/certificate").is_empty() {
        state.push_str(",Issued");
    }
    let wanted = object.integer("/spec/expirationSeconds").map(duration::human);
    vec![
        object.name().into(),
        age(object, now),
        or(object.text("/spec/signerName"), "<none>"),
        object.text("/spec/username").into(),
        wanted.unwrap_or_else(|| "<none>".to_owned()).into(),
        state.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, found, row};
    use super::*;

    /// A request for `CN=jane`, signed by its own P-256 key, which nobody has any more.
    const PEM: &str = "\
-----BEGIN CERTIFICATE REQUEST-----
MIHJMHECAQAwDzENMAsGA1UEAwwEamFuZTBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABEw0Yuj61l2HEflD7uS3Di90UogHA2sC0cNiTax5EItZAhh/yF0gtd9QVcAT
gIIdsMzzVtDO4iAT7gTyDwXgw3WgADAKBggqhkjOPQQDAgNIADBFAiABVuq+IP5j
4nMBESba3bJuij7Ozd50hKD86x50p1yezQIhAK68DrTy72fE/erXpTSOdIwgikP3
TnoLlijFbpKJTzja
-----END CERTIFICATE REQUEST-----
";

    fn request(signer: &str) -> Object {
        Object(json!({
            "metadata": {"name": "jane", "creationTimestamp": at(0).to_string()},
            "spec": {"request": STANDARD.encode(PEM), "usages": ["client auth"],
                "signerName": signer, "username": "jane", "expirationSeconds": 3600},
            "status": {},
        }))
    }

    fn answered(kind: &str) -> Object {
        let mut object = request("kubernetes.io/kube-apiserver-client");
        object.set("/status/conditions", json!([{"type": kind, "status": "True"}]));
        object
    }

    #[test]
    fn requests_are_checked_and_printed() {
        let good = request("kubernetes.io/kube-apiserver-client");
        assert_eq!(found(&CERTIFICATE_SIGNING_REQUEST, &good, None), [""; 0]);
        assert_eq!(
            row(&CERTIFICATE_SIGNING_REQUEST, &good, 5),
            "jane|5s|kubernetes.io/kube-apiserver-client|jane|60m|Pending"
        );
        let mut issued = answered("Approved");
        issued.set("/status/certificate", "eA==");
        assert!(row(&CERTIFICATE_SIGNING_REQUEST, &issued, 5).ends_with("|Approved,Issued"));
        for (pointer, value, start) in [
            ("/spec/request", json!("eA=="), "Invalid spec.request"),
            ("/spec/usages", json!([]), "Required spec.usages"),
            ("/spec/usages", json!(["all"]), "NotSupported spec.usages[0]"),
            ("/spec/signerName", json!(LEGACY), "Invalid spec.signerName"),
            ("/spec/signerName", json!("x"), "Invalid spec.signerName"),
            ("/spec/expirationSeconds", json!(1), "Invalid spec.expirationSeconds"),
            ("/status/conditions", json!([{"type": "Approved", "status": "False"}]),
                "NotSupported status.conditions[0].status"),
            ("/status/conditions", json!([{"type": "Approved", "status": "True"},
                {"type": "Denied", "status": "True"}]), "Invalid status.conditions[1].type"),
        ] {
            let mut object = good.clone();
            object.set(pointer, value);
            let found = found(&CERTIFICATE_SIGNING_REQUEST, &object, None);
            assert!(found.len() == 1 && found[0].starts_with(start), "{start}: {found:?}");
        }
    }

    #[test]
    fn a_request_that_cannot_be_read_is_refused_when_it_is_made() {
        let with = |pem: &str| {
            let mut object = request("a.b/c");
            object.set("/spec/request", STANDARD.encode(pem));
            object
        };
        let frame = |body: &str| {
            format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
        };
        // The name is changed after it was signed.
        let body: String = PEM.lines().filter(|line| !line.starts_with('-')).collect();
        let mut der = STANDARD.decode(body).unwrap();
        let at = der.windows(4).position(|four| four == b"jane").unwrap();
        der[at..at + 4].copy_from_slice(b"root");
        for (pem, start) in [
            (frame("AA=="), "the request cannot be parsed"),
            (frame(&STANDARD.encode(&der)), "the request is not signed by its own key"),
            (PEM.replace(" REQUEST", ""), "PEM block type must be CERTIFICATE REQUEST"),
            ("x".to_owned(), "PEM block type must be CERTIFICATE REQUEST"),
        ] {
            let object = with(&pem);
            let found = super::super::tests::found(&CERTIFICATE_SIGNING_REQUEST, &object, None);
            let expected = format!("Invalid spec.request: Invalid value: \"\": {start}");
            assert!(found.len() == 1 && found[0].starts_with(&expected), "{found:?}");
            let later = super::super::tests::found(&CERTIFICATE_SIGNING_REQUEST, &object, Some(&object));
            assert_eq!(later, [""; 0], "what is there already is left alone");
        }
    }

    #[test]
    fn only_the_approval_approves() {
        let (old, new) = (request("a.b/c"), answered("Approved"));
        assert!(validate_answer(&new, &old, true).is_empty());
        assert_eq!(validate_answer(&new, &old, false).len(), 1);
        let removed = found(&CERTIFICATE_SIGNING_REQUEST, &request("a.b/c"), Some(&new));
        assert!(removed[0].contains("updates may not remove a condition"), "{removed:?}");
        let mut sneaky = new.clone();
        sneaky.set("/spec/username", "root");
        prepare_approval(&mut sneaky, &old);
        assert_eq!(sneaky.text("/spec/username"), "jane");
        assert_eq!(sneaky.list("/status/conditions").len(), 1);
    }
}
