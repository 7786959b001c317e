//! A multi-version store in memory with etcd's semantics: one member, or several with consensus.
//!
//! Deterministic under a paused clock: latencies and election timeouts come from [`Env::entropy`].
//! All members share one committed log and one history of versions; they differ in how far they have
//! applied it, so a member that was cut off reads, and watches, the past until it has caught up.
//! A member whose disk was lost is removed when it starts again, and a new one joins in its place.

mod cluster;
mod log;
mod membership;
pub(crate) mod mvcc;
mod raft;
#[cfg(test)]
mod tests;
pub(crate) mod watchers;
mod weather;

use std::time::Duration;

pub use cluster::{MemoryCluster, StoreHash};
pub use weather::{LinkTraffic, LinkWeather};

/// What can be set about a [`MemoryCluster`].
#[derive(Debug, Clone)]
pub struct MemoryConfig {
    /// etcd's `--election-timeout`; each member waits for one to two of it.
    pub election: Duration,
    /// A request without an answer is given up after this long.
    pub request_timeout: Duration,
    /// How long a watch stays silent before it shows its progress.
    pub progress: Duration,
    /// The least and the most microseconds of one way between two members.
    pub hop_us: (u64, u64),
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            election: Duration::from_secs(1),
            request_timeout: Duration::from_secs(5),
            progress: Duration::from_secs(10),
            hop_us: (300, 1500),
        }
    }
}
