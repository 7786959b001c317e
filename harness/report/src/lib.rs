//! What people and machines read of a run: a table for the terminal, JUnit for CI, JSON for programs.
//!
//! Each is a pure function of a [`RunVerdict`](shakedown_core::verdict::RunVerdict), so that
//! `shakedown report DIR` shows the same as the run did.

mod compare;
mod durations;
mod files;
mod junit;
mod sabotages;
mod terminal;
#[cfg(test)]
mod testing;

pub use compare::{Side, compare};
pub use durations::{human, human_ms};
pub use files::{JUNIT, ReportError, VERDICTS, read, write};
pub use junit::junit;
pub use sabotages::{SabotageRow, sabotages, sabotages_json};
pub use terminal::{summary, terminal};
