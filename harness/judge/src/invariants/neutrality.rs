//! `neutrality`: the machine looks after a run as it did before.
//!
//! ```yaml
//! invariants: [neutrality]
//! ```
//!
//! Tables, qdiscs, cgroup limits, mounts, containers and networks, by name. What was left, or is
//! gone, is HARNESS: the tester is at fault, and nothing after it can be trusted.

use shakedown_core::timeline::What;
use shakedown_core::verdict::Verdict;

use super::Invariant;
use crate::finding::{Finding, Judged, broken};
use crate::scene::Scene;

/// The invariant in the registry.
pub(super) const INVARIANT: Invariant = Invariant {
    name: "neutrality",
    promise: "the machine looks after the run as it did before",
    judge,
};

fn judge(scene: &Scene<'_>) -> Finding {
    let began = scene.events[scene.began].seq;
    let taken = |wanted: &'static str| {
        scene.timeline.iter().filter_map(move |event| match &event.what {
            What::Fingerprint { when, things } if when == wanted => Some((event.seq, things)),
            _ => None,
        })
    };
    // Taken by the scenario itself, else by the run around it.
    let end = scene.events.last().map_or(began, |event| event.seq);
    let own = taken("before").find(|(seq, _)| (began..=end).contains(seq));
    let Some((at, before)) =
        own.or_else(|| taken("before").take_while(|(seq, _)| *seq < began).last())
    else {
        return Finding::nothing("no fingerprint was taken");
    };
    let Some((_, after)) = taken("after").find(|(seq, _)| *seq > at && *seq > began) else {
        return Finding::nothing("no fingerprint was taken afterwards");
    };
    let mut differences = Vec::new();
    for (thing, was) in before {
        match after.get(thing) {
            None => differences.push(format!("{thing} is gone")),
            Some(now) if now != was => differences.push(format!("{thing} was {was} and is {now}")),
            Some(_) => {}
        }
    }
    let left = after.keys().filter(|thing| !before.contains_key(*thing));
    differences.extend(left.map(|thing| format!("{thing} was left behind")));
    if differences.is_empty() {
        return Finding::held(format!("{} things are as before", before.len()));
    }
    Finding::Judged(Judged::new(Verdict::Harness, broken(INVARIANT.promise, &differences)))
}

#[cfg(test)]
mod tests {
    use crate::testing::{Tape, kill};

    const ID: &str = "invariant/neutrality";

    fn after(things: &[(&str, &str)]) -> String {
        let mut tape = Tape::new(kill());
        tape.fingerprint("before", &[("table inet filter", "5 rules"), ("network bridge", "x")]);
        tape.at(60.0).fingerprint("after", things);
        tape.verdict(ID)
    }

    #[test]
    fn nothing_may_be_left_changed_or_gone() {
        let same = [("table inet filter", "5 rules"), ("network bridge", "x")];
        assert_eq!(after(&same), "PASS");
        assert_eq!(after(&same[..1]), "HARNESS");
        assert_eq!(after(&[same[0], ("network bridge", "y")]), "HARNESS");
        assert_eq!(after(&[same[0], same[1], ("table netdev shk_1", "")]), "HARNESS");
    }
}
