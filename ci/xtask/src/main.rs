//! Project chores that are not tests.

use std::fs;
use std::path::Path;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Says which documented behaviours no scenario proves yet, by area.
    Coverage,
    /// Prints the folder that `cargo build` puts binaries into.
    BinDir,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().chore {
        Chore::Coverage => coverage(),
        Chore::BinDir => bin_dir(),
    }
}

fn bin_dir() -> anyhow::Result<()> {
    let this = std::env::current_exe()?;
    let folder = this.parent().ok_or_else(|| anyhow::anyhow!("xtask lies in no folder"))?;
    println!("{}", folder.display());
    Ok(())
}

fn coverage() -> anyhow::Result<()> {
    let suites = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../suites");
    let behaviours: Vec<serde_json::Value> =
        serde_yaml::from_str(&fs::read_to_string(suites.join("behaviours.yaml"))?)?;
    let mut proven = std::collections::BTreeSet::new();
    for folder in ["conformance", "resilience", "regression"] {
        let Ok(entries) = fs::read_dir(suites.join(folder)) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let scenario: serde_json::Value =
                    serde_yaml::from_str(&fs::read_to_string(&path)?)?;
                for id in scenario["spec"]["proves"].as_array().into_iter().flatten() {
                    proven.insert(id.as_str().unwrap_or_default().to_owned());
                }
            }
        }
    }
    let mut areas = std::collections::BTreeMap::<&str, (usize, usize)>::new();
    for behaviour in &behaviours {
        let id = behaviour["id"].as_str().unwrap_or_default();
        let area = areas.entry(behaviour["area"].as_str().unwrap_or_default()).or_default();
        area.1 += 1;
        area.0 += usize::from(proven.contains(id));
    }
    for (area, (done, all)) in &areas {
        println!("{area:20} {done:3} of {all:3}");
    }
    let done: usize = areas.values().map(|(done, _)| done).sum();
    println!("{:20} {done:3} of {:3}", "all", behaviours.len());
    Ok(())
}
