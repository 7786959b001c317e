//! What the node faults share: who watches the nodes, and what shows that they are gone or back.
//!
//! A witness is an untouched node that can, at this very moment, reach another untouched node: only
//! then does its failure to reach the victim mean anything.

use std::collections::{BTreeMap, BTreeSet};

use shakedown_core::fault::{FaultCx, FaultError};
use shakedown_core::lever::{Component, NodeState, Traffic};
use shakedown_core::target::{Role, TargetError};
use shakedown_core::timeline::Evidence;

use crate::evidence::{
    AnswerView, behaviour, control, counter, health_all, node, nodes, reach, reach_all,
    reach_all_steadily,
};

/// How many untouched nodes are asked whether they reach each victim; one that does is enough.
const WITNESSES_MAX: usize = 16;

/// The nodes of one fault, as they were before it.
#[derive(Debug, Default)]
pub(crate) struct Victims {
    names: Vec<String>,
    /// What each node's start looked like.
    started: BTreeMap<String, String>,
    /// Which untouched nodes could reach each victim, of those that were asked.
    reached_by: BTreeMap<String, Vec<String>>,
}

impl Victims {
    /// Nodes that nothing is known of yet.
    pub(crate) fn new(names: Vec<String>) -> Self {
        Self { names, ..Self::default() }
    }

    /// Their names.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Notes starts and reachability.
    pub(crate) async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        let mut witnesses = self.untouched(cx);
        witnesses.truncate(WITNESSES_MAX);
        for (name, (state, started, _)) in self.names.iter().zip(nodes(cx, &self.names).await?) {
            if state == NodeState::Running {
                self.started.insert(name.clone(), started);
            }
            self.reached_by.insert(name.clone(), Vec::new());
        }
        let of = |name: &String| {
            let name = name.clone();
            witnesses.iter().map(move |from| (from.clone(), name.clone()))
        };
        let paths: Vec<_> = self.names.iter().flat_map(of).collect();
        let answers = reach_all(cx, &paths, Traffic::All).await;
        for ((from, name), _) in paths.into_iter().zip(answers).filter(|(_, answer)| answer.ok) {
            self.reached_by.entry(name).or_default().push(from);
        }
        Ok(())
    }

    /// What shows that every victim is in `wanted`, which is not [`NodeState::Running`].
    pub(crate) async fn prove(
        &self,
        cx: &mut FaultCx<'_>,
        wanted: NodeState,
    ) -> Result<Vec<Evidence>, FaultError> {
        let mut evidence = Vec::new();
        for (name, (state, started, reading)) in
            self.names.iter().zip(nodes(cx, &self.names).await?)
        {
            let before = self.started.get(name);
            // A paused node must be the same that ran before; a dead one has nothing to compare.
            let same = wanted == NodeState::Dead || before == Some(&started);
            evidence.push(counter(
                format!("node {name} is {}", word(state)),
                state == wanted && same && before.is_some(),
                Some(reading),
            ));
        }
        let (witness, piece) = self.witness(cx).await?;
        evidence.push(piece);
        // The kernel of a node that stands still still answers packets; its processes do not.
        evidence.extend(match wanted {
            NodeState::Paused => self.silent_processes(cx).await,
            _ => self.unreachable(cx, witness.as_deref()).await,
        });
        Ok(evidence)
    }

    async fn unreachable(&self, cx: &mut FaultCx<'_>, witness: Option<&str>) -> Vec<Evidence> {
        let Some(from) = witness else {
            let nobody = |name| format!("nobody is left to reach for {name}");
            return self.names.iter().map(|name| behaviour(nobody(name), false, None)).collect();
        };
        let reached_before = |name: &str| {
            self.reached_by.get(name).is_some_and(|by| by.iter().any(|node| node == from))
        };
        let asked = self.names.iter().filter(|name| reached_before(name));
        let paths: Vec<_> = asked.map(|name| (from.to_owned(), name.clone())).collect();
        let mut answers = reach_all(cx, &paths, Traffic::All).await.into_iter();
        let piece = |name: &String| match reached_before(name).then(|| answers.next()).flatten() {
            None => behaviour(format!("{from} could not reach {name} before either"), false, None),
            Some(answer) => {
                let (text, silent) =
                    (format!("{from} reaches for {name}: {}", answer.detail), answer.silent());
                behaviour(text, silent, answer.reading)
            }
        };
        self.names.iter().map(piece).collect()
    }

    /// Whether the process that each node is there for leaves its health check without an answer.
    async fn silent_processes(&self, cx: &mut FaultCx<'_>) -> Vec<Evidence> {
        let controls: BTreeSet<String> = cx.cluster.names(Role::ControlPlane).into_iter().collect();
        let of = |name: &String| match controls.contains(name) {
            true => (name.clone(), Component::Etcd),
            false => (name.clone(), Component::Kubelet),
        };
        let places: Vec<_> = self.names.iter().map(of).collect();
        let answers = health_all(cx, places.clone()).await;
        let piece = |((name, component), answer): ((String, Component), AnswerView)| {
            let text = format!("health of {component} on {name}: {}", answer.detail);
            behaviour(text, answer.silent(), answer.reading)
        };
        places.into_iter().zip(answers).map(piece).collect()
    }

    /// What shows that every victim runs and answers. `restarted`: it was started anew, else it is
    /// the very one that ran before.
    pub(crate) async fn prove_healed(
        &self,
        cx: &mut FaultCx<'_>,
        restarted: bool,
    ) -> Result<Vec<Evidence>, FaultError> {
        let mut evidence = Vec::new();
        let states = nodes(cx, &self.names).await?;
        let reached = self.reached(cx).await;
        for ((name, (state, started, reading)), reached) in
            self.names.iter().zip(states).zip(reached)
        {
            let changed = self.started.get(name) != Some(&started);
            evidence.push(counter(
                format!(
                    "node {name} is {} and {}",
                    word(state),
                    if changed { "was started anew" } else { "is the one that ran before" }
                ),
                state == NodeState::Running && changed == restarted,
                Some(reading),
            ));
            evidence.push(reached);
        }
        Ok(evidence)
    }

    /// Whether somebody who reached each victim before reaches it again.
    async fn reached(&self, cx: &mut FaultCx<'_>) -> Vec<Evidence> {
        let mut untouched = self.untouched(cx);
        untouched.truncate(WITNESSES_MAX);
        let known = |name| self.reached_by.get(name).filter(|by| !by.is_empty());
        let candidates: Vec<&[String]> =
            self.names.iter().map(|name| known(name).unwrap_or(&untouched).as_slice()).collect();
        let mut last: Vec<Option<Evidence>> = vec![None; self.names.len()];
        for turn in 0..WITNESSES_MAX {
            let is_shown = |at: &usize| last[*at].as_ref().is_some_and(|piece| piece.holds);
            let places = 0..self.names.len();
            let asked: Vec<usize> =
                places.filter(|at| !is_shown(at) && candidates[*at].len() > turn).collect();
            let path = |at: &usize| (candidates[*at][turn].clone(), self.names[*at].clone());
            let paths: Vec<_> = asked.iter().map(path).collect();
            let answers = reach_all_steadily(cx, &paths, Traffic::All).await;
            for ((at, (from, name)), answer) in asked.into_iter().zip(paths).zip(answers) {
                let text = format!("{from} reaches {name} steadily: {}", answer.detail);
                last[at] = Some(behaviour(text, answer.ok, answer.reading));
            }
        }
        let nobody = |name| format!("nobody is left to reach for {name}");
        let pieces = last.into_iter().zip(&self.names);
        pieces
            .map(|(piece, name)| piece.unwrap_or_else(|| behaviour(nobody(name), false, None)))
            .collect()
    }

    /// An untouched node that can reach another one now; if it is the only one, that it runs as before.
    async fn witness(
        &self,
        cx: &mut FaultCx<'_>,
    ) -> Result<(Option<String>, Evidence), TargetError> {
        let untouched = self.untouched(cx);
        let mut refusals = Vec::new();
        for from in &untouched {
            for to in untouched.iter().filter(|to| *to != from) {
                let answer = reach(cx, from, to, Traffic::All).await;
                if answer.ok {
                    let text = format!("{from} reaches untouched {to}: {}", answer.detail);
                    return Ok((Some(from.clone()), control(text, true, answer.reading)));
                }
                refusals.push(format!("{from} to {to}: {}", answer.detail));
            }
        }
        if let [only] = untouched.as_slice() {
            let (state, _, reading) = node(cx, only).await?;
            let text = format!("the only untouched node, {only}, is {}", word(state));
            let runs = state == NodeState::Running;
            return Ok((runs.then(|| only.clone()), control(text, runs, Some(reading))));
        }
        let why =
            if refusals.is_empty() { "there is none".to_owned() } else { refusals.join("; ") };
        Ok((None, control(format!("no untouched node can bear witness: {why}"), false, None)))
    }

    fn untouched(&self, cx: &FaultCx<'_>) -> Vec<String> {
        let touched: BTreeSet<&String> = self.names.iter().collect();
        let nodes = cx.cluster.nodes.iter().map(|node| &node.name);
        nodes.filter(|name| !touched.contains(name)).cloned().collect()
    }

    /// What one node's start looked like before.
    pub(crate) fn started(&self, name: &str) -> Option<&str> {
        self.started.get(name).map(String::as_str)
    }
}

/// The state in prose.
pub(crate) fn word(state: NodeState) -> &'static str {
    match state {
        NodeState::Running => "running",
        NodeState::Paused => "paused",
        NodeState::Dead => "dead",
    }
}
