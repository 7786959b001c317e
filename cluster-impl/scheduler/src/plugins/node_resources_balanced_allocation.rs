//! Prefers nodes whose cpu and memory would be used to the same degree.
//!
//! A node with 90 % of its cpu and 10 % of its memory taken has no room for an ordinary pod, although
//! half of it is free.
//!
//! ```yaml
//! kind: Pod
//! spec: {containers: [{name: web, resources: {requests: {cpu: 500m, memory: 1Gi}}}]}
//! ```

use super::node_resources_fit::{millis, taken_with};
use super::{Plugin, SCORE_MAX};
use crate::{NodeInfo, PodInfo};

/// The plugin.
pub struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn turn(&self) -> u8 {
        6
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        // Shares in ten-thousandths: whole numbers give the same on every machine.
        let share = |resource: &str| {
            let offered = millis(node.offers(resource));
            (offered > 0).then(|| (taken_with(pod, node, resource) * 10_000 / offered).min(10_000))
        };
        let (Some(cpu), Some(memory)) = (share("cpu"), share("memory")) else { return SCORE_MAX };
        // The standard deviation of two values is half their distance.
        let deviation = (cpu - memory).abs() / 2;
        SCORE_MAX - i64::try_from(deviation * i128::from(SCORE_MAX) / 10_000).unwrap_or_default()
    }
}
