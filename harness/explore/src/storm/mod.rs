//! Storms: scenarios drawn from a seed. A storm is a safety phase, in which faults and changes come as
//! a swarm and only the invariants must hold, and a liveness phase, in which everything was healed and
//! the cluster must come to what is wanted, inside bounds computed from its parameters.
//!
//! Invariant: a storm follows from its seed and from what the target can do, and is a scenario file.

mod asked;
mod faults;
mod ground;
mod schedule;

use std::collections::BTreeSet;

use serde_json::json;
use shakedown_core::lever::LeverKind;

use crate::document::Document;
pub use asked::mend;
pub use faults::drawable;
use ground::Ground;
use schedule::Schedule;

/// Draws the storm of a seed, for a target with these abilities.
pub fn storm(seed: u64, abilities: &BTreeSet<LeverKind>) -> Document {
    let mut ground = Ground::draw(seed);
    let cluster = ground.cluster();
    let given = ground.given.clone();
    let workload = ground.workload.clone();
    let steps = Schedule::new(seed, &mut ground, &faults::drawable(abilities)).draw();
    let mut spec = json!({
        "title": format!("Storm {seed}: whatever was broken, no promise is; once it is healed all comes right"),
        "proves": [],
        "cluster": cluster,
        "blast": "cluster",
        "given": given,
        "steps": steps,
    });
    if let Some(workload) = workload {
        spec["workload"] = workload;
    }
    let name = format!("storm-{seed}");
    Document {
        id: format!("{seed}/{name}"),
        value: json!({
            "apiVersion": "shakedown.dev/v1",
            "kind": "Scenario",
            "metadata": {"name": name},
            "spec": spec,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use shakedown_core::plan::{Action, Ends, Step};
    use shakedown_core::target::Target;
    use shakedown_target_sim::SimTarget;

    use super::*;

    /// Faults that are over by themselves, always or if nothing else is said.
    const MOMENTARY: &[&str] = &[
        "container-kill",
        "etcd-compact",
        "etcd-leader-move",
        "node-restart",
        "pod-delete",
        "process-kill",
        "reset-connections",
    ];

    #[test]
    fn every_storm_can_be_planned_and_has_its_liveness_phase() {
        let abilities = SimTarget::new(0).abilities();
        let mut drawn: BTreeMap<String, u32> = BTreeMap::new();
        let (mut with_until, mut without_faults, mut moments, mut changing) = (0, 0, 0, 0);
        for seed in 0..400 {
            let document = storm(seed, &abilities);
            let plan = document
                .plan(seed, &[])
                .unwrap_or_else(|why| panic!("{why}\n{}", crate::document::write(&document.value)));
            assert_eq!(document, storm(seed, &abilities), "a storm follows from its seed");
            assert!(plan.checks().count() >= 3, "seed {seed} checks nothing at its end");
            let waits = |step: &&Step| matches!(step.action, Action::Wait { until: Some(_), .. });
            moments += plan.steps.iter().filter(waits).count();
            let mut mix = plan.workload.iter().flat_map(|workload| workload.mix.keys());
            changing += u32::from(mix.any(|verb| verb == "scale" || verb == "roll"));
            without_faults += u32::from(plan.faults().count() == 0);
            for (_, fault) in plan.faults() {
                *drawn.entry(fault.fault.clone()).or_default() += 1;
                with_until += u32::from(matches!(fault.ends, Ends::When(_)));
                assert!(
                    !matches!(fault.ends, Ends::WithScenario)
                        || plan.steps.iter().any(|step| matches!(step.action, Action::Heal { .. }))
                        || MOMENTARY.contains(&fault.fault.as_str()),
                    "seed {seed}: {} never ends",
                    fault.fault
                );
            }
        }
        let kinds: BTreeSet<_> = faults::drawable(&abilities).into_iter().collect();
        assert!(
            kinds.iter().all(|kind| drawn.get(*kind).is_some_and(|count| *count > 5)),
            "{drawn:?}"
        );
        assert!(moments > 50 && changing > 50, "{moments} {changing}");
        assert!(with_until > 5 && without_faults < 20, "{with_until} {without_faults}");
    }
}
