//! Bad weather between members: latency, jitter and lost packets, as a TCP connection feels them.
//!
//! A lost packet is sent again after a timeout that doubles from 200 ms, and everything behind it
//! waits. A wait as long as an election timeout is a silence: until it is over the members are out
//! of contact. Bytes of one connection never overtake each other. Where no weather is, nothing is
//! drawn and nothing kept.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use super::raft::{Event, Raft};

/// TCP's first retransmission timeout.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// How often a packet is lost in a row at most, so that a link that loses everything stalls for
/// minutes at a time and not for ever.
const LOSSES_MAX: u32 = 10;
/// A leader's heartbeats: so many in an election timeout.
const BEATS: u32 = 10;
/// Of how many packets `loss` are lost.
const LOSS_OF: u32 = 10_000;

/// What the network does to messages from one member to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkWeather {
    /// Each message is this much later.
    pub latency: Duration,
    /// And by up to this much more.
    pub jitter: Duration,
    /// How many packets in ten thousand are lost, and sent again.
    pub loss: u32,
}

/// What went over a way while its weather was bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkTraffic {
    /// Packets, those sent again included.
    pub packets: u64,
    /// Of those, how many were lost.
    pub lost: u64,
}

/// A way with bad weather.
pub(super) struct Way {
    weather: LinkWeather,
    epoch: u64,
    /// When the last message arrives: none sent later is earlier there.
    last: Option<Instant>,
    /// Until when nothing gets through.
    stalled_until: Option<Instant>,
}

impl Raft {
    /// Changes the weather from one member to another.
    pub(super) fn set_weather(&mut self, way: (usize, usize), weather: LinkWeather, now: Instant) {
        let before = self.weather.get(&way).map(|way| way.weather).unwrap_or_default();
        if before == weather {
            return;
        }
        if weather == LinkWeather::default() {
            self.weather.remove(&way);
            self.reconcile(now);
            return;
        }
        self.weather_epoch += 1;
        let epoch = self.weather_epoch;
        let old = self.weather.remove(&way);
        let (last, stalled_until) = old.map_or((None, None), |way| (way.last, way.stalled_until));
        self.weather.insert(way, Way { weather, epoch, last, stalled_until });
        // The first message that is so much later leaves a silence behind those before it.
        let silence = weather.latency.saturating_sub(before.latency);
        if silence >= self.config.election {
            self.stall(way, now + silence, now);
        }
        if weather.loss > 0 {
            let (from, to) = way;
            self.schedule(now + self.config.election / BEATS, Event::Beat { from, to, epoch });
        }
    }

    /// Until when nothing gets through from one member to another, if it is so.
    pub(super) fn is_stalled(&self, from: usize, to: usize) -> Option<Instant> {
        self.weather.get(&(from, to))?.stalled_until
    }

    fn stall(&mut self, way: (usize, usize), until: Instant, now: Instant) {
        if let Some(weather) = self.weather.get_mut(&way) {
            weather.stalled_until = Some(until);
            self.schedule(until, Event::Flows);
            self.reconcile(now);
        }
    }

    /// Ends the stalls that are over.
    pub(super) fn clear_stalls(&mut self, now: Instant) {
        for way in self.weather.values_mut() {
            if way.stalled_until.is_some_and(|until| until <= now) {
                way.stalled_until = None;
            }
        }
    }

    /// Sends a heartbeat over a way that loses packets; it goes on for as long as the weather does.
    pub(super) fn beat(&mut self, way: (usize, usize), epoch: u64, now: Instant) {
        let Some(weather) = self.weather.get(&way) else { return };
        if weather.epoch != epoch {
            return;
        }
        if weather.stalled_until.is_none() {
            let wait = self.lose(way);
            if wait >= self.config.election {
                self.stall(way, now + wait, now);
            }
        }
        let (from, to) = way;
        self.schedule(now + self.config.election / BEATS, Event::Beat { from, to, epoch });
    }

    /// Sends one packet until it is not lost; answers how long that took.
    fn lose(&mut self, way: (usize, usize)) -> Duration {
        let Some(weather) = self.weather.get(&way).map(|way| way.weather) else {
            return Duration::ZERO;
        };
        let traffic = self.traffic.entry(way).or_default();
        let (mut wait, mut again) = (Duration::ZERO, RETRANSMIT);
        // The one that gets through after so many losses came with no draw, so it is not counted.
        for _ in 0..LOSSES_MAX {
            traffic.packets += 1;
            if weather.loss == 0 || self.stream.random_range(0..LOSS_OF) >= weather.loss {
                break;
            }
            traffic.lost += 1;
            wait += again;
            again *= 2;
        }
        wait
    }

    /// How long a message is on its way in calm weather.
    fn hop(&mut self) -> Duration {
        if self.members.len() == 1 {
            return Duration::ZERO;
        }
        let (least, most) = self.config.hop_us;
        Duration::from_micros(self.stream.random_range(least..=most))
    }

    /// How long a message sent now is on its way.
    pub(super) fn way(&mut self, way: (usize, usize), now: Instant) -> Duration {
        let hop = self.hop();
        let Some(weather) = self.weather.get(&way).map(|way| way.weather) else { return hop };
        let jitter_us = u64::try_from(weather.jitter.as_micros()).unwrap_or(u64::MAX);
        let jitter = match jitter_us {
            0 => Duration::ZERO,
            most => Duration::from_micros(self.stream.random_range(0..=most)),
        };
        let at = now + hop + weather.latency + jitter + self.lose(way);
        let weather = self.weather.get_mut(&way).expect("it was just read");
        let at = weather.last.map_or(at, |last| at.max(last));
        weather.last = Some(at);
        at - now
    }

    /// How long `index` waits for the answers that make a majority with its own. If these are too
    /// few there is nothing to wait for but a change, and the answer is zero.
    pub(super) fn round(&mut self, index: usize, others: &[usize], now: Instant) -> Duration {
        if self.weather.is_empty() {
            return self.hop() + self.hop();
        }
        let mut answers: Vec<Duration> = Vec::new();
        for other in others.iter().filter(|other| **other != index) {
            let there = self.way((index, *other), now);
            answers.push(there + self.way((*other, index), now + there));
        }
        answers.sort();
        let needed = self.quorum() - 1;
        needed.checked_sub(1).and_then(|at| answers.get(at).copied()).unwrap_or_default()
    }

    /// Breaks the connections between two members, and what was on them is lost.
    pub(super) fn reset(&mut self, one: usize, other: usize, now: Instant) -> u64 {
        if !self.are_connected(one, other) {
            return 0;
        }
        self.queue.retain(|_, event| {
            !matches!(event, Event::Forwarded { leader, origin, .. }
                if (*leader, origin.0) == (one, other) || (*leader, origin.0) == (other, one))
        });
        for is_open in [false, true] {
            self.links[one][other] = is_open;
            self.reconcile(now);
        }
        // Each keeps a stream to the other.
        2
    }
}
