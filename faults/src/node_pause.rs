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

use shakedown_core::fault::{Fault, FaultKind, FaultSpec, SpecError};
use shakedown_core::lever::{LeverKind, NodeState};

use crate::halt::Halt;

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "node-pause",
    summary: "everything on a node stands still until healed",
    fields: &[],
    needs: &[LeverKind::PauseNode],
    sample: "fault: node-pause\non: worker-1\nfor: 90s\n",
    build,
};

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    Halt::of(spec, &KIND, NodeState::Paused)
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
