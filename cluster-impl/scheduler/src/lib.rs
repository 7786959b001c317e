//! The scheduler: filter and score plugins over a cached view of the cluster.
//!
//! One pod at a time: filter the nodes, score those that fit, assume the pod on the best one, bind it.
//! The choice is a pure function of pod and snapshot; the driver alone talks to the API server.
//! Invariant: a pod counts on its node from the moment it was chosen, so that a cache that lags never
//! oversubscribes a node nor binds a pod twice.

mod cache;
mod driver;
mod node_info;
mod pending;
pub mod plugins;
mod pod_info;
mod schedule;

use apiclient::ElectorConfig;

pub use driver::run;
pub use node_info::NodeInfo;
pub use pod_info::PodInfo;
pub use schedule::{FitError, Snapshot, schedule, schedule_from};

/// The name that pods carry in `spec.schedulerName` if they name none.
pub const SCHEDULER_NAME: &str = "default-scheduler";

/// The flags, by Kubernetes' names.
#[derive(Debug, Clone)]
pub struct Config {
    /// `--leader-elect-*`
    pub elector: ElectorConfig,
    /// Pods with another `spec.schedulerName` are left alone.
    pub scheduler_name: String,
}

impl Config {
    /// The documented defaults, standing for election as `identity`, such as `cp-1_<uid>`.
    pub fn new(identity: &str) -> Self {
        Self {
            elector: ElectorConfig::new("kube-scheduler", identity),
            scheduler_name: SCHEDULER_NAME.to_owned(),
        }
    }
}
