//! `crash-at-write`: SIGKILL to a component at its `nth` write of a `kind` (of any, unless said), before the API
//! server gets it, or after it was done and before the answer is seen (`done: true`).
//!
//! ```yaml
//! fault: crash-at-write
//! on: leader of kube-controller-manager
//! component: kube-controller-manager
//! kind: pods
//! nth: 2
//! done: true
//! ```
//!
//! Its supervisor starts it again. Once the rule was met, the process must be another one.
//! Proven, healed, and worth nothing unless met: see `meddling.rs`.

use shakedown_core::fault::{Fault, FaultKind, FaultSpec, SpecError};
use shakedown_core::lever::{LeverKind, Rule};

use crate::meddling::{self, Meddling};
use crate::spec::Fields;

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "crash-at-write",
    summary: "a component is killed at a chosen write",
    fields: &["component", "done", "kind", "nth"],
    needs: &[LeverKind::Meddle],
    sample: "fault: crash-at-write\non: leader of kube-controller-manager\ncomponent: kube-controller-manager\nkind: pods\nnth: 2\ndone: true\n",
    build,
};

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    let fields = Fields::of(spec, KIND.fields)?;
    let rule = Rule::CrashAtWrite {
        kind: meddling::kind_of(&fields)?,
        nth: fields.count("nth")?.unwrap_or(1),
        is_done: fields.flag("done")?.unwrap_or(false),
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
        let life = life_of(&step(json!({"kind": "pods", "nth": 2})), World::working()).await;
        assert_eq!(life.hits(), Some(0));
        life.proven_and_healed();
        let life = life_of(
            &step(json!({"kind": "pods", "nth": 2})),
            World::working().that_meets_every_rule(),
        )
        .await;
        assert_eq!(life.hits(), Some(1));
        life.proven_and_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        life_of(&step(json!({"kind": "pods", "nth": 2})), World::inert()).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_is_not_lifted_it_is_not_healed() {
        life_of(&step(json!({"kind": "pods", "nth": 2})), World::working().stuck())
            .await
            .not_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn a_rule_that_was_met_and_killed_nobody_is_not_proven() {
        let world = World::working().that_meets_every_rule().that_forgets_nothing();
        life_of(&step(json!({"kind": "pods"})), world).await.not_proven();
    }

    #[test]
    fn what_makes_no_rule_is_refused() {
        for (fields, field) in [
            (json!({"nth": 0}), "nth"),
            (json!({"done": "yes"}), "done"),
            (json!({"kind": "pdos"}), "kind"),
            (json!({"component": "etcd"}), "component"),
        ] {
            let error = build(&step(fields.clone())).err().unwrap_or_else(|| panic!("{fields}"));
            assert_eq!(error.field, field, "{fields}: {error:?}");
            assert!(!error.hint.is_empty());
        }
    }
}
