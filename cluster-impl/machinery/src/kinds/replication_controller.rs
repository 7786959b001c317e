//! ReplicationController.

use serde_json::{Value, json};

use super::{Kind, keep_status, labels, replica_set};
use crate::defaulting::{absent, inside, part, pod_spec};
use crate::validation::{Causes, is_new_spec, metadata, names, status_change, workload};
use crate::{Cause, Object};

/// ReplicationController.
pub static REPLICATION_CONTROLLER: Kind = Kind {
    id: "replicationcontrollers",
    group: "",
    version: "v1",
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    short_names: &["rc"],
    categories: &["all"],
    namespaced: true,
    has_status: true,
    has_scale: true,
    subresources: &[],
    has_generation: true,
    selectable: &[("status.replicas", "/status/replicas")],
    default,
    prepare_create: |object| object.set("/status", json!({"replicas": 0})),
    prepare_update: keep_status,
    validate,
    columns: replica_set::COLUMNS,
    cells,
    custom: None,
};

/// Without a selector of its own it selects what it creates, and is labelled like it.
fn default(object: &mut Object) {
    absent(&mut object.0, "status", json!({"replicas": 0}));
    let Some(spec) = part(&mut object.0, "spec") else { return };
    absent(spec, "replicas", 1);
    if let Some(template) = inside(spec, "template")
        && let Some(spec) = part(template, "spec")
    {
        pod_spec(spec);
    }
    let given = spec["template"]["metadata"]["labels"].clone();
    if given.as_object().is_none_or(serde_json::Map::is_empty) {
        return;
    }
    for pointer in ["/spec/selector", "/metadata/labels"] {
        if object.map(pointer).is_none_or(serde_json::Map::is_empty) {
            object.set(pointer, given.clone());
        }
    }
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    if is_new_spec(object, old) {
        validate_spec(&mut causes, &object.0["spec"]);
    }
    if let Some((status, _)) = status_change(object, old) {
        let counts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        workload::replica_counts(&mut causes, status, &counts, "readyReplicas");
    }
    causes.into_list()
}

fn validate_spec(causes: &mut Causes, spec: &Value) {
    causes.not_negative("spec.minReadySeconds", &spec["minReadySeconds"]);
    let wanted = spec["selector"].as_object().filter(|selector| !selector.is_empty());
    if wanted.is_none() {
        causes.required("spec.selector", "");
    }
    causes.not_negative("spec.replicas", &spec["replicas"]);
    let template = &spec["template"];
    if template.is_null() {
        causes.required("spec.template", "");
        return;
    }
    let given = &template["metadata"]["labels"];
    if wanted.into_iter().flatten().any(|(key, value)| given[key] != *value) {
        workload::not_selected(causes, template);
    }
    workload::template(causes, template, "spec.template");
    let pod = &template["spec"];
    workload::restarted_always(causes, pod, "spec.template.spec", "ReplicationController");
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    replica_set::counted(object, now, labels(&object.0["spec"]["selector"]))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, found, row};
    use super::*;

    fn controller() -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "web", "namespace": "default",
                "creationTimestamp": at(0).to_string()},
            "spec": {"replicas": 3, "template": {"metadata": {"labels": {"b": "c", "app": "web"}},
                "spec": {"containers": [{"name": "a", "image": "x"}]}}},
        }));
        (REPLICATION_CONTROLLER.default)(&mut object);
        (REPLICATION_CONTROLLER.prepare_create)(&mut object);
        object
    }

    #[test]
    fn it_selects_what_it_creates() {
        let object = controller();
        assert_eq!(found(&REPLICATION_CONTROLLER, &object, None), [""; 0]);
        assert_eq!(object.text("/spec/selector/app"), "web");
        assert_eq!(object.label("app"), Some("web"));
        assert_eq!(row(&REPLICATION_CONTROLLER, &object, 5), "web|3|0|0|5s|a|x|app=web,b=c");
    }

    #[test]
    fn wrong_controllers_are_named() {
        type Change = fn(&mut Object);
        let cases: &[(Change, &str)] = &[
            (|o| o.set("/spec/selector", json!({})), "Required spec.selector"),
            (|o| o.set("/spec/selector/app", "api"), "Invalid spec.template.metadata.labels"),
            (|o| drop(o.remove("/spec/template")), "Required spec.template: Required value"),
            (|o| o.set("/spec/replicas", -1), "Invalid spec.replicas"),
            (
                |o| o.set("/spec/template/spec/activeDeadlineSeconds", 5),
                "Forbidden spec.template.spec.activeDeadlineSeconds: Forbidden: \
                 activeDeadlineSeconds in ReplicationController is not Supported",
            ),
        ];
        for (change, start) in cases {
            let mut object = controller();
            change(&mut object);
            let found = found(&REPLICATION_CONTROLLER, &object, None);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(start), "{start}: {found:?}");
        }
    }
}
