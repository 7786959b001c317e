//! Leaves out nodes that do not match nodeSelector and required affinity; prefers preferred ones.
//!
//! ```yaml
//! kind: Pod
//! spec:
//!   nodeSelector: {disk: ssd}
//!   affinity:
//!     nodeAffinity:
//!       preferredDuringSchedulingIgnoredDuringExecution:
//!       - weight: 50
//!         preference: {matchExpressions: [{key: zone, operator: In, values: [a]}]}
//! ```

use machinery::selector::{node_affinity_preferences, node_matches};

use super::{Plugin, Refusal, stretch};
use crate::{NodeInfo, PodInfo};

/// The plugin.
pub struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn turn(&self) -> u8 {
        3
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
        if node.node.as_ref().is_some_and(|node| node_matches(&pod.pod, node)) {
            return None;
        }
        let reason = "node(s) didn't match Pod's node affinity/selector".to_owned();
        Some(Refusal { reasons: vec![reason], is_final: true })
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        node.node.as_ref().map_or(0, |node| node_affinity_preferences(&pod.pod, node))
    }

    fn normalize(&self, scores: &mut [i64]) {
        stretch(scores, false);
    }

    fn weight(&self) -> i64 {
        2
    }
}
