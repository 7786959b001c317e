//! Endpoints.

use std::net::IpAddr;

use serde_json::Value;

use super::{AGE, Kind, NAME, age, column, create_as_is, or, update_as_is};
use crate::defaulting::{each, zero};
use crate::validation::{Causes, items, metadata, names, text};
use crate::{Cause, Object};

/// A cell shows at most so many addresses.
const SHOWN_MAX: usize = 3;
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// Endpoints.
pub static ENDPOINTS: Kind = Kind {
    id: "endpoints",
    group: "",
    version: "v1",
    kind: "Endpoints",
    plural: "endpoints",
    short_names: &["ep"],
    categories: &[],
    namespaced: true,
    has_status: false,
    has_scale: false,
    subresources: &[],
    has_generation: false,
    selectable: &[],
    default,
    prepare_create: create_as_is,
    prepare_update: update_as_is,
    validate,
    columns: &[NAME, column("Endpoints", "string", 0), AGE],
    cells,
    custom: None,
};

fn default(object: &mut Object) {
    for subset in each(&mut object.0, "subsets") {
        for port in each(subset, "ports") {
            zero(port, "protocol", "TCP");
        }
    }
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    for (index, subset) in items(&object.0["subsets"]) {
        let field = format!("subsets[{index}]");
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|list| items(&subset[*list]).next().is_none()) {
            causes.required(&field, "must specify `addresses` or `notReadyAddresses`");
        }
        for list in lists {
            for (index, one) in items(&subset[list]) {
                address(&mut causes, one, &format!("{field}.{list}[{index}]"));
            }
        }
        let several = items(&subset["ports"]).count() > 1;
        for (index, one) in items(&subset["ports"]) {
            port(&mut causes, one, several, &format!("{field}.ports[{index}]"));
        }
    }
    causes.into_list()
}

fn address(causes: &mut Causes, address: &Value, field: &str) {
    let ip_at = format!("{field}.ip");
    let ip = text(&address["ip"]);
    causes.ip(&ip_at, ip);
    for (part, rule) in [
        ("hostname", names::dns_label as fn(&str) -> Vec<String>),
        ("nodeName", names::dns_subdomain),
    ] {
        let name = text(&address[part]);
        if !name.is_empty() {
            causes.name(&format!("{field}.{part}"), name, rule);
        }
    }
    match ip.parse() {
        Ok(parsed) => special(causes, ip, parsed, &ip_at),
        Err(_) => causes.invalid(&ip_at, ip, "must be a valid IP address"),
    }
}

/// Refuses addresses that lead elsewhere on every node.
fn special(causes: &mut Causes, ip: &str, parsed: IpAddr, field: &str) {
    let local = match parsed {
        IpAddr::V4(four) => (four.is_link_local(), four.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(six) => (
            six.segments()[0] & 0xffc0 == 0xfe80,
            six.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    for (wrong, why) in [
        (parsed.is_unspecified(), format!("may not be unspecified ({ip})")),
        (parsed.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".into()),
        (local.0, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".into()),
        (
            local.1,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".into(),
        ),
    ] {
        if wrong {
            causes.invalid(field, ip, &why);
        }
    }
}

fn port(causes: &mut Causes, port: &Value, several: bool, field: &str) {
    let name = text(&port["name"]);
    if several || !name.is_empty() {
        causes.required_name(&format!("{field}.name"), name, names::dns_label);
    }
    causes.port(&format!("{field}.port"), port["port"].as_i64().unwrap_or_default());
    causes.one_of(&format!("{field}.protocol"), text(&port["protocol"]), PROTOCOLS);
    if let Some(protocol) = port["appProtocol"].as_str() {
        causes.name(&format!("{field}.appProtocol"), protocol, names::qualified_name);
    }
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in object.list("/subsets") {
        let addresses = || items(&subset["addresses"]).map(|(_, one)| text(&one["ip"]));
        let mut has_ports = false;
        for (_, port) in items(&subset["ports"]) {
            has_ports = true;
            let number = port["port"].as_i64().unwrap_or_default();
            all.extend(addresses().map(|ip| match ip.contains(':') {
                true => format!("[{ip}]:{number}"),
                false => format!("{ip}:{number}"),
            }));
        }
        if !has_ports {
            all.extend(addresses().map(str::to_owned));
        }
    }
    let count = all.len();
    all.truncate(SHOWN_MAX);
    let mut shown = all.join(",");
    if count > SHOWN_MAX {
        shown.push_str(&format!(" + {} more...", count - SHOWN_MAX));
    }
    let shown = if object.list("/subsets").is_empty() { or("", "<none>") } else { shown.into() };
    vec![object.name().into(), shown, age(object, now)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    fn endpoints(subsets: Value) -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "web", "namespace": "default",
                "creationTimestamp": at(0).to_string()},
            "subsets": subsets,
        }));
        (ENDPOINTS.default)(&mut object);
        object
    }

    #[test]
    fn addresses_are_shown() {
        let ips = |count: u8| (1..=count).map(|at| json!({"ip": format!("10.0.0.{at}")}));
        let of = |count| ips(count).collect::<Vec<_>>();
        for (subsets, shown) in [
            (json!([]), "<none>"),
            (json!([{"addresses": of(1), "ports": [{"port": 80}]}]), "10.0.0.1:80"),
            (json!([{"addresses": of(2)}]), "10.0.0.1,10.0.0.2"),
            (
                json!([{"addresses": of(2), "ports": [{"name": "a", "port": 80},
                    {"name": "b", "port": 90}]}]),
                "10.0.0.1:80,10.0.0.2:80,10.0.0.1:90 + 1 more...",
            ),
        ] {
            let object = endpoints(subsets);
            assert_eq!(found(&ENDPOINTS, &object, None), [""; 0]);
            assert_eq!(row(&ENDPOINTS, &object, 5), format!("web|{shown}|5s"));
        }
    }

    #[test]
    fn wrong_endpoints_are_named() {
        for (subset, starts) in [
            (json!({"ports": [{"port": 80}]}), vec!["Required subsets[0]: Required value: must"]),
            (
                json!({"addresses": [{"ip": "127.0.0.1"}]}),
                vec!["Invalid subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in"],
            ),
            (
                json!({"addresses": [{"ip": "x"}]}),
                vec!["Invalid subsets[0].addresses[0].ip", "Invalid subsets[0].addresses[0].ip"],
            ),
            (
                json!({"addresses": [{"ip": "1.2.3.4"}], "ports": [{"port": 0}, {"name": "A_", "port": 1}]}),
                vec!["Required subsets[0].ports[0].name", "Invalid subsets[0].ports[0].port",
                    "Invalid subsets[0].ports[1].name"],
            ),
        ] {
            let found = found(&ENDPOINTS, &endpoints(json!([subset])), None);
            assert_eq!(found.len(), starts.len(), "{found:?}");
            assert!(found.iter().zip(starts).all(|(line, start)| line.starts_with(start)), "{found:?}");
        }
    }
}
