//! TaintNodesByCondition: nothing is scheduled onto a new node before it is known to be ready.
//!
//! The node lifecycle controller takes the taint off again.

use machinery::Status;
use machinery::kinds::NODE;
use serde_json::json;

use super::{Operation, Plugin, Review, Step};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "TaintNodesByCondition",
    stage: 8,
    admit: Step::Now(admit),
    validate: Step::Nothing,
};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const NO_SCHEDULE: &str = "NoSchedule";

fn admit(review: &mut Review<'_>) -> Result<(), Status> {
    let Some(node) = review.written(NODE.id, &[Operation::Create]) else { return Ok(()) };
    let known = node.taints();
    if !known.iter().any(|taint| taint.key == NOT_READY && taint.effect == NO_SCHEDULE) {
        let mut taints = node.list("/spec/taints").to_vec();
        taints.push(json!({"key": NOT_READY, "effect": NO_SCHEDULE}));
        node.set("/spec/taints", taints);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use machinery::Object;

    use super::super::tests::created;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_new_node_is_tainted_once() {
        let own = json!({"key": "hw", "effect": NO_SCHEDULE});
        let added = json!({"key": NOT_READY, "effect": NO_SCHEDULE});
        let other = json!({"key": NOT_READY, "effect": "NoExecute"});
        for (before, after) in [
            (json!([]), json!([added])),
            (json!([own]), json!([own, added])),
            (json!([added]), json!([added])),
            (json!([other]), json!([other, added])),
        ] {
            let mut node = Object(json!({"metadata": {"name": "n"}, "spec": {"taints": before}}));
            created(&PLUGIN, &NODE, &mut node).await.unwrap();
            assert_eq!(node.0["spec"]["taints"], after);
        }
    }
}
