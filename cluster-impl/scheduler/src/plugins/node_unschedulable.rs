//! Leaves out cordoned nodes, unless the pod tolerates that.
//!
//! ```yaml
//! kind: Node
//! spec: {unschedulable: true}
//! ```

use machinery::Taint;

use super::{Plugin, Refusal};
use crate::{NodeInfo, PodInfo};

/// The plugin.
pub struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn turn(&self) -> u8 {
        0
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
        let is_cordoned = node.node.as_ref().is_some_and(|node| node.flag("/spec/unschedulable"));
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
            time_added: None,
        };
        if !is_cordoned || pod.tolerations.iter().any(|toleration| toleration.tolerates(&taint)) {
            return None;
        }
        Some(Refusal { reasons: vec!["node(s) were unschedulable".to_owned()], is_final: true })
    }
}
