//! From paths to plans: finds scenario files, reads them, plans them, or says all that is wrong.

use std::path::{Path, PathBuf};

use shakedown_core::plan::Plan;
use shakedown_core::planner::Planner;
use shakedown_core::scenario;
use shakedown_core::target::Parameters;
use shakedown_core::yaml::Problems;

use crate::failure::Failure;

/// What to plan.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Files and folders.
    pub paths: Vec<PathBuf>,
    /// Decides every choice.
    pub seed: u64,
    /// Control planes and workers, instead of what the scenarios say.
    pub nodes: Option<(u32, u32)>,
    /// Names of scenarios to leave out.
    pub skip: Vec<String>,
    /// Planted defects to switch on.
    pub sabotages: Vec<String>,
}

/// A scenario's plan and where it came from.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The file.
    pub path: PathBuf,
    /// The plan.
    pub plan: Plan,
}

/// Plans every scenario at the given places, in order of id.
pub fn plans(wanted: &Wanted) -> Result<Vec<Planned>, Failure> {
    let files = shakedown_suites::find(&wanted.paths).map_err(|error| {
        Failure::usage(
            error.to_string(),
            "name scenario files, or folders with scenarios such as `suites`",
        )
    })?;
    let behaviours = shakedown_suites::behaviours();
    let invariants: std::collections::BTreeSet<String> =
        shakedown_judge::invariants::names().into_iter().map(str::to_owned).collect();
    let mut planned = Vec::new();
    let mut problems = Problems::default();
    let mut skipped = std::collections::BTreeSet::new();
    for file in files {
        let shown = file.path.display().to_string();
        let scenarios = match scenario::parse(&shown, &file.text) {
            Ok(scenarios) => scenarios,
            Err(more) => {
                problems.0.extend(more.0);
                continue;
            }
        };
        let folder = file.path.parent().unwrap_or(Path::new(".")).to_owned();
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        for scenario in scenarios {
            if wanted.skip.contains(&scenario.name) {
                skipped.insert(scenario.name.clone());
                continue;
            }
            let planner = Planner {
                registry: shakedown_faults::ALL,
                behaviours: Some(&behaviours),
                invariants: Some(&invariants),
                files: &read,
                parameters: Parameters::default(),
                sabotages: &wanted.sabotages,
            };
            let id = format!("{}/{}", file.suite, scenario.name);
            match planner.plan(&id, &scenario, wanted.seed) {
                Ok(plan) => planned.push(Planned { path: file.path.clone(), plan }),
                Err(more) => problems.0.extend(more.0),
            }
        }
    }
    if !problems.0.is_empty() {
        return Err(Failure::problems(&problems));
    }
    check_names(wanted, &skipped, &planned)?;
    resize(wanted, &mut planned)?;
    planned.sort_by(|a, b| a.plan.scenario.cmp(&b.plan.scenario));
    Ok(planned)
}

fn check_names(
    wanted: &Wanted,
    skipped: &std::collections::BTreeSet<String>,
    planned: &[Planned],
) -> Result<(), Failure> {
    if let Some(unknown) = wanted.skip.iter().find(|name| !skipped.contains(*name)) {
        return Err(Failure::usage(
            format!("--skip {unknown}: no such scenario at the places named"),
            "`shakedown list` prints the names of scenarios",
        ));
    }
    let mut ids: Vec<&str> = planned.iter().map(|planned| planned.plan.scenario.as_str()).collect();
    ids.sort_unstable();
    if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Failure::usage(
            format!("two scenarios have the id {}", twice[0]),
            "give each scenario of a folder its own metadata.name",
        ));
    }
    Ok(())
}

/// Gives every plan the cluster that the user asked for, if it is not too small.
fn resize(wanted: &Wanted, planned: &mut [Planned]) -> Result<(), Failure> {
    let Some((control_planes, workers)) = wanted.nodes else { return Ok(()) };
    for Planned { plan, .. } in planned {
        let spec = &mut plan.cluster;
        if control_planes < spec.control_planes || workers < spec.workers {
            return Err(Failure::usage(
                format!(
                    "--nodes {control_planes}+{workers} is too small for {}, which needs {}+{}",
                    plan.scenario, spec.control_planes, spec.workers
                ),
                "leave --nodes out, or leave the scenario out with --skip",
            ));
        }
        (spec.control_planes, spec.workers) = (control_planes, workers);
    }
    Ok(())
}
