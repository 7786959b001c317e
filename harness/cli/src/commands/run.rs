//! `shakedown run`: runs scenarios on a target and judges what was seen.

use std::path::PathBuf;

use crate::failure::Failure;
use crate::pipeline::{self, TargetName};
use crate::plans::{self, Wanted};

/// What `run` takes.
#[derive(clap::Args)]
pub struct Args {
    /// Scenario files, or folders with scenarios.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Where to run them.
    #[arg(long, value_enum, default_value_t = TargetName::Sim)]
    target: TargetName,
    /// Decides every choice; on `sim` the same seed gives the same bytes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the timeline, plans and verdicts go.
    #[arg(long, default_value = "out/run")]
    out: PathBuf,
    /// The size of the cluster, control planes + workers; by default what the scenarios ask for.
    #[arg(long, value_parser = super::nodes)]
    nodes: Option<(u32, u32)>,
    /// A scenario to leave out, by its name. Repeatable.
    #[arg(long, value_name = "NAME")]
    skip: Vec<String>,
    /// A running cluster of `shakedown up` to use, instead of a new one.
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// A planted defect to switch on, for testing the tester. Repeatable.
    #[arg(long, value_name = "NAME", hide = true)]
    sabotage: Vec<String>,
    /// Say nothing while it works.
    #[arg(long)]
    quiet: bool,
}

/// Runs; answers the exit code of the verdict.
pub fn run(args: &Args) -> Result<u8, Failure> {
    if args.cluster.is_some() && args.target != TargetName::Docker {
        return Err(Failure::usage("--cluster goes with --target docker", ""));
    }
    let planned = plans::plans(&Wanted {
        paths: args.paths.clone(),
        seed: args.seed,
        nodes: args.nodes,
        skip: args.skip.clone(),
        sabotages: args.sabotage.clone(),
    })?;
    if planned.is_empty() {
        return Err(Failure::usage(
            "there is nothing to run",
            "every scenario was left out by --skip",
        ));
    }
    let quiet = args.quiet;
    let progress = move |line: &str| {
        if !quiet {
            eprintln!("· {line}");
        }
    };
    let verdict = pipeline::run(&pipeline::Run {
        planned: &planned,
        target: args.target,
        seed: args.seed,
        out: &args.out,
        cluster: args.cluster.as_deref(),
        progress: &progress,
    })?;
    let code = super::show(&verdict);
    println!("timeline, plans and verdicts: {}", args.out.display());
    Ok(code)
}
