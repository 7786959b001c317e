//! Probes: questions that proofs ask of the world. A node that is gone or paused is an answer.

use std::time::Duration;

use shakedown_core::lever::{Component, NodeState, Probe, ProcessState, Reading, Traffic};
use shakedown_core::target::{Endpoint, TargetError};

use crate::node::Node;
use crate::observe;
use crate::target::{NAME, known, of_node};
use crate::world::World;

/// A packet that is not answered within this does not come.
const REACH_WITHIN: Duration = Duration::from_secs(1);
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
        Probe::EtcdMember { node } => member(world, of_node(world, node)?),
    }
}

fn member(world: &World, node: &Node) -> Result<Reading, TargetError> {
    known(node, Component::Etcd)?;
    let Some(status) = world.etcd.status(node.index) else {
        return Err(TargetError::Failed {
            what: format!("asking the etcd member of {}", node.name()),
            why: "it does not answer".to_owned(),
            hint: String::new(),
        });
    };
    Ok(Reading::EtcdMember {
        member: status.member,
        leader: status.leader,
        term: status.term,
        revision: status.revision,
    })
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
    let round = async {
        let (one, other) = (from.name(), to.name());
        let is_there = world.net.sends(one, other, traffic)
            && to.state().0 == NodeState::Running
            && world.net.sends(other, one, traffic);
        if !is_there {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(world.net.latency() + world.net.latency()).await;
    };
    match tokio::time::timeout(REACH_WITHIN, round).await {
        Ok(()) => (true, format!("{} answered", to.name())),
        Err(_) => (false, format!("no answer within {} s", REACH_WITHIN.as_secs())),
    }
}
