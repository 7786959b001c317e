//! CSINode.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{AGE, Kind, NAME, PLAIN, age, column, csi_driver};
use crate::defaulting::{absent, part};
use crate::validation::{Causes, items, metadata, names, text};
use crate::{Cause, Object};

const NODE_ID_BYTES_MAX: usize = 256;

/// CSINode.
pub static CSI_NODE: Kind = Kind {
    id: "csinodes.storage.k8s.io",
    group: "storage.k8s.io",
    kind: "CSINode",
    plural: "csinodes",
    namespaced: false,
    default: |object| {
        if let Some(spec) = part(&mut object.0, "spec") {
            absent(spec, "drivers", Value::Array(Vec::new()));
        }
    },
    validate,
    columns: &[NAME, column("Drivers", "integer", 0), AGE],
    cells: |object, now| {
        vec![object.name().into(), object.list("/spec/drivers").len().into(), age(object, now)]
    },
    ..PLAIN
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, names::dns_subdomain);
    let drivers = &object.0["spec"]["drivers"];
    let mut seen = BTreeSet::new();
    for (index, driver) in items(drivers) {
        let field = format!("spec.drivers[{index}]");
        let (name, node) = (text(&driver["name"]), text(&driver["nodeID"]));
        csi_driver::name(&mut causes, &format!("{field}.name"), name);
        if node.is_empty() {
            causes.required(&format!("{field}.nodeID"), "");
        }
        if node.len() > NODE_ID_BYTES_MAX {
            let why = format!("must be {NODE_ID_BYTES_MAX} characters or less");
            causes.invalid(&format!("{field}.nodeID"), node, &why);
        }
        causes.not_negative(&format!("{field}.allocatable.count"), &driver["allocatable"]["count"]);
        if !seen.insert(name) {
            causes.duplicate(&format!("{field}.name"), name);
        }
        let mut keys = BTreeSet::new();
        for (_, key) in items(&driver["topologyKeys"]) {
            let key = text(key);
            if key.is_empty() {
                causes.required(&field, "");
            }
            if !keys.insert(key) {
                causes.duplicate(&field, key);
            }
            causes.name(&field, key, names::qualified_name);
        }
    }
    for before in old.map(|old| old.list("/spec/drivers")).unwrap_or_default() {
        for (_, driver) in items(drivers).filter(|(_, driver)| driver["name"] == before["name"]) {
            causes.immutable("spec.drivers", driver, before);
        }
    }
    causes.into_list()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    fn node(drivers: Value) -> Object {
        Object(json!({
            "metadata": {"name": "n-1", "creationTimestamp": at(0).to_string()},
            "spec": {"drivers": drivers},
        }))
    }

    #[test]
    fn drivers_are_checked_and_stay() {
        let driver = |id: &str| json!({"name": "a.b", "nodeID": id, "topologyKeys": ["zone"]});
        let good = node(json!([driver("1")]));
        assert_eq!(found(&CSI_NODE, &good, None), [""; 0]);
        assert_eq!(row(&CSI_NODE, &good, 5), "n-1|1|5s");
        assert_eq!(
            found(&CSI_NODE, &node(json!([driver(""), driver("1")])), None),
            [
                "Required spec.drivers[0].nodeID: Required value",
                "Duplicate spec.drivers[1].name: Duplicate value: \"a.b\"",
            ]
        );
        let changed = found(&CSI_NODE, &node(json!([driver("2")])), Some(&good));
        assert!(changed[0].starts_with("Invalid spec.drivers: "), "{changed:?}");
        assert_eq!(found(&CSI_NODE, &node(json!([])), Some(&good)), [""; 0]);
    }
}
