//! Probes: questions that proofs ask of the world. A node that is gone or paused is an answer.

use std::time::Duration;

use env::Machine;
use shakedown_core::lever::{Component, NodeState, Probe, ProcessState, Reading, Traffic};
use shakedown_core::target::{Endpoint, TargetError};

use crate::levers;
use crate::node::Node;
use crate::observe;
use crate::target::{NAME, failed, known, of_node};
use crate::world::World;

/// A packet that is not answered within this does not come.
const REACH_WITHIN: Duration = Duration::from_secs(1);
/// A round trip that takes longer is not measured.
const ROUND_TRIP_WITHIN: Duration = Duration::from_secs(10);
/// An API server that says nothing for so long is not well.
const HEALTH_WITHIN: Duration = Duration::from_secs(2);

/// Answers a probe.
pub(crate) async fn answer(
    world: &World,
    endpoints: &[Endpoint],
    probe: &Probe,
) -> Result<Reading, TargetError> {
    match probe {
        Probe::Node { node } => {
            let (state, started) = of_node(world, node)?.state();
            Ok(Reading::Node { state, started })
        }
        Probe::Process { node, component } => {
            let (state, identity, ticks) = known(of_node(world, node)?, *component)?;
            Ok(Reading::Process { state, identity, ticks })
        }
        Probe::Health { node, component } => {
            let node = of_node(world, node)?;
            let (state, ..) = known(node, *component)?;
            let (ok, detail) = match component {
                Component::KubeApiserver => healthz(endpoints, node.name()).await,
                component => health(world, node, *component, &state),
            };
            Ok(Reading::Answer { ok, detail })
        }
        Probe::Reach { from, to, traffic } => {
            let (from, to) = (of_node(world, from)?, of_node(world, to)?);
            let (ok, detail) = reach(world, from, to, *traffic).await;
            Ok(Reading::Answer { ok, detail })
        }
        Probe::Dropped { id, node } => {
            of_node(world, node)?;
            let dropped = world.net.dropped(id, node);
            Ok(Reading::Dropped { in_place: dropped.is_some(), packets: dropped.unwrap_or(0) })
        }
        Probe::Containers { node, pod_uid } => {
            let runtime = of_node(world, node)?.runtime.iter();
            let running = runtime.flat_map(|runtime| runtime.running());
            let running = running
                .map(|change| observe::fact(&change))
                .filter(|fact| pod_uid.is_empty() || fact.pod_uid == *pod_uid)
                .collect();
            Ok(Reading::Containers { running })
        }
        Probe::EtcdMember { node } | Probe::Compacted { node } | Probe::StoreHash { node, .. } => {
            etcd(world, of_node(world, node)?, probe)
        }
        Probe::Weather { id, node } => {
            of_node(world, node)?;
            Ok(weather(world, id, node))
        }
        Probe::RoundTrip { from, to, traffic } => {
            let (from, to) = (of_node(world, from)?, of_node(world, to)?);
            Ok(measured(world, from, to, *traffic).await)
        }
        Probe::Resets { from, to, traffic } => {
            let (from, to) = (of_node(world, from)?, of_node(world, to)?);
            let connections = world.wires.resets(from.name(), to.name(), *traffic);
            Ok(Reading::Resets { connections })
        }
        Probe::Clock { node } => Ok(clock(world, of_node(world, node)?)),
        Probe::Disk { node } => {
            let disks = of_node(world, node)?.lock().disks;
            Ok(Reading::Disk { identity: format!("disk-{disks}") })
        }
        Probe::Meddled { id } => {
            let hits = world.meddling.hits(id);
            Ok(Reading::Meddled { in_place: hits.is_some(), hits: hits.unwrap_or(0) })
        }
    }
}

/// What a node's etcd member answers.
fn etcd(world: &World, node: &Node, probe: &Probe) -> Result<Reading, TargetError> {
    known(node, Component::Etcd)?;
    match probe {
        Probe::Compacted { .. } => {
            let revision = world.etcd.compacted(node.index).ok_or_else(|| silent(node))?;
            Ok(Reading::Compacted { revision })
        }
        Probe::StoreHash { revision, .. } => {
            let what = format!("asking the etcd member of {} for its hash", node.name());
            let hashed = world.etcd.hash(node.index, *revision);
            let told = hashed.map_err(|error| failed(&what, &error.to_string()))?;
            let (hash, revision, compacted) = (told.hash, told.revision, told.compacted);
            Ok(Reading::StoreHash { hash, revision, compacted })
        }
        _ => member(world, node),
    }
}

/// How long a packet and its answer take.
async fn measured(world: &World, from: &Node, to: &Node, traffic: Traffic) -> Reading {
    let began = tokio::time::Instant::now();
    let trip = round_trip(world, from, to, traffic);
    let micros = match tokio::time::timeout(ROUND_TRIP_WITHIN, trip).await {
        Ok(()) => u64::try_from(began.elapsed().as_micros()).ok(),
        Err(_) => None,
    };
    Reading::RoundTrip { micros }
}

/// What the weather has done at a node, to etcd's own packets too.
fn weather(world: &World, id: &str, node: &str) -> Reading {
    let Some((mut counts, storm, before)) = world.net.weathered(id, node) else {
        return Reading::Weather { in_place: false, packets: 0, lost: 0, reordered: 0 };
    };
    if matches!(storm.traffic, Traffic::All | Traffic::EtcdPeer) {
        let (packets, lost) = levers::peer_traffic(world, &storm.from, node);
        counts.packets += packets.saturating_sub(before.0);
        counts.lost += lost.saturating_sub(before.1);
    }
    let (packets, lost, reordered) = (counts.packets, counts.lost, counts.reordered);
    Reading::Weather { in_place: true, packets, lost, reordered }
}

/// How far a node's wall clock is ahead of the world's.
fn clock(world: &World, node: &Node) -> Reading {
    let now_us = world.env.now().as_microsecond();
    let machine = world.machines.iter().find(|((name, _), _)| name == node.name());
    let offset_us = machine.map_or(0, |(_, machine)| machine.now().as_microsecond() - now_us);
    Reading::Clock { offset_us, error_us: 0 }
}

fn member(world: &World, node: &Node) -> Result<Reading, TargetError> {
    let status = world.etcd.status(node.index).ok_or_else(|| silent(node))?;
    Ok(Reading::EtcdMember {
        member: status.member,
        leader: status.leader,
        term: status.term,
        revision: status.revision,
    })
}

fn silent(node: &Node) -> TargetError {
    let what = format!("asking the etcd member of {}", node.name());
    failed(&what, "it does not answer")
}

/// Asks an API server whether it is well.
async fn healthz(endpoints: &[Endpoint], node: &str) -> (bool, String) {
    let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.node == node) else {
        return (false, format!("{NAME} has no way to {node}"));
    };
    let request = http::Request::get("/healthz").body(Vec::new());
    let request = request.expect("a path alone makes a request");
    match tokio::time::timeout(HEALTH_WITHIN, endpoint.client.request_text(request)).await {
        Ok(Ok(text)) => (true, text),
        Ok(Err(error)) => (false, error.to_string()),
        Err(_) => (false, format!("no answer within {} s", HEALTH_WITHIN.as_secs())),
    }
}

/// Whether any other component answers.
fn health(
    world: &World,
    node: &Node,
    component: Component,
    state: &ProcessState,
) -> (bool, String) {
    match state {
        ProcessState::Absent => return (false, "connection refused".to_owned()),
        ProcessState::Stopped => {
            return (false, format!("no answer within {} s", HEALTH_WITHIN.as_secs()));
        }
        ProcessState::Running => {}
    }
    let is_well = match component {
        Component::Etcd => world.etcd.status(node.index).is_some_and(|status| status.leader != 0),
        Component::Kubelet => {
            let inner = node.lock();
            let life = inner.processes[&component].life.as_ref();
            life.and_then(|life| life.health.as_ref()).is_some_and(kubelet::Health::is_healthy)
        }
        _ => true,
    };
    match is_well {
        true => (true, "ok".to_owned()),
        false => (false, "unhealthy".to_owned()),
    }
}

/// Sends a packet and waits for the answer. A refusal is an answer.
async fn reach(world: &World, from: &Node, to: &Node, traffic: Traffic) -> (bool, String) {
    let (state, _) = from.state();
    if state != NodeState::Running {
        return (false, format!("{} is {state:?}", from.name()));
    }
    let round = round_trip(world, from, to, traffic);
    match tokio::time::timeout(REACH_WITHIN, round).await {
        Ok(()) => (true, format!("{} answered", to.name())),
        Err(_) => (false, format!("no answer within {} s", REACH_WITHIN.as_secs())),
    }
}

/// A packet goes, and an answer comes back; if it does not, this waits for ever.
async fn round_trip(world: &World, from: &Node, to: &Node, traffic: Traffic) {
    let (one, other) = (from.name(), to.name());
    let is_there = from.state().0 == NodeState::Running
        && world.net.sends(one, other, traffic)
        && to.state().0 == NodeState::Running
        && world.net.sends(other, one, traffic);
    if !is_there {
        std::future::pending::<()>().await;
    }
    if one != other {
        let ways = [world.net.delay(one, other, traffic), world.net.delay(other, one, traffic)];
        let taken = ways.iter().map(|(calm, bad)| *calm + bad.unwrap_or_default()).sum();
        tokio::time::sleep(taken).await;
    }
}
