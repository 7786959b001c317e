//! `partition`: packets between two groups of nodes are dropped where they arrive; both ways unless
//! `direction` says `to` (from the first side to the second) or `from` (from the second to the first).
//! `traffic` narrows it to one kind: `all`, `etcd-peer`, `etcd-client` or `api`.
//!
//! ```yaml
//! fault: partition
//! between: [leader of etcd, the other members of etcd]
//! traffic: etcd-peer
//! for: 30s
//! ```
//!
//! Proven: every cut is in place and has dropped packets at each receiver; senders that got an answer
//! before get none; a path that is not cut still answers. Under a one-way cut TCP fails both ways, so
//! there the counters tell the direction: what flows back must not be dropped anywhere.
//! Healed: no cut is in place, and every path that answered before answers three times in a row.

use std::collections::BTreeSet;

use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultKind, FaultSpec, Proof, SpecError};
use shakedown_core::lever::{Lever, LeverKind, Traffic, Undo};
use shakedown_core::timeline::Evidence;

use crate::between::{self, DIRECTIONS, Direction, PathOf, TRAFFICS, Way};
use crate::evidence::{
    behaviour, control, counter, dropped, dropped_at_all, proof, reach, reach_all,
    reach_all_steadily,
};
use crate::spec::Fields;

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "partition",
    summary: "packets between two groups of nodes are dropped, one or both ways",
    fields: &["direction", "traffic"],
    needs: &[LeverKind::Cut],
    sample: "fault: partition\nbetween: [leader of etcd, the other members of etcd]\n\
             traffic: etcd-peer\nfor: 30s\n",
    build,
};

struct Partition {
    cuts: Vec<Way>,
    /// The id of the direction that must stay open, of a one-way cut.
    open: Option<Way>,
    traffic: Traffic,
    word: &'static str,
    /// Pairs that got an answer before.
    answered: BTreeSet<(String, String)>,
    /// Paths that are not cut and answered before.
    controls: Vec<PathOf>,
}

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    let fields = Fields::of(spec, KIND.fields)?;
    let direction = fields.choice("direction", DIRECTIONS)?.unwrap_or(Direction::Both);
    let traffic = fields.choice("traffic", TRAFFICS)?.unwrap_or(Traffic::All);
    let (cuts, open) = between::ways(&spec.name, direction, between::sides(spec)?);
    let word = between::word(traffic);
    Ok(Box::new(Partition {
        cuts,
        open,
        traffic,
        word,
        answered: BTreeSet::new(),
        controls: Vec::new(),
    }))
}

impl Partition {
    async fn prove_cut(
        &self,
        cx: &mut FaultCx<'_>,
        cut: &Way,
        evidence: &mut Vec<Evidence>,
    ) -> Result<(), FaultError> {
        let mut shown = false;
        // The requests are what the counters count: without traffic nothing would be dropped.
        let pairs = cut.pairs();
        let answers = reach_all(cx, &pairs, self.traffic).await;
        for ((from, to), answer) in pairs.into_iter().zip(answers) {
            if !self.answered.contains(&(from.clone(), to.clone())) {
                continue;
            }
            shown = true;
            let silent = answer.silent();
            let text = format!("{from} reaches for {to} ({}): {}", self.word, answer.detail);
            evidence.push(behaviour(text, silent, answer.reading));
        }
        if !shown {
            let text = format!(
                "nothing from {} was answered by {} before either ({})",
                cut.from.join(", "),
                cut.to.join(", "),
                self.word
            );
            evidence.push(behaviour(text, false, None));
        }
        let dropped = dropped_at_all(cx, &cut.id, &cut.to).await?;
        for (node, (in_place, packets)) in cut.to.iter().zip(dropped) {
            let text = format!("cut {} at {node}: {packets} packets dropped", cut.id);
            evidence.push(counter(text, in_place && packets > 0, None));
        }
        Ok(())
    }

    async fn control(&self, cx: &mut FaultCx<'_>) -> Evidence {
        let mut refusals = Vec::new();
        for (from, to, traffic) in &self.controls {
            let answer = reach(cx, from, to, *traffic).await;
            if answer.ok {
                let text = format!("{from} still reaches {to}: {}", answer.detail);
                return control(text, true, answer.reading);
            }
            refusals.push(format!("{from} to {to}: {}", answer.detail));
        }
        let why =
            if refusals.is_empty() { "there is none".to_owned() } else { refusals.join("; ") };
        control(format!("no path beside the cut answers as before: {why}"), false, None)
    }
}

#[async_trait::async_trait]
impl Fault for Partition {
    fn needs(&self) -> Vec<LeverKind> {
        KIND.needs.to_vec()
    }

    /// One text for each direction, which the judge reads: `a, b -> c (all)`.
    fn targets(&self) -> Vec<String> {
        self.cuts
            .iter()
            .map(|cut| format!("{} -> {} ({})", cut.from.join(", "), cut.to.join(", "), self.word))
            .collect()
    }

    fn undos(&self) -> Vec<Undo> {
        let cuts = self.cuts.iter();
        cuts.map(|cut| Undo::Mend { id: cut.id.clone(), nodes: cut.to.clone() }).collect()
    }

    async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.answered.clear();
        let pairs: Vec<_> = self.cuts.iter().flat_map(Way::pairs).collect();
        let answers = reach_all(cx, &pairs, self.traffic).await;
        let answered = pairs.into_iter().zip(answers).filter(|(_, answer)| answer.ok);
        self.answered.extend(answered.map(|(pair, _)| pair));
        let sides = (self.cuts[0].from.as_slice(), self.cuts[0].to.as_slice());
        let paths = between::untouched_paths(cx.cluster, sides, self.traffic);
        self.controls = between::answering(cx, paths).await;
        Ok(())
    }

    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        for cut in self.cuts.clone() {
            let Way { id, from, to } = cut;
            cx.target.pull(&Lever::Cut { id, from, to, traffic: self.traffic }).await?;
        }
        Ok(())
    }

    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        let mut evidence = Vec::new();
        for cut in &self.cuts {
            self.prove_cut(cx, cut, &mut evidence).await?;
        }
        if let Some(open) = &self.open {
            for node in &open.to {
                let (in_place, packets) = dropped(cx, &open.id, node).await?;
                let text = format!("the way back to {node}: {packets} packets dropped");
                evidence.push(control(text, !in_place && packets == 0, None));
            }
        }
        evidence.push(self.control(cx).await);
        Ok(proof(evidence))
    }

    fn is_momentary(&self) -> bool {
        false
    }

    async fn remove(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        for undo in self.undos() {
            cx.target.undo(&undo).await?;
        }
        Ok(())
    }

    async fn prove_healed(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        let mut evidence = Vec::new();
        for cut in &self.cuts {
            let dropped = dropped_at_all(cx, &cut.id, &cut.to).await?;
            for (node, (in_place, packets)) in cut.to.iter().zip(dropped) {
                let text = format!(
                    "cut {} at {node} is {}: {packets} packets dropped",
                    cut.id,
                    if in_place { "in place" } else { "gone" }
                );
                evidence.push(counter(text, !in_place, None));
            }
        }
        let answered: Vec<_> = self.answered.iter().cloned().collect();
        let answers = reach_all_steadily(cx, &answered, self.traffic).await;
        for ((from, to), answer) in answered.iter().zip(answers) {
            let text = format!("{from} reaches {to} steadily ({}): {}", self.word, answer.detail);
            evidence.push(behaviour(text, answer.ok, answer.reading));
        }
        Ok(proof(evidence))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scripted::{World, life_of, spec};

    fn cut(fields: serde_json::Value) -> FaultSpec {
        let mut step = spec("partition", &[]);
        step.sides = vec![vec!["cp-1".to_owned()], vec!["cp-2".to_owned(), "cp-3".to_owned()]];
        step.fields = serde_json::from_value(fields).unwrap();
        step
    }

    #[tokio::test(start_paused = true)]
    async fn every_direction_and_traffic_is_proven_and_healed() {
        for fields in [
            json!({}),
            json!({"direction": "to"}),
            json!({"direction": "from", "traffic": "api"}),
            json!({"traffic": "etcd-peer"}),
        ] {
            life_of(&cut(fields), World::working()).await.proven_and_healed();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        life_of(&cut(json!({})), World::inert()).await.not_proven();
        life_of(&cut(json!({"direction": "to"})), World::inert()).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_whole_network_is_down_it_is_not_proven() {
        life_of(&cut(json!({})), World::working().without_network()).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn a_one_way_cut_that_drops_the_other_way_too_is_not_proven() {
        let world = World::working().that_cuts_both_ways();
        life_of(&cut(json!({"direction": "to"})), world).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn a_path_that_never_answered_proves_nothing() {
        let mut step = cut(json!({"traffic": "etcd-peer"}));
        step.sides = vec![vec!["worker-1".to_owned()], vec!["worker-2".to_owned()]];
        life_of(&step, World::working()).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_is_not_mended_it_is_not_healed() {
        life_of(&cut(json!({})), World::working().stuck()).await.not_healed();
    }

    #[test]
    fn targets_name_senders_receivers_and_traffic() {
        let fault = build(&cut(json!({"direction": "to", "traffic": "api"}))).ok().unwrap();
        assert_eq!(fault.targets(), ["cp-1 -> cp-2, cp-3 (api)"]);
        assert_eq!(
            fault.undos(),
            [Undo::Mend { id: "step-to".to_owned(), nodes: vec!["cp-2".into(), "cp-3".into()] }]
        );
    }

    #[test]
    fn a_node_on_both_sides_is_refused() {
        let mut step = cut(json!({}));
        step.sides[1].push("cp-1".to_owned());
        let error = build(&step).err().unwrap();
        assert_eq!(error.message, "`cp-1` stands on both sides");
    }
}
