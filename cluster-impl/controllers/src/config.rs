//! What the flags of kube-controller-manager set, with the documented defaults.

use std::sync::Arc;
use std::time::Duration;

use apiclient::ElectorConfig;
use machinery::signing::SigningKey;

use crate::certificates::Authority;

/// The flags, by Kubernetes' names.
#[derive(Debug, Clone)]
pub struct Config {
    /// `--leader-elect-*`
    pub elector: ElectorConfig,
    /// `--node-monitor-period`
    pub node_monitor_period: Duration,
    /// `--node-monitor-grace-period`; upstream's default is 50 s from 1.32.
    pub node_monitor_grace_period: Duration,
    /// `--node-startup-grace-period`
    pub node_startup_grace_period: Duration,
    /// `--node-eviction-rate`: nodes a second that are tainted NoExecute in a healthy zone.
    pub node_eviction_rate: f64,
    /// `--secondary-node-eviction-rate`: the same in a large, partly disrupted zone.
    pub secondary_node_eviction_rate: f64,
    /// `--unhealthy-zone-threshold`
    pub unhealthy_zone_threshold: f64,
    /// `--large-cluster-size-threshold`
    pub large_cluster_size_threshold: usize,
    /// `--cluster-cidr`, IPv4
    pub cluster_cidr: String,
    /// `--node-cidr-mask-size`
    pub node_cidr_mask_size: u8,
    /// `--terminated-pod-gc-threshold`
    pub terminated_pod_gc_threshold: usize,
    /// `--root-ca-file`: the authority that is published in every namespace and put into Secrets with
    /// tokens, as PEM; `None` for none.
    pub root_ca: Option<String>,
    /// `--cluster-signing-cert-file` and its key: who signs certificates; nobody if absent.
    pub authority: Option<Authority>,
    /// `--service-account-private-key-file`: what signs tokens in Secrets; nothing if absent.
    pub service_account_key: Option<Arc<SigningKey>>,
    /// `--min-resync-period`: how often every object is looked at again without a reason.
    pub min_resync_period: Duration,
}

impl Config {
    /// The documented defaults, standing for election as `identity`, such as `cp-1_<uid>`.
    pub fn new(identity: &str) -> Self {
        Self {
            elector: ElectorConfig::new("kube-controller-manager", identity),
            node_monitor_period: Duration::from_secs(5),
            node_monitor_grace_period: Duration::from_secs(40),
            node_startup_grace_period: Duration::from_secs(60),
            node_eviction_rate: 0.1,
            secondary_node_eviction_rate: 0.01,
            unhealthy_zone_threshold: 0.55,
            large_cluster_size_threshold: 50,
            cluster_cidr: "10.244.0.0/16".to_owned(),
            node_cidr_mask_size: 24,
            terminated_pod_gc_threshold: 12_500,
            root_ca: None,
            authority: None,
            service_account_key: None,
            min_resync_period: Duration::from_secs(12 * 3600),
        }
    }
}
