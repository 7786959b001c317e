//! The program `shakedown` as a library: plans scenarios, runs them on a target, judges, reports.

pub mod commands;
pub mod failure;
pub mod pipeline;
pub mod plans;
