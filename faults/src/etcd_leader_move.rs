//! `etcd-leader-move`: the leadership of etcd is handed to another member, as `etcdctl move-leader`.
//!
//! ```yaml
//! fault: etcd-leader-move
//! on: follower of etcd
//! ```
//!
//! Proven: the member, which did not lead before, takes itself for the leader; a member that neither
//! led nor leads, or else the old leader, takes it for the leader too, and has lost nothing; a peer is
//! the very process that ran before.
//! It is over by itself: nothing is healed. Who leads later is etcd's own affair.

use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultKind, FaultSpec, Proof, SpecError};
use shakedown_core::lever::{Component, Lever, LeverKind, ProcessState, Undo};
use shakedown_core::target::Role;

use crate::evidence::{behaviour, control, counter, health, process, proof};
use crate::readings::{MemberView, member};
use crate::spec::{self, Fields};

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "etcd-leader-move",
    summary: "the leadership of etcd is handed to another member",
    fields: &[],
    needs: &[LeverKind::EtcdAdmin],
    sample: "fault: etcd-leader-move\non: follower of etcd\n",
    build,
};

/// Another member, as it was before.
struct Other {
    node: String,
    view: MemberView,
    identity: String,
}

struct EtcdLeaderMove {
    node: String,
    others: Vec<Other>,
    /// Why it could not be done, if it could not.
    refused: Option<String>,
}

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    Fields::of(spec, KIND.fields)?;
    let names = spec::on(spec, "a member of etcd, such as `follower of etcd`")?;
    let [node] = names.as_slice() else {
        return Err(SpecError {
            field: "on".to_owned(),
            message: format!("only one member can lead, not {}", names.len()),
            hint: "say `on: follower of etcd`".to_owned(),
        });
    };
    Ok(Box::new(EtcdLeaderMove { node: node.clone(), others: Vec::new(), refused: None }))
}

#[async_trait::async_trait]
impl Fault for EtcdLeaderMove {
    fn needs(&self) -> Vec<LeverKind> {
        KIND.needs.to_vec()
    }

    fn targets(&self) -> Vec<String> {
        vec![self.node.clone()]
    }

    fn undos(&self) -> Vec<Undo> {
        Vec::new()
    }

    async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.refused = match member(cx, &self.node).await {
            Ok(view) if view.leader != view.member => None,
            Ok(view) => Some(format!("member {} led already", view.member)),
            Err(error) => Some(error.to_string()),
        };
        self.others.clear();
        for node in cx.cluster.names(Role::ControlPlane) {
            if node == self.node {
                continue;
            }
            let Ok(view) = member(cx, &node).await else { continue };
            let identity = process(cx, &node, Component::Etcd).await?.identity;
            self.others.push(Other { node, view, identity });
        }
        // Whoever did not lead bears witness first: it has nothing to do with the hand-over.
        self.others.sort_by_key(|other| other.view.leader == other.view.member);
        Ok(())
    }

    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        // Leadership moves by itself, and members lag: that etcd refuses is no fault of the harness.
        if self.refused.is_none() {
            let lever = Lever::MoveLeader { node: self.node.clone() };
            self.refused = cx.target.pull(&lever).await.err().map(|error| error.to_string());
        }
        Ok(())
    }

    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        if let Some(why) = &self.refused {
            let text = format!("the leadership was not moved to {}: {why}", self.node);
            return Ok(proof(vec![counter(text, false, None)]));
        }
        let new = member(cx, &self.node).await?;
        let text = format!(
            "member {} on {} takes member {} for the leader",
            new.member, self.node, new.leader
        );
        let mut evidence = vec![counter(text, new.leader == new.member, None)];
        let mut told = None;
        let mut peer = None;
        for other in &self.others {
            let Ok(view) = member(cx, &other.node).await else { continue };
            let text = format!(
                "member {} on {} takes member {} for the leader, at revision {}",
                view.member, other.node, view.leader, view.revision
            );
            let follows = view.leader == new.member && view.revision >= other.view.revision;
            told = Some(behaviour(text, follows, None));
            let process = process(cx, &other.node, Component::Etcd).await?;
            let same = process.state == ProcessState::Running && process.identity == other.identity;
            let answer = health(cx, &other.node, Component::Etcd).await;
            let text = format!("etcd on {}: {}", other.node, answer.detail);
            peer = Some(control(text, same && answer.ok, Some(process.reading)));
            break;
        }
        let nobody = || "no other member answered".to_owned();
        evidence.push(told.unwrap_or_else(|| behaviour(nobody(), false, None)));
        evidence.push(peer.unwrap_or_else(|| control(nobody(), false, None)));
        Ok(proof(evidence))
    }

    fn is_momentary(&self) -> bool {
        true
    }

    async fn remove(&mut self, _: &mut FaultCx<'_>) -> Result<(), FaultError> {
        Ok(())
    }

    async fn prove_healed(&mut self, _: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        Ok(proof(vec![counter("there is nothing to take back".to_owned(), true, None)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{World, life, spec};

    #[tokio::test(start_paused = true)]
    async fn it_is_proven() {
        let life = life("etcd-leader-move", &["cp-2"], World::working()).await;
        assert!(life.momentary);
        life.proven_and_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        life("etcd-leader-move", &["cp-2"], World::inert()).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_whom_nobody_follows_is_not_proven() {
        let world = World::working().without_network();
        life("etcd-leader-move", &["cp-2"], world).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn to_the_leader_itself_nothing_is_moved() {
        life("etcd-leader-move", &["cp-1"], World::working()).await.not_proven();
    }

    #[test]
    fn only_one_can_lead() {
        assert_eq!(build(&spec("etcd-leader-move", &["cp-1", "cp-2"])).err().unwrap().field, "on");
    }
}
