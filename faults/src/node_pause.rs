//! `node-pause`: Everything on the node stands still, and goes on where it was when healed: leases expire meanwhile.
//!
//! ```yaml
//! fault: node-pause
//! on: worker-1
//! for: 90s
//! ```
//!
//! Proven: the node is paused and the one that ran before, an untouched node that reached it gets no answer, and that node reaches another one.
//! Healed: the node runs, is the one that ran before, and answers three times in a row.

use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultKind, FaultSpec, Proof, SpecError};
use shakedown_core::lever::{Lever, LeverKind, NodeState, Undo};

use crate::evidence::proof;
use crate::nodes::Victims;
use crate::spec::{self, Fields};

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "node-pause",
    summary: "everything on a node stands still until healed",
    fields: &[],
    needs: &[LeverKind::PauseNode],
    sample: "fault: node-pause\non: worker-1\nfor: 90s\n",
    build,
};

struct NodePause {
    victims: Victims,
}

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    Fields::of(spec, KIND.fields)?;
    Ok(Box::new(NodePause { victims: Victims::new(spec::on(spec, "nodes")?) }))
}

#[async_trait::async_trait]
impl Fault for NodePause {
    fn needs(&self) -> Vec<LeverKind> {
        KIND.needs.to_vec()
    }

    fn targets(&self) -> Vec<String> {
        self.victims.names().to_vec()
    }

    fn undos(&self) -> Vec<Undo> {
        self.victims.names().iter().map(|node| Undo::UnpauseNode { node: node.clone() }).collect()
    }

    async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.victims.baseline(cx).await
    }

    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        for node in self.victims.names() {
            cx.target.pull(&Lever::PauseNode { node: node.clone() }).await?;
        }
        Ok(())
    }

    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        Ok(proof(self.victims.prove(cx, NodeState::Paused).await?))
    }

    fn is_momentary(&self) -> bool {
        false
    }

    async fn remove(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        for undo in self.undos() {
            cx.target.undo(&undo).await?;
        }
        Ok(())
    }

    async fn prove_healed(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        Ok(proof(self.victims.prove_healed(cx, false).await?))
    }
}

#[cfg(test)]
mod tests {
    use crate::scripted::{World, life};

    #[tokio::test(start_paused = true)]
    async fn it_is_proven_and_healed() {
        life("node-pause", &["worker-1"], World::working()).await.proven_and_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        life("node-pause", &["worker-1"], World::inert()).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_whole_network_is_down_it_is_not_proven() {
        life("node-pause", &["worker-1"], World::working().without_network()).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_is_not_taken_back_it_is_not_healed() {
        life("node-pause", &["worker-1"], World::working().stuck()).await.not_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn the_witness_may_be_the_only_other_node() {
        let world = World::working().of_nodes(&["worker-1", "worker-2"]);
        life("node-pause", &["worker-1"], world).await.proven_and_healed();
    }
}
