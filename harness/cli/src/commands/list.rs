//! `shakedown list`: what there is to run, to break and to judge.

use std::path::PathBuf;

use crate::failure::Failure;
use crate::plans::{self, Wanted};

/// What `list` takes.
#[derive(clap::Args)]
pub struct Args {
    /// What to list.
    #[arg(value_enum, default_value_t = What::Scenarios)]
    what: What,
    /// Where scenarios lie.
    #[arg(long, default_value = "suites")]
    suites: PathBuf,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// Scenarios, with their claims.
    Scenarios,
    /// Faults, with their fields.
    Faults,
    /// Invariants.
    Invariants,
    /// Events that `reaches:` may demand and `cluster.seen` counts.
    Events,
}

/// Prints the list, an entry a line.
pub fn run(args: &Args) -> Result<u8, Failure> {
    match args.what {
        What::Scenarios => {
            let wanted = Wanted { paths: vec![args.suites.clone()], seed: 1, ..Wanted::default() };
            for planned in plans::plans(&wanted)? {
                println!("{:45} {}", planned.plan.scenario, planned.plan.title);
            }
        }
        What::Faults => {
            for fault in shakedown_faults::ALL {
                println!("{:20} {}", fault.name, fault.summary);
                if !fault.fields.is_empty() {
                    println!("{:20} fields: {}", "", fault.fields.join(", "));
                }
            }
        }
        What::Events => {
            for event in shakedown_core::sometimes::ALL {
                println!("{:30} {}", event.name, event.what);
            }
        }
        What::Invariants => {
            for name in shakedown_judge::invariants::names() {
                println!("{name}");
            }
        }
    }
    Ok(0)
}
