//! Zones: how much of one is disrupted, and how fast its nodes may be tainted NoExecute.
//!
//! Pure: times are handed in. The rules are upstream's (`ComputeZoneState`, `handleDisruption`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use machinery::Object;

use crate::Config;

/// How much of a zone is disrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZoneState {
    /// Nothing was decided yet.
    Initial,
    /// Most nodes are ready.
    Normal,
    /// More than two nodes, and at least the threshold's share, are not ready.
    PartialDisruption,
    /// No node is ready.
    FullDisruption,
}

/// The zone of a node: its region and zone labels.
pub fn zone_of(node: &Object) -> String {
    let label = |key| node.label(key).unwrap_or_default();
    format!("{}:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

/// The state of a zone with so many ready and not ready nodes.
pub fn state(ready: usize, not_ready: usize, threshold: f64) -> ZoneState {
    #[expect(clippy::cast_precision_loss, reason = "a zone has fewer than 2^52 nodes")]
    let share = not_ready as f64 / (ready + not_ready) as f64;
    if ready == 0 && not_ready > 0 {
        ZoneState::FullDisruption
    } else if not_ready > 2 && share >= threshold {
        ZoneState::PartialDisruption
    } else {
        ZoneState::Normal
    }
}

/// What a pass over all zones came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing that concerns all zones.
    None,
    /// From now on every zone is fully disrupted: no node may be tainted NoExecute any more.
    AllLost,
    /// At least one zone is back: all nodes get a fresh start.
    SomeBack,
}

/// A bucket of one token that fills at a rate.
#[derive(Debug, Clone)]
struct Bucket {
    per_second: f64,
    tokens: f64,
    since: Duration,
}

impl Bucket {
    fn level(&self, now: Duration) -> f64 {
        (self.tokens + self.per_second * now.saturating_sub(self.since).as_secs_f64()).min(1.0)
    }

    fn take(&mut self, now: Duration) -> bool {
        let level = self.level(now);
        // A wait that was rounded down to the clock's step is long enough.
        let is_full = self.per_second > 0.0 && level >= 1.0 - 1e-6;
        self.tokens = if is_full { level - 1.0 } else { level };
        self.since = now;
        is_full
    }

    fn full_after(&self, now: Duration) -> Option<Duration> {
        (self.per_second > 0.0)
            .then(|| Duration::from_secs_f64((1.0 - self.level(now)).max(0.0) / self.per_second))
    }
}

/// One zone: its state, and the nodes that wait for their NoExecute taint.
#[derive(Debug, Clone)]
struct Zone {
    state: ZoneState,
    bucket: Bucket,
    queue: VecDeque<String>,
    /// The same nodes, to be looked up.
    waiting: BTreeSet<String>,
}

/// All zones that have nodes.
#[derive(Debug, Clone, Default)]
pub struct Zones {
    zones: BTreeMap<String, Zone>,
}

impl Zones {
    /// Puts a node into its zone's queue, once.
    pub fn queue(&mut self, zone: &str, node: &str, now: Duration, config: &Config) {
        let zone = self.zones.entry(zone.to_owned()).or_insert_with(|| new_zone(now, config));
        if zone.waiting.insert(node.to_owned()) {
            zone.queue.push_back(node.to_owned());
        }
    }

    /// Takes a node out of every queue.
    pub fn forget(&mut self, node: &str) {
        for zone in self.zones.values_mut() {
            if zone.waiting.remove(node) {
                zone.queue.retain(|known| known != node);
            }
        }
    }

    /// The next node of the zone that waits for its taint.
    pub fn first(&self, zone: &str) -> Option<&str> {
        self.zones.get(zone)?.queue.front().map(String::as_str)
    }

    /// Whether the zone's first node may be tainted now; it is out of the queue then.
    pub fn take(&mut self, zone: &str, now: Duration) -> bool {
        let Some(zone) = self.zones.get_mut(zone) else { return false };
        if zone.queue.is_empty() || !zone.bucket.take(now) {
            return false;
        }
        if let Some(first) = zone.queue.pop_front() {
            zone.waiting.remove(&first);
        }
        true
    }

    /// After how long [`Zones::take`] will succeed; `None` for not at all as things are.
    pub fn next_after(&self, zone: &str, now: Duration) -> Option<Duration> {
        let zone = self.zones.get(zone)?;
        if zone.queue.is_empty() { None } else { zone.bucket.full_after(now) }
    }

    /// The zones in which nodes wait.
    pub fn waiting(&self) -> impl Iterator<Item = &str> {
        self.zones.iter().filter(|(_, zone)| !zone.queue.is_empty()).map(|(name, _)| name.as_str())
    }

    /// Takes in how many nodes of each zone are (ready, not ready) and sets the zones' rates.
    /// `ignore_total_loss` goes on at the normal rate when all zones are lost: a planted defect.
    pub fn pass(
        &mut self,
        counts: &BTreeMap<String, (usize, usize)>,
        now: Duration,
        config: &Config,
        ignore_total_loss: bool,
    ) -> Turn {
        let fresh: BTreeMap<_, _> = counts
            .iter()
            .map(|(zone, (ready, not_ready))| {
                (zone, state(*ready, *not_ready, config.unhealthy_zone_threshold))
            })
            .collect();
        for zone in counts.keys() {
            self.zones.entry(zone.clone()).or_insert_with(|| new_zone(now, config));
        }
        self.zones.retain(|zone, _| counts.contains_key(zone));
        let is_full = |state: &ZoneState| *state == ZoneState::FullDisruption;
        let all_lost = !fresh.is_empty() && fresh.values().all(is_full) && !ignore_total_loss;
        let all_were_lost = self.zones.values().all(|zone| is_full(&zone.state));
        if all_lost && all_were_lost {
            return Turn::None;
        }
        if all_lost {
            for zone in self.zones.values_mut() {
                zone.state = ZoneState::FullDisruption;
                zone.set_rate(0.0, now);
            }
            return Turn::AllLost;
        }
        for (name, state) in fresh {
            let size = counts[name].0 + counts[name].1;
            let zone = self.zones.get_mut(name).expect("every counted zone was entered above");
            if zone.state != state || all_were_lost {
                zone.state = state;
                zone.set_rate(rate(state, size, config), now);
            }
        }
        let had_zones = !counts.is_empty() && all_were_lost && !ignore_total_loss;
        if had_zones { Turn::SomeBack } else { Turn::None }
    }
}

impl Zone {
    /// A bucket that was being waited for is waited for again at the new rate.
    fn set_rate(&mut self, per_second: f64, now: Duration) {
        if (self.bucket.per_second - per_second).abs() < f64::EPSILON {
            return;
        }
        let is_full = self.bucket.level(now) >= 1.0 && self.bucket.per_second > 0.0;
        self.bucket = Bucket { per_second, tokens: if is_full { 1.0 } else { 0.0 }, since: now };
    }
}

fn new_zone(now: Duration, config: &Config) -> Zone {
    Zone {
        state: ZoneState::Initial,
        bucket: Bucket { per_second: config.node_eviction_rate, tokens: 1.0, since: now },
        queue: VecDeque::new(),
        waiting: BTreeSet::new(),
    }
}

/// Nodes a second that may be tainted in a zone of this state and size.
fn rate(state: ZoneState, size: usize, config: &Config) -> f64 {
    match state {
        ZoneState::PartialDisruption if size > config.large_cluster_size_threshold => {
            config.secondary_node_eviction_rate
        }
        ZoneState::PartialDisruption => 0.0,
        ZoneState::Initial | ZoneState::Normal | ZoneState::FullDisruption => {
            config.node_eviction_rate
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_zone() {
        use ZoneState::{FullDisruption, Normal, PartialDisruption};
        for (ready, not_ready, expected) in [
            (0, 0, Normal),
            (3, 0, Normal),
            (0, 1, FullDisruption),
            (0, 3, FullDisruption),
            (1, 2, Normal),
            (2, 3, PartialDisruption),
            (3, 3, Normal),
            (45, 55, PartialDisruption),
            (46, 54, Normal),
        ] {
            assert_eq!(state(ready, not_ready, 0.55), expected, "{ready} ready, {not_ready} not");
        }
    }

    /// Runs passes (second, [(ready, not ready) of zones a and b]) and shows turn and rates.
    fn check(passes: &[(u64, &[(usize, usize)])], expected: &[&str]) {
        let config = Config::new("cp-1_x");
        let mut zones = Zones::default();
        let shown: Vec<_> = passes
            .iter()
            .map(|(second, counts)| {
                let counts = ["a", "b"].into_iter().map(str::to_owned).zip(counts.iter().copied());
                let now = Duration::from_secs(*second);
                let turn = zones.pass(&counts.collect(), now, &config, false);
                let rates = zones.zones.values().map(|zone| zone.bucket.per_second.to_string());
                format!("{turn:?} {}", rates.collect::<Vec<_>>().join(" "))
            })
            .collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn rates_follow_the_disruption() {
        check(
            &[(0, &[(5, 0)]), (5, &[(2, 3)]), (10, &[(3, 2)])],
            &["None 0.1", "None 0", "None 0.1"],
        );
        check(&[(0, &[(60, 0)]), (5, &[(20, 40)])], &["None 0.1", "None 0.01"]);
        check(
            &[(0, &[(3, 0), (3, 0)]), (5, &[(0, 3), (3, 0)]), (10, &[(0, 3), (0, 3)])],
            &["None 0.1 0.1", "None 0.1 0.1", "AllLost 0 0"],
        );
        check(
            &[(0, &[(0, 3)]), (5, &[(0, 3)]), (10, &[(1, 2)]), (15, &[(3, 0)])],
            &["AllLost 0", "None 0", "SomeBack 0.1", "None 0.1"],
        );
    }

    #[test]
    fn nodes_are_tainted_one_by_one() {
        let config = Config::new("cp-1_x");
        let at = Duration::from_secs;
        let mut zones = Zones::default();
        for node in ["n1", "n2", "n1", "n3"] {
            zones.queue("z", node, at(0), &config);
        }
        assert!(zones.take("z", at(0)));
        assert_eq!(zones.first("z"), Some("n2"));
        assert!(!zones.take("z", at(9)));
        assert_eq!(zones.next_after("z", at(9)), Some(at(1)));
        assert!(zones.take("z", at(10)));
        zones.forget("n3");
        assert_eq!(zones.next_after("z", at(10)), None);
        assert!(!zones.take("z", at(60)));
    }
}
