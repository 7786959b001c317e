//! `eventually`: the first time that it is true, counted from the moment, is inside the window.
//!
//! ```yaml
//! eventually: {node: $victim, status: {conditions: [{type: Ready, status: Unknown}]}}
//! within: [grace - heartbeat, grace + monitor]
//! after: kill
//! ```
//!
//! Already true at the moment is observed as 0. Not true by the end of the window is a FAIL if the
//! whole window was seen, else INVALID.

use shakedown_core::verdict::Verdict;

use super::Case;
use crate::finding::{Judged, Timing};

pub(super) fn judge(case: &Case<'_>) -> Judged {
    let window = (case.low_us(), case.high_us());
    let answers = case.truth.from(case.moment);
    let moment = (case.moment.earliest(), case.moment.at_us);
    let promise = case.promise();
    let Some((first, _)) = answers.iter().find(|(answer, _)| answer.is_true == Ok(true)) else {
        let (verdict, why) = match (case.unseen(), answers.last()) {
            (Some(why), _) => (Verdict::Invalid, why),
            (None, Some((answer, _))) => match &answer.is_true {
                Err(why) => (Verdict::Invalid, why.clone()),
                Ok(_) => (Verdict::Fail, "it never was true".to_owned()),
            },
            (None, None) => (Verdict::Invalid, "it was never asked".to_owned()),
        };
        let error = case.moment.error_us;
        return Judged::new(verdict, format!("{promise}: {why}")).window(window.0, window.1, error);
    };
    let timing = Timing::between(moment, first.since, window);
    let told = format!("{promise}: true after {} (event {})", timing.tell(), first.since.seq);
    let verdict = if timing.is_early() {
        Verdict::Fail
    } else if !timing.is_late() {
        Verdict::Pass
    } else if case.unseen().is_some() {
        Verdict::Invalid
    } else {
        Verdict::Fail
    };
    Judged::new(verdict, told).observed(&timing)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Tape, check};

    /// The pod `a` exists, 30 to 45 s after `kill`, which came at 100 s.
    fn seen_at(seconds: f64, error: f64) -> String {
        let mut tape = Tape::new(check("eventually", "pod a", "30s", "45s"));
        tape.at(50.0).pod("b", |_| {});
        tape.at(100.0).moment("kill");
        if seconds < 200.0 {
            tape.at(seconds).error(error).pod("a", |_| {});
        }
        tape.at(200.0).verdict("step-0/eventually")
    }

    #[test]
    fn inside_the_window_it_passes_and_outside_it_fails() {
        for (seconds, verdict) in [
            (100.5, "FAIL"),
            (129.9, "FAIL"),
            (130.0, "PASS"),
            (145.0, "PASS"),
            (145.1, "FAIL"),
            (999.0, "FAIL"),
        ] {
            assert_eq!(seen_at(seconds, 0.0), verdict, "{seconds}");
        }
    }

    #[test]
    fn the_error_of_observation_lets_off_what_it_can_explain() {
        assert_eq!(seen_at(145.1, 0.2), "PASS");
        assert_eq!(seen_at(145.3, 0.2), "FAIL");
        assert_eq!(seen_at(129.9, 0.2), "FAIL", "it was earlier still");
    }

    #[test]
    fn already_true_counts_as_at_once() {
        let mut tape = Tape::new(check("eventually", "pod a", "0s", "45s"));
        tape.at(50.0).pod("a", |_| {});
        tape.at(100.0).moment("kill");
        let judged = tape.at(200.0).judged("step-0/eventually");
        assert_eq!((judged.verdict.word(), judged.observed_ms), ("PASS", Some(0.0)));
    }

    #[test]
    fn what_was_not_seen_is_invalid() {
        let base = || {
            let mut tape = Tape::new(check("eventually", "pod a", "0s", "45s"));
            tape.at(50.0).pod("b", |_| {});
            tape
        };
        assert_eq!(base().at(200.0).verdict("step-0/eventually"), "INVALID", "no moment");
        let mut tape = base();
        tape.at(100.0).moment("kill");
        assert_eq!(tape.at(120.0).verdict("step-0/eventually"), "INVALID", "cut short");
        let mut tape = base();
        tape.at(100.0).moment("kill");
        tape.at(110.0).gap("pods");
        assert_eq!(tape.at(200.0).verdict("step-0/eventually"), "INVALID", "blind");
        let mut tape = Tape::new(check("eventually", "pod a", "0s", "45s"));
        tape.at(100.0).moment("kill");
        assert_eq!(tape.at(200.0).verdict("step-0/eventually"), "INVALID", "no pod at all");
    }
}
