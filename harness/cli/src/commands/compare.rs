//! `shakedown compare`: two recorded runs side by side, scenario by scenario.

use std::path::{Path, PathBuf};

use shakedown_core::timeline::{Event, What};
use shakedown_core::verdict::RunVerdict;
use shakedown_report::Side;

use crate::failure::Failure;

/// What `compare` takes.
#[derive(clap::Args)]
pub struct Args {
    /// The folder of a run.
    one: PathBuf,
    /// The folder of another.
    other: PathBuf,
}

/// A recorded run.
struct Recorded {
    name: String,
    events: Vec<Event>,
    verdict: Option<RunVerdict>,
}

impl Recorded {
    fn read(dir: &Path) -> Result<Self, Failure> {
        let events = super::timeline(dir)?;
        let name = match events.first().map(|event| &event.what) {
            Some(What::Run { target, seed, .. }) => format!("{target} (seed {seed})"),
            _ => dir.display().to_string(),
        };
        Ok(Self { name, events, verdict: shakedown_report::read(dir).ok() })
    }

    fn scenarios(&self) -> impl Iterator<Item = &str> {
        self.events.iter().filter_map(|event| match &event.what {
            What::ScenarioBegan { id } => Some(id.as_str()),
            _ => None,
        })
    }

    fn side(&self, scenario: &str) -> Side<'_> {
        let all = self.verdict.iter().flat_map(|run| &run.scenarios);
        let verdict = all.into_iter().find(|verdict| verdict.id == scenario);
        Side { name: &self.name, events: &self.events, verdict }
    }
}

/// Compares every scenario that both have run.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let (mut one, mut other) = (Recorded::read(&args.one)?, Recorded::read(&args.other)?);
    if one.name == other.name {
        one.name = args.one.display().to_string();
        other.name = args.other.display().to_string();
    }
    let shared: Vec<&str> =
        one.scenarios().filter(|id| other.scenarios().any(|known| known == *id)).collect();
    if shared.is_empty() {
        return Err(Failure::usage("the two runs have no scenario in common", ""));
    }
    for scenario in shared {
        let (one, other) = (one.side(scenario), other.side(scenario));
        println!("{}", shakedown_report::compare(scenario, one, other, super::width()));
    }
    Ok(0)
}
