//! Approves what kubelets ask for to be clients, if the API server says that the requestor may have it.
//!
//! ```yaml
//! kind: CertificateSigningRequest
//! spec: {signerName: kubernetes.io/kube-apiserver-client-kubelet, username: system:bootstrap:abcdef}
//! ```
//! A kubelet that renews its own certificate needs `create` on `certificatesigningrequests/selfnodeclient`,
//! somebody else `certificatesigningrequests/nodeclient`.

use std::time::Duration;

use apiclient::Informed;
use machinery::kinds::CERTIFICATE_SIGNING_REQUEST;
use machinery::{Kind, Object, View};
use serde_json::{Value, json};

use super::csr_signing::{has, there_is};
use crate::certificates::{KUBELET_CLIENT, Request, usages};
use crate::{Config, Controller, DecideCx, Decision, Key, Write};

/// How often a requestor without the right is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The controller. It remembers nothing.
pub struct CsrApproving;

impl CsrApproving {
    /// The controller.
    pub fn new(_: &Config) -> Self {
        Self
    }
}

impl Controller for CsrApproving {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-approving-controller"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        Vec::new()
    }

    fn watches_rare(&self) -> Vec<&'static Kind> {
        vec![&CERTIFICATE_SIGNING_REQUEST]
    }

    fn changed(&mut self, _: &View, change: &Informed, _: &DecideCx<'_>) -> Vec<Key> {
        there_is(change).into_iter().collect()
    }

    fn decide(&mut self, view: &View, key: &Key, cx: &DecideCx<'_>) -> Decision {
        let Some(csr) = view.get(&CERTIFICATE_SIGNING_REQUEST, &key.object) else {
            return Decision::settled();
        };
        let is_answered =
            has(csr, "Approved") || has(csr, "Denied") || !csr.text("/status/certificate").is_empty();
        if is_answered || csr.text("/spec/signerName") != KUBELET_CLIENT {
            return Decision::settled();
        }
        let Ok(request) = Request::read(csr) else { return Decision::settled() };
        if request.kubelet_client(&usages(csr)).is_err() {
            return Decision::settled();
        }
        let (part, why) = if request.name == csr.text("/spec/username") {
            ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.")
        } else {
            ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.")
        };
        let now = cx.now_text();
        let mut object = Object::clone(csr);
        let mut conditions = csr.list("/status/conditions").to_vec();
        conditions.push(json!({
            "type": "Approved", "status": "True", "reason": "AutoApproved", "message": why,
            "lastUpdateTime": now, "lastTransitionTime": now,
        }));
        object.set("/status/conditions", conditions);
        let write = Write::UpdatePart {
            kind: &CERTIFICATE_SIGNING_REQUEST,
            object,
            subresource: "approval",
        };
        let write = Write::IfAllowed { question: question(csr, part), write: Box::new(write) };
        let mut decision = Decision { writes: vec![write], ..Decision::default() };
        // The right may be given later.
        decision.again(LOOK_AGAIN);
        decision
    }
}

/// Whether the requestor may have it, as the spec of a SubjectAccessReview.
fn question(csr: &Object, part: &str) -> Value {
    let of = |member: &str| csr.get(&format!("/spec/{member}")).cloned().unwrap_or_default();
    json!({
        "user": of("username"), "uid": of("uid"), "groups": of("groups"), "extra": of("extra"),
        "resourceAttributes": {"group": "certificates.k8s.io", "resource": "certificatesigningrequests",
            "verb": "create", "subresource": part},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::CLIENT;
    use crate::certificates::tests::csr;
    use crate::testing::World;

    #[test]
    fn kubelets_are_approved_and_nobody_else() {
        const USAGES: &[&str] = &["client auth", "digital signature"];
        for (signer, name, user, expected) in [
            (KUBELET_CLIENT, "system:node:n-1", "system:bootstrap:abcdef", "/nodeclient"),
            (KUBELET_CLIENT, "system:node:n-1", "system:node:n-1", "/selfnodeclient"),
            (KUBELET_CLIENT, "jane", "jane", ""),
            (CLIENT, "system:node:n-1", "system:node:n-1", ""),
        ] {
            let mut world = World::new(|config| Box::new(CsrApproving::new(config)), "");
            let mut object = csr(signer, name, "system:nodes", &[], USAGES);
            object.set("/spec/username", user);
            world.see_object(&CERTIFICATE_SIGNING_REQUEST, object);
            let log = world.run_to(1);
            match expected {
                "" => assert_eq!(log, "", "{name}"),
                part => assert!(log.contains(&format!("if allowed certificatesigningrequests{part}")), "{log}"),
            }
            assert_eq!(log.contains("approval certificatesigningrequests/csr"), !expected.is_empty());
        }
    }
}
