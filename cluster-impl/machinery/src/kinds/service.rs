//! Service.
//!
//! Limits: node ports lie in [`NODE_PORTS`].

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use serde_json::{Value, json};

use super::{AGE, Kind, NAME, Subresource, age, column, keep_status, or};
use crate::defaulting::{absent, each, part, zero};
use crate::validation::{Causes, items, metadata, names, pod_spec, text};
use crate::{Cause, Object};

/// The node ports that may be asked for; upstream's default range.
pub const NODE_PORTS: RangeInclusive<i64> = 30000..=32767;
const CLIENT_IP_SECONDS: i64 = 3 * 3600;
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

/// Service.
pub static SERVICE: Kind = Kind {
    id: "services",
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    short_names: &["svc"],
    categories: &["all"],
    namespaced: true,
    has_status: true,
    has_scale: false,
    subresources: &[Subresource {
        name: "proxy",
        kind: "ServiceProxyOptions",
        group: "",
        verbs: &["create", "delete", "get", "patch", "update"],
    }],
    has_generation: false,
    selectable: &[("spec.clusterIP", "/spec/clusterIP"), ("spec.type", "/spec/type")],
    default,
    prepare_create: |object| object.set("/status", json!({"loadBalancer": {}})),
    prepare_update,
    validate,
    columns: &[
        NAME,
        column("Type", "string", 0),
        column("Cluster-IP", "string", 0),
        column("External-IP", "string", 0),
        column("Port(s)", "string", 0),
        AGE,
        column("Selector", "string", 1),
    ],
    cells,
    custom: None,
};

fn default(object: &mut Object) {
    absent(&mut object.0, "status", json!({"loadBalancer": {}}));
    let Some(spec) = part(&mut object.0, "spec") else { return };
    zero(spec, "type", "ClusterIP");
    zero(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP"
        && let Some(config) = part(spec, "sessionAffinityConfig")
        && let Some(client) = part(config, "clientIP")
    {
        absent(client, "timeoutSeconds", CLIENT_IP_SECONDS);
    }
    for port in each(spec, "ports") {
        zero(port, "protocol", "TCP");
        let number = port["port"].clone();
        zero(port, "targetPort", number);
    }
    let kind = text(&spec["type"]).to_owned();
    if kind == "ExternalName" {
        return;
    }
    zero(spec, "internalTrafficPolicy", "Cluster");
    if kind == "NodePort" || kind == "LoadBalancer" {
        zero(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        absent(spec, "allocateLoadBalancerNodePorts", true);
    }
    let selectorless = spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    let (policy, families) = if selectorless && spec["clusterIP"] == "None" {
        ("RequireDualStack", json!(["IPv4", "IPv6"]))
    } else {
        ("SingleStack", json!(["IPv4"]))
    };
    zero(spec, "ipFamilyPolicy", policy);
    absent(spec, "ipFamilies", families);
    let address = text(&spec["clusterIP"]).to_owned();
    if !address.is_empty() {
        absent(spec, "clusterIPs", json!([address]));
    }
}

/// What was allocated stays if the client does not speak of it.
fn prepare_update(object: &mut Object, old: &Object) {
    keep_status(object, old);
    let external = |object: &Object| object.text("/spec/type") == "ExternalName";
    drop_dependents(object, old);
    if external(object) || external(old) {
        return;
    }
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let pointer = format!("/spec/{field}");
        let missing = |object: &Object| {
            object.get(&pointer).is_none_or(|value| value.is_null() || value == "")
        };
        if missing(object) && !missing(old) {
            object.set(&pointer, old.0["spec"][field].clone());
        }
    }
    let node_ports = |object: &Object| {
        ["NodePort", "LoadBalancer"].contains(&object.text("/spec/type"))
    };
    if node_ports(object) && node_ports(old) {
        for port in each(&mut object.0["spec"], "ports") {
            let same = |one: &&Value| {
                one["port"] == port["port"] && one["protocol"] == port["protocol"]
            };
            if let Some(before) = old.list("/spec/ports").iter().find(same) {
                zero(port, "nodePort", before["nodePort"].clone());
            }
            if port["nodePort"].is_null() && let Some(port) = port.as_object_mut() {
                port.remove("nodePort");
            }
        }
    }
}

/// Fields that a change of type leaves without a meaning go, unless the client has changed them too.
fn drop_dependents(object: &mut Object, old: &Object) {
    let (now, before) =
        (object.text("/spec/type").to_owned(), old.text("/spec/type").to_owned());
    let mut drop_same = |pointers: &[&str]| {
        if pointers.iter().all(|pointer| object.get(pointer) == old.get(pointer)) {
            pointers.iter().for_each(|pointer| drop(object.remove(pointer)));
        }
    };
    if before != "ExternalName" && now == "ExternalName" {
        drop_same(&["/spec/clusterIP", "/spec/clusterIPs"]);
        drop_same(&["/spec/ipFamilies", "/spec/ipFamilyPolicy"]);
        drop_same(&["/spec/internalTrafficPolicy"]);
    }
    let outside = |kind: &str| ["NodePort", "LoadBalancer"].contains(&kind);
    if outside(&before) && !outside(&now) {
        drop_same(&["/spec/externalTrafficPolicy"]);
        let numbers = |object: &Object| -> Vec<Value> {
            object.list("/spec/ports").iter().map(|port| port["nodePort"].clone()).collect()
        };
        if numbers(object) == numbers(old) {
            for port in each(&mut object.0["spec"], "ports") {
                if let Some(port) = port.as_object_mut() {
                    port.remove("nodePort");
                }
            }
        }
    }
    if before == "LoadBalancer" && now != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "healthCheckNodePort", "loadBalancerClass"] {
            let pointer = format!("/spec/{field}");
            if object.get(&pointer) == old.get(&pointer) {
                object.remove(&pointer);
            }
        }
    }
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_1035_label);
    let spec = &object.0["spec"];
    let kind = text(&spec["type"]);
    let headless = spec["clusterIP"] == "None";
    if items(&spec["ports"]).next().is_none() && !headless && kind != "ExternalName" {
        causes.required("spec.ports", "");
    }
    by_type(&mut causes, spec, kind, headless);
    ports(&mut causes, &spec["ports"], kind);
    metadata::labels(&mut causes, &spec["selector"], "spec.selector");
    let affinity = text(&spec["sessionAffinity"]);
    causes.one_of("spec.sessionAffinity", affinity, &["ClientIP", "None"]);
    for (field, supported) in [
        ("externalTrafficPolicy", &["Cluster", "Local"]),
        ("internalTrafficPolicy", &["Cluster", "Local"]),
    ] {
        let value = text(&spec[field]);
        if !value.is_empty() && !supported.contains(&value) {
            causes.not_supported(&format!("spec.{field}"), value, supported);
        }
    }
    for (index, address) in items(&spec["externalIPs"]) {
        if text(address).parse::<std::net::IpAddr>().is_err() {
            let field = format!("spec.externalIPs[{index}]");
            causes.invalid(&field, text(address), "must be a valid IP address");
        }
    }
    if let Some(old) = old {
        let before = &old.0["spec"];
        let external = kind == "ExternalName" || before["type"] == "ExternalName";
        if !external && !text(&before["clusterIP"]).is_empty() {
            causes.immutable("spec.clusterIP", &spec["clusterIP"], &before["clusterIP"]);
        }
    }
    causes.into_list()
}

fn by_type(causes: &mut Causes, spec: &Value, kind: &str, headless: bool) {
    let address = text(&spec["clusterIP"]);
    match kind {
        "ExternalName" => {
            let name = text(&spec["externalName"]).trim_end_matches('.');
            causes.required_name("spec.externalName", name, names::dns_subdomain);
            if !address.is_empty() {
                causes.forbidden("spec.clusterIP", "may not be set when `type` is 'ExternalName'");
            }
            return;
        }
        "NodePort" | "LoadBalancer" if headless => {
            let why = format!("may not be set to 'None' for {kind} services");
            causes.invalid("spec.clusterIP", "None", &why);
        }
        "ClusterIP" | "NodePort" | "LoadBalancer" => {}
        other => causes.one_of("spec.type", other, TYPES),
    }
    if !address.is_empty() && !headless && address.parse::<std::net::IpAddr>().is_err() {
        let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        causes.invalid("spec.clusterIPs[0]", address, why);
    }
}

fn ports(causes: &mut Causes, list: &Value, kind: &str) {
    let (mut port_names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let mut node_ports = BTreeSet::new();
    let several = items(list).count() > 1;
    for (index, port) in items(list) {
        let field = format!("spec.ports[{index}]");
        let (name, protocol) = (text(&port["name"]), text(&port["protocol"]));
        if name.is_empty() && several {
            causes.required(&format!("{field}.name"), "");
        } else if !name.is_empty() {
            causes.name(&format!("{field}.name"), name, names::dns_label);
            if !port_names.insert(name) {
                causes.duplicate(&format!("{field}.name"), name);
            }
        }
        let number = port["port"].as_i64().unwrap_or_default();
        causes.port(&format!("{field}.port"), number);
        causes.one_of(&format!("{field}.protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        pod_spec::port_or_name(causes, &port["targetPort"], &format!("{field}.targetPort"));
        if !numbers.insert((protocol, number)) {
            causes.duplicate(&field, format!("{protocol}/{number}"));
        }
        let Some(node_port) = port["nodePort"].as_i64().filter(|number| *number != 0) else {
            continue;
        };
        let field = format!("{field}.nodePort");
        if kind == "ClusterIP" || kind == "ExternalName" {
            causes.forbidden(&field, &format!("may not be used when `type` is '{kind}'"));
        } else if !NODE_PORTS.contains(&node_port) {
            causes.invalid(
                &field,
                node_port,
                "provided port is not in the valid range. The range of valid ports is 30000-32767",
            );
        } else if !node_ports.insert((protocol, node_port)) {
            causes.duplicate(&field, node_port);
        }
    }
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let ports = object.list("/spec/ports").iter().map(|port| {
        let number = |field: &str| port[field].as_i64().unwrap_or_default();
        let protocol = text(&port["protocol"]);
        match number("nodePort") {
            0 => format!("{}/{protocol}", number("port")),
            node_port => format!("{}:{node_port}/{protocol}", number("port")),
        }
    });
    let ports = ports.collect::<Vec<_>>().join(",");
    let selector = object.map("/spec/selector").into_iter().flatten();
    let selector = selector.map(|(key, value)| format!("{key}={}", text(value)));
    let selector = selector.collect::<Vec<_>>().join(",");
    vec![
        object.name().into(),
        object.text("/spec/type").into(),
        or(object.text("/spec/clusterIP"), "<none>"),
        external(object).into(),
        or(&ports, "<none>"),
        age(object, now),
        or(&selector, "<none>"),
    ]
}

fn external(object: &Object) -> String {
    let fixed = object.list("/spec/externalIPs").iter().map(text);
    let mut all: Vec<&str> = Vec::new();
    let kind = object.text("/spec/type");
    if kind == "ExternalName" {
        return object.text("/spec/externalName").to_owned();
    }
    if kind == "LoadBalancer" {
        all.extend(object.list("/status/loadBalancer/ingress").iter().map(|ingress| {
            match text(&ingress["ip"]) {
                "" => text(&ingress["hostname"]),
                ip => ip,
            }
        }));
    }
    all.extend(fixed);
    match (all.is_empty(), kind) {
        (false, _) => all.join(","),
        (true, "LoadBalancer") => "<pending>".to_owned(),
        (true, "ClusterIP" | "NodePort") => "<none>".to_owned(),
        (true, _) => "<unknown>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, found, row};
    use super::*;

    fn service(spec: Value) -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "web", "namespace": "default",
                "creationTimestamp": at(0).to_string()},
            "spec": spec,
        }));
        (SERVICE.prepare_create)(&mut object);
        (SERVICE.default)(&mut object);
        object
    }

    #[test]
    fn defaults_are_upstreams() {
        let object = service(json!({"selector": {"app": "web"}, "ports": [{"port": 80}]}));
        assert_eq!(
            object.0["spec"],
            json!({"selector": {"app": "web"}, "type": "ClusterIP", "sessionAffinity": "None",
                "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}],
                "internalTrafficPolicy": "Cluster", "ipFamilyPolicy": "SingleStack",
                "ipFamilies": ["IPv4"]})
        );
        let balanced = service(json!({"type": "LoadBalancer", "ports": [{"port": 80}],
            "sessionAffinity": "ClientIP"}));
        assert_eq!(balanced.text("/spec/externalTrafficPolicy"), "Cluster");
        assert!(balanced.flag("/spec/allocateLoadBalancerNodePorts"));
        assert_eq!(
            balanced.integer("/spec/sessionAffinityConfig/clientIP/timeoutSeconds"),
            Some(10800)
        );
        let outside = service(json!({"type": "ExternalName", "externalName": "example.com"}));
        assert_eq!(outside.get("/spec/ipFamilies"), None);
        let headless = service(json!({"clusterIP": "None"}));
        assert_eq!(headless.0["spec"]["clusterIPs"], json!(["None"]));
        for object in [object, balanced, outside, headless] {
            assert_eq!(found(&SERVICE, &object, None), [""; 0]);
        }
    }

    #[test]
    fn wrong_services_are_named() {
        for (spec, start) in [
            (json!({}), "Required spec.ports: Required value"),
            (json!({"ports": [{"port": 0, "targetPort": 80}]}), "Invalid spec.ports[0].port"),
            (json!({"ports": [{"port": 80}, {"name": "b", "port": 81}]}),
                "Required spec.ports[0].name"),
            (json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}),
                "Duplicate spec.ports[1]: Duplicate value: \"TCP/80\""),
            (json!({"ports": [{"port": 80, "nodePort": 30000}]}),
                "Forbidden spec.ports[0].nodePort: Forbidden: may not be used when `type` is \
                 'ClusterIP'"),
            (json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
                "Invalid spec.ports[0].nodePort: Invalid value: 80: provided port is not in the \
                 valid range. The range of valid ports is 30000-32767"),
            (json!({"type": "Other", "ports": [{"port": 80}]}), "NotSupported spec.type"),
            (json!({"type": "ExternalName"}), "Required spec.externalName"),
            (json!({"clusterIP": "x", "ports": [{"port": 80}]}), "Invalid spec.clusterIPs[0]"),
            (json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 80}]}),
                "Invalid spec.clusterIP"),
            (json!({"ports": [{"port": 80, "targetPort": "Web"}]}),
                "Invalid spec.ports[0].targetPort"),
        ] {
            let found = found(&SERVICE, &service(spec), None);
            assert_eq!(found.len(), 1, "{start}: {found:?}");
            assert!(found[0].starts_with(start), "{start}: {found:?}");
        }
    }

    #[test]
    fn what_was_allocated_stays() {
        let spec = json!({"type": "NodePort", "ports": [{"port": 80}]});
        let mut old = service(spec.clone());
        old.set("/spec/clusterIP", "10.96.0.9");
        old.0["spec"]["ports"][0]["nodePort"] = 30123.into();
        let mut new = service(spec);
        (SERVICE.prepare_update)(&mut new, &old);
        assert_eq!(new.text("/spec/clusterIP"), "10.96.0.9");
        assert_eq!(new.0["spec"]["ports"][0]["nodePort"], 30123);
        assert_eq!(found(&SERVICE, &new, Some(&old)), [""; 0]);
        new.set("/spec/clusterIP", "10.96.0.10");
        assert_eq!(
            found(&SERVICE, &new, Some(&old)),
            ["Invalid spec.clusterIP: Invalid value: \"10.96.0.10\": field is immutable"]
        );
    }

    #[test]
    fn prints_as_kubectl() {
        let mut object = service(json!({"type": "NodePort", "selector": {"a": "1", "b": "2"},
            "ports": [{"name": "x", "port": 80, "nodePort": 30001},
                {"name": "y", "port": 53, "protocol": "UDP"}]}));
        object.set("/spec/clusterIP", "10.96.0.9");
        assert_eq!(
            row(&SERVICE, &object, 9),
            "web|NodePort|10.96.0.9|<none>|80:30001/TCP,53/UDP|9s|a=1,b=2"
        );
        object.set("/spec/type", "LoadBalancer");
        assert!(row(&SERVICE, &object, 9).contains("|<pending>|"));
        object.set("/status/loadBalancer/ingress", json!([{"ip": "1.2.3.4"}]));
        assert!(row(&SERVICE, &object, 9).contains("|1.2.3.4|"));
    }
}
