//! One run of one plan: a fresh simulated cluster, the timeline in memory, the verdict.

use std::time::Duration;

use shakedown_core::plan::Plan;
use shakedown_core::target::{Target, TargetError};
use shakedown_core::timeline::Event;
use shakedown_core::verdict::ScenarioVerdict;
use shakedown_runner::{Limits, Recorder, UndoLog, run_scenario};
use shakedown_target_sim::{LimitReached, Operator, RunLimits, SimTarget, run_within};

/// What came of a run.
#[derive(Debug, Clone)]
pub struct One {
    /// Everything that was seen.
    pub events: Vec<Event>,
    /// What follows from it.
    pub verdict: ScenarioVerdict,
    /// How long it took, in virtual time, the cluster's start included.
    pub virtual_time: Duration,
}

/// Why a run came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It ran into a limit.
    #[error(transparent)]
    Limit(#[from] LimitReached),
    /// The simulated cluster could not be booted or ended.
    #[error(transparent)]
    Target(#[from] TargetError),
}

/// Runs a plan on a simulated cluster of its own, and judges it. Runs on the calling thread; several
/// threads may each run one.
pub fn run_one(plan: &Plan, seed: u64, limits: RunLimits) -> Result<One, RunError> {
    run_one_with(plan, seed, limits, None)
}

/// Runs a plan as [`run_one`] does, with a controller under test if there is one.
pub fn run_one_with(
    plan: &Plan,
    seed: u64,
    limits: RunLimits,
    operator: Option<&Operator>,
) -> Result<One, RunError> {
    let (events, virtual_time) = run_within(seed, limits, observe(plan, seed, operator))??;
    let verdict = shakedown_judge::judge(plan, &events);
    Ok(One { events, verdict, virtual_time })
}

async fn observe(
    plan: &Plan,
    seed: u64,
    operator: Option<&Operator>,
) -> Result<(Vec<Event>, Duration), TargetError> {
    let began = tokio::time::Instant::now();
    let mut recorder = Recorder::memory("sim", seed, Limits::default());
    let mut undo_log = UndoLog::memory();
    let mut target = SimTarget::new(seed);
    if let Some(operator) = operator {
        target = target.with_operator(operator.clone());
    }
    let cluster = target.boot(&plan.cluster, &|_| {}).await?;
    let registry = shakedown_faults::ALL;
    run_scenario(&mut target, &cluster, plan, registry, &mut recorder, &mut undo_log, &|_| {})
        .await;
    target.down().await.await?;
    Ok((recorder.into_events(), began.elapsed()))
}
