//! `disk-loss`: a node loses power and its disk; healed, it starts again with an empty one.
//!
//! ```yaml
//! fault: disk-loss
//! on: any worker
//! for: 60s
//! ```
//!
//! A worker comes back without containers and images; an etcd member is replaced by a new one that
//! learns everything from the others.
//!
//! Proven: the node is dead; an untouched node that reached it before gets no answer, and reaches
//! another one; its disk is not the one that it had.
//! Healed: the node runs, was started anew, answers three times in a row, on another disk.

use std::collections::BTreeMap;

use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultKind, FaultSpec, Proof, SpecError};
use shakedown_core::lever::{Lever, LeverKind, NodeState, Undo};
use shakedown_core::timeline::Evidence;

use crate::evidence::{counter, proof};
use crate::nodes::Victims;
use crate::readings::disk;
use crate::spec::{self, Fields};

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "disk-loss",
    summary: "a node loses power and its disk, and starts again with an empty one",
    fields: &[],
    needs: &[LeverKind::KillNode, LeverKind::LoseDisk],
    sample: "fault: disk-loss\non: any worker\nfor: 60s\n",
    build,
};

struct DiskLoss {
    victims: Victims,
    /// The disk of each before.
    disks: BTreeMap<String, String>,
    /// Why a disk could not be lost, if it could not.
    refused: Option<String>,
}

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    Fields::of(spec, KIND.fields)?;
    let victims = Victims::new(spec::on(spec, "nodes")?);
    Ok(Box::new(DiskLoss { victims, disks: BTreeMap::new(), refused: None }))
}

impl DiskLoss {
    async fn on_other_disks(&self, cx: &mut FaultCx<'_>) -> Result<Vec<Evidence>, FaultError> {
        let mut evidence = Vec::new();
        for name in self.victims.names() {
            let now = disk(cx, name).await?;
            let before = self.disks.get(name);
            let is_other = before.is_some_and(|before| *before != now);
            let text = format!(
                "the disk of {name} is {now}; before: {}",
                before.map_or("unknown", String::as_str)
            );
            evidence.push(counter(text, is_other, None));
        }
        Ok(evidence)
    }
}

#[async_trait::async_trait]
impl Fault for DiskLoss {
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
        self.victims.baseline(cx).await?;
        for name in self.victims.names() {
            let disk = disk(cx, name).await?;
            self.disks.insert(name.clone(), disk);
        }
        Ok(())
    }

    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        for node in self.victims.names() {
            cx.target.pull(&Lever::KillNode { node: node.clone() }).await?;
        }
        for node in self.victims.names() {
            // A disk that etcd cannot do without is refused: the node is dead then, and no more.
            let lever = Lever::LoseDisk { node: node.clone() };
            if let Err(error) = cx.target.pull(&lever).await {
                self.refused = Some(error.to_string());
            }
        }
        Ok(())
    }

    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        let mut evidence = self.victims.prove(cx, NodeState::Dead).await?;
        if let Some(why) = &self.refused {
            evidence.push(counter(format!("a disk was kept: {why}"), false, None));
        }
        evidence.extend(self.on_other_disks(cx).await?);
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
        let mut evidence = self.victims.prove_healed(cx, true).await?;
        if self.refused.is_none() {
            evidence.extend(self.on_other_disks(cx).await?);
        }
        Ok(proof(evidence))
    }
}

#[cfg(test)]
mod tests {
    use crate::scripted::{World, life};

    #[tokio::test(start_paused = true)]
    async fn it_is_proven_and_healed() {
        life("disk-loss", &["worker-1"], World::working()).await.proven_and_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        life("disk-loss", &["worker-1"], World::inert()).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_keeps_its_disk_is_not_proven() {
        life("disk-loss", &["worker-1"], World::working().that_forgets_nothing())
            .await
            .not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_never_starts_it_is_not_healed() {
        life("disk-loss", &["worker-1"], World::working().stuck()).await.not_healed();
    }
}
