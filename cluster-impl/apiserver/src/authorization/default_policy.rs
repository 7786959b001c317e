//! The roles and bindings that every cluster has, as objects, and how they come into the store.
//!
//! What is there already stays as it is: somebody may have changed it.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use machinery::conditions::seconds;
use machinery::kinds::{CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING};
use machinery::{Kind, Object, Status, View};
use serde_json::{Value, json};
use storage::{Compare, Op, Txn};

use super::cache::everything;
use super::rbac::{Policy, RoleRef};
use super::rules::Rule;
use crate::codec::encode;
use crate::server::ApiServer;
use crate::{status, storage_key};

const TEXT: &str = include_str!("default_policy.txt");
const GROUP: &str = "rbac.authorization.k8s.io";
const API_VERSION: &str = "rbac.authorization.k8s.io/v1";
/// The user under which all controllers run here: they have no service accounts of their own, so the
/// controllers' roles are granted to it, as upstream's documentation asks for in this case.
const CONTROLLERS: &str = "system:kube-controller-manager";
const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 5] = ["create", "delete", "deletecollection", "patch", "update"];
/// So many objects are written in one transaction; etcd takes 128.
const BATCH: usize = 100;

/// The default objects with their keys.
static OBJECTS: LazyLock<Vec<(Vec<u8>, Object)>> = LazyLock::new(|| {
    let keyed = objects().into_iter();
    keyed.map(|(kind, object)| (storage_key::key(kind, &object.key()), object)).collect()
});

/// The default objects with their kinds; aggregated roles hold the rules of those they aggregate.
pub(crate) fn objects() -> Vec<(&'static Kind, Object)> {
    let mut objects: Vec<(&'static Kind, Object)> = Vec::new();
    let mut bindings = Vec::new();
    for line in TEXT.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(text) = line.strip_prefix("  ") {
            let (_, role) = objects.last_mut().expect("a rule follows its role");
            let mut rules = role.list("/rules").to_vec();
            rules.push(rule(text).to_value());
            role.set("/rules", rules);
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["role", name, labels @ ..] => objects.push((&CLUSTER_ROLE, role(name, labels))),
            ["controller", name] => {
                let full = format!("system:controller:{name}");
                let account = format!("serviceaccount:kube-system:{name}");
                let user = format!("user:{CONTROLLERS}");
                let subjects = [account.as_str(), user.as_str()];
                bindings.push(binding(("", &full), ("ClusterRole", &full), &subjects));
                objects.push((&CLUSTER_ROLE, role(&full, &[])));
            }
            ["namespaced", namespace, name] => {
                objects.push((&ROLE, named("Role", namespace, name)));
            }
            ["bind", name, subjects @ ..] => {
                bindings.push(binding(("", name), ("ClusterRole", name), subjects));
            }
            ["bind-in", namespace, name, role, subjects @ ..] => {
                let role = role.strip_prefix("role:").expect("the role comes first");
                bindings.push(binding((namespace, name), ("Role", role), subjects));
            }
            _ => unreachable!("the text is fixed, and a test reads it: {line}"),
        }
    }
    aggregate(&mut objects);
    objects.extend(bindings);
    objects
}

/// The rules of the role of kubelets.
pub(crate) fn node_rules() -> Vec<Rule> {
    let objects = objects().into_iter().map(|(_, object)| object);
    let roles: Vec<_> = objects.filter(|object| object.kind() == "ClusterRole").collect();
    let role = roles.iter().find(|role| role.name() == "system:node");
    role.map(Rule::read).unwrap_or_default()
}

fn aggregate(objects: &mut [(&'static Kind, Object)]) {
    let mut view = View::default();
    for (kind, object) in objects.iter() {
        view.put(kind, Arc::new(object.clone()));
    }
    let policy = Policy::new(&view);
    for (_, object) in objects.iter_mut().filter(|(_, one)| one.map("/aggregationRule").is_some()) {
        let rules = policy.rules_of(&RoleRef::cluster_role(object.name()));
        let rules: Vec<Value> =
            rules.into_iter().flat_map(|rules| rules.iter()).map(Rule::to_value).collect();
        object.set("/rules", rules);
    }
}

fn named(kind: &str, namespace: &str, name: &str) -> Object {
    let mut object = Object::new(API_VERSION, kind, namespace, name);
    object.set("/metadata/labels", json!({"kubernetes.io/bootstrapping": "rbac-defaults"}));
    let autoupdate = json!({"rbac.authorization.kubernetes.io/autoupdate": "true"});
    object.set("/metadata/annotations", autoupdate);
    object
}

fn role(name: &str, words: &[&str]) -> Object {
    let mut role = named("ClusterRole", "", name);
    let label = |to: &str| format!("{GROUP}/aggregate-to-{to}");
    for word in words {
        match word.split_once('-') {
            Some(("to", to)) => role.0["metadata"]["labels"][label(to)] = "true".into(),
            Some(("from", from)) => {
                let selector = json!({"matchLabels": {label(from): "true"}});
                role.set("/aggregationRule", json!({"clusterRoleSelectors": [selector]}));
            }
            _ => unreachable!("the text is fixed, and a test reads it: {word}"),
        }
    }
    role
}

fn rule(text: &str) -> Rule {
    let list = |part: &str| -> Vec<String> {
        let one = |word: &str| if word == "-" { String::new() } else { word.to_owned() };
        part.split(',').map(one).collect()
    };
    let mut parts = text.split(" | ");
    let mut part = || parts.next().unwrap_or_default();
    let mut verbs: Vec<String> = Vec::new();
    for verb in part().split(',') {
        let several: &[&str] = match verb {
            "read" => &READ,
            "write" => &WRITE,
            _ => &[verb],
        };
        verbs.extend(several.iter().map(|verb| (*verb).to_owned()));
    }
    verbs.sort();
    let (second, resources, names) = (part(), part(), part());
    if resources.is_empty() {
        return Rule { verbs, urls: list(second), ..Rule::default() };
    }
    let names = if names.is_empty() { Vec::new() } else { list(names) };
    Rule { verbs, groups: list(second), resources: list(resources), names, urls: Vec::new() }
}

fn binding(
    (namespace, name): (&str, &str),
    (kind, role): (&str, &str),
    subjects: &[&str],
) -> (&'static Kind, Object) {
    let of: &'static Kind =
        if namespace.is_empty() { &CLUSTER_ROLE_BINDING } else { &ROLE_BINDING };
    let mut binding = named(of.kind, namespace, name);
    binding.set("/roleRef", json!({"apiGroup": GROUP, "kind": kind, "name": role}));
    let subject = |word: &&str| match word.split_once(':') {
        Some(("user", name)) => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
        Some(("group", name)) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
        Some((_, account)) => {
            let (namespace, name) = account.split_once(':').unwrap_or(("", account));
            json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
        }
        None => unreachable!("the text is fixed, and a test reads it: {word}"),
    };
    if !subjects.is_empty() {
        binding.set("/subjects", subjects.iter().map(subject).collect::<Vec<_>>());
    }
    (of, binding)
}

/// Writes those default objects that are missing.
pub(crate) async fn ensure(server: &ApiServer) -> Result<(), Status> {
    loop {
        let mut present = BTreeSet::new();
        for kind in [&CLUSTER_ROLE, &CLUSTER_ROLE_BINDING, &ROLE, &ROLE_BINDING] {
            let found = everything(server, kind).await?;
            present.extend(found.kvs.into_iter().map(|kv| kv.key.to_vec()));
        }
        let missing: Vec<_> = OBJECTS.iter().filter(|(key, _)| !present.contains(key)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        for batch in missing.chunks(BATCH) {
            let compare = batch.iter().map(|(key, _)| Compare::ModRevision(key.clone(), 0));
            let put = |(key, object): &&(Vec<u8>, Object)| {
                let mut object = object.clone();
                object.set("/metadata/uid", server.env.uid());
                object.set("/metadata/creationTimestamp", seconds(server.env.now()));
                Op::Put(key.clone(), encode(&object), 0)
            };
            let write = Txn {
                compare: compare.collect(),
                success: batch.iter().map(put).collect(),
                failure: Vec::new(),
            };
            let written = server.store.txn(write).await.map_err(status::from_store)?;
            if !written.succeeded {
                // Another API server was faster with some of it.
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rbac::Answer;
    use super::super::rules::Attributes;
    use super::*;
    use crate::User;

    #[test]
    fn every_default_object_is_valid() {
        let objects = objects();
        let mut keys = BTreeSet::new();
        for (kind, object) in &objects {
            let mut object = object.clone();
            let before = object.clone();
            kind.set_defaults(&mut object);
            assert_eq!(object, before, "nothing is left to be defaulted");
            assert_eq!(kind.problems(&object, None), [], "{}", object.key());
            assert!(keys.insert((kind.id, object.key())), "{} is there twice", object.key());
        }
        let roles = objects.iter().filter(|(kind, _)| kind.id == CLUSTER_ROLE.id).count();
        assert!(roles > 60, "{roles}");
    }

    #[test]
    fn the_components_and_users_may_what_they_must() {
        let mut view = View::default();
        for (kind, object) in objects() {
            view.put(kind, Arc::new(object));
        }
        let policy = Policy::new(&view);
        let may = |user: &User, verb: &str, resource: &str, name: &str| {
            let (group, resource) = resource.split_once(':').unwrap_or(("", resource));
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let asked = Attributes {
                subresource,
                name,
                namespace: "kube-system",
                ..Attributes::resource(verb, group, resource)
            };
            matches!(policy.allows(user, &asked), Answer::Allowed(_))
        };
        let (controllers, scheduler, jane) = (
            User::new(CONTROLLERS, &[]),
            User::new("system:kube-scheduler", &[]),
            User::new("jane", &["system:authenticated"]),
        );
        for (user, verb, resource, name, allowed) in [
            (&controllers, "update", "coordination.k8s.io:leases", "kube-controller-manager", true),
            (&controllers, "list", "policy:poddisruptionbudgets", "", true),
            (&controllers, "create", "pods", "", true),
            (&controllers, "update", "namespaces/finalize", "a", true),
            (&controllers, "update", "apps:deployments/status", "a", true),
            (&controllers, "escalate", "rbac.authorization.k8s.io:roles", "a", false),
            (&controllers, "create", "rbac.authorization.k8s.io:roles", "", false),
            (&scheduler, "update", "coordination.k8s.io:leases", "kube-scheduler", true),
            (&scheduler, "update", "coordination.k8s.io:leases", "other", false),
            (&scheduler, "create", "pods/binding", "a", true),
            (&scheduler, "patch", "pods/status", "a", true),
            (&scheduler, "create", "pods", "", false),
            (&scheduler, "get", "secrets", "a", false),
            (&jane, "create", "authorization.k8s.io:selfsubjectaccessreviews", "", true),
            (&jane, "get", "pods", "a", false),
        ] {
            assert_eq!(may(user, verb, resource, name), allowed, "{} {verb} {resource}", user.name);
        }
        let discovery = Attributes { verb: "get", path: "/apis/apps/v1", ..Attributes::default() };
        assert!(matches!(policy.allows(&jane, &discovery), Answer::Allowed(_)));
        let view = policy.rules_of(&RoleRef::cluster_role("view")).unwrap();
        let admin = policy.rules_of(&RoleRef::cluster_role("admin")).unwrap();
        assert!(view.len() > 5 && view.iter().all(|rule| admin.contains(rule)));
        assert!(!view.iter().any(|rule| rule.resources.contains(&"secrets".to_owned())));
    }
}
