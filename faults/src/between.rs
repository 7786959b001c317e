//! What the faults between two groups of nodes share: the sides, the directions, paths beside them.

use shakedown_core::fault::{FaultCx, FaultSpec, SpecError};
use shakedown_core::lever::Traffic;
use shakedown_core::target::ClusterFact;

use crate::evidence::reach;

/// How many untouched paths are noted; one that behaves as before is enough.
const CONTROLS_MAX: usize = 6;

/// Which way something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Both,
    To,
    From,
}

/// The directions, as they are written.
pub(crate) const DIRECTIONS: &[(&str, Direction)] =
    &[("both", Direction::Both), ("from", Direction::From), ("to", Direction::To)];

/// The kinds of traffic, as they are written.
pub(crate) const TRAFFICS: &[(&str, Traffic)] = &[
    ("all", Traffic::All),
    ("api", Traffic::Api),
    ("etcd-client", Traffic::EtcdClient),
    ("etcd-peer", Traffic::EtcdPeer),
];

/// The word for a kind of traffic.
pub(crate) fn word(traffic: Traffic) -> &'static str {
    TRAFFICS.iter().find(|(_, known)| *known == traffic).map_or("all", |(word, _)| word)
}

/// A path: who asks, who answers, at which port.
pub(crate) type PathOf = (String, String, Traffic);

/// One direction: what is done to packets from `from` is done where they enter `to`.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub(crate) id: String,
    pub(crate) from: Vec<String>,
    pub(crate) to: Vec<String>,
}

impl Way {
    /// Pairs that together cover every sender and every receiver.
    pub(crate) fn pairs(&self) -> Vec<(String, String)> {
        let pairs = self.from.len().max(self.to.len());
        (0..pairs)
            .map(|at| {
                let from = self.from[at % self.from.len()].clone();
                (from, self.to[at % self.to.len()].clone())
            })
            .collect()
    }
}

/// The two groups that a step is between.
pub(crate) fn sides(spec: &FaultSpec) -> Result<(Vec<String>, Vec<String>), SpecError> {
    let hint = "say `between: [one side, other side]`, or `from:` and `to:`".to_owned();
    let fault = &spec.fault;
    let [first, second] = spec.sides.as_slice() else {
        return Err(SpecError {
            field: "between".to_owned(),
            message: format!("fault `{fault}` needs two sides, not {}", spec.sides.len()),
            hint,
        });
    };
    if !spec.on.is_empty() {
        return Err(SpecError {
            field: "on".to_owned(),
            message: format!("fault `{fault}` is not done to nodes but between them"),
            hint,
        });
    }
    if let Some(both) = first.iter().find(|name| second.contains(name)) {
        return Err(SpecError {
            field: "between".to_owned(),
            message: format!("`{both}` stands on both sides"),
            hint: "a node cannot be cut off from itself".to_owned(),
        });
    }
    if first.is_empty() || second.is_empty() {
        return Err(SpecError {
            field: "between".to_owned(),
            message: "one side is empty".to_owned(),
            hint,
        });
    }
    Ok((first.clone(), second.clone()))
}

/// The ways of a step, and the one that stays untouched if it is one-way.
pub(crate) fn ways(
    name: &str,
    direction: Direction,
    (first, second): (Vec<String>, Vec<String>),
) -> (Vec<Way>, Option<Way>) {
    let to = Way { id: format!("{name}-to"), from: first.clone(), to: second.clone() };
    let from = Way { id: format!("{name}-from"), from: second, to: first };
    match direction {
        Direction::Both => (vec![to, from], None),
        Direction::To => (vec![to], Some(from)),
        Direction::From => (vec![from], Some(to)),
    }
}

/// Paths that are left untouched: to nodes outside, within a side, of other traffic.
pub(crate) fn untouched_paths(
    cluster: &ClusterFact,
    (first, second): (&[String], &[String]),
    traffic: Traffic,
) -> Vec<PathOf> {
    let nodes = cluster.nodes.iter().map(|node| &node.name);
    let outside: Vec<_> =
        nodes.filter(|name| !first.contains(name) && !second.contains(name)).collect();
    let mut paths = Vec::new();
    for to in &outside {
        paths.push((first[0].clone(), (*to).clone(), Traffic::All));
        paths.push((second[0].clone(), (*to).clone(), Traffic::All));
    }
    for side in [first, second] {
        for pair in side.windows(2) {
            paths.push((pair[0].clone(), pair[1].clone(), Traffic::All));
        }
    }
    if traffic != Traffic::All {
        paths.push((first[0].clone(), second[0].clone(), Traffic::All));
    }
    paths.truncate(CONTROLS_MAX);
    paths
}

/// Those of the untouched paths that answer now.
pub(crate) async fn answering(cx: &mut FaultCx<'_>, paths: Vec<PathOf>) -> Vec<PathOf> {
    let mut answering = Vec::new();
    for (from, to, traffic) in paths {
        if reach(cx, &from, &to, traffic).await.ok {
            answering.push((from, to, traffic));
        }
    }
    answering
}
