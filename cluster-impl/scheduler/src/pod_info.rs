//! A pod as the plugins see it: what it asks for, worked out once.

use std::sync::Arc;

use machinery::pod::{Resources, is_finished, requests};
use machinery::{Object, Quantity, Toleration};
use serde_json::Value;

/// A port of the host that a pod takes: address, protocol, number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// `0.0.0.0` for all addresses.
    pub address: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Its number.
    pub number: i64,
}

impl HostPort {
    /// Whether both cannot be taken on one host.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        self.number == other.number
            && self.protocol == other.protocol
            && (self.address == other.address
                || self.address == "0.0.0.0"
                || other.address == "0.0.0.0")
    }
}

/// A pod, with what the plugins ask of it.
#[derive(Debug, Clone)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Object>,
    /// What it asks of a node.
    pub requests: Resources,
    /// The same, where a pod that asks for no cpu or memory counts as a small one: for scores.
    pub weight: Resources,
    /// Its tolerations.
    pub tolerations: Vec<Toleration>,
    /// Ports of the host.
    pub ports: Vec<HostPort>,
}

impl PodInfo {
    /// Works out what a pod asks for.
    pub fn new(pod: Arc<Object>) -> Self {
        let requests = requests(&pod);
        let mut weight = requests.clone();
        // Upstream's DefaultMilliCPURequest and DefaultMemoryRequest: 100m and 200 MB.
        weight.entry("cpu".to_owned()).or_insert(Quantity::from_millis(100));
        weight
            .entry("memory".to_owned())
            .or_insert(Quantity::from_millis(200 * 1024 * 1024 * 1000));
        let tolerations = pod.tolerations();
        let ports = host_ports(&pod);
        Self { pod, requests, weight, tolerations, ports }
    }

    /// Whether the pod takes room on its node: one that has ended does not.
    pub fn takes_room(&self) -> bool {
        !is_finished(&self.pod)
    }
}

fn host_ports(pod: &Object) -> Vec<HostPort> {
    pod.list("/spec/containers")
        .iter()
        .filter_map(|container| container.get("ports")?.as_array())
        .flatten()
        .filter_map(|port| {
            let text = |name: &str, absent: &str| {
                let value = port.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
                value.unwrap_or(absent).to_owned()
            };
            Some(HostPort {
                address: text("hostIP", "0.0.0.0"),
                protocol: text("protocol", "TCP"),
                number: port.get("hostPort")?.as_i64().filter(|number| *number > 0)?,
            })
        })
        .collect()
}
