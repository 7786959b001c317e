//! What a check or an invariant finds, and the arithmetic of windows.
//!
//! Errors of observation widen a window: they can hide a violation and never invent one.

use shakedown_core::verdict::{CheckVerdict, Verdict};

use crate::scene::{Instant, millis, seconds};

/// How many violations a message tells of.
const VIOLATIONS_MAX: usize = 3;

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// The timeline has nothing that this could judge; why.
    NothingToJudge(String),
    /// It was judged.
    Judged(Judged),
}

/// A judgement.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// How it came out.
    pub verdict: Verdict,
    /// What was observed, in milliseconds.
    pub observed_ms: Option<f64>,
    /// The bounds, in milliseconds.
    pub window_ms: Option<[f64; 2]>,
    /// By how much the observation may be wrong.
    pub error_ms: f64,
    /// For people.
    pub message: String,
}

impl Judged {
    /// Without times.
    pub fn new(verdict: Verdict, message: impl Into<String>) -> Self {
        Self { verdict, observed_ms: None, window_ms: None, error_ms: 0.0, message: message.into() }
    }

    /// With what was observed.
    #[must_use]
    pub fn observed(mut self, timing: &Timing) -> Self {
        self.observed_ms = Some(millis(timing.observed_us));
        self.window_ms = Some([millis(timing.low_us), millis(timing.high_us)]);
        self.error_ms = millis(timing.error_us);
        self
    }

    /// With a window in which nothing was observed.
    #[must_use]
    pub fn window(mut self, low_us: i64, high_us: i64, error_us: i64) -> Self {
        self.window_ms = Some([millis(low_us), millis(high_us)]);
        self.error_ms = millis(error_us);
        self
    }

    /// As a line of the verdict.
    pub fn into_check(self, id: impl Into<String>) -> CheckVerdict {
        CheckVerdict {
            id: id.into(),
            verdict: self.verdict,
            observed_ms: self.observed_ms,
            window_ms: self.window_ms,
            error_ms: self.error_ms,
            message: self.message,
        }
    }
}

impl Finding {
    /// The promise was kept.
    pub fn held(message: impl Into<String>) -> Self {
        Finding::Judged(Judged::new(Verdict::Pass, message))
    }

    /// Too little was seen to tell.
    pub fn unseen(message: impl Into<String>) -> Self {
        Finding::Judged(Judged::new(Verdict::Invalid, message))
    }

    /// There is nothing to judge.
    pub fn nothing(why: impl Into<String>) -> Self {
        Finding::NothingToJudge(why.into())
    }

    /// Broken if there are violations, else kept.
    pub fn of(promise: &str, violations: &[String], seen: impl Into<String>) -> Self {
        if violations.is_empty() {
            return Finding::held(seen);
        }
        Finding::Judged(Judged::new(Verdict::Fail, broken(promise, violations)))
    }

    /// As [`Finding::of`]; what would be broken is only unseen where the witness was blind.
    pub fn of_unless_blind(
        promise: &str,
        violations: &[String],
        seen: impl Into<String>,
        is_blind: bool,
    ) -> Self {
        if is_blind && !violations.is_empty() {
            let told = broken(promise, violations);
            return Finding::unseen(format!("the witness was interrupted, else: {told}"));
        }
        Finding::of(promise, violations, seen)
    }
}

/// A message that tells what was promised and how it was broken.
pub fn broken(promise: &str, violations: &[String]) -> String {
    let told = violations.iter().take(VIOLATIONS_MAX).cloned().collect::<Vec<_>>().join("; ");
    match violations.len().saturating_sub(VIOLATIONS_MAX) {
        0 => format!("promised: {promise}; seen: {told}"),
        more => format!("promised: {promise}; seen: {told}; and {more} more"),
    }
}

/// A time after a moment, and the window that it must be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// What was observed.
    pub observed_us: i64,
    /// Not before.
    pub low_us: i64,
    /// Not after.
    pub high_us: i64,
    /// The sum of both errors.
    pub error_us: i64,
    /// How much longer it may really have been: the moment may have been earlier.
    longer_us: i64,
    /// How much shorter it may really have been: what was seen may have happened earlier.
    shorter_us: i64,
}

impl Timing {
    /// From a moment, known within `[moment_earliest, moment_latest]`, to what was seen.
    pub fn between(moment: (i64, i64), seen: Instant, window_us: (i64, i64)) -> Self {
        let (earliest, latest) = moment;
        let longer_us = latest - earliest;
        Self {
            observed_us: (seen.at_us - latest).max(0),
            low_us: window_us.0,
            high_us: window_us.1,
            error_us: longer_us + seen.error_us,
            longer_us,
            shorter_us: seen.error_us,
        }
    }

    /// Whether it certainly was too early.
    pub fn is_early(&self) -> bool {
        self.observed_us + self.longer_us < self.low_us
    }

    /// Whether it certainly was too late.
    pub fn is_late(&self) -> bool {
        self.observed_us - self.shorter_us > self.high_us
    }

    /// `12.00 s ± 0.01 s, promised within [30.00 s, 45.00 s]`
    pub fn tell(&self) -> String {
        format!(
            "{} ± {}, promised within [{}, {}]",
            seconds(self.observed_us),
            seconds(self.error_us),
            seconds(self.low_us),
            seconds(self.high_us)
        )
    }

    /// By how much it misses the window; negative inside, nearest to zero being the worst.
    pub fn miss_us(&self) -> i64 {
        (self.low_us - self.observed_us).max(self.observed_us - self.high_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_hides_a_violation_and_never_invents_one() {
        let seen = |at_us, error_us| Instant { seq: 1, at_us, error_us };
        let window = (30, 45);
        for (moment, seen, early, late) in [
            ((0, 0), seen(29, 0), true, false),
            ((-1, 0), seen(29, 0), false, false),
            ((0, 0), seen(30, 0), false, false),
            ((0, 0), seen(45, 0), false, false),
            ((0, 0), seen(46, 0), false, true),
            ((0, 0), seen(46, 1), false, false),
            ((0, 0), seen(29, 5), true, false),
            ((-5, 0), seen(46, 0), false, true),
        ] {
            let timing = Timing::between(moment, seen, window);
            assert_eq!((timing.is_early(), timing.is_late()), (early, late), "{timing:?}");
        }
    }

    #[test]
    fn many_violations_are_counted() {
        let many: Vec<_> = (0..5).map(|at| format!("v{at}")).collect();
        assert_eq!(broken("p", &many), "promised: p; seen: v0; v1; v2; and 2 more");
    }
}
