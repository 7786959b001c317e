//! `shakedown plan`: checks scenario files and shows what would be done. Needs no target.

use std::path::PathBuf;

use crate::failure::Failure;
use crate::plans::{self, Wanted};

/// What `plan` takes.
#[derive(clap::Args)]
pub struct Args {
    /// Scenario files, or folders with scenarios.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Decides every choice.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Prints every plan as YAML.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let wanted = Wanted { paths: args.paths.clone(), seed: args.seed, ..Wanted::default() };
    for planned in plans::plans(&wanted)? {
        let text = planned.plan.to_yaml().map_err(|error| Failure::harness(error, ""))?;
        println!("---\n# {}", planned.path.display());
        print!("{text}");
    }
    Ok(0)
}
