//! ValidatingAdmissionPolicy.
//!
//! Limit: expressions are not compiled, only looked at for their presence.

use std::collections::BTreeSet;

use serde_json::Value;

use super::validating_webhook_configuration::{
    FAILURE_POLICIES, match_conditions, rule_with_operations,
};
use super::{AGE, Kind, NAME, PLAIN, age, column, create_without_status, keep_status};
use crate::defaulting::{absent, each, empty, inside, part};
use crate::validation::{Causes, items, metadata, names, selector, text};
use crate::{Cause, Object};

const AUDIT_ANNOTATIONS_MAX: usize = 20;
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];

/// ValidatingAdmissionPolicy.
pub static VALIDATING_ADMISSION_POLICY: Kind = Kind {
    id: "validatingadmissionpolicies.admissionregistration.k8s.io",
    group: "admissionregistration.k8s.io",
    kind: "ValidatingAdmissionPolicy",
    plural: "validatingadmissionpolicies",
    namespaced: false,
    has_status: true,
    has_generation: true,
    default: |object| {
        absent(&mut object.0, "status", empty());
        let Some(spec) = part(&mut object.0, "spec") else { return };
        absent(spec, "failurePolicy", "Fail");
        if let Some(resources) = inside(spec, "matchConstraints") {
            match_defaults(resources);
        }
    },
    prepare_create: create_without_status,
    prepare_update: keep_status,
    validate,
    columns: &[
        NAME,
        column("Validations", "integer", 0),
        column("ParamKind", "string", 0),
        AGE,
    ],
    cells: |object, now| {
        let parameters = match object.map("/spec/paramKind") {
            None => "<unset>".to_owned(),
            Some(_) => {
                let version = object.text("/spec/paramKind/apiVersion");
                format!("{version}/{}", object.text("/spec/paramKind/kind"))
            }
        };
        vec![
            object.name().into(),
            object.list("/spec/validations").len().into(),
            parameters.into(),
            age(object, now),
        ]
    },
    ..PLAIN
};

/// The defaults of match resources.
pub(super) fn match_defaults(resources: &mut Value) {
    absent(resources, "matchPolicy", "Equivalent");
    absent(resources, "namespaceSelector", empty());
    absent(resources, "objectSelector", empty());
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in each(resources, list) {
            absent(rule, "scope", "*");
        }
    }
}

/// Checks match resources.
pub(super) fn match_resources(causes: &mut Causes, resources: &Value, field: &str) {
    let policy = text(&resources["matchPolicy"]);
    causes.one_of(&format!("{field}.matchPolicy"), policy, &["Equivalent", "Exact"]);
    for part in ["namespaceSelector", "objectSelector"] {
        selector::validate(causes, &resources[part], &format!("{field}.{part}"));
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for (index, rule) in items(&resources[list]) {
            let field = format!("{field}.{list}[{index}]");
            let mut seen = BTreeSet::new();
            for (index, name) in items(&rule["resourceNames"]) {
                let (field, name) = (format!("{field}.resourceNames[{index}]"), text(name));
                causes.name(&field, name, names::path_segment);
                if !seen.insert(name) {
                    causes.duplicate(&field, name);
                }
            }
            rule_with_operations(causes, rule, &field);
        }
    }
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, names::dns_subdomain);
    let spec = &object.0["spec"];
    causes.one_of("spec.failurePolicy", text(&spec["failurePolicy"]), FAILURE_POLICIES);
    if !spec["paramKind"].is_null() {
        param_kind(&mut causes, &spec["paramKind"]);
    }
    let constraints = &spec["matchConstraints"];
    if constraints.is_null() {
        causes.required("spec.matchConstraints", "");
    } else {
        match_resources(&mut causes, constraints, "spec.matchConstraints");
        if items(&constraints["resourceRules"]).next().is_none() {
            causes.required("spec.matchConstraints.resourceRules", "");
        }
    }
    match_conditions(&mut causes, &spec["matchConditions"], "spec.matchConditions");
    for (index, variable) in items(&spec["variables"]) {
        let field = format!("spec.variables[{index}]");
        for part in ["name", "expression"] {
            if text(&variable[part]).trim().is_empty() {
                causes.required(&format!("{field}.{part}"), &format!("{part} is not specified"));
            }
        }
        let name = text(&variable["name"]);
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !name.trim().is_empty()
            && (!name.chars().all(fits) || name.starts_with(|c: char| c.is_ascii_digit()))
        {
            let why = "name is not a valid CEL identifier";
            causes.invalid(&format!("{field}.name"), name, why);
        }
    }
    let count = |part: &str| items(&spec[part]).count();
    if count("validations") == 0 && count("auditAnnotations") == 0 {
        let why = "validations or auditAnnotations must contain at least one item";
        causes.required("spec.validations", why);
        causes.required("spec.auditAnnotations", why);
    }
    for (index, validation) in items(&spec["validations"]) {
        validate_validation(&mut causes, validation, &format!("spec.validations[{index}]"));
    }
    annotations(&mut causes, &spec["auditAnnotations"], object.name());
    causes.into_list()
}

fn param_kind(causes: &mut Causes, kind: &Value) {
    const FIELD: &str = "spec.paramKind.apiVersion";
    let version = text(&kind["apiVersion"]);
    match version.split('/').collect::<Vec<_>>().as_slice() {
        [""] => causes.required(FIELD, ""),
        [version] => causes.name(FIELD, version, names::dns_1035_label),
        [group, version] => {
            causes.name(FIELD, group, names::dns_subdomain);
            causes.name(FIELD, version, names::dns_1035_label);
        }
        _ => {
            let why = format!("unexpected GroupVersion string: {version}");
            causes.invalid(FIELD, version, &why);
        }
    }
    let kind = text(&kind["kind"]);
    if kind.is_empty() {
        causes.required("spec.paramKind.kind", "");
    }
    for why in names::dns_1035_label(&kind.to_lowercase()).iter().filter(|_| !kind.is_empty()) {
        let why = format!("may have mixed case, but should otherwise match: {why}");
        causes.invalid("spec.paramKind.kind", kind, &why);
    }
}

fn validate_validation(causes: &mut Causes, validation: &Value, field: &str) {
    if text(&validation["expression"]).trim().is_empty() {
        causes.required(&format!("{field}.expression"), "expression is not specified");
    }
    let blank = |part: &str| {
        let value = text(&validation[part]);
        !value.is_empty() && value.trim().is_empty()
    };
    let message = text(&validation["message"]);
    if blank("messageExpression") {
        let value = text(&validation["messageExpression"]);
        let field = format!("{field}.messageExpression");
        causes.invalid(&field, value, "must be non-empty if specified");
    }
    if blank("message") {
        let field = format!("{field}.message");
        causes.invalid(&field, message, "message must be non-empty if specified");
    } else if message.trim().contains('\n') {
        let field = format!("{field}.message");
        causes.invalid(&field, message, "message must not contain line breaks");
    }
    if let Some(reason) = validation["reason"].as_str().filter(|one| !REASONS.contains(one)) {
        causes.not_supported(&format!("{field}.reason"), reason, REASONS);
    }
}

fn annotations(causes: &mut Causes, list: &Value, policy: &str) {
    const FIELD: &str = "spec.auditAnnotations";
    let count = items(list).count();
    if count > AUDIT_ANNOTATIONS_MAX {
        let why = format!("must not have more than {AUDIT_ANNOTATIONS_MAX} auditAnnotations");
        causes.invalid(FIELD, list.clone(), &why);
    }
    let mut seen = BTreeSet::new();
    for (index, annotation) in items(list) {
        let (field, key) = (format!("{FIELD}[{index}]"), text(&annotation["key"]));
        for why in names::qualified_name(&format!("{policy}/{key}")) {
            causes.invalid(&format!("{field}.key"), format!("{policy}/{key}"), &why);
        }
        if text(&annotation["valueExpression"]).trim().is_empty() {
            causes.required(
                &format!("{field}.valueExpression"),
                "valueExpression is not specified",
            );
        }
        if !seen.insert(key) {
            causes.duplicate(&format!("{field}.key"), key);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    fn policy(changes: Value) -> Object {
        let rule = json!({"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"],
            "resources": ["deployments"]});
        let mut spec = json!({"matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "true"}]});
        spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let mut object = Object(json!({
            "metadata": {"name": "limit", "creationTimestamp": at(0).to_string()}, "spec": spec,
        }));
        (VALIDATING_ADMISSION_POLICY.default)(&mut object);
        object
    }

    #[test]
    fn policies_are_defaulted_checked_and_printed() {
        let good = policy(json!({"paramKind": {"apiVersion": "a.b/v1", "kind": "Limit"}}));
        assert_eq!(good.text("/spec/failurePolicy"), "Fail");
        assert_eq!(good.text("/spec/matchConstraints/matchPolicy"), "Equivalent");
        assert_eq!(found(&VALIDATING_ADMISSION_POLICY, &good, None), [""; 0]);
        assert_eq!(row(&VALIDATING_ADMISSION_POLICY, &good, 5), "limit|1|a.b/v1/Limit|5s");
        for (changes, start) in [
            (json!({"matchConstraints": null}), "Required spec.matchConstraints"),
            (json!({"matchConstraints": {}}), "Required spec.matchConstraints.resourceRules"),
            (json!({"failurePolicy": "Warn"}), "NotSupported spec.failurePolicy"),
            (json!({"validations": [{}]}), "Required spec.validations[0].expression"),
            (json!({"validations": [{"expression": "true", "reason": "Odd"}]}),
                "NotSupported spec.validations[0].reason"),
            (json!({"variables": [{"name": "1a", "expression": "x"}]}),
                "Invalid spec.variables[0].name"),
            (json!({"paramKind": {"apiVersion": "v1"}}), "Required spec.paramKind.kind"),
        ] {
            let found = found(&VALIDATING_ADMISSION_POLICY, &policy(changes), None);
            assert!(found.len() == 1 && found[0].starts_with(start), "{start}: {found:?}");
        }
        let none = found(&VALIDATING_ADMISSION_POLICY, &policy(json!({"validations": []})), None);
        assert_eq!(none.len(), 2);
    }
}
