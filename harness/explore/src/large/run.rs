//! Runs one large world, lets somebody glance at it while it runs, and tells its phases apart.
//!
//! Invariant: whoever glances changes nothing: the same seed gives the same timeline.

use std::time::Duration;

use shakedown_core::plan::{Plan, START};
use shakedown_core::target::{Target, TargetError};
use shakedown_core::timeline::{Event, What};
use shakedown_core::verdict::ScenarioVerdict;
use shakedown_runner::{Limits, Recorder, UndoLog, run_scenario};
use shakedown_target_sim::{RunLimits, SimTarget, requests, run_within};

use crate::one::RunError;

/// Between two glances, in virtual time.
const GLANCE: Duration = Duration::from_secs(1);

/// How far a world is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// Virtual time since its boot began.
    pub virtual_time: Duration,
    /// Requests to API servers so far.
    pub requests: u64,
}

/// What came of a world.
#[derive(Debug)]
pub struct Ran {
    /// Everything that was seen.
    pub events: Vec<Event>,
    /// How long the boot took, in virtual time: the timeline begins with the boot, too.
    pub booted: Duration,
    /// Virtual time in all.
    pub virtual_time: Duration,
}

impl Ran {
    /// What follows from it.
    pub fn judge(&self, plan: &Plan) -> ScenarioVerdict {
        shakedown_judge::judge(plan, &self.events)
    }
}

/// Runs a plan on a cluster of its own. `glance` is called once in a second of virtual time, `tell`
/// with what the runner says.
pub fn run(
    plan: &Plan,
    seed: u64,
    limits: RunLimits,
    mut glance: impl FnMut(Glance),
    tell: &(dyn Fn(&str) + Send + Sync),
) -> Result<Ran, RunError> {
    let ran = run_within(seed, limits, async {
        let began = tokio::time::Instant::now();
        let mut observing = std::pin::pin!(observe(plan, seed, tell));
        loop {
            let next = tokio::time::Instant::now() + GLANCE;
            tokio::select! {
                biased;
                ran = &mut observing => return ran,
                () = tokio::time::sleep_until(next) => {
                    glance(Glance { virtual_time: began.elapsed(), requests: requests() });
                }
            }
        }
    });
    Ok(ran??)
}

async fn observe(
    plan: &Plan,
    seed: u64,
    tell: &(dyn Fn(&str) + Send + Sync),
) -> Result<Ran, TargetError> {
    let began = tokio::time::Instant::now();
    let mut recorder = Recorder::memory("sim", seed, Limits::of(&plan.cluster));
    let mut undo_log = UndoLog::memory();
    let mut target = SimTarget::new(seed);
    let cluster = target.boot(&plan.cluster, tell).await?;
    let booted = began.elapsed();
    let registry = shakedown_faults::ALL;
    run_scenario(&mut target, &cluster, plan, registry, &mut recorder, &mut undo_log, tell).await;
    target.down().await.await?;
    Ok(Ran { events: recorder.into_events(), booted, virtual_time: began.elapsed() })
}

/// The phases of a world that came to its end, each with the virtual time at which it ended.
pub fn phases(ran: &Ran) -> Vec<(&'static str, Duration)> {
    let moment = |wanted: &str| {
        let found = ran.events.iter().find(|event| match &event.what {
            What::Moment { name } => name == wanted,
            _ => false,
        });
        found.map(|event| Duration::from_micros(event.at_us))
    };
    let mut phases = vec![("boot", Some(ran.booted))];
    for (name, until) in [
        ("witness and workload begin", START),
        ("all pods start", "started"),
        ("a quiet time under load", "rested"),
        ("rolling update", "rolled"),
        ("zone lost, until noticed", "noticed"),
        ("zone lost, until evictions", "evicted"),
        ("heal, until all nodes are Ready", "ready"),
        ("until all pods are", "whole"),
    ] {
        phases.push((name, moment(until)));
    }
    phases.push(("clean-up", Some(ran.virtual_time)));
    phases.into_iter().filter_map(|(name, until)| Some((name, until?))).collect()
}

#[cfg(test)]
mod tests {
    use shakedown_core::verdict::Verdict;

    use super::*;
    use crate::campaign::LIMITS;
    use crate::large::{Size, large};

    #[test]
    fn a_small_large_world_keeps_every_promise() {
        let plan = large(Size { nodes: 30, pods: 200 }, 1).plan(1, &[]).expect("it can be planned");
        let mut glances = Vec::new();
        let ran = run(&plan, 1, LIMITS, |glance| glances.push(glance), &|_| {}).expect("it runs");
        let verdict = ran.judge(&plan);
        let told: Vec<_> = verdict
            .checks
            .iter()
            .filter(|check| check.verdict != Verdict::Pass)
            .map(|check| format!("{} {}: {}", check.verdict.word(), check.id, check.message))
            .collect();
        assert_eq!(told, Vec::<String>::new());
        assert_eq!(verdict.verdict, Verdict::Pass);
        assert_eq!(phases(&ran).len(), 10);
        assert!(phases(&ran).is_sorted_by_key(|(_, until)| *until), "{:?}", phases(&ran));
        assert!(glances.len() as u64 >= ran.virtual_time.as_secs() - 1, "{}", glances.len());
    }
}
