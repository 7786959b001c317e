//! Leaves out nodes with a taint that the pod does not tolerate; prefers those without a soft one.
//!
//! ```yaml
//! kind: Node
//! spec: {taints: [{key: hw, value: gpu, effect: NoSchedule}]}
//! ---
//! kind: Pod
//! spec: {tolerations: [{key: hw, operator: Equal, value: gpu, effect: NoSchedule}]}
//! ```

use machinery::Taint;

use super::{Plugin, Refusal, stretch};
use crate::{NodeInfo, PodInfo};

/// The plugin.
pub struct TaintToleration;

fn repels(pod: &PodInfo, taint: &Taint) -> bool {
    !pod.tolerations.iter().any(|toleration| toleration.tolerates(taint))
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn turn(&self) -> u8 {
        2
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
        let is_hard = |taint: &&Taint| matches!(&*taint.effect, "NoSchedule" | "NoExecute");
        let taint = node.taints.iter().filter(is_hard).find(|taint| repels(pod, taint))?;
        let reason = format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value);
        Some(Refusal { reasons: vec![reason], is_final: true })
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let is_soft = |taint: &&Taint| taint.effect == "PreferNoSchedule";
        let repelling = node.taints.iter().filter(is_soft).filter(|taint| repels(pod, taint));
        i64::try_from(repelling.count()).unwrap_or(i64::MAX)
    }

    fn normalize(&self, scores: &mut [i64]) {
        stretch(scores, true);
    }

    fn weight(&self) -> i64 {
        3
    }
}
