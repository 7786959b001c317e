//! The scripted cluster's weather, clocks, disks, etcd and rules: the state behind the newer levers.
//!
//! Chance is a sequence of its own, so that every test sees the same.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shakedown_core::lever::{Lever, Probe, Reading, Rule, Traffic, Undo, Weather};
use tokio::time::Instant;

/// How the cluster misbehaves, as far as these levers are concerned.
#[derive(Default, Clone, Copy)]
pub(crate) struct Quirks {
    /// Weather counts packets and does nothing to them.
    pub(crate) empty_weather: bool,
    /// What is done to some is done to everybody.
    pub(crate) everywhere: bool,
    /// History and disks stay; a crash kills nobody.
    pub(crate) forgets_nothing: bool,
    /// Stamps do not follow the clock.
    pub(crate) true_stamps: bool,
    /// Each rule is met at once.
    pub(crate) meets_rules: bool,
    /// Members do not hear of each other.
    pub(crate) deaf_members: bool,
}

/// How long a packet takes in good weather.
const HOP_US: u64 = 500;
/// Longer than this nobody waits for an answer.
const PATIENCE_US: u64 = 1_000_000;
/// How often a kubelet renews its Lease.
const HEARTBEAT_US: i64 = 10_000_000;
/// When the tests begin: the tenth day of 2026.
const EPOCH_US: i64 = 10 * 86_400 * 1_000_000;

struct ActiveWeather {
    from: Vec<String>,
    to: Vec<String>,
    traffic: Traffic,
    weather: Weather,
    packets: u64,
    lost: u64,
    reordered: u64,
}

struct Skew {
    offset_us: i64,
    rate_ppm: i64,
    since_us: i64,
}

/// The state.
pub(crate) struct Levers {
    pub(crate) quirks: Quirks,
    began: Instant,
    weathers: BTreeMap<String, ActiveWeather>,
    resets: u64,
    reset_everywhere: bool,
    reset: Vec<(String, String)>,
    skews: BTreeMap<String, Skew>,
    skewed_all: bool,
    disks: BTreeMap<String, u64>,
    leader: u64,
    compacted: i64,
    rules: BTreeMap<String, u64>,
    chance: u64,
}

impl Default for Levers {
    fn default() -> Self {
        Self {
            quirks: Quirks::default(),
            began: Instant::now(),
            weathers: BTreeMap::new(),
            resets: 0,
            reset_everywhere: false,
            reset: Vec::new(),
            skews: BTreeMap::new(),
            skewed_all: false,
            disks: BTreeMap::new(),
            leader: 1,
            compacted: 10,
            rules: BTreeMap::new(),
            chance: 7,
        }
    }
}

/// The newest revision of the scripted etcd.
const NEWEST: i64 = 100;

fn member(node: &str) -> u64 {
    node.trim_start_matches("cp-").parse().unwrap_or(0)
}

impl Levers {
    fn draw(&mut self, below: u64) -> u64 {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.chance >> 33) % below
    }

    fn now_us(&self) -> i64 {
        self.began.elapsed().as_micros() as i64
    }

    /// Pulls a lever; answers whether the component of a rule dies at once.
    pub(crate) fn pull(&mut self, lever: &Lever) -> bool {
        let everywhere = self.quirks.everywhere;
        match lever.clone() {
            Lever::Slow { id, from, to, traffic, weather } => {
                let (packets, lost, reordered) = (0, 0, 0);
                let active = ActiveWeather { from, to, traffic, weather, packets, lost, reordered };
                self.weathers.insert(id, active);
            }
            Lever::Reset { from, to, .. } => {
                self.resets = 2;
                self.reset_everywhere = everywhere;
                let pairs = from.iter().flat_map(|one| to.iter().map(move |other| (one, other)));
                self.reset = pairs.map(|(one, other)| (one.clone(), other.clone())).collect();
            }
            Lever::Skew { node, offset_us, rate_ppm } => {
                let since_us = self.now_us();
                self.skews.insert(node, Skew { offset_us, rate_ppm, since_us });
                self.skewed_all = everywhere;
            }
            Lever::LoseDisk { node } if !self.quirks.forgets_nothing => {
                *self.disks.entry(node).or_default() += 1;
            }
            Lever::LoseDisk { .. } => {}
            Lever::Compact => self.compacted = NEWEST,
            Lever::MoveLeader { node } => self.leader = member(&node),
            Lever::Meddle { id, rule, .. } => {
                self.rules.insert(id, u64::from(self.quirks.meets_rules));
                let is_met = self.quirks.meets_rules && !self.quirks.forgets_nothing;
                return is_met && matches!(rule, Rule::CrashAtWrite { .. });
            }
            other => panic!("the scripted cluster has no {other:?}"),
        }
        false
    }

    pub(crate) fn undo(&mut self, undo: &Undo) {
        match undo {
            Undo::Mend { id, .. } => drop(self.weathers.remove(id)),
            Undo::Unskew { node } => {
                self.skews.remove(node);
                self.skewed_all = false;
            }
            Undo::Unmeddle { id } => drop(self.rules.remove(id)),
            other => panic!("the scripted cluster has no {other:?}"),
        }
    }

    pub(crate) fn probe(&mut self, probe: &Probe) -> Option<Reading> {
        Some(match probe {
            Probe::Weather { id, .. } => {
                let active = self.weathers.get(id)?;
                let (packets, lost, reordered) = (active.packets, active.lost, active.reordered);
                Reading::Weather { in_place: true, packets, lost, reordered }
            }
            Probe::RoundTrip { from, to, traffic } => {
                Reading::RoundTrip { micros: self.round_trip(from, to, *traffic) }
            }
            Probe::Resets { from, to, .. } => {
                let is_between = self
                    .reset
                    .iter()
                    .any(|(one, other)| [(one, other), (other, one)].contains(&(from, to)));
                let hit = self.reset_everywhere || is_between;
                Reading::Resets { connections: 5 + if hit { self.resets } else { 0 } }
            }
            Probe::Clock { node } => {
                Reading::Clock { offset_us: self.skew(node, self.now_us()), error_us: 100 }
            }
            Probe::Disk { node } => Reading::Disk {
                identity: format!("{node}-{}", self.disks.get(node).copied().unwrap_or(0)),
            },
            Probe::EtcdMember { node } if node.starts_with("cp-") => {
                let own = member(node);
                let knows = !self.quirks.deaf_members || own == self.leader;
                let leader = if knows { self.leader } else { 1 };
                Reading::EtcdMember { member: own, leader, term: 2, revision: NEWEST }
            }
            Probe::Compacted { .. } => Reading::Compacted { revision: self.compacted },
            Probe::Meddled { id } => {
                Reading::Meddled { in_place: true, hits: *self.rules.get(id)? }
            }
            _ => return None,
        })
    }

    fn round_trip(&mut self, from: &str, to: &str, traffic: Traffic) -> Option<u64> {
        let there = self.way(from, to, traffic)?;
        let took = there + self.way(to, from, traffic)?;
        (took <= PATIENCE_US).then_some(took)
    }

    fn way(&mut self, sender: &str, receiver: &str, traffic: Traffic) -> Option<u64> {
        let mut took = HOP_US + self.draw(100);
        let (all, empty) = (self.quirks.everywhere, self.quirks.empty_weather);
        let ids: Vec<_> = self.weathers.keys().cloned().collect();
        for id in ids {
            let mut timeout_us = 200_000;
            loop {
                let (loses, overtakes) = (self.draw(10_000), self.draw(10_000));
                let chance = self.draw(u64::MAX >> 33);
                let active = self.weathers.get_mut(&id)?;
                let named = |names: &[String], name: &str| names.iter().any(|known| known == name);
                let is_on_path = named(&active.from, sender) && named(&active.to, receiver);
                let is_meant = [Traffic::All, traffic].contains(&active.traffic);
                let is_met = all || (is_on_path && is_meant);
                if !is_met {
                    break;
                }
                active.packets += 1;
                let weather = active.weather;
                let is_lost = loses < u64::from(weather.loss);
                active.lost += u64::from(is_lost);
                let is_first = overtakes < u64::from(weather.reorder);
                active.reordered += u64::from(is_first);
                if empty {
                    break;
                }
                if is_lost {
                    took += timeout_us;
                    timeout_us *= 2;
                    if took > PATIENCE_US {
                        return None;
                    }
                    continue;
                }
                if !is_first {
                    took += weather.latency_us + chance % (weather.jitter_us + 1);
                }
                break;
            }
        }
        Some(took)
    }

    fn skew(&self, node: &str, at_us: i64) -> i64 {
        let own = self.skews.get(node);
        let skew = own.or_else(|| self.skews.values().next().filter(|_| self.skewed_all));
        match skew.filter(|skew| skew.since_us <= at_us) {
            Some(skew) => skew.offset_us + (at_us - skew.since_us) * skew.rate_ppm / 1_000_000,
            None => 0,
        }
    }

    fn stamp(&self, node: &str, at_us: i64) -> i64 {
        let skew = if self.quirks.true_stamps { 0 } else { self.skew(node, at_us) };
        EPOCH_US + at_us + skew
    }

    /// What an API server answers to what only these levers concern.
    pub(crate) fn serve(
        &self,
        node: &str,
        (method, path, query): (&str, &str, &str),
        workers: &[String],
    ) -> Option<(u16, Value)> {
        match (method, path) {
            ("POST", _) if path.ends_with("/configmaps") && query == "dryRun=All" => {
                let stamp = told(self.stamp(node, self.now_us()), false);
                Some((201, json!({"metadata": {"creationTimestamp": stamp}})))
            }
            ("GET", _) if path.ends_with("/leases") => {
                let leases = workers.iter().enumerate().map(|(at, worker)| {
                    let phase = (at as i64 + 1) * 1_000_000;
                    let round = (self.now_us() - phase).div_euclid(HEARTBEAT_US);
                    let renewed = round * HEARTBEAT_US + phase;
                    json!({"metadata": {"name": worker},
                        "spec": {"renewTime": told(self.stamp(worker, renewed), true)}})
                });
                Some((200, json!({"items": leases.collect::<Vec<_>>()})))
            }
            ("GET", "/api/v1/namespaces") => {
                let asked = query.strip_prefix("resourceVersion=");
                let asked = asked.and_then(|rest| rest.split('&').next()?.parse::<i64>().ok());
                let oldest = if self.quirks.forgets_nothing { 0 } else { self.compacted };
                match asked {
                    Some(asked) if asked < oldest => Some((
                        410,
                        json!({"kind": "Status",
                        "apiVersion": "v1", "status": "Failure", "code": 410,
                        "reason": "Expired", "message": "compacted"}),
                    )),
                    _ => Some((200, json!({"items": []}))),
                }
            }
            _ => None,
        }
    }
}

/// A time of January 2026, as Kubernetes writes it.
fn told(micros: i64, is_fine: bool) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (day, hour) = (seconds / 86_400 + 1, seconds / 3600 % 24);
    let (minute, second) = (seconds / 60 % 60, seconds % 60);
    let fraction = if is_fine { format!(".{fraction:06}") } else { String::new() };
    format!("2026-01-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}
