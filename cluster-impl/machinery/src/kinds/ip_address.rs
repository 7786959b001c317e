//! IPAddress: an address that is taken, and by whom. Its name is the address.

use super::{AGE, Kind, NAME, PLAIN, age, column};
use crate::validation::{Causes, metadata, names, network, text};
use crate::{Cause, Object};

/// IPAddress.
pub static IP_ADDRESS: Kind = Kind {
    id: "ipaddresses.networking.k8s.io",
    group: "networking.k8s.io",
    kind: "IPAddress",
    plural: "ipaddresses",
    short_names: &["ip"],
    namespaced: false,
    validate,
    columns: &[NAME, column("ParentRef", "string", 0), AGE],
    cells,
    ..PLAIN
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, network::canonical_ip);
    let parent = &object.0["spec"]["parentRef"];
    if parent.is_null() {
        causes.required("spec.parentRef", "");
    } else {
        let group = text(&parent["group"]);
        if !group.is_empty() {
            causes.name("spec.parentRef.group", group, names::dns_subdomain);
        }
        for part in ["resource", "name"] {
            let field = format!("spec.parentRef.{part}");
            causes.required_name(&field, text(&parent[part]), names::path_segment);
        }
        let namespace = text(&parent["namespace"]);
        causes.name("spec.parentRef.namespace", namespace, names::path_segment);
    }
    if let Some(old) = old {
        causes.immutable("spec.parentRef", parent, &old.0["spec"]["parentRef"]);
    }
    causes.into_list()
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<serde_json::Value> {
    let part = |name: &str| object.text(&format!("/spec/parentRef/{name}"));
    let parent = match object.map("/spec/parentRef") {
        None => "<none>".to_owned(),
        Some(_) => {
            let mut parent = part("resource").to_lowercase();
            if !part("group").is_empty() {
                parent = format!("{parent}.{}", part("group").to_lowercase());
            }
            for name in ["namespace", "name"] {
                if name == "name" || !part(name).is_empty() {
                    parent = format!("{parent}/{}", part(name));
                }
            }
            parent
        }
    };
    vec![object.name().into(), parent.into(), age(object, now)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    fn address(name: &str, parent: serde_json::Value) -> Object {
        Object(json!({
            "metadata": {"name": name, "creationTimestamp": at(0).to_string()},
            "spec": {"parentRef": parent},
        }))
    }

    #[test]
    fn names_are_addresses_and_parents_are_named() {
        let parent = json!({"resource": "services", "namespace": "default", "name": "web"});
        let good = address("10.96.0.9", parent.clone());
        assert_eq!(found(&IP_ADDRESS, &good, None), [""; 0]);
        assert_eq!(row(&IP_ADDRESS, &good, 5), "10.96.0.9|services/default/web|5s");
        for (object, line) in [
            (
                address("web", parent.clone()),
                "Invalid metadata.name: Invalid value: \"web\": must be a valid IP address, (e.g. \
                 10.9.8.7 or 2001:db8::ffff)",
            ),
            (address("::1", json!(null)), "Required spec.parentRef: Required value"),
            (address("::1", json!({"name": "a"})), "Required spec.parentRef.resource: Required value"),
        ] {
            assert_eq!(found(&IP_ADDRESS, &object, None), [line]);
        }
        let moved = address("10.96.0.9", json!({"resource": "services", "name": "other"}));
        assert!(found(&IP_ADDRESS, &moved, Some(&good))[0].contains("field is immutable"));
    }
}
