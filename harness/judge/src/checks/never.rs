//! `never`: it is true at no time inside the window.
//!
//! ```yaml
//! never: {cel: "objects.pods.exists(p, has(p.metadata.deletionTimestamp))"}
//! within: [0s, 300s]
//! after: tainted
//! ```
//!
//! If nothing that the condition speaks of was seen, or the window was cut short, it is INVALID:
//! nothing happens in an empty world.

use super::{Case, period};
use crate::finding::Judged;

pub(super) fn judge(case: &Case<'_>) -> Judged {
    period::judge(case, true)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Tape, check};

    fn seen_at(seconds: f64, error: f64) -> String {
        let mut tape = Tape::new(check("never", "pod a", "0s", "45s"));
        tape.at(90.0).pod("b", |_| {});
        tape.at(100.0).moment("kill");
        tape.at(seconds).error(error).pod("a", |_| {});
        tape.at(200.0).verdict("step-0/never")
    }

    #[test]
    fn true_inside_the_window_is_a_failure() {
        assert_eq!(seen_at(120.0, 0.0), "FAIL");
        assert_eq!(seen_at(145.1, 0.0), "PASS");
    }

    #[test]
    fn what_clean_up_does_is_not_judged() {
        // A scenario that is given up at 110 s, whose clean-up makes the condition true.
        let given_up = |seen: f64| {
            let mut tape = Tape::new(check("never", "pod a", "0s", "45s"));
            tape.at(90.0).pod("b", |_| {});
            tape.at(100.0).moment("kill");
            if seen < 110.0 {
                tape.at(seen).pod("a", |_| {});
            }
            tape.at(110.0).steps_over("fault `kill` was no longer in effect");
            tape.at(seen.max(110.0)).pod("a", |_| {});
            tape.at(200.0).judged("step-0/never")
        };
        let judged = given_up(120.0);
        assert_eq!(judged.verdict.word(), "INVALID");
        assert!(judged.message.contains("given up before the window closed"), "{judged:?}");
        assert_eq!(given_up(105.0).verdict.word(), "FAIL", "before it was given up");
        let mut tape = Tape::new(check("never", "pod a", "0s", "45s"));
        tape.at(90.0).pod("b", |_| {});
        tape.at(110.0).steps_over("a check was missed");
        tape.at(111.0).moment("kill");
        tape.at(112.0).pod("a", |_| {});
        assert_eq!(tape.at(200.0).verdict("step-0/never"), "INVALID", "its moment is clean-up's");
        let mut tape = Tape::new(check("never", "pod a", "0s", "45s"));
        tape.at(90.0).pod("b", |_| {});
        tape.at(100.0).moment("kill");
        tape.at(145.0).steps_over("");
        tape.at(145.0).pod("a", |_| {});
        assert_eq!(tape.at(200.0).verdict("step-0/never"), "PASS");
    }

    #[test]
    fn an_end_known_badly_hides_a_short_violation() {
        let judge = |error| {
            let mut tape = Tape::new(check("never", "pod a", "0s", "45s"));
            tape.at(90.0).pod("b", |_| {});
            tape.at(100.0).moment("kill");
            tape.at(120.0).pod("a", |_| {});
            tape.at(120.1).error(error).gone("pods", "shop/a");
            tape.at(200.0).verdict("step-0/never")
        };
        assert_eq!(judge(0.05), "FAIL");
        assert_eq!(judge(0.1), "PASS");
    }

    #[test]
    fn in_an_empty_or_unfinished_world_it_is_invalid() {
        let mut tape = Tape::new(check("never", "pod a", "0s", "45s"));
        tape.at(100.0).moment("kill");
        assert_eq!(tape.clone().at(200.0).verdict("step-0/never"), "INVALID");
        tape.at(101.0).pod("b", |_| {});
        assert_eq!(tape.clone().at(120.0).verdict("step-0/never"), "INVALID");
        assert_eq!(tape.at(200.0).verdict("step-0/never"), "PASS");
    }
}
