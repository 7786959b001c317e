//! How each kind of fault is drawn: on whom, with which fields. One row for each kind of the registry.
//!
//! A row also says what the fault takes away, so that faults are combined only where each can still be
//! proven and healed: a fault whose proof needs an answer is not drawn into a silence.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use shakedown_core::fault::FaultKind;
use shakedown_core::lever::LeverKind;

use super::ground::Ground;
use crate::draw::Draw;

/// What a fault touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// One worker, by number; nothing of the API is needed to inject or heal it.
    Worker(u64),
    /// One worker, by number, and whatever it talks to: that must stay up to bear witness.
    Link(u64),
    /// One worker, by number, that is cut off from the control planes: their kernels drop packets.
    Cut(u64),
    /// Every worker, cut off from the control planes.
    Workers,
    /// Something of the control plane; requests are still answered somewhere.
    Plane,
    /// A control-plane node that loses power, and whatever its kernel knew; as before otherwise.
    Fall,
    /// The control plane, so that nothing is answered.
    Quorum,
    /// Objects, through the API.
    Api,
    /// The Node object of a worker, by number, through the API.
    Node(u64),
    /// A running container, of which the API is asked.
    Container,
}

/// A drawn fault step, without its name and end.
#[derive(Debug, Clone)]
pub(crate) struct Drawn {
    /// The fields of the step.
    pub fields: Map<String, Value>,
    /// What it touches.
    pub side: Side,
    /// Whether it lasts until it is ended.
    pub holds: bool,
    /// How long it must last at least, so that what it waits for can happen; in milliseconds.
    pub least: u64,
    /// Whether objects must change meanwhile, or it waits for nothing.
    pub needs_change: bool,
}

impl Drawn {
    fn of(fields: Value, side: Side, holds: bool) -> Option<Self> {
        let Value::Object(fields) = fields else { return None };
        Some(Self { fields, side, holds, least: 0, needs_change: false })
    }

    /// One that comes to something only if it lasts so long.
    fn at_least(self, least: u64) -> Self {
        Self { least, ..self }
    }
}

/// What a draw may choose from.
pub(crate) struct Free<'a> {
    /// The cluster.
    pub ground: &'a Ground,
    /// Workers that no other fault touches, by number.
    pub workers: &'a [u64],
    /// Whether no member of etcd has lost its disk yet.
    pub may_lose_disk: bool,
}

type Recipe = fn(&mut Draw, &Free<'_>) -> Option<Drawn>;

/// A row for each kind of fault, in order of name.
const RECIPES: &[(&str, Recipe)] = &[
    ("clock-skew", clock_skew),
    ("container-kill", container_kill),
    ("cordon", cordon),
    ("crash-at-write", crash_at_write),
    ("disk-loss", disk_loss),
    ("etcd-compact", etcd_compact),
    ("etcd-leader-move", etcd_leader_move),
    ("freeze-view", freeze_view),
    ("hold-events", hold_events),
    ("node-kill", node_kill),
    ("node-pause", node_pause),
    ("node-restart", node_restart),
    ("partition", partition),
    ("pod-delete", pod_delete),
    ("process-kill", process_kill),
    ("process-stop", process_stop),
    ("reset-connections", reset_connections),
    ("rewind", rewind),
    ("slow", slow),
    ("taint", taint),
    ("taint-noexecute", taint_noexecute),
];

/// The kinds of fault that can be drawn for a target with these abilities: of those it can do, the
/// ones with a row.
pub fn drawable(abilities: &BTreeSet<LeverKind>) -> Vec<&'static str> {
    let can = |kind: &&FaultKind| kind.needs.iter().all(|need| abilities.contains(need));
    let kinds = shakedown_faults::ALL.iter().filter(can).map(|kind| kind.name);
    kinds.filter(|name| RECIPES.iter().any(|(known, _)| known == name)).collect()
}

/// Draws a fault of a kind; `None` if nobody can suffer it here.
pub(crate) fn draw(kind: &str, random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    let (_, recipe) = RECIPES.iter().find(|(known, _)| *known == kind)?;
    let mut drawn = recipe(random, free)?;
    drawn.fields.insert("fault".to_owned(), kind.into());
    Some(drawn)
}

fn worker(random: &mut Draw, free: &Free<'_>) -> Option<(String, Side)> {
    let number = *(!free.workers.is_empty()).then(|| random.one(free.workers))?;
    Some((format!("worker-{number}"), Side::Worker(number)))
}

/// A worker's Node object: a change of one is proven beside an untouched one.
fn node_object(random: &mut Draw, free: &Free<'_>) -> Option<(String, Side)> {
    let (name, side) = (free.ground.workers > 1).then(|| worker(random, free))??;
    let Side::Worker(number) = side else { return None };
    Some((name, Side::Node(number)))
}

/// A control-plane node, or several, and what their loss takes away.
fn plane(random: &mut Draw, free: &Free<'_>) -> (String, Side) {
    let count = free.ground.control_planes;
    if count == 1 {
        return ("cp-1".to_owned(), Side::Quorum);
    }
    let number = random.between(1, count);
    let roles = [
        format!("cp-{number}"),
        "leader of etcd".to_owned(),
        "follower of etcd".to_owned(),
        "leader of kube-controller-manager".to_owned(),
        "leader of kube-scheduler".to_owned(),
        "a minority of etcd".to_owned(),
    ];
    if random.chance(16) {
        return ("a majority of etcd".to_owned(), Side::Quorum);
    }
    (random.one(&roles).clone(), Side::Plane)
}

/// A worker or a control-plane node.
fn node(random: &mut Draw, free: &Free<'_>) -> Option<(String, Side)> {
    if random.chance(60) { worker(random, free) } else { Some(plane(random, free)) }
}

/// The same of a fault that takes the power.
fn falling((name, side): (String, Side)) -> (String, Side) {
    (name, if side == Side::Plane { Side::Fall } else { side })
}

fn container_kill(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    let (deployment, _) = random.one(&free.ground.deployments);
    let on = format!("any pod of deployment/{deployment}");
    Drawn::of(json!({"on": on}), Side::Container, false)
}

fn clock_skew(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    let (on, side) = match node(random, free)? {
        (_, Side::Quorum) => ("cp-1".to_owned(), Side::Plane),
        (on, Side::Worker(number)) => (on, Side::Link(number)),
        other => other,
    };
    // Less than 2 s and less than 10 % cannot be told in stamps.
    let mut fields = json!({"on": on});
    let goes = random.below(4);
    if goes > 0 {
        fields["offset"] = (*random.one(&["-5m", "-30s", "-2s", "2s", "30s", "5m"])).into();
    }
    match goes {
        // Alone it is seen only once the clock is off by a second.
        0 => fields["rate"] = (*random.one(&["-50%", "+30%", "+50%"])).into(),
        1 => fields["rate"] = (*random.one(&["-20%", "-10%", "+10%", "+20%"])).into(),
        _ => {}
    }
    Drawn::of(fields, side, true)
}

/// What may be meddled with: a component, a kind of object that it hears of, and whether it hears of it
/// without anything being changed.
struct Ear {
    component: &'static str,
    kind: &'static str,
    is_busy: bool,
}

const fn ear(component: &'static str, kind: &'static str, is_busy: bool) -> Ear {
    Ear { component, kind, is_busy }
}

const LEASES: &str = "leases.coordination.k8s.io";
const CONTROLLERS: &str = "kube-controller-manager";
const SCHEDULER: &str = "kube-scheduler";
const KUBELET: &str = "kubelet";

/// What components hear.
const HEARD: &[Ear] = &[
    ear(CONTROLLERS, "pods", false),
    ear(CONTROLLERS, "replicasets.apps", false),
    ear(CONTROLLERS, "deployments.apps", false),
    ear(CONTROLLERS, LEASES, true),
    ear(SCHEDULER, "pods", false),
];

/// What components write.
const WRITTEN: &[Ear] = &[
    ear(CONTROLLERS, "pods", false),
    ear(CONTROLLERS, "replicasets.apps", false),
    ear(CONTROLLERS, LEASES, true),
    ear(SCHEDULER, LEASES, true),
    ear(SCHEDULER, "pods", false),
    ear(KUBELET, LEASES, true),
];

/// A fault in the conversation of a component, with fields of its own. What is meddled with lasts so
/// long that even a slow heartbeat comes twice.
fn meddling(
    random: &mut Draw,
    free: &Free<'_>,
    of: &[Ear],
    own: impl Fn(&mut Draw, &Ear) -> Value,
) -> Option<Drawn> {
    let ear = random.one(of);
    let (on, side) = match ear.component {
        KUBELET => match worker(random, free)? {
            (on, Side::Worker(number)) => (on, Side::Link(number)),
            _ => return None,
        },
        component => (format!("leader of {component}"), Side::Plane),
    };
    let mut fields = own(random, ear);
    fields["on"] = on.into();
    fields["component"] = ear.component.into();
    fields["kind"] = ear.kind.into();
    let least = if ear.is_busy { free.ground.noticed_after + 3000 } else { 8000 };
    let drawn = Drawn::of(fields, side, true)?.at_least(least);
    Some(Drawn { needs_change: !ear.is_busy, ..drawn })
}

fn crash_at_write(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    meddling(random, free, WRITTEN, |random, ear| {
        // A small Deployment writes few pods, and each renewal of a Lease takes a heartbeat.
        let nth = if ear.kind == "replicasets.apps" { 1 } else { random.between(1, 2) };
        json!({"nth": nth, "done": random.chance(50)})
    })
}

/// A member whose disk the others can do without.
fn disk_loss(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    let (on, side) = if free.ground.control_planes > 2 && free.may_lose_disk && random.chance(50) {
        let number = random.between(1, free.ground.control_planes);
        let roles =
            [format!("cp-{number}"), "leader of etcd".to_owned(), "follower of etcd".to_owned()];
        (random.one(&roles).clone(), Side::Fall)
    } else {
        worker(random, free)?
    };
    Drawn::of(json!({"on": on}), side, true)
}

fn etcd_compact(_: &mut Draw, _: &Free<'_>) -> Option<Drawn> {
    Drawn::of(json!({}), Side::Plane, false)
}

fn etcd_leader_move(_: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    let others = free.ground.control_planes > 1;
    others.then(|| Drawn::of(json!({"on": "follower of etcd"}), Side::Plane, false))?
}

fn freeze_view(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    // Whoever sees nothing new does nothing new: the rest of a storm would be calm.
    if !random.chance(25) {
        return None;
    }
    meddling(random, free, HEARD, |random, _| json!({"nth": random.between(1, 2)}))
}

fn hold_events(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    meddling(random, free, HEARD, |random, _| json!({"by": random.one(&["500ms", "1s", "3s"])}))
}

fn reset_connections(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    let (who, Side::Worker(number)) = worker(random, free)? else { return None };
    let fields = json!({"between": [who, "the control plane"], "traffic": "api"});
    Drawn::of(fields, Side::Link(number), false)
}

fn rewind(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    meddling(random, free, HEARD, |random, ear| {
        let most = if ear.kind == "pods" { 4 } else { 2 };
        json!({"nth": random.between(1, most), "back": random.between(1, 4)})
    })
}

/// Bad weather, of which each kind can be told from no weather in time.
fn slow(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    let peers = free.ground.control_planes > 2 && random.chance(50);
    let (one, other, traffic, side) = if peers {
        let one = *random.one(&["leader of etcd", "follower of etcd"]);
        (one.to_owned(), "the other members of etcd", "etcd-peer", Side::Plane)
    } else {
        let (who, Side::Worker(number)) = worker(random, free)? else { return None };
        (who, "the control plane", "api", Side::Link(number))
    };
    let mut fields = match random.below(4) {
        0 => json!({"from": one, "to": other}),
        1 => json!({"from": other, "to": one}),
        _ => json!({"between": [one, other]}),
    };
    fields["traffic"] = traffic.into();
    let weather: Value = match random.below(5) {
        0 => json!({"latency": random.one(&["20ms", "50ms", "100ms", "200ms"])}),
        1 => {
            json!({"latency": random.one(&["20ms", "50ms"]), "jitter": random.one(&["20ms", "50ms"])})
        }
        2 => json!({"loss": random.one(&["10%", "20%", "50%"])}),
        3 => json!({"latency": "20ms", "loss": random.one(&["10%", "30%"])}),
        _ => json!({"latency": "50ms", "reorder": random.one(&["10%", "25%"])}),
    };
    for (name, value) in weather.as_object().into_iter().flatten() {
        fields[name.as_str()] = value.clone();
    }
    Drawn::of(fields, side, true)
}

fn cordon(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    let (on, side) = node_object(random, free)?;
    Drawn::of(json!({"on": on}), side, true)
}

fn node_kill(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    let (on, side) = falling(node(random, free)?);
    Drawn::of(json!({"on": on}), side, true)
}

fn node_pause(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    let (on, side) = node(random, free)?;
    Drawn::of(json!({"on": on}), side, true)
}

fn node_restart(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    let (on, side) = falling(node(random, free)?);
    let down = *random.one(&["1s", "2s", "5s", "8s"]);
    Drawn::of(json!({"on": on, "down": down}), side, true)
}

fn partition(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    if random.chance(45) && free.ground.control_planes > 1 {
        return peers_cut(random, free);
    }
    let traffic = *random.one(&["all", "all", "api"]);
    let everybody = free.workers.len() as u64 == free.ground.workers && random.chance(15);
    let (who, side) = match everybody {
        true => ("all workers".to_owned(), Side::Workers),
        false => match worker(random, free)? {
            (who, Side::Worker(number)) => (who, Side::Cut(number)),
            other => other,
        },
    };
    let planes = "the control plane";
    let mut fields = match random.below(4) {
        0 => json!({"from": who, "to": planes}),
        1 => json!({"from": planes, "to": who}),
        _ => json!({"between": [who, planes]}),
    };
    if traffic != "all" {
        fields["traffic"] = traffic.into();
    }
    Drawn::of(fields, side, true)
}

fn peers_cut(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    let (one, others) = *random.one(&[
        ("leader of etcd", "the other members of etcd"),
        ("follower of etcd", "the other members of etcd"),
        ("leader of etcd", "the followers of etcd"),
        ("a minority of etcd", "the other members of etcd"),
        ("leader of kube-controller-manager", "the other members of etcd"),
    ]);
    let _ = free;
    let mut fields = match random.below(5) {
        0 => json!({"from": one, "to": others}),
        1 => json!({"from": others, "to": one}),
        _ => json!({"between": [one, others]}),
    };
    if random.chance(70) {
        fields["traffic"] = "etcd-peer".into();
    }
    Drawn::of(fields, Side::Plane, true)
}

fn pod_delete(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    let (deployment, _) = random.one(&free.ground.deployments);
    let who = if random.chance(80) { "any pod" } else { "all pods" };
    let mut fields = json!({"on": format!("{who} of deployment/{deployment}")});
    match random.below(4) {
        0 => fields["force"] = true.into(),
        1 => fields["grace"] = "3s".into(),
        _ => {}
    }
    Drawn::of(fields, Side::Api, false)
}

/// A component, where it runs, and what its loss takes away.
fn component(random: &mut Draw, free: &Free<'_>) -> Option<(&'static str, String, Side)> {
    let one = free.ground.control_planes == 1;
    let silence = if one { Side::Quorum } else { Side::Plane };
    Some(match random.below(7) {
        0 | 1 => {
            let (on, side) = worker(random, free)?;
            ("kubelet", on, side)
        }
        2 => ("kube-scheduler", "leader of kube-scheduler".to_owned(), Side::Plane),
        3 | 4 => {
            let on = "leader of kube-controller-manager".to_owned();
            ("kube-controller-manager", on, Side::Plane)
        }
        5 => {
            let number = random.between(1, free.ground.control_planes);
            ("kube-apiserver", format!("cp-{number}"), silence)
        }
        _ => {
            let (on, side) = plane(random, free);
            ("etcd", on, side)
        }
    })
}

fn process_kill(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    let (component, on, side) = component(random, free)?;
    let holds = random.chance(50);
    let mut fields = json!({"on": on, "component": component});
    if holds {
        fields["restart"] = false.into();
    }
    Drawn::of(fields, side, holds)
}

fn process_stop(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    let (component, on, side) = component(random, free)?;
    Drawn::of(json!({"on": on, "component": component}), side, true)
}

fn taint(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    let (on, side) = node_object(random, free)?;
    let effect = *random.one(&["NoSchedule", "PreferNoSchedule"]);
    Drawn::of(json!({"on": on, "key": "shakedown.dev/storm", "effect": effect}), side, true)
}

fn taint_noexecute(random: &mut Draw, free: &Free<'_>) -> Option<Drawn> {
    let (on, side) = node_object(random, free)?;
    Drawn::of(json!({"on": on, "key": "shakedown.dev/drill"}), side, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fault_has_its_row() {
        let rows: Vec<_> = RECIPES.iter().map(|(name, _)| *name).collect();
        assert!(rows.is_sorted());
        for kind in shakedown_faults::ALL {
            assert!(rows.contains(&kind.name), "{} has no row, so it is never drawn", kind.name);
        }
    }

    #[test]
    fn a_target_that_can_do_nothing_suffers_nothing() {
        assert!(drawable(&BTreeSet::new()).is_empty());
        let api = drawable(&BTreeSet::from([LeverKind::Api]));
        assert!(api.contains(&"pod-delete") && !api.contains(&"node-kill"), "{api:?}");
    }
}
