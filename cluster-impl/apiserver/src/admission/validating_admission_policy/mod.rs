//! ValidatingAdmissionPolicy: rules in CEL that are bound to what they apply to.
//!
//! Limits: the status of a policy says nothing of its types; kinds of parameters are those that this
//! server serves itself.

mod evaluate;
mod parameters;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::kinds::{VALIDATING_ADMISSION_POLICY, VALIDATING_ADMISSION_POLICY_BINDING};
use machinery::{Kind, Object, Status};
use serde_json::{Value, json};

use self::evaluate::Decision;
use super::attributes::{self, Met};
use super::{Plugin, Review, Step};
use crate::picture::Picture;
use crate::status;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "ValidatingAdmissionPolicy",
    stage: 32,
    admit: Step::Nothing,
    validate: Step::Waits(validate),
};

/// A decision against a write, and whose it is.
struct Denial {
    policy: String,
    binding: Option<String>,
    message: String,
    reason: String,
}

fn validate<'a>(review: &'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>> {
    async move {
        if attributes::is_exempt(review) {
            return Ok(());
        }
        let policies = Picture::all(review.server, &VALIDATING_ADMISSION_POLICY, "").await?;
        if policies.is_empty() {
            return Ok(());
        }
        let bindings =
            Picture::all(review.server, &VALIDATING_ADMISSION_POLICY_BINDING, "").await?;
        let mut denials = Vec::new();
        let mut notes = Notes::default();
        for policy in &policies {
            let of_policy =
                bindings.iter().filter(|one| one.text("/spec/policyName") == policy.name());
            apply(review, policy, of_policy, (&mut denials, &mut notes)).await?;
        }
        notes.publish(review);
        denials.first().map_or(Ok(()), |denial| Err(refusal(review, denial)))
    }
    .boxed()
}

/// Applies a policy through all of its bindings.
async fn apply(
    review: &Review<'_>,
    policy: &Arc<Object>,
    bindings: impl Iterator<Item = &Arc<Object>>,
    (denials, notes): (&mut Vec<Denial>, &mut Notes),
) -> Result<(), Status> {
    let constraints = &policy.0["spec"]["matchConstraints"];
    let Some(kind) = matched(review, constraints).await? else { return Ok(()) };
    for binding in bindings {
        let resources = &binding.0["spec"]["matchResources"];
        if !resources.is_null() && matched(review, resources).await?.is_none() {
            continue;
        }
        let found = parameters::find(review, policy, binding).await?;
        let all = match found {
            Ok(all) => all,
            Err(_) if policy.text("/spec/failurePolicy") == "Ignore" => continue,
            Err(why) => {
                denials.push(Denial {
                    policy: policy.name().to_owned(),
                    binding: Some(binding.name().to_owned()),
                    message: format!("failed to configure binding: {why}"),
                    reason: String::new(),
                });
                continue;
            }
        };
        for parameter in &all {
            let decisions = decide(review, policy, kind, parameter.as_deref()).await?;
            for decision in decisions {
                enforce(review, policy, binding, decision, (denials, notes));
            }
        }
    }
    Ok(())
}

/// The version of its kind in which match resources are about a write.
async fn matched(review: &Review<'_>, resources: &Value) -> Result<Option<&'static Kind>, Status> {
    let match_policy = resources["matchPolicy"].as_str().unwrap_or_default();
    if !attributes::is_selected(review, &resources["objectSelector"])?
        || !attributes::is_namespace_selected(review, &resources["namespaceSelector"]).await?
        || attributes::matched(review, &resources["excludeResourceRules"], match_policy).is_some()
    {
        return Ok(None);
    }
    let rules = &resources["resourceRules"];
    // A binding that names no resources means all of its policy's.
    if rules.as_array().is_none_or(Vec::is_empty) {
        return Ok(Some(review.kind));
    }
    Ok(attributes::matched(review, rules, match_policy))
}

/// What a policy says of a write, for one parameter.
async fn decide(
    review: &Review<'_>,
    policy: &Object,
    kind: &'static Kind,
    parameter: Option<&Object>,
) -> Result<Vec<Decision>, Status> {
    let is_ignorable = policy.text("/spec/failurePolicy") == "Ignore";
    let mut variables = evaluate::variables(review, policy, kind, parameter).await?;
    match evaluate::conditions(policy, &variables) {
        Met::Yes => {}
        Met::No => return Ok(Vec::new()),
        Met::Unknown(_) if is_ignorable => return Ok(Vec::new()),
        Met::Unknown(why) => return Ok(vec![Decision::failed(why)]),
    }
    evaluate::compose(policy, &mut variables);
    let mut decisions = evaluate::validations(policy, &variables);
    decisions.extend(evaluate::annotations(policy, &variables));
    decisions.retain(|decision| !(is_ignorable && decision.is_failure));
    Ok(decisions)
}

/// Does with a decision what the binding wants.
fn enforce(
    review: &Review<'_>,
    policy: &Object,
    binding: &Object,
    decision: Decision,
    (denials, notes): (&mut Vec<Denial>, &mut Notes),
) {
    if let Some(key) = decision.annotation {
        notes.add(format!("{}/{key}", policy.name()), decision.message);
        return;
    }
    for action in binding.list("/spec/validationActions") {
        match action.as_str().unwrap_or_default() {
            "Deny" => denials.push(Denial {
                policy: policy.name().to_owned(),
                binding: Some(binding.name().to_owned()),
                message: decision.message.clone(),
                reason: decision.reason.clone(),
            }),
            "Warn" => review.request.warn(vec![format!(
                "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                policy.name(),
                binding.name(),
                decision.message
            )]),
            "Audit" => notes.failures.push(json!({
                "message": decision.message, "policy": policy.name(), "binding": binding.name(),
                "expressionIndex": decision.index,
                "validationActions": binding.list("/spec/validationActions"),
            })),
            _ => {}
        }
    }
}

/// What the audit is told at the end.
#[derive(Default)]
struct Notes {
    failures: Vec<Value>,
    annotations: BTreeMap<String, Vec<String>>,
}

impl Notes {
    fn add(&mut self, key: String, value: String) {
        let values = self.annotations.entry(key).or_default();
        if !values.contains(&value) {
            values.push(value);
        }
    }

    fn publish(self, review: &Review<'_>) {
        if !self.failures.is_empty() {
            let key = "validation.policy.admission.k8s.io/validation_failure".to_owned();
            review.request.annotate(key, Value::Array(self.failures).to_string());
        }
        for (key, values) in self.annotations {
            review.request.annotate(key, values.join(", "));
        }
    }
}

fn refusal(review: &Review<'_>, denial: &Denial) -> Status {
    let of_binding =
        denial.binding.as_ref().map(|name| format!(" with binding '{name}'")).unwrap_or_default();
    let message = format!(
        "ValidatingAdmissionPolicy '{}'{of_binding} denied request: {}",
        denial.policy, denial.message
    );
    let mut status = status::forbidden(review.kind, &review.key.name, &message);
    let reason = if denial.reason.is_empty() { "Invalid" } else { &denial.reason };
    status.code = match reason {
        "Unauthorized" => 401,
        "Forbidden" => 403,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    status.reason = reason.to_owned();
    status.details["causes"] = json!([{"message": message}]);
    status
}

#[cfg(test)]
mod tests;
