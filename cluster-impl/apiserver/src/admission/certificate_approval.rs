//! CertificateApproval: who approves or denies a certificate needs the verb `approve` on its signer.

use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::Status;
use machinery::kinds::CERTIFICATE_SIGNING_REQUEST;

use super::{Operation, Plugin, Review, Step};
use crate::authorization::{self, Attributes};
use crate::status;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "CertificateApproval",
    stage: 23,
    admit: Step::Nothing,
    validate: Step::Waits(validate),
};

fn validate<'a>(review: &'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>> {
    async move {
        if review.subresource != "approval" {
            return Ok(());
        }
        check(review, "approve", "approve requests").await
    }
    .boxed()
}

/// Refuses who may not do this to the signer of the request that is updated.
pub(super) async fn check(
    review: &Review<'_>,
    verb: &'static str,
    what: &str,
) -> Result<(), Status> {
    let is_meant = review.kind.id == CERTIFICATE_SIGNING_REQUEST.id;
    let (true, Operation::Update, Some(old)) = (is_meant, review.operation, review.old) else {
        return Ok(());
    };
    let signer = old.text("/spec/signerName");
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer, &format!("{domain}/*")] {
        let asked = Attributes { name, ..Attributes::resource(verb, review.kind.group, "signers") };
        if authorization::decide(review.server, review.user, &asked).await?.is_allowed {
            return Ok(());
        }
    }
    let why = format!("user not permitted to {what} with signerName {signer:?}");
    Err(status::forbidden(review.kind, old.name(), &why))
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::{Value, json};

    use crate::config::User;
    use crate::testing::{CERTIFICATE_REQUEST, World, named, text};

    const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

    #[tokio::test(start_paused = true)]
    async fn approving_and_signing_need_a_right_to_the_signer() {
        let world = World::new().await;
        world.keep(world.env.spawn(crate::authorization::run(world.server.clone())));
        let roles = "/apis/rbac.authorization.k8s.io/v1";
        let requests = json!({"apiGroups": ["certificates.k8s.io"], "verbs": ["*"],
            "resources": ["certificatesigningrequests", "certificatesigningrequests/approval",
                "certificatesigningrequests/status"]});
        let signers = |verb: &str, name: &str| {
            json!({"apiGroups": ["certificates.k8s.io"], "resources": ["signers"],
                "verbs": [verb], "resourceNames": [name]})
        };
        for (user, rules) in [
            ("nobody", json!([requests])),
            ("other", json!([requests, signers("approve", "example.com/other")])),
            ("approver", json!([requests, signers("approve", "example.com/web")])),
            ("signer", json!([requests, signers("sign", "example.com/*")])),
        ] {
            let mut role = named("rbac.authorization.k8s.io/v1", "ClusterRole", user);
            role["rules"] = rules;
            world.create(&format!("{roles}/clusterroles"), role).await;
            let mut binding = named("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", user);
            binding["subjects"] = json!([
                {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}]);
            binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole", "name": user});
            world.create(&format!("{roles}/clusterrolebindings"), binding).await;
        }
        world.env.sleep(std::time::Duration::from_secs(2)).await;
        let mut body = named("certificates.k8s.io/v1", "CertificateSigningRequest", "web");
        body["spec"] = json!({"request": CERTIFICATE_REQUEST, "usages": ["client auth"],
            "signerName": "example.com/web"});
        world.create(PATH, body).await;
        let approved = json!({"status": {"conditions": [
            {"type": "Approved", "status": "True", "reason": "Known"}]}});
        let certificate = json!({"status": {"certificate":
            "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFBPT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo="}});
        let patch = async |user: &str, part: &str, body: &Value| {
            let user = User::new(user, &[]);
            let path = format!("{PATH}/web/{part}");
            world.call_as(&user, Method::PATCH, &path, body).await
        };
        for user in ["nobody", "other", "signer"] {
            let (code, answer) = patch(user, "approval", &approved).await;
            assert_eq!(code, 403, "{user}: {answer}");
            let why = "user not permitted to approve requests with signerName \"example.com/web\"";
            assert!(text(&answer["message"]).ends_with(why), "{answer}");
        }
        assert_eq!(patch("approver", "approval", &approved).await.0, 200);
        for (user, code) in [("nobody", 403), ("approver", 403), ("signer", 200)] {
            let (found, answer) = patch(user, "status", &certificate).await;
            assert_eq!(found, code, "{user}: {answer}");
        }
    }
}
