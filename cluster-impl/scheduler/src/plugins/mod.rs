//! The registry of plugins: one file each, one line each in [`ALL`], in order of the file's name.

use crate::{NodeInfo, PodInfo};

macro_rules! registry {
    ($($module:ident :: $name:ident,)+) => {
        $(mod $module;)+
        $(pub use $module::$name;)+

        /// Every plugin.
        pub static ALL: &[&dyn Plugin] = &[$(&$name,)+];
    };
}

registry! {
    node_affinity::NodeAffinity,
    node_name::NodeName,
    node_ports::NodePorts,
    node_resources_balanced_allocation::NodeResourcesBalancedAllocation,
    node_resources_fit::NodeResourcesFit,
    node_unschedulable::NodeUnschedulable,
    taint_toleration::TaintToleration,
}

/// The best score that a plugin gives.
pub const SCORE_MAX: i64 = 100;

/// Why a node does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In upstream's words.
    pub reasons: Vec<String>,
    /// Whether the node would not fit either if pods went from it.
    pub is_final: bool,
}

/// A plugin: it may refuse nodes, score them, or both. Pure.
pub trait Plugin: Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Its turn among the filters: the first refusal is the reason that is told.
    fn turn(&self) -> u8;

    /// Why the pod does not fit the node; `None` if it does.
    fn filter(&self, _pod: &PodInfo, _node: &NodeInfo) -> Option<Refusal> {
        None
    }

    /// How well the pod fits the node, in units of its own.
    fn score(&self, _pod: &PodInfo, _node: &NodeInfo) -> i64 {
        0
    }

    /// Brings the scores of all nodes to between 0 and [`SCORE_MAX`].
    fn normalize(&self, _scores: &mut [i64]) {}

    /// How much its score counts.
    fn weight(&self) -> i64 {
        1
    }
}

/// All plugins in the order in which they filter.
pub fn in_turn() -> Vec<&'static dyn Plugin> {
    let mut plugins = ALL.to_vec();
    plugins.sort_by_key(|plugin| plugin.turn());
    plugins
}

/// Stretches scores so that the highest becomes [`SCORE_MAX`]; or, reversed, the lowest.
fn stretch(scores: &mut [i64], is_reversed: bool) {
    let most = scores.iter().copied().max().unwrap_or_default();
    for score in scores {
        let stretched = if most == 0 { 0 } else { *score * SCORE_MAX / most };
        *score = if is_reversed { SCORE_MAX - stretched } else { stretched };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_registered_in_order() {
        let source = include_str!("mod.rs");
        let listed: Vec<_> = source
            .lines()
            .filter_map(|line| line.strip_prefix("    ")?.split_once("::"))
            .filter(|(_, rest)| rest.ends_with(','))
            .map(|(module, _)| module.to_owned())
            .collect();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/plugins");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter_map(|name| Some(name.strip_suffix(".rs")?.to_owned()))
            .filter(|name| name != "mod")
            .collect();
        files.sort();
        assert_eq!(listed, files);
        assert_eq!(listed.len(), ALL.len());
    }

    #[test]
    fn scores_are_stretched_to_a_hundred() {
        for (scores, is_reversed, expected) in [
            (vec![1, 2, 4], false, vec![25, 50, 100]),
            (vec![1, 2, 4], true, vec![75, 50, 0]),
            (vec![0, 0], false, vec![0, 0]),
            (vec![0, 0], true, vec![100, 100]),
        ] {
            let mut scores = scores;
            stretch(&mut scores, is_reversed);
            assert_eq!(scores, expected);
        }
    }
}
