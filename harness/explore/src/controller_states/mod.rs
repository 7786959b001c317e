//! Goes through the states of controllers: each is brought about on purpose, and must come to the end
//! that is reached without it.
//!
//! A scenario is run once without the fault (`reference.rs`). Its timeline tells what controllers saw and
//! wrote (`trace.rs`); what belongs together is paired, and the rest left out (`prune.rs`). What is left
//! becomes scenarios with one fault each (`plans.rs`), which are run, judged by their own checks and by all
//! invariants, and compared with the reference (`campaign.rs`).
//!
//! Invariant: a state whose place was not reached counts as not reached, and never as passed.

pub mod campaign;
pub mod plans;
pub mod prune;
pub mod reference;
pub mod trace;

pub use campaign::{
    Asked, Outcome, Reached, Reference, Report, Row, explore, judged, learn, quiet,
};
pub use plans::{Pattern, State, states};
pub use prune::{Counts, prune};
pub use reference::{patient, same_waits, standalone};
pub use trace::{SUBJECTS, Trace};
