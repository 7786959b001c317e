//! How much of each zone was lost when, and how fast its nodes may be given up then.
//!
//! As upstream's `handleDisruption`: a zone is disrupted in part when more than two of its nodes, and at
//! least the threshold's share, are not Ready. Nodes of a large one then get their NoExecute taints at
//! the secondary rate, those of a small one not at all. A zone that is lost as a whole goes on at the
//! normal rate, unless every zone is lost: then nobody is tainted.

use std::collections::{BTreeMap, BTreeSet};

use shakedown_core::target::Role;
use shakedown_core::timeline::Change;

use crate::scene::{Instant, NODES, Scene, Seen, condition, text};

/// `--node-eviction-rate` is 0.1 a second: one node every ten seconds.
pub(super) const EVICTION_PERIOD_US: i64 = 10_000_000;
/// `--secondary-node-eviction-rate` is 0.01 a second.
const SECONDARY_PERIOD_US: i64 = 100_000_000;
/// `--large-cluster-size-threshold`
const LARGE: usize = 50;
/// `--unhealthy-zone-threshold`
const UNHEALTHY: f64 = 0.55;
/// So many lost nodes disrupt no zone in part.
const FEW: usize = 2;

/// How many nodes are Ready, and how many are not.
type Count = (usize, usize);

/// The states of all zones, over the whole scenario.
#[derive(Debug, Default)]
pub(super) struct Zones<'a> {
    /// The zone of each node, by its labels.
    of: BTreeMap<&'a str, String>,
    /// The changes of each zone's count, in the timeline's order.
    counts: BTreeMap<String, Vec<(Instant, Count)>>,
    /// The changes of the count of all nodes.
    all: Vec<(Instant, Count)>,
}

impl<'a> Zones<'a> {
    /// Reads the history of the workers.
    pub(super) fn of(scene: &'a Scene<'_>) -> Self {
        let workers: BTreeSet<String> = scene.names(Role::Worker).into_iter().collect();
        let mut zones = Self::default();
        let mut ready: BTreeMap<&str, bool> = BTreeMap::new();
        for seen in scene.of_kind(NODES).iter().filter(|seen| workers.contains(&seen.key)) {
            let name = seen.key.as_str();
            let is_ready = condition(seen.object, "Ready") == "True";
            let before = match seen.change {
                Change::Deleted => ready.remove(name),
                _ => ready.insert(name, is_ready),
            };
            let now = ready.get(name).copied();
            let zone = zone_of(seen);
            if before == now && zones.of.get(name) == Some(&zone) {
                continue;
            }
            zones.of.insert(name, zone.clone());
            let of = &zones.of;
            let inside = ready.iter().filter(|(name, _)| of.get(*name) == Some(&zone));
            let count = count(inside.map(|(_, is_ready)| *is_ready));
            zones.counts.entry(zone).or_default().push((seen.when, count));
            zones.all.push((seen.when, self::count(ready.values().copied())));
        }
        zones
    }

    /// Whether two nodes are in one zone.
    pub(super) fn are_together(&self, one: &str, other: &str) -> bool {
        self.of.get(one) == self.of.get(other)
    }

    /// Whether every node was lost at some time in the interval.
    pub(super) fn were_all_lost(&self, from_us: i64, to_us: i64) -> bool {
        in_force(&self.all, from_us, to_us).any(is_lost)
    }

    /// The longest time that was between two taints in the zone of a node at any time in the interval;
    /// `None` if for some of it no node was to be tainted.
    pub(super) fn period_us(&self, node: &str, from_us: i64, to_us: i64) -> Option<i64> {
        if self.were_all_lost(from_us, to_us) {
            return None;
        }
        let counts = self.of.get(node).and_then(|zone| self.counts.get(zone));
        let counts = counts.map_or(&[][..], Vec::as_slice);
        let mut longest = EVICTION_PERIOD_US;
        for (ready, lost) in in_force(counts, from_us, to_us) {
            if !is_lost_in_part((ready, lost)) {
                continue;
            }
            if ready + lost <= LARGE {
                return None;
            }
            longest = SECONDARY_PERIOD_US;
        }
        Some(longest)
    }
}

fn zone_of(node: &Seen<'_>) -> String {
    let label =
        |name: &str| text(node.object, &format!("/metadata/labels/topology.kubernetes.io~1{name}"));
    format!("{}:{}", label("region"), label("zone"))
}

fn count(ready: impl Iterator<Item = bool>) -> Count {
    ready.fold((0, 0), |(ready, lost), is_ready| match is_ready {
        true => (ready + 1, lost),
        false => (ready, lost + 1),
    })
}

fn is_lost((ready, lost): Count) -> bool {
    ready == 0 && lost > 0
}

fn is_lost_in_part((ready, lost): Count) -> bool {
    ready > 0 && lost > FEW && lost as f64 >= UNHEALTHY * (ready + lost) as f64
}

/// The counts that were in force at some time in the interval, or may have been.
fn in_force(
    counts: &[(Instant, Count)],
    from_us: i64,
    to_us: i64,
) -> impl Iterator<Item = Count> + '_ {
    let ends = counts.iter().skip(1).map(|(when, _)| when.at_us).chain([i64::MAX]);
    let spans = counts.iter().zip(ends);
    spans
        .filter(move |((when, _), end)| when.earliest() <= to_us && *end >= from_us)
        .map(|((_, count), _)| *count)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Tape, kill};

    const STEP: i64 = 1_000_000;

    /// The period of the first node's zone from 10 s to 20 s. Each node: its zone, and at which second
    /// it is lost, if it is.
    fn period(nodes: &[(&str, Option<f64>)]) -> Option<i64> {
        let names: Vec<_> = (1..=nodes.len()).map(|at| format!("worker-{at}")).collect();
        let mut tape = Tape::new(kill());
        tape.workers(&names);
        for (name, (zone, _)) in names.iter().zip(nodes) {
            tape.at(1.0).node_in(name, "True", zone);
        }
        let mut lost: Vec<_> = names
            .iter()
            .zip(nodes)
            .filter_map(|(n, (z, at))| Some((*at.as_ref()?, n, z)))
            .collect();
        lost.sort_by(|one, other| one.0.total_cmp(&other.0));
        for (at, name, zone) in lost {
            tape.at(at).node_in(name, "Unknown", zone);
        }
        let (plan, timeline) = tape.at(60.0).finish();
        let scene = Scene::of(&plan, &timeline).unwrap();
        Zones::of(&scene).period_us("worker-1", 10 * STEP, 20 * STEP)
    }

    #[test]
    fn a_zone_is_judged_by_its_own_nodes() {
        let (gone, there) = (Some(5.0), None);
        let both = |one: &[Option<f64>], other: &[Option<f64>]| {
            let zones = one.iter().map(|at| ("a", *at)).chain(other.iter().map(|at| ("b", *at)));
            period(&zones.collect::<Vec<_>>())
        };
        let normal = Some(EVICTION_PERIOD_US);
        assert_eq!(both(&[gone, there, there], &[there]), normal);
        assert_eq!(both(&[gone, gone, there], &[there; 3]), normal, "two are few");
        assert_eq!(both(&[gone, gone, gone, there], &[there; 9]), None, "most of a small zone");
        assert_eq!(both(&[gone, gone, gone, there, there, there], &[]), normal, "half of it");
        assert_eq!(both(&[gone; 3], &[there]), normal, "all of one zone");
        assert_eq!(both(&[gone; 3], &[gone]), None, "all there is");
        assert_eq!(both(&[there; 2], &[gone, gone, gone, there]), normal, "the other zone");
        assert_eq!(both(&[gone; 3], &[gone, gone, gone, there]), normal, "the other in part");
    }

    #[test]
    fn a_large_zone_slows_down() {
        let nodes = |lost: usize| {
            let at = |place: usize| (place < lost).then_some(5.0);
            (0..51).map(|place| ("a", at(place))).collect::<Vec<_>>()
        };
        assert_eq!(period(&nodes(28)), Some(EVICTION_PERIOD_US));
        assert_eq!(period(&nodes(29)), Some(SECONDARY_PERIOD_US));
    }

    #[test]
    fn what_was_before_or_after_the_interval_does_not_count() {
        for (second, expected) in [(19.0, None), (21.0, Some(EVICTION_PERIOD_US))] {
            let nodes: Vec<_> = [Some(second); 3].into_iter().chain([None]).collect();
            let nodes: Vec<_> = nodes.into_iter().map(|at| ("a", at)).collect();
            assert_eq!(period(&nodes), expected, "{second}");
        }
        let mut tape = Tape::new(kill());
        for node in ["worker-1", "worker-2", "worker-3"] {
            tape.at(1.0).node(node, "Unknown", &[]);
            tape.at(9.0).node(node, "True", &[]);
        }
        tape.put_node(json!({"metadata": {"name": "stranger"}, "status": {}}));
        let (plan, timeline) = tape.at(60.0).finish();
        let scene = Scene::of(&plan, &timeline).unwrap();
        let zones = Zones::of(&scene);
        assert_eq!(zones.period_us("worker-1", 10 * STEP, 20 * STEP), Some(EVICTION_PERIOD_US));
        assert_eq!(zones.period_us("worker-1", 8 * STEP, 20 * STEP), None);
        assert!(
            zones.were_all_lost(2 * STEP, 3 * STEP) && !zones.were_all_lost(10 * STEP, i64::MAX)
        );
    }
}
