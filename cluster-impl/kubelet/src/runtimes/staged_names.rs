//! Names and ranges of the staged runtime, and what it tells of its containers.

use std::collections::BTreeSet;

use env::{Env, Timestamp};
use rand::Rng;

use crate::runtime::{PodId, RuntimeError};

/// How the runtime answers the kubelet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Answers {
    /// As it should.
    #[default]
    Normally,
    /// Not at all: the process is gone, the socket refuses.
    Refused,
    /// Never: the process stands still.
    Never,
}

/// Told of every container that starts or ends.
pub(super) type OnChange = Box<dyn Fn(&ContainerChange) + Send + Sync>;

/// A container that started or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerChange {
    /// Whose it is.
    pub pod: PodId,
    /// The container's name in the pod.
    pub container: String,
    /// The runtime's id.
    pub id: String,
    /// How often it was restarted before.
    pub attempt: u32,
    /// When its process started.
    pub started: Option<Timestamp>,
    /// The exit code if it has ended.
    pub exit_code: Option<i32>,
}

/// An id as containerd makes them: 64 hexadecimal digits.
pub(super) fn new_id(env: &Env) -> String {
    let mut bytes = [0_u8; 32];
    env.entropy("container-id").fill(&mut bytes[..]);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An image's id: the same on every node.
pub(super) fn image_id(name: &str) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut id = "sha256:".to_owned();
    for round in 0..4_u8 {
        for byte in name.bytes().chain([round]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        id.push_str(&format!("{hash:016x}"));
    }
    id
}

pub(super) fn network_of(cidr: &str) -> Option<(u32, u32)> {
    let (address, prefix) = cidr.split_once('/')?;
    let address: std::net::Ipv4Addr = address.parse().ok()?;
    let prefix: u32 = prefix.parse().ok().filter(|prefix| (8..=30).contains(prefix))?;
    Some((u32::from(address), 1 << (32 - prefix)))
}

/// The next free address of a network, as host-local gives them out: upwards, and round again.
pub(super) fn free_address(
    network: Option<(u32, u32)>,
    next: &mut u32,
    used: &BTreeSet<&str>,
) -> Result<String, RuntimeError> {
    let (network, size) = network.ok_or_else(|| {
        RuntimeError::Failed("cni plugin not initialized: the node has no podCIDR".to_owned())
    })?;
    // Network address, gateway and broadcast address are nobody's.
    let hosts = size.saturating_sub(3);
    for step in 0..hosts {
        let offset = (*next + step) % hosts;
        let ip = std::net::Ipv4Addr::from(network + 2 + offset).to_string();
        if !used.contains(ip.as_str()) {
            *next = (offset + 1) % hosts;
            return Ok(ip);
        }
    }
    Err(RuntimeError::Failed("no IP addresses available in range set".to_owned()))
}

/// There is no such thing in the runtime.
pub(super) fn not_found(what: &str, id: &str) -> RuntimeError {
    RuntimeError::NotFound(format!("{what} {id} not found"))
}
