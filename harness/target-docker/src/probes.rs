//! Probes: questions that proofs ask. A node that is gone or paused is an answer.

use shakedown_core::agent::Ask;
use shakedown_core::lever::{Component, NodeState, Probe, ProcessState, Reading, Traffic};
use shakedown_core::target::TargetError;

use crate::docker::failed;
use crate::target::{DockerTarget, NAME};

/// A connection that is not answered within this does not come about.
const REACH_WITHIN_MS: u64 = 1000;
/// A component that says nothing for so long is not well.
const HEALTH_WITHIN_MS: u64 = 2000;
/// No component listens here: the kernel itself answers, with a refusal.
const CLOSED_PORT: u16 = 9;

impl DockerTarget {
    pub(crate) async fn answer(&mut self, probe: &Probe) -> Result<Reading, TargetError> {
        match probe {
            Probe::Node { node } => {
                let (state, started) = self.node_state(&self.node(node)?).await?;
                Ok(Reading::Node { state, started })
            }
            Probe::Process { node, component } => self.process(node, *component).await,
            Probe::Health { node, component } => self.health(node, *component).await,
            Probe::Reach { from, to, traffic } => self.reach(from, to, *traffic).await,
            Probe::Dropped { id, node } => match self.state(node).await? {
                NodeState::Dead => Ok(Reading::Dropped { in_place: false, packets: 0 }),
                NodeState::Paused => Err(paused(node)),
                NodeState::Running => {
                    self.link(node).await?.reading(Ask::Dropped { id: id.clone() }).await
                }
            },
            Probe::Containers { node, pod_uid } => self.running(node, pod_uid).await,
            Probe::EtcdMember { node } => {
                let address = self.node(node)?.fact.address;
                self.outside()?.member(&address).await
            }
            Probe::Compacted { node } => {
                let address = self.node(node)?.fact.address;
                let revision = self.outside()?.compacted(&address).await?;
                Ok(Reading::Compacted { revision })
            }
            Probe::Weather { .. }
            | Probe::RoundTrip { .. }
            | Probe::Resets { .. }
            | Probe::Clock { .. }
            | Probe::Disk { .. }
            | Probe::Meddled { .. }
            | Probe::StoreHash { .. } => {
                Err(TargetError::Unsupported { target: NAME, what: format!("answer {probe:?}") })
            }
        }
    }

    async fn state(&self, node: &str) -> Result<NodeState, TargetError> {
        Ok(self.node_state(&self.node(node)?).await?.0)
    }

    async fn process(&mut self, node: &str, component: Component) -> Result<Reading, TargetError> {
        match self.state(node).await? {
            NodeState::Running => self.link(node).await?.reading(Ask::Process { component }).await,
            NodeState::Dead => Ok(Reading::Process {
                state: ProcessState::Absent,
                identity: String::new(),
                ticks: 0,
            }),
            // It is there and stands still, like all on the node.
            NodeState::Paused => Ok(Reading::Process {
                state: ProcessState::Stopped,
                identity: self.eyes().identity(node, component),
                ticks: 0,
            }),
        }
    }

    async fn health(&mut self, node: &str, component: Component) -> Result<Reading, TargetError> {
        let address = self.node(node)?.fact.address;
        let outside = match component {
            Component::Etcd => Some(format!("https://{address}:2379/health")),
            Component::KubeApiserver => Some(format!("https://{address}:6443/healthz")),
            _ => None,
        };
        if let Some(url) = outside {
            return Ok(self.outside()?.health(&url).await);
        }
        match self.state(node).await? {
            NodeState::Running => {
                let ask = Ask::Health { component, within_ms: HEALTH_WITHIN_MS };
                self.link(node).await?.reading(ask).await
            }
            down => Ok(Reading::Answer { ok: false, detail: format!("{node} is {down:?}") }),
        }
    }

    async fn reach(
        &mut self,
        from: &str,
        to: &str,
        traffic: Traffic,
    ) -> Result<Reading, TargetError> {
        let address = self.node(to)?.fact.address;
        let port = match traffic {
            Traffic::All => CLOSED_PORT,
            Traffic::EtcdPeer => 2380,
            Traffic::EtcdClient => 2379,
            Traffic::Api => 6443,
        };
        match self.state(from).await? {
            NodeState::Running => {
                let ask = Ask::Reach { address, port, within_ms: REACH_WITHIN_MS };
                self.link(from).await?.reading(ask).await
            }
            down => Ok(Reading::Answer { ok: false, detail: format!("{from} is {down:?}") }),
        }
    }

    async fn running(&mut self, node: &str, pod_uid: &str) -> Result<Reading, TargetError> {
        match self.state(node).await? {
            NodeState::Running => {
                let ask = Ask::Containers { pod_uid: pod_uid.to_owned() };
                self.link(node).await?.reading(ask).await
            }
            NodeState::Dead => Ok(Reading::Containers { running: Vec::new() }),
            // They stand still, but they are there.
            NodeState::Paused => {
                let mut running = self.eyes().containers(node);
                running.retain(|fact| pod_uid.is_empty() || fact.pod_uid == pod_uid);
                Ok(Reading::Containers { running })
            }
        }
    }
}

fn paused(node: &str) -> TargetError {
    failed(format!("asking {node}"), "it is paused", "")
}
