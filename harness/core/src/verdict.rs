//! Verdicts, and the exit codes that they become.

use serde::{Deserialize, Serialize};

/// How a check, a scenario or a run came out. In order of severity: the worst one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// The promise was kept.
    Pass,
    /// The target lacks an ability.
    NotRun,
    /// A limit of a checker was hit, or something that had to happen at times never did.
    Inconclusive,
    /// A fault was not proven in effect, or too little was seen.
    Invalid,
    /// A promise was broken.
    Fail,
    /// Healing or clean-up failed: nothing after it can be trusted.
    Harness,
}

impl Verdict {
    /// The process's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Pass => 0,
            Verdict::Fail => 1,
            Verdict::Invalid => 2,
            Verdict::Harness => 3,
            Verdict::Inconclusive => 4,
            Verdict::NotRun => 5,
        }
    }

    /// The word in reports.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "PASS",
            Verdict::Fail => "FAIL",
            Verdict::Invalid => "INVALID",
            Verdict::Harness => "HARNESS",
            Verdict::Inconclusive => "INCONCLUSIVE",
            Verdict::NotRun => "NOT_RUN",
        }
    }

    /// The worst of several; nothing at all is [`Verdict::Invalid`], as no data is never a pass.
    pub fn worst(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
        verdicts.into_iter().max().unwrap_or(Verdict::Invalid)
    }
}

/// How one check came out. The shape of `verdicts.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckVerdict {
    /// Unique in its scenario, such as `step-3/eventually` or `invariant/no-double-bind`.
    pub id: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What was observed, in milliseconds after the check's moment; absent if nothing was.
    pub observed_ms: Option<f64>,
    /// The window's bounds in milliseconds; absent for a check that has none.
    pub window_ms: Option<[f64; 2]>,
    /// By how much the observation may be wrong.
    pub error_ms: f64,
    /// For people: what was promised, what was seen, with the events that show it.
    pub message: String,
}

/// How one scenario came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScenarioVerdict {
    /// Such as `resilience/node-killed`.
    pub id: String,
    /// The scenario's title.
    pub title: String,
    /// The worst of its checks.
    pub verdict: Verdict,
    /// The documented behaviours that it proves.
    pub behaviours: Vec<String>,
    /// Its checks.
    pub checks: Vec<CheckVerdict>,
    /// Wall time.
    pub wall_ms: u64,
    /// Virtual time; equal to wall time on a real target.
    pub virtual_ms: u64,
}

/// How a run came out: `verdicts.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunVerdict {
    /// The shape of this file; raised when it changes.
    pub format: u32,
    /// The target's name.
    pub target: String,
    /// The seed.
    pub seed: u64,
    /// When the run began (RFC 3339).
    pub started: String,
    /// Wall time.
    pub wall_ms: u64,
    /// Virtual time.
    pub virtual_ms: u64,
    /// One for each scenario, in the order they ran.
    pub scenarios: Vec<ScenarioVerdict>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts_and_nothing_is_no_pass() {
        assert_eq!(Verdict::worst([]), Verdict::Invalid);
        assert_eq!(Verdict::worst([Verdict::Pass, Verdict::Pass]), Verdict::Pass);
        assert_eq!(Verdict::worst([Verdict::Fail, Verdict::Harness]), Verdict::Harness);
        assert_eq!(Verdict::worst([Verdict::Invalid, Verdict::Fail]), Verdict::Fail);
    }
}
