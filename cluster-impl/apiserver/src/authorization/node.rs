//! The node authorizer: what a kubelet may do, beside what RBAC allows.
//!
//! A kubelet is `system:node:<name>` in the group `system:nodes`. It reads its own Node, its own pods,
//! and the Secrets, ConfigMaps and claims that those pods use. Upstream keeps a graph of these
//! relations; here the pods of the node that the server has seen are looked at, and if none of them leads
//! there those in the store, so that a refusal is never older than the question.
//! Limits: no ResourceClaims, and a claim of an ephemeral volume is known by its name alone.

use std::sync::{Arc, LazyLock};

use machinery::kinds::POD;
use machinery::{Kind, Object, ObjectKey, Status};
use serde_json::Value;
use storage::{KeyRange, RangeRequest};

use super::default_policy;
use super::rules::{Attributes, Rule};
use crate::config::User;
use crate::picture::Picture;
use crate::query::Query;
use crate::selection::Selection;
use crate::server::ApiServer;
use crate::verbs::list;
use crate::{status, storage_key};

const GROUP: &str = "system:nodes";
const PREFIX: &str = "system:node:";
/// Where the Leases of nodes are.
const LEASES: &str = "kube-node-lease";

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(default_policy::node_rules);

/// What this authorizer says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opinion {
    Allowed,
    /// Others may allow it; the reason may be empty.
    None(String),
}

/// The node that a user is the kubelet of.
pub(crate) fn node_of(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix(PREFIX)?;
    user.groups.iter().any(|group| group == GROUP).then_some(name)
}

/// Decides.
pub(crate) async fn decide(
    server: &ApiServer,
    user: &User,
    asked: &Attributes<'_>,
) -> Result<Opinion, Status> {
    let Some(node) = node_of(user) else { return Ok(none("")) };
    if node.is_empty() {
        return Ok(none(format!("unknown node for user {:?}", user.name)));
    }
    match (asked.group, asked.resource) {
        ("", "secrets" | "configmaps") => read_namespaced(server, node, asked).await,
        ("", "persistentvolumeclaims") => claim(server, node, asked).await,
        ("", "persistentvolumes") | ("storage.k8s.io", "volumeattachments") => {
            match only_get(asked) {
                Some(refused) => Ok(refused),
                None => relation(server, node, asked).await,
            }
        }
        ("", "serviceaccounts") => account(server, node, asked).await,
        ("coordination.k8s.io", "leases") => Ok(lease(node, asked)),
        ("storage.k8s.io", "csinodes") => Ok(csi_node(node, asked)),
        ("", "nodes") => Ok(own_node(node, asked)),
        ("", "pods") => pod(server, node, asked).await,
        _ if RULES.iter().any(|rule| rule.allows(asked)) => Ok(Opinion::Allowed),
        _ => Ok(none("")),
    }
}

fn none(reason: impl Into<String>) -> Opinion {
    Opinion::None(reason.into())
}

fn only_get(asked: &Attributes<'_>) -> Option<Opinion> {
    match (asked.verb, asked.subresource) {
        ("get", "") => None,
        ("get", _) => Some(none("cannot get subresource")),
        _ => Some(none("can only get individual resources of this type")),
    }
}

async fn read_namespaced(
    server: &ApiServer,
    node: &str,
    asked: &Attributes<'_>,
) -> Result<Opinion, Status> {
    if !["get", "list", "watch"].contains(&asked.verb) {
        return Ok(none("can only read resources of this type"));
    }
    if !asked.subresource.is_empty() {
        return Ok(none("cannot read subresource"));
    }
    if asked.namespace.is_empty() {
        return Ok(none("can only read namespaced object of this type"));
    }
    relation(server, node, asked).await
}

async fn claim(server: &ApiServer, node: &str, asked: &Attributes<'_>) -> Result<Opinion, Status> {
    if asked.subresource == "status" {
        return match asked.verb {
            "update" | "patch" => relation(server, node, asked).await,
            _ => Ok(none("can only get or update status for individual resources of this type")),
        };
    }
    match only_get(asked) {
        Some(refused) => Ok(refused),
        None => relation(server, node, asked).await,
    }
}

async fn account(
    server: &ApiServer,
    node: &str,
    asked: &Attributes<'_>,
) -> Result<Opinion, Status> {
    match (asked.verb, asked.subresource) {
        ("create", "token") => relation(server, node, asked).await,
        _ => Ok(none("can only create tokens for individual service accounts")),
    }
}

fn lease(node: &str, asked: &Attributes<'_>) -> Opinion {
    if !["get", "create", "update", "patch", "delete"].contains(&asked.verb) {
        return none("can only get, create, update, patch, or delete a node lease");
    }
    if asked.namespace != LEASES {
        return none(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    // The name of what is created is not known yet; admission looks at it.
    if asked.verb != "create" && asked.name != node {
        return none("can only access node lease with the same name as the requesting node");
    }
    Opinion::Allowed
}

fn csi_node(node: &str, asked: &Attributes<'_>) -> Opinion {
    if !["get", "create", "update", "patch", "delete"].contains(&asked.verb) {
        return none("can only get, create, update, patch, or delete a CSINode");
    }
    if !asked.subresource.is_empty() {
        return none("cannot authorize CSINode subresources");
    }
    if asked.verb != "create" && asked.name != node {
        return none("can only access CSINode with the same name as the requesting node");
    }
    Opinion::Allowed
}

/// Whose Node is written is looked at by admission.
fn own_node(node: &str, asked: &Attributes<'_>) -> Opinion {
    match (asked.subresource, asked.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Opinion::Allowed,
        ("", "get" | "list" | "watch") if asked.name == node => Opinion::Allowed,
        ("", "get" | "list" | "watch") if asked.name.is_empty() => {
            none(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            none(format!("node '{node}' cannot read '{}', only its own Node object", asked.name))
        }
        _ => none(""),
    }
}

async fn pod(server: &ApiServer, node: &str, asked: &Attributes<'_>) -> Result<Opinion, Status> {
    Ok(match (asked.subresource, asked.verb) {
        ("", "get") => {
            let key = ObjectKey::new(asked.namespace, asked.name);
            match object(server, &POD, &key).await? {
                // That a pod is gone is what a kubelet must learn of it.
                None => Opinion::Allowed,
                Some(pod) if pod.text("/spec/nodeName") == node => Opinion::Allowed,
                Some(_) => unrelated(node),
            }
        }
        ("", "list" | "watch") if asked.of_node == node => Opinion::Allowed,
        ("", "list" | "watch") => {
            none("can only list/watch pods with spec.nodeName field selector")
        }
        ("", "create" | "delete") | ("eviction", "create") | ("status", "update" | "patch") => {
            Opinion::Allowed
        }
        _ => none(""),
    })
}

fn unrelated(node: &str) -> Opinion {
    none(format!("no relationship found between node '{node}' and this object"))
}

/// Whether a pod of the node leads to what is asked for.
async fn relation(
    server: &ApiServer,
    node: &str,
    asked: &Attributes<'_>,
) -> Result<Opinion, Status> {
    if asked.name.is_empty() {
        return Ok(none("No Object name found"));
    }
    let is_related = match asked.resource {
        "volumeattachments" => {
            let attachment = other(server, asked).await?;
            attachment.is_some_and(|one| one.text("/spec/nodeName") == node)
        }
        "persistentvolumes" => match other(server, asked).await? {
            None => false,
            Some(volume) => {
                let claim = |field: &str| volume.text(&format!("/spec/claimRef/{field}"));
                let (namespace, name) = (claim("namespace"), claim("name"));
                uses(server, node, namespace, "persistentvolumeclaims", name).await?
            }
        },
        resource => uses(server, node, asked.namespace, resource, asked.name).await?,
    };
    Ok(if is_related { Opinion::Allowed } else { unrelated(node) })
}

async fn other(server: &ApiServer, asked: &Attributes<'_>) -> Result<Option<Arc<Object>>, Status> {
    match Kind::by_plural(asked.group, asked.resource) {
        None => Ok(None),
        Some(kind) => object(server, kind, &ObjectKey::new("", asked.name)).await,
    }
}

async fn object(
    server: &ApiServer,
    kind: &Kind,
    key: &ObjectKey,
) -> Result<Option<Arc<Object>>, Status> {
    let asked = RangeRequest::latest(KeyRange::key(storage_key::key(kind, key)));
    let found = server.store.range(asked).await.map_err(status::from_store)?;
    found.kvs.first().map(|kv| server.decoded.object(kv)).transpose()
}

/// Whether a pod of the node uses an object of its namespace.
async fn uses(
    server: &ApiServer,
    node: &str,
    namespace: &str,
    resource: &str,
    name: &str,
) -> Result<bool, Status> {
    if namespace.is_empty() || name.is_empty() {
        return Ok(false);
    }
    let leads = |pod: &Object| pod.namespace() == namespace && refers(pod, resource, name);
    if Picture::pods_of(server, node).iter().any(|pod| leads(pod)) {
        return Ok(true);
    }
    let query = Query::parse(&format!("fieldSelector=spec.nodeName%3D{node}"));
    let selection = Selection::read(&POD, &ObjectKey::new(namespace, ""), &query)?;
    for kv in &list::everything(server, &selection, None).await?.kvs {
        if refers(server.decoded.object(kv)?.as_ref(), resource, name) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a pod refers to an object of its namespace.
fn refers(pod: &Object, resource: &str, name: &str) -> bool {
    let spec = &pod.0["spec"];
    match resource {
        "serviceaccounts" => spec["serviceAccountName"] == name,
        "configmaps" => mentions(spec, &["configMap", "configMapRef", "configMapKeyRef"], name),
        "secrets" => {
            let keys = [
                "azureFile",
                "imagePullSecrets",
                "nodePublishSecretRef",
                "secret",
                "secretKeyRef",
                "secretRef",
            ];
            mentions(spec, &keys, name)
        }
        "persistentvolumeclaims" => pod.list("/spec/volumes").iter().any(|volume| {
            let of_volume = volume["name"].as_str().unwrap_or_default();
            volume["persistentVolumeClaim"]["claimName"] == name
                || !volume["ephemeral"].is_null() && format!("{}-{of_volume}", pod.name()) == name
        }),
        _ => false,
    }
}

/// Whether a reference under one of these keys, at any depth, names the object.
fn mentions(value: &Value, keys: &[&str], name: &str) -> bool {
    match value {
        Value::Object(members) => members.iter().any(|(key, value)| {
            let names = |one: &Value| one["name"] == name || one["secretName"] == name;
            let is_named = keys.contains(&key.as_str())
                && (names(value) || value.as_array().is_some_and(|all| all.iter().any(names)));
            is_named || mentions(value, keys, name)
        }),
        Value::Array(items) => items.iter().any(|item| mentions(item, keys, name)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_leads_to_what_it_uses() {
        let pod = Object(json!({"metadata": {"name": "web"}, "spec": {
            "serviceAccountName": "ci", "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "s-volume"}},
                {"name": "b", "configMap": {"name": "c-volume"}},
                {"name": "c", "projected": {"sources": [{"secret": {"name": "s-projected"}}]}},
                {"name": "d", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "e", "ephemeral": {}},
            ],
            "containers": [{"name": "main", "envFrom": [{"configMapRef": {"name": "c-from"}}],
                "env": [{"name": "x", "valueFrom": {"secretKeyRef": {"name": "s-env"}}}]}],
        }}));
        for (resource, name, found) in [
            ("secrets", "s-volume", true),
            ("secrets", "s-projected", true),
            ("secrets", "s-env", true),
            ("secrets", "pull", true),
            ("secrets", "c-volume", false),
            ("secrets", "main", false),
            ("configmaps", "c-volume", true),
            ("configmaps", "c-from", true),
            ("configmaps", "s-env", false),
            ("persistentvolumeclaims", "data", true),
            ("persistentvolumeclaims", "web-e", true),
            ("persistentvolumeclaims", "web-a", false),
            ("serviceaccounts", "ci", true),
        ] {
            assert_eq!(refers(&pod, resource, name), found, "{resource} {name}");
        }
    }
}
