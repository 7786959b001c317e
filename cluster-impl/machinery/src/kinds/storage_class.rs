//! StorageClass.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{AGE, Kind, NAME, PLAIN, age, column};
use crate::defaulting::absent;
use crate::validation::{Causes, items, metadata, names, text};
use crate::{Cause, Object};

const PARAMETERS_MAX: usize = 512;
const PARAMETERS_BYTES_MAX: usize = 256 * 1024;
/// Annotations that make a class the default one.
const IS_DEFAULT: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];

/// StorageClass.
pub static STORAGE_CLASS: Kind = Kind {
    id: "storageclasses.storage.k8s.io",
    group: "storage.k8s.io",
    kind: "StorageClass",
    plural: "storageclasses",
    short_names: &["sc"],
    namespaced: false,
    default: |object| {
        absent(&mut object.0, "reclaimPolicy", "Delete");
        absent(&mut object.0, "volumeBindingMode", "Immediate");
    },
    validate,
    columns: &[
        NAME,
        column("Provisioner", "string", 0),
        column("ReclaimPolicy", "string", 0),
        column("VolumeBindingMode", "string", 0),
        column("AllowVolumeExpansion", "string", 0),
        AGE,
    ],
    cells,
    ..PLAIN
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, names::dns_subdomain);
    let provisioner = object.text("/provisioner");
    if provisioner.is_empty() {
        causes.required("provisioner", "");
    } else {
        for why in names::qualified_name(&provisioner.to_lowercase()) {
            causes.invalid("provisioner", provisioner, &why);
        }
    }
    parameters(&mut causes, object);
    let policy = object.text("/reclaimPolicy");
    if !policy.is_empty() && !["Delete", "Retain"].contains(&policy) {
        causes.not_supported("reclaimPolicy", policy, &["Delete", "Retain"]);
    }
    let mode = object.text("/volumeBindingMode");
    causes.one_of("volumeBindingMode", mode, &["Immediate", "WaitForFirstConsumer"]);
    topologies(&mut causes, &object.0["allowedTopologies"]);
    if let Some(old) = old {
        for field in ["parameters", "provisioner", "reclaimPolicy"] {
            if object.0.get(field) != old.0.get(field) {
                causes.forbidden(field, &format!("updates to {field} are forbidden."));
            }
        }
        let (new, old) = (&object.0["volumeBindingMode"], &old.0["volumeBindingMode"]);
        causes.immutable("volumeBindingMode", new, old);
    }
    causes.into_list()
}

fn parameters(causes: &mut Causes, object: &Object) {
    let Some(parameters) = object.map("/parameters") else { return };
    if parameters.len() > PARAMETERS_MAX {
        causes.too_long("parameters", PARAMETERS_MAX);
        return;
    }
    let mut bytes = 0;
    for (key, value) in parameters {
        if key.is_empty() {
            causes.invalid("parameters", "", "field can not be empty.");
        }
        bytes += key.len() + text(value).len();
    }
    if bytes > PARAMETERS_BYTES_MAX {
        causes.too_long("parameters", PARAMETERS_BYTES_MAX);
    }
}

fn topologies(causes: &mut Causes, terms: &Value) {
    let mut seen_terms = BTreeSet::new();
    for (index, term) in items(terms) {
        let field = format!("allowedTopologies[{index}].matchLabelExpressions");
        let mut keys = BTreeSet::new();
        let mut together = Vec::new();
        for (index, expression) in items(&term["matchLabelExpressions"]) {
            let (field, key) = (format!("{field}[{index}]"), text(&expression["key"]));
            let mut values = BTreeSet::new();
            if items(&expression["values"]).next().is_none() {
                causes.required(&format!("{field}.values"), "");
            }
            for (index, value) in items(&expression["values"]) {
                if !values.insert(text(value)) {
                    causes.duplicate(&format!("{field}.values[{index}]"), text(value));
                }
            }
            causes.name(&format!("{field}.key"), key, names::qualified_name);
            if !keys.insert(key) {
                causes.duplicate(&format!("{field}.key"), key);
            }
            together.push((key, values));
        }
        together.sort();
        if !seen_terms.insert(together) {
            causes.duplicate(&field, "");
        }
    }
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let is_default = IS_DEFAULT.iter().any(|key| object.annotation(key) == Some("true"));
    let mark = if is_default { " (default)" } else { "" };
    vec![
        format!("{}{mark}", object.name()).into(),
        object.text("/provisioner").into(),
        object.text("/reclaimPolicy").into(),
        object.text("/volumeBindingMode").into(),
        object.flag("/allowVolumeExpansion").into(),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    fn class(rest: Value) -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "fast", "creationTimestamp": at(0).to_string()},
            "provisioner": "example.com/disk",
        }));
        object.0.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        (STORAGE_CLASS.default)(&mut object);
        object
    }

    #[test]
    fn classes_are_defaulted_and_printed() {
        let mut object = class(json!({"allowVolumeExpansion": true}));
        assert_eq!(found(&STORAGE_CLASS, &object, None), [""; 0]);
        assert_eq!(row(&STORAGE_CLASS, &object, 5), "fast|example.com/disk|Delete|Immediate|true|5s");
        object.set("/metadata/annotations/storageclass.kubernetes.io~1is-default-class", "true");
        assert!(row(&STORAGE_CLASS, &object, 5).starts_with("fast (default)|"));
    }

    #[test]
    fn wrong_classes_are_named() {
        let terms = |values: Value| {
            json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": values}]}]})
        };
        for (rest, line) in [
            (json!({"provisioner": ""}), "Required provisioner: Required value"),
            (json!({"reclaimPolicy": "Recycle"}), "NotSupported reclaimPolicy: Unsupported value: \
                \"Recycle\": supported values: \"Delete\", \"Retain\""),
            (json!({"volumeBindingMode": "Late"}), "NotSupported volumeBindingMode: Unsupported \
                value: \"Late\": supported values: \"Immediate\", \"WaitForFirstConsumer\""),
            (json!({"parameters": {"": "a"}}),
                "Invalid parameters: Invalid value: \"\": field can not be empty."),
            (terms(json!([])),
                "Required allowedTopologies[0].matchLabelExpressions[0].values: Required value"),
            (terms(json!(["a", "a"])), "Duplicate \
                allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: \"a\""),
        ] {
            assert_eq!(found(&STORAGE_CLASS, &class(rest), None), [line]);
        }
    }

    #[test]
    fn what_decides_about_volumes_stays() {
        let old = class(json!({}));
        let new = class(json!({"parameters": {"a": "b"}, "provisioner": "x.y/z",
            "reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer"}));
        assert_eq!(
            found(&STORAGE_CLASS, &new, Some(&old)),
            [
                "Forbidden parameters: Forbidden: updates to parameters are forbidden.",
                "Forbidden provisioner: Forbidden: updates to provisioner are forbidden.",
                "Forbidden reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.",
                "Invalid volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is \
                 immutable",
            ]
        );
    }
}
