//! A campaign: run after run, each on a seed of its own, on several threads.
//!
//! Invariant: the summary is the same for the same seeds, however many threads ran them: results are
//! taken in in order of seed, and only counts of them are kept. A run that panics or does not end is
//! a finding, not the end of the campaign.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Serialize;
use shakedown_core::plan::Plan;
use shakedown_core::timeline::Event;
use shakedown_core::verdict::Verdict;
use shakedown_target_sim::{Operator, RunLimits};

use crate::coverage::Coverage;
use crate::one::{One, run_one_with};
use crate::ordered::ordered;
use crate::reason::{Reasons, reasons};

/// The bounds of one run: far beyond any storm, so that only what hangs reaches them.
pub const LIMITS: RunLimits = RunLimits {
    virtual_time: Duration::from_secs(3 * 3600),
    wall_time: Duration::from_secs(180),
    requests: 5_000_000,
    requests_at_once: 20_000,
};
/// Every so many seeds one is run twice, and the bytes of both timelines are compared.
pub const TWICE_EVERY: u64 = 50;
/// How many findings with the same reasons are told by their seeds.
pub const SEEDS_TOLD: usize = 8;

/// What to run for a seed.
pub type Source<'a> = &'a (dyn Fn(u64) -> Result<Plan, String> + Sync);

/// A campaign's bounds.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The first seed; the others follow it.
    pub first: u64,
    /// How many runs at most.
    pub runs: u64,
    /// How many threads.
    pub jobs: usize,
}

/// What came of one seed.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Its verdict. What could not be run to its end is FAIL.
    pub verdict: Verdict,
    /// Why it is a finding; empty if it is none.
    pub reasons: Reasons,
    /// For people: what failed, or why nothing could be told.
    pub message: String,
    /// Virtual time.
    pub virtual_time: Duration,
    /// Events of the timeline.
    pub events: u64,
    /// Operations of the workload.
    pub operations: u64,
    /// Whether it was run twice.
    pub was_repeated: bool,
    /// What it came through.
    pub coverage: Coverage,
}

/// Findings with the same reasons.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Their seeds, the first few.
    pub seeds: Vec<u64>,
    /// How many there are.
    pub count: u64,
    /// What the first one says.
    pub message: String,
}

/// The counts of a campaign.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many runs.
    pub runs: u64,
    /// How many came to each verdict.
    pub verdicts: BTreeMap<String, u64>,
    /// Findings by their reasons.
    pub findings: BTreeMap<String, Finding>,
    /// Why runs that are no findings told nothing, and how many.
    pub untold: BTreeMap<String, Finding>,
    /// How many were run twice.
    pub repeated: u64,
    /// Virtual time of all runs.
    pub virtual_ms: u64,
    /// Events of all timelines.
    pub events: u64,
    /// Operations of all workloads.
    pub operations: u64,
    /// What they came through.
    pub coverage: Coverage,
}

impl Summary {
    /// Takes a run in. Runs are taken in in order of seed.
    pub fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        *self.verdicts.entry(outcome.verdict.word().to_owned()).or_default() += 1;
        self.repeated += u64::from(outcome.was_repeated);
        self.virtual_ms += outcome.virtual_time.as_millis() as u64;
        self.events += outcome.events;
        self.operations += outcome.operations;
        self.coverage.add(&outcome.coverage);
        let (folder, key) = if !outcome.reasons.is_empty() {
            let all: Vec<_> = outcome.reasons.iter().map(String::as_str).collect();
            (&mut self.findings, all.join(", "))
        } else if outcome.verdict != Verdict::Pass {
            (&mut self.untold, outcome.verdict.word().to_owned())
        } else {
            return;
        };
        let finding = folder.entry(key).or_default();
        finding.count += 1;
        if finding.seeds.len() < SEEDS_TOLD {
            finding.seeds.push(outcome.seed);
        }
        if finding.message.is_empty() {
            finding.message.clone_from(&outcome.message);
        }
    }
}

/// Runs a campaign. `stop` ends it after the runs that are under way; `seen` is called with every
/// outcome in order of seed, and with the counts so far.
pub fn campaign(
    bounds: Bounds,
    source: Source<'_>,
    stop: &AtomicBool,
    seen: &mut dyn FnMut(&Outcome, &Summary),
) -> Summary {
    let mut summary = Summary::default();
    let work = |index: u64| {
        outcome(bounds.first.wrapping_add(index), source, index.is_multiple_of(TWICE_EVERY))
    };
    ordered(bounds.runs, bounds.jobs, stop, &work, &mut |_, outcome| {
        summary.add(&outcome);
        seen(&outcome, &summary);
    });
    summary
}

/// Runs a seed, once or twice.
pub fn outcome(seed: u64, source: Source<'_>, is_repeated: bool) -> Outcome {
    let mut outcome = Outcome {
        seed,
        verdict: Verdict::Fail,
        reasons: Reasons::new(),
        message: String::new(),
        virtual_time: Duration::ZERO,
        events: 0,
        operations: 0,
        was_repeated: false,
        coverage: Coverage::default(),
    };
    let plan = match source(seed) {
        Ok(plan) => plan,
        Err(why) => {
            // Nothing can be said of the cluster by a scenario that cannot be planned.
            outcome.verdict = Verdict::Invalid;
            outcome.message = why;
            return outcome;
        }
    };
    let one = match attempt(&plan, seed) {
        Ok(one) => one,
        Err((reason, why)) => {
            outcome.reasons.insert(reason);
            outcome.message = why;
            return outcome;
        }
    };
    outcome.verdict = one.verdict.verdict;
    outcome.reasons = reasons(&plan, &one.verdict);
    outcome.message = worst(&one);
    outcome.virtual_time = one.virtual_time;
    outcome.events = one.events.len() as u64;
    outcome.operations = operations(&one.events);
    outcome.coverage = Coverage::of(&plan, &one.events);
    outcome.coverage.judged(&one.verdict);
    if is_repeated {
        outcome.was_repeated = true;
        if let Some(difference) = attempt(&plan, seed)
            .map_or_else(|(_, why)| Some(why), |again| differs(&one.events, &again.events))
        {
            outcome.verdict = Verdict::Harness;
            outcome.reasons.insert("not the same twice".to_owned());
            outcome.message = difference;
        }
    }
    outcome
}

/// Runs a plan; what ends the run before its time is told by a reason and in words.
pub fn attempt(plan: &Plan, seed: u64) -> Result<One, (String, String)> {
    attempt_with(plan, seed, None)
}

/// Runs a plan as [`attempt`] does, with a controller under test if there is one.
pub fn attempt_with(
    plan: &Plan,
    seed: u64,
    operator: Option<&Operator>,
) -> Result<One, (String, String)> {
    match catch_unwind(AssertUnwindSafe(|| run_one_with(plan, seed, LIMITS, operator))) {
        Ok(Ok(one)) => Ok(one),
        Ok(Err(error)) => {
            let text = error.to_string();
            let reason = if text.contains("panicked") { "panic" } else { "does not end" };
            Err((reason.to_owned(), text))
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(("panic".to_owned(), text.unwrap_or_else(|| "a panic without a text".to_owned())))
        }
    }
}

/// What the worst check of a run says.
fn worst(one: &One) -> String {
    let checks = one.verdict.checks.iter().filter(|check| check.verdict == one.verdict.verdict);
    let mut checks = checks.filter(|check| check.verdict != Verdict::Pass);
    checks.next().map_or_else(String::new, |check| format!("{}: {}", check.id, check.message))
}

fn operations(events: &[Event]) -> u64 {
    use shakedown_core::timeline::What;
    events.iter().filter(|event| matches!(event.what, What::Operation(_))).count() as u64
}

/// The first event at which two timelines differ, both sides of it.
pub fn differs(first: &[Event], second: &[Event]) -> Option<String> {
    let line = |event: Option<&Event>| {
        event.map_or_else(
            || "the end".to_owned(),
            |event| serde_json::to_string(event).unwrap_or_else(|error| error.to_string()),
        )
    };
    (0..first.len().max(second.len())).find_map(|at| {
        let (one, other) = (line(first.get(at)), line(second.get(at)));
        (one != other).then(|| format!("event {at} is once {one} and once {other}"))
    })
}

#[cfg(test)]
mod tests {
    use shakedown_core::timeline::What;

    use super::*;

    fn note(seq: u64, text: &str) -> Event {
        let what = What::Note { text: text.to_owned() };
        Event { seq, at_us: 0, error_us: 0, scenario: String::new(), what }
    }

    #[test]
    fn the_first_difference_is_told_from_both_sides() {
        let first = [note(0, "a"), note(1, "b")];
        assert_eq!(differs(&first, &first), None);
        let told = differs(&first, &[note(0, "a"), note(1, "c")]).expect("they differ");
        assert!(
            told.starts_with("event 1 is once") && told.contains("\"b\"") && told.contains("\"c\"")
        );
        let shorter = differs(&first, &first[..1]).expect("one is shorter");
        assert!(shorter.contains("the end"), "{shorter}");
    }

    #[test]
    fn what_cannot_be_planned_is_invalid_and_no_pass() {
        let source = |_| Err("no such thing".to_owned());
        let stop = AtomicBool::new(false);
        let bounds = Bounds { first: 3, runs: 4, jobs: 2 };
        let mut seeds = Vec::new();
        let summary = campaign(bounds, &source, &stop, &mut |outcome, _| seeds.push(outcome.seed));
        assert_eq!(seeds, [3, 4, 5, 6], "in order of seed");
        assert_eq!(summary.verdicts.get("INVALID"), Some(&4));
        assert_eq!(summary.untold["INVALID"].message, "no such thing");
    }

    #[test]
    fn a_campaign_that_is_stopped_ends() {
        let stop = AtomicBool::new(true);
        let bounds = Bounds { first: 0, runs: u64::MAX, jobs: 2 };
        let summary = campaign(bounds, &|_| Err(String::new()), &stop, &mut |_, _| {});
        assert_eq!(summary.runs, 0);
    }
}
