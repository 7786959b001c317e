//! Why a run counts as a finding: the promises that were broken, by names that outlive shrinking.

use std::collections::BTreeSet;

use shakedown_core::plan::{Action, Plan};
use shakedown_core::verdict::{ScenarioVerdict, Verdict};

/// A set of broken promises.
pub type Reasons = BTreeSet<String>;

/// The broken promises of a verdict: checks that failed, and what the harness could not take back.
/// A step's check is named by its moment, as steps change their numbers when others are dropped.
pub fn reasons(plan: &Plan, verdict: &ScenarioVerdict) -> Reasons {
    let is_broken = |verdict| matches!(verdict, Verdict::Fail | Verdict::Harness);
    let broken = verdict.checks.iter().filter(|check| is_broken(check.verdict));
    broken.map(|check| name(plan, &check.id)).collect()
}

fn name(plan: &Plan, id: &str) -> String {
    let step = plan.steps.iter().find(|step| match &step.action {
        Action::Check(check) => check.id == id,
        _ => false,
    });
    match (step, id.split_once('/')) {
        (Some(step), Some((_, word))) if step.moment.starts_with("step-") => word.to_owned(),
        (Some(step), Some((_, word))) => format!("{word} {}", step.moment),
        _ => id.to_owned(),
    }
}
