//! ValidatingAdmissionPolicyBinding.

use std::collections::BTreeSet;

use serde_json::Value;

use super::validating_admission_policy::{match_defaults, match_resources};
use super::{AGE, Kind, NAME, PLAIN, age, column};
use crate::defaulting::{inside, part};
use crate::validation::{Causes, go_strings, items, metadata, names, selector, text};
use crate::{Cause, Object};

const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];

/// ValidatingAdmissionPolicyBinding.
pub static VALIDATING_ADMISSION_POLICY_BINDING: Kind = Kind {
    id: "validatingadmissionpolicybindings.admissionregistration.k8s.io",
    group: "admissionregistration.k8s.io",
    kind: "ValidatingAdmissionPolicyBinding",
    plural: "validatingadmissionpolicybindings",
    namespaced: false,
    has_generation: true,
    default: |object| {
        let Some(spec) = part(&mut object.0, "spec") else { return };
        if let Some(resources) = inside(spec, "matchResources") {
            match_defaults(resources);
        }
    },
    validate,
    columns: &[
        NAME,
        column("PolicyName", "string", 0),
        column("ParamRef", "string", 0),
        AGE,
    ],
    cells: |object, now| {
        let part = |name: &str| object.text(&format!("/spec/paramRef/{name}"));
        let reference = match (object.map("/spec/paramRef"), part("namespace"), part("name")) {
            (None, ..) => "<unset>".to_owned(),
            (_, "", name) => format!("*/{name}"),
            (_, namespace, name) => format!("{namespace}/{name}"),
        };
        vec![
            object.name().into(),
            object.text("/spec/policyName").into(),
            reference.into(),
            age(object, now),
        ]
    },
    ..PLAIN
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, names::dns_subdomain);
    let spec = &object.0["spec"];
    causes.required_name("spec.policyName", text(&spec["policyName"]), names::dns_subdomain);
    if !spec["paramRef"].is_null() {
        param_ref(&mut causes, &spec["paramRef"]);
    }
    if !spec["matchResources"].is_null() {
        match_resources(&mut causes, &spec["matchResources"], "spec.matchResources");
    }
    actions(&mut causes, &spec["validationActions"]);
    causes.into_list()
}

fn param_ref(causes: &mut Causes, reference: &Value) {
    const FIELD: &str = "spec.paramRef";
    let name = text(&reference["name"]);
    match (name.is_empty(), reference["selector"].is_null()) {
        (false, false) => causes.forbidden(
            &format!("{FIELD}.name"),
            "name and selector are mutually exclusive",
        ),
        (true, true) => causes.required(FIELD, "one of name or selector must be specified"),
        (false, true) => causes.name(&format!("{FIELD}.name"), name, names::path_segment),
        (true, false) => {
            selector::validate(causes, &reference["selector"], &format!("{FIELD}.selector"));
        }
    }
    let action = text(&reference["parameterNotFoundAction"]);
    let field = format!("{FIELD}.parameterNotFoundAction");
    causes.one_of(&field, action, &["Allow", "Deny"]);
}

fn actions(causes: &mut Causes, list: &Value) {
    const FIELD: &str = "spec.validationActions";
    let mut seen = BTreeSet::new();
    for (index, action) in items(list) {
        let (field, action) = (format!("{FIELD}[{index}]"), text(action));
        if !ACTIONS.contains(&action) {
            causes.not_supported(&field, action, ACTIONS);
        }
        if !seen.insert(action) {
            causes.duplicate(&field, action);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure \
                   information in the API response and headers serves no purpose)";
        causes.invalid_as(FIELD, &go_strings(list), why);
    }
    if seen.is_empty() {
        causes.required(FIELD, "at least one validation action is required");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    #[test]
    fn bindings_are_checked_and_printed() {
        let binding = |spec: Value| {
            let mut object = Object(json!({
                "metadata": {"name": "b", "creationTimestamp": at(0).to_string()}, "spec": spec,
            }));
            (VALIDATING_ADMISSION_POLICY_BINDING.default)(&mut object);
            object
        };
        let good = binding(json!({"policyName": "limit", "validationActions": ["Deny", "Audit"],
            "paramRef": {"name": "a", "parameterNotFoundAction": "Deny"}}));
        assert_eq!(found(&VALIDATING_ADMISSION_POLICY_BINDING, &good, None), [""; 0]);
        assert_eq!(row(&VALIDATING_ADMISSION_POLICY_BINDING, &good, 5), "b|limit|*/a|5s");
        for (spec, start) in [
            (json!({"validationActions": ["Deny"]}), "Required spec.policyName"),
            (json!({"policyName": "a"}), "Required spec.validationActions"),
            (json!({"policyName": "a", "validationActions": ["Deny", "Warn"]}),
                "Invalid spec.validationActions"),
            (json!({"policyName": "a", "validationActions": ["Stop"]}),
                "NotSupported spec.validationActions[0]"),
            (json!({"policyName": "a", "validationActions": ["Deny"],
                "paramRef": {"parameterNotFoundAction": "Deny"}}), "Required spec.paramRef"),
        ] {
            let found = found(&VALIDATING_ADMISSION_POLICY_BINDING, &binding(spec), None);
            assert!(found.len() == 1 && found[0].starts_with(start), "{start}: {found:?}");
        }
    }
}
