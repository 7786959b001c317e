//! Leaves out nodes on which a port of the host that the pod wants is taken.
//!
//! ```yaml
//! kind: Pod
//! spec: {containers: [{name: web, ports: [{containerPort: 80, hostPort: 80}]}]}
//! ```

use super::{Plugin, Refusal};
use crate::{NodeInfo, PodInfo};

/// The plugin.
pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn turn(&self) -> u8 {
        4
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
        if pod.ports.is_empty() {
            return None;
        }
        let mut taken = node.pods.values().flat_map(|pod| &pod.ports);
        if !taken.any(|taken| pod.ports.iter().any(|wanted| wanted.conflicts(taken))) {
            return None;
        }
        let reason = "node(s) didn't have free ports for the requested pod ports".to_owned();
        Some(Refusal { reasons: vec![reason], is_final: false })
    }
}
