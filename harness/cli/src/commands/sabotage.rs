//! `shakedown sabotage`: plants known defects in orchestrator and harness, one at a time, and checks
//! that each is caught; or runs the clean build and checks that there is no alarm.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::failure::Failure;
use crate::plans::{self, Wanted};
use crate::sabotages::{Entry, Place, clean, entries, on_threads, try_entry};

/// What `sabotage` takes.
#[derive(clap::Args)]
pub struct Args {
    /// Which sabotages; all of them, if none is named.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Where scenarios lie.
    #[arg(long, default_value = "suites")]
    suites: PathBuf,
    /// How many runs at a time; by default one for each processor.
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
    /// Instead, run the same scenarios without a defect, with this many seeds each: no alarm may come.
    #[arg(long, value_name = "SEEDS")]
    clean: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs; answers 0 if every sabotage was caught, else 1.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let all = entries()?;
    if let Some(unknown) =
        args.names.iter().find(|name| !all.iter().any(|(_, entry)| entry.sabotage == **name))
    {
        let known: std::collections::BTreeSet<&str> =
            all.iter().map(|(_, entry)| entry.sabotage.as_str()).collect();
        let known = known.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Failure::usage(format!("no sabotage `{unknown}`"), format!("known: {known}")));
    }
    let is_wanted = |entry: &Entry| args.names.is_empty() || args.names.contains(&entry.sabotage);
    let chosen: Vec<(Place, Entry)> =
        all.into_iter().filter(|(_, entry)| is_wanted(entry)).collect();
    let planned =
        plans::plans(&Wanted { paths: vec![args.suites.clone()], seed: 1, ..Wanted::default() })?;
    let jobs = args.jobs.or(std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    if let Some(seeds) = args.clean {
        return show_clean(args, &chosen, &planned, (seeds, jobs));
    }
    let rows = on_threads(jobs, &chosen, |(place, entry)| try_entry(*place, entry, &planned));
    if args.json {
        println!("{}", shakedown_report::sabotages_json(&rows));
    } else {
        print!("{}", shakedown_report::sabotages(&rows, super::width()));
    }
    Ok(u8::from(rows.is_empty() || rows.iter().any(|row| !row.is_caught)))
}

fn show_clean(
    args: &Args,
    chosen: &[(Place, Entry)],
    planned: &[plans::Planned],
    (seeds, jobs): (u64, usize),
) -> Result<u8, Failure> {
    if seeds == 0 {
        return Err(Failure::usage("--clean 0 runs nothing", "name a number of seeds"));
    }
    let scenarios: std::collections::BTreeSet<&str> =
        chosen.iter().map(|(_, entry)| entry.scenario.as_str()).collect();
    let runs = scenarios.len() as u64 * seeds;
    let alarms = clean(chosen, planned, seeds, jobs);
    if args.json {
        let told: Vec<_> = alarms
            .iter()
            .map(|alarm| {
                serde_json::json!({"scenario": alarm.scenario, "seed": alarm.seed, "seen": alarm.seen})
            })
            .collect();
        println!("{}", serde_json::json!({"runs": runs, "alarms": told}));
    } else {
        for alarm in &alarms {
            println!("ALARM {} with seed {}\n{}", alarm.scenario, alarm.seed, alarm.seen);
        }
        println!(
            "{runs} runs of {} scenarios without a defect: {} alarms",
            scenarios.len(),
            alarms.len()
        );
    }
    Ok(u8::from(!alarms.is_empty()))
}
