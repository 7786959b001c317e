//! The proof of a fault: planned, logged, applied, proven, sustained, removed, proven healed.
//!
//! Not proven, or lost while it should have lasted, is INVALID: what was observed says nothing about
//! the promise. Not proven healed is HARNESS: nothing after it can be trusted.
//! A rule that waits for its occasion is armed when it is proven. If the occasion never came, nothing
//! was done to the cluster, and that is INVALID, too.

use std::collections::{BTreeMap, BTreeSet};

use shakedown_core::lever::{Component, ProcessState, Reading, Undo};
use shakedown_core::plan::FaultStep;
use shakedown_core::roles::Who;
use shakedown_core::timeline::{Event, Evidence, FaultPhase, What};
use shakedown_core::verdict::Verdict;

use crate::finding::Judged;
use crate::scene::{FaultSpan, Scene, millis, seconds};

pub(super) fn judge(scene: &Scene<'_>, name: &str, step: &FaultStep) -> Judged {
    let Some(span) = scene.faults.iter().find(|span| span.name == name) else {
        let message = format!("fault `{name}` ({}) was never begun", step.fault);
        return Judged::new(Verdict::Invalid, message);
    };
    let (mut verdict, mut why) = lived(scene, span);
    let doubt = misbound(scene, name, step).or_else(|| unseen(scene, span));
    if let Some(doubt) = doubt.filter(|_| verdict == Verdict::Pass) {
        (verdict, why) = (Verdict::Invalid, doubt);
    }
    let error = span.first(FaultPhase::Proven).map_or(0, |proven| proven.error_us);
    let mut judged =
        Judged::new(verdict, format!("{} on {}: {why}", span.fault, span.targets.join("; ")));
    judged.error_ms = millis(error);
    judged.observed_ms = proof_time(span).map(millis);
    judged
}

/// Why a fault on bound names was not done to what they stand for.
fn misbound(scene: &Scene<'_>, name: &str, step: &FaultStep) -> Option<String> {
    let bound = |wanted: &str| {
        scene.own().iter().find_map(|event| match &event.what {
            What::Bound { name, to } if name == wanted => Some(to),
            _ => None,
        })
    };
    let mut promised = BTreeSet::new();
    for who in &step.on {
        let Who::Binding(binding) = who else { return None };
        promised.extend(bound(binding)?);
    }
    if step.on.is_empty() {
        return None;
    }
    let done: BTreeSet<&String> = bound(&format!("{name}.on")).into_iter().flatten().collect();
    let told = |names: &BTreeSet<&String>| {
        names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
    };
    (promised != done)
        .then(|| format!("meant for {}, and done to {}", told(&promised), told(&done)))
}

/// Why what the target itself tells of processes belies the proof: the word of the fault is not
/// enough. Says nothing of targets that do not tell of a node's processes.
fn unseen(scene: &Scene<'_>, span: &FaultSpan<'_>) -> Option<String> {
    if !["node-kill", "node-pause", "process-kill", "process-stop"].contains(&span.fault) {
        return None;
    }
    let planned = span.first(FaultPhase::Planned)?;
    let until = span.first(FaultPhase::Removed).map_or(u64::MAX, |removed| removed.seq);
    let mut told: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in scene.own() {
        if let What::Process { node, .. } = &event.what {
            told.entry(node).or_default().push(event);
        }
    }
    let belied = span.targets.iter().find(|target| {
        let (node, part) = target.split_once('/').unwrap_or((target, ""));
        // The process of each component before the fault.
        let mut before: BTreeMap<Component, &str> = BTreeMap::new();
        let of_node = told.get(node).map_or(&[][..], Vec::as_slice);
        let is_seen = of_node.iter().any(|event| match &event.what {
            What::Process { node: of, component, state, identity }
                if of == node && (part.is_empty() || component.name() == part) =>
            {
                if event.seq < planned.seq {
                    before.insert(*component, identity);
                    return false;
                }
                let is_other = before.get(component).is_some_and(|known| known != identity);
                event.seq <= until && (is_other || *state != ProcessState::Running)
            }
            _ => false,
        });
        !before.is_empty() && !is_seen
    })?;
    Some(format!("the target itself saw nothing happen to the processes of {belied}"))
}

/// How long it took until it was proven.
fn proof_time(span: &FaultSpan<'_>) -> Option<i64> {
    Some(span.first(FaultPhase::Proven)?.at_us - span.first(FaultPhase::Applied)?.at_us)
}

fn lived(scene: &Scene<'_>, span: &FaultSpan<'_>) -> (Verdict, String) {
    let told = |phase| evidence(scene, span.name, phase);
    let is_momentary = span.undo.iter().all(|undo| *undo == Undo::Nothing);
    let applied = span.first(FaultPhase::Applied);
    // What may still be in effect outweighs everything else.
    if span.last(FaultPhase::HealProven).is_none() && applied.is_some() && !is_momentary {
        let why = match (span.first(FaultPhase::HealUnproven), span.first(FaultPhase::Removed)) {
            (Some(_), _) => format!("not healed: {}", told(FaultPhase::HealUnproven)),
            (None, Some(_)) => "removed, but never proven healed".to_owned(),
            (None, None) => "never removed".to_owned(),
        };
        return (Verdict::Harness, why);
    }
    let Some(proven) = span.first(FaultPhase::Proven) else {
        let why = match (span.first(FaultPhase::Unproven), applied) {
            (Some(_), _) => format!("not proven in effect: {}", told(FaultPhase::Unproven)),
            (None, Some(_)) => "applied, but never proven in effect".to_owned(),
            (None, None) => "never applied".to_owned(),
        };
        return (Verdict::Invalid, why);
    };
    if let Some(lost) = span.first(FaultPhase::Lost) {
        let after = seconds(lost.at_us - proven.at_us);
        let why =
            format!("no longer in effect {after} after its proof: {}", told(FaultPhase::Lost));
        return (Verdict::Invalid, why);
    }
    if !shown(scene, span.name, FaultPhase::Proven) {
        return (
            Verdict::Invalid,
            format!("the proof does not hold: {}", told(FaultPhase::Proven)),
        );
    }
    if span.undo.iter().any(|undo| matches!(undo, Undo::Unmeddle { .. }))
        && times_met(scene, span.name) == 0
    {
        return (Verdict::Invalid, "armed, but never met: nothing was done".to_owned());
    }
    let logged = span.first(FaultPhase::UndoLogged);
    let was_logged = match (logged, applied) {
        (Some(logged), Some(applied)) => logged.seq < applied.seq && span.logged == span.undo,
        _ => false,
    };
    if !is_momentary && !was_logged {
        return (Verdict::Harness, "its undo was not logged before it was applied".to_owned());
    }
    let times = span.phases.iter().filter(|(phase, _)| *phase == FaultPhase::Sustained).count();
    let sustained = match span.first(FaultPhase::Removed) {
        Some(removed) => format!(
            "proven, shown {times} times more over {}, healed",
            seconds(removed.at_us - proven.at_us)
        ),
        None => "proven".to_owned(),
    };
    (Verdict::Pass, sustained)
}

/// How often the rules of a fault were met, by the last that was heard of the one met most.
fn times_met(scene: &Scene<'_>, name: &str) -> u64 {
    let mut met = 0;
    for event in scene.own() {
        let What::Fault { name: known, evidence, .. } = &event.what else { continue };
        for piece in evidence.iter().filter(|piece| known == name && piece.holds) {
            if let Some(Reading::Meddled { in_place: true, hits }) = piece.reading {
                met = met.max(hits);
            }
        }
    }
    met
}

fn pieces<'a>(scene: &Scene<'a>, name: &str, phase: FaultPhase) -> Option<&'a [Evidence]> {
    scene.own().iter().rev().find_map(|event| match &event.what {
        What::Fault { name: known, phase: at, evidence, .. } if known == name && *at == phase => {
            Some(evidence.as_slice())
        }
        _ => None,
    })
}

/// Whether the evidence of a phase shows what the phase says. The recorder's word is not enough.
fn shown(scene: &Scene<'_>, name: &str, phase: FaultPhase) -> bool {
    let evidence = pieces(scene, name, phase).unwrap_or_default();
    !evidence.is_empty() && evidence.iter().all(|piece| piece.holds)
}

fn evidence(scene: &Scene<'_>, name: &str, phase: FaultPhase) -> String {
    let all = pieces(scene, name, phase).unwrap_or_default();
    let failing: Vec<_> =
        all.iter().filter(|piece| !piece.holds).map(|piece| piece.text.clone()).collect();
    if failing.is_empty() { "no evidence".to_owned() } else { failing.join("; ") }
}

#[cfg(test)]
mod tests {
    use shakedown_core::lever::{Reading, Undo};
    use shakedown_core::timeline::FaultPhase::{
        Applied, HealProven, HealUnproven, Lost, Planned, Proven, Removed, Sustained, UndoLogged,
        Unproven,
    };
    use shakedown_core::timeline::What;

    use crate::testing::{Tape, kill};

    #[test]
    fn every_way_to_live() {
        let whole = [Planned, UndoLogged, Applied, Proven, Sustained, Removed, HealProven];
        let cases: &[(&[_], &str)] = &[
            (&whole, "PASS"),
            (&[], "INVALID"),
            (&[Planned], "INVALID"),
            (&[Planned, UndoLogged, Applied, Unproven, Removed, HealProven], "INVALID"),
            (&[Planned, UndoLogged, Applied, Removed, HealProven], "INVALID"),
            (&[Planned, UndoLogged, Applied, Proven, Lost, Removed, HealProven], "INVALID"),
            (&[Planned, UndoLogged, Applied, Proven, Removed, HealUnproven], "HARNESS"),
            (&[Planned, UndoLogged, Applied, Proven, Removed], "HARNESS"),
            (&[Planned, UndoLogged, Applied, Proven], "HARNESS"),
            (&[Planned, Applied, Proven, Removed, HealProven], "HARNESS"),
        ];
        for (phases, verdict) in cases {
            let mut tape = Tape::new(kill());
            for (at, phase) in phases.iter().enumerate() {
                tape.at(at as f64).fault("kill", "node-kill", *phase, &["worker-1"]);
            }
            assert_eq!(tape.at(100.0).verdict("fault/kill"), *verdict, "{phases:?}");
        }
    }

    #[test]
    fn a_proof_whose_evidence_does_not_hold_is_no_proof() {
        let mut tape = Tape::new(kill());
        for phase in [Planned, UndoLogged, Applied] {
            tape.fault("kill", "node-kill", phase, &["worker-1"]);
        }
        tape.unshown_fault("kill", "node-kill", Proven, &["worker-1"]);
        for phase in [Removed, HealProven] {
            tape.fault("kill", "node-kill", phase, &["worker-1"]);
        }
        assert_eq!(tape.at(100.0).verdict("fault/kill"), "INVALID");
    }

    /// The verdict on a rule that was met so often, by the evidence of its end.
    fn armed(undo: &Undo, met: Option<(bool, u64)>) -> String {
        let mut tape = Tape::new(kill());
        for phase in [Planned, UndoLogged, Applied, Proven, Sustained, Removed, HealProven] {
            tape.fault("kill", "freeze-view", phase, &["cp-1/kube-scheduler"]);
        }
        let (plan, mut timeline) = tape.at(100.0).finish();
        for event in &mut timeline {
            let What::Fault { phase, undo: logged, evidence, .. } = &mut event.what else {
                continue;
            };
            *logged = vec![undo.clone()];
            if let (HealProven, Some((in_place, hits))) = (&*phase, met) {
                evidence[0].reading = Some(Reading::Meddled { in_place, hits });
            }
        }
        let checks = crate::judge(&plan, &timeline).checks;
        let check = checks.iter().find(|check| check.id == "fault/kill").expect("it is judged");
        check.verdict.word().to_owned()
    }

    #[test]
    fn a_rule_that_was_never_met_proves_nothing() {
        let rule = Undo::Unmeddle { id: "kill-cp-1".to_owned() };
        assert_eq!(armed(&rule, Some((true, 1))), "PASS");
        assert_eq!(armed(&rule, Some((true, 0))), "INVALID");
        assert_eq!(armed(&rule, Some((false, 3))), "INVALID");
        assert_eq!(armed(&rule, None), "INVALID");
        let other = Undo::StartNode { node: "cp-1".to_owned() };
        assert_eq!(armed(&other, None), "PASS");
    }

    #[test]
    fn a_momentary_fault_needs_no_healing() {
        let mut tape = Tape::new(kill());
        for phase in [Planned, Applied, Proven] {
            tape.momentary("kill", "pod-delete", phase, &["shop/a"]);
        }
        assert_eq!(tape.at(100.0).verdict("fault/kill"), "PASS");
    }
}
