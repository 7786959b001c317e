//! The only fault of these tests: a node stands still.

use async_trait::async_trait;
use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultKind, FaultSpec, Proof, SpecError};
use shakedown_core::lever::{Lever, LeverKind, NodeState, Probe, Reading, Undo};
use shakedown_core::timeline::Evidence;

struct Pause {
    lever: Lever,
    node: String,
}

impl Pause {
    async fn look(&self, cx: &mut FaultCx<'_>, wanted: NodeState) -> Result<Proof, FaultError> {
        let reading = cx.target.probe(&Probe::Node { node: self.node.clone() }).await?;
        let holds = matches!(&reading, Reading::Node { state, .. } if *state == wanted);
        let piece = Evidence {
            kind: "behaviour".into(),
            text: format!("{reading:?}"),
            holds,
            reading: Some(reading),
        };
        Ok(Proof { evidence: vec![piece] })
    }
}

#[async_trait]
impl Fault for Pause {
    fn needs(&self) -> Vec<LeverKind> {
        vec![LeverKind::PauseNode]
    }
    fn targets(&self) -> Vec<String> {
        vec![self.node.clone()]
    }
    fn undos(&self) -> Vec<Undo> {
        vec![self.lever.undo()]
    }
    async fn baseline(&mut self, _: &mut FaultCx<'_>) -> Result<(), FaultError> {
        Ok(())
    }
    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        Ok(cx.target.pull(&self.lever).await?)
    }
    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        self.look(cx, NodeState::Paused).await
    }
    fn is_momentary(&self) -> bool {
        false
    }
    async fn remove(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        Ok(cx.target.undo(&self.lever.undo()).await?)
    }
    async fn prove_healed(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        self.look(cx, NodeState::Running).await
    }
}

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    let [node] = spec.on.as_slice() else {
        return Err(SpecError {
            field: "on".into(),
            message: "one node".into(),
            hint: String::new(),
        });
    };
    Ok(Box::new(Pause { lever: Lever::PauseNode { node: node.clone() }, node: node.clone() }))
}

/// The faults of these tests.
pub const REGISTRY: &[FaultKind] = &[FaultKind {
    name: "node-pause",
    summary: "everything on a node stands still",
    fields: &[],
    needs: &[LeverKind::PauseNode],
    sample: "",
    build,
}];
