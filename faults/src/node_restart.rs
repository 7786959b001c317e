//! `node-restart`: The node loses power, stays without it for `down` (5 s unless said), and is
//! started again; healing, at the end of `for` or at once, waits until it answers.
//!
//! ```yaml
//! fault: node-restart
//! on: worker-1
//! down: 5s
//! ```
//!
//! Proven: while it was down the node was dead, an untouched node that reached it before got no
//! answer and reached another one; since then it was started anew.
//! Healed: the node runs, was started anew, and answers three times in a row.

use std::time::Duration;

use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultKind, FaultSpec, Proof, SpecError};
use shakedown_core::lever::{Lever, LeverKind, NodeState, Undo};
use shakedown_core::timeline::Evidence;

use crate::evidence::{counter, node, proof};
use crate::nodes::{Victims, word};
use crate::spec::{self, Fields};

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "node-restart",
    summary: "a node loses power and is started again",
    fields: &["down"],
    needs: &[LeverKind::KillNode],
    sample: "fault: node-restart\non: worker-1\ndown: 5s\n",
    build,
};

/// How long a node is down unless the step says otherwise.
const DOWN: Duration = Duration::from_secs(5);
/// How long it may take until the node is seen dead; part of `down`.
const PROOF_PATIENCE: Duration = Duration::from_secs(5);
/// How often that is looked at.
const PROOF_PERIOD: Duration = Duration::from_millis(200);

struct NodeRestart {
    victims: Victims,
    down: Duration,
    /// What was seen while the nodes were down.
    while_down: Vec<Evidence>,
}

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    let fields = Fields::of(spec, KIND.fields)?;
    Ok(Box::new(NodeRestart {
        victims: Victims::new(spec::on(spec, "nodes")?),
        down: fields.duration("down")?.unwrap_or(DOWN),
        while_down: Vec::new(),
    }))
}

impl NodeRestart {
    /// Looks until the nodes are seen dead, or patience ends.
    async fn see_dead(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        let patience = tokio::time::Instant::now() + PROOF_PATIENCE;
        loop {
            self.while_down = self.victims.prove(cx, NodeState::Dead).await?;
            let seen = proof(self.while_down.clone()).holds();
            if seen || tokio::time::Instant::now() >= patience {
                return Ok(());
            }
            tokio::time::sleep(PROOF_PERIOD).await;
        }
    }
}

#[async_trait::async_trait]
impl Fault for NodeRestart {
    fn needs(&self) -> Vec<LeverKind> {
        KIND.needs.to_vec()
    }

    fn targets(&self) -> Vec<String> {
        self.victims.names().to_vec()
    }

    fn undos(&self) -> Vec<Undo> {
        self.victims.names().iter().map(|node| Undo::StartNode { node: node.clone() }).collect()
    }

    async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.victims.baseline(cx).await
    }

    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        let up_again = tokio::time::Instant::now() + self.down;
        for node in self.victims.names() {
            cx.target.pull(&Lever::KillNode { node: node.clone() }).await?;
        }
        self.see_dead(cx).await?;
        tokio::time::sleep_until(up_again).await;
        for undo in self.undos() {
            cx.target.undo(&undo).await?;
        }
        Ok(())
    }

    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        let mut evidence = self.while_down.clone();
        for piece in &mut evidence {
            piece.text = format!("while it was down: {}", piece.text);
        }
        for name in self.victims.names() {
            let (state, started, reading) = node(cx, name).await?;
            let before = self.victims.started(name);
            evidence.push(counter(
                format!("node {name} is {}, started anew", word(state)),
                state == NodeState::Running && before.is_some_and(|before| before != started),
                Some(reading),
            ));
        }
        Ok(proof(evidence))
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
        Ok(proof(self.victims.prove_healed(cx, true).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{World, life};

    #[tokio::test(start_paused = true)]
    async fn it_is_proven_and_healed_after_the_time_that_it_was_down() {
        let began = tokio::time::Instant::now();
        life("node-restart", &["worker-1"], World::working()).await.proven_and_healed();
        assert!(began.elapsed() >= DOWN, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        life("node-restart", &["worker-1"], World::inert()).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_never_starts_is_not_proven_restarted() {
        life("node-restart", &["worker-1"], World::working().stuck()).await.not_proven();
    }
}
