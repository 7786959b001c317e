//! Searches for the schedule of faults that breaks a promise, finds it again from its seed, shrinks it.
//!
//! Everything here runs under virtual time on `sim`; what is found is a scenario file that `run` takes
//! on every target. Invariant: a run is a function of plan and seed, and of nothing else.

pub mod campaign;
pub mod controller_states;
pub mod coverage;
pub mod document;
pub mod draw;
pub mod keep;
pub mod large;
pub mod one;
pub mod ordered;
pub mod reason;
pub mod shrink;
pub mod storm;

pub use campaign::{Bounds, Finding, Outcome, Summary, campaign};
pub use coverage::{Coverage, Phase};
pub use document::Document;
pub use keep::{Kept, keep};
pub use one::{One, RunError, run_one, run_one_with};
pub use storm::storm;
