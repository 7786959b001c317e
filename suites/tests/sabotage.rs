//! The tester tested: each planted defect of the orchestrator must be caught by the scenario, and by
//! the check, that `sabotages.yaml` names.

#[expect(dead_code, reason = "a sabotaged scenario is named by its sabotage, and must not pass")]
mod trial;

use libtest_mimic::{Arguments, Failed, Trial};
use serde::Deserialize;
use shakedown::pipeline::TargetName;
use shakedown_core::verdict::Verdict;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    sabotage: String,
    scenario: String,
    by: String,
}

fn main() {
    let args = Arguments::from_args();
    let entries: Vec<Entry> = shakedown_core::yaml::read(shakedown_suites::SABOTAGES)
        .expect("sabotages.yaml is a list of entries");
    let trials = entries
        .into_iter()
        .map(|entry| Trial::test(entry.sabotage.clone(), move || caught(&entry)))
        .collect();
    libtest_mimic::run(&args, trials).exit();
}

fn caught(entry: &Entry) -> Result<(), Failed> {
    let planned = trial::planned(std::slice::from_ref(&entry.sabotage));
    let planned = planned
        .iter()
        .find(|planned| planned.plan.scenario == entry.scenario)
        .ok_or_else(|| format!("there is no scenario {}", entry.scenario))?;
    let scenario = trial::run(planned, TargetName::Sim, &entry.sabotage)?;
    let failed: Vec<String> = scenario
        .checks
        .iter()
        .filter(|check| check.verdict == Verdict::Fail)
        .map(|check| format!("{}: {}", check.id, check.message))
        .collect();
    if failed.iter().any(|failure| failure.starts_with(&entry.by)) {
        return Ok(());
    }
    let word = scenario.verdict.word();
    let failed = if failed.is_empty() { "nothing".to_owned() } else { failed.join("\n") };
    Err(format!("not caught by {}: {word}, failed were: {failed}", entry.by).into())
}
