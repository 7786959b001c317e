//! What the node faults share: who watches the nodes, and what shows that they are gone or back.
//!
//! A witness is an untouched node that can, at this very moment, reach another untouched node: only
//! then does its failure to reach the victim mean anything.

use std::collections::BTreeMap;

use shakedown_core::fault::{FaultCx, FaultError};
use shakedown_core::lever::{Component, NodeState, Traffic};
use shakedown_core::target::{Role, TargetError};
use shakedown_core::timeline::Evidence;

use crate::evidence::{behaviour, control, counter, health, node, reach, reach_steadily};

/// The nodes of one fault, as they were before it.
#[derive(Debug, Default)]
pub(crate) struct Victims {
    names: Vec<String>,
    /// What each node's start looked like.
    started: BTreeMap<String, String>,
    /// Which untouched nodes could reach each victim.
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
        let untouched = self.untouched(cx);
        for name in &self.names {
            let (state, started, _) = node(cx, name).await?;
            if state == NodeState::Running {
                self.started.insert(name.clone(), started);
            }
            let mut witnesses = Vec::new();
            for from in &untouched {
                if reach(cx, from, name, Traffic::All).await.ok {
                    witnesses.push(from.clone());
                }
            }
            self.reached_by.insert(name.clone(), witnesses);
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
        for name in &self.names {
            let before = self.started.get(name);
            let (state, started, reading) = node(cx, name).await?;
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
        for name in &self.names {
            // The kernel of a node that stands still still answers packets; its processes do not.
            evidence.push(match wanted {
                NodeState::Paused => silent_process(cx, name).await,
                _ => self.unreachable(cx, name, witness.as_deref()).await,
            });
        }
        Ok(evidence)
    }

    async fn unreachable(
        &self,
        cx: &mut FaultCx<'_>,
        name: &str,
        witness: Option<&str>,
    ) -> Evidence {
        let Some(from) = witness else {
            return behaviour(format!("nobody is left to reach for {name}"), false, None);
        };
        let reached_before =
            self.reached_by.get(name).is_some_and(|by| by.iter().any(|node| node == from));
        if !reached_before {
            return behaviour(format!("{from} could not reach {name} before either"), false, None);
        }
        let answer = reach(cx, from, name, Traffic::All).await;
        let silent = answer.silent();
        behaviour(format!("{from} reaches for {name}: {}", answer.detail), silent, answer.reading)
    }

    /// What shows that every victim runs and answers. `restarted`: it was started anew, else it is
    /// the very one that ran before.
    pub(crate) async fn prove_healed(
        &self,
        cx: &mut FaultCx<'_>,
        restarted: bool,
    ) -> Result<Vec<Evidence>, FaultError> {
        let mut evidence = Vec::new();
        let untouched = self.untouched(cx);
        for name in &self.names {
            let (state, started, reading) = node(cx, name).await?;
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
            evidence.push(self.reached(cx, name, &untouched).await);
        }
        Ok(evidence)
    }

    /// Whether somebody who reached it before reaches it again.
    async fn reached(&self, cx: &mut FaultCx<'_>, name: &str, untouched: &[String]) -> Evidence {
        let known = self.reached_by.get(name).filter(|by| !by.is_empty());
        let mut last = None;
        for from in known.map_or(untouched, Vec::as_slice) {
            let answer = reach_steadily(cx, from, name, Traffic::All).await;
            let text = format!("{from} reaches {name} steadily: {}", answer.detail);
            let ok = answer.ok;
            last = Some(behaviour(text, ok, answer.reading));
            if ok {
                break;
            }
        }
        last.unwrap_or_else(|| {
            behaviour(format!("nobody is left to reach for {name}"), false, None)
        })
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
        let nodes = cx.cluster.nodes.iter().map(|node| node.name.clone());
        nodes.filter(|name| !self.names.contains(name)).collect()
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
/// Whether the process that a node is there for leaves its health check without an answer.
async fn silent_process(cx: &mut FaultCx<'_>, name: &str) -> Evidence {
    let controls = cx.cluster.names(Role::ControlPlane);
    let is_control_plane = controls.iter().any(|node| node == name);
    let component = if is_control_plane { Component::Etcd } else { Component::Kubelet };
    let answer = health(cx, name, component).await;
    let silent = answer.silent();
    behaviour(format!("health of {component} on {name}: {}", answer.detail), silent, answer.reading)
}
