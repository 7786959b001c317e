//! Works out what the expressions of one policy say of one write.
//!
//! Limit: all expressions of a policy together cost [`POLICY_COST_MAX`] at most, as upstream.

use std::cell::Cell;

use machinery::{Kind, Object, Status};
use serde_json::Value as Json;

use super::super::Review;
use super::super::attributes::{self, Met};
use crate::cel::{self, Program, Value, Variables};

/// The budget of a policy.
const POLICY_COST_MAX: u64 = 10_000_000;
/// The longest message that an expression may make.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;
/// The longest annotation.
const ANNOTATION_BYTES_MAX: usize = 10 * 1024;

/// One thing that a policy has to say.
#[derive(Debug)]
pub(super) struct Decision {
    pub(super) message: String,
    /// Empty for Invalid.
    pub(super) reason: String,
    /// Which of the validations; 0 for others.
    pub(super) index: usize,
    /// Whether an expression could not be worked out, rather than being false.
    pub(super) is_failure: bool,
    /// The key, if it is but a note for the audit.
    pub(super) annotation: Option<String>,
}

impl Decision {
    pub(super) fn failed(message: String) -> Self {
        Self { message, reason: String::new(), index: 0, is_failure: true, annotation: None }
    }
}

/// What the expressions of a policy may speak of.
pub(super) async fn variables(
    review: &Review<'_>,
    policy: &Object,
    kind: &'static Kind,
    parameter: Option<&Object>,
) -> Result<Variables, Status> {
    // Any expression may ask for it, and it costs little next to them.
    let is_authorizer_wanted = policy.0["spec"].to_string().contains("authorizer");
    let mut variables = attributes::variables(review, kind, is_authorizer_wanted).await?;
    let shown =
        |object: Option<&Object>| object.map_or(Value::Null, |object| cel::from_json(&object.0));
    variables.set("params", shown(parameter));
    let namespace = match review.kind.namespaced {
        true => attributes::namespace(review).await?,
        false => None,
    };
    variables.set("namespaceObject", shown(namespace.as_deref()));
    Ok(variables)
}

/// Whether the policy's conditions are met.
pub(super) fn conditions(policy: &Object, variables: &Variables) -> Met {
    let budget = Budget::new(variables);
    let mut wrong = Vec::new();
    for condition in policy.list("/spec/matchConditions") {
        match budget.run(&condition["expression"]).and_then(boolean) {
            Ok(true) => {}
            Ok(false) => return Met::No,
            Err(why) => wrong.push(why_failed(&condition["expression"], &why)),
        }
    }
    match wrong.as_slice() {
        [] => Met::Yes,
        [one] => Met::Unknown(one.clone()),
        all => Met::Unknown(format!("[{}]", all.join(", "))),
    }
}

/// Adds the policy's own variables.
pub(super) fn compose(policy: &Object, variables: &mut Variables) {
    for variable in policy.list("/spec/variables") {
        let text = |part: &str| variable[part].as_str().unwrap_or_default();
        // One that does not compile is missing when it is asked for.
        if let Ok(program) = Program::compile(text("expression")) {
            variables.compose(text("name"), program);
        }
    }
    variables.set("variables", cel::empty());
}

/// The validations that do not hold.
pub(super) fn validations(policy: &Object, variables: &Variables) -> Vec<Decision> {
    let budget = Budget::new(variables);
    let mut decisions = Vec::new();
    for (index, validation) in policy.list("/spec/validations").iter().enumerate() {
        if budget.is_spent() {
            let why = "validation failed due to running out of cost budget, no further validation \
                       rules will be run";
            decisions.push(Decision::failed(why.to_owned()));
            break;
        }
        let message = match budget.run(&validation["expression"]).and_then(boolean) {
            Ok(true) => continue,
            Err(why) => {
                let why = why_failed(&validation["expression"], &why);
                decisions.push(Decision { index, ..Decision::failed(why) });
                continue;
            }
            Ok(false) => message(validation, &budget),
        };
        decisions.push(Decision {
            message,
            reason: validation["reason"].as_str().unwrap_or_default().to_owned(),
            index,
            is_failure: false,
            annotation: None,
        });
    }
    decisions
}

/// What the client is told of a validation that does not hold.
fn message(validation: &Json, budget: &Budget<'_>) -> String {
    let text = |part: &str| validation[part].as_str().unwrap_or_default().trim();
    if !text("messageExpression").is_empty()
        && let Ok(Value::String(made)) = budget.run(&validation["messageExpression"])
    {
        let made = made.trim();
        if !made.is_empty() && made.len() <= MESSAGE_BYTES_MAX && !made.contains('\n') {
            return made.to_owned();
        }
    }
    match text("message") {
        "" => format!("failed expression: {}", text("expression")),
        message => message.to_owned(),
    }
}

/// What the audit is told, and what of it cannot be worked out.
pub(super) fn annotations(policy: &Object, variables: &Variables) -> Vec<Decision> {
    let budget = Budget::new(variables);
    let mut decisions = Vec::new();
    for annotation in policy.list("/spec/auditAnnotations") {
        let expression = &annotation["valueExpression"];
        let message = match budget.run(expression) {
            Ok(Value::Null) => continue,
            Ok(Value::String(text)) if text.trim().is_empty() => continue,
            Ok(Value::String(text)) => text
                .trim()
                .chars()
                .scan(0, |bytes, one| {
                    *bytes += one.len_utf8();
                    (*bytes <= ANNOTATION_BYTES_MAX).then_some(one)
                })
                .collect(),
            Ok(_) => {
                let why = "valueExpression must evaluate to string or null";
                decisions.push(Decision::failed(why_failed(expression, why)));
                continue;
            }
            Err(why) => {
                decisions.push(Decision::failed(why_failed(expression, &why)));
                continue;
            }
        };
        let key = annotation["key"].as_str().unwrap_or_default().to_owned();
        decisions.push(Decision {
            annotation: Some(key),
            is_failure: false,
            ..Decision::failed(message)
        });
    }
    decisions
}

/// What a policy may still spend.
struct Budget<'v> {
    variables: &'v Variables,
    left: Cell<u64>,
}

impl<'v> Budget<'v> {
    fn new(variables: &'v Variables) -> Self {
        Self { variables, left: Cell::new(POLICY_COST_MAX) }
    }

    fn is_spent(&self) -> bool {
        self.left.get() == 0
    }

    fn run(&self, expression: &Json) -> Result<Value, String> {
        let program = Program::compile(expression.as_str().unwrap_or_default())
            .map_err(|why| format!("compilation failed: {why}"))?;
        let allowed = self.left.get().min(cel::COST_MAX);
        self.variables.allow(allowed);
        let answer = program.run(self.variables);
        self.left.set(self.left.get() - (allowed - self.variables.left()));
        answer
    }
}

fn boolean(value: Value) -> Result<bool, String> {
    match value {
        Value::Bool(value) => Ok(value),
        _ => Err("must evaluate to bool".to_owned()),
    }
}

fn why_failed(expression: &Json, why: &str) -> String {
    format!("expression '{}' resulted in error: {why}", expression.as_str().unwrap_or_default())
}
