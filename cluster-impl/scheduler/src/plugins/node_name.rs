//! Leaves out every node but the one that the pod names.
//!
//! ```yaml
//! kind: Pod
//! spec: {nodeName: worker-1}
//! ```

use super::{Plugin, Refusal};
use crate::{NodeInfo, PodInfo};

/// The plugin.
pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn turn(&self) -> u8 {
        1
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
        let wanted = pod.pod.text("/spec/nodeName");
        if wanted.is_empty() || node.node.as_ref().is_some_and(|node| node.name() == wanted) {
            return None;
        }
        let reason = "node(s) didn't match the requested node name".to_owned();
        Some(Refusal { reasons: vec![reason], is_final: true })
    }
}
