//! What the process faults share: what the processes were before, and peers to compare with.
//!
//! A peer is the same component on an untouched node; if there is none, another component of the
//! same node.

use shakedown_core::fault::{FaultCx, FaultError, FaultSpec, SpecError};
use shakedown_core::lever::{Component, ProcessState};
use shakedown_core::timeline::Evidence;

use crate::evidence::{ProcessView, control, health, process, processes};
use crate::spec::{self, Fields};

/// How many peers are noted; one that behaves as before is enough.
const PEERS_MAX: usize = 4;

/// One component on some nodes, as it was before the fault.
#[derive(Debug)]
pub(crate) struct Processes {
    pub(crate) component: Component,
    pub(crate) nodes: Vec<String>,
    /// One for each node, in the same order; empty before the baseline.
    pub(crate) before: Vec<ProcessView>,
    peers: Vec<(String, Component, String)>,
    /// Whether a peer has borne witness: what the fault brings about later may reach peers too.
    is_witnessed: bool,
}

impl Processes {
    /// Reads `component` and `on`.
    pub(crate) fn of(spec: &FaultSpec, fields: &Fields<'_>) -> Result<Self, SpecError> {
        Ok(Self {
            component: fields.component()?,
            nodes: spec::on(spec, "nodes")?,
            before: Vec::new(),
            peers: Vec::new(),
            is_witnessed: false,
        })
    }

    /// `node/component` of each.
    pub(crate) fn targets(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("{node}/{}", self.component)).collect()
    }

    /// Notes identities and ticks, of peers too.
    pub(crate) async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.before = processes(cx, &self.nodes, self.component).await?;
        self.peers.clear();
        self.is_witnessed = false;
        for (node, component) in self.candidates(cx) {
            if self.peers.len() == PEERS_MAX {
                break;
            }
            // A target need not know every component on every node: then it is no peer.
            let Ok(view) = process(cx, &node, component).await else { continue };
            if view.state == ProcessState::Running && health(cx, &node, component).await.ok {
                self.peers.push((node, component, view.identity));
            }
        }
        Ok(())
    }

    fn candidates(&self, cx: &FaultCx<'_>) -> Vec<(String, Component)> {
        let others = cx.cluster.nodes.iter().filter(|node| !self.nodes.contains(&node.name));
        let elsewhere = others.map(|node| (node.name.clone(), self.component));
        let here = self.nodes.iter().flat_map(|node| {
            Component::ALL
                .iter()
                .filter(|component| **component != self.component)
                .map(move |component| (node.clone(), *component))
        });
        elsewhere.chain(here).collect()
    }

    /// Whether a peer is the very process that ran before, and answers. One that did so once is
    /// enough: a leader without etcd, for one, ends by itself after a while.
    pub(crate) async fn control(&mut self, cx: &mut FaultCx<'_>) -> Evidence {
        if self.is_witnessed {
            return control(
                "an untouched peer was as before at the first proof".to_owned(),
                true,
                None,
            );
        }
        let mut last = None;
        for (node, component, identity) in &self.peers {
            let text = format!("untouched {component} on {node}");
            let piece = match process(cx, node, *component).await {
                Err(error) => control(format!("{text}: {error}"), false, None),
                Ok(view) => {
                    let same = view.state == ProcessState::Running && view.identity == *identity;
                    let answer = health(cx, node, *component).await;
                    let word = if same { "is as before" } else { "is another or stands still" };
                    control(
                        format!("{text} {word}: {}", answer.detail),
                        same && answer.ok,
                        Some(view.reading),
                    )
                }
            };
            if piece.holds {
                self.is_witnessed = true;
                return piece;
            }
            last = Some(piece);
        }
        last.unwrap_or_else(|| control("no peer was running before".to_owned(), false, None))
    }
}

/// The state in prose.
pub(crate) fn word(state: &ProcessState) -> &'static str {
    match state {
        ProcessState::Running => "running",
        ProcessState::Stopped => "stopped",
        ProcessState::Absent => "absent",
    }
}
