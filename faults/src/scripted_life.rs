//! The life of a fault in the scripted cluster: everything that the runner does with one, in its order.

use std::collections::BTreeSet;

use shakedown_core::fault::{FaultCx, FaultError, FaultSpec, Proof};
use shakedown_core::lever::Reading;
use shakedown_core::target::Target;

use crate::scripted::World;

/// A step without fields of its own, named `step`.
pub(crate) fn spec(fault: &str, on: &[&str]) -> FaultSpec {
    FaultSpec {
        fault: fault.to_owned(),
        name: "step".to_owned(),
        on: on.iter().map(|name| (*name).to_owned()).collect(),
        ..FaultSpec::default()
    }
}

/// A step of a fault in the conversation of a component: the controller-manager of cp-1, if the fields
/// name no other.
pub(crate) fn rule_step(fault: &str, fields: serde_json::Value) -> FaultSpec {
    let mut step = spec(fault, &["cp-1"]);
    step.fields = serde_json::from_value(fields).unwrap();
    step.fields.entry("component".to_owned()).or_insert("kube-controller-manager".into());
    step
}

/// What came of a fault that went through its whole life.
pub(crate) struct Life {
    pub(crate) momentary: bool,
    outcome: Result<(Proof, Proof), FaultError>,
}

/// The life of a fault without fields.
pub(crate) async fn life(fault: &str, on: &[&str], world: World) -> Life {
    life_of(&spec(fault, on), world).await
}

/// The life of a fault, as the runner leads it.
pub(crate) async fn life_of(step: &FaultSpec, world: World) -> Life {
    life_amid(step, world, |_| {}).await
}

/// The same, when something else happens to the cluster after the first proof.
pub(crate) async fn life_amid(
    step: &FaultSpec,
    mut world: World,
    meanwhile: impl FnOnce(&World),
) -> Life {
    let other_hand = world.clone();
    let mut fault = crate::build(step).unwrap_or_else(|error| panic!("the step is wrong: {error}"));
    world.logs(fault.undos());
    let (cluster, endpoints) = (world.cluster(), world.endpoints());
    let mut cx = FaultCx { target: &mut world, cluster: &cluster, endpoints: &endpoints };
    let momentary = fault.is_momentary();
    let outcome = async {
        fault.baseline(&mut cx).await?;
        fault.inject(&mut cx).await?;
        fault.prove(&mut cx).await?;
        meanwhile(&other_hand);
        let proven = fault.prove(&mut cx).await?;
        fault.remove(&mut cx).await?;
        Ok((proven, fault.prove_healed(&mut cx).await?))
    };
    let outcome = outcome.await;
    Life { momentary, outcome }
}

impl Life {
    fn proofs(&self) -> (&Proof, &Proof) {
        let (proven, healed) = self.outcome.as_ref().expect("no step of its life failed");
        (proven, healed)
    }

    /// Both proofs hold, and the first rests on all three kinds of evidence.
    pub(crate) fn proven_and_healed(self) {
        let (proven, healed) = self.proofs();
        assert!(proven.holds(), "{proven:#?}");
        let kinds: BTreeSet<_> = proven.evidence.iter().map(|piece| piece.kind.as_str()).collect();
        assert_eq!(kinds, BTreeSet::from(["behaviour", "control", "counter"]));
        assert!(healed.holds(), "{healed:#?}");
    }

    /// How often its rules were met, as its end says.
    pub(crate) fn hits(&self) -> Option<u64> {
        let met = self.proofs().1.evidence.iter().filter_map(|piece| match piece.reading {
            Some(Reading::Meddled { in_place: true, hits }) => Some(hits),
            _ => None,
        });
        met.max()
    }

    /// It could not be shown to be in effect.
    pub(crate) fn not_proven(self) {
        let (proven, _) = self.proofs();
        assert!(!proven.holds(), "{proven:#?}");
    }

    /// It was in effect, and could not be shown to be gone.
    pub(crate) fn not_healed(self) {
        let (proven, healed) = self.proofs();
        assert!(proven.holds(), "{proven:#?}");
        assert!(!healed.holds(), "{healed:#?}");
    }

    /// A step of its life failed; why.
    pub(crate) fn failed(self) -> String {
        self.outcome.expect_err("a step of its life failed").to_string()
    }
}
