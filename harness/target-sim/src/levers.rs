//! The levers on the network's quality, clocks, disks, etcd, and conversations.

use std::collections::BTreeMap;

use shakedown_core::lever::{Component, NodeState, Rule, Traffic, Weather};
use shakedown_core::target::{Role, TargetError};
use storage::StoreError;

use crate::node::Node;
use crate::target::{failed, of_node};
use crate::world::World;

/// Makes bad weather.
pub(crate) fn slow(
    world: &World,
    id: &str,
    (from, to): (&[String], &[String]),
    (traffic, weather): (Traffic, Weather),
) -> Result<(), TargetError> {
    for name in from.iter().chain(to) {
        of_node(world, name)?;
    }
    if weather.loss > 10_000 || weather.reorder > 10_000 {
        return Err(failed("making bad weather", "loss and reorder are of ten thousand packets"));
    }
    let before: BTreeMap<String, (u64, u64)> =
        to.iter().map(|to| (to.clone(), peer_traffic(world, from, to))).collect();
    world.net.slow(id, (from, to), (traffic, weather), before);
    world.join_members();
    Ok(())
}

/// What etcd members have sent to one of them in bad weather: packets, and those that were lost.
pub(crate) fn peer_traffic(world: &World, from: &[String], to: &str) -> (u64, u64) {
    let member = |name: &str| {
        world.node(name).filter(|node| node.fact.role == Role::ControlPlane).map(|node| node.index)
    };
    let Some(to) = member(to) else { return (0, 0) };
    let senders = from.iter().filter_map(|from| member(from)).filter(|from| *from != to);
    senders.fold((0, 0), |(packets, lost), from| {
        let traffic = world.etcd.traffic(from, to);
        (packets + traffic.packets, lost + traffic.lost)
    })
}

/// Resets every open connection between two groups.
pub(crate) fn reset(
    world: &World,
    from: &[String],
    to: &[String],
    traffic: Traffic,
) -> Result<(), TargetError> {
    for name in from.iter().chain(to) {
        of_node(world, name)?;
    }
    if matches!(traffic, Traffic::All | Traffic::Api) {
        world.wires.reset(from, to);
    }
    if matches!(traffic, Traffic::All | Traffic::EtcdPeer) {
        let names = world.names(Role::ControlPlane);
        for (at, one) in names.iter().enumerate() {
            for (other_at, other) in names.iter().enumerate().skip(at + 1) {
                let is_between = (from.contains(one) && to.contains(other))
                    || (from.contains(other) && to.contains(one));
                if is_between {
                    let count = world.etcd.reset(at, other_at);
                    world.wires.count(one, other, Traffic::EtcdPeer, count);
                }
            }
        }
    }
    // An API server's connection to etcd stays on its node: there is none to reset between nodes.
    Ok(())
}

/// Puts the wall clocks of a node's processes off, or right.
pub(crate) fn skew(world: &World, node: &Node, offset_us: i64, rate_ppm: i64) {
    for ((name, _), machine) in &world.machines {
        if name == node.name() {
            machine.set_skew(offset_us, rate_ppm);
        }
    }
}

/// Empties the disk of a node without power.
pub(crate) fn lose_disk(world: &World, node: &Node) -> Result<(), TargetError> {
    let what = format!("emptying the disk of {}", node.name());
    if node.state().0 != NodeState::Dead {
        return Err(failed(&what, "the node has power"));
    }
    match node.fact.role {
        Role::ControlPlane => {
            world.etcd.lose_disk(node.index).map_err(|error| refused(&what, &error))?;
        }
        Role::Worker => {
            if let Some(runtime) = &node.runtime {
                runtime.lose_disk();
            }
        }
    }
    node.change(|inner| inner.disks += 1);
    Ok(())
}

/// Lets etcd forget all revisions before the one that its leader is at.
pub(crate) async fn compact(world: &World) -> Result<(), TargetError> {
    let what = "compacting etcd";
    let Some(leader) = world.etcd.leader() else { return Err(failed(what, "it has no leader")) };
    let Some(status) = world.etcd.status(leader) else {
        return Err(failed(what, "its leader does not answer"));
    };
    match world.etcd.member(leader).compact(status.revision).await {
        // Nothing was written since the last time.
        Ok(()) | Err(StoreError::Compacted { .. }) => Ok(()),
        Err(error) => Err(refused(what, &error)),
    }
}

/// Hands the leadership of etcd to a node's member.
pub(crate) fn move_leader(world: &World, node: &Node) -> Result<(), TargetError> {
    let what = format!("moving the leadership of etcd to {}", node.name());
    if !node.has(Component::Etcd) {
        return Err(failed(&what, "it has no etcd member"));
    }
    world.etcd.move_leader(node.index).map_err(|error| refused(&what, &error))
}

/// Puts a rule in force.
pub(crate) fn meddle(
    world: &World,
    id: &str,
    (node, component): (&Node, Component),
    rule: &Rule,
) -> Result<(), TargetError> {
    let what = format!("meddling with {component} on {}", node.name());
    let asks = matches!(
        component,
        Component::KubeControllerManager
            | Component::KubeScheduler
            | Component::Kubelet
            | Component::Operator
    );
    if !asks {
        return Err(failed(&what, "it asks nothing of API servers"));
    }
    let nth = match rule {
        Rule::CrashAtWrite { nth, .. }
        | Rule::HoldEvents { nth, .. }
        | Rule::FreezeView { nth, .. }
        | Rule::Rewind { nth, .. } => *nth,
    };
    if nth == 0 {
        return Err(failed(&what, "places are counted from 1"));
    }
    world.meddling.set(id, node.name(), component, rule);
    Ok(())
}

fn refused(what: &str, error: &StoreError) -> TargetError {
    failed(what, &error.to_string())
}
