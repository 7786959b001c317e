//! The simulated network: who reaches whom, what a cut drops, how long a message takes.
//!
//! A cut does not lose what TCP carries: it stalls, and goes on after the mend. Each stalled message
//! counts as one dropped packet at the receiver, and each probe as another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use shakedown_core::lever::Traffic;
use tokio::sync::watch;
use tokio::time::Instant;

/// etcd's `--heartbeat-interval`: so often an isolated member's peers send in vain.
const PEER_HEARTBEAT: Duration = Duration::from_millis(100);
const LATENCY_MIN_US: u64 = 300;
const LATENCY_MAX_US: u64 = 1500;

struct Cut {
    from: BTreeSet<String>,
    to: BTreeSet<String>,
    traffic: Traffic,
    since: Instant,
    dropped: BTreeMap<String, u64>,
}

impl Cut {
    fn stops(&self, from: &str, to: &str, traffic: Traffic) -> bool {
        self.from.contains(from)
            && self.to.contains(to)
            && (self.traffic == Traffic::All || self.traffic == traffic)
    }
}

struct State {
    cuts: BTreeMap<String, Cut>,
    latency: ChaCha8Rng,
}

/// The network of one world. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Network {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
}

impl Network {
    pub(crate) fn new(latency: ChaCha8Rng) -> Self {
        let state = State { cuts: BTreeMap::new(), latency };
        Self { state: Arc::new(Mutex::new(state)), changed: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the network")
    }

    /// Drops, at `to`, what `from` sends.
    pub(crate) fn cut(&self, id: &str, from: &[String], to: &[String], traffic: Traffic) {
        let cut = Cut {
            from: from.iter().cloned().collect(),
            to: to.iter().cloned().collect(),
            traffic,
            since: Instant::now(),
            dropped: BTreeMap::new(),
        };
        self.lock().cuts.insert(id.to_owned(), cut);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Takes a cut back; does nothing if there is none.
    pub(crate) fn mend(&self, id: &str) {
        self.lock().cuts.remove(id);
        self.changed.send_modify(|version| *version += 1);
    }

    /// The cuts in place, with what they do.
    pub(crate) fn cuts(&self) -> BTreeMap<String, String> {
        let describe = |cut: &Cut| format!("{:?} -> {:?} {:?}", cut.from, cut.to, cut.traffic);
        self.lock().cuts.iter().map(|(id, cut)| (id.clone(), describe(cut))).collect()
    }

    /// Whether a message would pass now. A message that does not is counted.
    pub(crate) fn passes(&self, from: &str, to: &str, traffic: Traffic) -> bool {
        let mut open = true;
        for cut in self.lock().cuts.values_mut().filter(|cut| cut.stops(from, to, traffic)) {
            *cut.dropped.entry(to.to_owned()).or_default() += 1;
            open = false;
        }
        open
    }

    /// Whether the way is open, without sending anything.
    pub(crate) fn is_open(&self, from: &str, to: &str, traffic: Traffic) -> bool {
        !self.lock().cuts.values().any(|cut| cut.stops(from, to, traffic))
    }

    /// Carries one message: waits while a cut stops it, and then for as long as a message takes.
    /// An empty `from` or `to` is the observer, who is everywhere.
    pub(crate) async fn carry(&self, from: &str, to: &str, traffic: Traffic) {
        if from.is_empty() || to.is_empty() {
            return;
        }
        let mut changed = self.changed.subscribe();
        while !self.passes(from, to, traffic) {
            if changed.changed().await.is_err() {
                return;
            }
        }
        let latency_us = self.lock().latency.random_range(LATENCY_MIN_US..LATENCY_MAX_US);
        tokio::time::sleep(Duration::from_micros(latency_us)).await;
    }

    /// What a cut has dropped at a node; `None` if there is no such cut. `peers` are the nodes whose
    /// etcd members are up: each of them on the cut's sending side sends a heartbeat in vain.
    pub(crate) fn dropped(&self, id: &str, node: &str, peers: &BTreeSet<String>) -> Option<u64> {
        let state = self.lock();
        let cut = state.cuts.get(id)?;
        if !cut.to.contains(node) {
            return None;
        }
        let counted = cut.dropped.get(node).copied().unwrap_or_default();
        let carries_peers = matches!(cut.traffic, Traffic::All | Traffic::EtcdPeer);
        let senders = cut.from.iter().filter(|from| peers.contains(*from)).count();
        if !carries_peers || !peers.contains(node) || senders == 0 {
            return Some(counted);
        }
        let beats = cut.since.elapsed().as_millis() / PEER_HEARTBEAT.as_millis();
        let beats = u64::try_from(beats).unwrap_or(u64::MAX);
        Some(counted.saturating_add(beats.saturating_mul(senders as u64)))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn network() -> Network {
        Network::new(ChaCha8Rng::seed_from_u64(1))
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_one_way_cut_stalls_one_way_and_counts() {
        let network = network();
        network.cut("c", &names(&["a"]), &names(&["b"]), Traffic::Api);
        let began = Instant::now();
        network.carry("b", "a", Traffic::Api).await;
        network.carry("a", "b", Traffic::EtcdPeer).await;
        assert!(began.elapsed() < Duration::from_millis(5));
        let stalled = network.clone();
        let message = async move { stalled.carry("a", "b", Traffic::Api).await };
        let mend = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(network.dropped("c", "b", &BTreeSet::new()), Some(1));
            assert_eq!(network.dropped("c", "a", &BTreeSet::new()), None);
            network.mend("c");
        };
        tokio::join!(message, mend);
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(60) && took < Duration::from_millis(60_010), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn two_cuts_must_both_be_mended() {
        let network = network();
        network.cut("one", &names(&["a"]), &names(&["b"]), Traffic::All);
        network.cut("two", &names(&["a"]), &names(&["b", "c"]), Traffic::EtcdPeer);
        network.mend("one");
        assert!(!network.is_open("a", "b", Traffic::EtcdPeer));
        assert!(network.is_open("a", "b", Traffic::Api));
        network.mend("two");
        network.mend("two");
        assert!(network.is_open("a", "b", Traffic::EtcdPeer));
    }
}
