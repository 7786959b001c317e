//! The proof of a fault: planned, logged, applied, proven, sustained, removed, proven healed.
//!
//! Not proven, or lost while it should have lasted, is INVALID: what was observed says nothing about
//! the promise. Not proven healed is HARNESS: nothing after it can be trusted.

use shakedown_core::lever::Undo;
use shakedown_core::plan::FaultStep;
use shakedown_core::timeline::{Evidence, FaultPhase, What};
use shakedown_core::verdict::Verdict;

use crate::finding::Judged;
use crate::scene::{FaultSpan, Scene, millis, seconds};

pub(super) fn judge(scene: &Scene<'_>, name: &str, step: &FaultStep) -> Judged {
    let Some(span) = scene.faults.iter().find(|span| span.name == name) else {
        let message = format!("fault `{name}` ({}) was never begun", step.fault);
        return Judged::new(Verdict::Invalid, message);
    };
    let (verdict, why) = lived(scene, span);
    let error = span.first(FaultPhase::Proven).map_or(0, |proven| proven.error_us);
    let mut judged =
        Judged::new(verdict, format!("{} on {}: {why}", span.fault, span.targets.join("; ")));
    judged.error_ms = millis(error);
    judged.observed_ms = proof_time(span).map(millis);
    judged
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
    let logged = span.first(FaultPhase::UndoLogged);
    let was_logged = match (logged, applied) {
        (Some(logged), Some(applied)) => logged.seq < applied.seq,
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
    use shakedown_core::timeline::FaultPhase::{
        Applied, HealProven, HealUnproven, Lost, Planned, Proven, Removed, Sustained, UndoLogged,
        Unproven,
    };

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

    #[test]
    fn a_momentary_fault_needs_no_healing() {
        let mut tape = Tape::new(kill());
        for phase in [Planned, Applied, Proven] {
            tape.momentary("kill", "pod-delete", phase, &["shop/a"]);
        }
        assert_eq!(tape.at(100.0).verdict("fault/kill"), "PASS");
    }
}
