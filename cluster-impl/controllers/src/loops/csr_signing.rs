//! Signs approved CertificateSigningRequests with the cluster's authority.
//!
//! ```yaml
//! kind: CertificateSigningRequest
//! spec: {signerName: kubernetes.io/kube-apiserver-client, usages: [client auth], expirationSeconds: 3600}
//! ```
//! What its signer does not allow gets the condition Failed. Without an authority nothing is signed.

use apiclient::Informed;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::kinds::CERTIFICATE_SIGNING_REQUEST;
use machinery::{Kind, Object, View};
use serde_json::json;

use crate::certificates::{self, Authority, CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY, Request};
use crate::{Config, Controller, DecideCx, Decision, Key, Write};

const SIGNERS: [&str; 4] = [CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY];

/// The controller. It remembers nothing but its authority.
pub struct CsrSigning {
    authority: Option<Authority>,
}

impl CsrSigning {
    /// The controller.
    pub fn new(config: &Config) -> Self {
        Self { authority: config.authority.clone() }
    }
}

/// Whether a request has a condition of this type.
pub(super) fn has(csr: &Object, kind: &str) -> bool {
    csr.list("/status/conditions").iter().any(|one| one["type"] == kind)
}

/// The request that a change is about, if it is still there.
pub(super) fn there_is(change: &Informed) -> Option<Key> {
    let is_meant = change.kind.id == CERTIFICATE_SIGNING_REQUEST.id && change.new.is_some();
    is_meant.then(|| Key::of(change.kind, change.key.clone()))
}

impl Controller for CsrSigning {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-signing-controller"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        Vec::new()
    }

    fn watches_rare(&self) -> Vec<&'static Kind> {
        vec![&CERTIFICATE_SIGNING_REQUEST]
    }

    fn changed(&mut self, _: &View, change: &Informed, _: &DecideCx<'_>) -> Vec<Key> {
        there_is(change).filter(|_| self.authority.is_some()).into_iter().collect()
    }

    fn decide(&mut self, view: &View, key: &Key, cx: &DecideCx<'_>) -> Decision {
        let found = view.get(&CERTIFICATE_SIGNING_REQUEST, &key.object);
        let (Some(authority), Some(csr)) = (&self.authority, found) else {
            return Decision::settled();
        };
        let is_answered = has(csr, "Failed") || !csr.text("/status/certificate").is_empty();
        let signer = csr.text("/spec/signerName");
        if !has(csr, "Approved") || has(csr, "Denied") || is_answered || !SIGNERS.contains(&signer) {
            return Decision::settled();
        }
        let mut object = Object::clone(csr);
        let checked = Request::read(csr).and_then(|request| {
            request.check(signer, &certificates::usages(csr))?;
            certificates::sign(authority, csr, &request, cx.now)
        });
        match checked {
            Ok(certificate) => object.set("/status/certificate", STANDARD.encode(certificate)),
            Err(why) => {
                let mut conditions = csr.list("/status/conditions").to_vec();
                let now = cx.now_text();
                conditions.push(json!({
                    "type": "Failed", "status": "True", "reason": "SignerValidationFailure",
                    "message": why, "lastUpdateTime": now, "lastTransitionTime": now,
                }));
                object.set("/status/conditions", conditions);
            }
        }
        let write = Write::UpdateStatus { kind: &CERTIFICATE_SIGNING_REQUEST, object };
        Decision { writes: vec![write], ..Decision::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use machinery::ObjectKey;

    use super::*;
    use crate::certificates::tests::{authority, csr};
    use crate::testing::World;

    #[test]
    fn what_is_approved_is_signed_or_fails() {
        for (usages, approved, expected) in [
            (&["client auth"][..], "Approved", "signed"),
            (&["client auth"], "Denied", "left"),
            (&["server auth"], "Approved", "Failed"),
        ] {
            let mut world = World::new(
                |config| {
                    let authority = Some(authority(Duration::from_secs(3600)));
                    Box::new(CsrSigning::new(&Config { authority, ..config.clone() }))
                },
                "",
            );
            let mut object = csr(CLIENT, "jane", "", &[], usages);
            object.set("/status/conditions", json!([{"type": approved, "status": "True"}]));
            world.see_object(&CERTIFICATE_SIGNING_REQUEST, object);
            world.run_to(1);
            let found = world.view.get(&CERTIFICATE_SIGNING_REQUEST, &ObjectKey::new("", "csr"));
            let found = found.unwrap();
            let state = match (found.text("/status/certificate"), has(found, "Failed")) {
                ("", false) => "left",
                ("", true) => "Failed",
                _ => "signed",
            };
            assert_eq!(state, expected, "{usages:?} {approved}");
            assert_eq!(world.run_to(100), "", "nothing more");
        }
    }
}
