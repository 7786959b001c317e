//! `reached/<name>`: what a scenario's `reaches:` demands has happened at least once.
//!
//! A storm that never came where it was to go proves nothing about that place: INCONCLUSIVE.

use shakedown_core::sometimes::{ALL, Sometimes};
use shakedown_core::verdict::{CheckVerdict, Verdict};

use crate::finding::Judged;
use crate::scene::Scene;

/// One check for each name.
pub(super) fn judge(scene: &Scene<'_>) -> Vec<CheckVerdict> {
    let names = &scene.plan.reaches;
    if names.is_empty() {
        return Vec::new();
    }
    let counts = Sometimes::count(scene.events);
    names.iter().map(|name| reached(name, &counts)).collect()
}

fn reached(name: &str, counts: &std::collections::BTreeMap<&str, u64>) -> CheckVerdict {
    let what = ALL.iter().find(|known| known.name == name).map(|known| known.what);
    let judged = match (what, counts.get(name)) {
        (None, _) => Judged::new(Verdict::Invalid, format!("nothing counts `{name}`")),
        (Some(what), None | Some(0)) => {
            Judged::new(Verdict::Inconclusive, format!("it never happened that {what}"))
        }
        (Some(what), Some(count)) => Judged::new(Verdict::Pass, format!("{what}: {count} times")),
    };
    judged.into_check(format!("reached/{name}"))
}

#[cfg(test)]
mod tests {
    use crate::testing::{Tape, kill};

    #[test]
    fn what_never_happened_is_inconclusive_and_what_is_unknown_is_invalid() {
        let mut plan = kill();
        plan.reaches = vec!["taint-added".to_owned(), "taint-adde".to_owned()];
        let mut tape = Tape::new(plan);
        tape.at(1.0).node("worker-1", "True", &[]);
        assert_eq!(tape.clone().at(9.0).verdict("reached/taint-added"), "INCONCLUSIVE");
        assert_eq!(tape.clone().at(9.0).verdict("reached/taint-adde"), "INVALID");
        tape.at(2.0).node("worker-1", "True", &[("disk", "full", "NoSchedule")]);
        assert_eq!(tape.at(9.0).verdict("reached/taint-added"), "PASS");
    }

    #[test]
    fn who_demands_nothing_gets_no_check() {
        let checks = Tape::new(kill()).at(9.0).checks();
        assert!(!checks.iter().any(|id| id.starts_with("reached/")), "{checks:?}");
    }
}
