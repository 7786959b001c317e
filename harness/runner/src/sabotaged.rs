//! Planted defects of faults: a fault that does nothing, the wrong thing, or says what is not so.
//!
//! Without a switch a fault is handed on as it is.

use shakedown_core::fault::{Fault, FaultCx, FaultError, Proof};
use shakedown_core::lever::{LeverKind, Undo};
use shakedown_core::sabotage::{Sabotage, Switches};
use shakedown_core::target::ClusterFact;
use shakedown_core::timeline::Evidence;

/// The fault with the defects that are switched on. `elsewhere` is the same fault on other nodes.
pub(crate) fn sabotaged(
    fault: Box<dyn Fault>,
    elsewhere: Option<Box<dyn Fault>>,
    switches: &Switches,
) -> Box<dyn Fault> {
    let defects = [
        Sabotage::FaultDoesNothing,
        Sabotage::FaultFeigned,
        Sabotage::FaultHitsWrongNode,
        Sabotage::HealDoesNothing,
        Sabotage::HealFeigned,
    ];
    if !defects.iter().any(|defect| switches.on(*defect)) {
        return fault;
    }
    let elsewhere = elsewhere.filter(|_| switches.on(Sabotage::FaultHitsWrongNode));
    Box::new(Sabotaged { fault, elsewhere, switches: switches.clone() })
}

/// As many nodes of the same role that are none of these; `None` if there are not so many, or these
/// are no nodes.
pub(crate) fn other_nodes(cluster: &ClusterFact, nodes: &[String]) -> Option<Vec<String>> {
    let first = cluster.nodes.iter().find(|node| Some(&node.name) == nodes.first())?;
    let others: Vec<String> = cluster
        .names(first.role)
        .into_iter()
        .filter(|name| !nodes.contains(name))
        .take(nodes.len())
        .collect();
    (others.len() == nodes.len()).then_some(others)
}

struct Sabotaged {
    fault: Box<dyn Fault>,
    elsewhere: Option<Box<dyn Fault>>,
    switches: Switches,
}

/// A proof with everything in it but the truth.
fn made_up() -> Proof {
    let piece = |kind: &str| Evidence {
        kind: kind.to_owned(),
        text: "made up".to_owned(),
        holds: true,
        reading: None,
    };
    Proof { evidence: ["counter", "behaviour", "control"].map(piece).to_vec() }
}

#[async_trait::async_trait]
impl Fault for Sabotaged {
    fn needs(&self) -> Vec<LeverKind> {
        self.fault.needs()
    }

    fn targets(&self) -> Vec<String> {
        self.fault.targets()
    }

    fn undos(&self) -> Vec<Undo> {
        self.fault.undos()
    }

    async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        if let Some(elsewhere) = &mut self.elsewhere {
            elsewhere.baseline(cx).await?;
        }
        self.fault.baseline(cx).await
    }

    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        let on = |sabotage| self.switches.on(sabotage);
        if on(Sabotage::FaultDoesNothing) || on(Sabotage::FaultFeigned) {
            return Ok(());
        }
        match &mut self.elsewhere {
            Some(elsewhere) => elsewhere.inject(cx).await,
            None => self.fault.inject(cx).await,
        }
    }

    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        match self.switches.on(Sabotage::FaultFeigned) {
            true => Ok(made_up()),
            false => self.fault.prove(cx).await,
        }
    }

    fn is_momentary(&self) -> bool {
        self.fault.is_momentary()
    }

    async fn remove(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        let on = |sabotage| self.switches.on(sabotage);
        if on(Sabotage::HealDoesNothing) || on(Sabotage::HealFeigned) {
            return Ok(());
        }
        self.fault.remove(cx).await
    }

    async fn prove_healed(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        let on = |sabotage| self.switches.on(sabotage);
        match on(Sabotage::FaultFeigned) || on(Sabotage::HealFeigned) {
            true => Ok(made_up()),
            false => self.fault.prove_healed(cx).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shakedown_core::target::{NodeFact, Parameters, Role};

    #[test]
    fn other_nodes_play_the_same_role() {
        let node = |name: &str, role| NodeFact { name: name.into(), role, address: String::new() };
        let nodes = vec![
            node("cp-1", Role::ControlPlane),
            node("worker-1", Role::Worker),
            node("worker-2", Role::Worker),
        ];
        let cluster = ClusterFact { nodes, parameters: Parameters::default() };
        let other = |names: &[&str]| {
            other_nodes(&cluster, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(other(&["worker-1"]), Some(vec!["worker-2".to_owned()]));
        assert_eq!(other(&["worker-1", "worker-2"]), None);
        assert_eq!((other(&["cp-1"]), other(&["shop/web"]), other(&[])), (None, None, None));
    }
}
