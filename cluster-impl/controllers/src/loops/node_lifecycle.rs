//! Watches the nodes' heartbeats: marks silent nodes Unknown, taints them, marks their pods not ready.
//!
//! ```yaml
//! # A node that stopped reporting, after the grace period and one more pass:
//! kind: Node
//! spec:
//!   taints:
//!   - {key: node.kubernetes.io/unreachable, effect: NoSchedule}
//!   - {key: node.kubernetes.io/unreachable, effect: NoExecute}
//! status:
//!   conditions:
//!   - {type: Ready, status: Unknown, reason: NodeStatusUnknown}
//! ```
//!
//! A heartbeat counts when this controller sees it, on its own monotonic clock; clocks of other
//! machines are never compared. So a new leader gives every node a fresh grace period.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apiclient::Informed;
use env::Sabotage;
use machinery::kinds::{LEASE, NODE, POD};
use machinery::{Condition, Kind, Object, ObjectKey, View, conditions};
use serde_json::{Value, json};

use crate::taints::{self, NO_EXECUTE, NO_SCHEDULE, NOT_READY, UNREACHABLE, UNSCHEDULABLE};
use crate::zones::{Turn, Zones, zone_of};
use crate::{Config, Controller, DecideCx, Decision, Key, Note, Write};

/// The periodic pass over all nodes.
const MONITOR: &str = "monitor";
/// The queue of one zone's nodes for their NoExecute taints.
const ZONE: &str = "zone";
/// A node that has just become not ready: its pods are to be marked.
const UNREADY: &str = "unready";
/// The namespace of the nodes' Leases.
const LEASES: &str = "kube-node-lease";
/// The conditions that a silent node no longer vouches for.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Conditions that become NoSchedule taints: type, status, taint.
const TAINTED: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// What is remembered of a node.
#[derive(Debug)]
struct Heard {
    uid: String,
    /// When a heartbeat was last seen.
    at: Duration,
    /// `renewTime` of the Lease last seen.
    lease: String,
    /// Whether its registration was told.
    told: bool,
}

/// The controller. It remembers when each node was last heard of, the zones' states and queues, and
/// which nodes were ready in the last pass.
pub struct NodeLifecycle {
    heard: BTreeMap<String, Heard>,
    zones: Zones,
}

impl NodeLifecycle {
    /// A controller that has heard of no node.
    pub fn new(_: &Config) -> Self {
        Self { heard: BTreeMap::new(), zones: Zones::default() }
    }

    fn node_changed(&mut self, change: &Informed, cx: &DecideCx<'_>) -> Vec<Key> {
        let name = &change.key.name;
        let Some(node) = &change.new else {
            self.heard.remove(name);
            self.zones.forget(name);
            return Vec::new();
        };
        let heartbeat = |node: &Arc<Object>| node.condition("Ready")?.get("lastHeartbeatTime").cloned();
        match self.heard.get_mut(name) {
            Some(heard) if heard.uid == node.uid() => {
                if heartbeat(node).is_some() && change.old.as_ref().and_then(heartbeat) != heartbeat(node) {
                    heard.at = cx.elapsed;
                }
            }
            _ => {
                let (uid, lease) = (node.uid().to_owned(), String::new());
                self.heard.insert(name.clone(), Heard { uid, at: cx.elapsed, lease, told: false });
            }
        }
        let is_same = |old: &Arc<Object>| {
            old.get("/spec") == node.get("/spec")
                && wanted_no_schedule(old) == wanted_no_schedule(node)
        };
        if change.old.as_ref().is_some_and(is_same) {
            return Vec::new();
        }
        vec![Key::of(&NODE, change.key.clone())]
    }

    fn lease_changed(&mut self, change: &Informed, cx: &DecideCx<'_>) {
        if change.key.namespace != LEASES {
            return;
        }
        let (Some(lease), Some(heard)) = (&change.new, self.heard.get_mut(&change.key.name)) else {
            return;
        };
        let renewed = lease.text("/spec/renewTime");
        if heard.lease != renewed {
            heard.lease = renewed.to_owned();
            heard.at = cx.elapsed;
            if cx.sabotaged(Sabotage::AnyLeaseCounts) {
                self.heard.values_mut().for_each(|heard| heard.at = cx.elapsed);
            }
        }
    }

    /// One pass over all nodes.
    fn monitor(&mut self, view: &View, cx: &DecideCx<'_>) -> Decision {
        let mut decision = Decision::default();
        let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        let mut groups = Vec::new();
        for node in view.all(&NODE) {
            let observed = readiness(node);
            let mut current = observed;
            let mut writes = Vec::new();
            if self.is_silent(node, cx)
                && let Some(updated) = unknown(node, cx)
            {
                writes.push(Write::UpdateStatus { kind: &NODE, object: updated });
                current = "Unknown";
            }
            writes.extend(self.no_execute(node, observed, cx));
            if observed == "True" && current != "True" {
                let message = format!("Node {} status is now: NodeNotReady", node.name());
                writes.push(Write::Event(Note::normal(node, "NodeNotReady", message)));
                decision.wake.push(Key::named(UNREADY, node.name()));
            }
            if !writes.is_empty() {
                groups.push(writes);
            }
            if node.label("node.kubernetes.io/exclude-disruption").is_none() {
                let (ready, not_ready) = counts.entry(zone_of(node)).or_default();
                *(if current == "True" { ready } else { not_ready }) += 1;
            }
        }
        if !groups.is_empty() {
            decision.writes.push(Write::Apart(groups));
        }
        let ignore_total_loss = cx.sabotaged(Sabotage::EvictOnFullDisruption);
        let mut config = cx.config.clone();
        if cx.sabotaged(Sabotage::PartialDisruptionIgnored) {
            config.unhealthy_zone_threshold = f64::INFINITY;
        }
        match self.zones.pass(&counts, cx.elapsed, &config, ignore_total_loss) {
            Turn::None => {}
            Turn::AllLost => {
                let swaps = view.all(&NODE).filter_map(|node| reachable(node, cx));
                decision.writes.push(Write::Apart(swaps.map(|write| vec![write]).collect()));
            }
            Turn::SomeBack => {
                for heard in self.heard.values_mut() {
                    heard.at = cx.elapsed;
                }
            }
        }
        decision.wake.extend(self.zones.waiting().map(|zone| Key::named(ZONE, zone)));
        decision.again(cx.config.node_monitor_period);
        decision
    }

    fn is_silent(&self, node: &Object, cx: &DecideCx<'_>) -> bool {
        let Some(heard) = self.heard.get(node.name()) else { return false };
        let mut grace = if node.condition("Ready").is_some() {
            cx.config.node_monitor_grace_period
        } else {
            cx.config.node_startup_grace_period
        };
        if cx.sabotaged(Sabotage::GracePeriodIgnored) {
            grace /= 2;
        }
        cx.elapsed.saturating_sub(heard.at) >= grace
    }

    /// Keeps the NoExecute taints right: takes them away and swaps them at once, but adds them only
    /// through the zone's queue, and only to a node that was not ready at the last pass already.
    fn no_execute(&mut self, node: &Arc<Object>, observed: &str, cx: &DecideCx<'_>) -> Option<Write> {
        // A node that has never reported is still starting.
        node.condition("Ready")?;
        let (wanted, other) = match observed {
            "True" => {
                self.zones.forget(node.name());
                return reachable(node, cx);
            }
            "False" => (NOT_READY, UNREACHABLE),
            _ => (UNREACHABLE, NOT_READY),
        };
        if taints::has(node, other, NO_EXECUTE) {
            let object = taints::swap(node, NO_EXECUTE, &[wanted], &[other], &cx.now_text())?;
            return Some(Write::Update { kind: &NODE, object });
        }
        if !taints::has(node, wanted, NO_EXECUTE) && !cx.sabotaged(Sabotage::NoExecuteNeverAdded) {
            self.zones.queue(&zone_of(node), node.name(), cx.elapsed, cx.config);
        }
        None
    }

    /// Taints the nodes of one zone as fast as its state allows.
    fn taint_zone(&mut self, view: &View, zone: &str, cx: &DecideCx<'_>) -> Decision {
        let mut decision = Decision::default();
        while let Some(name) = self.zones.first(zone).map(str::to_owned) {
            let node = view.get(&NODE, &ObjectKey::new("", &*name));
            let Some(node) = node.filter(|node| readiness(node) != "True") else {
                self.zones.forget(&name);
                continue;
            };
            if !self.zones.take(zone, cx.elapsed) {
                break;
            }
            let (wanted, other) = if readiness(node) == "False" {
                (NOT_READY, UNREACHABLE)
            } else {
                (UNREACHABLE, NOT_READY)
            };
            if let Some(object) = taints::swap(node, NO_EXECUTE, &[wanted], &[other], &cx.now_text()) {
                decision.writes.push(Write::Update { kind: &NODE, object });
            }
        }
        decision.again_after = self.zones.next_after(zone, cx.elapsed);
        decision
    }

    /// Keeps the NoSchedule taints equal to the conditions, and tells of a new node.
    fn reconcile_node(&mut self, view: &View, key: &ObjectKey, cx: &DecideCx<'_>) -> Decision {
        let mut decision = Decision::default();
        let Some(node) = view.get(&NODE, key) else { return decision };
        if let Some(heard) = self.heard.get_mut(&key.name).filter(|heard| !heard.told) {
            heard.told = true;
            let message =
                format!("Node {0} event: Registered Node {0} in Controller", node.name());
            decision.writes.push(Write::Event(Note::normal(node, "RegisteredNode", message)));
        }
        let wanted = wanted_no_schedule(node);
        let mut surplus: Vec<_> = TAINTED.iter().map(|(_, _, taint)| *taint).collect();
        surplus.push(UNSCHEDULABLE);
        surplus.retain(|taint| !wanted.contains(taint));
        if cx.sabotaged(Sabotage::TaintNeverRemoved) {
            surplus.retain(|taint| *taint != UNREACHABLE);
        }
        let swapped = taints::swap(node, NO_SCHEDULE, &wanted, &surplus, &cx.now_text());
        decision.writes.extend(swapped.map(|object| Write::Update { kind: &NODE, object }));
        decision
    }

    /// Marks the pods of a node that has become not ready, so that no traffic is sent to them.
    fn mark_pods(&self, view: &View, name: &str, cx: &DecideCx<'_>) -> Decision {
        let mut decision = Decision::default();
        if cx.sabotaged(Sabotage::LostPodsStayReady) {
            return decision;
        }
        let node = view.get(&NODE, &ObjectKey::new("", name));
        if node.is_none_or(|node| readiness(node) == "True" && !self.is_silent(node, cx)) {
            return decision;
        }
        for key in cx.index.pods_on(name) {
            let Some(pod) = view.get(&POD, key) else { continue };
            if pod.condition_status("Ready") != "True" {
                continue;
            }
            let mut object = Object::clone(pod);
            let condition = Condition { name: "Ready", status: "False", reason: "", message: "" };
            conditions::set(&mut object, condition, cx.now);
            decision.writes.push(Write::UpdateStatus { kind: &POD, object });
            let note = Note::warning(pod, "NodeNotReady", "Node is not ready");
            decision.writes.push(Write::Event(note));
        }
        decision
    }
}

impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-controller"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        vec![&LEASE, &NODE, &POD]
    }

    fn start(&mut self) -> Vec<Key> {
        vec![Key::named(MONITOR, "")]
    }

    fn changed(&mut self, _: &View, change: &Informed, cx: &DecideCx<'_>) -> Vec<Key> {
        if change.kind.id == NODE.id {
            return self.node_changed(change, cx);
        }
        if change.kind.id == LEASE.id {
            self.lease_changed(change, cx);
        }
        Vec::new()
    }

    fn decide(&mut self, view: &View, key: &Key, cx: &DecideCx<'_>) -> Decision {
        match key.what {
            MONITOR => self.monitor(view, cx),
            ZONE => self.taint_zone(view, &key.object.name, cx),
            UNREADY => self.mark_pods(view, &key.object.name, cx),
            _ => self.reconcile_node(view, &key.object, cx),
        }
    }
}

/// The status of the Ready condition; Unknown if there is none.
fn readiness(node: &Object) -> &str {
    match node.condition_status("Ready") {
        "" => "Unknown",
        status => status,
    }
}

/// The node with its NoExecute taints taken away, if it has any.
fn reachable(node: &Arc<Object>, cx: &DecideCx<'_>) -> Option<Write> {
    let gone: &[&str] = if cx.sabotaged(Sabotage::TaintNeverRemoved) {
        &[NOT_READY]
    } else {
        &[NOT_READY, UNREACHABLE]
    };
    let object = taints::swap(node, NO_EXECUTE, &[], gone, &cx.now_text())?;
    Some(Write::Update { kind: &NODE, object })
}

fn wanted_no_schedule(node: &Object) -> Vec<&'static str> {
    let mut wanted: Vec<_> = TAINTED
        .iter()
        .filter(|(condition, status, _)| node.condition_status(condition) == *status)
        .map(|(_, _, taint)| *taint)
        .collect();
    if node.flag("/spec/unschedulable") {
        wanted.push(UNSCHEDULABLE);
    }
    wanted
}

/// The silent node with its conditions set to Unknown; `None` if they are so already.
fn unknown(node: &Object, cx: &DecideCx<'_>) -> Option<Object> {
    let now = cx.now_text();
    let mut conditions = node.list("/status/conditions").to_vec();
    let before = conditions.clone();
    for name in REPORTED {
        match conditions.iter_mut().find(|condition| condition["type"] == name) {
            Some(known) if known["status"] == "Unknown" => {}
            Some(known) => {
                known["status"] = "Unknown".into();
                known["reason"] = "NodeStatusUnknown".into();
                known["message"] = "Kubelet stopped posting node status.".into();
                known["lastTransitionTime"] = now.as_str().into();
            }
            None => conditions.push(json!({
                "type": name, "status": "Unknown", "reason": "NodeStatusNeverUpdated",
                "message": "Kubelet never posted node status.",
                "lastHeartbeatTime": node.text("/metadata/creationTimestamp"),
                "lastTransitionTime": now,
            })),
        }
    }
    (conditions != before).then(|| {
        let mut node = node.clone();
        node.set("/status/conditions", Value::Array(conditions));
        node
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    fn world(text: &str) -> World {
        World::new(|config| Box::new(NodeLifecycle::new(config)), text)
    }

    /// Nodes that are ready.
    fn ready(names: &[&str]) -> String {
        names.iter().map(|name| format!("node/{name} ready=True;")).collect()
    }

    fn renewed(world: &mut World, names: &[&str], second: u64) {
        for name in names {
            let renewed = format!("/spec/renewTime=\"{second}\"");
            world.see(&format!("lease/{name} ns=kube-node-lease {renewed}"));
        }
    }

    /// Runs to a second while the named nodes renew their leases every 10 s.
    fn run(world: &mut World, (from, to): (u64, u64), alive: &[&str]) -> String {
        let mut log = String::new();
        for second in (from..to).filter(|second| second % 10 == 0) {
            log += &world.run_to(second);
            renewed(world, alive, second);
        }
        log + &world.run_to(to)
    }

    /// What was done about taints and conditions.
    fn shown(log: &str) -> String {
        let lines = log.lines().filter(|line| !line.contains("RegisteredNode"));
        lines.map(str::trim).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_silent_node_is_marked_then_tainted_one_pass_later() {
        let mut world = world(&(ready(&["a", "b", "c"]) + "pod/p node=a ready=True; pod/q node=b ready=True"));
        let all = ["a", "b", "c"];
        assert_eq!(shown(&run(&mut world, (0, 101), &all)), "", "a healthy cluster is left alone");
        // The last heartbeat of a was at 100.
        insta::assert_snapshot!(shown(&run(&mut world, (101, 200), &["b", "c"])), @r"
        140 status nodes/a Ready=Unknown
        140 event NodeNotReady a
        140 update nodes/a [unreachable:NoSchedule]
        140 status pods/p Ready=False
        140 event NodeNotReady p
        145 update nodes/a [unreachable:NoSchedule unreachable:NoExecute]
        ");
        world.see("node/a ready=True");
        insta::assert_snapshot!(shown(&run(&mut world, (200, 250), &all)), @r"
        200 update nodes/a [unreachable:NoExecute]
        205 update nodes/a []
        ");
    }

    #[test]
    fn heartbeats_count_when_they_are_seen() {
        let mut world = world(&ready(&["a", "b", "c"]));
        run(&mut world, (0, 101), &["a", "b", "c"]);
        // a goes on with node status alone; b's lease carries a time of long ago, but a new one.
        let mut log = String::new();
        for second in (110..300).step_by(10) {
            log += &world.run_to(second);
            renewed(&mut world, &["c"], second);
            renewed(&mut world, &["b"], 1000 - second);
            world.see("node/a ready=True");
        }
        assert_eq!(shown(&log), "");
        // The same renewTime again is no heartbeat.
        for second in (300..400).step_by(10) {
            log += &world.run_to(second);
            renewed(&mut world, &["a", "c"], second);
            renewed(&mut world, &["b"], 5);
        }
        assert!(log.contains("340 status nodes/b Ready=Unknown"), "{log}");
    }

    #[test]
    fn a_new_leader_gives_every_node_a_fresh_grace_period() {
        let mut world = world(&ready(&["a", "b", "c"]));
        run(&mut world, (0, 10), &["a", "b", "c"]);
        let mut world = self::world("node/a ready=True@-900s; node/b ready=True; node/c; \
            lease/a ns=kube-node-lease /spec/renewTime=\"2023\"");
        insta::assert_snapshot!(shown(&run(&mut world, (0, 70), &["b"])), @r"
        40 status nodes/a Ready=Unknown
        40 event NodeNotReady a
        40 update nodes/a [unreachable:NoSchedule]
        45 update nodes/a [unreachable:NoSchedule unreachable:NoExecute]
        60 status nodes/c Ready=Unknown
        60 update nodes/c [unreachable:NoSchedule]
        65 update nodes/c [unreachable:NoSchedule unreachable:NoExecute]
        ");
    }

    #[test]
    fn a_node_that_says_it_is_not_ready_is_tainted_so() {
        let mut world = world(&ready(&["a", "b", "c"]));
        run(&mut world, (0, 11), &["a", "b", "c"]);
        world.see("node/a ready=False");
        insta::assert_snapshot!(shown(&run(&mut world, (11, 30), &["a", "b", "c"])), @r"
        11 update nodes/a [not-ready:NoSchedule]
        15 update nodes/a [not-ready:NoSchedule not-ready:NoExecute]
        ");
        insta::assert_snapshot!(shown(&run(&mut world, (30, 80), &["b", "c"])), @r"
        60 status nodes/a Ready=Unknown
        60 update nodes/a [not-ready:NoExecute unreachable:NoSchedule]
        65 update nodes/a [unreachable:NoSchedule unreachable:NoExecute]
        ");
    }

    #[test]
    fn a_cordoned_node_carries_the_taint() {
        let mut world = world(&ready(&["a"]));
        world.run_to(0);
        world.see("node/a /spec/unschedulable=true");
        insta::assert_snapshot!(shown(&world.run_to(0)), @"0 update nodes/a [unschedulable:NoSchedule]");
        world.see("node/a /spec/unschedulable=false");
        insta::assert_snapshot!(shown(&world.run_to(0)), @"0 update nodes/a []");
        world.see("node/a taint=mine:NoSchedule");
        assert_eq!(shown(&world.run_to(0)), "", "other taints are not touched");
    }

    /// Kills nodes after second 100 and shows at which second which got its NoExecute taint by 200.
    fn tainted(all: &[&str], dead: &[&str], sabotages: &[Sabotage]) -> Vec<String> {
        let mut world = world(&ready(all));
        world.sabotages = sabotages.to_vec();
        run(&mut world, (0, 101), all);
        let alive: Vec<_> = all.iter().filter(|name| !dead.contains(name)).copied().collect();
        let log = run(&mut world, (101, 200), &alive);
        log.lines().filter(|line| line.contains(":NoExecute")).map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            format!("{} {}", words[0], words[2])
        }).collect()
    }

    #[test]
    fn taints_are_rationed_by_the_state_of_the_zone() {
        let five = ["a", "b", "c", "d", "e"];
        assert_eq!(tainted(&five, &["a"], &[]), ["145 nodes/a"]);
        assert_eq!(tainted(&five, &["a", "b"], &[]), ["145 nodes/a", "155 nodes/b"]);
        assert_eq!(tainted(&five, &["a", "b", "c"], &[]), [""; 0], "partial disruption, small cluster");
        assert_eq!(tainted(&["a", "b", "c"], &["a", "b", "c"], &[]), [""; 0], "full disruption");
        let planted = [Sabotage::EvictOnFullDisruption];
        assert_eq!(tainted(&["a", "b"], &["a", "b"], &planted), ["145 nodes/a", "155 nodes/b"]);
        assert_eq!(tainted(&five, &["a"], &[Sabotage::GracePeriodIgnored]), ["125 nodes/a"]);
    }

    #[test]
    fn when_all_nodes_are_lost_taints_go_and_afterwards_each_gets_a_fresh_start() {
        let all = ["a", "b", "c"];
        let mut world = world(&ready(&all));
        run(&mut world, (0, 101), &all);
        run(&mut world, (101, 121), &["b", "c"]);
        insta::assert_snapshot!(shown(&run(&mut world, (121, 300), &[])), @r"
        140 status nodes/a Ready=Unknown
        140 event NodeNotReady a
        140 update nodes/a [unreachable:NoSchedule]
        145 update nodes/a [unreachable:NoSchedule unreachable:NoExecute]
        160 status nodes/b Ready=Unknown
        160 event NodeNotReady b
        160 status nodes/c Ready=Unknown
        160 event NodeNotReady c
        160 update nodes/a [unreachable:NoSchedule]
        160 update nodes/b [unreachable:NoSchedule]
        160 update nodes/c [unreachable:NoSchedule]
        ");
        world.see("node/a ready=True; node/b ready=True; node/c ready=True");
        insta::assert_snapshot!(shown(&run(&mut world, (300, 400), &all)), @r"
        300 update nodes/a []
        300 update nodes/b []
        300 update nodes/c []
        ");
    }

    #[test]
    fn the_planted_defect_leaves_the_taint() {
        let mut world = world("node/a ready=True taint=node.kubernetes.io/unreachable:NoExecute; node/b ready=True");
        world.sabotages = vec![Sabotage::TaintNeverRemoved];
        assert_eq!(shown(&run(&mut world, (0, 30), &["a", "b"])), "");
        world.sabotages.clear();
        assert_eq!(shown(&run(&mut world, (30, 40), &["a", "b"])), "35 update nodes/a []");
    }
}
