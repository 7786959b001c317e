//! Why a command ended without a verdict: what went wrong, and what the user can do.

use std::fmt;

use shakedown_core::verdict::Verdict;
use shakedown_core::yaml::Problems;

/// The exit code of wrong usage: arguments or files.
pub const USAGE: u8 = 64;

/// Why a command ended without a verdict.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong, with its causes, a line each.
    pub what: String,
    /// What the user can do; may be empty.
    pub hint: String,
    /// The process's exit code.
    pub code: u8,
}

impl Failure {
    /// The user's arguments or files are wrong.
    pub fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into(), code: USAGE }
    }

    /// Something around us failed.
    pub fn harness(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into(), code: Verdict::Harness.exit_code() }
    }

    /// Files are wrong, at these places.
    pub fn problems(problems: &Problems) -> Self {
        Self::usage(problems.to_string(), "")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if !self.hint.is_empty() {
            write!(f, "\nhint: {}", self.hint)?;
        }
        Ok(())
    }
}
