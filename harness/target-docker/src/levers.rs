//! Levers and their undos, done to node containers.

use bollard::query_parameters::KillContainerOptions;
use shakedown_core::agent::Ask;
use shakedown_core::lever::{Lever, NodeState, Reading, Traffic, Undo};
use shakedown_core::target::{Role, TargetError};
use tokio::time::Instant;

use crate::docker::{failed, is_already_so};
use crate::eyes::Eyes;
use crate::target::{DockerTarget, NAME};

impl DockerTarget {
    pub(crate) async fn pull_lever(&mut self, lever: &Lever) -> Result<(), TargetError> {
        match lever.clone() {
            Lever::KillNode { node } => self.kill_node(&node).await,
            Lever::PauseNode { node } => self.pause_node(&node).await,
            Lever::KillProcess { node, component, hold } => {
                self.link(&node).await?.order(Ask::Kill { component, hold }).await
            }
            Lever::StopProcess { node, component } => {
                self.link(&node).await?.order(Ask::Stop { component }).await
            }
            Lever::KillContainer { node, pod_uid, container } => {
                self.link(&node).await?.order(Ask::KillContainer { pod_uid, container }).await
            }
            Lever::Cut { id, from, to, traffic } => self.cut(&id, &from, &to, traffic).await,
            Lever::Compact => self.compact().await,
            Lever::MoveLeader { node } => self.move_leader(&node).await,
            Lever::Slow { .. }
            | Lever::Reset { .. }
            | Lever::Skew { .. }
            | Lever::LoseDisk { .. }
            | Lever::Meddle { .. } => {
                Err(TargetError::Unsupported { target: NAME, what: format!("{:?}", lever.kind()) })
            }
        }
    }

    /// At the first member that answers.
    async fn compact(&mut self) -> Result<(), TargetError> {
        let outside = self.outside()?;
        let mut outcome = Err(failed("compacting etcd", "there is no control plane", ""));
        for address in self.members() {
            outcome = outside.compact(&address).await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Asks the leader, whoever that is.
    async fn move_leader(&mut self, to: &str) -> Result<(), TargetError> {
        let outside = self.outside()?;
        let target = outside.member(&self.node(to)?.fact.address).await?;
        let Reading::EtcdMember { member, leader, .. } = target else {
            return Err(failed(format!("asking the etcd member of {to}"), "it told nothing", ""));
        };
        for address in self.members() {
            if let Ok(Reading::EtcdMember { member: id, .. }) = outside.member(&address).await
                && id == leader
            {
                return outside.move_leader(&address, member).await;
            }
        }
        Err(failed("moving etcd's leader", format!("no member is the leader {leader:x}"), ""))
    }

    /// The addresses of the etcd members.
    fn members(&self) -> Vec<String> {
        let nodes = self.record.nodes.iter().map(|node| &node.fact);
        let masters = nodes.filter(|fact| fact.role == Role::ControlPlane);
        masters.map(|fact| fact.address.clone()).collect()
    }

    async fn kill_node(&mut self, name: &str) -> Result<(), TargetError> {
        let node = self.node(name)?;
        // Frozen processes do not die before they thaw.
        self.docker.unpause_container(&node.container).await.ok();
        let before = Instant::now();
        let options = KillContainerOptions { signal: "KILL".to_owned() };
        match self.docker.kill_container(&node.container, Some(options)).await {
            Err(error) if !is_already_so(&error) => {
                return Err(failed(format!("killing {name}"), error, ""));
            }
            _ => {}
        }
        self.links.remove(name);
        let now = Instant::now();
        self.eyes.node_died(name, now, now - before);
        Ok(())
    }

    async fn pause_node(&mut self, name: &str) -> Result<(), TargetError> {
        let node = self.node(name)?;
        match self.docker.pause_container(&node.container).await {
            Err(error) if !is_already_so(&error) => {
                Err(failed(format!("pausing {name}"), error, "is the node running?"))
            }
            _ => Ok(()),
        }
    }

    async fn cut(
        &mut self,
        id: &str,
        from: &[String],
        to: &[String],
        traffic: Traffic,
    ) -> Result<(), TargetError> {
        let mut sources = Vec::new();
        for sender in from {
            let node = self.node(sender)?;
            sources.push(node.fact.address);
            if !node.pod_cidr.is_empty() {
                sources.push(node.pod_cidr);
            }
        }
        for receiver in to {
            let address = self.node(receiver)?.fact.address;
            let (id, sources) = (id.to_owned(), sources.clone());
            let ask = Ask::Cut { id, address, sources, traffic };
            self.link(receiver).await?.order(ask).await?;
        }
        Ok(())
    }

    pub(crate) async fn take_back(&mut self, undo: &Undo) -> Result<(), TargetError> {
        match undo.clone() {
            Undo::StartNode { node } => self.start_node(&node).await,
            Undo::UnpauseNode { node } => self.unpause_node(&node).await,
            Undo::ReleaseProcess { node, component } => {
                self.order_if_up(&node, Ask::Release { component }).await
            }
            Undo::ContinueProcess { node, component } => {
                self.order_if_up(&node, Ask::Continue { component }).await
            }
            Undo::Mend { id, nodes } => {
                let mut outcome = Ok(());
                for node in nodes {
                    let mended = self.order_if_up(&node, Ask::Mend { id: id.clone() }).await;
                    // One node that does not answer must not keep the others cut off.
                    outcome = outcome.and(mended);
                }
                outcome
            }
            // Neither can be pulled here.
            Undo::Nothing | Undo::Unskew { .. } | Undo::Unmeddle { .. } => Ok(()),
            Undo::RemoveTaint { .. } | Undo::Uncordon { .. } => Err(TargetError::Unsupported {
                target: NAME,
                what: "undo writes to the API".to_owned(),
            }),
        }
    }

    async fn start_node(&mut self, name: &str) -> Result<(), TargetError> {
        let node = self.node(name)?;
        if self.node_state(&node).await?.0 != NodeState::Dead {
            return Ok(());
        }
        let started = self.docker.start_container(&node.container, None).await;
        started.map_err(|error| {
            failed(format!("starting {name}"), error, &format!("docker logs {}", node.container))
        })?;
        self.connect_agent(name).await.map(drop)
    }

    async fn unpause_node(&mut self, name: &str) -> Result<(), TargetError> {
        let node = self.node(name)?;
        if self.node_state(&node).await?.0 != NodeState::Paused {
            return Ok(());
        }
        let unpaused = self.docker.unpause_container(&node.container).await;
        unpaused.map_err(|error| failed(format!("unpausing {name}"), error, ""))
    }

    /// What a dead node held of faults went with it: its `/run` and its network namespace are new.
    async fn order_if_up(&mut self, name: &str, ask: Ask) -> Result<(), TargetError> {
        let node = self.node(name)?;
        match self.node_state(&node).await?.0 {
            NodeState::Dead => Ok(()),
            NodeState::Running | NodeState::Paused => self.link(name).await?.order(ask).await,
        }
    }

    /// What the agents have seen.
    pub(crate) fn eyes(&self) -> &Eyes {
        &self.eyes
    }
}
