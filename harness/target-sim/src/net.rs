//! The network between nodes: latency, cuts, and what the cuts have dropped.
//!
//! A message that meets a cut is not lost: TCP sends it again until it gets through, so it waits, and
//! the cut counts it once. Whoever is not a node, such as the observer, is never cut off.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use env::Signal;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use shakedown_core::lever::Traffic;

/// The least and the most microseconds of one way between two nodes.
const LATENCY_US: std::ops::RangeInclusive<u64> = 300..=1500;

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
        (self.traffic == Traffic::All || self.traffic == traffic)
            && self.from.iter().any(|node| node == from)
            && self.to.iter().any(|node| node == to)
    }
}

struct Inner {
    cuts: BTreeMap<String, Cut>,
    stream: ChaCha8Rng,
}

/// The network.
pub(crate) struct Net {
    inner: Mutex<Inner>,
    changes: Signal,
}

impl Net {
    pub(crate) fn new(stream: ChaCha8Rng) -> Self {
        let inner = Mutex::new(Inner { cuts: BTreeMap::new(), stream });
        Self { inner, changes: Signal::default() }
    }

    /// Makes a cut, or makes it anew.
    pub(crate) fn cut(&self, id: &str, from: &[String], to: &[String], traffic: Traffic) {
        let (from, to) = (from.to_vec(), to.to_vec());
        let cut = Cut { from, to, traffic, dropped: BTreeMap::new() };
        self.lock().cuts.insert(id.to_owned(), cut);
        self.changes.raise();
    }

    /// Mends a cut at these receivers; it is gone when none is left.
    pub(crate) fn mend(&self, id: &str, nodes: &[String]) {
        let mut inner = self.lock();
        if let Some(cut) = inner.cuts.get_mut(id) {
            cut.to.retain(|node| !nodes.contains(node));
            if cut.to.is_empty() {
                inner.cuts.remove(id);
            }
        }
        drop(inner);
        self.changes.raise();
    }

    /// A node that loses power forgets the cuts at its end: they were in its kernel.
    pub(crate) fn forget(&self, node: &str) {
        let ids: Vec<String> = self.lock().cuts.keys().cloned().collect();
        for id in ids {
            self.mend(&id, &[node.to_owned()]);
        }
    }

    /// The cuts in place.
    pub(crate) fn cuts(&self) -> BTreeMap<String, Cut> {
        self.lock().cuts.clone()
    }

    /// How many packets a cut has dropped at a receiver; `None` if it is not in place there.
    pub(crate) fn dropped(&self, id: &str, node: &str) -> Option<u64> {
        let inner = self.lock();
        let cut = inner.cuts.get(id).filter(|cut| cut.to.iter().any(|to| to == node))?;
        Some(cut.dropped.get(node).copied().unwrap_or(0))
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
            tokio::time::sleep(self.latency()).await;
        }
    }

    /// One way between two nodes.
    pub(crate) fn latency(&self) -> Duration {
        Duration::from_micros(self.lock().stream.random_range(LATENCY_US))
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

    #[tokio::test(start_paused = true)]
    async fn a_cut_is_one_way_and_of_its_traffic_and_counts_what_it_drops() {
        let net = Net::new(ChaCha8Rng::seed_from_u64(1));
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
        let net = Net::new(ChaCha8Rng::seed_from_u64(1));
        net.cut("x", &names(&["a"]), &names(&["b"]), Traffic::All);
        let began = tokio::time::Instant::now();
        tokio::join!(net.travel("a", "b", Traffic::Api), async {
            tokio::time::sleep(Duration::from_secs(9)).await;
            net.mend("x", &names(&["b"]));
        });
        assert_eq!(began.elapsed().as_secs(), 9);
    }
}
