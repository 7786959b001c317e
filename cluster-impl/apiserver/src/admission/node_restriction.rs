//! NodeRestriction: a kubelet writes its own Node, its own Lease, and what concerns its own pods.
//!
//! The node authorizer cannot know these: it does not look into what is written.
//! Limit: what a mirror pod refers to is not looked at.

use std::collections::BTreeSet;

use machinery::kinds::SERVICE_ACCOUNT;
use machinery::{Object, ObjectKey, Status};

use super::{Operation, Plugin, Review, Step};
use crate::authorization::node::node_of;
use crate::config::User;
use crate::status;

pub(super) const PLUGIN: Plugin =
    Plugin { name: "NodeRestriction", stage: 7, admit: Step::Now(admit), validate: Step::Nothing };

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";
/// Labels of Kubernetes' own domains that a kubelet may set on its Node.
const LABELS: [&str; 13] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// ... and all labels of these domains and their subdomains.
const DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

fn admit(review: &mut Review<'_>) -> Result<(), Status> {
    let Some(node) = node_of(review.user) else { return Ok(()) };
    let refused = |why: String| Err(status::forbidden(review.kind, &review.key.name, &why));
    if node.is_empty() {
        let name = &review.user.name;
        return refused(format!("could not determine node identity from user {name:?}"));
    }
    if let (Operation::Delete, Some(old)) = (review.operation, review.old)
        && review.kind.id == "pods"
        && old.text("/spec/nodeName") != node
    {
        let why = format!("node {node:?} can only delete pods with spec.nodeName set to itself");
        return refused(why);
    }
    let Some(object) = review.object.as_deref() else { return Ok(()) };
    let wrong = match (review.kind.id, review.subresource, review.old) {
        ("pods", "", None) => new_pod(node, object),
        ("pods", "", Some(_)) => Some(format!(
            "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
        )),
        ("pods", "status", Some(old)) => pod_status(node, object, old),
        ("pods", other, _) => Some(format!(
            "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
        )),
        ("nodes", _, old) => own_node(node, object, old),
        ("leases.coordination.k8s.io", _, _) if object.namespace() != LEASES => {
            Some(format!("can only access leases in the {LEASES:?} system namespace"))
        }
        ("leases.coordination.k8s.io", _, _) if object.name() != node => {
            Some("can only access node lease with the same name as the requesting node".to_owned())
        }
        ("csinodes.storage.k8s.io", _, _) if object.name() != node => {
            Some("can only access CSINode with the same name as the requesting node".to_owned())
        }
        _ => None,
    };
    wrong.map_or(Ok(()), refused)
}

/// Refuses a kubelet a token that is not for a pod of its own node.
pub(crate) fn check_token(
    user: &User,
    account: &ObjectKey,
    pod: Option<&Object>,
    pod_uid: &str,
) -> Result<(), Status> {
    let Some(node) = node_of(user) else { return Ok(()) };
    let why = match pod {
        None => "node requested token not bound to a pod",
        Some(_) if pod_uid.is_empty() => "node requested token with a pod binding without a uid",
        Some(pod) if pod.text("/spec/nodeName") != node => {
            "node requested token bound to a pod scheduled on a different node"
        }
        Some(_) => return Ok(()),
    };
    Err(status::forbidden(&SERVICE_ACCOUNT, &account.name, why))
}

fn new_pod(node: &str, pod: &Object) -> Option<String> {
    if pod.annotation(MIRROR).is_none() {
        return Some(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    (pod.text("/spec/nodeName") != node)
        .then(|| format!("node {node:?} can only create pods with spec.nodeName set to itself"))
}

fn pod_status(node: &str, pod: &Object, old: &Object) -> Option<String> {
    if old.text("/spec/nodeName") != node {
        return Some(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    (pod.get("/metadata/labels") != old.get("/metadata/labels"))
        .then(|| format!("node {node:?} cannot update labels through pod status"))
}

fn own_node(node: &str, object: &Object, old: Option<&Object>) -> Option<String> {
    if object.name() != node {
        let name = object.name();
        return Some(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let differs = |part: &str| old.is_some_and(|old| old.get(part) != object.get(part));
    if differs("/spec/taints") {
        return Some(format!("node {node:?} is not allowed to modify taints"));
    }
    if differs("/metadata/ownerReferences") {
        return Some(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    let changed = changed_labels(object, old);
    let forbidden: Vec<_> = changed.into_iter().filter(|label| !may_set(label)).collect();
    if forbidden.is_empty() {
        return None;
    }
    let (verb, list) = if old.is_some() {
        ("modify labels", forbidden)
    } else {
        ("set the following labels", forbidden)
    };
    Some(format!("node {node:?} is not allowed to {verb}: {}", list.join(", ")))
}

fn changed_labels<'o>(new: &'o Object, old: Option<&'o Object>) -> BTreeSet<&'o str> {
    let keys = |object: &'o Object| {
        object.map("/metadata/labels").into_iter().flatten().map(|(key, _)| key.as_str())
    };
    let all = keys(new).chain(old.into_iter().flat_map(keys));
    all.filter(|key| new.label(key) != old.and_then(|old| old.label(key))).collect()
}

fn may_set(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return true };
    let within = |outer: &str| {
        domain == outer || domain.strip_suffix(outer).is_some_and(|rest| rest.ends_with('.'))
    };
    !(within("kubernetes.io") || within("k8s.io"))
        || LABELS.contains(&label)
        || DOMAINS.into_iter().any(within)
}

#[cfg(test)]
mod tests {
    use machinery::Kind;
    use machinery::kinds::{LEASE, NODE, POD};
    use serde_json::{Value, json};

    use super::super::tests::Trial;
    use super::*;

    fn kubelet() -> User {
        User::new("system:node:n-1", &["system:nodes"])
    }

    /// Whether this user may delete a pod of this node.
    fn deletes(user: &User, pod: Value) -> bool {
        let old = Object(pod);
        let trial = Trial::new(user, &POD, old.key(), "");
        admit(&mut Review { old: Some(&old), ..trial.review(Operation::Delete) }).is_ok()
    }

    /// Why a kubelet of n-1 may not write this; "" if it may.
    fn refusal(kind: &'static Kind, subresource: &str, new: Value, old: Option<Value>) -> String {
        let (mut object, old) = (Object(new), old.map(Object));
        let key = ObjectKey::new(object.namespace(), object.name());
        let operation = if old.is_some() { Operation::Update } else { Operation::Create };
        let trial = Trial::new(&kubelet(), kind, key, subresource);
        let review = trial.review(operation);
        let result = admit(&mut Review { object: Some(&mut object), old: old.as_ref(), ..review });
        result.map_or_else(
            |status| status.message.split_once("forbidden: ").unwrap().1.to_owned(),
            |()| String::new(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_kubelet_writes_its_own_node() {
        let node = |name: &str, label: &str| json!({"metadata": {"name": name, "labels": {label: "x"}}, "spec": {}});
        let mut tainted = node("n-1", "a");
        tainted["spec"]["taints"] = json!([{"key": "a", "effect": "NoExecute"}]);
        let own = node("n-1", "a");
        for (new, old, expected) in [
            (own.clone(), None, ""),
            (node("n-1", "kubernetes.io/hostname"), None, ""),
            (node("n-1", "foo.node.kubernetes.io/x"), Some(own.clone()), ""),
            (tainted.clone(), None, ""),
            (node("n-2", "a"), None, "node \"n-1\" is not allowed to modify node \"n-2\""),
            (
                node("n-1", "node-restriction.kubernetes.io/x"),
                None,
                "node \"n-1\" is not allowed to set the following labels: \
                 node-restriction.kubernetes.io/x",
            ),
            (
                node("n-1", "node-role.kubernetes.io/master"),
                Some(own.clone()),
                "node \"n-1\" is not allowed to modify labels: node-role.kubernetes.io/master",
            ),
            (tainted, Some(own), "node \"n-1\" is not allowed to modify taints"),
        ] {
            assert_eq!(refusal(&NODE, "", new, old), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_kubelet_tells_the_status_of_its_own_pods() {
        let pod = |node: &str| {
            json!({"metadata": {"name": "a", "namespace": "default"},
            "spec": {"nodeName": node}})
        };
        let mut mirror = pod("n-1");
        mirror["metadata"]["annotations"] = json!({MIRROR: "x"});
        assert_eq!(refusal(&POD, "status", pod("n-1"), Some(pod("n-1"))), "");
        assert_eq!(
            refusal(&POD, "status", pod("n-2"), Some(pod("n-2"))),
            "node \"n-1\" can only update pod status for pods with spec.nodeName set to itself"
        );
        assert_eq!(refusal(&POD, "", mirror, None), "");
        assert!(refusal(&POD, "", pod("n-1"), None).ends_with("can only create mirror pods"));
        assert!(deletes(&kubelet(), pod("n-1")));
        assert!(!deletes(&kubelet(), pod("n-2")));
        assert!(deletes(&User::new("jane", &[]), pod("n-2")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_kubelet_renews_its_own_lease() {
        let lease = |namespace: &str, name: &str| json!({"metadata": {"name": name, "namespace": namespace}});
        assert_eq!(refusal(&LEASE, "", lease(LEASES, "n-1"), None), "");
        assert!(
            refusal(&LEASE, "", lease(LEASES, "n-2"), None)
                .starts_with("can only access node lease")
        );
        assert!(
            refusal(&LEASE, "", lease("kube-system", "n-1"), None).contains("system namespace")
        );
    }
}
