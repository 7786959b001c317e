//! Controllers: pure decisions and the one driver that runs them.
//!
//! A controller looks at a view and says what to write; it never waits, asks or looks at a clock. The
//! driver stands for election, fences and executes all writes in one place, and decides nothing itself.
//! Invariant: a controller is not asked about a key again before the view shows its own last writes.

pub mod certificates;
mod config;
mod controller;
mod driver;
mod execute;
mod expectations;
mod index;
pub mod loops;
mod queue;
mod rollout;
mod taints;
#[cfg(test)]
mod testing;
mod zones;

pub use config::Config;
pub use controller::{Controller, DecideCx, Decision, Guard, Key, Note, Write};
pub use driver::run;
pub use index::Index;
pub use zones::ZoneState;
