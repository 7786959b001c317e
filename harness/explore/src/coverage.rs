//! What a campaign came through: which fault hit what, in which phase of the cluster's life.
//!
//! Only counts are kept, so that a campaign of any length fits into memory.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::json;
use shakedown_core::lever::Undo;
use shakedown_core::plan::{Action, FaultStep, Plan};
use shakedown_core::sometimes::{self, Sometimes};
use shakedown_core::timeline::{Change, Event, FaultPhase, What};
use shakedown_core::verdict::ScenarioVerdict;

/// So long after a leader's Lease changed hands the election still counts, in microseconds.
const ELECTION_US: u64 = 3_000_000;

/// Events that no storm can come to by the way it is drawn, and why.
pub const UNREACHABLE: &[(&str, &str)] = &[];

/// What the cluster was doing when a fault came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Nothing in particular.
    Quiet,
    /// Another fault was in effect.
    Fault,
    /// etcd had no leader, or a component's leader had just changed.
    Election,
    /// A Deployment was not yet what is wanted of it.
    Rollout,
    /// A pod was being deleted.
    Eviction,
}

impl Phase {
    /// Every phase.
    pub const ALL: &[Phase] =
        &[Phase::Quiet, Phase::Fault, Phase::Election, Phase::Rollout, Phase::Eviction];

    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Quiet => "quiet",
            Phase::Fault => "fault",
            Phase::Election => "election",
            Phase::Rollout => "rollout",
            Phase::Eviction => "eviction",
        }
    }
}

/// Counts of a campaign, or of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Faults in effect, by kind, by what they were done to, by phase.
    pub faults: BTreeMap<String, BTreeMap<String, BTreeMap<Phase, u64>>>,
    /// How often each invariant came to each verdict.
    pub checks: BTreeMap<String, BTreeMap<String, u64>>,
    /// In how many runs each event happened that ought to happen at times. Every name is there.
    pub reached: BTreeMap<String, u64>,
}

impl Coverage {
    /// Of one run.
    pub fn of(plan: &Plan, events: &[Event]) -> Self {
        let mut coverage = Self::default();
        let mut world = Watching::default();
        for event in events {
            if let What::Fault { name, fault, phase: FaultPhase::Proven, .. } = &event.what {
                let part = part(plan, name);
                let phases = world.at_fault.remove(name).unwrap_or_default();
                let cells =
                    coverage.faults.entry(fault.clone()).or_default().entry(part).or_default();
                for phase in phases {
                    *cells.entry(phase).or_default() += 1;
                }
            }
            world.see(event);
        }
        let counts = Sometimes::count(events);
        coverage.reached = counts
            .into_iter()
            .map(|(name, count)| (name.to_owned(), u64::from(count > 0)))
            .collect();
        coverage
    }

    /// Takes in what the invariants said of the run.
    pub fn judged(&mut self, verdict: &ScenarioVerdict) {
        for check in verdict.checks.iter().filter(|check| check.id.starts_with("invariant/")) {
            let verdicts = self.checks.entry(check.id.clone()).or_default();
            *verdicts.entry(check.verdict.word().to_owned()).or_default() += 1;
        }
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Coverage) {
        for (fault, parts) in &other.faults {
            for (part, phases) in parts {
                let cells =
                    self.faults.entry(fault.clone()).or_default().entry(part.clone()).or_default();
                for (phase, count) in phases {
                    *cells.entry(*phase).or_default() += count;
                }
            }
        }
        for (event, runs) in &other.reached {
            *self.reached.entry(event.clone()).or_default() += runs;
        }
        for (check, verdicts) in &other.checks {
            let counts = self.checks.entry(check.clone()).or_default();
            for (verdict, count) in verdicts {
                *counts.entry(verdict.clone()).or_default() += count;
            }
        }
    }

    /// Events that ought to have happened in one run at least, and did in none.
    pub fn never_reached(&self) -> Vec<&'static str> {
        sometimes::names()
            .filter(|name| UNREACHABLE.iter().all(|(known, _)| known != name))
            .filter(|name| self.reached.get(*name).is_none_or(|runs| *runs == 0))
            .collect()
    }

    /// How often a kind of fault was in effect.
    pub fn of_fault(&self, fault: &str) -> u64 {
        self.faults.get(fault).map_or(0, |parts| parts.values().flat_map(|p| p.values()).sum())
    }
}

/// What a fault was done to, by the step that asked for it.
fn part(plan: &Plan, name: &str) -> String {
    let step = plan.steps.iter().find(|step| step.moment == name);
    let Some(Action::Fault(FaultStep { on, sides, fields, .. })) = step.map(|step| &step.action)
    else {
        return "unknown".to_owned();
    };
    if let Some(component) = fields.get("component").and_then(Value::as_str) {
        return component.to_owned();
    }
    let role = |text: String| {
        let is = |prefix: &str| text.starts_with(prefix);
        if is("node worker-") || is("all workers") || is("any worker") {
            "worker"
        } else if text.contains("etcd") {
            "etcd"
        } else if text.contains("pod") {
            "pod"
        } else {
            "control-plane"
        }
    };
    match sides.as_slice() {
        [] if on.is_empty() => "etcd".to_owned(),
        [] => on.first().map_or("unknown", |who| role(who.to_string())).to_owned(),
        sides => {
            let ends: Vec<_> = sides
                .iter()
                .filter_map(|side| side.first().map(|who| role(who.to_string())))
                .collect();
            match fields.get("traffic").and_then(Value::as_str) {
                Some(traffic) => format!("{} ({traffic})", ends.join("-")),
                None => ends.join("-"),
            }
        }
    }
}

/// The cluster's life as far as phases ask for it.
#[derive(Default)]
struct Watching {
    /// Faults that were applied and not removed.
    active: Vec<String>,
    /// Faults with nothing to take back.
    momentary: BTreeSet<String>,
    leaderless: BTreeMap<String, bool>,
    holders: BTreeMap<String, String>,
    changed_hands_us: Option<u64>,
    rolling: BTreeMap<String, bool>,
    going: BTreeMap<String, bool>,
    /// The phases in which faults were applied that are not proven yet.
    at_fault: BTreeMap<String, Vec<Phase>>,
}

impl Watching {
    fn see(&mut self, event: &Event) {
        match &event.what {
            What::Fault { name, phase: FaultPhase::Applied, .. } => {
                self.at_fault.insert(name.clone(), self.phases(event.at_us));
                self.active.push(name.clone());
            }
            What::Fault { name, phase: FaultPhase::UndoLogged, undo, .. }
                if undo.iter().all(|undo| *undo == Undo::Nothing) =>
            {
                self.momentary.insert(name.clone());
            }
            // One with nothing to take back is over by itself.
            What::Fault { name, phase: FaultPhase::Proven, .. }
                if self.momentary.contains(name) =>
            {
                self.active.retain(|active| active != name);
            }
            What::Fault { name, phase: FaultPhase::Removed, .. } => {
                self.active.retain(|active| active != name);
            }
            What::EtcdMember { node, leader, .. } => {
                self.leaderless.insert(node.clone(), *leader == 0);
            }
            What::Object { change, kind, object, .. } => {
                self.object(*change, kind, object, event.at_us)
            }
            _ => {}
        }
    }

    fn object(&mut self, change: Change, kind: &str, object: &json::Value, at_us: u64) {
        let key = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let gone = change == Change::Deleted;
        match kind {
            "leases.coordination.k8s.io" if object["metadata"]["namespace"] == "kube-system" => {
                let holder = object["spec"]["holderIdentity"].as_str().unwrap_or_default();
                let before = self.holders.insert(key, holder.to_owned());
                if before.is_some_and(|before| before != holder) {
                    self.changed_hands_us = Some(at_us);
                }
            }
            "deployments.apps" => {
                let number = |part: &str, field: &str| object[part][field].as_u64().unwrap_or(0);
                let wanted = number("spec", "replicas");
                let settled = ["replicas", "updatedReplicas", "readyReplicas"]
                    .iter()
                    .all(|field| number("status", field) == wanted)
                    && number("status", "observedGeneration") >= number("metadata", "generation");
                self.rolling.insert(key, !gone && !settled);
            }
            "pods" => {
                let dies = object["metadata"]["deletionTimestamp"].is_string();
                self.going.insert(key, !gone && dies);
            }
            _ => {}
        }
    }

    fn phases(&self, now_us: u64) -> Vec<Phase> {
        let any = |map: &BTreeMap<String, bool>| map.values().any(|is| *is);
        let changed = self.changed_hands_us.is_some_and(|at| now_us < at + ELECTION_US);
        let mut phases = Vec::new();
        for (phase, is) in [
            (Phase::Fault, !self.active.is_empty()),
            (Phase::Election, any(&self.leaderless) || changed),
            (Phase::Rollout, any(&self.rolling)),
            (Phase::Eviction, any(&self.going)),
        ] {
            if is {
                phases.push(phase);
            }
        }
        if phases.is_empty() {
            phases.push(Phase::Quiet);
        }
        phases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happened_in_any_run_is_told() {
        let run = |happened: &[&str]| {
            let runs = |name: &str| u64::from(happened.contains(&name));
            let reached = sometimes::names().map(|name| (name.to_owned(), runs(name))).collect();
            Coverage { reached, ..Coverage::default() }
        };
        let all: Vec<_> = sometimes::names().collect();
        let mut coverage = run(&["quorum-lost"]);
        assert!(coverage.never_reached().contains(&"stale-read"));
        assert!(!coverage.never_reached().contains(&"quorum-lost"));
        coverage.add(&run(&all[1..]));
        let missed = coverage.never_reached();
        assert_eq!(missed, [all[0]]);
        assert_eq!(coverage.reached["quorum-lost"], 2);
        assert!(
            !Coverage::default().never_reached().is_empty(),
            "nothing known is nothing reached"
        );
    }

    #[test]
    fn what_no_storm_can_reach_is_counted_at_all() {
        for (name, why) in UNREACHABLE {
            assert!(sometimes::names().any(|known| known == *name) && !why.is_empty(), "{name}");
        }
    }
}
