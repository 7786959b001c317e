//! `shakedown report`: shows the report of a recorded run again.

use std::path::PathBuf;

use crate::failure::Failure;

/// What `report` takes.
#[derive(clap::Args)]
pub struct Args {
    /// The folder of a run, or its verdicts.json.
    dir: PathBuf,
}

/// Prints the report; answers the exit code that the run had.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let verdict = shakedown_report::read(&args.dir).map_err(|error| {
        Failure::usage(error.to_string(), "name the folder of a run: --out of `run`")
    })?;
    Ok(super::show(&verdict))
}
