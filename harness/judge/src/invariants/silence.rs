//! Which nodes fell silent when, by the faults that were done: what node invariants count from.

use shakedown_core::lever::Component;
use shakedown_core::target::Role;

use crate::scene::{FaultSpan, Instant, NODES, Scene, condition};

/// What the harness allows controllers for their own work, beside their periods.
pub(super) const WORK_US: i64 = 1_000_000;

/// A node that cannot be heard any more.
#[derive(Debug, Clone)]
pub(super) struct Silence<'a> {
    /// The fault step.
    pub(super) fault: &'a str,
    /// The node.
    pub(super) node: String,
    /// The bounds of the time at which it fell silent.
    pub(super) from_us: (i64, i64),
    /// The earliest time at which it may have been heard again.
    pub(super) until_us: Option<i64>,
}

/// Every silence of a worker that heartbeats as it should before.
pub(super) fn of<'a>(scene: &Scene<'a>) -> Vec<Silence<'a>> {
    let workers = scene.names(Role::Worker);
    let masters = scene.names(Role::ControlPlane);
    let mut all = Vec::new();
    for span in &scene.faults {
        let Some(from_us) = span.began() else { continue };
        for node in workers.iter().filter(|node| silences(span, node, &masters)) {
            all.push(Silence {
                fault: span.name,
                node: node.clone(),
                from_us,
                until_us: span.lifted(),
            });
        }
    }
    all
}

/// Whether a fault keeps a worker's heartbeats from the API servers.
fn silences(span: &FaultSpan<'_>, node: &str, masters: &[String]) -> bool {
    let kubelet = format!("{node}/{}", Component::Kubelet);
    match span.fault {
        "node-kill" | "node-pause" => span.targets.iter().any(|target| target == node),
        "process-stop" => span.targets.contains(&kubelet),
        "process-kill" => !span.undo.is_empty() && span.targets.contains(&kubelet),
        "partition" => {
            let cut = |from: &str, to: &str| {
                span.targets.iter().filter_map(|target| parse_cut(target)).any(|cut| {
                    ["all", "api"].contains(&cut.traffic)
                        && cut.from.contains(&from)
                        && cut.to.contains(&to)
                })
            };
            !masters.is_empty()
                && masters.iter().all(|master| cut(node, master) || cut(master, node))
        }
        _ => false,
    }
}

struct Cut<'a> {
    from: Vec<&'a str>,
    to: Vec<&'a str>,
    traffic: &'a str,
}

/// `a, b -> c (all)`, as the fault `partition` names its targets.
fn parse_cut(target: &str) -> Option<Cut<'_>> {
    let (from, rest) = target.split_once(" -> ")?;
    let (to, traffic) = rest.split_once(" (")?;
    Some(Cut {
        from: from.split(", ").collect(),
        to: to.split(", ").collect(),
        traffic: traffic.strip_suffix(')')?,
    })
}

/// When a node was first seen not Ready after this time, if it was Ready before.
pub(super) fn not_ready_after(scene: &Scene<'_>, node: &str, from_us: i64) -> Option<Instant> {
    let later = scene.history(NODES, node).filter(|seen| seen.when.at_us > from_us);
    let mut down = later.filter(|seen| condition(seen.object, "Ready") != "True");
    down.next().map(|seen| seen.when)
}

/// Whether a node was Ready just before this time.
pub(super) fn was_ready(scene: &Scene<'_>, node: &str, at_us: i64) -> bool {
    let mut before = scene.history(NODES, node).filter(|seen| seen.when.at_us <= at_us);
    before.next_back().is_some_and(|seen| condition(seen.object, "Ready") == "True")
}

/// Whether another fault disturbs this node or the control plane in the interval.
pub(super) fn is_disturbed(
    scene: &Scene<'_>,
    silence: &Silence<'_>,
    from_us: i64,
    to_us: i64,
) -> bool {
    let touched = scene.faults.iter().filter(|span| span.name != silence.fault).any(|span| {
        let hit = span
            .targets
            .iter()
            .any(|target| target.split([',', ' ', '/']).any(|word| word == silence.node));
        let through_api =
            ["taint-noexecute", "taint", "cordon", "pod-delete"].contains(&span.fault);
        hit && !through_api
            && span.began().is_some_and(|(began, _)| began <= to_us)
            && span.over().is_none_or(|over| over >= from_us)
    });
    touched || scene.is_disturbed(from_us, to_us, silence.fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_targets_of_partitions_read_back() {
        let cut = parse_cut("cp-1 -> cp-2, cp-3 (api)").unwrap();
        assert_eq!((cut.from, cut.to, cut.traffic), (vec!["cp-1"], vec!["cp-2", "cp-3"], "api"));
        assert!(parse_cut("worker-1").is_none());
    }
}
