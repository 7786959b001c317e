//! One ordered event loop: runs a plan on a target and records the timeline.
//!
//! Runs the same under virtual and under real time: the only clock is tokio's. Every task belongs to
//! the scenario's set and ends with it. Undos are on disk before anything is done.

mod api;
mod board;
mod changes;
mod clean;
mod event_loop;
mod faults;
mod given;
mod goal;
mod recorder;
mod run;
mod sabotaged;
mod steps;
mod store_hash;
mod told;
mod undo;
mod witness;
mod workload;

pub use api::{ApiError, api_undo};
pub use recorder::{Limits, RecordError, Recorder, read_timeline};
pub use run::{Ending, RunOutcome, run_pack, run_scenario};
pub use undo::{Logged, UndoError, UndoLog, read_undo_log, undo_all};
