//! `clock-skew`: the wall clock of nodes is put off by `offset` at once, and runs faster or slower by
//! `rate` from then on. Monotonic clocks, and so all time-outs, are not touched.
//!
//! ```yaml
//! fault: clock-skew
//! on: any worker
//! offset: -5m
//! rate: +10%
//! for: 60s
//! ```
//!
//! Proven: the clock is as far off as it should be; stamps that the node's components write (Lease
//! renewals of a worker, creation times of an API server) are off by as much from those of an untouched
//! node; the clock of that one is as before. Of the untouched nodes whoever still stamps bears witness,
//! as something else may have killed the others. Less than a second cannot be told in stamps: a `rate`
//! without an `offset` takes some time to show.
//! Sustained: the clock is still as far off.
//! Healed: the clock is right to the same bounds, and so are the stamps.

use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultKind, FaultSpec, Proof, SpecError};
use shakedown_core::lever::{Lever, LeverKind, Undo};
use shakedown_core::target::Role;
use shakedown_core::timeline::Evidence;
use tokio::time::Instant;

use crate::evidence::{behaviour, control, counter, proof};
use crate::readings::clock;
use crate::spec::{self, Fields};
use crate::stamps::{self, stamps};

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "clock-skew",
    summary: "the wall clock of nodes is wrong, and goes fast or slow",
    fields: &["offset", "rate"],
    needs: &[LeverKind::Skew],
    sample: "fault: clock-skew\non: any worker\noffset: -5m\nrate: +10%\nfor: 60s\n",
    build,
};

/// The least offset and the least rate of which one must be reached, or stamps never tell.
const LEAST_OFFSET_US: i64 = 2_000_000;
const LEAST_RATE_PPM: i64 = 100_000;
/// A clock that gains more than it stands for goes backwards.
const MOST_RATE_PPM: i64 = 1_000_000;
/// How much a reading of a clock may be off beside its own error.
const MARGIN_US: i64 = 50_000;
/// How many untouched nodes are noted; one that stamps is enough.
const PEERS_MAX: usize = 4;
/// From when on a shift is seen in stamps.
const SHOWN_US: i64 = 1_000_000;

struct ClockSkew {
    nodes: Vec<String>,
    offset_us: i64,
    rate_ppm: i64,
    /// How far each was ahead before.
    before: Vec<i64>,
    /// Untouched nodes, and how far each was ahead before.
    peers: Vec<(String, i64)>,
    /// When each was put off.
    since: Vec<Instant>,
    is_shown: bool,
}

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    let fields = Fields::of(spec, KIND.fields)?;
    let nodes = spec::on(spec, "nodes")?;
    let offset_us = fields.offset_us("offset")?.unwrap_or(0);
    let rate_ppm = fields.share_ppm("rate")?.unwrap_or(0);
    let refused = |field: &str, message: &str| SpecError {
        field: field.to_owned(),
        message: message.to_owned(),
        hint: "such as `offset: 30s` or `rate: +10%`".to_owned(),
    };
    if offset_us.abs() < LEAST_OFFSET_US && rate_ppm.abs() < LEAST_RATE_PPM {
        return Err(refused("offset", "a skew of less than 2 s, or 10%, cannot be shown"));
    }
    if rate_ppm.abs() >= MOST_RATE_PPM {
        return Err(refused("rate", "`rate` must be less than 100%"));
    }
    let (before, since) = (Vec::new(), Vec::new());
    Ok(Box::new(ClockSkew {
        nodes,
        offset_us,
        rate_ppm,
        before,
        peers: Vec::new(),
        since,
        is_shown: false,
    }))
}

impl ClockSkew {
    /// How far the clock of a node should be off at a time.
    fn expected(&self, at: usize, when: Instant) -> i64 {
        let Some(since) = self.since.get(at) else { return 0 };
        let elapsed = when.saturating_duration_since(*since);
        let elapsed_us = i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX / 2);
        self.offset_us + (i128::from(elapsed_us) * i128::from(self.rate_ppm) / 1_000_000) as i64
    }

    /// Whether the clock of each is off by what `wanted` says.
    async fn clocks(
        &self,
        cx: &mut FaultCx<'_>,
        wanted: impl Fn(usize) -> i64,
    ) -> Result<Vec<Evidence>, FaultError> {
        let mut evidence = Vec::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let (offset_us, error_us) = clock(cx, node).await?;
            let expected = self.before[at] + wanted(at);
            let bound = MARGIN_US + i64::try_from(error_us).unwrap_or(0);
            let text = format!(
                "the clock of {node} is {} ahead; expected: {}",
                seconds(offset_us),
                seconds(expected)
            );
            evidence.push(counter(text, (offset_us - expected).abs() <= bound, None));
        }
        Ok(evidence)
    }

    /// Whether stamps are off by what `wanted` says, against an untouched node's.
    async fn stamped(
        &self,
        cx: &mut FaultCx<'_>,
        is_skewed: bool,
    ) -> Result<Vec<Evidence>, FaultError> {
        let mut as_before = Vec::new();
        let mut evidence = Vec::new();
        for (peer, before) in &self.peers {
            // The clock of one that died, or whose clock somebody else puts off, tells nothing here.
            let Ok((offset_us, error_us)) = clock(cx, peer).await else { continue };
            let margin = MARGIN_US + i64::try_from(error_us).unwrap_or(0);
            if (offset_us - before).abs() <= margin {
                as_before.push(peer.clone());
            }
        }
        let seen = stamps(cx, &self.nodes, &as_before).await;
        let witness = self.peers.iter().find(|(peer, _)| seen.contains_key(peer));
        let Some((peer, peer_before)) = witness else {
            let who = if as_before.is_empty() { "has a clock that is as before" } else { "stamps" };
            return Ok(vec![control(format!("no untouched node {who}"), false, None)]);
        };
        for (at, node) in self.nodes.iter().enumerate() {
            let Some(own) = seen.get(node) else {
                let text = format!("{node} wrote no new stamp");
                evidence.push(behaviour(text, false, None));
                continue;
            };
            let skew = if is_skewed { self.expected(at, own.seen) } else { 0 };
            let expected = self.before[at] + skew - peer_before;
            let shift = own.wall_us - seen[peer].wall_us;
            let text = format!(
                "stamps of {node} against {peer}: {}; expected: {}",
                seconds(shift),
                seconds(expected)
            );
            let is_right = (shift - expected).abs() <= stamps::ERROR_US;
            // A shift that is near the error of no shift at all shows nothing yet.
            let is_plain = !is_skewed || skew.abs() >= SHOWN_US;
            evidence.push(behaviour(text, is_right && is_plain, None));
        }
        let (offset_us, error_us) = clock(cx, peer).await?;
        let margin = MARGIN_US + i64::try_from(error_us).unwrap_or(0);
        let text = format!("the clock of untouched {peer} is {} ahead", seconds(offset_us));
        evidence.push(control(text, (offset_us - peer_before).abs() <= margin, None));
        Ok(evidence)
    }
}

#[async_trait::async_trait]
impl Fault for ClockSkew {
    fn needs(&self) -> Vec<LeverKind> {
        KIND.needs.to_vec()
    }

    fn targets(&self) -> Vec<String> {
        self.nodes.clone()
    }

    fn undos(&self) -> Vec<Undo> {
        self.nodes.iter().map(|node| Undo::Unskew { node: node.clone() }).collect()
    }

    async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.before.clear();
        for node in &self.nodes {
            self.before.push(clock(cx, node).await?.0);
        }
        // API servers stamp whenever they are asked; kubelets only now and then.
        let servers = cx.endpoints.iter().map(|endpoint| endpoint.node.clone());
        let mut candidates: Vec<_> = servers.collect();
        candidates.extend(cx.cluster.names(Role::Worker));
        candidates.retain(|node| !self.nodes.contains(node));
        self.peers.clear();
        for node in candidates {
            if self.peers.len() == PEERS_MAX {
                break;
            }
            if let Ok((offset_us, _)) = clock(cx, &node).await {
                self.peers.push((node, offset_us));
            }
        }
        Ok(())
    }

    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.since.clear();
        for node in self.nodes.clone() {
            let (offset_us, rate_ppm) = (self.offset_us, self.rate_ppm);
            cx.target.pull(&Lever::Skew { node, offset_us, rate_ppm }).await?;
            self.since.push(Instant::now());
        }
        Ok(())
    }

    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        let mut evidence = Vec::new();
        if !self.is_shown {
            evidence = self.stamped(cx, true).await?;
        }
        evidence.extend(self.clocks(cx, |at| self.expected(at, Instant::now())).await?);
        if self.is_shown {
            let text = "stamps were off at the first proof";
            evidence.push(behaviour(text.to_owned(), true, None));
            let text = "an untouched clock was right at the first proof";
            evidence.push(control(text.to_owned(), true, None));
        }
        let proof = proof(evidence);
        self.is_shown |= proof.holds();
        Ok(proof)
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
        let mut evidence = self.clocks(cx, |_| 0).await?;
        if evidence.iter().all(|piece| piece.holds) {
            evidence.extend(self.stamped(cx, false).await?);
        }
        Ok(proof(evidence))
    }
}

fn seconds(micros: i64) -> String {
    format!("{:.2} s", micros as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scripted::{World, life_amid, life_of, spec};

    fn skew(node: &str, fields: serde_json::Value) -> FaultSpec {
        let mut step = spec("clock-skew", &[node]);
        step.fields = serde_json::from_value(fields).unwrap();
        step
    }

    fn ways_to_be_wrong() -> Vec<FaultSpec> {
        vec![
            skew("worker-1", json!({"offset": "-5m"})),
            skew("worker-1", json!({"offset": "+30s", "rate": "+10%"})),
            skew("cp-1", json!({"offset": "5s"})),
        ]
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_proven_and_healed() {
        for step in ways_to_be_wrong() {
            life_of(&step, World::working()).await.proven_and_healed();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_alone_is_proven_once_it_shows() {
        let step = skew("worker-1", json!({"rate": "-20%"}));
        life_of(&step, World::working()).await.proven_and_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        for step in ways_to_be_wrong() {
            life_of(&step, World::inert()).await.not_proven();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_no_component_reads_is_not_proven() {
        for step in ways_to_be_wrong() {
            life_of(&step, World::working().that_stamps_true_time()).await.not_proven();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn when_every_clock_is_wrong_it_is_not_proven() {
        for step in ways_to_be_wrong() {
            life_of(&step, World::working().of_weather_everywhere()).await.not_proven();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn when_who_bore_witness_dies_another_does() {
        // No other API server stamps, and the first worker is dead when it comes to healing.
        let world = || World::working().with_deaf_api_server("cp-2");
        let step = skew("cp-1", json!({"offset": "5s"}));
        let dies = |world: &World| world.loses("worker-1");
        life_amid(&step, world(), dies).await.proven_and_healed();
        life_amid(&step, world().stuck(), dies).await.not_healed();
        let all_die = |world: &World| {
            ["worker-1", "worker-2", "worker-3"].iter().for_each(|worker| world.loses(worker));
        };
        life_amid(&step, world(), all_die).await.not_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn the_stamps_of_a_dead_node_show_nothing() {
        let step = skew("worker-1", json!({"offset": "-5m"}));
        life_amid(&step, World::working(), |world| world.loses("worker-1")).await.not_healed();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_is_not_set_right_it_is_not_healed() {
        for step in ways_to_be_wrong() {
            life_of(&step, World::working().stuck()).await.not_healed();
        }
    }

    #[test]
    fn what_cannot_be_shown_is_refused() {
        for (fields, field) in [
            (json!({}), "offset"),
            (json!({"offset": "1s"}), "offset"),
            (json!({"rate": "1%"}), "offset"),
            (json!({"rate": "-100%"}), "rate"),
            (json!({"offset": 30}), "offset"),
        ] {
            let error = build(&skew("worker-1", fields.clone())).err();
            assert_eq!(error.expect("it cannot be shown").field, field, "{fields}");
        }
    }
}
