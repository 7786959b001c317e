//! Validation of a pod's spec, on its own or in a workload's template.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Causes, items, metadata, names, resources, scheduling, text, volumes};

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// Checks a pod's spec at a field's path, such as `spec` or `spec.template.spec`.
pub fn validate(causes: &mut Causes, spec: &Value, field: &str) {
    let at = |part: &str| format!("{field}.{part}");
    let volumes = volumes::validate(causes, &spec["volumes"], &at("volumes"));
    let mut seen = Seen::default();
    containers(causes, spec, field, &volumes, &mut seen);
    causes.one_of(
        &at("restartPolicy"),
        text(&spec["restartPolicy"]),
        &["Always", "OnFailure", "Never"],
    );
    causes.one_of(
        &at("dnsPolicy"),
        text(&spec["dnsPolicy"]),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        causes.invalid(
            &at("activeDeadlineSeconds"),
            seconds,
            "must be between 1 and 2147483647, inclusive",
        );
    }
    causes
        .not_negative(&at("terminationGracePeriodSeconds"), &spec["terminationGracePeriodSeconds"]);
    metadata::labels(causes, &spec["nodeSelector"], &at("nodeSelector"));
    for (part, rule) in [
        ("nodeName", names::dns_subdomain as fn(&str) -> Vec<String>),
        ("serviceAccountName", names::dns_subdomain),
        ("priorityClassName", names::dns_subdomain),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
        ("schedulerName", names::qualified_name),
    ] {
        let value = text(&spec[part]);
        if !value.is_empty() {
            causes.name(&at(part), value, rule);
        }
    }
    scheduling::tolerations(causes, &spec["tolerations"], &at("tolerations"));
    scheduling::affinity(causes, &spec["affinity"], &at("affinity"));
    let spread = at("topologySpreadConstraints");
    scheduling::spread(causes, &spec["topologySpreadConstraints"], &spread);
}

/// What must be unique among the containers of a pod.
#[derive(Default)]
struct Seen<'s> {
    names: BTreeSet<&'s str>,
    host_ports: BTreeSet<String>,
}

fn containers<'s>(
    causes: &mut Causes,
    spec: &'s Value,
    field: &str,
    volumes: &BTreeSet<&str>,
    seen: &mut Seen<'s>,
) {
    if items(&spec["containers"]).next().is_none() {
        causes.required(&format!("{field}.containers"), "");
    }
    let host_network = spec["hostNetwork"] == true;
    for list in ["containers", "initContainers"] {
        for (index, container) in items(&spec[list]) {
            let field = format!("{field}.{list}[{index}]");
            let name = text(&container["name"]);
            causes.required_name(&format!("{field}.name"), name, names::dns_label);
            if !name.is_empty() && !seen.names.insert(name) {
                causes.duplicate(&format!("{field}.name"), name);
            }
            validate_container(causes, container, &field);
            volumes::mounts(
                causes,
                &container["volumeMounts"],
                volumes,
                &format!("{field}.volumeMounts"),
            );
            let init = list == "initContainers";
            if !init || container["restartPolicy"] == "Always" {
                ports(causes, &container["ports"], &format!("{field}.ports"), seen, host_network);
            }
            if init {
                init_container(causes, container, &field);
            } else if !container["restartPolicy"].is_null() {
                causes.forbidden(
                    &format!("{field}.restartPolicy"),
                    "may not be set for non-init containers",
                );
            }
        }
    }
}

fn init_container(causes: &mut Causes, container: &Value, field: &str) {
    let sidecar = match text(&container["restartPolicy"]) {
        "" => false,
        "Always" => true,
        other => {
            causes.not_supported(&format!("{field}.restartPolicy"), other, &["Always"]);
            false
        }
    };
    for part in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if !sidecar && !container[part].is_null() {
            causes.forbidden(
                &format!("{field}.{part}"),
                "may not be set for init containers without restartPolicy=Always",
            );
        }
    }
}

fn validate_container(causes: &mut Causes, container: &Value, field: &str) {
    let at = |part: &str| format!("{field}.{part}");
    let image = text(&container["image"]);
    if image.is_empty() {
        causes.required(&at("image"), "");
    } else if image.trim() != image {
        causes.invalid(&at("image"), image, "must not have leading or trailing whitespace");
    }
    causes.one_of(&at("imagePullPolicy"), text(&container["imagePullPolicy"]), PULL_POLICIES);
    causes.one_of(
        &at("terminationMessagePolicy"),
        text(&container["terminationMessagePolicy"]),
        &["File", "FallbackToLogsOnError"],
    );
    env(causes, &container["env"], &at("env"));
    resources::validate(causes, &container["resources"], &at("resources"));
    for (part, once) in [("livenessProbe", true), ("readinessProbe", false), ("startupProbe", true)]
    {
        probe(causes, &container[part], &at(part), once);
    }
    for hook in ["postStart", "preStop"] {
        let value = &container["lifecycle"][hook];
        if !value.is_null() {
            handler(
                causes,
                value,
                &format!("{field}.lifecycle.{hook}"),
                &["exec", "httpGet", "tcpSocket", "sleep"],
            );
        }
    }
}

fn env(causes: &mut Causes, env: &Value, field: &str) {
    for (index, variable) in items(env) {
        let field = format!("{field}[{index}]");
        causes.required_name(&format!("{field}.name"), text(&variable["name"]), names::env_name);
        let from = &variable["valueFrom"];
        if from.is_null() {
            continue;
        }
        let field = format!("{field}.valueFrom");
        let sources =
            from.as_object().map_or(0, |map| map.values().filter(|v| !v.is_null()).count());
        if sources == 0 {
            causes.invalid(
                &field,
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or \
                 `secretKeyRef`",
            );
        } else if !text(&variable["value"]).is_empty() {
            causes.invalid(&field, "", "may not be specified when `value` is not empty");
        } else if sources > 1 {
            causes.invalid(&field, "", "may not have more than one field specified at a time");
        }
        for reference in ["configMapKeyRef", "secretKeyRef"] {
            if !from[reference].is_null() && text(&from[reference]["key"]).is_empty() {
                causes.required(&format!("{field}.{reference}.key"), "");
            }
        }
        if !from["fieldRef"].is_null() && text(&from["fieldRef"]["fieldPath"]).is_empty() {
            causes.required(&format!("{field}.fieldRef.fieldPath"), "");
        }
    }
}

fn ports(causes: &mut Causes, ports: &Value, field: &str, seen: &mut Seen<'_>, host_network: bool) {
    let mut port_names = BTreeSet::new();
    for (index, port) in items(ports) {
        let field = format!("{field}[{index}]");
        let name = text(&port["name"]);
        if !name.is_empty() {
            causes.name(&format!("{field}.name"), name, names::port_name);
            if !port_names.insert(name) {
                causes.duplicate(&format!("{field}.name"), name);
            }
        }
        let number = port["containerPort"].as_i64().unwrap_or_default();
        if number == 0 {
            causes.required(&format!("{field}.containerPort"), "");
        } else {
            causes.port(&format!("{field}.containerPort"), number);
        }
        let protocol = text(&port["protocol"]);
        causes.one_of(&format!("{field}.protocol"), protocol, PROTOCOLS);
        let Some(host) = port["hostPort"].as_i64().filter(|host| *host != 0) else { continue };
        causes.port(&format!("{field}.hostPort"), host);
        if host_network && host != number {
            causes.invalid(
                &format!("{field}.hostPort"),
                host,
                "must match `containerPort` when `hostNetwork` is true",
            );
        }
        let place = format!("{protocol}/{}/{host}", text(&port["hostIP"]));
        if !seen.host_ports.insert(place.clone()) {
            causes.duplicate(&format!("{field}.hostPort"), place);
        }
    }
}

fn probe(causes: &mut Causes, probe: &Value, field: &str, once: bool) {
    if probe.is_null() {
        return;
    }
    handler(causes, probe, field, &["exec", "httpGet", "tcpSocket", "grpc"]);
    for part in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        causes.not_negative(&format!("{field}.{part}"), &probe[part]);
    }
    if once && probe["successThreshold"].as_i64().is_some_and(|threshold| threshold != 1) {
        causes.invalid(
            &format!("{field}.successThreshold"),
            probe["successThreshold"].clone(),
            "must be 1",
        );
    }
    if probe["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds <= 0) {
        causes.invalid(
            &format!("{field}.terminationGracePeriodSeconds"),
            probe["terminationGracePeriodSeconds"].clone(),
            "must be greater than 0",
        );
    }
}

/// Checks that there is exactly one handler, and the handler.
fn handler(causes: &mut Causes, value: &Value, field: &str, kinds: &[&str]) {
    let mut found = 0;
    for kind in kinds.iter().filter(|kind| !value[**kind].is_null()) {
        found += 1;
        let field = format!("{field}.{kind}");
        if found > 1 {
            causes.forbidden(&field, "may not specify more than 1 handler type");
            continue;
        }
        let handler = &value[*kind];
        match *kind {
            "exec" if items(&handler["command"]).next().is_none() => {
                causes.required(&format!("{field}.command"), "");
            }
            "httpGet" => {
                if text(&handler["path"]).is_empty() {
                    causes.required(&format!("{field}.path"), "");
                }
                port_or_name(causes, &handler["port"], &format!("{field}.port"));
                causes.one_of(
                    &format!("{field}.scheme"),
                    text(&handler["scheme"]),
                    &["HTTP", "HTTPS"],
                );
            }
            "tcpSocket" => port_or_name(causes, &handler["port"], &format!("{field}.port")),
            "grpc" => {
                let number = handler["port"].as_i64().unwrap_or_default();
                causes.port(&format!("{field}.port"), number);
            }
            _ => {}
        }
    }
    if found == 0 {
        causes.required(field, "must specify a handler type");
    }
}

/// Checks a port that is a number or the name of one.
pub fn port_or_name(causes: &mut Causes, port: &Value, field: &str) {
    match port {
        Value::String(name) if name.is_empty() => causes.required(field, ""),
        Value::String(name) => causes.name(field, name, names::port_name),
        other => causes.port(field, other.as_i64().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::lines;
    use super::*;

    fn found(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut pod = json!({"spec": {"containers": [{"name": "app", "image": "nginx"}]}});
        change(&mut pod["spec"]);
        crate::defaulting::pod_spec(&mut pod["spec"]);
        let mut causes = Causes::new();
        validate(&mut causes, &pod["spec"], "spec");
        lines(&causes.into_list())
    }

    #[test]
    fn a_small_pod_passes() {
        assert_eq!(found(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn containers_are_needed() {
        for value in [json!([]), Value::Null] {
            let found = found(|spec| spec["containers"] = value);
            assert_eq!(found, ["Required spec.containers: Required value"]);
        }
    }

    type Change = fn(&mut Value);

    fn assert_named(cases: &[(Change, &str)]) {
        for (change, start) in cases {
            let found = found(change);
            assert_eq!(found.len(), 1, "{start}: {found:?}");
            assert!(found[0].starts_with(start), "{start}: {found:?}");
        }
    }

    #[test]
    fn wrong_containers_are_named() {
        assert_named(&[
            (
                |s| s["containers"][0]["name"] = "App".into(),
                "Invalid spec.containers[0].name: Invalid value: \"App\"",
            ),
            (|s| s["containers"][0]["name"] = "".into(), "Required spec.containers[0].name"),
            (
                |s| s["containers"][0]["image"] = "".into(),
                "Required spec.containers[0].image: Required value",
            ),
            (|s| s["containers"][0]["image"] = " a".into(), "Invalid spec.containers[0].image"),
            (
                |s| {
                    s["containers"] =
                        json!([{"name": "a", "image": "x"}, {"name": "a", "image": "x"}])
                },
                "Duplicate spec.containers[1].name: Duplicate value: \"a\"",
            ),
            (
                |s| s["restartPolicy"] = "Sometimes".into(),
                "NotSupported spec.restartPolicy: Unsupported value: \"Sometimes\": supported \
                 values: \"Always\", \"OnFailure\", \"Never\"",
            ),
            (
                |s| s["containers"][0]["imagePullPolicy"] = "x".into(),
                "NotSupported spec.containers[0].imagePullPolicy",
            ),
            (
                |s| s["containers"][0]["ports"] = json!([{"containerPort": 70000}]),
                "Invalid spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be \
                 between 1 and 65535, inclusive",
            ),
            (
                |s| {
                    s["containers"][0]["ports"] = json!([{"name": "web", "containerPort": 1},
                {"name": "web", "containerPort": 2}])
                },
                "Duplicate spec.containers[0].ports[1].name",
            ),
            (
                |s| {
                    s["containers"][0]["ports"] = json!([{"hostPort": 1, "containerPort": 1},
                {"hostPort": 1, "containerPort": 2}])
                },
                "Duplicate spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//1\"",
            ),
        ]);
    }

    #[test]
    fn wrong_probes_and_pods_are_named() {
        assert_named(&[
            (
                |s| s["containers"][0]["livenessProbe"] = json!({}),
                "Required spec.containers[0].livenessProbe: Required value: must specify a handler",
            ),
            (
                |s| {
                    s["containers"][0]["livenessProbe"] = json!({"exec": {"command": ["x"]},
                "httpGet": {"port": 80}})
                },
                "Forbidden spec.containers[0].livenessProbe.httpGet",
            ),
            (
                |s| {
                    s["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": 80},
                "successThreshold": 2})
                },
                "Invalid spec.containers[0].livenessProbe.successThreshold",
            ),
            (
                |s| s["containers"][0]["readinessProbe"] = json!({"tcpSocket": {"port": "Web"}}),
                "Invalid spec.containers[0].readinessProbe.tcpSocket.port",
            ),
            (
                |s| s["containers"][0]["env"] = json!([{"value": "x"}]),
                "Required spec.containers[0].env[0].name",
            ),
            (
                |s| {
                    s["initContainers"] = json!([{"name": "i", "image": "x",
                "readinessProbe": {"tcpSocket": {"port": 1}}}])
                },
                "Forbidden spec.initContainers[0].readinessProbe",
            ),
            (
                |s| s["terminationGracePeriodSeconds"] = (-1).into(),
                "Invalid spec.terminationGracePeriodSeconds",
            ),
            (|s| s["activeDeadlineSeconds"] = 0.into(), "Invalid spec.activeDeadlineSeconds"),
            (|s| s["nodeSelector"] = json!({"a b": "c"}), "Invalid spec.nodeSelector"),
            (
                |s| s["containers"][0]["volumeMounts"] = json!([{"name": "x", "mountPath": "/x"}]),
                "NotFound spec.containers[0].volumeMounts[0].name: Not found: \"x\"",
            ),
        ]);
    }
}
