//! The pure core: which node a pod goes to, or why to none.

use std::collections::BTreeMap;
use std::fmt;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::plugins::{self, Plugin, Refusal};
use crate::{NodeInfo, PodInfo};

/// The nodes by name, with their pods.
pub type Snapshot = BTreeMap<String, NodeInfo>;

/// Why a pod fits no node. Shown in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FitError {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many nodes gave each reason; a node may give several.
    pub reasons: BTreeMap<String, usize>,
    /// On how many nodes no pod's going would help.
    pub beyond_preemption: usize,
}

impl fmt::Display for FitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.nodes;
        if nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut reasons: Vec<_> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        write!(f, "0/{nodes} nodes are available: {}. ", reasons.join(", "))?;
        let helpless = (self.beyond_preemption, "Preemption is not helpful for scheduling");
        let rest = (nodes - self.beyond_preemption, "No preemption victims found for incoming pod");
        let mut victims: Vec<_> = [helpless, rest]
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, reason)| format!("{count} {reason}"))
            .collect();
        victims.sort();
        write!(f, "preemption: 0/{nodes} nodes are available: {}.", victims.join(", "))
    }
}

/// In a cluster of fewer nodes all are looked at; of more, at least so many that fit are found.
const FITTING_MIN: usize = 100;

/// How many nodes that fit are enough to choose among: upstream's `percentageOfNodesToScore` as it is
/// when it is not set, which falls from 50 to 5 percent as the cluster grows.
fn enough(nodes: usize) -> usize {
    if nodes < FITTING_MIN {
        return nodes;
    }
    let percentage = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percentage / 100).max(FITTING_MIN)
}

/// Chooses a node for a pod: the one with the highest score among those that fit; between equals the
/// random stream decides.
pub fn schedule(
    pod: &PodInfo,
    snapshot: &Snapshot,
    random: &mut ChaCha8Rng,
) -> Result<String, FitError> {
    schedule_from(pod, snapshot, random, &mut String::new())
}

/// The same; a large cluster is looked at in parts. `start` is the node to begin with, then the one to
/// begin with next time, so that every node has its turn.
pub fn schedule_from(
    pod: &PodInfo,
    snapshot: &Snapshot,
    random: &mut ChaCha8Rng,
    start: &mut String,
) -> Result<String, FitError> {
    let filters = plugins::in_turn();
    let mut failed = FitError { nodes: 0, reasons: BTreeMap::new(), beyond_preemption: 0 };
    let mut fitting = Vec::new();
    let enough = enough(snapshot.len());
    let (before, after) = (snapshot.range(..start.clone()), snapshot.range(start.clone()..));
    let mut turn = after.chain(before).filter(|(_, node)| node.node.is_some());
    for (name, node) in turn.by_ref() {
        failed.nodes += 1;
        match filters.iter().find_map(|plugin| plugin.filter(pod, node)) {
            None => fitting.push((name, node)),
            Some(Refusal { reasons, is_final }) => {
                failed.beyond_preemption += usize::from(is_final);
                for reason in reasons {
                    *failed.reasons.entry(reason).or_default() += 1;
                }
            }
        }
        if fitting.len() >= enough {
            break;
        }
    }
    // In a small cluster all were looked at, and the next turn begins at the beginning again.
    *start = match turn.next() {
        Some((name, _)) if snapshot.len() >= FITTING_MIN => name.clone(),
        _ => String::new(),
    };
    let scores = scores(pod, &fitting, &filters);
    let Some(best) = scores.iter().copied().max() else { return Err(failed) };
    let winners: Vec<_> = (0..fitting.len()).filter(|place| scores[*place] == best).collect();
    let winner = if winners.len() == 1 {
        winners[0]
    } else {
        winners[random.random_range(0..winners.len())]
    };
    Ok(fitting[winner].0.clone())
}

/// The sum over all plugins of weight times score, where a score is between 0 and 100.
fn scores(pod: &PodInfo, nodes: &[(&String, &NodeInfo)], plugins: &[&dyn Plugin]) -> Vec<i64> {
    let mut total = vec![0; nodes.len()];
    for plugin in plugins {
        let mut scores: Vec<_> = nodes.iter().map(|(_, node)| plugin.score(pod, node)).collect();
        plugin.normalize(&mut scores);
        for (total, score) in total.iter_mut().zip(scores) {
            *total += plugin.weight() * score;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use machinery::Object;
    use rand::SeedableRng;
    use serde_json::{Value, json};

    use super::*;

    /// A node: name, cpu, then changes as (pointer, JSON).
    fn node(name: &str, cpu: &str, changes: &[(&str, Value)]) -> Object {
        let mut node = Object::new("v1", "Node", "", name);
        node.set("/status/allocatable", json!({"cpu": cpu, "memory": "8Gi", "pods": "3"}));
        node.set("/metadata/labels", json!({"kubernetes.io/hostname": name}));
        for (pointer, value) in changes {
            node.set(pointer, value.clone());
        }
        node
    }

    fn pod(name: &str, cpu: &str, changes: &[(&str, Value)]) -> PodInfo {
        let mut pod = Object::new("v1", "Pod", "default", name);
        let requests = if cpu.is_empty() { json!({}) } else { json!({"cpu": cpu}) };
        pod.set("/spec/containers", json!([{"name": "c", "resources": {"requests": requests}}]));
        for (pointer, value) in changes {
            pod.set(pointer, value.clone());
        }
        PodInfo::new(Arc::new(pod))
    }

    fn snapshot(nodes: &[Object]) -> Snapshot {
        nodes
            .iter()
            .map(|node| {
                let mut info = NodeInfo::default();
                info.set_node(Some(Arc::new(node.clone())));
                (node.name().to_owned(), info)
            })
            .collect()
    }

    fn random() -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(7)
    }

    #[track_caller]
    fn check(pod: &PodInfo, nodes: &[Object], expected: &str) {
        let answer = schedule(pod, &snapshot(nodes), &mut random());
        assert_eq!(answer.unwrap_or_else(|error| error.to_string()), expected);
    }

    fn taint(effect: &str) -> (&'static str, Value) {
        ("/spec/taints", json!([{"key": "hw", "value": "gpu", "effect": effect}]))
    }

    fn tolerating(value: &str) -> (&'static str, Value) {
        ("/spec/tolerations", json!([{"key": "hw", "value": value, "effect": "NoSchedule"}]))
    }

    fn affinity(kind: &str, terms: Value) -> (String, Value) {
        (format!("/spec/affinity/nodeAffinity/{kind}DuringSchedulingIgnoredDuringExecution"), terms)
    }

    fn exists(key: &str) -> Value {
        json!({"matchExpressions": [{"key": key, "operator": "Exists"}]})
    }

    #[test]
    fn a_large_cluster_is_looked_at_in_parts_and_every_node_has_its_turn() {
        for (nodes, expected) in [(5, 5), (99, 99), (100, 100), (1000, 420), (5000, 500)] {
            assert_eq!(enough(nodes), expected, "{nodes} nodes");
        }
        let nodes: Vec<_> = (0..400).map(|at| node(&format!("n{at:03}"), "4", &[])).collect();
        let (snapshot, mut random) = (snapshot(&nodes), random());
        let mut start = String::new();
        let mut starts = Vec::new();
        for _ in 0..4 {
            schedule_from(&pod("p", "1", &[]), &snapshot, &mut random, &mut start).unwrap();
            starts.push(start.clone());
        }
        assert_eq!(starts, ["n188", "n376", "n164", "n352"]);
        let refusal = schedule_from(&pod("p", "9", &[]), &snapshot, &mut random, &mut start);
        assert_eq!(
            refusal.unwrap_err().nodes,
            400,
            "all are asked before it is said to fit nowhere"
        );
    }

    #[test]
    fn no_node_at_all() {
        check(&pod("p", "1", &[]), &[], "no nodes available to schedule pods");
    }

    #[test]
    fn the_message_counts_reasons_as_upstream() {
        let nodes =
            [node("a", "1", &[taint("NoSchedule")]), node("b", "1", &[]), node("c", "500m", &[])];
        check(
            &pod("p", "2", &[]),
            &nodes,
            "0/3 nodes are available: 1 node(s) had untolerated taint {hw: gpu}, 2 Insufficient cpu. \
             preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
        );
    }

    #[test]
    fn taints_repel_and_tolerations_allow() {
        let tainted = node("a", "8", &[taint("NoSchedule")]);
        let refused = "0/1 nodes are available: 1 node(s) had untolerated taint {hw: gpu}. \
                       preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
        let nodes = std::slice::from_ref(&tainted);
        check(&pod("p", "1", &[]), nodes, refused);
        check(&pod("p", "1", &[tolerating("tpu")]), nodes, refused);
        check(&pod("p", "1", &[tolerating("gpu")]), nodes, "a");
        check(&pod("p", "1", &[]), &[node("a", "8", &[taint("NoExecute")])], refused);
        let soft = node("a", "8", &[taint("PreferNoSchedule")]);
        check(&pod("p", "1", &[]), std::slice::from_ref(&soft), "a");
        check(&pod("p", "1", &[]), &[soft, node("b", "4", &[])], "b");
    }

    #[test]
    fn cordoned_nodes_are_left_out() {
        let cordoned = node("a", "8", &[("/spec/unschedulable", json!(true))]);
        check(
            &pod("p", "1", &[]),
            std::slice::from_ref(&cordoned),
            "0/1 nodes are available: 1 node(s) were unschedulable. preemption: 0/1 nodes are \
             available: 1 Preemption is not helpful for scheduling.",
        );
        check(&pod("p", "1", &[]), &[cordoned, node("b", "1", &[])], "b");
    }

    #[test]
    fn node_selectors_and_affinity() {
        let ssd = node("a", "2", &[("/metadata/labels/disk", json!("ssd"))]);
        let nodes = [ssd, node("b", "8", &[])];
        check(&pod("p", "1", &[("/spec/nodeSelector", json!({"disk": "ssd"}))]), &nodes, "a");
        check(
            &pod("p", "3", &[("/spec/nodeSelector", json!({"disk": "ssd"}))]),
            &nodes,
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node \
             affinity/selector. preemption: 0/2 nodes are available: 2 Preemption is not helpful \
             for scheduling.",
        );
        let (pointer, terms) = affinity("required", json!({"nodeSelectorTerms": [exists("disk")]}));
        check(&pod("p", "1", &[(&pointer, terms)]), &nodes, "a");
        let (pointer, terms) =
            affinity("preferred", json!([{"weight": 50, "preference": exists("disk")}]));
        check(&pod("p", "100m", &[(&pointer, terms)]), &nodes, "a");
        let (pointer, terms) =
            affinity("preferred", json!([{"weight": 50, "preference": exists("gone")}]));
        check(&pod("p", "1", &[(&pointer, terms)]), &nodes, "b");
    }

    #[test]
    fn a_full_node_takes_no_more() {
        let mut snapshot = snapshot(&[node("a", "2", &[])]);
        let mut place = |name: &str, cpu: &str| {
            let pod = pod(name, cpu, &[]);
            let answer = schedule(&pod, &snapshot, &mut random());
            if let Ok(node) = &answer {
                snapshot.get_mut(node).unwrap().add(pod);
            }
            answer.unwrap_or_else(|error| error.to_string())
        };
        let refused = |reason: &str| {
            format!(
                "0/1 nodes are available: 1 {reason}. preemption: 0/1 nodes are available: \
                 1 No preemption victims found for incoming pod."
            )
        };
        assert_eq!(place("p1", "1500m"), "a");
        assert_eq!(place("p2", "600m"), refused("Insufficient cpu"));
        assert_eq!(place("p2", "500m"), "a");
        assert_eq!(place("p3", ""), "a");
        assert_eq!(place("p4", ""), refused("Too many pods"));
    }

    #[test]
    fn a_host_port_is_taken_once_per_node() {
        let port = |number: i64, address: &str| {
            ("/spec/containers", json!([{"ports": [{"hostPort": number, "hostIP": address}]}]))
        };
        let mut snapshot = snapshot(&[node("a", "2", &[])]);
        snapshot.get_mut("a").unwrap().add(pod("first", "", &[port(80, "10.0.0.1")]));
        for (wanted, fits) in [
            (port(80, ""), false),
            (port(80, "10.0.0.1"), false),
            (port(80, "10.0.0.2"), true),
            (port(81, ""), true),
        ] {
            let answer =
                schedule(&pod("p", "", std::slice::from_ref(&wanted)), &snapshot, &mut random());
            assert_eq!(answer.is_ok(), fits, "{wanted:?}: {answer:?}");
        }
    }

    #[test]
    fn equal_pods_spread_evenly_and_the_same_seed_chooses_the_same() {
        let spread = |seed: u64| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let pods_max = ("/status/allocatable/pods", json!("20"));
            let nodes =
                [node("a", "4", std::slice::from_ref(&pods_max)), node("b", "4", &[pods_max])];
            let mut snapshot = snapshot(&nodes);
            let mut chosen = Vec::new();
            for at in 0..10 {
                let pod = pod(&format!("p{at}"), "", &[]);
                let node = schedule(&pod, &snapshot, &mut random).unwrap();
                snapshot.get_mut(&node).unwrap().add(pod);
                chosen.push(node);
            }
            chosen
        };
        for seed in 0..20 {
            assert_eq!(spread(seed).iter().filter(|node| *node == "a").count(), 5);
            assert_eq!(spread(seed), spread(seed));
        }
        assert!((1..20).any(|seed| spread(seed) != spread(0)), "the seed decides between equals");
    }
}
