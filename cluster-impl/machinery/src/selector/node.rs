//! Node selection of a pod: `spec.nodeSelector` and `spec.affinity.nodeAffinity`.

use serde_json::{Map, Value};

use super::label::expression_requirement;
use crate::Object;

/// Whether a node meets a pod's nodeSelector and its required node affinity.
pub fn node_matches(pod: &Object, node: &Object) -> bool {
    let labels = node.map("/metadata/labels");
    let wanted = pod.map("/spec/nodeSelector");
    if !wanted.into_iter().flatten().all(|(key, value)| label(labels, key) == value.as_str()) {
        return false;
    }
    let required = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    match pod.get(required) {
        None | Some(Value::Null) => true,
        // Terms are alternatives; a selector without terms matches no node.
        Some(selector) => selector["nodeSelectorTerms"]
            .as_array()
            .is_some_and(|terms| terms.iter().any(|term| term_matches(term, node))),
    }
}

/// The sum of the weights of the preferred terms that a node meets.
pub fn node_affinity_preferences(pod: &Object, node: &Object) -> i64 {
    pod.list("/spec/affinity/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution")
        .iter()
        .filter(|preferred| {
            // An empty preferred term stands for every node and changes nothing, so it counts nothing.
            term_matches(&preferred["preference"], node)
        })
        .filter_map(|preferred| preferred["weight"].as_i64())
        .sum()
}

/// Whether a node meets one term: all of its expressions and fields. An empty term matches no node.
pub fn term_matches(term: &Value, node: &Object) -> bool {
    let expressions = term["matchExpressions"].as_array().map_or(&[][..], Vec::as_slice);
    let fields = term["matchFields"].as_array().map_or(&[][..], Vec::as_slice);
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let labels = node.map("/metadata/labels");
    expressions.iter().all(|expression| {
        expression_requirement(expression, true).is_ok_and(|one| one.matches(labels))
    }) && fields.iter().all(|field| {
        // The only field that upstream knows.
        field["key"] == "metadata.name"
            && expression_requirement(field, false)
                .is_ok_and(|one| one.matches_value(Some(node.name())))
    })
}

fn label<'l>(labels: Option<&'l Map<String, Value>>, key: &str) -> Option<&'l str> {
    labels?.get(key)?.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node() -> Object {
        Object(json!({"metadata": {"name": "worker-1", "labels": {"disk": "ssd", "cores": "8"}}}))
    }

    fn required(term: Value) -> Object {
        Object(json!({"spec": {"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]},
        }}}}))
    }

    #[test]
    fn the_node_selector_needs_every_label() {
        let pod = |selector: Value| Object(json!({"spec": {"nodeSelector": selector}}));
        assert!(node_matches(&pod(json!({})), &node()));
        assert!(node_matches(&pod(json!({"disk": "ssd"})), &node()));
        assert!(!node_matches(&pod(json!({"disk": "ssd", "zone": "a"})), &node()));
    }

    #[test]
    fn operators_of_terms() {
        for (key, operator, values, expected) in [
            ("disk", "In", json!(["ssd"]), true),
            ("disk", "NotIn", json!(["ssd"]), false),
            ("zone", "NotIn", json!(["a"]), true),
            ("disk", "Exists", json!(null), true),
            ("disk", "DoesNotExist", json!(null), false),
            ("cores", "Gt", json!(["4"]), true),
            ("cores", "Lt", json!(["8"]), false),
            ("disk", "Gt", json!(["4"]), false),
            ("disk", "Near", json!(["4"]), false),
        ] {
            let term = json!({"matchExpressions": [
                {"key": key, "operator": operator, "values": values},
            ]});
            assert_eq!(node_matches(&required(term), &node()), expected, "{key} {operator}");
        }
    }

    #[test]
    fn fields_and_empty_terms() {
        let by_name = json!({"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["worker-1"]},
        ]});
        assert!(node_matches(&required(by_name), &node()));
        assert!(!node_matches(&required(json!({})), &node()));
    }

    #[test]
    fn preferences_add_up() {
        let wants = |weight: i64, value: &str| {
            json!({"weight": weight, "preference": {"matchExpressions": [
                {"key": "disk", "operator": "In", "values": [value]},
            ]}})
        };
        let pod = Object(json!({"spec": {"affinity": {"nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution":
                [wants(3, "ssd"), wants(5, "hdd"), wants(4, "ssd")],
        }}}}));
        assert_eq!(node_affinity_preferences(&pod, &node()), 7);
    }
}
