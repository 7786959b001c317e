//! EndpointSlice: where a Service's traffic can go.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{AGE, Kind, NAME, PLAIN, age, column};
use crate::defaulting::{absent, each};
use crate::validation::{Causes, items, metadata, names, network, text};
use crate::{Cause, Object};

const ADDRESS_TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const TOPOLOGY_LABELS_MAX: usize = 16;
const ZONE_HINTS_MAX: usize = 8;
/// So many ports or addresses are printed.
const PRINTED_MAX: usize = 3;

/// EndpointSlice.
pub static ENDPOINT_SLICE: Kind = Kind {
    id: "endpointslices.discovery.k8s.io",
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    has_generation: true,
    default: |object| {
        for port in each(&mut object.0, "ports") {
            absent(port, "name", "");
            absent(port, "protocol", "TCP");
        }
    },
    validate,
    columns: &[
        NAME,
        column("AddressType", "string", 0),
        column("Ports", "string", 0),
        column("Endpoints", "string", 0),
        AGE,
    ],
    cells,
    ..PLAIN
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    let kind = object.text("/addressType");
    causes.one_of("addressType", kind, ADDRESS_TYPES);
    endpoints(&mut causes, &object.0["endpoints"], kind);
    ports(&mut causes, &object.0["ports"]);
    if let Some(old) = old {
        causes.immutable("addressType", &object.0["addressType"], &old.0["addressType"]);
    }
    causes.into_list()
}

fn endpoints(causes: &mut Causes, list: &Value, kind: &str) {
    let count = items(list).count();
    if count > ENDPOINTS_MAX {
        causes.too_many("endpoints", count, ENDPOINTS_MAX);
        return;
    }
    for (index, endpoint) in items(list) {
        let field = format!("endpoints[{index}]");
        let addresses = format!("{field}.addresses");
        match items(&endpoint["addresses"]).count() {
            0 => causes.required(&addresses, "must contain at least 1 address"),
            count if count > ADDRESSES_MAX => causes.too_many(&addresses, count, ADDRESSES_MAX),
            _ => {}
        }
        for (index, address) in items(&endpoint["addresses"]) {
            validate_address(causes, text(address), &format!("{addresses}[{index}]"), kind);
        }
        if let Some(node) = endpoint["nodeName"].as_str() {
            causes.name(&format!("{field}.nodeName"), node, names::dns_subdomain);
        }
        let topology = format!("{field}.deprecatedTopology");
        let labels = &endpoint["deprecatedTopology"];
        let count = labels.as_object().map_or(0, serde_json::Map::len);
        if count > TOPOLOGY_LABELS_MAX {
            causes.too_many(&topology, count, TOPOLOGY_LABELS_MAX);
        }
        metadata::labels(causes, labels, &topology);
        if let Some(host) = endpoint["hostname"].as_str() {
            causes.name(&format!("{field}.hostname"), host, names::dns_label);
        }
        hints(causes, &endpoint["hints"]["forZones"], &format!("{field}.hints.forZones"));
    }
}

fn validate_address(causes: &mut Causes, address: &str, field: &str, kind: &str) {
    let parsed = network::parse_ip(address);
    match kind {
        "IPv4" | "IPv6" => {
            network::non_special_ip(causes, field, address);
            if parsed.is_some_and(|parsed| parsed.is_ipv4() != (kind == "IPv4")) {
                causes.invalid(field, address, &format!("must be an {kind} address"));
            }
        }
        "FQDN" => network::fully_qualified_domain(causes, field, address),
        _ => {}
    }
}

fn hints(causes: &mut Causes, zones: &Value, field: &str) {
    let count = items(zones).count();
    if count > ZONE_HINTS_MAX {
        causes.too_many(field, count, ZONE_HINTS_MAX);
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, zone) in items(zones) {
        let (field, name) = (format!("{field}[{index}].name"), text(&zone["name"]));
        if !seen.insert(name) {
            causes.duplicate(&field, name);
        }
        causes.name(&field, name, names::label_value);
    }
}

fn ports(causes: &mut Causes, list: &Value) {
    let count = items(list).count();
    if count > PORTS_MAX {
        causes.too_many("ports", count, PORTS_MAX);
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, port) in items(list) {
        let field = format!("ports[{index}]");
        let name = text(&port["name"]);
        if !name.is_empty() {
            causes.name(&format!("{field}.name"), name, names::dns_label);
        }
        if !seen.insert(name) {
            causes.duplicate(&format!("{field}.name"), name);
        }
        let protocol = text(&port["protocol"]);
        causes.one_of(&format!("{field}.protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        if let Some(protocol) = port["appProtocol"].as_str() {
            causes.name(&format!("{field}.appProtocol"), protocol, names::qualified_name);
        }
    }
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let ports = object.list("/ports").iter().map(|port| match port["port"].as_i64() {
        Some(number) => number.to_string(),
        None if port["name"].is_string() => text(&port["name"]).to_owned(),
        None => "*".to_owned(),
    });
    let addresses = object.list("/endpoints").iter().flat_map(|endpoint| {
        items(&endpoint["addresses"]).map(|(_, address)| text(address).to_owned())
    });
    vec![
        object.name().into(),
        object.text("/addressType").into(),
        some(ports.collect()).into(),
        some(addresses.collect()).into(),
        age(object, now),
    ]
}

/// The first few of a list, and how many more there are.
fn some(list: Vec<String>) -> String {
    if list.is_empty() {
        return "<unset>".to_owned();
    }
    let shown = list.iter().take(PRINTED_MAX).cloned().collect::<Vec<_>>().join(",");
    match list.len().saturating_sub(PRINTED_MAX) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    fn slice(kind: &str, endpoints: Value, ports: Value) -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "web-1", "namespace": "default",
                "creationTimestamp": at(0).to_string()},
            "addressType": kind, "endpoints": endpoints, "ports": ports,
        }));
        (ENDPOINT_SLICE.default)(&mut object);
        object
    }

    #[test]
    fn slices_are_defaulted_and_printed() {
        let endpoint = json!({"addresses": ["10.0.0.1", "10.0.0.2"], "nodeName": "n-1"});
        let object = slice("IPv4", json!([endpoint, endpoint]), json!([{"port": 80}]));
        assert_eq!(object.0["ports"][0], json!({"port": 80, "name": "", "protocol": "TCP"}));
        assert_eq!(found(&ENDPOINT_SLICE, &object, None), [""; 0]);
        assert_eq!(
            row(&ENDPOINT_SLICE, &object, 5),
            "web-1|IPv4|80|10.0.0.1,10.0.0.2,10.0.0.1 + 1 more...|5s"
        );
        let empty = slice("FQDN", json!([]), json!([]));
        assert_eq!(row(&ENDPOINT_SLICE, &empty, 5), "web-1|FQDN|<unset>|<unset>|5s");
    }

    #[test]
    fn wrong_slices_are_named() {
        let one = |address: &str| json!([{"addresses": [address]}]);
        for (object, start) in [
            (slice("", json!([]), json!([])), "Required addressType"),
            (slice("IP", json!([]), json!([])), "NotSupported addressType: Unsupported value: \
                \"IP\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""),
            (slice("IPv4", json!([{}]), json!([])), "Required endpoints[0].addresses: Required \
                value: must contain at least 1 address"),
            (slice("IPv4", one("::2"), json!([])), "Invalid endpoints[0].addresses[0]: Invalid \
                value: \"::2\": must be an IPv4 address"),
            (slice("IPv4", one("127.0.0.1"), json!([])), "Invalid endpoints[0].addresses[0]: \
                Invalid value: \"127.0.0.1\": may not be in the loopback range"),
            (slice("FQDN", one("web"), json!([])), "Invalid endpoints[0].addresses[0]"),
            (slice("IPv4", json!([]), json!([{"name": "a"}, {"name": "a"}])),
                "Duplicate ports[1].name: Duplicate value: \"a\""),
            (slice("IPv4", json!([]), json!([{"protocol": "ICMP"}])), "NotSupported ports[0].protocol"),
            (slice("IPv4", json!([{"addresses": vec!["10.0.0.1"; 101]}]), json!([])),
                "TooMany endpoints[0].addresses: Too many: 101: must have at most 100 items"),
        ] {
            let found = found(&ENDPOINT_SLICE, &object, None);
            assert_eq!(found.len(), 1, "{start}: {found:?}");
            assert!(found[0].starts_with(start), "{start}: {found:?}");
        }
    }

    #[test]
    fn the_type_stays() {
        let old = slice("IPv4", json!([]), json!([]));
        let new = slice("IPv6", json!([]), json!([]));
        assert_eq!(
            found(&ENDPOINT_SLICE, &new, Some(&old)),
            ["Invalid addressType: Invalid value: \"IPv6\": field is immutable"]
        );
    }
}
