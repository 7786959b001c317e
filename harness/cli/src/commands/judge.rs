//! `shakedown judge`: judges a recorded run again, by the plans and the timeline in its folder.

use std::path::PathBuf;

use shakedown_core::plan::Plan;

use crate::failure::Failure;
use crate::pipeline;

/// What `judge` takes.
#[derive(clap::Args)]
pub struct Args {
    /// The folder of a run.
    dir: PathBuf,
}

/// Judges and reports; changes nothing in the folder.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let events = super::timeline(&args.dir)?;
    let plans: Vec<Plan> = pipeline::read_plans(&args.dir, &events)?;
    // Wall times are not in the timeline; the run's own file has them, if there is one.
    let recorded = shakedown_report::read(&args.dir).ok();
    let started = recorded.as_ref().map(|run| run.started.clone()).unwrap_or_default();
    let mut verdict = shakedown_judge::judge_run(&plans, &events, &started);
    if let Some(recorded) = recorded {
        verdict.wall_ms = recorded.wall_ms;
        verdict.virtual_ms = recorded.virtual_ms;
        for scenario in &mut verdict.scenarios {
            if let Some(known) = recorded.scenarios.iter().find(|known| known.id == scenario.id) {
                scenario.wall_ms = known.wall_ms;
                scenario.virtual_ms = known.virtual_ms;
            }
        }
    }
    Ok(super::show(&verdict))
}
