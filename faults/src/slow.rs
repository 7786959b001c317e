//! `slow`: bad weather between two groups of nodes: each packet is later by `latency` and by up to
//! `jitter` more, a share of them is lost (TCP sends them again) or overtakes others. Both ways unless
//! `direction` says `to` or `from`; `traffic` narrows it as for `partition`.
//!
//! ```yaml
//! fault: slow
//! between: [leader of etcd, the other members of etcd]
//! traffic: etcd-peer
//! latency: 100ms
//! jitter: 20ms
//! loss: 10%
//! for: 30s
//! ```
//!
//! Proven: the weather is in place at every receiver and packets came into it; as many were lost as
//! `loss` says, by a 99.9 % interval over so many packets that none at all would be outside of it; some
//! were reordered, if they should be; round trips take longer by what was added, and neither less
//! nor more; a path beside it takes as long as before. What flows back under a one-way fault meets
//! no weather.
//! Sustained: still in place, still counting, and no answer as fast as before.
//! Healed: the weather is gone, and round trips take as long as before.

use std::collections::BTreeMap;
use std::time::Duration;

use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultKind, FaultSpec, Proof, SpecError};
use shakedown_core::lever::{Lever, LeverKind, Traffic, Undo, Weather};
use shakedown_core::timeline::Evidence;
use tokio::time::{Instant, timeout};

use crate::between::{self, DIRECTIONS, Direction, PathOf, TRAFFICS, Way};
use crate::evidence::{behaviour, control, counter, proof};
use crate::readings::{WeatherView, round_trip, weather};
use crate::round_trips::{self, Expected};
use crate::spec::Fields;

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "slow",
    summary: "packets between two groups of nodes are late, lost or reordered",
    fields: &["direction", "jitter", "latency", "loss", "reorder", "traffic"],
    needs: &[LeverKind::Slow],
    sample: "fault: slow\nbetween: [leader of etcd, the other members of etcd]\n\
             traffic: etcd-peer\nlatency: 100ms\njitter: 20ms\nloss: 10%\nfor: 30s\n",
    build,
};

/// How many round trips are timed before, and after the heal.
const BASELINE_TRIPS: usize = 5;
/// How many round trips of each pair show a latency; where most are lost, each takes long.
const TRIPS: usize = 8;
const TRIPS_IN_STORM: usize = 2;
/// From which loss on that is so.
const STORM: u32 = 5_000;
/// How much longer than it should take, about twice the first retransmission timeout, an answer is
/// waited for.
const ANSWER_WITHIN: Duration = Duration::from_millis(700);
/// How many are remembered of a path.
const TRIPS_MAX: usize = 4096;
/// How long one proof may take: the runner asks again while its patience lasts.
const BATCH: Duration = Duration::from_secs(5);
/// In how much time a loss must be shown, by round trips alone.
const LOSS_WITHIN: Duration = Duration::from_secs(15);
/// What a lost packet costs a round trip, roughly: the first retransmission timeout.
const RETRANSMISSION: Duration = Duration::from_millis(250);
/// Less than one in a hundred cannot be told from chance in time.
const LEAST_LOSS: u32 = 100;
/// More than that overtake nobody.
const MOST_REORDER: u32 = 5_000;
/// Of what a share is a share.
const WHOLE: u32 = 10_000;

struct Slow {
    ways: Vec<Way>,
    open: Option<Way>,
    traffic: Traffic,
    weather: Weather,
    /// Round trips of each pair before, in order; those that got no answer are left out.
    before: BTreeMap<(String, String), Vec<u64>>,
    /// The untouched paths, with their round trips before.
    controls: Vec<(PathOf, Vec<u64>)>,
    /// Round trips since, the newest last.
    trips: BTreeMap<(String, String), Vec<Option<u64>>>,
    /// What each receiver had counted at the last proof.
    counted: BTreeMap<(String, String), WeatherView>,
    /// Which pair is looked at next while it lasts.
    turn: usize,
    /// Whether it was shown whole once: then it is only looked at whether it is still there.
    is_shown: bool,
}

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    let fields = Fields::of(spec, KIND.fields)?;
    let direction = fields.choice("direction", DIRECTIONS)?.unwrap_or(Direction::Both);
    let traffic = fields.choice("traffic", TRAFFICS)?.unwrap_or(Traffic::All);
    let (ways, open) = between::ways(&spec.name, direction, between::sides(spec)?);
    let weather = read_weather(&fields)?;
    can_be_shown(&weather, ways.len())?;
    Ok(Box::new(Slow {
        ways,
        open,
        traffic,
        weather,
        before: BTreeMap::new(),
        controls: Vec::new(),
        trips: BTreeMap::new(),
        counted: BTreeMap::new(),
        turn: 0,
        is_shown: false,
    }))
}

fn read_weather(fields: &Fields<'_>) -> Result<Weather, SpecError> {
    let micros = |field: &str| -> Result<u64, SpecError> {
        let time = fields.duration(field)?.unwrap_or_default();
        Ok(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    };
    let share = |field: &str| -> Result<u32, SpecError> {
        let share = fields.share_ppm(field)?.unwrap_or(0) / 100;
        match u32::try_from(share) {
            Ok(share) if share <= WHOLE => Ok(share),
            _ => Err(wrong(field, "is not between 0% and 100%".to_owned(), "such as `10%`")),
        }
    };
    let weather = Weather {
        latency_us: micros("latency")?,
        jitter_us: micros("jitter")?,
        loss: share("loss")?,
        reorder: share("reorder")?,
    };
    if weather.reorder > MOST_REORDER {
        let message = "is so much that nobody is late any more".to_owned();
        return Err(wrong("reorder", message, "at most `50%`"));
    }
    let is_late = weather.latency_us + weather.jitter_us > 0;
    if !is_late && weather.loss == 0 {
        let hint = "add `latency: 100ms`, `jitter: 20ms` or `loss: 10%`";
        let message = match weather.reorder {
            0 => "does nothing: no latency, no jitter, no loss".to_owned(),
            _ => "needs a latency: packets overtake only those that are late".to_owned(),
        };
        let field = if weather.reorder > 0 { "reorder" } else { "latency" };
        return Err(wrong(field, message, hint));
    }
    Ok(weather)
}

/// Refuses what no proof can show in time: the scenario could only ever be INVALID.
fn can_be_shown(weather: &Weather, ways: usize) -> Result<(), SpecError> {
    if is_late(weather) && weather.latency_us + weather.jitter_us / 4 < round_trips::LEAST_US {
        let message = "is too little to be told from no weather at all".to_owned();
        return Err(wrong("latency", message, "at least 5 ms of latency, or 20 ms of jitter"));
    }
    if weather.loss > 0 && weather.loss < LEAST_LOSS {
        return Err(wrong("loss", "is too rare to be shown".to_owned(), "at least `1%`"));
    }
    if weather.loss == 0 {
        return Ok(());
    }
    let trips = packets_needed(weather.loss).div_ceil(ways as u64);
    let added = (weather.latency_us + weather.jitter_us / 2) * ways as u64;
    let resent = RETRANSMISSION.as_micros() as u64 * u64::from(weather.loss) * ways as u64;
    let trip = added + resent / u64::from(WHOLE);
    if weather.loss < WHOLE && trips * trip > LOSS_WITHIN.as_micros() as u64 {
        let message = format!("cannot be shown within {LOSS_WITHIN:?} under this latency");
        return Err(wrong("loss", message, "more loss or less latency; or two faults"));
    }
    Ok(())
}

fn wrong(field: &str, message: String, hint: &str) -> SpecError {
    let message = format!("`{field}` of fault `slow` {message}");
    SpecError { field: field.to_owned(), message, hint: hint.to_owned() }
}

fn is_late(weather: &Weather) -> bool {
    weather.latency_us + weather.jitter_us > 0
}

/// So many packets that to lose none of them is not what a share says: see [`is_expected`].
fn packets_needed(loss: u32) -> u64 {
    let share = f64::from(loss) / f64::from(WHOLE);
    let spread = SIGMAS * (1.0 - share).sqrt();
    let root = (spread + (spread * spread + 4.0 * HALF).sqrt()) / 2.0;
    ((root * root / share).floor() as u64 + 1).max(3)
}

/// 99.9 % of all cases lie within so many standard deviations.
const SIGMAS: f64 = 3.29;
/// Packets come whole.
const HALF: f64 = 0.5;

/// Whether so many lost of so many are what a share says: within 99.9 % of all cases.
fn is_expected(lost: u64, packets: u64, loss: u32) -> bool {
    let share = f64::from(loss) / f64::from(WHOLE);
    let (lost, packets) = (lost as f64, packets as f64);
    let spread = (packets * share * (1.0 - share)).sqrt();
    (lost - packets * share).abs() <= SIGMAS * spread + HALF
}

impl Slow {
    fn pairs(&self) -> Vec<(String, String)> {
        // Each direction by requests of its own: where all is lost, no answer flows back.
        self.ways.iter().flat_map(Way::pairs).collect()
    }

    fn words(&self) -> String {
        let ms = |micros: u64| micros as f64 / 1000.0;
        let weather = &self.weather;
        let mut words = vec![between::word(self.traffic).to_owned()];
        if is_late(weather) {
            words.push(format!("{} ms late", ms(weather.latency_us)));
        }
        if weather.jitter_us > 0 {
            words.push(format!("jitter {} ms", ms(weather.jitter_us)));
        }
        if weather.loss > 0 {
            words.push(format!("loss {}%", f64::from(weather.loss) / 100.0));
        }
        if weather.reorder > 0 {
            words.push(format!("reorder {}%", f64::from(weather.reorder) / 100.0));
        }
        words.join(", ")
    }

    /// One round trip, as long as it is worth to wait for.
    async fn timed(
        &self,
        cx: &mut FaultCx<'_>,
        (from, to): &(String, String),
    ) -> Result<Option<u64>, FaultError> {
        let added = (self.weather.latency_us + self.weather.jitter_us) * self.ways.len() as u64;
        let within = Duration::from_micros(added) + ANSWER_WITHIN;
        match timeout(within, round_trip(cx, from, to, self.traffic)).await {
            Ok(took) => Ok(took?),
            Err(_) => Ok(None),
        }
    }

    async fn trip(
        &mut self,
        cx: &mut FaultCx<'_>,
        pair: &(String, String),
    ) -> Result<(), FaultError> {
        let took = self.timed(cx, pair).await?;
        let trips = self.trips.entry(pair.clone()).or_default();
        trips.push(took);
        if trips.len() > TRIPS_MAX {
            trips.remove(0);
        }
        Ok(())
    }

    /// What all receivers have counted together.
    async fn counted(&self, cx: &mut FaultCx<'_>) -> Result<WeatherView, FaultError> {
        let mut all = WeatherView { in_place: true, ..WeatherView::default() };
        for way in &self.ways {
            for node in &way.to {
                let view = weather(cx, &way.id, node).await?;
                all.in_place &= view.in_place;
                all.packets += view.packets;
                all.lost += view.lost;
                all.reordered += view.reordered;
            }
        }
        Ok(all)
    }

    fn is_enough(&self, all: &WeatherView) -> bool {
        let answered = |pair: &(String, String)| self.before.contains_key(pair);
        let trips = |pair| self.trips.get(pair).map_or(0, Vec::len);
        let needed = if self.weather.loss < STORM { TRIPS } else { TRIPS_IN_STORM };
        self.pairs().iter().filter(|pair| answered(pair)).all(|pair| trips(pair) >= needed)
            && (self.weather.loss == 0 || self.is_lost_enough(all))
            && (self.weather.reorder == 0 || all.reordered > 0)
    }

    /// Whether so many packets were sent that none lost would not be what the weather says: those of
    /// the cluster, and those of the proof itself.
    fn is_lost_enough(&self, all: &WeatherView) -> bool {
        let needed = packets_needed(self.weather.loss);
        let probes = self.resent().0 * self.ways.len();
        let most = self.before.len() * TRIPS_MAX * self.ways.len();
        all.packets >= needed && probes as u64 >= needed.min(most as u64)
    }

    /// Sends packets until enough is known, or the time of one proof is up.
    async fn sample(&mut self, cx: &mut FaultCx<'_>) -> Result<WeatherView, FaultError> {
        let up = Instant::now() + BATCH;
        loop {
            let all = self.counted(cx).await?;
            if self.is_enough(&all) || Instant::now() >= up {
                return Ok(all);
            }
            for pair in self.pairs() {
                self.trip(cx, &pair).await?;
            }
        }
    }

    async fn at_receivers(&mut self, cx: &mut FaultCx<'_>) -> Result<Vec<Evidence>, FaultError> {
        let mut evidence = Vec::new();
        for way in &self.ways {
            for node in &way.to {
                let key = (way.id.clone(), node.clone());
                let view = weather(cx, &way.id, node).await?;
                let last = self.counted.insert(key, view).unwrap_or_default();
                let goes_on = view.packets >= last.packets && view.lost >= last.lost;
                let text = format!(
                    "weather {} at {node}: {} packets, {} lost, {} reordered",
                    way.id, view.packets, view.lost, view.reordered
                );
                let holds = view.in_place && view.packets > 0 && goes_on;
                evidence.push(counter(text, holds, None));
            }
        }
        Ok(evidence)
    }

    fn expected(&self, before: &[u64]) -> Expected {
        Expected::new(before, &self.weather, self.ways.len() as u64)
    }

    /// How many round trips were made, and how many of them were sent again or lost.
    fn resent(&self) -> (usize, usize) {
        let known = self.before.iter().filter_map(|(pair, before)| {
            let trips = self.trips.get(pair)?;
            Some((trips.len(), self.expected(before).resent(trips)))
        });
        known.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }

    fn behaviours(&self) -> Vec<Evidence> {
        let mut evidence = Vec::new();
        for (pair, before) in &self.before {
            let (from, to) = pair;
            let trips = self.trips.get(pair).map_or(&[][..], Vec::as_slice);
            let (holds, told) = self.expected(before).shows(trips);
            evidence.push(behaviour(format!("{from} to {to} and back: {told}"), holds, None));
        }
        if evidence.is_empty() {
            let text = "no packet was answered before either".to_owned();
            evidence.push(behaviour(text, false, None));
        }
        if self.weather.loss > 0 {
            let (all, resent) = self.resent();
            let text =
                format!("of {all} round trips of all pairs {resent} were sent again or lost");
            evidence.push(behaviour(text, resent > 0, None));
        }
        evidence
    }

    async fn control(&self, cx: &mut FaultCx<'_>) -> Result<Evidence, FaultError> {
        let mut last = None;
        for ((from, to, traffic), before) in &self.controls {
            let took = round_trip(cx, from, to, *traffic).await?;
            let holds = took.is_some_and(|took| took <= round_trips::as_before(before));
            let text = format!(
                "untouched {from} to {to} and back: {}, before up to {}",
                round_trips::tell(took),
                round_trips::tell(before.iter().max().copied())
            );
            let piece = control(text, holds, None);
            if holds {
                return Ok(piece);
            }
            last = Some(piece);
        }
        let none =
            || control("there is no path beside it that answered before".into(), false, None);
        Ok(last.unwrap_or_else(none))
    }

    async fn whole(&mut self, cx: &mut FaultCx<'_>) -> Result<Vec<Evidence>, FaultError> {
        let all = self.sample(cx).await?;
        let mut evidence = self.at_receivers(cx).await?;
        if self.weather.loss > 0 {
            let loss = self.weather.loss;
            let is_enough = all.packets >= packets_needed(loss);
            let text = format!(
                "{} of {} packets were lost, of {} needed; {}% should be",
                all.lost,
                all.packets,
                packets_needed(loss),
                f64::from(loss) / 100.0
            );
            let holds = is_enough && is_expected(all.lost, all.packets, loss);
            evidence.push(counter(text, holds, None));
        }
        if self.weather.reorder > 0 {
            let text = format!("{} packets overtook others", all.reordered);
            evidence.push(counter(text, all.reordered > 0, None));
        }
        evidence.extend(self.behaviours());
        if let Some(open) = &self.open {
            for node in &open.to {
                let view = weather(cx, &open.id, node).await?;
                let text = format!("the way back to {node}: {} packets met weather", view.packets);
                evidence.push(control(text, !view.in_place && view.packets == 0, None));
            }
        }
        evidence.push(self.control(cx).await?);
        Ok(evidence)
    }

    /// Whether it is still there. What was shown of its strength stands.
    async fn still(&mut self, cx: &mut FaultCx<'_>) -> Result<Vec<Evidence>, FaultError> {
        let mut evidence = Vec::new();
        let pair = self.before.keys().nth(self.turn % self.before.len().max(1)).cloned();
        self.turn += 1;
        if let (Some(pair), true) = (pair, self.weather.loss < WHOLE) {
            // A packet may overtake, or be lucky with the jitter: one slow one in some is enough.
            let lowest = self.expected(&self.before[&pair]).slow_from();
            let mut slowest = Some(0);
            for _ in 0..TRIPS {
                slowest = self.timed(cx, &pair).await?.and_then(|took| slowest.max(Some(took)));
                if slowest.is_none_or(|took| took >= lowest) {
                    break;
                }
            }
            let holds = !is_late(&self.weather) || slowest.is_none_or(|took| took >= lowest);
            let told = round_trips::tell(slowest);
            let text = format!("{} to {} and back: {told}", pair.0, pair.1);
            evidence.push(behaviour(text, holds, None));
        } else {
            let text = "no answer came at the first proof".to_owned();
            evidence.push(behaviour(text, true, None));
        }
        evidence.extend(self.at_receivers(cx).await?);
        let text = "a path beside it was as before at the first proof".to_owned();
        evidence.push(control(text, true, None));
        Ok(evidence)
    }
}

#[async_trait::async_trait]
impl Fault for Slow {
    fn needs(&self) -> Vec<LeverKind> {
        KIND.needs.to_vec()
    }

    /// One text for each direction, which the judge reads: `a, b -> c (all, 100 ms late, loss 10%)`.
    fn targets(&self) -> Vec<String> {
        let words = self.words();
        let ways = self.ways.iter();
        ways.map(|way| format!("{} -> {} ({words})", way.from.join(", "), way.to.join(", ")))
            .collect()
    }

    fn undos(&self) -> Vec<Undo> {
        let ways = self.ways.iter();
        ways.map(|way| Undo::Mend { id: way.id.clone(), nodes: way.to.clone() }).collect()
    }

    async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.before.clear();
        for (from, to) in self.pairs() {
            let took = several(cx, &from, &to, self.traffic).await?;
            if !took.is_empty() {
                self.before.insert((from, to), took);
            }
        }
        self.controls.clear();
        let sides = (self.ways[0].from.as_slice(), self.ways[0].to.as_slice());
        for path in between::untouched_paths(cx.cluster, sides, self.traffic) {
            let took = several(cx, &path.0, &path.1, path.2).await?;
            if !took.is_empty() {
                self.controls.push((path, took));
            }
        }
        Ok(())
    }

    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        for way in self.ways.clone() {
            let Way { id, from, to } = way;
            let (traffic, weather) = (self.traffic, self.weather);
            cx.target.pull(&Lever::Slow { id, from, to, traffic, weather }).await?;
        }
        Ok(())
    }

    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        if self.is_shown {
            return Ok(proof(self.still(cx).await?));
        }
        let proof = proof(self.whole(cx).await?);
        self.is_shown = proof.holds();
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
        let mut evidence = Vec::new();
        for way in &self.ways {
            for node in &way.to {
                let view = weather(cx, &way.id, node).await?;
                let word = if view.in_place { "in place" } else { "gone" };
                let text = format!("weather {} at {node} is {word}", way.id);
                evidence.push(counter(text, !view.in_place, None));
            }
        }
        for ((from, to), before) in &self.before {
            let took = several(cx, from, to, self.traffic).await?;
            let slowest = took.iter().max().copied();
            let is_whole = took.len() == BASELINE_TRIPS;
            let holds =
                is_whole && slowest.is_some_and(|took| took <= round_trips::as_before(before));
            let text = format!(
                "{from} to {to} and back: {} of {BASELINE_TRIPS} answered, up to {}",
                took.len(),
                round_trips::tell(slowest)
            );
            evidence.push(behaviour(text, holds, None));
        }
        Ok(proof(evidence))
    }
}

/// Some round trips; it ends with the first that gets no answer.
async fn several(
    cx: &mut FaultCx<'_>,
    from: &str,
    to: &str,
    traffic: Traffic,
) -> Result<Vec<u64>, FaultError> {
    let mut all = Vec::new();
    for _ in 0..BASELINE_TRIPS {
        match round_trip(cx, from, to, traffic).await? {
            Some(took) => all.push(took),
            None => break,
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scripted::{World, life_of, spec};

    fn slow(fields: serde_json::Value) -> FaultSpec {
        let mut step = spec("slow", &[]);
        step.sides = vec![vec!["cp-1".to_owned()], vec!["cp-2".to_owned(), "cp-3".to_owned()]];
        step.fields = serde_json::from_value(fields).unwrap();
        step
    }

    fn kinds_of_weather() -> Vec<serde_json::Value> {
        vec![
            json!({"latency": "100ms"}),
            json!({"latency": "100ms", "jitter": "50ms", "traffic": "etcd-peer"}),
            json!({"jitter": "100ms"}),
            json!({"loss": "20%"}),
            json!({"loss": "100%", "direction": "to"}),
            json!({"latency": "20ms", "loss": "30%", "direction": "from"}),
            json!({"latency": "20ms", "reorder": "25%"}),
        ]
    }

    #[tokio::test(start_paused = true)]
    async fn every_kind_of_weather_is_proven_and_healed() {
        for fields in kinds_of_weather() {
            life_of(&slow(fields), World::working()).await.proven_and_healed();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        for fields in kinds_of_weather() {
            life_of(&slow(fields), World::inert()).await.not_proven();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn weather_that_counts_and_does_nothing_is_not_proven() {
        for fields in kinds_of_weather() {
            life_of(&slow(fields), World::working().of_empty_weather()).await.not_proven();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn when_everybody_is_slow_it_is_not_proven() {
        let world = World::working().of_weather_everywhere();
        life_of(&slow(json!({"latency": "100ms"})), world).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_is_not_mended_it_is_not_healed() {
        for fields in kinds_of_weather() {
            life_of(&slow(fields), World::working().stuck()).await.not_healed();
        }
    }

    #[test]
    fn what_does_nothing_or_cannot_be_shown_is_refused() {
        for (fields, field) in [
            (json!({}), "latency"),
            (json!({"reorder": "10%"}), "reorder"),
            (json!({"reorder": "60%", "latency": "50ms"}), "reorder"),
            (json!({"loss": "101%"}), "loss"),
            (json!({"loss": "-1%"}), "loss"),
            (json!({"loss": "0.5%"}), "loss"),
            (json!({"loss": "1%", "latency": "1s"}), "loss"),
            (json!({"latency": "1ms"}), "latency"),
        ] {
            let error = build(&slow(fields.clone())).err().unwrap_or_else(|| panic!("{fields}"));
            assert_eq!(error.field, field, "{fields}: {error:?}");
            assert!(!error.hint.is_empty());
        }
    }

    #[test]
    fn targets_say_how_bad_it_is() {
        let step = slow(json!({"direction": "to", "traffic": "api", "loss": "100%"}));
        let fault = build(&step).ok().unwrap();
        assert_eq!(fault.targets(), ["cp-1 -> cp-2, cp-3 (api, loss 100%)"]);
    }

    #[test]
    fn a_share_is_told_from_another_by_many_packets() {
        for (loss, needed) in [(100, 1170), (1000, 108), (5000, 13), (10_000, 3)] {
            assert_eq!(packets_needed(loss), needed);
            assert!(!is_expected(0, needed, loss), "{loss}: none at all is not a loss");
        }
        assert!(is_expected(100, 1000, 1000) && is_expected(75, 1000, 1000));
        assert!(!is_expected(50, 1000, 1000) && !is_expected(150, 1000, 1000));
        assert!(!is_expected(9, 10, 10_000));
    }
}
