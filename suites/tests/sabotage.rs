//! The tester tested: each planted defect of the orchestrator, and of the harness itself, must be
//! caught by the scenario, and by the check, that `sabotages.yaml` or `harness-sabotages.yaml` names.

use std::collections::BTreeMap;

use libtest_mimic::{Arguments, Failed, Trial};
use shakedown::plans::{self, Wanted};
use shakedown::sabotages::{Entry, Place, entries, try_entry};

fn main() {
    let args = Arguments::from_args();
    let all = entries().unwrap_or_else(|failure| panic!("{failure}"));
    // A sabotage with several entries is one test: each of its scenarios must catch it.
    let mut by_name: BTreeMap<String, Vec<(Place, Entry)>> = BTreeMap::new();
    for (place, entry) in all {
        by_name.entry(entry.sabotage.clone()).or_default().push((place, entry));
    }
    let trials = by_name
        .into_iter()
        .map(|(name, entries)| Trial::test(name, move || caught(&entries)))
        .collect();
    libtest_mimic::run(&args, trials).exit();
}

fn caught(entries: &[(Place, Entry)]) -> Result<(), Failed> {
    for (place, entry) in entries {
        let file = shakedown_suites::folder().join(format!("{}.yaml", entry.scenario));
        let wanted = Wanted { paths: vec![file], seed: 1, ..Wanted::default() };
        let planned = plans::plans(&wanted).map_err(|failure| failure.to_string())?;
        let row = try_entry(*place, entry, &planned);
        if !row.is_caught {
            let (scenario, by) = (&row.scenario, &row.caught_by);
            return Err(format!("{scenario}: not caught by {by}; seen were: {}", row.seen).into());
        }
    }
    Ok(())
}
