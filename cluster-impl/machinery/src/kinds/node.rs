//! Node.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{AGE, Kind, NAME, Subresource, age, column, create_as_is, keep_status, or};
use crate::validation::{Causes, items, metadata, names, scheduling, text};
use crate::{Cause, Object};

/// Node.
pub static NODE: Kind = Kind {
    id: "nodes",
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    short_names: &["no"],
    categories: &[],
    namespaced: false,
    has_status: true,
    has_scale: false,
    subresources: &[Subresource {
        name: "proxy",
        kind: "NodeProxyOptions",
        group: "",
        verbs: &["create", "delete", "get", "patch", "update"],
    }],
    has_generation: false,
    selectable: &[("spec.unschedulable", "/spec/unschedulable")],
    default,
    // A kubelet registers its node with the status that it knows.
    prepare_create: create_as_is,
    prepare_update: keep_status,
    validate,
    columns: &[
        NAME,
        column("Status", "string", 0),
        column("Roles", "string", 0),
        AGE,
        column("Version", "string", 0),
        column("Internal-IP", "string", 1),
        column("External-IP", "string", 1),
        column("OS-Image", "string", 1),
        column("Kernel-Version", "string", 1),
        column("Container-Runtime", "string", 1),
    ],
    cells,
    custom: None,
};

fn default(object: &mut Object) {
    if object.get("/status/allocatable").is_none_or(Value::is_null)
        && let Some(capacity) = object.get("/status/capacity").cloned()
    {
        object.set("/status/allocatable", capacity);
    }
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, names::dns_subdomain);
    taints(&mut causes, &object.0["spec"]["taints"]);
    let cidrs = &object.0["spec"]["podCIDRs"];
    for (index, cidr) in items(cidrs) {
        if !is_cidr(text(cidr)) {
            causes.invalid(&format!("spec.podCIDRs[{index}]"), text(cidr), "must be a valid CIDR \
                value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        }
    }
    if let Some(old) = old {
        for (field, name) in [("podCIDR", "podCIDRs"), ("providerID", "providerID")] {
            let pointer = format!("/spec/{field}");
            let (new, old) = (object.text(&pointer), old.text(&pointer));
            if !old.is_empty() && new != old {
                let why = format!("node updates may not change {field} except from \"\" to valid");
                causes.forbidden(&format!("spec.{name}"), &why);
            }
        }
    }
    causes.into_list()
}

fn taints(causes: &mut Causes, taints: &Value) {
    let mut seen = BTreeSet::new();
    for (index, taint) in items(taints) {
        let field = format!("metadata.taints[{index}]");
        let (key, effect) = (text(&taint["key"]), text(&taint["effect"]));
        causes.required_name(&format!("{field}.key"), key, names::qualified_name);
        causes.name(&format!("{field}.value"), text(&taint["value"]), names::label_value);
        scheduling::effect_of(causes, &format!("{field}.effect"), effect, false);
        if !seen.insert((key, effect)) {
            causes.duplicate(&field, format!("{key}:{effect}"));
        }
    }
}

fn is_cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, bits)| {
        let bits_max = match address.parse() {
            Ok(std::net::IpAddr::V4(_)) => 32,
            Ok(std::net::IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= bits_max)
    })
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let mut status = vec![match object.condition_status("Ready") {
        "" => "Unknown",
        "True" => "Ready",
        _ => "NotReady",
    }];
    if object.flag("/spec/unschedulable") {
        status.push("SchedulingDisabled");
    }
    let address = |wanted: &str| {
        let of_kind = |address: &&Value| address["type"] == wanted;
        let address = object.list("/status/addresses").iter().find(of_kind);
        or(address.map(|one| text(&one["address"])).unwrap_or_default(), "<none>")
    };
    let info = |field: &str| or(object.text(&format!("/status/nodeInfo/{field}")), "<unknown>");
    vec![
        object.name().into(),
        status.join(",").into(),
        or(&roles(object), "<none>"),
        age(object, now),
        object.text("/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn roles(object: &Object) -> String {
    let labels = object.map("/metadata/labels").into_iter().flatten();
    let roles: BTreeSet<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.into_iter().collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    fn node() -> Object {
        Object(json!({
            "metadata": {"name": "worker-1", "creationTimestamp": at(0).to_string(),
                "labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/edge": ""}},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.5"}],
                "nodeInfo": {"kubeletVersion": "v1.33.0", "osImage": "Debian 12",
                    "kernelVersion": "6.1", "containerRuntimeVersion": "containerd://1.6.20"},
            },
        }))
    }

    #[test]
    fn prints_as_kubectl() {
        let mut node = node();
        assert_eq!(
            row(&NODE, &node, 60),
            "worker-1|Ready|edge,worker|60s|v1.33.0|10.0.0.5|<none>|Debian 12|6.1|\
             containerd://1.6.20"
        );
        node.set("/spec/unschedulable", true);
        node.set("/status/conditions", json!([{"type": "Ready", "status": "Unknown"}]));
        node.remove("/metadata/labels");
        assert!(row(&NODE, &node, 60).starts_with("worker-1|NotReady,SchedulingDisabled|<none>|"));
        node.set("/status", json!({}));
        assert!(row(&NODE, &node, 60).starts_with("worker-1|Unknown,SchedulingDisabled|<none>|"));
    }

    #[test]
    fn taints_are_checked() {
        for (taints, start) in [
            (json!([{"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoSchedule"}]), None),
            (json!([{"key": "a"}]), Some("Required metadata.taints[0].effect")),
            (json!([{"key": "a", "effect": "Never"}]), Some("NotSupported metadata.taints[0].effect")),
            (json!([{"effect": "NoExecute"}]), Some("Required metadata.taints[0].key")),
            (json!([{"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoExecute"}]),
                Some("Duplicate metadata.taints[1]")),
        ] {
            let mut node = node();
            node.set("/spec/taints", taints);
            let found = found(&NODE, &node, None);
            assert_eq!(found.len(), usize::from(start.is_some()), "{found:?}");
            assert!(found.iter().zip(start).all(|(line, start)| line.starts_with(start)));
        }
    }

    #[test]
    fn the_pod_network_is_set_once() {
        let old = node();
        let mut new = node();
        new.set("/spec/podCIDR", "10.244.2.0/24");
        assert_eq!(found(&NODE, &new, Some(&old)).len(), 1);
        let mut bare = node();
        bare.set("/spec", json!({}));
        assert_eq!(found(&NODE, &old, Some(&bare)), [""; 0]);
    }
}
