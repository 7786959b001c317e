//! Expressions in webhook configurations and policies are compiled when they are written.
//!
//! Limit: types of fields are not checked, only those of whole expressions where they are plain to see.

use machinery::kinds::{
    MUTATING_WEBHOOK_CONFIGURATION, VALIDATING_ADMISSION_POLICY, VALIDATING_WEBHOOK_CONFIGURATION,
};
use machinery::{Cause, Kind, Object, Status};
use serde_json::Value;

use super::attributes;
use crate::cel::Program;

/// What expressions of a policy may speak of, besides what those of webhooks may.
const OF_POLICIES: [&str; 3] = ["namespaceObject", "params", "variables"];
/// The fields of `request`.
const REQUEST: [&str; 12] = [
    "dryRun",
    "kind",
    "name",
    "namespace",
    "operation",
    "options",
    "requestKind",
    "requestResource",
    "requestSubResource",
    "resource",
    "subResource",
    "userInfo",
];

/// Refuses an object whose expressions do not compile.
pub(super) fn check(kind: &Kind, object: &Object, old: Option<&Object>) -> Result<(), Status> {
    let mut causes = Causes(Vec::new());
    if kind.id == VALIDATING_ADMISSION_POLICY.id {
        if old.is_none_or(|old| old.get("/spec") != object.get("/spec")) {
            policy(&mut causes, &object.0["spec"]);
        }
    } else if [MUTATING_WEBHOOK_CONFIGURATION.id, VALIDATING_WEBHOOK_CONFIGURATION.id]
        .contains(&kind.id)
        && old.is_none_or(|old| old.get("/webhooks") != object.get("/webhooks"))
    {
        for (index, hook) in object.list("/webhooks").iter().enumerate() {
            let field = format!("webhooks[{index}].matchConditions");
            conditions(&mut causes, &hook["matchConditions"], &field, &attributes::NAMES);
        }
    }
    match causes.0.as_slice() {
        [] => Ok(()),
        causes => Err(Status::invalid(kind.group, kind.kind, object.name(), causes)),
    }
}

struct Causes(Vec<Cause>);

impl Causes {
    fn add(&mut self, field: String, expression: &str, why: &str) {
        let message = format!("Invalid value: {expression:?}: {why}");
        self.0.push(Cause { reason: "FieldValueInvalid".into(), message, field });
    }
}

/// What one expression may speak of, and must answer.
struct Rules<'r> {
    names: &'r [&'r str],
    /// The fields of `variables`.
    variables: &'r [&'r str],
    answers: &'r [&'r str],
}

fn conditions(causes: &mut Causes, list: &Value, field: &str, names: &[&str]) {
    for (index, condition) in list.as_array().into_iter().flatten().enumerate() {
        let rules = Rules { names, variables: &[], answers: &["bool"] };
        expression(
            causes,
            &condition["expression"],
            format!("{field}[{index}].expression"),
            &rules,
        );
    }
}

fn policy(causes: &mut Causes, spec: &Value) {
    let has_params = !spec["paramKind"].is_null();
    let of_policies = OF_POLICIES.into_iter().filter(|name| has_params || *name != "params");
    let names: Vec<&str> = attributes::NAMES.into_iter().chain(of_policies).collect();
    let before: Vec<&str> = names.iter().copied().filter(|name| *name != "variables").collect();
    conditions(causes, &spec["matchConditions"], "spec.matchConditions", &before);
    let items = |part: &str| spec[part].as_array().map(Vec::as_slice).unwrap_or_default().iter();
    let mut variables = Vec::new();
    for (index, variable) in items("variables").enumerate() {
        let rules = Rules { names: &names, variables: &variables, answers: &[] };
        let field = format!("spec.variables[{index}].expression");
        expression(causes, &variable["expression"], field, &rules);
        variables.extend(variable["name"].as_str());
    }
    let rules = |answers| Rules { names: &names, variables: &variables, answers };
    for (index, validation) in items("validations").enumerate() {
        let field = format!("spec.validations[{index}].expression");
        expression(causes, &validation["expression"], field, &rules(&["bool"]));
        let field = format!("spec.validations[{index}].messageExpression");
        expression(causes, &validation["messageExpression"], field, &rules(&["string"]));
    }
    for (index, annotation) in items("auditAnnotations").enumerate() {
        let field = format!("spec.auditAnnotations[{index}].valueExpression");
        let rules = rules(&["string", "null_type"]);
        expression(causes, &annotation["valueExpression"], field, &rules);
    }
}

fn expression(causes: &mut Causes, value: &Value, field: String, rules: &Rules<'_>) {
    let text = value.as_str().unwrap_or_default();
    if text.is_empty() {
        return;
    }
    let program = match Program::compile_in(text, rules.names) {
        Ok(program) => program,
        Err(why) => return causes.add(field, text, &format!("compilation failed: {why}")),
    };
    for (of, known) in [("variables", rules.variables), ("request", &REQUEST[..])] {
        if let Some(unknown) = program.fields_of(of).find(|one| !known.contains(one)) {
            let why = program.complaint(&format!("undefined field '{unknown}'"));
            return causes.add(field, text, &format!("compilation failed: {why}"));
        }
    }
    if let Some(found) = program.answer_type()
        && !rules.answers.is_empty()
        && !rules.answers.contains(&found)
    {
        let why = match rules.answers {
            [one] => format!("must evaluate to {one}"),
            several => format!("must evaluate to one of [{}]", several.join(" ")),
        };
        causes.add(field, text, &why);
    }
}
