//! What `always` and `never` share: looking for a time inside the window at which it was otherwise.
//!
//! The window shrinks by the errors at both ends; what lasted no time at all is an artefact of the
//! order in which several watches deliver.

use shakedown_core::verdict::Verdict;

use super::Case;
use crate::finding::Judged;
use crate::scene::{Instant, millis, seconds};

/// Fails at the first time inside the window at which the condition was `forbidden`.
pub(super) fn judge(case: &Case<'_>, forbidden: bool) -> Judged {
    let (low, high) = (case.low_us(), case.high_us());
    let opens = case.moment.at_us + low;
    let closes = case.moment.earliest() + high;
    let promise = case.promise();
    let mut unanswered = None;
    for (answer, end) in case.truth.from(case.moment) {
        let until = end.map_or(case.scene.steps_end_us(), Instant::earliest);
        let (from, until) = (answer.since.at_us.max(opens), until.min(closes));
        if from >= until {
            continue;
        }
        match answer.is_true {
            Ok(is_true) if is_true == forbidden => {
                let error = case.moment.error_us + answer.since.error_us;
                let seen = from - case.moment.at_us;
                let word = if forbidden { "true" } else { "not true" };
                let message = format!(
                    "{promise}: {word} after {} (event {})",
                    seconds(seen),
                    answer.since.seq
                );
                let mut judged = Judged::new(Verdict::Fail, message).window(low, high, error);
                judged.observed_ms = Some(millis(seen));
                return judged;
            }
            Ok(_) => {}
            Err(why) => unanswered = unanswered.or(Some((answer.since.seq, why))),
        }
    }
    let watched = (case.scene.steps_end_us().min(closes) - case.moment.at_us).max(0);
    let judged = match (case.unseen(), unanswered) {
        (Some(why), _) => Judged::new(Verdict::Invalid, format!("{promise}: {why}")),
        (None, Some((seq, why))) => {
            Judged::new(Verdict::Invalid, format!("{promise}: {why} (event {seq})"))
        }
        (None, None) => {
            Judged::new(Verdict::Pass, format!("{promise}: watched for {}", seconds(watched)))
        }
    };
    let mut judged = judged.window(low, high, case.moment.error_us);
    judged.observed_ms = Some(millis(watched));
    judged
}
