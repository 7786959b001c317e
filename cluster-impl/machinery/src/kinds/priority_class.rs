//! PriorityClass.

use super::{AGE, Kind, NAME, PLAIN, age, column};
use crate::defaulting::absent;
use crate::validation::{Causes, metadata, names};
use crate::{Cause, Object};

/// The classes that every cluster has, with their values.
pub const SYSTEM_PRIORITY_CLASSES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
/// Users' classes have at most this value.
const USER_MAX: i64 = 1_000_000_000;

/// PriorityClass.
pub static PRIORITY_CLASS: Kind = Kind {
    id: "priorityclasses.scheduling.k8s.io",
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    plural: "priorityclasses",
    short_names: &["pc"],
    namespaced: false,
    has_generation: true,
    default: |object| absent(&mut object.0, "preemptionPolicy", "PreemptLowerPriority"),
    validate,
    columns: &[
        NAME,
        column("Value", "integer", 0),
        column("Global-Default", "boolean", 0),
        AGE,
        column("PreemptionPolicy", "string", 0),
    ],
    cells: |object, now| {
        vec![
            object.name().into(),
            object.integer("/value").unwrap_or_default().into(),
            object.flag("/globalDefault").into(),
            age(object, now),
            object.text("/preemptionPolicy").into(),
        ]
    },
    ..PLAIN
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, names::dns_subdomain);
    let (name, value) = (object.name(), object.integer("/value").unwrap_or_default());
    if name.starts_with("system-") {
        let known = SYSTEM_PRIORITY_CLASSES.iter().find(|(known, _)| *known == name);
        let error = match known {
            None => format!("{name} is not a known system priority class"),
            Some((_, known)) if *known != value => {
                format!("value of {name} PriorityClass must be {known}")
            }
            Some(_) if object.flag("/globalDefault") => {
                format!("globalDefault of {name} PriorityClass must be false")
            }
            Some(_) => String::new(),
        };
        if !error.is_empty() {
            let why = format!(
                "priority class names with 'system-' prefix are reserved for system use only. \
                 error: {error}"
            );
            causes.forbidden("metadata.name", &why);
        }
    } else if value > USER_MAX {
        let why = format!("maximum allowed value of a user defined priority is {USER_MAX}");
        causes.forbidden("value", &why);
    }
    let supported = &["PreemptLowerPriority", "Never"];
    causes.one_of("preemptionPolicy", object.text("/preemptionPolicy"), supported);
    if let Some(old) = old {
        if old.integer("/value").unwrap_or_default() != value {
            causes.forbidden("value", "may not be changed in an update.");
        }
        let (new, old) = (&object.0["preemptionPolicy"], &old.0["preemptionPolicy"]);
        causes.immutable("preemptionPolicy", new, old);
    }
    causes.into_list()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    fn class(name: &str, value: i64) -> Object {
        let mut object = Object(json!({
            "metadata": {"name": name, "creationTimestamp": at(0).to_string()}, "value": value,
        }));
        (PRIORITY_CLASS.default)(&mut object);
        object
    }

    #[test]
    fn classes_are_checked_and_printed() {
        let good = class("high", 1000);
        assert_eq!(row(&PRIORITY_CLASS, &good, 5), "high|1000|false|5s|PreemptLowerPriority");
        let mut never = good.clone();
        never.set("/preemptionPolicy", "Never");
        for (object, old, expected) in [
            (good.clone(), None, vec![]),
            (class("system-node-critical", 2_000_001_000), None, vec![]),
            (class("system-node-critical", 5), None, vec![
                "Forbidden metadata.name: Forbidden: priority class names with 'system-' prefix \
                 are reserved for system use only. error: value of system-node-critical \
                 PriorityClass must be 2000001000",
            ]),
            (class("system-mine", 5), None, vec![
                "Forbidden metadata.name: Forbidden: priority class names with 'system-' prefix \
                 are reserved for system use only. error: system-mine is not a known system \
                 priority class",
            ]),
            (class("high", 1_000_000_001), None, vec![
                "Forbidden value: Forbidden: maximum allowed value of a user defined priority is \
                 1000000000",
            ]),
            (class("high", 1001), Some(&good), vec![
                "Forbidden value: Forbidden: may not be changed in an update.",
            ]),
            (never, Some(&good), vec![
                "Invalid preemptionPolicy: Invalid value: \"Never\": field is immutable",
            ]),
        ] {
            assert_eq!(found(&PRIORITY_CLASS, &object, old), expected);
        }
    }
}
