//! `freeze-view`: from the `nth` notification of a `kind` on, a component gets none, and lists show it
//! what was before: its view of the kind stands still until healed.
//!
//! ```yaml
//! fault: freeze-view
//! on: leader of kube-controller-manager
//! component: kube-controller-manager
//! kind: pods
//! for: 30s
//! ```
//!
//! As behind an API server whose watch cache has stopped.
//! Proven, healed, and worth nothing unless met: see `meddling.rs`.

use shakedown_core::fault::{Fault, FaultKind, FaultSpec, SpecError};
use shakedown_core::lever::{LeverKind, Rule};

use crate::meddling::{self, Meddling};
use crate::spec::Fields;

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "freeze-view",
    summary: "a component's view of a kind stands still",
    fields: &["component", "kind", "nth"],
    needs: &[LeverKind::Meddle],
    sample: "fault: freeze-view\non: leader of kube-controller-manager\ncomponent: kube-controller-manager\nkind: pods\nfor: 30s\n",
    build,
};

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    let fields = Fields::of(spec, KIND.fields)?;
    let rule = Rule::FreezeView {
        kind: meddling::kind_needed(&fields, KIND.name)?,
        nth: fields.count("nth")?.unwrap_or(1),
    };
    Ok(Box::new(Meddling::of(spec, &KIND, rule)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scripted::{World, life_of, rule_step};

    fn step(fields: serde_json::Value) -> FaultSpec {
        rule_step(KIND.name, fields)
    }

    #[tokio::test(start_paused = true)]
    async fn armed_and_met_it_is_proven_and_healed_and_says_so() {
        let life = life_of(&step(json!({"kind": "pods"})), World::working()).await;
        assert_eq!(life.hits(), Some(0));
        life.proven_and_healed();
        let life =
            life_of(&step(json!({"kind": "pods"})), World::working().that_meets_every_rule()).await;
        assert_eq!(life.hits(), Some(1));
        life.proven_and_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        life_of(&step(json!({"kind": "pods"})), World::inert()).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_is_not_lifted_it_is_not_healed() {
        life_of(&step(json!({"kind": "pods"})), World::working().stuck()).await.not_healed();
    }

    #[test]
    fn what_makes_no_rule_is_refused() {
        for (fields, field) in [(json!({}), "kind"), (json!({"kind": "pods", "nth": -1}), "nth")] {
            let error = build(&step(fields.clone())).err().unwrap_or_else(|| panic!("{fields}"));
            assert_eq!(error.field, field, "{fields}: {error:?}");
            assert!(!error.hint.is_empty());
        }
    }
}
