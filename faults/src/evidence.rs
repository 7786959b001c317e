//! Pieces of evidence, and the probes that they come from.
//!
//! A probe that the target cannot answer is evidence that does not hold, with the reason in it: the
//! runner asks again until its patience ends.

use shakedown_core::fault::{FaultCx, Proof};
use shakedown_core::lever::{Component, NodeState, Probe, ProcessState, Reading, Traffic};
use shakedown_core::target::TargetError;
use shakedown_core::timeline::Evidence;

/// How often in a row a healed path must answer.
pub(crate) const ANSWERS_WHEN_HEALED: u32 = 3;

/// What the target or a runtime counts or knows.
pub(crate) fn counter(text: String, holds: bool, reading: Option<Reading>) -> Evidence {
    Evidence { kind: "counter".to_owned(), text, holds, reading }
}

/// What somebody who did not inject sees.
pub(crate) fn behaviour(text: String, holds: bool, reading: Option<Reading>) -> Evidence {
    Evidence { kind: "behaviour".to_owned(), text, holds, reading }
}

/// An untouched peer.
pub(crate) fn control(text: String, holds: bool, reading: Option<Reading>) -> Evidence {
    Evidence { kind: "control".to_owned(), text, holds, reading }
}

/// Adds pieces to a proof.
pub(crate) fn proof(evidence: Vec<Evidence>) -> Proof {
    Proof { evidence }
}

/// A process, as a probe tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessView {
    pub(crate) state: ProcessState,
    pub(crate) identity: String,
    pub(crate) ticks: u64,
    pub(crate) reading: Reading,
}

/// Whether a request was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AnswerView {
    pub(crate) ok: bool,
    pub(crate) detail: String,
    pub(crate) reading: Option<Reading>,
}

/// A node's state and what changes when it starts.
pub(crate) async fn node(
    cx: &mut FaultCx<'_>,
    node: &str,
) -> Result<(NodeState, String, Reading), TargetError> {
    as_node(cx.target.probe(&Probe::Node { node: node.to_owned() }).await?)
}

/// The same of several nodes, asked at the same time.
pub(crate) async fn nodes(
    cx: &mut FaultCx<'_>,
    nodes: &[String],
) -> Result<Vec<(NodeState, String, Reading)>, TargetError> {
    let probes: Vec<_> = nodes.iter().map(|node| Probe::Node { node: node.clone() }).collect();
    let answers = cx.target.probe_all(&probes).await;
    answers.into_iter().map(|answer| as_node(answer?)).collect()
}

fn as_node(reading: Reading) -> Result<(NodeState, String, Reading), TargetError> {
    match reading {
        Reading::Node { state, started } => {
            let reading = Reading::Node { state, started: started.clone() };
            Ok((state, started, reading))
        }
        other => Err(mismatch("node", &other)),
    }
}

/// A component's process.
pub(crate) async fn process(
    cx: &mut FaultCx<'_>,
    node: &str,
    component: Component,
) -> Result<ProcessView, TargetError> {
    as_process(cx.target.probe(&Probe::Process { node: node.to_owned(), component }).await?)
}

/// The same component's process on several nodes, asked at the same time.
pub(crate) async fn processes(
    cx: &mut FaultCx<'_>,
    nodes: &[String],
    component: Component,
) -> Result<Vec<ProcessView>, TargetError> {
    let probe = |node: &String| Probe::Process { node: node.clone(), component };
    let probes: Vec<_> = nodes.iter().map(probe).collect();
    let answers = cx.target.probe_all(&probes).await;
    answers.into_iter().map(|answer| as_process(answer?)).collect()
}

fn as_process(reading: Reading) -> Result<ProcessView, TargetError> {
    match reading {
        Reading::Process { state, identity, ticks } => Ok(ProcessView {
            reading: Reading::Process { state: state.clone(), identity: identity.clone(), ticks },
            state,
            identity,
            ticks,
        }),
        other => Err(mismatch("process", &other)),
    }
}

/// Whether a component answers its health check.
pub(crate) async fn health(cx: &mut FaultCx<'_>, node: &str, component: Component) -> AnswerView {
    answer(cx, Probe::Health { node: node.to_owned(), component }).await
}

/// Whether a component answers its health check on each of several nodes, asked at the same time.
pub(crate) async fn health_all(
    cx: &mut FaultCx<'_>,
    places: Vec<(String, Component)>,
) -> Vec<AnswerView> {
    let places = places.into_iter();
    let probes: Vec<_> =
        places.map(|(node, component)| Probe::Health { node, component }).collect();
    cx.target.probe_all(&probes).await.into_iter().map(as_answer).collect()
}

/// Whether `from` gets an answer from `to`.
pub(crate) async fn reach(
    cx: &mut FaultCx<'_>,
    from: &str,
    to: &str,
    traffic: Traffic,
) -> AnswerView {
    answer(cx, Probe::Reach { from: from.to_owned(), to: to.to_owned(), traffic }).await
}

/// Whether each first one gets an answer from its second one, asked at the same time.
pub(crate) async fn reach_all(
    cx: &mut FaultCx<'_>,
    paths: &[(String, String)],
    traffic: Traffic,
) -> Vec<AnswerView> {
    let probe = |(from, to): &(String, String)| Probe::Reach {
        from: from.clone(),
        to: to.clone(),
        traffic,
    };
    let probes: Vec<_> = paths.iter().map(probe).collect();
    cx.target.probe_all(&probes).await.into_iter().map(as_answer).collect()
}

/// The same so many times in a row; of a path that fails once the failure is answered.
pub(crate) async fn reach_all_steadily(
    cx: &mut FaultCx<'_>,
    paths: &[(String, String)],
    traffic: Traffic,
) -> Vec<AnswerView> {
    let mut last = reach_all(cx, paths, traffic).await;
    for _ in 1..ANSWERS_WHEN_HEALED {
        let well: Vec<usize> = (0..paths.len()).filter(|at| last[*at].ok).collect();
        let again: Vec<_> = well.iter().map(|at| paths[*at].clone()).collect();
        for (at, answer) in well.into_iter().zip(reach_all(cx, &again, traffic).await) {
            last[at] = answer;
        }
    }
    last
}

/// Whether `from` gets an answer from `to` so many times in a row.
pub(crate) async fn reach_steadily(
    cx: &mut FaultCx<'_>,
    from: &str,
    to: &str,
    traffic: Traffic,
) -> AnswerView {
    let mut last = reach(cx, from, to, traffic).await;
    for _ in 1..ANSWERS_WHEN_HEALED {
        if !last.ok {
            break;
        }
        last = reach(cx, from, to, traffic).await;
    }
    last
}

/// Whether a cut is in place at a node, and how many packets it dropped there. A cut that the
/// target does not know is not in place.
pub(crate) async fn dropped(
    cx: &mut FaultCx<'_>,
    id: &str,
    node: &str,
) -> Result<(bool, u64), TargetError> {
    as_dropped(cx.target.probe(&Probe::Dropped { id: id.to_owned(), node: node.to_owned() }).await)
}

/// The same at several nodes, asked at the same time.
pub(crate) async fn dropped_at_all(
    cx: &mut FaultCx<'_>,
    id: &str,
    nodes: &[String],
) -> Result<Vec<(bool, u64)>, TargetError> {
    let probe = |node: &String| Probe::Dropped { id: id.to_owned(), node: node.clone() };
    let probes: Vec<_> = nodes.iter().map(probe).collect();
    cx.target.probe_all(&probes).await.into_iter().map(as_dropped).collect()
}

fn as_dropped(answer: Result<Reading, TargetError>) -> Result<(bool, u64), TargetError> {
    match answer {
        Ok(Reading::Dropped { in_place, packets }) => Ok((in_place, packets)),
        Ok(other) => Err(mismatch("dropped", &other)),
        Err(TargetError::Unknown { .. }) => Ok((false, 0)),
        Err(error) => Err(error),
    }
}

async fn answer(cx: &mut FaultCx<'_>, probe: Probe) -> AnswerView {
    as_answer(cx.target.probe(&probe).await)
}

fn as_answer(answer: Result<Reading, TargetError>) -> AnswerView {
    match answer {
        Ok(Reading::Answer { ok, detail }) => {
            AnswerView { ok, reading: Some(Reading::Answer { ok, detail: detail.clone() }), detail }
        }
        Ok(other) => {
            AnswerView { ok: false, detail: mismatch("answer", &other).to_string(), reading: None }
        }
        // Neither an answer nor its absence was seen, so that this may prove nothing.
        Err(error) => {
            AnswerView { ok: false, detail: format!("not asked: {error}"), reading: None }
        }
    }
}

impl AnswerView {
    /// Whether it is certain that no answer came: a probe that could not be made shows nothing.
    pub(crate) fn silent(&self) -> bool {
        !self.ok && self.reading.is_some()
    }
}

/// The answer of a target that answers something else than was asked.
pub(crate) fn mismatch(wanted: &str, got: &Reading) -> TargetError {
    TargetError::Failed {
        what: format!("probe for a {wanted} reading"),
        why: format!("the target answered {got:?}"),
        hint: String::new(),
    }
}
