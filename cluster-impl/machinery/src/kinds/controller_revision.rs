//! ControllerRevision.

use serde_json::Value;

use super::{AGE, Kind, NAME, age, column, create_as_is, update_as_is};
use crate::defaulting::absent;
use crate::validation::{Causes, metadata, names};
use crate::{Cause, Object};

/// ControllerRevision.
pub static CONTROLLER_REVISION: Kind = Kind {
    id: "controllerrevisions.apps",
    group: "apps",
    version: "v1",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    short_names: &[],
    categories: &[],
    namespaced: true,
    has_status: false,
    has_scale: false,
    subresources: &[],
    has_generation: false,
    selectable: &[],
    default: |object| absent(&mut object.0, "revision", 0),
    prepare_create: create_as_is,
    prepare_update: update_as_is,
    validate,
    columns: &[NAME, column("Controller", "string", 0), column("Revision", "string", 0), AGE],
    cells,
    custom: None,
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    if object.get("/data").is_none_or(Value::is_null) {
        causes.required("data", "data is mandatory");
    }
    causes.not_negative("revision", &object.0["revision"]);
    if let Some(old) = old {
        causes.immutable("data", &object.0["data"], &old.0["data"]);
    }
    causes.into_list()
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let controller = object.controller().map(|owner| {
        let kind = owner.kind.to_lowercase();
        match owner.api_version.split_once('/') {
            Some((group, _)) => format!("{kind}.{group}/{}", owner.name),
            None => format!("{kind}/{}", owner.name),
        }
    });
    vec![
        object.name().into(),
        controller.unwrap_or_else(|| "<none>".to_owned()).into(),
        object.integer("/revision").unwrap_or_default().into(),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    #[test]
    fn a_revision_stays_as_it_is() {
        let revision = Object(json!({
            "metadata": {"name": "db-1", "namespace": "default",
                "creationTimestamp": at(0).to_string(), "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "u",
                    "controller": true}]},
            "revision": 3, "data": {"spec": {}},
        }));
        assert_eq!(found(&CONTROLLER_REVISION, &revision, None), [""; 0]);
        assert_eq!(row(&CONTROLLER_REVISION, &revision, 5), "db-1|statefulset.apps/db|3|5s");
        let mut other = revision.clone();
        other.set("/revision", 4);
        assert_eq!(found(&CONTROLLER_REVISION, &other, Some(&revision)), [""; 0]);
        other.set("/data/spec/a", 1);
        let lines = found(&CONTROLLER_REVISION, &other, Some(&revision));
        assert!(lines[0].starts_with("Invalid data: ") && lines[0].ends_with("field is immutable"));
        other.remove("/data");
        assert_eq!(
            found(&CONTROLLER_REVISION, &other, None),
            ["Required data: Required value: data is mandatory"]
        );
    }
}
