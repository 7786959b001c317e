//! `taint`: A taint that keeps new pods off a node: NoSchedule, or PreferNoSchedule if `effect` says so.
//! The value is `shk-<step>` unless said. For NoExecute there is `taint-noexecute`.
//!
//! ```yaml
//! fault: taint
//! on: worker-1
//! key: example.com/dedicated
//! effect: NoSchedule
//! for: 60s
//! ```
//!
//! Proven: two API servers, where there are two, show the Node with the taint, at another revision
//! than before; its other taints are as before, and an untouched Node does not have it.
//! Healed: exactly this taint is gone; the other ones are as before.

use shakedown_core::fault::{Fault, FaultKind, FaultSpec, SpecError};
use shakedown_core::lever::LeverKind;

use crate::spec::Fields;
use crate::taints::Taints;

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "taint",
    summary: "a taint that keeps new pods off a node until healed",
    fields: &["effect", "key", "value"],
    needs: &[LeverKind::Api],
    sample: "fault: taint\non: worker-1\nkey: example.com/dedicated\neffect: NoSchedule\nfor: 60s\n",
    build,
};

const EFFECTS: &[(&str, &str)] =
    &[("NoSchedule", "NoSchedule"), ("PreferNoSchedule", "PreferNoSchedule")];

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    let fields = Fields::of(spec, KIND.fields)?;
    let effect = fields.choice("effect", EFFECTS)?.unwrap_or("NoSchedule");
    Ok(Box::new(Taints::of(spec, &fields, effect)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scripted::{World, life, spec};

    #[tokio::test(start_paused = true)]
    async fn it_is_proven_and_healed() {
        life("taint", &["worker-1"], World::working()).await.proven_and_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        life("taint", &["worker-1"], World::inert()).await.not_proven();
    }

    #[test]
    fn the_effect_is_one_of_kubernetes_own() {
        let mut step = spec("taint", &["worker-1"]);
        step.fields.insert("effect".to_owned(), json!("NoShedule"));
        let error = build(&step).err().unwrap();
        assert_eq!(error.message, "`effect` cannot be `NoShedule`");
        assert_eq!(error.hint, "did you mean `NoSchedule`?");
    }
}
