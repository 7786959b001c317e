//! `taint-noexecute`: A NoExecute taint on a node: pods that do not tolerate it are evicted. The value is
//! `shk-<step>` unless said, so that the taint cannot be mistaken for another.
//!
//! ```yaml
//! fault: taint-noexecute
//! on: worker-1
//! key: example.com/maintenance
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
    name: "taint-noexecute",
    summary: "a NoExecute taint on a node until healed",
    fields: &["key", "value"],
    needs: &[LeverKind::Api],
    sample: "fault: taint-noexecute\non: worker-1\nkey: example.com/maintenance\nfor: 60s\n",
    build,
};

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    let fields = Fields::of(spec, KIND.fields)?;
    Ok(Box::new(Taints::of(spec, &fields, "NoExecute")?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::scripted::{World, life, life_amid, life_of, spec};

    #[tokio::test(start_paused = true)]
    async fn it_is_proven_and_healed() {
        life("taint-noexecute", &["worker-1"], World::working()).await.proven_and_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        life("taint-noexecute", &["worker-1"], World::inert()).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_stays_it_is_not_healed() {
        life("taint-noexecute", &["worker-1"], World::working().stuck()).await.not_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn another_taint_of_the_same_key_is_left_alone() {
        let mut step = spec("taint-noexecute", &["worker-1"]);
        step.fields.insert("key".to_owned(), json!("example.com/maintenance"));
        let other = json!({"key": "example.com/maintenance", "value": "", "effect": "NoExecute"});
        let world = World::working();
        world.edit("/api/v1/nodes/worker-1", |node| node["spec"]["taints"] = json!([other]));
        life_of(&step, world.clone()).await.proven_and_healed();
        assert_eq!(world.object("/api/v1/nodes/worker-1")["spec"]["taints"], json!([other]));
    }

    #[tokio::test(start_paused = true)]
    async fn another_taint_that_goes_by_itself_says_nothing() {
        let world = World::working();
        let other = json!({"key": "example.com/drill", "value": "a", "effect": "NoSchedule"});
        world.edit("/api/v1/nodes/worker-1", |node| node["spec"]["taints"] = json!([other]));
        let goes = |world: &World| {
            world.edit("/api/v1/nodes/worker-1", |node| {
                let taints = node["spec"]["taints"].as_array_mut().unwrap();
                taints.retain(|taint| taint["key"] != "example.com/drill");
            });
        };
        let step = spec("taint-noexecute", &["worker-1"]);
        life_amid(&step, world, goes).await.proven_and_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_does_not_answer_is_passed_over() {
        let world = World::working().with_deaf_api_server("cp-1");
        life("taint-noexecute", &["worker-1"], world).await.proven_and_healed();
    }
}
