//! CertificateSigningRequests: who asks is written down by the server, and approval is a write of its own.
//!
//! Whether somebody may approve or sign is asked in admission; who signs is a controller.

use env::Env;
use machinery::conditions::seconds;
use machinery::kinds::{self, CERTIFICATE_SIGNING_REQUEST};
use machinery::{Cause, Kind, Object};
use serde_json::{Value, json};

use crate::config::User;

/// Writes down who asks, whatever the request says.
pub(crate) fn stamp(user: &User, kind: &Kind, object: &mut Object) {
    if kind.id != CERTIFICATE_SIGNING_REQUEST.id {
        return;
    }
    for (field, value) in [
        ("username", json!(user.name)),
        ("uid", json!(user.uid)),
        ("groups", json!(user.groups)),
        ("extra", json!(user.extra)),
    ] {
        let pointer = format!("/spec/{field}");
        let is_empty = match &value {
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if is_empty { drop(object.remove(&pointer)) } else { object.set(&pointer, value) }
    }
}

/// Before the approval is written: only the conditions change, and they say since when they hold.
pub(crate) fn approve(env: &Env, object: &mut Object, old: &Object) {
    kinds::prepare_approval(object, old);
    let now = seconds(env.now());
    let before = old.list("/status/conditions");
    let mut conditions = object.list("/status/conditions").to_vec();
    for condition in conditions.iter_mut().filter(|condition| condition.is_object()) {
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = now.as_str().into();
        }
        if condition["lastTransitionTime"].is_null() {
            let same = before.iter().find(|one| {
                one["type"] == condition["type"] && one["status"] == condition["status"]
            });
            let since = same.map(|one| one["lastTransitionTime"].clone());
            condition["lastTransitionTime"] =
                since.filter(Value::is_string).unwrap_or_else(|| now.as_str().into());
        }
    }
    object.set("/status/conditions", conditions);
}

/// What is wrong with a write of the status, or of the approval.
pub(crate) fn validate(kind: &Kind, subresource: &str, new: &Object, old: &Object) -> Vec<Cause> {
    if kind.id != CERTIFICATE_SIGNING_REQUEST.id || subresource.is_empty() {
        return Vec::new();
    }
    kinds::validate_answer(new, old, subresource == "approval")
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::testing::{CERTIFICATE_REQUEST, World, named, text};

    const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

    #[tokio::test(start_paused = true)]
    async fn a_request_is_asked_for_and_approved() {
        let world = World::new().await;
        let mut body = named("certificates.k8s.io/v1", "CertificateSigningRequest", "jane");
        body["spec"] = json!({"request": CERTIFICATE_REQUEST, "usages": ["client auth"], "username": "root",
            "signerName": "kubernetes.io/kube-apiserver-client"});
        let created = world.create(PATH, body).await;
        assert_eq!(created["spec"]["username"], "kubernetes-admin");
        assert_eq!(created["spec"]["groups"], json!(["system:masters", "system:authenticated"]));
        let approved = json!({"status": {"conditions": [
            {"type": "Approved", "status": "True", "reason": "Known"}]}});
        let (code, _) = world.call(Method::PATCH, &format!("{PATH}/jane/status"), &approved).await;
        assert_eq!(code, 422, "the status does not approve");
        let answer = world.patch(&format!("{PATH}/jane/approval"), approved).await;
        let condition = &answer["status"]["conditions"][0];
        assert_eq!(text(&condition["type"]), "Approved");
        assert!(text(&condition["lastTransitionTime"]).starts_with("2026-"));
        let certificate = json!({"status": {"certificate": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFBPT0K\
            LS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo="}});
        let (code, _) =
            world.call(Method::PATCH, &format!("{PATH}/jane/approval"), &certificate).await;
        assert_eq!(code, 200, "and changes nothing else");
        assert_eq!(world.get(&format!("{PATH}/jane")).await["status"].get("certificate"), None);
        let issued = world.patch(&format!("{PATH}/jane/status"), certificate).await;
        assert!(issued["status"]["certificate"].is_string());
        let denied = json!({"status": {"conditions": []}});
        let (code, _) = world.call(Method::PATCH, &format!("{PATH}/jane/approval"), &denied).await;
        assert_eq!(code, 422, "an approval stays");
    }
}
