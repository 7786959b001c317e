//! What the test mains share: the plans, and one scenario as one test.

use std::path::PathBuf;

use libtest_mimic::Failed;
use shakedown::pipeline::{self, Run, TargetName};
use shakedown::plans::{self, Planned, Wanted};
use shakedown_core::verdict::{ScenarioVerdict, Verdict};

/// Every scenario of the suites, planned; with these sabotages switched on.
pub fn planned(sabotages: &[String]) -> Vec<Planned> {
    let wanted = Wanted {
        paths: vec![shakedown_suites::folder()],
        seed: 1,
        sabotages: sabotages.to_vec(),
        ..Wanted::default()
    };
    plans::plans(&wanted).unwrap_or_else(|failure| {
        eprintln!("{failure}");
        std::process::exit(1)
    })
}

/// The name of a scenario's test: `resilience::node-killed`.
pub fn name(planned: &Planned) -> String {
    planned.plan.scenario.replace('/', "::")
}

/// Runs one scenario in a folder of its own.
pub fn run(planned: &Planned, target: TargetName, label: &str) -> Result<ScenarioVerdict, Failed> {
    let folder = format!("{label}--{}", planned.plan.scenario.replace('/', "--"));
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let cluster = std::env::var("SHAKEDOWN_CLUSTER").ok();
    let run = pipeline::run(&Run {
        planned: std::slice::from_ref(planned),
        target,
        seed: planned.plan.seed,
        out: &out,
        cluster: cluster.as_deref().filter(|_| target == TargetName::Docker),
        progress: &|_| {},
    })
    .map_err(|failure| Failed::from(failure.to_string()))?;
    run.scenarios.into_iter().next().ok_or_else(|| Failed::from("nothing was judged"))
}

/// Fails unless the scenario passed, with every check that did not.
pub fn passed(scenario: &ScenarioVerdict) -> Result<(), Failed> {
    if scenario.verdict == Verdict::Pass {
        return Ok(());
    }
    let broken: Vec<String> = scenario
        .checks
        .iter()
        .filter(|check| check.verdict != Verdict::Pass)
        .map(|check| format!("{} {}: {}", check.verdict.word(), check.id, check.message))
        .collect();
    Err(Failed::from(format!("{}\n{}", scenario.verdict.word(), broken.join("\n"))))
}
