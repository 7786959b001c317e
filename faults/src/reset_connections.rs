//! `reset-connections`: every open connection between two groups of nodes is reset, once; `traffic`
//! narrows it as for `partition`.
//!
//! ```yaml
//! fault: reset-connections
//! between: [any worker, the control plane]
//! traffic: api
//! ```
//!
//! Proven: connections between the groups were reset (without an open one there is nothing to reset,
//! and nothing is proven); paths that answered before answer anew; a pair beside it had none reset.
//! It is over by itself: nothing is healed.

use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultKind, FaultSpec, Proof, SpecError};
use shakedown_core::lever::{Lever, LeverKind, Reading, Traffic, Undo};
use shakedown_core::timeline::Evidence;

use crate::between::{self, PathOf, TRAFFICS, word};
use crate::evidence::{behaviour, control, counter, proof, reach, reach_steadily};
use crate::readings::resets;
use crate::spec::Fields;

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "reset-connections",
    summary: "open connections between two groups of nodes are reset, once",
    fields: &["traffic"],
    needs: &[LeverKind::Reset],
    sample: "fault: reset-connections\nbetween: [any worker, the control plane]\ntraffic: api\n",
    build,
};

struct ResetConnections {
    first: Vec<String>,
    second: Vec<String>,
    traffic: Traffic,
    /// How many resets each pair had before.
    before: Vec<(String, String, u64)>,
    /// Which pairs answered before.
    answered: Vec<(String, String)>,
    /// Untouched paths that answered before, and how many resets they had.
    controls: Vec<(PathOf, u64)>,
}

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    let fields = Fields::of(spec, KIND.fields)?;
    let traffic = fields.choice("traffic", TRAFFICS)?.unwrap_or(Traffic::All);
    let (first, second) = between::sides(spec)?;
    Ok(Box::new(ResetConnections {
        first,
        second,
        traffic,
        before: Vec::new(),
        answered: Vec::new(),
        controls: Vec::new(),
    }))
}

impl ResetConnections {
    fn pairs(&self) -> Vec<(String, String)> {
        let all = self
            .first
            .iter()
            .flat_map(|from| self.second.iter().map(move |to| (from.clone(), to.clone())));
        all.collect()
    }

    async fn control(&self, cx: &mut FaultCx<'_>) -> Result<Evidence, FaultError> {
        let mut last = None;
        for ((from, to, traffic), before) in &self.controls {
            let more = resets(cx, from, to, *traffic).await?.saturating_sub(*before);
            let answer = reach(cx, from, to, *traffic).await;
            let text = format!("untouched {from} and {to}: {more} more resets, {}", answer.detail);
            let piece = control(text, more == 0 && answer.ok, answer.reading);
            if piece.holds {
                return Ok(piece);
            }
            last = Some(piece);
        }
        let none =
            || control("there is no path beside it that answered before".into(), false, None);
        Ok(last.unwrap_or_else(none))
    }
}

#[async_trait::async_trait]
impl Fault for ResetConnections {
    fn needs(&self) -> Vec<LeverKind> {
        KIND.needs.to_vec()
    }

    /// As those of `partition`; both directions in one text.
    fn targets(&self) -> Vec<String> {
        let (first, second) = (self.first.join(", "), self.second.join(", "));
        vec![format!("{first} -> {second} ({})", word(self.traffic))]
    }

    fn undos(&self) -> Vec<Undo> {
        Vec::new()
    }

    async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.before.clear();
        self.answered.clear();
        for (from, to) in self.pairs() {
            let count = resets(cx, &from, &to, self.traffic).await?;
            self.before.push((from.clone(), to.clone(), count));
            if reach(cx, &from, &to, self.traffic).await.ok {
                self.answered.push((from, to));
            }
        }
        self.controls.clear();
        let mut paths =
            between::untouched_paths(cx.cluster, (&self.first, &self.second), self.traffic);
        // The same pair by all its traffic would count what is reset here.
        let touched = self.pairs();
        paths.retain(|(from, to, _)| !touched.contains(&(from.clone(), to.clone())));
        for path in between::answering(cx, paths).await {
            let count = resets(cx, &path.0, &path.1, path.2).await?;
            self.controls.push((path, count));
        }
        Ok(())
    }

    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        let (from, to, traffic) = (self.first.clone(), self.second.clone(), self.traffic);
        Ok(cx.target.pull(&Lever::Reset { from, to, traffic }).await?)
    }

    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        let mut told = Vec::new();
        let mut all = 0;
        for (from, to, before) in &self.before {
            let more = resets(cx, from, to, self.traffic).await?.saturating_sub(*before);
            all += more;
            told.push(format!("{from} and {to} {more}"));
        }
        let text =
            format!("{all} connections were reset ({}): {}", word(self.traffic), told.join("; "));
        let reading = Reading::Resets { connections: all };
        let mut evidence = vec![counter(text, all > 0, Some(reading))];
        for (from, to) in &self.answered {
            let answer = reach_steadily(cx, from, to, self.traffic).await;
            let text = format!("{from} reaches {to} anew: {}", answer.detail);
            evidence.push(behaviour(text, answer.ok, answer.reading));
        }
        if self.answered.is_empty() {
            evidence.push(behaviour("nobody was answered before either".to_owned(), false, None));
        }
        evidence.push(self.control(cx).await?);
        Ok(proof(evidence))
    }

    fn is_momentary(&self) -> bool {
        true
    }

    async fn remove(&mut self, _: &mut FaultCx<'_>) -> Result<(), FaultError> {
        Ok(())
    }

    async fn prove_healed(&mut self, _: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        Ok(proof(vec![counter("there is nothing to take back".to_owned(), true, None)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{World, life_of, spec};

    fn reset() -> FaultSpec {
        let mut step = spec("reset-connections", &[]);
        step.sides = vec![vec!["worker-1".to_owned()], vec!["cp-1".to_owned(), "cp-2".to_owned()]];
        step.fields.insert("traffic".to_owned(), "api".into());
        step
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_proven() {
        let life = life_of(&reset(), World::working()).await;
        assert!(life.momentary);
        life.proven_and_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        life_of(&reset(), World::inert()).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn when_every_connection_anywhere_is_reset_it_is_not_proven() {
        life_of(&reset(), World::working().of_weather_everywhere()).await.not_proven();
    }
}
