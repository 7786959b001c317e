//! The tester tested: runs scenarios with planted defects, and says whether the named check noticed.
//!
//! A defect is caught if in its scenario the named check ends in the expected verdict. All runs are
//! on `sim`, in memory. Each run stays on one thread; several threads run several.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Deserialize;
use shakedown_core::plan::Plan;
use shakedown_core::sabotage::Sabotage;
use shakedown_core::verdict::{ScenarioVerdict, Verdict};
use shakedown_explore::run_one;
use shakedown_report::SabotageRow;
use shakedown_target_sim::RunLimits;

use crate::failure::Failure;
use crate::plans::Planned;

/// What a planted defect is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The cluster under test.
    Orchestrator,
    /// The tester.
    Harness,
}

impl Place {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Place::Orchestrator => "orchestrator",
            Place::Harness => "harness",
        }
    }
}

/// Which scenario catches which planted defect, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The defect.
    pub sabotage: String,
    /// The scenario's id.
    pub scenario: String,
    /// How the id of the check begins that notices.
    pub by: String,
    /// The verdict of that check.
    #[serde(default = "fail")]
    pub expects: Verdict,
    /// Other defects beside it.
    #[serde(default)]
    pub with: Vec<String>,
}

fn fail() -> Verdict {
    Verdict::Fail
}

/// Every entry of both lists: the orchestrator's, then the harness's.
pub fn entries() -> Result<Vec<(Place, Entry)>, Failure> {
    let lists = [
        (Place::Orchestrator, "sabotages.yaml", shakedown_suites::SABOTAGES),
        (Place::Harness, "harness-sabotages.yaml", shakedown_suites::HARNESS_SABOTAGES),
    ];
    let mut all = Vec::new();
    for (place, file, text) in lists {
        let entries: Vec<Entry> = shakedown_core::yaml::read(text)
            .map_err(|error| Failure::usage(format!("suites/{file}: {error}"), ""))?;
        all.extend(entries.into_iter().map(|entry| (place, entry)));
    }
    Ok(all)
}

/// What a planted defect breaks; `None` if there is no such defect.
pub fn breaks(name: &str) -> Option<&'static str> {
    let own = Sabotage::ALL.iter().map(|one| (one.name(), one.breaks()));
    let mut known = own.chain(shakedown_target_sim::sabotages());
    known.find(|(known, _)| *known == name).map(|(_, breaks)| breaks)
}

/// Runs the scenario of an entry with its defects, and says what became of it.
pub fn try_entry(place: Place, entry: &Entry, planned: &[Planned]) -> SabotageRow {
    #[expect(clippy::disallowed_methods, reason = "wall time of a run, for people")]
    let began = std::time::Instant::now();
    let names: Vec<String> = [&entry.sabotage].into_iter().chain(&entry.with).cloned().collect();
    let outcome = find(planned, &entry.scenario).and_then(|plan| {
        let mut plan = plan.clone();
        plan.cluster.sabotages = names;
        run_one(&plan, plan.seed, limits()).map_err(|error| error.to_string())
    });
    let (is_caught, seen) = match outcome {
        Ok(one) => (is_caught(entry, &one.verdict), told(&one.verdict)),
        Err(why) => (false, why),
    };
    SabotageRow {
        sabotage: entry.sabotage.clone(),
        place: place.word().to_owned(),
        breaks: breaks(&entry.sabotage).unwrap_or("there is no such sabotage").to_owned(),
        scenario: entry.scenario.clone(),
        caught_by: format!("{} {}", entry.expects.word(), entry.by),
        is_caught,
        seen,
        wall_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

/// What is broken on purpose may never end: no honest run comes near this.
fn limits() -> RunLimits {
    let wall_time = std::time::Duration::from_secs(300);
    RunLimits { wall_time, ..RunLimits::default() }
}

fn find<'a>(planned: &'a [Planned], id: &str) -> Result<&'a Plan, String> {
    let found = planned.iter().find(|planned| planned.plan.scenario == id);
    found.map(|planned| &planned.plan).ok_or_else(|| format!("there is no scenario {id}"))
}

/// Whether the named check noticed. The scenario as a whole must not pass either.
fn is_caught(entry: &Entry, verdict: &ScenarioVerdict) -> bool {
    let by = |id: &str| id.starts_with(&entry.by);
    verdict.verdict >= entry.expects
        && entry.expects != Verdict::Pass
        && verdict.checks.iter().any(|check| by(&check.id) && check.verdict == entry.expects)
}

/// Every check that did not pass.
fn told(verdict: &ScenarioVerdict) -> String {
    let bad = verdict.checks.iter().filter(|check| check.verdict != Verdict::Pass);
    let lines: Vec<_> = bad
        .map(|check| format!("{} {}: {}", check.verdict.word(), check.id, check.message))
        .collect();
    if lines.is_empty() { verdict.verdict.word().to_owned() } else { lines.join("\n") }
}

/// A run of the clean build that did not pass.
#[derive(Debug, Clone)]
pub struct Alarm {
    /// The scenario.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// What did not pass.
    pub seen: String,
}

/// Runs the scenarios of the entries without defects, with each of the seeds; answers the alarms.
pub fn clean(
    entries: &[(Place, Entry)],
    planned: &[Planned],
    seeds: u64,
    jobs: usize,
) -> Vec<Alarm> {
    let scenarios: BTreeSet<&str> =
        entries.iter().map(|(_, entry)| entry.scenario.as_str()).collect();
    let runs: Vec<(&str, u64)> = (1..=seeds)
        .flat_map(|seed| scenarios.iter().map(move |scenario| (*scenario, seed)))
        .collect();
    let alarms = on_threads(jobs, &runs, |(scenario, seed)| {
        let outcome = find(planned, scenario).and_then(|plan| {
            let mut plan = plan.clone();
            plan.seed = *seed;
            run_one(&plan, *seed, limits()).map_err(|error| error.to_string())
        });
        let seen = match outcome {
            Ok(one) if one.verdict.verdict == Verdict::Pass => return None,
            Ok(one) => told(&one.verdict),
            Err(why) => why,
        };
        Some(Alarm { scenario: (*scenario).to_owned(), seed: *seed, seen })
    });
    alarms.into_iter().flatten().collect()
}

/// Does something with each item on several threads; the answers are in the order of the items.
pub fn on_threads<T: Sync, A: Send>(
    jobs: usize,
    items: &[T],
    work: impl Fn(&T) -> A + Sync,
) -> Vec<A> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, A)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, items.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    let answer = work(item);
                    done.lock()
                        .expect("no thread panics while it holds the list")
                        .push((index, answer));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no thread panics while it holds the list");
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, answer)| answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shakedown_core::verdict::CheckVerdict;

    fn verdict(checks: &[(&str, Verdict)]) -> ScenarioVerdict {
        let checks: Vec<_> = checks
            .iter()
            .map(|(id, verdict)| CheckVerdict {
                id: (*id).to_owned(),
                verdict: *verdict,
                observed_ms: None,
                window_ms: None,
                error_ms: 0.0,
                message: String::new(),
            })
            .collect();
        ScenarioVerdict {
            id: "a/b".to_owned(),
            title: String::new(),
            verdict: Verdict::worst(checks.iter().map(|check| check.verdict)),
            behaviours: vec![],
            checks,
            wall_ms: 0,
            virtual_ms: 0,
        }
    }

    #[test]
    fn only_the_named_check_with_the_named_verdict_counts() {
        let entry: Entry = shakedown_core::yaml::read(
            "{sabotage: x, scenario: a/b, by: invariant/, expects: INVALID}",
        )
        .unwrap();
        let caught =
            |id, found| is_caught(&entry, &verdict(&[("step-1", Verdict::Pass), (id, found)]));
        assert!(caught("invariant/linearizable", Verdict::Invalid));
        assert!(!caught("invariant/linearizable", Verdict::Fail), "another verdict");
        assert!(!caught("witness", Verdict::Invalid), "another check");
        assert!(!caught("invariant/linearizable", Verdict::Pass));
    }

    #[test]
    fn every_planted_defect_has_an_entry_and_every_entry_a_defect() {
        let entries = entries().unwrap();
        for (place, entry) in &entries {
            assert!(breaks(&entry.sabotage).is_some(), "{}: no such sabotage", entry.sabotage);
            let is_own = entry.sabotage.parse::<Sabotage>().is_ok();
            assert_eq!(is_own, *place == Place::Harness, "{} is in the wrong list", entry.sabotage);
        }
        let names: BTreeSet<&str> =
            entries.iter().map(|(_, entry)| entry.sabotage.as_str()).collect();
        let own = Sabotage::ALL.iter().map(|one| one.name());
        for name in own.chain(shakedown_target_sim::sabotages().map(|(name, _)| name)) {
            assert!(names.contains(name), "nothing is named that catches {name}");
        }
    }

    #[test]
    fn answers_come_in_the_order_of_their_items() {
        let items: Vec<u32> = (0..50).collect();
        assert_eq!(
            on_threads(4, &items, |item| item * 2),
            items.iter().map(|item| item * 2).collect::<Vec<_>>()
        );
        assert!(on_threads(4, &[] as &[u32], |item| *item).is_empty());
    }
}
