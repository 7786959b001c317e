//! Pure judgement of a plan and a timeline: no I/O, no clock, the same answer every time.
//!
//! The timeline is the only evidence. What was not seen is INVALID, never a pass; an error of
//! observation can hide a violation and never invent one.

mod books;
mod calibration;
pub mod checks;
pub mod differential;
pub mod finding;
pub mod history;
pub mod invariants;
pub mod scene;
#[cfg(test)]
#[expect(clippy::too_many_arguments, reason = "a line of a test timeline is one call")]
mod testing;
pub mod traffic;
pub mod truth;

use shakedown_core::plan::Plan;
use shakedown_core::sabotage::Sabotage;
use shakedown_core::timeline::{Event, What, unreadable};
use shakedown_core::verdict::{CheckVerdict, RunVerdict, ScenarioVerdict, Verdict};

pub use differential::differential;
use finding::Judged;
use scene::Scene;

/// The shape of `verdicts.json`; raised when it changes.
pub const VERDICTS_FORMAT: u32 = 1;

/// Judges one scenario, by a judge that has shown that it can.
pub fn judge(plan: &Plan, timeline: &[Event]) -> ScenarioVerdict {
    let mut judged = judge_uncalibrated(plan, timeline);
    if let Some(wrong) = calibration::judge(plan) {
        judged.verdict = Verdict::worst([judged.verdict, wrong.verdict]);
        judged.checks.insert(0, wrong);
    }
    judged
}

fn judge_uncalibrated(plan: &Plan, timeline: &[Event]) -> ScenarioVerdict {
    let Some(scene) = Scene::of(plan, timeline) else {
        let message = format!("the timeline has no scenario `{}`", plan.scenario);
        return verdict(
            plan,
            vec![Judged::new(Verdict::Invalid, message).into_check("timeline")],
            0,
        );
    };
    if let Some(why) = scene.own().iter().find_map(|event| match &event.what {
        What::NotRun { why } => Some(why),
        _ => None,
    }) {
        return not_run(plan, why);
    }
    let mut checks: Vec<CheckVerdict> = timeline_trouble(&scene).into_iter().collect();
    checks.extend(harness_trouble(&scene));
    checks.extend(books::judge(&scene));
    checks.extend(checks::judge(&scene));
    checks.extend(traffic::judge(&scene));
    checks.extend(invariants::judge(&scene));
    let virtual_us = scene.own().first().map_or(0, |began| {
        scene.own().last().map_or(0, |last| last.at_us.saturating_sub(began.at_us))
    });
    verdict(plan, checks, virtual_us / 1000)
}

/// Judges every scenario of a run. Wall times are the recorder's to fill in: a timeline has only
/// the cluster's time, which equals wall time on a real target.
pub fn judge_run(plans: &[Plan], timeline: &[Event], started: &str) -> RunVerdict {
    let scenarios: Vec<_> = plans.iter().map(|plan| judge(plan, timeline)).collect();
    let (target, seed) = timeline
        .iter()
        .find_map(|event| match &event.what {
            What::Run { target, seed, .. } => Some((target.clone(), *seed)),
            _ => None,
        })
        .unwrap_or_default();
    let micros = timeline.last().map_or(0, |last| last.at_us);
    RunVerdict {
        format: VERDICTS_FORMAT,
        target,
        seed,
        started: started.to_owned(),
        wall_ms: scenarios.iter().map(|scenario| scenario.wall_ms).sum(),
        virtual_ms: micros / 1000,
        scenarios,
    }
}

/// The verdict of a scenario that could not be run, because the target lacks an ability.
pub fn not_run(plan: &Plan, why: &str) -> ScenarioVerdict {
    verdict(plan, vec![Judged::new(Verdict::NotRun, why).into_check("abilities")], 0)
}

fn verdict(plan: &Plan, mut checks: Vec<CheckVerdict>, virtual_ms: u64) -> ScenarioVerdict {
    if plan.sabotaged(Sabotage::JudgePassesInvalid) {
        let invalid = checks.iter_mut().filter(|check| check.verdict == Verdict::Invalid);
        invalid.for_each(|check| check.verdict = Verdict::Pass);
    }
    ScenarioVerdict {
        id: plan.scenario.clone(),
        title: plan.title.clone(),
        verdict: Verdict::worst(checks.iter().map(|check| check.verdict)),
        behaviours: plan.proves.clone(),
        checks,
        wall_ms: virtual_ms,
        virtual_ms,
    }
}

/// The first format whose recorder seals a scenario's end.
const SEALED_SINCE: u32 = 2;

/// Why the timeline itself cannot be trusted: it has an unknown format, a hole, or no end. What an
/// older format never told is not missing, but it is not known either: INCONCLUSIVE, never a pass.
fn timeline_trouble(scene: &Scene<'_>) -> Option<CheckVerdict> {
    let format = scene.format();
    let message = match format {
        Some(format) => unreadable(format),
        None => Some("the timeline does not begin with its run".to_owned()),
    };
    let hole = scene.timeline.windows(2).find(|pair| pair[1].seq != pair[0].seq + 1);
    let hole =
        hole.map(|pair| format!("events are missing between {} and {}", pair[0].seq, pair[1].seq));
    let unfinished = (!scene.has_ended).then(|| "the scenario's end was not seen".to_owned());
    let message = message.or(hole).or(unfinished);
    let is_sealed = scene.own().iter().any(|event| matches!(event.what, What::Sealed { .. }));
    if let (None, Some(old)) =
        (&message, format.filter(|format| *format < SEALED_SINCE && !is_sealed))
    {
        let why = format!(
            "recorded in format {old}, before the ends of scenarios were sealed: whether all of it is \
             there cannot be told; record it again for a verdict"
        );
        return Some(Judged::new(Verdict::Inconclusive, why).into_check("timeline"));
    }
    let message = message.or_else(|| books::broken_seal(scene))?;
    Some(Judged::new(Verdict::Invalid, message).into_check("timeline"))
}

/// What the harness fails at while it takes back what it did: the cluster is not as it was.
const CLEANING: &[&str] = &["heal", "undo", "remov", "delet", "waiting until the cluster is calm"];

/// What the harness itself failed at: HARNESS if something may have been left, else INVALID.
fn harness_trouble(scene: &Scene<'_>) -> Option<CheckVerdict> {
    let told: Vec<_> = scene
        .troubles
        .iter()
        .map(|(when, doing, why)| format!("{doing}: {why} (event {})", when.seq))
        .collect();
    let is_cleaning = |doing: &str| CLEANING.iter().any(|word| doing.starts_with(word));
    let verdict = match scene.troubles.iter().any(|(_, doing, _)| is_cleaning(doing)) {
        true => Verdict::Harness,
        false => Verdict::Invalid,
    };
    (!told.is_empty()).then(|| Judged::new(verdict, told.join("; ")).into_check("harness"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Tape, check, kill};

    #[test]
    fn what_the_harness_failed_at_is_told() {
        for (doing, verdict) in [
            ("step 3 (a.yaml:7)", Verdict::Invalid),
            ("healing `kill`", Verdict::Harness),
            ("waiting until the cluster is calm", Verdict::Harness),
        ] {
            let mut tape = Tape::new(check("eventually", "pod a", "0s", "45s"));
            tape.at(100.0).moment("kill");
            tape.at(110.0).pod("a", |_| {});
            tape.at(190.0).trouble(doing);
            assert_eq!(tape.at(200.0).judged("harness").verdict, verdict, "{doing}");
        }
    }

    #[test]
    fn a_scenario_that_the_target_cannot_run_is_not_run() {
        let mut tape = Tape::new(kill());
        tape.not_run("target `sim` cannot: Cut");
        let (plan, timeline) = tape.finish();
        let verdict = judge(&plan, &timeline);
        assert_eq!((verdict.verdict, verdict.checks.len()), (Verdict::NotRun, 1));
    }

    #[test]
    fn a_scenario_that_is_not_in_the_timeline_is_invalid() {
        let verdict = judge(&kill(), &[]);
        assert_eq!(verdict.verdict, Verdict::Invalid);
        assert_eq!(verdict.checks[0].id, "timeline");
    }

    #[test]
    fn a_timeline_with_a_hole_or_without_an_end_is_invalid() {
        let mut tape = Tape::new(check("eventually", "pod a", "0s", "45s"));
        tape.at(100.0).moment("kill");
        tape.at(110.0).pod("a", |_| {});
        let (plan, whole) = tape.at(200.0).finish();
        assert_eq!(judge(&plan, &whole).verdict, Verdict::Pass);

        let mut hole = whole.clone();
        hole.remove(4);
        assert_eq!(judge(&plan, &hole).checks[0].message, "events are missing between 3 and 5");

        let unfinished = &whole[..whole.len() - 1];
        assert_eq!(judge(&plan, unfinished).verdict, Verdict::Invalid);

        let mut future = whole.clone();
        future[0].what = What::Run { format: 99, target: "sim".to_owned(), seed: 1 };
        assert_eq!(judge(&plan, &future).verdict, Verdict::Invalid);
    }

    #[test]
    fn an_old_timeline_without_a_seal_is_still_judged_but_never_passes() {
        let recorded = |format, found: f64, is_sealed: bool| {
            let mut tape = Tape::new(check("eventually", "pod a", "0s", "45s"));
            tape.at(90.0).pod("b", |_| {});
            tape.at(100.0).moment("kill");
            tape.at(found).pod("a", |_| {});
            let (plan, mut timeline) = tape.at(200.0).finish();
            timeline[0].what = What::Run { format, target: "sim".to_owned(), seed: 1 };
            timeline.retain(|event| is_sealed || !matches!(event.what, What::Sealed { .. }));
            (0..).zip(&mut timeline).for_each(|(seq, event)| event.seq = seq);
            judge(&plan, &timeline)
        };
        let old = recorded(1, 110.0, false);
        assert_eq!(old.verdict, Verdict::Inconclusive);
        assert!(old.checks[0].message.starts_with("recorded in format 1,"), "{old:?}");
        assert_eq!(recorded(1, 150.0, false).verdict, Verdict::Fail, "a violation still shows");
        assert_eq!(recorded(1, 110.0, true).verdict, Verdict::Pass);
        assert_eq!(recorded(2, 110.0, false).verdict, Verdict::Invalid, "it must have a seal");
        assert_eq!(recorded(0, 110.0, true).verdict, Verdict::Invalid);
    }

    #[test]
    fn a_run_names_its_target_and_seed() {
        let mut tape = Tape::new(check("eventually", "pod a", "0s", "45s"));
        tape.at(100.0).moment("kill");
        tape.at(110.0).pod("a", |_| {});
        let (plan, timeline) = tape.at(200.0).finish();
        let run = judge_run(&[plan], &timeline, "2026-01-01T00:00:00Z");
        assert_eq!((run.target.as_str(), run.seed, run.virtual_ms), ("sim", 7, 200_000));
        assert_eq!(run.scenarios[0].checks[0].id, "step-0/eventually");
    }

    #[test]
    fn what_could_not_be_run_says_why() {
        let verdict = not_run(&kill(), "target `sim` cannot cut");
        assert_eq!((verdict.verdict, verdict.checks.len()), (Verdict::NotRun, 1));
    }
}
