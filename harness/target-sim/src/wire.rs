//! The open connections of the simulated network, so that they can be reset.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use env::Signal;
use shakedown_core::lever::Traffic;

/// The connections of one client to one API server.
pub(crate) struct Wire {
    from: String,
    to: String,
    /// Those that are open and wait for a request.
    idle: AtomicU64,
    /// Those on which a request or a watch is under way.
    busy: AtomicU64,
    /// Raised when all of them are reset.
    pub(crate) resets: Signal,
}

impl Wire {
    /// Takes an idle connection, if there is one.
    pub(crate) fn take(&self) -> bool {
        let one_less = |idle: u64| idle.checked_sub(1);
        self.idle.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }

    /// Puts a connection back.
    pub(crate) fn keep(&self) {
        self.idle.fetch_add(1, Ordering::Relaxed);
    }

    /// The other end is gone, and with it every idle connection.
    pub(crate) fn forget(&self) {
        self.idle.store(0, Ordering::Relaxed);
    }
}

/// A connection in use, for as long as this lives.
pub(crate) struct Busy(Arc<Wire>);

impl Busy {
    pub(crate) fn new(wire: &Arc<Wire>) -> Self {
        wire.busy.fetch_add(1, Ordering::Relaxed);
        Self(wire.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Fewer connections are not worth a sweep.
const SWEPT_MIN: usize = 64;

#[derive(Default)]
struct Inner {
    wires: Vec<Weak<Wire>>,
    /// How many there were after the last sweep.
    swept: usize,
    /// How many were reset between two nodes, the lesser name first.
    resets: BTreeMap<(String, String, Traffic), u64>,
}

/// Every connection of the world.
#[derive(Default)]
pub(crate) struct Wires {
    inner: Mutex<Inner>,
}

impl Wires {
    /// A client's way to a server, without a connection yet.
    pub(crate) fn open(&self, from: &str, to: &str) -> Arc<Wire> {
        let wire = Arc::new(Wire {
            from: from.to_owned(),
            to: to.to_owned(),
            idle: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            resets: Signal::default(),
        });
        let mut inner = self.lock();
        // Those that are gone are swept out when they may be half of all.
        if inner.wires.len() >= 2 * inner.swept {
            inner.wires.retain(|wire| wire.strong_count() > 0);
            inner.swept = inner.wires.len().max(SWEPT_MIN);
        }
        inner.wires.push(Arc::downgrade(&wire));
        wire
    }

    /// Resets every connection to an API server between two groups of nodes.
    pub(crate) fn reset(&self, some: &[String], others: &[String]) {
        let is_between = |wire: &Wire| {
            (some.contains(&wire.from) && others.contains(&wire.to))
                || (others.contains(&wire.from) && some.contains(&wire.to))
        };
        let wires: Vec<Arc<Wire>> = self.lock().wires.iter().filter_map(Weak::upgrade).collect();
        for wire in wires.iter().filter(|wire| wire.from != wire.to && is_between(wire)) {
            let idle = wire.idle.swap(0, Ordering::Relaxed);
            let count = idle + wire.busy.load(Ordering::Relaxed);
            self.count(&wire.from, &wire.to, Traffic::Api, count);
            wire.resets.raise();
        }
    }

    /// Notes resets between two nodes.
    pub(crate) fn count(&self, one: &str, other: &str, traffic: Traffic, count: u64) {
        *self.lock().resets.entry(key(one, other, traffic)).or_default() += count;
    }

    /// How many connections of this traffic were reset between two nodes.
    pub(crate) fn resets(&self, one: &str, other: &str, traffic: Traffic) -> u64 {
        let inner = self.lock();
        let kinds = match traffic {
            Traffic::All => &[Traffic::Api, Traffic::EtcdPeer, Traffic::EtcdClient][..],
            Traffic::Api => &[Traffic::Api],
            Traffic::EtcdPeer => &[Traffic::EtcdPeer],
            Traffic::EtcdClient => &[Traffic::EtcdClient],
        };
        kinds.iter().filter_map(|kind| inner.resets.get(&key(one, other, *kind))).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds the connections")
    }
}

fn key(one: &str, other: &str, traffic: Traffic) -> (String, String, Traffic) {
    let (lesser, greater) = if one <= other { (one, other) } else { (other, one) };
    (lesser.to_owned(), greater.to_owned(), traffic)
}
