//! `settles`: it becomes true inside the window, and then stays true for `hold`.
//!
//! ```yaml
//! settles: {deployment: web, status: {readyReplicas: 6}}
//! within: [0s, 20s]
//! after: evicted
//! ```
//!
//! What counts is the first time after which it stayed true for so long; shorter times before it do not.

use shakedown_core::verdict::Verdict;

use super::{Case, micros};
use crate::finding::{Judged, Timing};
use crate::scene::{Instant, seconds};

pub(super) fn judge(case: &Case<'_>) -> Judged {
    let window = (case.low_us(), case.high_us());
    let hold = micros(case.check.hold);
    let promise = format!("{}, for {}", case.promise(), seconds(hold));
    let end = case.scene.steps_end_us();
    let mut unfinished = None;
    let mut broken = 0;
    for (answer, until) in case.truth.from(case.moment) {
        if answer.is_true != Ok(true) {
            continue;
        }
        let lasted = until.map_or(end, |until| until.at_us) - answer.since.earliest();
        if lasted < hold {
            match until {
                Some(_) => broken += 1,
                None => unfinished = Some(answer.since),
            }
            continue;
        }
        let moment = (case.moment.earliest(), case.moment.at_us);
        return settled(
            case,
            &promise,
            answer.since,
            Timing::between(moment, answer.since, window),
        );
    }
    let (verdict, why) = match (case.unseen(), unfinished) {
        (Some(why), _) => (Verdict::Invalid, why),
        (None, Some(since)) if since.earliest() <= case.closes_us() => (
            Verdict::Invalid,
            format!("true since event {}, but the scenario ended too soon after", since.seq),
        ),
        (None, _) if broken > 0 => {
            (Verdict::Fail, format!("{broken} times it was true for too short a time"))
        }
        (None, _) => (Verdict::Fail, "it never was true".to_owned()),
    };
    let judged = Judged::new(verdict, format!("{promise}: {why}"));
    judged.window(window.0, window.1, case.moment.error_us)
}

fn settled(case: &Case<'_>, promise: &str, since: Instant, timing: Timing) -> Judged {
    let told = format!("{promise}: true after {} (event {})", timing.tell(), since.seq);
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

    /// The pod `a` is there between each pair of times; it must settle within 20 s, for 5 s.
    fn there(times: &[(f64, f64)], end: f64) -> String {
        let mut tape = Tape::new(check("settles", "pod a", "0s", "20s"));
        tape.at(90.0).pod("b", |_| {});
        tape.at(100.0).moment("kill");
        for (from, to) in times {
            tape.at(*from).pod("a", |_| {});
            if *to < end {
                tape.at(*to).gone("pods", "shop/a");
            }
        }
        tape.at(end).verdict("step-0/settles")
    }

    #[test]
    fn it_must_stay() {
        assert_eq!(there(&[(110.0, 999.0)], 200.0), "PASS");
        assert_eq!(there(&[(110.0, 111.0)], 200.0), "FAIL");
        assert_eq!(there(&[(110.0, 111.0), (115.0, 999.0)], 200.0), "PASS");
        assert_eq!(there(&[(110.0, 111.0), (121.0, 999.0)], 200.0), "FAIL");
        assert_eq!(there(&[], 200.0), "FAIL");
    }

    #[test]
    fn a_scenario_that_ends_too_soon_shows_nothing() {
        assert_eq!(there(&[(118.0, 999.0)], 121.0), "INVALID");
        assert_eq!(there(&[], 110.0), "INVALID");
    }
}
