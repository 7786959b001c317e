//! Validation of the containers of a pod: main, init and ephemeral ones.

use std::collections::BTreeSet;

use serde_json::Value;

use super::volumes::{self, Volumes};
use super::{Causes, env, handlers, items, names, pod_spec::Of, resources, security, text};

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const MESSAGE_POLICIES: &[&str] = &["File", "FallbackToLogsOnError"];
/// What an ephemeral container may have.
const EPHEMERAL: &[&str] = &[
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "envFrom",
    "env",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "targetContainerName",
];

/// What containers are checked against.
struct Pod<'v> {
    spec: &'v Value,
    of: Of<'v>,
    volumes: &'v Volumes<'v>,
    claims: BTreeSet<&'v str>,
    grace: Option<i64>,
}

/// Checks every container of a pod's spec at the spec's path.
pub fn validate(causes: &mut Causes, spec: &Value, volumes: &Volumes<'_>, of: Of<'_>, field: &str) {
    let claims = items(&spec["resourceClaims"]).map(|(_, claim)| text(&claim["name"]));
    let claims = claims.filter(|name| !name.is_empty()).collect();
    let grace = spec["terminationGracePeriodSeconds"].as_i64();
    let pod = Pod { spec, of, volumes, claims, grace };
    let mut seen = BTreeSet::new();
    main(causes, &pod, &mut seen, &format!("{field}.containers"));
    init(causes, &pod, &mut seen, &format!("{field}.initContainers"));
    ephemeral(causes, &pod, &mut seen, &format!("{field}.ephemeralContainers"));
}

fn main<'v>(causes: &mut Causes, pod: &Pod<'v>, seen: &mut BTreeSet<&'v str>, list: &str) {
    let containers = &pod.spec["containers"];
    if items(containers).next().is_none() {
        causes.required(list, "");
    }
    let mut host_ports = BTreeSet::new();
    for (index, container) in items(containers) {
        let field = format!("{list}[{index}]");
        common(causes, pod, container, &field);
        unique(causes, seen, container, &field);
        handlers::lifecycle(causes, container, pod.grace, &field);
        handlers::probes(causes, container, pod.grace, &field);
        if !container["restartPolicy"].is_null() {
            let why = "may not be set for non-init containers";
            causes.forbidden(&format!("{field}.restartPolicy"), why);
        }
        host_port_conflicts(causes, container, &mut host_ports, &field);
        if pod.spec["hostNetwork"] == true {
            same_host_ports(causes, container, pod.of, &field);
        }
    }
}

fn init<'v>(causes: &mut Causes, pod: &Pod<'v>, seen: &mut BTreeSet<&'v str>, list: &str) {
    for (index, container) in items(&pod.spec["initContainers"]) {
        let field = format!("{list}[{index}]");
        common(causes, pod, container, &field);
        let is_sidecar = match container["restartPolicy"].as_str() {
            None => false,
            Some("Always") => true,
            Some(other) => {
                causes.not_supported(&format!("{field}.restartPolicy"), other, &["Always"]);
                false
            }
        };
        unique(causes, seen, container, &field);
        // They run one by one, so their ports cannot meet.
        host_port_conflicts(causes, container, &mut BTreeSet::new(), &field);
        if is_sidecar {
            handlers::lifecycle(causes, container, pod.grace, &field);
            handlers::probes(causes, container, pod.grace, &field);
            continue;
        }
        for part in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if !container[part].is_null() {
                causes.forbidden(
                    &format!("{field}.{part}"),
                    "may not be set for init containers without restartPolicy=Always",
                );
            }
        }
        if items(&container["resizePolicy"]).next().is_some() {
            let value = container["resizePolicy"].clone();
            let why = "must not be set for init containers";
            causes.invalid(&format!("{field}.resizePolicy"), value, why);
        }
    }
}

fn ephemeral<'v>(causes: &mut Causes, pod: &Pod<'v>, seen: &mut BTreeSet<&'v str>, list: &str) {
    const FORBIDDEN: &str = "cannot be set for an Ephemeral Container";
    let targets = seen.clone();
    for (index, container) in items(&pod.spec["ephemeralContainers"]) {
        let field = format!("{list}[{index}]");
        common(causes, pod, container, &field);
        if pod.of == Of::Template {
            padded_image(causes, container, &field);
        }
        unique(causes, seen, container, &field);
        let target = text(&container["targetContainerName"]);
        if !target.is_empty() && !targets.contains(target) {
            causes.not_found(&format!("{field}.targetContainerName"), target);
        }
        for (part, value) in container.as_object().into_iter().flatten() {
            if !EPHEMERAL.contains(&part.as_str()) && !is_empty(value) {
                causes.forbidden(&format!("{field}.{part}"), FORBIDDEN);
            }
        }
        for (index, mount) in items(&container["volumeMounts"]) {
            for part in ["subPath", "subPathExpr"] {
                if !text(&mount[part]).is_empty() {
                    causes.forbidden(&format!("{field}.volumeMounts[{index}].{part}"), FORBIDDEN);
                }
            }
        }
    }
}

/// Whether a value is what a Go struct holds when nothing was given.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn unique<'v>(
    causes: &mut Causes,
    seen: &mut BTreeSet<&'v str>,
    container: &'v Value,
    field: &str,
) {
    let name = text(&container["name"]);
    if !name.is_empty() && !seen.insert(name) {
        causes.duplicate(&format!("{field}.name"), name);
    }
}

fn padded_image(causes: &mut Causes, container: &Value, field: &str) {
    let image = text(&container["image"]);
    if image.trim() != image {
        let why = "must not have leading or trailing whitespace";
        causes.invalid(&format!("{field}.image"), image, why);
    }
}

/// What holds for every kind of container.
fn common(causes: &mut Causes, pod: &Pod<'_>, container: &Value, field: &str) {
    let at = |part: &str| format!("{field}.{part}");
    causes.required_name(&at("name"), text(&container["name"]), names::dns_label);
    if text(&container["image"]).is_empty() {
        causes.required(&at("image"), "");
    }
    if pod.of != Of::Template {
        padded_image(causes, container, field);
    }
    let policy = text(&container["terminationMessagePolicy"]);
    causes.one_of(&at("terminationMessagePolicy"), policy, MESSAGE_POLICIES);
    ports(causes, &container["ports"], &at("ports"));
    env::env(causes, &container["env"], &at("env"));
    env::env_from(causes, &container["envFrom"], &at("envFrom"));
    volumes::uses(causes, container, pod.volumes, field);
    causes.one_of(&at("imagePullPolicy"), text(&container["imagePullPolicy"]), PULL_POLICIES);
    resources::validate(causes, &container["resources"], &pod.claims, &at("resources"));
    resize_policy(causes, container, pod.spec, &at("resizePolicy"));
    let own_users = pod.spec["hostUsers"] == false;
    let context = &container["securityContext"];
    security::container(causes, context, own_users, &at("securityContext"));
}

fn ports(causes: &mut Causes, ports: &Value, field: &str) {
    let mut port_names = BTreeSet::new();
    for (index, port) in items(ports) {
        let field = format!("{field}[{index}]");
        let name = text(&port["name"]);
        if !name.is_empty() {
            let before = causes.count();
            causes.name(&format!("{field}.name"), name, names::port_name);
            if causes.count() == before && !port_names.insert(name) {
                causes.duplicate(&format!("{field}.name"), name);
            }
        }
        match port["containerPort"].as_i64().unwrap_or_default() {
            0 => causes.required(&format!("{field}.containerPort"), ""),
            number => causes.port(&format!("{field}.containerPort"), number),
        }
        if let Some(host) = port["hostPort"].as_i64().filter(|host| *host != 0) {
            causes.port(&format!("{field}.hostPort"), host);
        }
        causes.one_of(&format!("{field}.protocol"), text(&port["protocol"]), PROTOCOLS);
    }
}

fn host_port_conflicts(
    causes: &mut Causes,
    container: &Value,
    seen: &mut BTreeSet<String>,
    field: &str,
) {
    for (index, port) in items(&container["ports"]) {
        let Some(host) = port["hostPort"].as_i64().filter(|host| *host != 0) else { continue };
        let place = format!("{}/{}/{host}", text(&port["protocol"]), text(&port["hostIP"]));
        if !seen.insert(place.clone()) {
            causes.duplicate(&format!("{field}.ports[{index}].hostPort"), place);
        }
    }
}

/// On the host's network a port is the host's; in a template it may be left to the pod's defaults.
fn same_host_ports(causes: &mut Causes, container: &Value, of: Of<'_>, field: &str) {
    for (index, port) in items(&container["ports"]) {
        let number = |part: &str| port[part].as_i64().unwrap_or_default();
        let (host, own) = (number("hostPort"), number("containerPort"));
        if host != own && (of != Of::Template || host != 0) {
            causes.invalid(
                &format!("{field}.ports[{index}].hostPort"),
                host,
                "must match `containerPort` when `hostNetwork` is true",
            );
        }
    }
}

fn resize_policy(causes: &mut Causes, container: &Value, spec: &Value, field: &str) {
    let mut seen = BTreeSet::new();
    for (index, policy) in items(&container["resizePolicy"]) {
        let (resource, restart) = (text(&policy["resourceName"]), text(&policy["restartPolicy"]));
        if !seen.insert(resource) {
            causes.duplicate(&format!("{field}[{index}]"), resource);
        }
        causes.one_of(field, resource, &["cpu", "memory"]);
        causes.one_of(field, restart, &["NotRequired", "RestartContainer"]);
        if spec["restartPolicy"] == "Never" && restart != "NotRequired" {
            let why = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            causes.invalid(field, restart, why);
        }
    }
}
