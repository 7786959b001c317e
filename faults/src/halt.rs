//! What `node-kill` and `node-pause` share: nodes that all come to the same end at once, and run again
//! when healed. The file of each says how that is proven.

use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultKind, FaultSpec, Proof, SpecError};
use shakedown_core::lever::{Lever, LeverKind, NodeState, Undo};

use crate::evidence::proof;
use crate::nodes::Victims;
use crate::spec::{self, Fields};

/// Nodes that lose power, or stand still.
pub(crate) struct Halt {
    victims: Victims,
    /// What they are in then: dead or paused.
    state: NodeState,
}

impl Halt {
    /// Reads the step of a fault after which nodes are in this state.
    pub(crate) fn of(
        spec: &FaultSpec,
        kind: &FaultKind,
        state: NodeState,
    ) -> Result<Box<dyn Fault>, SpecError> {
        Fields::of(spec, kind.fields)?;
        let victims = Victims::new(spec::on(spec, "nodes")?);
        Ok(Box::new(Halt { victims, state }))
    }

    fn levers(&self) -> Vec<Lever> {
        let lever = |node: &String| match self.state {
            NodeState::Paused => Lever::PauseNode { node: node.clone() },
            NodeState::Dead | NodeState::Running => Lever::KillNode { node: node.clone() },
        };
        self.victims.names().iter().map(lever).collect()
    }
}

#[async_trait::async_trait]
impl Fault for Halt {
    fn needs(&self) -> Vec<LeverKind> {
        self.levers().first().map(Lever::kind).into_iter().collect()
    }

    fn targets(&self) -> Vec<String> {
        self.victims.names().to_vec()
    }

    fn undos(&self) -> Vec<Undo> {
        self.levers().iter().map(Lever::undo).collect()
    }

    async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.victims.baseline(cx).await
    }

    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        for lever in self.levers() {
            cx.target.pull(&lever).await?;
        }
        Ok(())
    }

    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        Ok(proof(self.victims.prove(cx, self.state).await?))
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
        // A paused node goes on as the one that it was; a dead one starts anew.
        let is_restarted = self.state != NodeState::Paused;
        Ok(proof(self.victims.prove_healed(cx, is_restarted).await?))
    }
}
