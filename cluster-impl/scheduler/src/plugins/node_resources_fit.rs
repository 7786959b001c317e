//! Leaves out nodes without room for the pod's requests; prefers those with the most room left.
//!
//! ```yaml
//! kind: Pod
//! spec: {containers: [{name: web, resources: {requests: {cpu: 500m, memory: 1Gi}}}]}
//! ```

use machinery::Quantity;

use super::{Plugin, Refusal, SCORE_MAX};
use crate::{NodeInfo, PodInfo};

/// The plugin, with upstream's default strategy LeastAllocated over cpu and memory.
pub struct NodeResourcesFit;

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn turn(&self) -> u8 {
        5
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
        let mut reasons = Vec::new();
        let pods_max = usize::try_from(node.offers("pods").value()).unwrap_or_default();
        if node.pods.len() + 1 > pods_max {
            reasons.push("Too many pods".to_owned());
        }
        // A pod that can never fit is not helped by others' going.
        let mut is_final = false;
        for (resource, wanted) in &pod.requests {
            if wanted.is_zero() {
                continue;
            }
            let offered = node.offers(resource);
            if *wanted + node.asked(resource) > offered {
                reasons.push(format!("Insufficient {resource}"));
                is_final |= *wanted > offered;
            }
        }
        (!reasons.is_empty()).then_some(Refusal { reasons, is_final })
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let mut scores = Vec::new();
        for resource in ["cpu", "memory"] {
            let offered = millis(node.offers(resource));
            if offered > 0 {
                let taken = taken_with(pod, node, resource);
                scores.push((offered - taken).max(0) * i128::from(SCORE_MAX) / offered);
            }
        }
        let count = i128::try_from(scores.len()).unwrap_or(1).max(1);
        i64::try_from(scores.iter().sum::<i128>() / count).unwrap_or_default()
    }
}

/// What all pods of the node and this one count, in thousandths.
pub(super) fn taken_with(pod: &PodInfo, node: &NodeInfo, resource: &str) -> i128 {
    let amount = |quantity: Option<&Quantity>| quantity.map_or(0, |quantity| millis(*quantity));
    amount(node.weight.get(resource)) + amount(pod.weight.get(resource))
}

/// Thousandths, in which large amounts of memory do not overflow.
pub(super) fn millis(quantity: Quantity) -> i128 {
    i128::from(quantity.milli_value())
}
