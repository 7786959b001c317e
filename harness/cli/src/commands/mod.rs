//! The commands: one file each, with what it takes and what it does.

mod compare;
mod controllers;
mod doctor;
mod down;
mod explore;
mod heal;
mod judge;
mod list;
mod plan;
mod reap;
mod report;
mod run;
mod sabotage;
mod up;

use std::io::IsTerminal;
use std::path::Path;

use clap::{Parser, Subcommand};
use shakedown_core::timeline::Event;
use shakedown_core::verdict::RunVerdict;

use crate::failure::Failure;

/// Breaks a Kubernetes cluster on purpose and judges from what was seen whether its promises were kept.
///
/// Exit codes: 0 PASS, 1 FAIL, 2 INVALID, 3 HARNESS, 4 INCONCLUSIVE, 5 NOT_RUN, 64 wrong usage.
#[derive(Parser)]
#[command(name = "shakedown", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows two recorded runs of the same scenarios side by side.
    Compare(compare::Args),
    /// Says what this machine can and cannot do, with advice.
    Doctor(doctor::Args),
    /// Removes a cluster that `up` made.
    Down(down::Args),
    /// Runs storms on one seed after the other, or goes through the states of controllers, and shrinks what
    /// fails.
    Explore(explore::Args),
    /// Takes back what killed runs left behind.
    Heal(heal::Args),
    /// Judges a recorded run again, offline.
    Judge(judge::Args),
    /// Lists scenarios, faults, invariants or sabotages.
    List(list::Args),
    /// Checks scenario files and shows what would be done.
    Plan(plan::Args),
    /// Waits for the end of a run and cleans up after it (started by `run` itself).
    #[command(hide = true)]
    Reap(reap::Args),
    /// Shows the report of a recorded run.
    Report(report::Args),
    /// Runs scenarios and judges them.
    Run(run::Args),
    /// Plants known defects in orchestrator and harness, and checks that each is caught.
    Sabotage(sabotage::Args),
    /// Makes a cluster of containers and leaves it running.
    Up(up::Args),
}

impl Cli {
    /// Does what was asked; answers the exit code.
    pub fn run(self) -> Result<u8, Failure> {
        match self.command {
            Command::Compare(args) => compare::run(&args),
            Command::Doctor(args) => doctor::run(&args),
            Command::Down(args) => down::run(&args),
            Command::Explore(args) => explore::run(&args),
            Command::Heal(args) => heal::run(&args),
            Command::Judge(args) => judge::run(&args),
            Command::List(args) => list::run(&args),
            Command::Plan(args) => plan::run(&args),
            Command::Reap(args) => reap::run(&args),
            Command::Report(args) => report::run(&args),
            Command::Run(args) => run::run(&args),
            Command::Sabotage(args) => sabotage::run(&args),
            Command::Up(args) => up::run(&args),
        }
    }
}

/// Where no width is known.
const WIDTH: usize = 110;

/// Prints the report of a run; answers its exit code.
fn show(verdict: &RunVerdict) -> u8 {
    let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    print!("{}", shakedown_report::terminal(verdict, width(), coloured));
    shakedown_core::verdict::Verdict::worst(verdict.scenarios.iter().map(|one| one.verdict))
        .exit_code()
}

/// Everything that was seen in the run of a folder.
fn timeline(dir: &Path) -> Result<Vec<Event>, Failure> {
    shakedown_runner::read_timeline(&dir.join("timeline.ndjson")).map_err(|error| {
        Failure::usage(error.to_string(), "name the folder of a run: --out of `run`")
    })
}

/// The terminal's width, by `$COLUMNS`; a plain default where nobody says.
fn width() -> usize {
    std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(WIDTH)
}

/// Parses `3+3`: control planes and workers.
fn nodes(text: &str) -> Result<(u32, u32), String> {
    let bad = || format!("`{text}` is not of the form 3+3: control planes + workers");
    let (control_planes, workers) = text.split_once('+').ok_or_else(bad)?;
    let control_planes: u32 = control_planes.trim().parse().map_err(|_| bad())?;
    let workers: u32 = workers.trim().parse().map_err(|_| bad())?;
    if control_planes == 0 || workers == 0 {
        return Err("a cluster needs a control plane and a worker".to_owned());
    }
    if control_planes.is_multiple_of(2) {
        return Err(format!(
            "{control_planes} control planes tolerate no more losses than {}: use an odd number",
            control_planes - 1
        ));
    }
    Ok((control_planes, workers))
}

/// A runtime with I/O, for commands that speak to Docker.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::harness(format!("failed to start: {error}"), ""))?
        .block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn node_counts_are_read_or_refused_with_a_reason() {
        assert_eq!(super::nodes("3+3"), Ok((3, 3)));
        for bad in ["3", "0+1", "1+0", "2+2", "x+1", "3+"] {
            assert!(super::nodes(bad).is_err(), "{bad}");
        }
    }
}
