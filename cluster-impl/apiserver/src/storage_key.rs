//! Where objects lie in the store: the keys that upstream uses.

use machinery::{Kind, ObjectKey};
use storage::KeyRange;

/// The prefix of all keys of a kind.
pub(crate) fn prefix(kind: &Kind) -> String {
    if kind.custom.is_some() {
        return format!("/registry/{}/{}/", kind.group, kind.plural);
    }
    let directory = match kind.id {
        "nodes" => "minions",
        "services" => "services/specs",
        "endpoints" => "services/endpoints",
        "ingresses.networking.k8s.io" => "ingress",
        "customresourcedefinitions.apiextensions.k8s.io" => {
            "apiextensions.k8s.io/customresourcedefinitions"
        }
        "apiservices.apiregistration.k8s.io" => "apiregistration.k8s.io/apiservices",
        _ => kind.plural,
    };
    format!("/registry/{directory}/")
}

/// The key of one object.
pub(crate) fn key(kind: &Kind, key: &ObjectKey) -> Vec<u8> {
    let mut path = prefix(kind);
    if kind.namespaced {
        path.push_str(&key.namespace);
        path.push('/');
    }
    path.push_str(&key.name);
    path.into_bytes()
}

/// Which object lies at a key; `None` if none of this kind does.
pub(crate) fn parse(kind: &Kind, key: &[u8]) -> Option<ObjectKey> {
    let path = std::str::from_utf8(key).ok()?.strip_prefix(prefix(kind).as_str())?;
    let (namespace, name) = if kind.namespaced { path.split_once('/')? } else { ("", path) };
    Some(ObjectKey::new(namespace, name))
}

/// All objects of a kind, in one namespace unless that is empty.
pub(crate) fn range(kind: &Kind, namespace: &str) -> KeyRange {
    let mut path = prefix(kind);
    if kind.namespaced && !namespace.is_empty() {
        path.push_str(namespace);
        path.push('/');
    }
    KeyRange::prefix(path.into_bytes())
}

#[cfg(test)]
mod tests {
    use machinery::kinds::{LEASE, NODE, POD, SERVICE};

    use super::*;

    #[test]
    fn keys_are_upstreams() {
        for (kind, namespace, name, expected) in [
            (&POD, "a", "web", "/registry/pods/a/web"),
            (&NODE, "", "worker-1", "/registry/minions/worker-1"),
            (&LEASE, "kube-system", "x", "/registry/leases/kube-system/x"),
            (&SERVICE, "a", "web", "/registry/services/specs/a/web"),
        ] {
            let path = key(kind, &ObjectKey::new(namespace, name));
            assert_eq!(String::from_utf8(path.clone()).unwrap(), expected);
            assert_eq!(parse(kind, &path), Some(ObjectKey::new(namespace, name)));
            assert!(range(kind, namespace).contains(&path));
            assert!(range(kind, "").contains(&path));
        }
        let other = key(&POD, &ObjectKey::new("ab", "web"));
        assert!(!range(&POD, "a").contains(&other), "a namespace is not a mere prefix");
    }
}
