//! The network between nodes: latency, cuts, bad weather, and what these have done to packets.
//!
//! A message that meets a cut is not lost: TCP sends it again until it gets through, so it waits, and
//! the cut counts it once. A packet lost in bad weather is sent again after a timeout that doubles
//! from 200 ms. Whoever is not a node, such as the observer, is never cut off or slowed down.
//! Where no weather is, a message costs one draw and nothing is allocated.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use env::Signal;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use shakedown_core::lever::{Traffic, Weather};

/// The least and the most microseconds of one way between two nodes.
const LATENCY_US: std::ops::RangeInclusive<u64> = 300..=1500;
/// TCP's first retransmission timeout, in microseconds.
const RETRANSMIT_US: u64 = 200_000;
/// How often a packet is lost in a row at most: a way that loses everything stalls for minutes at a
/// time, and a message does get through in the end.
const LOSSES_MAX: u32 = 10;
/// `loss` and `reorder` are of so many packets.
const CHANCES: u32 = 10_000;

/// Packets that come from some nodes are dropped at others.
#[derive(Debug, Clone)]
pub(crate) struct Cut {
    pub(crate) from: Vec<String>,
    pub(crate) to: Vec<String>,
    pub(crate) traffic: Traffic,
    /// How many were dropped, for each receiver.
    dropped: BTreeMap<String, u64>,
}

impl Cut {
    fn stops(&self, from: &str, to: &str, traffic: Traffic) -> bool {
        concerns((&self.from, &self.to, self.traffic), from, to, traffic)
    }
}

/// What bad weather has done at one receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) packets: u64,
    pub(crate) lost: u64,
    pub(crate) reordered: u64,
}

/// Packets that come from some nodes meet bad weather at others.
#[derive(Debug, Clone)]
pub(crate) struct Storm {
    pub(crate) from: Vec<String>,
    pub(crate) to: Vec<String>,
    pub(crate) traffic: Traffic,
    pub(crate) weather: Weather,
    counts: BTreeMap<String, Counts>,
    /// What the etcd members of each receiver had been sent before, in packets and in losses.
    peers_before: BTreeMap<String, (u64, u64)>,
}

impl Storm {
    fn meets(&self, from: &str, to: &str, traffic: Traffic) -> bool {
        concerns((&self.from, &self.to, self.traffic), from, to, traffic)
    }
}

fn concerns(
    (senders, receivers, kind): (&[String], &[String], Traffic),
    from: &str,
    to: &str,
    traffic: Traffic,
) -> bool {
    (kind == Traffic::All || kind == traffic)
        && senders.iter().any(|node| node == from)
        && receivers.iter().any(|node| node == to)
}

struct Inner {
    cuts: BTreeMap<String, Cut>,
    storms: BTreeMap<String, Storm>,
    stream: ChaCha8Rng,
}

/// The network.
pub(crate) struct Net {
    inner: Mutex<Inner>,
    changes: Signal,
}

impl Net {
    pub(crate) fn new(stream: ChaCha8Rng) -> Self {
        let inner = Inner { cuts: BTreeMap::new(), storms: BTreeMap::new(), stream };
        Self { inner: Mutex::new(inner), changes: Signal::default() }
    }

    /// Makes a cut, or makes it anew.
    pub(crate) fn cut(&self, id: &str, from: &[String], to: &[String], traffic: Traffic) {
        let (from, to) = (from.to_vec(), to.to_vec());
        let cut = Cut { from, to, traffic, dropped: BTreeMap::new() };
        self.lock().cuts.insert(id.to_owned(), cut);
        self.changes.raise();
    }

    /// Makes bad weather, or makes it anew. `peers_before` is what etcd members were sent so far.
    pub(crate) fn slow(
        &self,
        id: &str,
        (from, to): (&[String], &[String]),
        (traffic, weather): (Traffic, Weather),
        peers_before: BTreeMap<String, (u64, u64)>,
    ) {
        let (from, to, counts) = (from.to_vec(), to.to_vec(), BTreeMap::new());
        let storm = Storm { from, to, traffic, weather, counts, peers_before };
        self.lock().storms.insert(id.to_owned(), storm);
    }

    /// Mends a cut, or the weather, at these receivers; it is gone when none is left.
    pub(crate) fn mend(&self, id: &str, nodes: &[String]) {
        let mut inner = self.lock();
        if let Some(cut) = inner.cuts.get_mut(id) {
            cut.to.retain(|node| !nodes.contains(node));
            if cut.to.is_empty() {
                inner.cuts.remove(id);
            }
        }
        if let Some(storm) = inner.storms.get_mut(id) {
            storm.to.retain(|node| !nodes.contains(node));
            if storm.to.is_empty() {
                inner.storms.remove(id);
            }
        }
        drop(inner);
        self.changes.raise();
    }

    /// A node that loses power forgets the cuts and the weather at its end: they were in its kernel.
    pub(crate) fn forget(&self, node: &str) {
        let inner = self.lock();
        let ids: Vec<String> = inner.cuts.keys().chain(inner.storms.keys()).cloned().collect();
        drop(inner);
        for id in ids {
            self.mend(&id, &[node.to_owned()]);
        }
    }

    /// The cuts in place.
    pub(crate) fn cuts(&self) -> BTreeMap<String, Cut> {
        self.lock().cuts.clone()
    }

    /// The weather in place.
    pub(crate) fn storms(&self) -> BTreeMap<String, Storm> {
        self.lock().storms.clone()
    }

    /// How many packets a cut has dropped at a receiver; `None` if it is not in place there.
    pub(crate) fn dropped(&self, id: &str, node: &str) -> Option<u64> {
        let inner = self.lock();
        let cut = inner.cuts.get(id).filter(|cut| cut.to.iter().any(|to| to == node))?;
        Some(cut.dropped.get(node).copied().unwrap_or(0))
    }

    /// What bad weather has done at a receiver, etcd's own packets aside, and what those were when it
    /// began; `None` if it is not in place there.
    pub(crate) fn weathered(&self, id: &str, node: &str) -> Option<(Counts, Storm, (u64, u64))> {
        let inner = self.lock();
        let storm = inner.storms.get(id).filter(|storm| storm.to.iter().any(|to| to == node))?;
        let counts = storm.counts.get(node).copied().unwrap_or_default();
        let before = storm.peers_before.get(node).copied().unwrap_or_default();
        Some((counts, storm.clone(), before))
    }

    /// All the weather between two nodes, one after the other.
    pub(crate) fn weather(&self, from: &str, to: &str, traffic: Traffic) -> Weather {
        let inner = self.lock();
        let mut all = Weather::default();
        let mut kept = u64::from(CHANCES);
        if from != to {
            for storm in inner.storms.values().filter(|storm| storm.meets(from, to, traffic)) {
                all.latency_us += storm.weather.latency_us;
                all.jitter_us += storm.weather.jitter_us;
                all.reorder = all.reorder.max(storm.weather.reorder);
                let through = CHANCES.saturating_sub(storm.weather.loss);
                kept = kept * u64::from(through) / u64::from(CHANCES);
            }
        }
        all.loss = CHANCES - u32::try_from(kept).unwrap_or(CHANCES);
        all
    }

    /// Whether packets get through.
    pub(crate) fn is_open(&self, from: &str, to: &str, traffic: Traffic) -> bool {
        from == to || !self.lock().cuts.values().any(|cut| cut.stops(from, to, traffic))
    }

    /// Sends one packet; answers whether it gets through. If not, it is counted.
    pub(crate) fn sends(&self, from: &str, to: &str, traffic: Traffic) -> bool {
        if from == to {
            return true;
        }
        let mut is_through = true;
        for cut in self.lock().cuts.values_mut().filter(|cut| cut.stops(from, to, traffic)) {
            *cut.dropped.entry(to.to_owned()).or_default() += 1;
            is_through = false;
        }
        is_through
    }

    /// Waits until a packet gets through.
    pub(crate) async fn through(&self, from: &str, to: &str, traffic: Traffic) {
        if self.sends(from, to, traffic) {
            return;
        }
        loop {
            let seen = self.changes.count();
            if self.is_open(from, to, traffic) {
                return;
            }
            self.changes.after(seen).await;
        }
    }

    /// Takes a message from one node to another.
    pub(crate) async fn travel(&self, from: &str, to: &str, traffic: Traffic) {
        self.through(from, to, traffic).await;
        if from != to {
            let (calm, bad) = self.delay(from, to, traffic);
            tokio::time::sleep(calm + bad.unwrap_or_default()).await;
        }
    }

    /// Takes what opens a connection from one node to another, which takes time in bad weather only.
    pub(crate) async fn knock(&self, from: &str, to: &str, traffic: Traffic) {
        self.through(from, to, traffic).await;
        let bad = self.bad(&mut self.lock(), from, to, traffic);
        if let Some(bad) = bad {
            tokio::time::sleep(bad).await;
        }
    }

    /// How long a message sent now is on its way: as ever, and what bad weather adds, if there is any.
    pub(crate) fn delay(
        &self,
        from: &str,
        to: &str,
        traffic: Traffic,
    ) -> (Duration, Option<Duration>) {
        let mut inner = self.lock();
        let calm = Duration::from_micros(inner.stream.random_range(LATENCY_US));
        (calm, self.bad(&mut inner, from, to, traffic))
    }

    /// Sends one message through the weather until it is not lost; answers what it cost.
    fn bad(&self, inner: &mut Inner, from: &str, to: &str, traffic: Traffic) -> Option<Duration> {
        if inner.storms.is_empty() || from == to {
            return None;
        }
        let Inner { storms, stream, .. } = inner;
        let mut cost_us = None;
        for storm in storms.values_mut().filter(|storm| storm.meets(from, to, traffic)) {
            let weather = storm.weather;
            let mut draw = |chances: u32| chances > 0 && stream.random_range(0..CHANCES) < chances;
            let counts = storm.counts.entry(to.to_owned()).or_default();
            let (mut us, mut again) = (0_u64, RETRANSMIT_US);
            // The one that gets through after so many losses came with no draw, so it is not counted.
            for _ in 0..LOSSES_MAX {
                counts.packets += 1;
                if !draw(weather.loss) {
                    break;
                }
                counts.lost += 1;
                us += again;
                again *= 2;
            }
            // A packet that overtakes is not held up where the others are.
            if draw(weather.reorder) {
                counts.reordered += 1;
            } else {
                us += weather.latency_us;
                if weather.jitter_us > 0 {
                    us += stream.random_range(0..=weather.jitter_us);
                }
            }
            cost_us = Some(cost_us.unwrap_or(0) + us);
        }
        cost_us.map(Duration::from_micros)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds the network")
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn net() -> Net {
        Net::new(ChaCha8Rng::seed_from_u64(1))
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_is_one_way_and_of_its_traffic_and_counts_what_it_drops() {
        let net = net();
        net.cut("x", &names(&["a"]), &names(&["b", "c"]), Traffic::Api);
        for (from, to, traffic, open) in [
            ("a", "b", Traffic::Api, false),
            ("b", "a", Traffic::Api, true),
            ("a", "b", Traffic::EtcdPeer, true),
            ("a", "d", Traffic::Api, true),
            ("a", "a", Traffic::Api, true),
            ("observer", "b", Traffic::Api, true),
        ] {
            assert_eq!(net.sends(from, to, traffic), open, "{from} to {to}, {traffic:?}");
        }
        assert_eq!(net.dropped("x", "b"), Some(1));
        assert_eq!(net.dropped("x", "c"), Some(0));
        assert_eq!(net.dropped("x", "a"), None);
        net.mend("x", &names(&["b"]));
        assert_eq!(net.dropped("x", "b"), None);
        assert!(!net.is_open("a", "c", Traffic::Api));
        net.mend("x", &names(&["c"]));
        assert!(net.cuts().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_waits_for_the_mending() {
        let net = net();
        net.cut("x", &names(&["a"]), &names(&["b"]), Traffic::All);
        let began = tokio::time::Instant::now();
        tokio::join!(net.travel("a", "b", Traffic::Api), async {
            tokio::time::sleep(Duration::from_secs(9)).await;
            net.mend("x", &names(&["b"]));
        });
        assert_eq!(began.elapsed().as_secs(), 9);
    }

    #[test]
    fn weather_is_one_way_and_of_its_traffic_and_counts_what_it_does() {
        let net = net();
        let weather = Weather { latency_us: 50_000, jitter_us: 9_000, loss: 2000, reorder: 1000 };
        let (from, to) = (names(&["a"]), names(&["b"]));
        net.slow("x", (&from, &to), (Traffic::Api, weather), BTreeMap::new());
        for (from, to, traffic) in [
            ("b", "a", Traffic::Api),
            ("a", "b", Traffic::EtcdPeer),
            ("a", "c", Traffic::Api),
            ("a", "a", Traffic::Api),
            ("observer", "b", Traffic::Api),
        ] {
            assert_eq!(net.delay(from, to, traffic).1, None, "{from} to {to}, {traffic:?}");
        }
        let costs: Vec<u64> = (0..1000)
            .map(|_| net.delay("a", "b", Traffic::Api).1.expect("it is bad"))
            .map(|cost| u64::try_from(cost.as_micros()).expect("it fits"))
            .collect();
        let share = |holds: &dyn Fn(u64) -> bool| costs.iter().filter(|cost| holds(**cost)).count();
        assert!((60..140).contains(&share(&|us| us % RETRANSMIT_US == 0)), "overtaking");
        assert!((150..250).contains(&share(&|us| us >= 200_000)), "lost once at least");
        assert!((20..60).contains(&share(&|us| us >= 600_000)), "and again");
        assert!(share(&|us| (50_000..=59_000).contains(&us)) > 650, "late");
        let (counts, ..) = net.weathered("x", "b").expect("in place");
        assert_eq!(counts.packets, 1000 + counts.lost);
        assert!((200..320).contains(&counts.lost) && (60..140).contains(&counts.reordered));
        net.mend("x", &to);
        assert_eq!(net.delay("a", "b", Traffic::Api).1, None);
        assert!(net.weathered("x", "b").is_none() && net.storms().is_empty());
    }
}
