//! Validation of what a kubelet does to a container that runs: probes and lifecycle hooks.

use serde_json::Value;

use super::{Causes, items, names, text};

/// Checks the probes of a container at its field's path.
pub fn probes(causes: &mut Causes, container: &Value, grace: Option<i64>, field: &str) {
    for which in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let value = &container[which];
        if !value.is_null() {
            probe(causes, value, grace, &format!("{field}.{which}"), which);
        }
    }
}

fn probe(causes: &mut Causes, probe: &Value, grace: Option<i64>, field: &str, which: &str) {
    handler(causes, probe, field, &["exec", "httpGet", "tcpSocket", "grpc"], grace);
    for part in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        causes.not_negative(&format!("{field}.{part}"), &probe[part]);
    }
    let own = &probe["terminationGracePeriodSeconds"];
    let own_at = format!("{field}.terminationGracePeriodSeconds");
    if own.as_i64().is_some_and(|seconds| seconds <= 0) {
        causes.invalid(&own_at, own.clone(), "must be greater than 0");
    }
    if which == "readinessProbe" {
        if !own.is_null() {
            causes.invalid(&own_at, own.clone(), "must not be set for readinessProbes");
        }
    } else if probe["successThreshold"].as_i64().is_some_and(|threshold| threshold != 1) {
        let value = probe["successThreshold"].clone();
        causes.invalid(&format!("{field}.successThreshold"), value, "must be 1");
    }
}

/// Checks the hooks of a container at its field's path.
pub fn lifecycle(causes: &mut Causes, container: &Value, grace: Option<i64>, field: &str) {
    for hook in ["postStart", "preStop"] {
        let value = &container["lifecycle"][hook];
        if !value.is_null() {
            let field = format!("{field}.lifecycle.{hook}");
            handler(causes, value, &field, &["exec", "httpGet", "tcpSocket", "sleep"], grace);
        }
    }
}

/// Checks that there is exactly one handler, and the handler.
fn handler(causes: &mut Causes, value: &Value, field: &str, kinds: &[&str], grace: Option<i64>) {
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
            "httpGet" => http_get(causes, handler, &field),
            "tcpSocket" => port_or_name(causes, &handler["port"], &format!("{field}.port")),
            "grpc" => {
                let number = handler["port"].as_i64().unwrap_or_default();
                causes.port(&format!("{field}.port"), number);
            }
            "sleep" => sleep(causes, handler, grace, &field),
            _ => {}
        }
    }
    if found == 0 {
        causes.required(field, "must specify a handler type");
    }
}

fn http_get(causes: &mut Causes, get: &Value, field: &str) {
    if text(&get["path"]).is_empty() {
        causes.required(&format!("{field}.path"), "");
    }
    port_or_name(causes, &get["port"], &format!("{field}.port"));
    let scheme = text(&get["scheme"]);
    if !["HTTP", "HTTPS"].contains(&scheme) {
        causes.not_supported(&format!("{field}.scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for (_, header) in items(&get["httpHeaders"]) {
        causes.name(&format!("{field}.httpHeaders"), text(&header["name"]), names::http_header);
    }
}

/// A sleep must end before the pod's time does.
fn sleep(causes: &mut Causes, sleep: &Value, grace: Option<i64>, field: &str) {
    let Some(grace) = grace else { return };
    let seconds = sleep["seconds"].as_i64().unwrap_or_default();
    if seconds < 0 || seconds > grace {
        let why =
            format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        causes.invalid(field, seconds, &why);
    }
}

/// Checks a port that is a number or the name of one.
pub fn port_or_name(causes: &mut Causes, port: &Value, field: &str) {
    match port {
        Value::String(name) => causes.name(field, name, names::port_name),
        other => causes.port(field, other.as_i64().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::lines;
    use super::*;

    /// Checks that each container of a list is complained of once, so, or not at all.
    fn check(cases: impl IntoIterator<Item = (Value, Option<&'static str>)>) {
        for (container, start) in cases {
            let mut causes = Causes::new();
            probes(&mut causes, &container, Some(30), "c");
            lifecycle(&mut causes, &container, Some(30), "c");
            let found = lines(&causes.into_list());
            assert_eq!(found.len(), usize::from(start.is_some()), "{container}: {found:?}");
            assert!(
                found.iter().zip(start).all(|(line, start)| line.starts_with(start)),
                "{found:?}"
            );
        }
    }

    #[test]
    fn probes_are_checked() {
        let liveness = |rest: Value| {
            let mut probe = json!({"exec": {"command": ["true"]}});
            probe.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            json!({"livenessProbe": probe})
        };
        check([
            (
                json!({"readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}}}),
                None,
            ),
            (liveness(json!({"periodSeconds": 5})), None),
            (
                json!({"livenessProbe": {}}),
                Some("Required c.livenessProbe: Required value: must specify a handler type"),
            ),
            (
                liveness(json!({"tcpSocket": {"port": 1}})),
                Some("Forbidden c.livenessProbe.tcpSocket"),
            ),
            (
                liveness(json!({"successThreshold": 2})),
                Some("Invalid c.livenessProbe.successThreshold"),
            ),
            (liveness(json!({"periodSeconds": -1})), Some("Invalid c.livenessProbe.periodSeconds")),
            (
                json!({"readinessProbe": {"exec": {"command": ["x"]},
                    "terminationGracePeriodSeconds": 5}}),
                Some(
                    "Invalid c.readinessProbe.terminationGracePeriodSeconds: Invalid value: 5: must \
                     not be set for readinessProbes",
                ),
            ),
            (
                json!({"startupProbe": {"httpGet": {"port": "Web", "path": "/", "scheme": "HTTP"}}}),
                Some("Invalid c.startupProbe.httpGet.port"),
            ),
            (
                json!({"startupProbe": {"httpGet": {"port": 1, "path": "/", "scheme": "HTTP",
                    "httpHeaders": [{"name": "a b"}]}}}),
                Some(
                    "Invalid c.startupProbe.httpGet.httpHeaders: Invalid value: \"a b\": a valid HTTP \
                     header must consist of",
                ),
            ),
            (
                json!({"livenessProbe": {"grpc": {"port": 0}}}),
                Some("Invalid c.livenessProbe.grpc.port"),
            ),
        ]);
    }

    #[test]
    fn hooks_are_checked() {
        check([
            (json!({"lifecycle": {"preStop": {"sleep": {"seconds": 30}}}}), None),
            (
                json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}}),
                Some(
                    "Invalid c.lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and \
                     less than terminationGracePeriodSeconds (30)",
                ),
            ),
            (
                json!({"lifecycle": {"postStart": {"exec": {}}}}),
                Some("Required c.lifecycle.postStart.exec.command"),
            ),
        ]);
    }
}
