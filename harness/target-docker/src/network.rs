//! The network of a cluster: a bridge of its own, with addresses that stay when a node restarts.
//!
//! The subnet is the first of `10.201.0.0/24 .. 10.201.255.0/24` that neither Docker nor a route of
//! this machine uses. Docker hands out addresses by itself only from the subnet's last quarter: a
//! node has such an address for a moment, until it is given its own.

use std::net::Ipv4Addr;

use bollard::Docker;
use bollard::models::{
    EndpointIpamConfig, EndpointSettings, Ipam, IpamConfig, NetworkConnectRequest,
    NetworkCreateRequest, NetworkDisconnectRequest,
};
use bollard::query_parameters::ListNetworksOptions;
use shakedown_core::target::{Role, TargetError};

use crate::docker::failed;

/// A `/24`, by its first three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Subnet(pub [u8; 3]);

/// At most so many control planes: their addresses end in 11 and up.
const CONTROL_PLANES_MAX: u32 = 9;
/// At most so many workers: their addresses end in 21 and up.
const WORKERS_MAX: u32 = 160;

impl Subnet {
    /// The address of the `index`th node of a role, from 0.
    pub fn address(self, role: Role, index: u32) -> Result<Ipv4Addr, TargetError> {
        let (first, max) = match role {
            Role::ControlPlane => (11, CONTROL_PLANES_MAX),
            Role::Worker => (21, WORKERS_MAX),
        };
        match u8::try_from(first + index) {
            Ok(last) if index < max => {
                let [a, b, c] = self.0;
                Ok(Ipv4Addr::new(a, b, c, last))
            }
            _ => Err(failed(
                "choosing addresses",
                format!("{} nodes of one role are too many", index + 1),
                "a cluster has at most 9 control planes and 160 workers",
            )),
        }
    }

    fn cidr(self) -> String {
        let [a, b, c] = self.0;
        format!("{a}.{b}.{c}.0/24")
    }

    fn overlaps(self, other: (u32, u32)) -> bool {
        let [a, b, c] = self.0;
        let own = u32::from(Ipv4Addr::new(a, b, c, 0));
        let mask = 0xffff_ff00 & other.1;
        own & mask == other.0 & mask
    }
}

/// Address and mask of a CIDR.
fn parse_cidr(cidr: &str) -> Option<(u32, u32)> {
    let (address, bits) = cidr.split_once('/')?;
    let bits: u32 = bits.parse().ok().filter(|bits| *bits <= 32)?;
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    Some((u32::from(address.parse::<Ipv4Addr>().ok()?) & mask, mask))
}

/// Destinations and masks in `/proc/net/route`, the default route aside.
fn parse_routes(table: &str) -> Vec<(u32, u32)> {
    let number = |text: Option<&&str>| Some(u32::from_str_radix(text?, 16).ok()?.swap_bytes());
    let rows = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some((number(fields.get(1))?, number(fields.get(7))?))
    });
    rows.filter(|(_, mask)| *mask != 0).collect()
}

async fn used(docker: &Docker) -> Result<Vec<(u32, u32)>, TargetError> {
    let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let mut used = parse_routes(&table);
    let networks = docker
        .list_networks(None::<ListNetworksOptions>)
        .await
        .map_err(|error| failed("listing Docker's networks", error, ""))?;
    let configs = networks.into_iter().filter_map(|network| network.ipam?.config).flatten();
    used.extend(configs.filter_map(|config| parse_cidr(&config.subnet?)));
    Ok(used)
}

/// Makes the network.
pub async fn create(
    docker: &Docker,
    name: &str,
    labels: &std::collections::BTreeMap<String, String>,
) -> Result<Subnet, TargetError> {
    let what = "making the cluster's network";
    let used = used(docker).await?;
    let free = (0..=255)
        .map(|c| Subnet([10, 201, c]))
        .filter(|subnet| !used.iter().any(|other| subnet.overlaps(*other)));
    for subnet in free {
        let [a, b, c] = subnet.0;
        let config = IpamConfig {
            subnet: Some(subnet.cidr()),
            ip_range: Some(format!("{a}.{b}.{c}.192/26")),
            gateway: Some(format!("{a}.{b}.{c}.1")),
            auxiliary_addresses: None,
        };
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some("bridge".to_owned()),
            ipam: Some(Ipam { config: Some(vec![config]), ..Default::default() }),
            labels: Some(labels.clone().into_iter().collect()),
            ..Default::default()
        };
        match docker.create_network(request).await {
            Ok(_) => return Ok(subnet),
            // Somebody took it since we looked.
            Err(error) if error.to_string().to_lowercase().contains("overlap") => {}
            Err(error) => return Err(failed(what, error, "see `shakedown clean`")),
        }
    }
    Err(failed(what, "all of 10.201.0.0/16 is in use", "remove old networks: `shakedown clean`"))
}

/// Gives a container its address in the network, instead of the one that it has.
pub async fn fix_address(
    docker: &Docker,
    network: &str,
    container: &str,
    address: Ipv4Addr,
) -> Result<(), TargetError> {
    let what = format!("giving {container} the address {address}");
    let request = NetworkDisconnectRequest { container: container.to_owned(), force: Some(true) };
    docker
        .disconnect_network(network, request)
        .await
        .map_err(|error| failed(what.clone(), error, ""))?;
    let ipam = EndpointIpamConfig { ipv4_address: Some(address.to_string()), ..Default::default() };
    let request = NetworkConnectRequest {
        container: container.to_owned(),
        endpoint_config: Some(EndpointSettings { ipam_config: Some(ipam), ..Default::default() }),
    };
    docker.connect_network(network, request).await.map_err(|error| failed(what, error, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_seen_both_ways() {
        let subnet = Subnet([10, 201, 7]);
        for (cidr, overlaps) in [
            ("10.201.7.0/24", true),
            ("10.201.0.0/16", true),
            ("10.0.0.0/8", true),
            ("10.201.7.128/25", true),
            ("10.201.8.0/24", false),
            ("172.17.0.0/16", false),
        ] {
            assert_eq!(subnet.overlaps(parse_cidr(cidr).unwrap()), overlaps, "{cidr}");
        }
        assert_eq!(parse_cidr("10.0.0.0/33"), None);
        assert_eq!(parse_cidr("fd00::/64"), None);
    }

    #[test]
    fn routes_are_read_in_network_order_without_the_default() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            br0\t0007C90A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(parse_routes(table), [parse_cidr("10.201.7.0/24").unwrap()]);
    }

    #[test]
    fn addresses_of_roles_do_not_meet_and_end_before_the_pool() {
        let subnet = Subnet([10, 201, 7]);
        let last = |role, index| subnet.address(role, index).map(|address| address.octets()[3]);
        assert_eq!(last(Role::ControlPlane, 0).unwrap(), 11);
        assert_eq!(last(Role::ControlPlane, CONTROL_PLANES_MAX - 1).unwrap(), 19);
        assert_eq!(last(Role::Worker, 0).unwrap(), 21);
        assert!(last(Role::Worker, WORKERS_MAX - 1).unwrap() < 192);
        assert!(last(Role::Worker, WORKERS_MAX).is_err());
        assert!(last(Role::ControlPlane, CONTROL_PLANES_MAX).is_err());
    }
}
