//! ServiceAccount: every pod runs under an account that exists, and gets what that account has: its pull
//! secrets, and a volume with a token, the authority of the API server and the namespace.
//!
//! A server that makes no tokens adds no such volume: no kubelet could fill it.
//! Limit: of what an account with `kubernetes.io/enforce-mountable-secrets` must reference, ephemeral
//! containers are not looked at.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::kinds::SERVICE_ACCOUNT;
use machinery::{Object, ObjectKey, Status};
use serde_json::{Value, json};

use super::{Operation, Plugin, Review, Step, find, nothing_to_do};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "ServiceAccount",
    stage: 6,
    admit: Step::Waits(admit),
    validate: Step::Waits(validate),
};

/// Marks the image of a pod that a kubelet runs on its own account.
const MIRROR: &str = "kubernetes.io/config.mirror";
const DEFAULT: &str = "default";
const ENFORCES: &str = "kubernetes.io/enforce-mountable-secrets";
/// Where programs look for who they are.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour and seven seconds: by the odd number the server knows tokens that may live on for a year.
const TOKEN_S: i64 = 3607;
/// A controller makes `default` soon after its namespace: so often it is looked for, so far apart.
const LOOKS: usize = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(150);

fn admit<'a>(review: &'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>> {
    let Some(pod) = review.pod(&[Operation::Create]) else { return nothing_to_do() };
    // A mirror pod must stay as its kubelet knows it.
    if pod.annotation(MIRROR).is_some() {
        return nothing_to_do();
    }
    // The second field is the old name of the first; upstream keeps both alike.
    let name = match (pod.text("/spec/serviceAccountName"), pod.text("/spec/serviceAccount")) {
        ("", "") => DEFAULT.to_owned(),
        ("", old) => old.to_owned(),
        (name, _) => name.to_owned(),
    };
    pod.set("/spec/serviceAccountName", name.as_str());
    pod.set("/spec/serviceAccount", name);
    fill_in(review).boxed()
}

fn validate<'a>(review: &'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>> {
    let Some(pod) = review.pod(&[Operation::Create]) else { return nothing_to_do() };
    if pod.annotation(MIRROR).is_none() {
        return check(review).boxed();
    }
    match wrong_with_mirror(pod) {
        Some(why) => {
            let refused = review.refusal(why);
            async move { Err(refused) }.boxed()
        }
        None => nothing_to_do(),
    }
}

async fn fill_in(review: &mut Review<'_>) -> Result<(), Status> {
    let account = account(review).await?;
    let Some(pod) = review.object.as_deref_mut() else { return Ok(()) };
    let secrets = account.list("/imagePullSecrets");
    if pod.list("/spec/imagePullSecrets").is_empty() && !secrets.is_empty() {
        pod.set("/spec/imagePullSecrets", secrets.to_vec());
    }
    let accounts = review.server.config.service_accounts.as_ref();
    let makes_tokens = accounts.is_some_and(|accounts| accounts.signing.is_some());
    if makes_tokens && wants_token(pod, &account) {
        let suffix = review.server.env.suffix(5);
        mount_token(pod, &format!("{VOLUME_PREFIX}{suffix}"));
    }
    Ok(())
}

/// What the pod says wins over what its account says.
fn wants_token(pod: &Object, account: &Object) -> bool {
    let said = |object: &Object, pointer: &str| object.get(pointer).and_then(Value::as_bool);
    said(pod, "/spec/automountServiceAccountToken")
        .or_else(|| said(account, "/automountServiceAccountToken"))
        .unwrap_or(true)
}

/// Mounts the volume into every container that has nothing in its place. A volume with such a name is
/// taken for what an earlier admission added.
fn mount_token(pod: &mut Object, new_name: &str) {
    let names = pod.list("/spec/volumes").iter().filter_map(|volume| volume["name"].as_str());
    let known = names.into_iter().find(|name| name.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let name = known.as_deref().unwrap_or(new_name);
    let mut is_needed = false;
    for list in ["initContainers", "containers"] {
        for container in pod.0["spec"][list].as_array_mut().into_iter().flatten() {
            let mounts = &mut container["volumeMounts"];
            if mounts.is_null() {
                *mounts = json!([]);
            }
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if mounts.iter().all(|mount| mount["mountPath"] != MOUNT_PATH) {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
                is_needed = true;
            }
        }
    }
    if known.is_none() && is_needed {
        let mut volumes = pod.list("/spec/volumes").to_vec();
        volumes.push(json!({"name": name, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_S, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}));
        pod.set("/spec/volumes", volumes);
    }
}

async fn check(review: &mut Review<'_>) -> Result<(), Status> {
    let account = account(review).await?;
    let Some(pod) = review.object.as_deref() else { return Ok(()) };
    if account.annotation(ENFORCES).is_some_and(|value| value == "true")
        && let Some(why) = foreign_secret(pod, &account)
    {
        return Err(review.refusal(&why));
    }
    Ok(())
}

/// The account that the pod names.
async fn account(review: &Review<'_>) -> Result<Arc<Object>, Status> {
    let name = review.object.as_deref().map(|pod| pod.text("/spec/serviceAccountName"));
    let name = name.unwrap_or_default();
    let namespace = review.key.namespace.as_str();
    if name.is_empty() {
        let why = format!("no service account specified for pod {}", review.key);
        return Err(review.refusal(&why));
    }
    let key = ObjectKey::new(namespace, name);
    let looks = if name == DEFAULT { LOOKS } else { 1 };
    for look in 0..looks {
        if look > 0 {
            review.server.env.sleep(BETWEEN_LOOKS).await;
        }
        if let Some(account) = find(review.server, &SERVICE_ACCOUNT, &key).await? {
            return Ok(account);
        }
    }
    let why =
        format!("error looking up service account {key}: serviceaccount \"{name}\" not found");
    Err(review.refusal(&why))
}

/// What a mirror pod must not have: its kubelet cannot get it.
fn wrong_with_mirror(pod: &Object) -> Option<&'static str> {
    let volumes = pod.list("/spec/volumes");
    let tokens = |volume: &Value| {
        let mut sources = volume["projected"]["sources"].as_array().into_iter().flatten();
        sources.any(|source| !source["serviceAccountToken"].is_null())
    };
    if !pod.text("/spec/serviceAccountName").is_empty() {
        Some("a mirror pod may not reference service accounts")
    } else if !secrets(pod).is_empty() || !pod.list("/spec/imagePullSecrets").is_empty() {
        Some("a mirror pod may not reference secrets")
    } else if volumes.iter().any(tokens) {
        Some("a mirror pod may not use ServiceAccountToken volume projections")
    } else if volumes.iter().any(|volume| !volume["persistentVolumeClaim"].is_null()) {
        Some("a mirror pod may not reference persistentvolumeclaims")
    } else {
        None
    }
}

/// The secrets that a pod refers to, each with where it does.
fn secrets(pod: &Object) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut note = |place: String, name: &Value| {
        if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
            found.push((place, name.to_owned()));
        }
    };
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    for volume in pod.list("/spec/volumes") {
        note("volume with ".to_owned(), &volume["secret"]["secretName"]);
        for source in list(&volume["projected"]["sources"]) {
            note("volume with ".to_owned(), &source["secret"]["name"]);
        }
    }
    for (field, what) in [("initContainers", "init container"), ("containers", "container")] {
        for container in list(&pod.0["spec"][field]) {
            let name = container["name"].as_str().unwrap_or_default();
            for variable in list(&container["env"]) {
                let of = variable["name"].as_str().unwrap_or_default();
                let place = format!("{what} {name} with envVar {of} referencing ");
                note(place, &variable["valueFrom"]["secretKeyRef"]["name"]);
            }
            for source in list(&container["envFrom"]) {
                let place = format!("{what} {name} with envFrom referencing ");
                note(place, &source["secretRef"]["name"]);
            }
        }
    }
    found
}

/// A secret that the pod refers to and its account does not.
fn foreign_secret(pod: &Object, account: &Object) -> Option<String> {
    let names = |list: &str, name: &str| account.list(list).iter().any(|one| one["name"] == name);
    let foreign = secrets(pod).into_iter().find(|(_, name)| !names("/secrets", name));
    let account_name = account.name();
    if let Some((place, name)) = foreign {
        return Some(format!(
            "{place}secret.secretName=\"{name}\" is not allowed because service account \
             {account_name} does not reference that secret"
        ));
    }
    let pulls = pod.list("/spec/imagePullSecrets").iter().enumerate();
    let mut pulls = pulls.map(|(at, one)| (at, one["name"].as_str().unwrap_or_default()));
    let (at, name) = pulls.find(|(_, name)| !names("/imagePullSecrets", name))?;
    Some(format!(
        "imagePullSecrets[{at}].name=\"{name}\" is not allowed because service account \
         {account_name} does not reference that imagePullSecret"
    ))
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::Config;
    use crate::testing::{PODS, World, named, pod, text};

    const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

    fn with(name: &str, spec: Value) -> Value {
        let mut body = pod(name);
        for (field, value) in spec.as_object().unwrap() {
            body["spec"][field] = value.clone();
        }
        body
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_gets_an_account_and_what_it_has() {
        let world = World::new().await;
        let mut account = named("v1", "ServiceAccount", "web");
        account["imagePullSecrets"] = json!([{"name": "registry"}]);
        world.create(ACCOUNTS, account).await;
        for (name, spec, account, secrets) in [
            ("a", json!({}), "default", Value::Null),
            ("b", json!({"serviceAccountName": "web"}), "web", json!([{"name": "registry"}])),
            ("c", json!({"serviceAccount": "web"}), "web", json!([{"name": "registry"}])),
            (
                "d",
                json!({"serviceAccountName": "web", "imagePullSecrets": [{"name": "own"}]}),
                "web",
                json!([{"name": "own"}]),
            ),
        ] {
            let made = world.create(PODS, with(name, spec)).await;
            assert_eq!(made["spec"]["serviceAccountName"], account);
            assert_eq!(made["spec"]["serviceAccount"], account);
            assert_eq!(made["spec"]["imagePullSecrets"], secrets, "{name}");
        }
        let body = with("e", json!({"serviceAccountName": "gone"}));
        let (code, answer) = world.call(Method::POST, PODS, &body).await;
        assert_eq!(code, 403);
        assert_eq!(
            text(&answer["message"]),
            "pods \"e\" is forbidden: error looking up service account default/gone: serviceaccount \
             \"gone\" not found"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn containers_are_given_a_token_unless_pod_or_account_refuse() {
        let service_accounts = Some(crate::ServiceAccounts::simulated());
        let world = World::with(&[], Config { service_accounts, ..Config::new("cp-1") }).await;
        let mut account = named("v1", "ServiceAccount", "quiet");
        account["automountServiceAccountToken"] = false.into();
        world.create(ACCOUNTS, account).await;
        for (name, spec, has_volume) in [
            ("a", json!({}), true),
            ("b", json!({"automountServiceAccountToken": false}), false),
            ("c", json!({"serviceAccountName": "quiet"}), false),
            (
                "d",
                json!({"serviceAccountName": "quiet", "automountServiceAccountToken": true}),
                true,
            ),
        ] {
            let made = world.create(PODS, with(name, spec)).await;
            assert_eq!(made["spec"]["volumes"].is_array(), has_volume, "{name}: {made}");
        }
        let init = json!([{"name": "init", "image": "web:1",
            "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}]);
        let body = with(
            "e",
            json!({"initContainers": init,
            "volumes": [{"name": "own", "emptyDir": {}}]}),
        );
        let made = world.create(PODS, body).await;
        let volume = &made["spec"]["volumes"][1];
        let name = text(&volume["name"]);
        let suffix = name.strip_prefix("kube-api-access-").unwrap();
        assert_eq!(suffix.len(), 5, "{name}");
        assert_eq!(
            volume["projected"],
            json!({"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ]})
        );
        assert_eq!(
            made["spec"]["containers"][0]["volumeMounts"],
            json!([{"name": name, "readOnly": true, "mountPath": MOUNT_PATH}])
        );
        let mounts = &made["spec"]["initContainers"][0]["volumeMounts"];
        assert_eq!(mounts.as_array().map(Vec::len), Some(1), "{mounts}");
        // What an earlier admission added is used again.
        let body =
            with("f", json!({"volumes": [{"name": "kube-api-access-mine", "emptyDir": {}}]}));
        let made = world.create(PODS, body).await;
        assert_eq!(made["spec"]["volumes"].as_array().map(Vec::len), Some(1));
        let mounts = &made["spec"]["containers"][0]["volumeMounts"];
        assert_eq!(mounts[0]["name"], "kube-api-access-mine");
    }

    #[tokio::test(start_paused = true)]
    async fn the_default_account_is_waited_for() {
        let world = World::new().await;
        world.create("/api/v1/namespaces", named("v1", "Namespace", "new")).await;
        let path = "/api/v1/namespaces/new/pods";
        let create = async {
            let began = world.env.instant();
            let made = world.call(Method::POST, path, &pod("a")).await;
            (made.0, world.env.instant() - began)
        };
        let controller = async {
            world.env.sleep(Duration::from_millis(700)).await;
            let accounts = "/api/v1/namespaces/new/serviceaccounts";
            world.create(accounts, named("v1", "ServiceAccount", "default")).await;
        };
        let ((code, took), ()) = tokio::join!(create, controller);
        assert_eq!(code, 201);
        assert!(took >= Duration::from_millis(700) && took < Duration::from_secs(1), "{took:?}");
        world.create("/api/v1/namespaces", named("v1", "Namespace", "never")).await;
        let path = "/api/v1/namespaces/never/pods";
        assert_eq!(world.call(Method::POST, path, &pod("a")).await.0, 403);
    }

    #[tokio::test(start_paused = true)]
    async fn mirror_pods_and_enforced_secrets() {
        let world = World::new().await;
        let mut account = named("v1", "ServiceAccount", "strict");
        account["metadata"]["annotations"] = json!({ENFORCES: "true"});
        account["secrets"] = json!([{"name": "mine"}]);
        world.create(ACCOUNTS, account).await;
        let strict = |more: Value| {
            let mut body = with("p", json!({"serviceAccountName": "strict"}));
            for (field, value) in more.as_object().unwrap() {
                body["spec"][field] = value.clone();
            }
            body
        };
        let mirror = |more: Value| {
            let mut body = with("p", more);
            body["metadata"]["annotations"] = json!({MIRROR: "x"});
            body["spec"]["nodeName"] = "n".into();
            body
        };
        let volume =
            |name: &str| json!({"volumes": [{"name": "v", "secret": {"secretName": name}}]});
        let main = json!([{"name": "main", "image": "web:1", "env": [{"name": "A",
            "valueFrom": {"secretKeyRef": {"name": "other", "key": "k"}}}]}]);
        for (body, why) in [
            (
                strict(volume("other")),
                "volume with secret.secretName=\"other\" is not allowed because service account \
                 strict does not reference that secret",
            ),
            (
                strict(json!({"containers": main})),
                "container main with envVar A referencing secret.secretName=\"other\" is not allowed \
                 because service account strict does not reference that secret",
            ),
            (
                strict(json!({"imagePullSecrets": [{"name": "x"}]})),
                "imagePullSecrets[0].name=\"x\" is not allowed because service account strict does \
                 not reference that imagePullSecret",
            ),
            (
                mirror(json!({"serviceAccountName": "default"})),
                "a mirror pod may not reference service accounts",
            ),
            (mirror(volume("mine")), "a mirror pod may not reference secrets"),
        ] {
            let (code, answer) = world.call(Method::POST, PODS, &body).await;
            assert_eq!(code, 403, "{answer}");
            assert_eq!(text(&answer["message"]), format!("pods \"p\" is forbidden: {why}"));
        }
        world.create(PODS, strict(volume("mine"))).await;
        let mut own = mirror(json!({}));
        own["metadata"]["name"] = "mirror".into();
        assert_eq!(world.create(PODS, own).await["spec"].get("serviceAccountName"), None);
    }
}
