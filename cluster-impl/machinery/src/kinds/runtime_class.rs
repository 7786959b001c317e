//! RuntimeClass.

use std::collections::BTreeSet;

use serde_json::json;

use super::{AGE, Kind, NAME, PLAIN, age, column};
use crate::validation::{Causes, metadata, names, resources, scheduling};
use crate::{Cause, Object};

/// RuntimeClass.
pub static RUNTIME_CLASS: Kind = Kind {
    id: "runtimeclasses.node.k8s.io",
    group: "node.k8s.io",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    namespaced: false,
    validate,
    columns: &[NAME, column("Handler", "string", 0), AGE],
    cells: |object, now| {
        vec![object.name().into(), object.text("/handler").into(), age(object, now)]
    },
    ..PLAIN
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, names::dns_subdomain);
    causes.name("handler", object.text("/handler"), names::dns_label);
    let limits = json!({"limits": object.0["overhead"]["podFixed"]});
    resources::validate(&mut causes, &limits, &BTreeSet::new(), "overhead");
    let nodes = &object.0["scheduling"];
    metadata::labels(&mut causes, &nodes["nodeSelector"], "scheduling.nodeSelector");
    scheduling::tolerations(&mut causes, &nodes["tolerations"], "scheduling.tolerations");
    if let Some(old) = old {
        causes.immutable("handler", &object.0["handler"], &old.0["handler"]);
    }
    causes.into_list()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, found, row};
    use super::*;

    #[test]
    fn classes_are_checked_and_printed() {
        let class = |handler: &str| {
            Object(json!({
                "metadata": {"name": "fast", "creationTimestamp": at(0).to_string()},
                "handler": handler, "overhead": {"podFixed": {"cpu": "250m"}},
                "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]},
            }))
        };
        let good = class("runc");
        assert_eq!(found(&RUNTIME_CLASS, &good, None), [""; 0]);
        assert_eq!(row(&RUNTIME_CLASS, &good, 5), "fast|runc|5s");
        assert!(found(&RUNTIME_CLASS, &class(""), None)[0].starts_with("Invalid handler"));
        assert_eq!(
            found(&RUNTIME_CLASS, &class("kata"), Some(&good)),
            ["Invalid handler: Invalid value: \"kata\": field is immutable"]
        );
        let mut wrong = good.clone();
        wrong.set("/overhead/podFixed/cpu", "-1");
        wrong.set("/scheduling/nodeSelector/a", "_");
        let found = found(&RUNTIME_CLASS, &wrong, None);
        assert!(found[0].starts_with("Invalid overhead.limits[cpu]"), "{found:?}");
        assert!(found[1].starts_with("Invalid scheduling.nodeSelector"), "{found:?}");
    }
}
