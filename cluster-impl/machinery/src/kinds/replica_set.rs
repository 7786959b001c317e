//! ReplicaSet.

use serde_json::{Value, json};

use super::{AGE, Column, Kind, NAME, age, column, containers, keep_status, selector};
use crate::defaulting::{absent, part, template};
use crate::validation::{Causes, is_new_spec, metadata, names, status_change, workload};
use crate::{Cause, Object};

/// What is printed of whatever keeps a number of pods, and nothing more.
pub(super) const COLUMNS: &[Column] = &[
    NAME,
    column("Desired", "integer", 0),
    column("Current", "integer", 0),
    column("Ready", "integer", 0),
    AGE,
    column("Containers", "string", 1),
    column("Images", "string", 1),
    column("Selector", "string", 1),
];

/// ReplicaSet.
pub static REPLICA_SET: Kind = Kind {
    id: "replicasets.apps",
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    short_names: &["rs"],
    categories: &["all"],
    namespaced: true,
    has_status: true,
    has_scale: true,
    subresources: &[],
    has_generation: true,
    selectable: &[("status.replicas", "/status/replicas")],
    default,
    prepare_create,
    prepare_update: keep_status,
    validate,
    columns: COLUMNS,
    cells,
    custom: None,
};

fn default(object: &mut Object) {
    absent(&mut object.0, "status", json!({"replicas": 0}));
    if let Some(spec) = part(&mut object.0, "spec") {
        absent(spec, "replicas", 1);
        template(spec);
    }
}

fn prepare_create(object: &mut Object) {
    object.set("/status", json!({"replicas": 0}));
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    let spec = &object.0["spec"];
    if is_new_spec(object, old) {
        causes.not_negative("spec.replicas", &spec["replicas"]);
        causes.not_negative("spec.minReadySeconds", &spec["minReadySeconds"]);
        workload::selector_and_template(&mut causes, spec, "ReplicaSet");
    }
    if let Some(old) = old {
        workload::selector_immutable(&mut causes, spec, &old.0["spec"]);
    }
    if let Some((status, _)) = status_change(object, old) {
        let counts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        workload::replica_counts(&mut causes, status, &counts, "readyReplicas");
    }
    causes.into_list()
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    counted(object, now, selector(object.get("/spec/selector")))
}

/// The cells of [`COLUMNS`].
pub(super) fn counted(object: &Object, now: jiff::Timestamp, selector: Value) -> Vec<Value> {
    let count = |pointer: &str| Value::from(object.integer(pointer).unwrap_or_default());
    let mut cells = vec![
        object.name().into(),
        count("/spec/replicas"),
        count("/status/replicas"),
        count("/status/readyReplicas"),
        age(object, now),
    ];
    cells.extend(containers(&object.0["spec"]["template"]));
    cells.push(selector);
    cells
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, found, row};
    use super::*;

    fn set() -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "web-1", "namespace": "default",
                "creationTimestamp": at(0).to_string()},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}}},
        }));
        (REPLICA_SET.prepare_create)(&mut object);
        (REPLICA_SET.default)(&mut object);
        object
    }

    #[test]
    fn a_small_set_passes_and_prints() {
        assert_eq!(found(&REPLICA_SET, &set(), None), [""; 0]);
        assert_eq!(row(&REPLICA_SET, &set(), 10), "web-1|1|0|0|10s|a,b|x,y|app=web");
    }

    #[test]
    fn a_template_is_needed() {
        let mut object = set();
        object.0["spec"] = json!({"selector": {"matchLabels": {"app": "web"}}, "replicas": 3,
            "template": {"metadata": {"labels": {"app": "web"}}}});
        (REPLICA_SET.default)(&mut object);
        let found = found(&REPLICA_SET, &object, None);
        assert!(
            found.contains(&"Required spec.template.spec.containers: Required value".to_owned()),
            "{found:?}"
        );
    }
    #[test]
    fn a_status_adds_up() {
        let old = set();
        let mut new = set();
        new.set("/status", json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": 3}));
        assert_eq!(
            found(&REPLICA_SET, &new, Some(&old)),
            [
                "Invalid status.readyReplicas: Invalid value: 2: cannot be greater than \
                 status.replicas",
                "Invalid status.availableReplicas: Invalid value: 3: cannot be greater than \
                 status.replicas",
                "Invalid status.availableReplicas: Invalid value: 3: cannot be greater than \
                 readyReplicas",
            ]
        );
    }
}
