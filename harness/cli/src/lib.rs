//! The program `shakedown` as a library: plans scenarios, runs them on a target, judges, reports.
//!
//! Without the feature `cli` only [`sim`] is there, by which tests of other people's controllers come in.

#[cfg(feature = "cli")]
pub mod commands;
#[cfg(feature = "cli")]
pub mod failure;
#[cfg(feature = "cli")]
pub mod pipeline;
#[cfg(feature = "cli")]
pub mod plans;
#[cfg(feature = "cli")]
pub mod sabotages;
pub mod sim;
