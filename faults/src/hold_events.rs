//! `hold-events`: from the `nth` notification of a `kind` on, each comes to a component later, by `by`.
//!
//! ```yaml
//! fault: hold-events
//! on: leader of kube-scheduler
//! component: kube-scheduler
//! kind: pods
//! by: 3s
//! for: 30s
//! ```
//!
//! What the component sees is true, and old.
//! Proven, healed, and worth nothing unless met: see `meddling.rs`.

use shakedown_core::fault::{Fault, FaultKind, FaultSpec, SpecError};
use shakedown_core::lever::{LeverKind, Rule};

use crate::meddling::{self, Meddling};
use crate::spec::Fields;

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "hold-events",
    summary: "notifications of a kind come to a component late",
    fields: &["by", "component", "kind", "nth"],
    needs: &[LeverKind::Meddle],
    sample: "fault: hold-events\non: leader of kube-scheduler\ncomponent: kube-scheduler\nkind: pods\nby: 3s\nfor: 30s\n",
    build,
};

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    let fields = Fields::of(spec, KIND.fields)?;
    let Some(by) = fields.duration("by")?.filter(|by| !by.is_zero()) else {
        return Err(SpecError {
            field: "by".to_owned(),
            message: "fault `hold-events` does not say by how much".to_owned(),
            hint: "add `by:`, such as `by: 3s`".to_owned(),
        });
    };
    let rule = Rule::HoldEvents {
        kind: meddling::kind_needed(&fields, KIND.name)?,
        nth: fields.count("nth")?.unwrap_or(1),
        by_us: u64::try_from(by.as_micros()).unwrap_or(u64::MAX),
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
        let life = life_of(&step(json!({"kind": "pods", "by": "3s"})), World::working()).await;
        assert_eq!(life.hits(), Some(0));
        life.proven_and_healed();
        let life = life_of(
            &step(json!({"kind": "pods", "by": "3s"})),
            World::working().that_meets_every_rule(),
        )
        .await;
        assert_eq!(life.hits(), Some(1));
        life.proven_and_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        life_of(&step(json!({"kind": "pods", "by": "3s"})), World::inert()).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_is_not_lifted_it_is_not_healed() {
        life_of(&step(json!({"kind": "pods", "by": "3s"})), World::working().stuck())
            .await
            .not_healed();
    }

    #[test]
    fn what_makes_no_rule_is_refused() {
        for (fields, field) in [
            (json!({"kind": "pods"}), "by"),
            (json!({"kind": "pods", "by": "0s"}), "by"),
            (json!({"by": "3s"}), "kind"),
        ] {
            let error = build(&step(fields.clone())).err().unwrap_or_else(|| panic!("{fields}"));
            assert_eq!(error.field, field, "{fields}: {error:?}");
            assert!(!error.hint.is_empty());
        }
    }
}
