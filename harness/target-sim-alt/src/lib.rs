//! The orchestrator under virtual time in one process: the target `sim`.
mod components;
mod link;
mod machine;
mod network;
mod process;
mod target;
mod world;
use std::future::Future;
pub use target::SimTarget;
/// Runs a future, and everything it starts, under virtual time on this thread.
pub fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing from the machine")
        .block_on(future)
}
