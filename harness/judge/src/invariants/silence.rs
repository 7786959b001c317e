//! Which nodes fell silent when, by the faults that were done: what node invariants count from.
//!
//! Bad weather silences only where every packet is lost: what is late or sent again is heard. No rule
//! in a kubelet's conversation keeps its heartbeats away for sure. A wrong wall clock silences nobody
//! and disturbs nothing: time-outs are counted on monotonic clocks, and that is a promise.

use shakedown_core::lever::Component;
use shakedown_core::target::Role;
use shakedown_core::timeline::Change;

use crate::scene::{FaultSpan, Instant, NODES, Scene, condition};

/// What the harness allows controllers for their own work, beside their periods.
pub(super) const WORK_US: i64 = 1_000_000;

/// The fault that no promise may notice.
const WRONG_CLOCK: &str = "clock-skew";

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
    let heartbeat = scene.parameters().heartbeat.as_micros() as i64;
    let mut all = Vec::new();
    for span in &scene.faults {
        let Some((earliest, latest)) = span.began() else { continue };
        for node in workers.iter().filter(|node| silences(span, node, &masters)) {
            // Where only answers are lost, one more heartbeat may arrive: the one that is never answered.
            let last = if loses_answers_only(span, node) { heartbeat } else { 0 };
            let from_us = (earliest, latest + last);
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
        "disk-loss" | "node-kill" | "node-pause" => {
            span.targets.iter().any(|target| target == node)
        }
        "process-stop" => span.targets.contains(&kubelet),
        "process-kill" => !span.undo.is_empty() && span.targets.contains(&kubelet),
        "partition" | "slow" => {
            let cut = |from: &str, to: &str| {
                span.targets.iter().filter_map(|target| parse_cut(target)).any(|cut| {
                    (span.fault == "partition" || cut.loses_all)
                        && ["all", "api"].contains(&cut.traffic)
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

/// Whether a fault lets everything through that a worker sends, and nothing that it is answered.
fn loses_answers_only(span: &FaultSpan<'_>, node: &str) -> bool {
    let sends = |target: &String| parse_cut(target).is_some_and(|cut| cut.from.contains(&node));
    span.fault == "partition" && !span.targets.iter().any(sends)
}

struct Cut<'a> {
    from: Vec<&'a str>,
    to: Vec<&'a str>,
    traffic: &'a str,
    /// Whether the weather there loses every packet.
    loses_all: bool,
}

/// `a, b -> c (all)`, as the fault `partition` names its targets; `slow` adds `, loss 100%` and more.
fn parse_cut(target: &str) -> Option<Cut<'_>> {
    let (from, rest) = target.split_once(" -> ")?;
    let (to, traffic) = rest.split_once(" (")?;
    let mut words = traffic.strip_suffix(')')?.split(", ");
    Some(Cut {
        from: from.split(", ").collect(),
        to: to.split(", ").collect(),
        traffic: words.next()?,
        loses_all: words.any(|word| word == "loss 100%"),
    })
}

/// When a node was first seen not Ready after this time, if it was Ready before.
pub(super) fn not_ready_after(scene: &Scene<'_>, node: &str, from_us: i64) -> Option<Instant> {
    let later = scene.changes(NODES, node).filter(|seen| seen.when.at_us > from_us);
    let mut down = later.filter(|seen| condition(seen.object, "Ready") != "True");
    down.next().map(|seen| seen.when)
}

/// Whether a node was Ready just before this time.
pub(super) fn was_ready(scene: &Scene<'_>, node: &str, at_us: i64) -> bool {
    let mut before = scene.changes(NODES, node).filter(|seen| seen.when.at_us <= at_us);
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
            && span.fault != WRONG_CLOCK
            && span.began().is_some_and(|(began, _)| began <= to_us)
            && span.over().is_none_or(|over| over >= from_us)
    });
    touched
        || is_deleted(scene, &silence.node, from_us, to_us)
        || scene.is_disturbed(from_us, to_us, silence.fault)
}

/// Whether the Node object was deleted in the interval: nobody marks a node that is not there.
fn is_deleted(scene: &Scene<'_>, node: &str, from_us: i64, to_us: i64) -> bool {
    scene
        .changes(NODES, node)
        .any(|seen| seen.change == Change::Deleted && (from_us..=to_us).contains(&seen.when.at_us))
}

#[cfg(test)]
mod tests {
    use shakedown_core::timeline::FaultPhase::{Applied, Planned, Proven, UndoLogged};

    use super::*;
    use crate::testing::{Tape, kill};

    #[test]
    fn the_targets_of_partitions_read_back() {
        let cut = parse_cut("cp-1 -> cp-2, cp-3 (api)").unwrap();
        assert_eq!((cut.from, cut.to, cut.traffic), (vec!["cp-1"], vec!["cp-2", "cp-3"], "api"));
        assert!(parse_cut("worker-1").is_none());
        let bad = parse_cut("worker-1 -> cp-1 (api, 50 ms late, loss 10%)").unwrap();
        assert_eq!((bad.traffic, bad.loses_all), ("api", false));
        assert!(parse_cut("worker-1 -> cp-1 (all, loss 100%)").unwrap().loses_all);
    }

    /// How many nodes this invariant judges after these faults, each with its target.
    fn judged(faults: &[(&str, &str)]) -> usize {
        let mut tape = Tape::new(kill());
        tape.at(1.0).node("worker-1", "True", &[]);
        for (at, (fault, target)) in faults.iter().enumerate() {
            for phase in [Planned, UndoLogged, Applied, Proven] {
                tape.at(100.0 + at as f64).fault(&format!("f{at}"), fault, phase, &[*target]);
            }
        }
        tape.at(140.0).node("worker-1", "Unknown", &[]);
        tape.at(300.0).checks_with("invariant/not-ready-window")
    }

    #[test]
    fn weather_silences_where_all_is_lost_and_a_wrong_clock_neither_silences_nor_disturbs() {
        let masters = "cp-1, cp-2, cp-3";
        let slow = |words: &str| judged(&[("slow", &format!("worker-1 -> {masters} ({words})"))]);
        assert_eq!(slow("api, loss 100%"), 1);
        assert_eq!(slow("all, 5000 ms late, loss 99%"), 0);
        assert_eq!(slow("etcd-peer, loss 100%"), 0);
        let lost = "worker-1 -> cp-1 (api, loss 100%)";
        assert_eq!(judged(&[("slow", lost)]), 0, "two API servers are left");
        assert_eq!(judged(&[("disk-loss", "worker-1")]), 1);
        assert_eq!(judged(&[("clock-skew", "worker-1")]), 0);
        assert_eq!(judged(&[("freeze-view", "worker-1/kubelet")]), 0);
        assert_eq!(judged(&[("node-kill", "worker-1"), ("clock-skew", "worker-1")]), 1);
        assert_eq!(judged(&[("node-kill", "worker-1"), ("clock-skew", "cp-1")]), 1);
        assert_eq!(judged(&[("node-kill", "worker-1"), ("freeze-view", "worker-1/kubelet")]), 0);
    }
}
