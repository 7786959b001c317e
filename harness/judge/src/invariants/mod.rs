//! Invariants: promises that hold in every scenario, whatever it asks for. One file each.
//!
//! All of them are judged for every scenario. One that has nothing to judge in a timeline is left
//! out, unless the scenario names it: then nothing to judge is INVALID.

mod at_most_one_live_pod;
mod daemonset_and_job;
mod disruption_budget;
mod endpoints_track_readiness;
mod eviction;
mod fenced_leaders;
mod lease_sanity;
pub mod linearizable;
mod members_equal;
mod neutrality;
mod no_lost_acknowledged_write;
mod no_pod_bound_twice;
mod no_premature_eviction;
mod not_ready_window;
mod one_leader_per_term;
mod optimistic_concurrency;
mod ordinal_order;
mod ownership_and_gc;
mod replacement_time;
mod replicas_converge;
mod revision_monotone;
mod rollout_bounds;
mod scheduling_feasible;
mod silence;
mod stale_reads_bounded;
mod taint_and_eviction_window;
mod watch_progress;
mod watch_without_gaps;
mod writes_come_back;
mod zones;

use shakedown_core::sabotage::Sabotage;
use shakedown_core::verdict::{CheckVerdict, Verdict};

use crate::finding::{Finding, Judged};
use crate::scene::Scene;

/// An invariant in the registry.
#[derive(Clone, Copy)]
pub struct Invariant {
    /// The name in scenario files.
    pub name: &'static str,
    /// What it promises, in a line.
    pub promise: &'static str,
    /// Judges a scenario.
    pub judge: fn(&Scene<'_>) -> Finding,
}

/// Every invariant, in order of name.
pub const ALL: &[Invariant] = &[
    at_most_one_live_pod::INVARIANT,
    daemonset_and_job::INVARIANT,
    disruption_budget::INVARIANT,
    endpoints_track_readiness::INVARIANT,
    fenced_leaders::INVARIANT,
    lease_sanity::INVARIANT,
    linearizable::INVARIANT,
    members_equal::INVARIANT,
    neutrality::INVARIANT,
    no_lost_acknowledged_write::INVARIANT,
    no_pod_bound_twice::INVARIANT,
    no_premature_eviction::INVARIANT,
    not_ready_window::INVARIANT,
    one_leader_per_term::INVARIANT,
    optimistic_concurrency::INVARIANT,
    ordinal_order::INVARIANT,
    ownership_and_gc::INVARIANT,
    replacement_time::INVARIANT,
    replicas_converge::INVARIANT,
    revision_monotone::INVARIANT,
    rollout_bounds::INVARIANT,
    scheduling_feasible::INVARIANT,
    stale_reads_bounded::INVARIANT,
    taint_and_eviction_window::INVARIANT,
    watch_progress::INVARIANT,
    watch_without_gaps::INVARIANT,
    writes_come_back::INVARIANT,
];

/// The names of all invariants, in order.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|invariant| invariant.name).collect()
}

/// Judges all of them.
pub fn judge(scene: &Scene<'_>) -> Vec<CheckVerdict> {
    let asked = &scene.plan.invariants;
    let mut checks: Vec<_> = ALL
        .iter()
        .filter(|invariant| {
            !(invariant.name.starts_with("no-")
                && scene.plan.sabotaged(Sabotage::JudgeForgetsInvariants))
        })
        .filter_map(|invariant| {
            let id = format!("invariant/{}", invariant.name);
            match (invariant.judge)(scene) {
                Finding::Judged(judged) => Some(judged.into_check(id)),
                Finding::NothingToJudge(_) if scene.plan.sabotaged(Sabotage::JudgePassesNoData) => {
                    None
                }
                Finding::NothingToJudge(why) if asked.iter().any(|name| name == invariant.name) => {
                    let message = format!("{}: {why}", invariant.promise);
                    Some(Judged::new(Verdict::Invalid, message).into_check(id))
                }
                Finding::NothingToJudge(_) => None,
            }
        })
        .collect();
    let known = names();
    checks.extend(asked.iter().filter(|name| !known.contains(&name.as_str())).map(|name| {
        let message = format!("no invariant `{name}`; known: {}", known.join(", "));
        Judged::new(Verdict::Invalid, message).into_check(format!("invariant/{name}"))
    }));
    checks
}

/// The invariants that had nothing to judge, and why: for people who ask what was not checked.
pub fn left_out(scene: &Scene<'_>) -> Vec<(&'static str, String)> {
    ALL.iter()
        .filter_map(|invariant| match (invariant.judge)(scene) {
            Finding::NothingToJudge(why) => Some((invariant.name, why)),
            Finding::Judged(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Tape, kill};

    #[test]
    fn the_registry_is_sorted_and_holds_every_file() {
        assert!(ALL.windows(2).all(|pair| pair[0].name < pair[1].name));
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/invariants");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .expect("this folder")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| {
                let text = std::fs::read_to_string(path).expect("a source file");
                text.contains("const INVARIANT: Invariant")
            })
            .map(|path| path.file_stem().expect("a name").to_string_lossy().replace('_', "-"))
            .filter(|name| name != "mod")
            .collect();
        files.sort();
        assert_eq!(files, names());
    }

    #[test]
    fn what_is_asked_for_must_have_something_to_judge() {
        let mut plan = kill();
        let quiet = Tape::new(plan.clone()).at(10.0).checks();
        assert!(!quiet.iter().any(|id| id == "invariant/linearizable"), "{quiet:?}");
        plan.invariants = vec!["linearizable".to_owned(), "linearisable".to_owned()];
        let mut tape = Tape::new(plan);
        assert_eq!(tape.clone().at(10.0).verdict("invariant/linearizable"), "INVALID");
        assert_eq!(tape.at(10.0).verdict("invariant/linearisable"), "INVALID");
    }

    #[test]
    fn what_is_left_out_is_told() {
        let (plan, timeline) = Tape::new(kill()).at(10.0).finish();
        let scene = Scene::of(&plan, &timeline).expect("the scenario is there");
        assert_eq!(left_out(&scene).len(), ALL.len());
    }
}
