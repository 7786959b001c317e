//! CertificateSubjectRestriction: nobody asks the API server's own signer for the group `system:masters`.
//!
//! What cannot be parsed is let pass: no signer signs it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::kinds::CERTIFICATE_SIGNING_REQUEST;
use machinery::{Object, Status};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::{Operation, Plugin, Review, Step};
use crate::status;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "CertificateSubjectRestriction",
    stage: 26,
    admit: Step::Nothing,
    validate: Step::Now(validate),
};

const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const GROUP: &str = "system:masters";

fn validate(review: &mut Review<'_>) -> Result<(), Status> {
    let is_meant = review.kind.id == CERTIFICATE_SIGNING_REQUEST.id
        && review.subresource.is_empty()
        && review.operation == Operation::Create;
    let Some(object) = review.object.as_deref().filter(|_| is_meant) else { return Ok(()) };
    if object.text("/spec/signerName") == SIGNER && wants_masters(object).unwrap_or_default() {
        let why = format!("use of {SIGNER} signer with {GROUP} group is not allowed");
        return Err(status::forbidden(review.kind, object.name(), &why));
    }
    Ok(())
}

fn wants_masters(csr: &Object) -> Option<bool> {
    let pem = STANDARD.decode(csr.text("/spec/request")).ok()?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents).ok()?;
    let mut groups = request.certification_request_info.subject.iter_organization();
    Some(groups.any(|group| group.as_str().is_ok_and(|group| group == GROUP)))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};
    use serde_json::json;

    use super::super::tests::created;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_asks_to_be_a_master() {
        for (signer, group, is_allowed) in
            [(SIGNER, "dev", true), (SIGNER, GROUP, false), ("example.com/own", GROUP, true)]
        {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(DnType::OrganizationName, group);
            let key = KeyPair::generate().unwrap();
            let pem = params.serialize_request(&key).unwrap().pem().unwrap();
            let mut csr = Object(json!({"metadata": {"name": "a"},
                "spec": {"signerName": signer, "request": STANDARD.encode(pem)}}));
            let answer = created(&PLUGIN, &CERTIFICATE_SIGNING_REQUEST, &mut csr).await;
            assert_eq!(answer.is_ok(), is_allowed, "{signer} {group}");
        }
    }
}
