//! `shakedown reap`: the process that cleans up after a run whose harness was killed.

use shakedown_target_docker as docker;

use crate::failure::Failure;
use crate::pipeline::{pending_undos, unusable};

/// What `reap` takes.
#[derive(clap::Args)]
pub struct Args {
    /// What to do, as JSON.
    reaping: String,
}

/// Waits for the parent's end, then heals and removes.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let reaping: docker::Reaping = serde_json::from_str(&args.reaping)
        .map_err(|error| Failure::usage(format!("not a reaping: {error}"), ""))?;
    super::block_on(async {
        let read = |path: &std::path::Path| match pending_undos(path) {
            Ok(undos) => undos,
            Err(failure) => {
                eprintln!("{failure}");
                Vec::new()
            }
        };
        let healed = docker::reap_main(&reaping, read).await.map_err(unusable)?;
        for line in healed.done.iter().chain(&healed.failed) {
            println!("{line}");
        }
        Ok(u8::from(!healed.failed.is_empty()))
    })
}
