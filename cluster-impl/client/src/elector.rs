//! Leader election by Lease (coordination.k8s.io/v1), with a fence for the leader's writes.

use std::fmt;
use std::time::Duration;

use env::Env;

use crate::ApiClient;

/// `--leader-elect-*`, with the documented defaults.
#[derive(Debug, Clone)]
pub struct ElectorConfig {
    /// The Lease's name in kube-system, such as `kube-scheduler`.
    pub lock: String,
    /// Who stands for election: unique to the process, such as `cp-1_<uid>`.
    pub identity: String,
    /// `--leader-elect-lease-duration`
    pub lease_duration: Duration,
    /// `--leader-elect-renew-deadline`
    pub renew_deadline: Duration,
    /// `--leader-elect-retry-period`
    pub retry_period: Duration,
}

impl ElectorConfig {
    /// The documented defaults: 15 s, 10 s, 2 s.
    pub fn new(lock: &str, identity: &str) -> Self {
        Self {
            lock: lock.to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// What a leader shows with every write: the API server refuses it (409, reason `Conflict`) once the
/// lease has changed hands, in the same transaction that would have written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The Lease's name in kube-system.
    pub lock: String,
    /// The holder.
    pub identity: String,
    /// The Lease's `leaseTransitions` when it was acquired.
    pub transitions: i64,
}

impl Fence {
    /// The request header that carries it, as `<lock>/<identity>/<transitions>`.
    pub const HEADER: &'static str = "x-shakedown-fence";
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.lock, self.identity, self.transitions)
    }
}

/// Stands for election and keeps what it won.
pub struct Elector {
    client: ApiClient,
    env: Env,
    config: ElectorConfig,
}

impl Elector {
    /// A candidate.
    pub fn new(client: ApiClient, env: Env, config: ElectorConfig) -> Self {
        Self { client, env, config }
    }

    /// Waits until the lease is won; answers the fence that it gives.
    pub async fn acquire(&mut self) -> Fence {
        let _ = (&self.client, &self.env, &self.config);
        todo!()
    }

    /// Renews until the lease is lost or could not be renewed within the deadline; then returns,
    /// and the process must end at once, as upstream's does.
    pub async fn hold(&mut self) {
        todo!()
    }
}
