//! Event.

use jiff::Timestamp;
use serde_json::Value;

use super::{Kind, column, create_as_is, update_as_is};
use crate::validation::{Causes, metadata, names};
use crate::{Cause, Object, duration};

/// Event.
pub static EVENT: Kind = Kind {
    id: "events",
    group: "",
    version: "v1",
    kind: "Event",
    plural: "events",
    short_names: &["ev"],
    categories: &[],
    namespaced: true,
    has_status: false,
    has_scale: false,
    subresources: &[],
    has_generation: false,
    selectable: &[
        ("involvedObject.kind", "/involvedObject/kind"),
        ("involvedObject.namespace", "/involvedObject/namespace"),
        ("involvedObject.name", "/involvedObject/name"),
        ("involvedObject.uid", "/involvedObject/uid"),
        ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
        ("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
        ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
        ("reason", "/reason"),
        ("reportingComponent", "/reportingComponent"),
        ("source", "/source/component"),
        ("type", "/type"),
    ],
    default: |_| {},
    prepare_create: create_as_is,
    prepare_update: update_as_is,
    validate,
    columns: &[
        column("Last Seen", "string", 0),
        column("Type", "string", 0),
        column("Reason", "string", 0),
        column("Object", "string", 0),
        column("Subobject", "string", 1),
        column("Source", "string", 1),
        column("Message", "string", 0),
        column("First Seen", "string", 1),
        column("Count", "string", 1),
        column("Name", "string", 1),
    ],
    cells,
    custom: None,
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    let about = object.text("/involvedObject/namespace");
    // An event about a cluster-scoped object lives in one of these namespaces.
    let home = ["default", "kube-system"].contains(&object.namespace());
    if (about.is_empty() && !home) || (!about.is_empty() && about != object.namespace()) {
        causes.invalid("involvedObject.namespace", about, "does not match event.namespace");
    }
    causes.into_list()
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let since = |pointer: &str| object.time(pointer).map(|at| duration::age(Some(at), now));
    let unknown = || "<unknown>".to_owned();
    let first = since("/firstTimestamp").or_else(|| since("/eventTime")).unwrap_or_else(unknown);
    let (mut last, mut count) = (
        since("/lastTimestamp").unwrap_or_else(|| first.clone()),
        object.integer("/count").filter(|count| *count != 0).unwrap_or(1),
    );
    if object.map("/series").is_some() {
        last = since("/series/lastObservedTime").unwrap_or_else(unknown);
        count = object.integer("/series/count").unwrap_or_default();
    }
    let kind = object.text("/involvedObject/kind").to_lowercase();
    let name = object.text("/involvedObject/name");
    let target = if name.is_empty() { kind } else { format!("{kind}/{name}") };
    let either = |first: &str, second: &str| {
        let text = object.text(first);
        if text.is_empty() { object.text(second).to_owned() } else { text.to_owned() }
    };
    let component = either("/source/component", "/reportingComponent");
    let host = either("/source/host", "/reportingInstance");
    let source = if host.is_empty() { component } else { format!("{component}, {host}") };
    vec![
        last.into(),
        object.text("/type").into(),
        object.text("/reason").into(),
        target.into(),
        object.text("/involvedObject/fieldPath").into(),
        source.into(),
        object.text("/message").trim().into(),
        first.into(),
        count.into(),
        object.name().into(),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    #[test]
    fn prints_as_kubectl() {
        let event = Object(json!({
            "metadata": {"name": "web.1", "namespace": "default"},
            "firstTimestamp": at(0).to_string(), "lastTimestamp": at(240).to_string(), "count": 3,
            "type": "Warning", "reason": "BackOff", "message": "Back-off restarting \n",
            "involvedObject": {"kind": "Pod", "name": "web", "namespace": "default",
                "fieldPath": "spec.containers{app}"},
            "source": {"component": "kubelet", "host": "worker-1"},
        }));
        assert_eq!(found(&EVENT, &event, None), [""; 0]);
        assert_eq!(
            row(&EVENT, &event, 300),
            "60s|Warning|BackOff|pod/web|spec.containers{app}|kubelet, worker-1|\
             Back-off restarting|5m|3|web.1"
        );
    }

    #[test]
    fn the_namespace_must_be_that_of_the_object() {
        let event = |namespace: &str, about: &str| {
            let mut event = Object::new("v1", "Event", namespace, "e");
            event.set("/involvedObject/namespace", about);
            found(&EVENT, &event, None).len()
        };
        assert_eq!(event("default", ""), 0, "about a node");
        assert_eq!(event("dev", ""), 1);
        assert_eq!(event("dev", "default"), 1);
        assert_eq!(event("dev", "dev"), 0);
    }
}
