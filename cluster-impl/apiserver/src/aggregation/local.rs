//! The APIServices of what the server serves itself: made if they are missing, taken away with the custom
//! resources that they stand for.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use machinery::{Object, Status, versions};
use serde_json::{Value, json};

use crate::config::User;
use crate::endpoints::EXTRA;
use crate::server::ApiServer;

/// Says who looks after an APIService: the server at its start, or while a custom resource is defined.
const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";
const PATH: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// How groups stand among each other, and their versions, as upstream orders them.
const PRIORITIES: [(&str, i64, i64); 21] = [
    ("", 18000, 1),
    ("admissionregistration.k8s.io", 16700, 15),
    ("apiextensions.k8s.io", 16700, 15),
    ("apps", 17800, 15),
    ("authentication.k8s.io", 17700, 15),
    ("authorization.k8s.io", 17600, 15),
    ("autoscaling", 17500, 15),
    ("batch", 17400, 15),
    ("certificates.k8s.io", 17300, 15),
    ("coordination.k8s.io", 16500, 15),
    ("discovery.k8s.io", 16200, 15),
    ("events.k8s.io", 17750, 15),
    ("flowcontrol.apiserver.k8s.io", 16100, 21),
    ("metrics.k8s.io", 100, 100),
    ("networking.k8s.io", 17200, 15),
    ("node.k8s.io", 16300, 15),
    ("policy", 17100, 15),
    ("rbac.authorization.k8s.io", 17000, 15),
    ("resource.k8s.io", 16000, 15),
    ("scheduling.k8s.io", 16600, 15),
    ("storage.k8s.io", 16800, 15),
];

/// Group and version of everything that the server serves, with whether a definition makes it.
fn wanted(server: &ApiServer) -> BTreeMap<String, (String, String, bool)> {
    let name = |group: &str, version: &str| format!("{version}.{group}");
    let mut all = BTreeMap::new();
    // An APIService for APIServices would be one too many.
    let own = versions::served().filter(|kind| kind.group != "apiregistration.k8s.io");
    let kinds = own.map(|kind| (kind, false));
    for (kind, is_custom) in kinds.chain(server.customs.all().into_iter().map(|kind| (kind, true)))
    {
        let at = (kind.group.to_owned(), kind.version.to_owned(), is_custom);
        all.entry(name(kind.group, kind.version)).or_insert(at);
    }
    for extra in EXTRA.iter().filter(|extra| !extra.group.is_empty()) {
        let at = (extra.group.to_owned(), extra.version.to_owned(), false);
        all.insert(name(extra.group, extra.version), at);
    }
    all
}

/// Makes what is missing and takes away what is not served any more.
pub(super) async fn keep(server: &Arc<ApiServer>, known: &[Arc<Object>]) -> Result<(), Status> {
    let wanted = wanted(server);
    for (name, (group, version, is_custom)) in &wanted {
        if known.iter().any(|one| one.name() == name) {
            continue;
        }
        let of_group = PRIORITIES.iter().find(|(known, _, _)| known == group);
        let (group_priority, version_priority) =
            of_group.map_or((1000, 100), |(_, group, version)| (*group, *version));
        let body = json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": name, "labels": {LABEL: if *is_custom { "true" } else { "onstart" }}},
            "spec": {"group": group, "version": version, "groupPriorityMinimum": group_priority,
                "versionPriority": version_priority},
        });
        // Somebody else may have been faster.
        send(server, Method::POST, PATH, body).await;
    }
    let is_ours =
        |one: &&Arc<Object>| one.label(LABEL) == Some("true") && one.map("/spec/service").is_none();
    for gone in known.iter().filter(is_ours).filter(|one| !wanted.contains_key(one.name())) {
        send(server, Method::DELETE, &format!("{PATH}/{}", gone.name()), Value::Null).await;
    }
    Ok(())
}

async fn send(server: &Arc<ApiServer>, method: Method, path: &str, body: Value) {
    let user = User::new("system:apiserver", &["system:masters"]);
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .expect("names of groups and versions make a valid request");
    let code = server.handle(user, request).await.status().as_u16();
    if ![200, 201, 404, 409].contains(&code) {
        tracing::debug!(path, code, "an APIService could not be kept");
    }
}
