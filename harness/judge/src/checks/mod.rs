//! The checks of a plan: the four words, the proof of each fault, and what had to be reached.
//!
//! Each answers for one step. What was not seen, or a moment that never came, is never a pass.

mod always;
mod eventually;
mod fault_proof;
mod never;
mod period;
mod reached;
mod settles;

use shakedown_core::plan::{Check, Plan, Word};
use shakedown_core::sabotage::Sabotage;
use shakedown_core::timeline::What;
use shakedown_core::verdict::CheckVerdict;

use crate::finding::Judged;
use crate::scene::{Instant, Scene};
use crate::truth::{self, Truth};

/// What a check has to look at.
struct Case<'a> {
    scene: &'a Scene<'a>,
    check: &'a Check,
    truth: &'a Truth,
    moment: Instant,
}

/// A kind of check, by its word.
struct Kind {
    word: Word,
    judge: fn(&Case<'_>) -> Judged,
}

/// Every kind of check that a scenario can write, in order of its word.
const KINDS: &[Kind] = &[
    Kind { word: Word::Always, judge: always::judge },
    Kind { word: Word::Eventually, judge: eventually::judge },
    Kind { word: Word::Never, judge: never::judge },
    Kind { word: Word::Settles, judge: settles::judge },
];

/// Every fault and every expectation, in the order of the plan; then what had to be reached.
pub fn judge(scene: &Scene<'_>) -> Vec<CheckVerdict> {
    let mut checks: Vec<_> = scene
        .plan
        .faults()
        .map(|(step, fault)| {
            let id = format!("fault/{}", step.moment);
            (step.index, fault_proof::judge(scene, &step.moment, fault).into_check(id))
        })
        .collect();
    let truths = truth::of_checks(scene);
    for ((step, check), truth) in scene.plan.checks().zip(&truths) {
        checks.push((step.index, expectation(scene, check, truth).into_check(&check.id)));
    }
    checks.sort_by_key(|(index, _)| *index);
    let reached = reached::judge(scene);
    checks.into_iter().map(|(_, check)| check).chain(reached).collect()
}

fn expectation(scene: &Scene<'_>, check: &Check, truth: &Truth) -> Judged {
    let window = (micros(check.window.low), micros(check.window.high));
    let invalid = |message: String| {
        Judged::new(shakedown_core::verdict::Verdict::Invalid, message)
            .window(window.0, window.1, 0)
    };
    if let Some(why) = &truth.unreadable {
        return invalid(format!("`{}` cannot be read: {why}", check.condition));
    }
    let Some(moment) = moment(scene, &check.after) else {
        return invalid(format!("the moment `{}` never came", check.after));
    };
    match KINDS.iter().find(|kind| kind.word == check.word) {
        Some(kind) => (kind.judge)(&Case { scene, check, truth, moment }),
        None => invalid(format!("nothing judges `{}`", check.word)),
    }
}

/// When a moment came; one that came only by clean-up (the end of a fault) did not.
fn moment(scene: &Scene<'_>, name: &str) -> Option<Instant> {
    let over = scene.steps_over.map_or(u64::MAX, |(over, _)| over.seq);
    let steps = scene.own().iter().take_while(|event| event.seq < over);
    steps.into_iter().find_map(|event| match &event.what {
        What::Moment { name: known } if known == name => Some(Instant::of(event)),
        _ => None,
    })
}

/// The bounds of a check's window, unless a planted defect has others.
fn bounds(plan: &Plan, check: &Check) -> (i64, i64) {
    let (low, high) = (micros(check.window.low), micros(check.window.high));
    if plan.sabotaged(Sabotage::JudgeSwapsBounds) {
        (high, low)
    } else if plan.sabotaged(Sabotage::JudgeIgnoresLowerBounds) {
        (0, high)
    } else if plan.sabotaged(Sabotage::JudgeWidensWindows) {
        (low, high + 10_000_000)
    } else {
        (low, high)
    }
}

fn micros(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

impl Case<'_> {
    fn low_us(&self) -> i64 {
        bounds(self.scene.plan, self.check).0
    }

    fn high_us(&self) -> i64 {
        bounds(self.scene.plan, self.check).1
    }

    /// The latest time at which the window may have closed.
    fn closes_us(&self) -> i64 {
        self.moment.at_us + self.high_us()
    }

    /// Why nothing can be said about the window; `None` if it was seen whole.
    fn unseen(&self) -> Option<String> {
        let (from, to) = (self.moment.earliest(), self.closes_us());
        let kinds: Vec<_> = self.truth.kinds.iter().map(String::as_str).collect();
        if !self.truth.has_data(self.scene, from, to) {
            return Some(format!("nothing of {} was seen", self.subject()));
        }
        if self.scene.blind(&kinds, from, to) {
            return Some("the witness was interrupted, or the harness was in trouble".to_owned());
        }
        if self.scene.steps_end_us() < self.moment.earliest() + self.high_us() {
            return Some(match self.scene.steps_over {
                Some((_, why)) if !why.is_empty() => {
                    format!("the scenario was given up before the window closed: {why}")
                }
                _ => "the scenario ended before the window closed".to_owned(),
            });
        }
        None
    }

    fn subject(&self) -> String {
        let mut words = self.truth.kinds.clone();
        if self.truth.is_about_cluster {
            words.push("the cluster".to_owned());
        }
        words.join(", ")
    }

    /// `eventually pod web-0 exists after kill`
    fn promise(&self) -> String {
        format!("{} `{}` after `{}`", self.check.word, self.check.condition, self.check.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_judged_and_the_registry_is_sorted() {
        assert!(KINDS.windows(2).all(|pair| pair[0].word.name() < pair[1].word.name()));
        for word in Word::ALL {
            assert!(KINDS.iter().any(|kind| kind.word == *word), "{word}");
        }
    }
}
