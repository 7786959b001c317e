//! Ingress.

use serde_json::{Value, json};

use super::{AGE, Kind, NAME, PLAIN, age, column, keep_status, or};
use crate::defaulting::{absent, empty};
use crate::validation::{Causes, items, metadata, names, network, text};
use crate::{Cause, Object};

const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
const CLASS: &str = "kubernetes.io/ingress.class";
/// So many hosts are printed.
const HOSTS_MAX: usize = 3;

/// Ingress.
pub static INGRESS: Kind = Kind {
    id: "ingresses.networking.k8s.io",
    group: "networking.k8s.io",
    kind: "Ingress",
    plural: "ingresses",
    short_names: &["ing"],
    has_status: true,
    has_generation: true,
    default: |object| {
        absent(&mut object.0, "spec", empty());
        absent(&mut object.0, "status", json!({"loadBalancer": {}}));
    },
    prepare_create: |object| object.set("/status", json!({"loadBalancer": {}})),
    prepare_update: keep_status,
    validate,
    columns: &[
        NAME,
        column("Class", "string", 0),
        column("Hosts", "string", 0),
        column("Address", "string", 0),
        column("Ports", "string", 0),
        AGE,
    ],
    cells,
    ..PLAIN
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    let spec = &object.0["spec"];
    let backend = &spec["defaultBackend"];
    if items(&spec["rules"]).next().is_none() && backend.is_null() {
        let why = "either `defaultBackend` or `rules` must be specified";
        causes.invalid_as("spec", "[]networking.IngressRule(nil)", why);
    }
    if !backend.is_null() {
        validate_backend(&mut causes, backend, "spec.defaultBackend");
    }
    for (index, rule) in items(&spec["rules"]) {
        validate_rule(&mut causes, rule, &format!("spec.rules[{index}]"));
    }
    for (index, tls) in items(&spec["tls"]) {
        let field = format!("spec.tls[{index}]");
        for (index, host) in items(&tls["hosts"]) {
            network::host(&mut causes, &format!("{field}.hosts[{index}]"), text(host));
        }
        let secret = text(&tls["secretName"]);
        if !secret.is_empty() {
            causes.name(&format!("{field}.secretName"), secret, names::dns_subdomain);
        }
    }
    let class = spec["ingressClassName"].as_str();
    if let Some(class) = class {
        causes.name("spec.ingressClassName", class, names::dns_subdomain);
    }
    if let (None, Some(class), Some(annotated)) = (old, class, object.annotation(CLASS))
        && class != annotated
    {
        let why = "must match `ingressClassName` when both are specified";
        causes.invalid(&format!("annotations.{CLASS}"), annotated, why);
    }
    for (index, ingress) in items(&object.0["status"]["loadBalancer"]["ingress"]) {
        let field = format!("status.loadBalancer.ingress[{index}]");
        let (address, host) = (text(&ingress["ip"]), text(&ingress["hostname"]));
        if !address.is_empty() {
            network::ip(&mut causes, &format!("{field}.ip"), address);
        }
        if !host.is_empty() {
            causes.name(&format!("{field}.hostname"), host, names::dns_subdomain);
            no_address(&mut causes, &format!("{field}.hostname"), host);
        }
    }
    causes.into_list()
}

fn no_address(causes: &mut Causes, field: &str, host: &str) {
    if network::parse_ip(host).is_some() {
        causes.invalid(field, host, "must be a DNS name, not an IP address");
    }
}

fn validate_rule(causes: &mut Causes, rule: &Value, field: &str) {
    let host = text(&rule["host"]);
    if !host.is_empty() {
        no_address(causes, &format!("{field}.host"), host);
        network::host(causes, &format!("{field}.host"), host);
    }
    if rule["http"].is_null() {
        return;
    }
    let field = format!("{field}.http.paths");
    if items(&rule["http"]["paths"]).next().is_none() {
        causes.required(&field, "");
    }
    for (index, path) in items(&rule["http"]["paths"]) {
        validate_path(causes, path, &format!("{field}[{index}]"));
    }
}

fn validate_path(causes: &mut Causes, path: &Value, field: &str) {
    let at = format!("{field}.path");
    let way = text(&path["path"]);
    match path["pathType"].as_str() {
        None => {
            causes.required(&format!("{field}.pathType"), "pathType must be specified");
            return;
        }
        Some("Exact" | "Prefix") => {
            if !way.starts_with('/') {
                causes.invalid(&at, way, "must be an absolute path");
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if way.contains(part) {
                    causes.invalid(&at, way, &format!("must not contain '{part}'"));
                }
            }
            for end in ["/..", "/."] {
                if way.ends_with(end) {
                    causes.invalid(&at, way, &format!("cannot end with '{end}'"));
                }
            }
        }
        Some("ImplementationSpecific") => {
            if !way.is_empty() && !way.starts_with('/') {
                causes.invalid(&at, way, "must be an absolute path");
            }
        }
        Some(other) => causes.not_supported(&format!("{field}.pathType"), other, PATH_TYPES),
    }
    validate_backend(causes, &path["backend"], &format!("{field}.backend"));
}

fn validate_backend(causes: &mut Causes, backend: &Value, field: &str) {
    let (resource, service) = (&backend["resource"], &backend["service"]);
    match (resource.is_null(), service.is_null()) {
        (false, false) => {
            causes.invalid(field, "", "cannot set both resource and service backends");
        }
        (true, true) => causes.invalid(field, "", "resource or service backend is required"),
        (false, true) => typed_reference(causes, resource, &format!("{field}.resource")),
        (true, false) => {
            let name = text(&service["name"]);
            causes.required_name(&format!("{field}.service.name"), name, names::dns_1035_label);
            let port_name = text(&service["port"]["name"]);
            match (port_name, service["port"]["number"].as_i64().unwrap_or_default()) {
                ("", 0) => causes.required(field, "port name or number is required"),
                ("", number) => causes.port(&format!("{field}.service.port.number"), number),
                (name, 0) => {
                    causes.name(&format!("{field}.service.port.name"), name, names::port_name);
                }
                _ => causes.invalid(field, "", "cannot set both port name & port number"),
            }
        }
    }
}

/// Checks a reference by group, kind and name.
pub(super) fn typed_reference(causes: &mut Causes, reference: &Value, field: &str) {
    if let Some(group) = reference["apiGroup"].as_str() {
        causes.name(&format!("{field}.apiGroup"), group, names::dns_subdomain);
    }
    for part in ["kind", "name"] {
        causes.required_name(
            &format!("{field}.{part}"),
            text(&reference[part]),
            names::path_segment,
        );
    }
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let rules = object.list("/spec/rules");
    let named = rules.iter().map(|rule| text(&rule["host"])).filter(|host| !host.is_empty());
    let mut hosts = named.take(HOSTS_MAX).collect::<Vec<_>>().join(",");
    if hosts.is_empty() {
        hosts.push('*');
    } else if rules.len() > HOSTS_MAX {
        hosts.push_str(&format!(" + {} more...", rules.len() - HOSTS_MAX));
    }
    let points = object.list("/status/loadBalancer/ingress").iter();
    let mut points: Vec<_> = points
        .map(|point| match text(&point["ip"]) {
            "" => text(&point["hostname"]),
            address => address,
        })
        .filter(|point| !point.is_empty())
        .collect();
    points.sort_unstable();
    points.dedup();
    vec![
        object.name().into(),
        or(object.text("/spec/ingressClassName"), "<none>"),
        hosts.into(),
        points.join(",").into(),
        if object.list("/spec/tls").is_empty() { "80" } else { "80, 443" }.into(),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, found, row};
    use super::*;

    fn ingress(spec: Value) -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "web", "namespace": "default",
                "creationTimestamp": at(0).to_string()},
            "spec": spec,
        }));
        (INGRESS.prepare_create)(&mut object);
        object
    }

    fn path(path: Value) -> Value {
        json!({"rules": [{"host": "a.example", "http": {"paths": [path]}}]})
    }

    fn service() -> Value {
        json!({"service": {"name": "web", "port": {"number": 80}}})
    }

    #[test]
    fn whole_ingresses_are_accepted_and_printed() {
        let mut object = ingress(json!({"ingressClassName": "nginx", "tls": [{"hosts": ["*.a.b"]}],
            "rules": [{"host": "a.b", "http": {"paths": [
                {"path": "/", "pathType": "Prefix", "backend": service()}]}},
                {"host": "*.c.d"}, {"host": "e"}, {}]}));
        object.set("/status/loadBalancer/ingress", json!([{"hostname": "x"}, {"ip": "10.0.0.1"}]));
        assert_eq!(found(&INGRESS, &object, None), [""; 0]);
        assert_eq!(
            row(&INGRESS, &object, 5),
            "web|nginx|a.b,*.c.d,e + 1 more...|10.0.0.1,x|80, 443|5s"
        );
        let object = ingress(json!({"defaultBackend": service()}));
        assert_eq!(row(&INGRESS, &object, 5), "web|<none>|*||80|5s");
    }

    #[test]
    fn wrong_ingresses_are_named() {
        for (spec, start) in [
            (json!({}), "Invalid spec: Invalid value: []networking.IngressRule(nil): either \
                `defaultBackend` or `rules` must be specified"),
            (json!({"defaultBackend": {}}),
                "Invalid spec.defaultBackend: Invalid value: \"\": resource or service backend is required"),
            (json!({"defaultBackend": {"service": {"name": "web", "port": {}}}}),
                "Required spec.defaultBackend: Required value: port name or number is required"),
            (json!({"rules": [{"host": "10.0.0.1"}]}), "Invalid spec.rules[0].host"),
            (json!({"rules": [{"host": "a.*"}]}), "Invalid spec.rules[0].host"),
            (json!({"rules": [{"http": {"paths": []}}]}), "Required spec.rules[0].http.paths"),
            (path(json!({"backend": service()})), "Required spec.rules[0].http.paths[0].pathType"),
            (path(json!({"pathType": "Glob", "backend": service()})),
                "NotSupported spec.rules[0].http.paths[0].pathType"),
            (path(json!({"pathType": "Prefix", "path": "a", "backend": service()})),
                "Invalid spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an \
                 absolute path"),
            (path(json!({"pathType": "Exact", "path": "/a/..", "backend": service()})),
                "Invalid spec.rules[0].http.paths[0].path: Invalid value: \"/a/..\": cannot end \
                 with '/..'"),
            (path(json!({"pathType": "Exact", "path": "/", "backend": {"resource": {"name": "x"}}})),
                "Required spec.rules[0].http.paths[0].backend.resource.kind"),
        ] {
            let found = found(&INGRESS, &ingress(spec), None);
            assert_eq!(found.len(), 1, "{start}: {found:?}");
            assert!(found[0].starts_with(start), "{start}: {found:?}");
        }
    }
}
