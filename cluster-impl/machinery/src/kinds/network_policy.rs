//! NetworkPolicy.

use serde_json::{Value, json};

use super::{AGE, Kind, NAME, PLAIN, age, column, or};
use crate::defaulting::{absent, each, empty, part};
use crate::validation::{Causes, go_strings, items, metadata, names, network, selector, text};
use crate::{Cause, LabelSelector, Object};

const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
const TYPES: &[&str] = &["Ingress", "Egress"];

/// NetworkPolicy.
pub static NETWORK_POLICY: Kind = Kind {
    id: "networkpolicies.networking.k8s.io",
    group: "networking.k8s.io",
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    short_names: &["netpol"],
    has_generation: true,
    default,
    validate,
    columns: &[NAME, column("Pod-Selector", "string", 0), AGE],
    cells: |object, now| {
        let selector = LabelSelector::from_value(object.get("/spec/podSelector"));
        let selector = selector.map(|selector| selector.to_string()).unwrap_or_default();
        vec![object.name().into(), or(&selector, "<none>"), age(object, now)]
    },
    ..PLAIN
};

fn default(object: &mut Object) {
    let Some(spec) = part(&mut object.0, "spec") else { return };
    absent(spec, "podSelector", empty());
    for direction in ["ingress", "egress"] {
        for rule in each(spec, direction) {
            for port in each(rule, "ports") {
                absent(port, "protocol", "TCP");
            }
        }
    }
    if items(&spec["policyTypes"]).next().is_none() {
        let has_egress = items(&spec["egress"]).next().is_some();
        spec["policyTypes"] = if has_egress { json!(TYPES) } else { json!(["Ingress"]) };
    }
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    let spec = &object.0["spec"];
    selector::validate(&mut causes, &spec["podSelector"], "spec.podSelector");
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in items(&spec[direction]) {
            let field = format!("spec.{direction}[{index}]");
            for (index, port) in items(&rule["ports"]) {
                validate_port(&mut causes, port, &format!("{field}.ports[{index}]"));
            }
            for (index, peer) in items(&rule[peers]) {
                validate_peer(&mut causes, peer, &format!("{field}.{peers}[{index}]"));
            }
        }
    }
    let types = &spec["policyTypes"];
    if items(types).count() > TYPES.len() {
        let why = "may not specify more than two policyTypes";
        causes.invalid_as("spec.policyTypes", &go_strings(types), why);
        return causes.into_list();
    }
    for (index, one) in items(types).filter(|(_, one)| !TYPES.contains(&text(one))) {
        causes.not_supported(&format!("spec.policyTypes[{index}]"), text(one), TYPES);
    }
    causes.into_list()
}

fn validate_port(causes: &mut Causes, port: &Value, field: &str) {
    if let Some(protocol) = port["protocol"].as_str().filter(|one| !PROTOCOLS.contains(one)) {
        causes.not_supported(&format!("{field}.protocol"), protocol, PROTOCOLS);
    }
    let end = port["endPort"].as_i64();
    let end_field = format!("{field}.endPort");
    match &port["port"] {
        Value::Number(number) => {
            let number = number.as_i64().unwrap_or_default();
            causes.port(&format!("{field}.port"), number);
            if let Some(end) = end {
                if end < number {
                    causes.invalid(&end_field, end, "must be greater than or equal to `port`");
                }
                causes.port(&end_field, end);
            }
        }
        Value::String(name) => {
            if let Some(end) = end {
                let why = "may not be specified when `port` is non-numeric";
                causes.invalid(&end_field, end, why);
            }
            causes.name(&format!("{field}.port"), name, names::port_name);
        }
        _ => {
            if let Some(end) = end {
                let why = "may not be specified when `port` is not specified";
                causes.invalid(&end_field, end, why);
            }
        }
    }
}

fn validate_peer(causes: &mut Causes, peer: &Value, field: &str) {
    let mut count = 0;
    for part in ["podSelector", "namespaceSelector"] {
        if !peer[part].is_null() {
            count += 1;
            selector::validate(causes, &peer[part], &format!("{field}.{part}"));
        }
    }
    if peer["ipBlock"].is_null() {
        if count == 0 {
            causes.required(field, "must specify a peer");
        }
        return;
    }
    validate_block(causes, &peer["ipBlock"], &format!("{field}.ipBlock"));
    if count > 0 {
        causes.forbidden(field, "may not specify both ipBlock and another peer");
    }
}

fn validate_block(causes: &mut Causes, block: &Value, field: &str) {
    let range = text(&block["cidr"]);
    if range.is_empty() {
        causes.required(&format!("{field}.cidr"), "");
        return;
    }
    let Some(range) = network::cidr(causes, &format!("{field}.cidr"), range) else { return };
    for (index, except) in items(&block["except"]) {
        let field = format!("{field}.except[{index}]");
        let Some(inner) = network::cidr(causes, &field, text(except)) else { continue };
        if !network::contains(range, inner.0) || range.1 >= inner.1 {
            causes.invalid(&field, text(except), "must be a strict subset of `cidr`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, found, row};
    use super::*;

    fn policy(spec: Value) -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "deny", "namespace": "default",
                "creationTimestamp": at(0).to_string()},
            "spec": spec,
        }));
        (NETWORK_POLICY.default)(&mut object);
        object
    }

    #[test]
    fn defaults_are_upstreams() {
        let object = policy(json!({"egress": [{"ports": [{"port": 53}]}]}));
        assert_eq!(object.0["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(object.text("/spec/egress/0/ports/0/protocol"), "TCP");
        assert_eq!(found(&NETWORK_POLICY, &object, None), [""; 0]);
        assert_eq!(row(&NETWORK_POLICY, &object, 5), "deny|<none>|5s");
        let object = policy(json!({"podSelector": {"matchLabels": {"app": "web"}}}));
        assert_eq!(object.0["spec"]["policyTypes"], json!(["Ingress"]));
        assert_eq!(row(&NETWORK_POLICY, &object, 5), "deny|app=web|5s");
    }

    #[test]
    fn wrong_policies_are_named() {
        let from = |peer: Value| json!({"ingress": [{"from": [peer]}]});
        let port = |port: Value| json!({"ingress": [{"ports": [port]}]});
        let block = |block: Value| from(json!({"ipBlock": block}));
        for (spec, line) in [
            (from(json!({})), "Required spec.ingress[0].from[0]: Required value: must specify a peer"),
            (from(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})),
                "Forbidden spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and \
                 another peer"),
            (block(json!({"cidr": "x"})), "Invalid spec.ingress[0].from[0].ipBlock.cidr: Invalid \
                value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
            (block(json!({"cidr": "10.0.0.0/8", "except": ["11.0.0.0/9"]})),
                "Invalid spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \
                 \"11.0.0.0/9\": must be a strict subset of `cidr`"),
            (block(json!({"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]})),
                "Invalid spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \
                 \"10.0.0.0/8\": must be a strict subset of `cidr`"),
            (port(json!({"port": 80, "endPort": 79})), "Invalid spec.ingress[0].ports[0].endPort: \
                Invalid value: 79: must be greater than or equal to `port`"),
            (port(json!({"port": "web", "endPort": 80})), "Invalid \
                spec.ingress[0].ports[0].endPort: Invalid value: 80: may not be specified when \
                `port` is non-numeric"),
            (port(json!({"endPort": 80})), "Invalid spec.ingress[0].ports[0].endPort: Invalid \
                value: 80: may not be specified when `port` is not specified"),
            (port(json!({"protocol": "ICMP"})), "NotSupported spec.ingress[0].ports[0].protocol: \
                Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\""),
            (json!({"policyTypes": ["Both"]}), "NotSupported spec.policyTypes[0]: Unsupported \
                value: \"Both\": supported values: \"Ingress\", \"Egress\""),
        ] {
            assert_eq!(found(&NETWORK_POLICY, &policy(spec), None), [line]);
        }
    }
}
