//! Validation of a pod's spec, on its own or in a workload's template.

use std::collections::BTreeSet;

use serde_json::Value;

pub use super::handlers::port_or_name;
use super::{
    Causes, containers, items, metadata, names, resources, scheduling, security, text, volumes,
};

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_BYTES_MAX: usize = 2048;

/// Whose spec is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of<'n> {
    /// A pod's, with the pod's name.
    Pod(&'n str),
    /// A template's.
    Template,
}

/// Checks a pod's spec at a field's path, such as `spec` or `spec.template.spec`.
pub fn validate(causes: &mut Causes, spec: &Value, field: &str, of: Of<'_>) {
    let at = |part: &str| format!("{field}.{part}");
    let name = if let Of::Pod(name) = of { name } else { "" };
    let volumes = volumes::validate(causes, &spec["volumes"], name, &at("volumes"));
    resource_claims(causes, &spec["resourceClaims"], &at("resourceClaims"));
    containers::validate(causes, spec, &volumes, of, field);
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
    metadata::labels(causes, &spec["nodeSelector"], &at("nodeSelector"));
    security::pod(causes, spec, &at("securityContext"));
    scheduling::affinity(causes, &spec["affinity"], &at("affinity"));
    dns(causes, spec, &at("dnsConfig"));
    for (index, gate) in items(&spec["readinessGates"]) {
        let field = format!("{}[{index}].conditionType", at("readinessGates"));
        causes.name(&field, text(&gate["conditionType"]), names::qualified_name);
    }
    scheduling_gates(causes, &spec["schedulingGates"], &at("schedulingGates"));
    let spread = at("topologySpreadConstraints");
    scheduling::spread(causes, &spec["topologySpreadConstraints"], &spread);
    host_users(causes, spec, field);
    the_rest(causes, spec, field);
    if matches!(of, Of::Pod(_)) && text(&spec["serviceAccountName"]).is_empty() {
        tokens_need_an_account(causes, &spec["volumes"], &at("volumes"));
    }
}

/// The fields that stand on their own.
fn the_rest(causes: &mut Causes, spec: &Value, field: &str) {
    let at = |part: &str| format!("{field}.{part}");
    for (part, rule) in [
        ("serviceAccountName", names::dns_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", names::dns_subdomain),
    ] {
        optional_name(causes, &spec[part], rule, &at(part));
    }
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        causes.invalid(
            &at("activeDeadlineSeconds"),
            seconds,
            "must be between 1 and 2147483647, inclusive",
        );
    }
    for part in ["hostname", "subdomain"] {
        optional_name(causes, &spec[part], names::dns_label, &at(part));
    }
    scheduling::tolerations(causes, &spec["tolerations"], &at("tolerations"));
    for (index, alias) in items(&spec["hostAliases"]) {
        let field = format!("{}[{index}]", at("hostAliases"));
        causes.ip(&format!("{field}.ip"), text(&alias["ip"]));
        for (index, name) in items(&alias["hostnames"]) {
            let field = format!("{field}.hostnames[{index}]");
            causes.name(&field, text(name), names::dns_subdomain);
        }
    }
    for part in ["priorityClassName", "runtimeClassName"] {
        optional_name(causes, &spec[part], names::dns_subdomain, &at(part));
    }
    if let Some(policy) = spec["preemptionPolicy"].as_str() {
        causes.one_of(&at("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    }
    for (name, amount) in spec["overhead"].as_object().into_iter().flatten() {
        let field = format!("{}.limits[{name}]", at("overhead"));
        resources::container_resource_name(causes, name, &field);
        resources::amount(causes, name, amount, &field);
    }
    if !spec["os"].is_null() {
        match text(&spec["os"]["name"]) {
            "" => causes.required(&at("os.name"), "cannot be empty"),
            "linux" | "windows" => {}
            other => causes.not_supported(&at("os"), other, &["linux", "windows"]),
        }
    }
}

fn optional_name(causes: &mut Causes, value: &Value, rule: fn(&str) -> Vec<String>, field: &str) {
    if !text(value).is_empty() {
        causes.name(field, text(value), rule);
    }
}

fn resource_claims(causes: &mut Causes, claims: &Value, list: &str) {
    let mut seen = BTreeSet::new();
    for (index, claim) in items(claims) {
        let field = format!("{list}[{index}]");
        let name = text(&claim["name"]);
        if !name.is_empty() && !seen.insert(name) {
            causes.duplicate(&format!("{field}.name"), name);
        } else {
            causes.required_name(&format!("{field}.name"), name, names::dns_label);
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        match sources.iter().filter(|part| !claim[**part].is_null()).count() {
            0 => causes.invalid(
                &field,
                claim.clone(),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            1 => {}
            _ => causes.invalid(
                &field,
                claim.clone(),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be \
                 specified",
            ),
        }
        for part in sources {
            if !claim[part].is_null() {
                let field = format!("{field}.{part}");
                causes.name(&field, text(&claim[part]), names::dns_subdomain);
            }
        }
    }
}

fn dns(causes: &mut Causes, spec: &Value, field: &str) {
    let config = &spec["dnsConfig"];
    let nameservers = items(&config["nameservers"]).count();
    let nameservers_at = format!("{field}.nameservers");
    if spec["dnsPolicy"] == "None" {
        if config.is_null() {
            causes.required(field, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if nameservers == 0 {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            causes.required(&nameservers_at, why);
            return;
        }
    }
    if nameservers > NAMESERVERS_MAX {
        let why = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        causes.invalid(&nameservers_at, config["nameservers"].clone(), &why);
    }
    for (index, address) in items(&config["nameservers"]) {
        causes.ip(&format!("{nameservers_at}[{index}]"), text(address));
    }
    let searches: Vec<&str> = items(&config["searches"]).map(|(_, one)| text(one)).collect();
    let searches_at = format!("{field}.searches");
    let mut wrong = |why: String| causes.invalid(&searches_at, config["searches"].clone(), &why);
    if searches.len() > SEARCHES_MAX {
        wrong(format!("must not have more than {SEARCHES_MAX} search paths"));
    }
    if searches.join(" ").len() > SEARCH_BYTES_MAX {
        wrong(format!(
            "must not have more than {SEARCH_BYTES_MAX} characters (including spaces) in the \
             search list"
        ));
    }
    for (index, search) in searches.iter().enumerate() {
        // A dot alone, or at the end, means the root.
        let search = search.strip_suffix('.').unwrap_or(search);
        if !search.is_empty() {
            causes.name(&format!("{searches_at}[{index}]"), search, names::dns_subdomain);
        }
    }
    for (index, option) in items(&config["options"]) {
        if text(&option["name"]).is_empty() {
            causes.required(&format!("{field}.options[{index}]"), "must not be empty");
        }
    }
}

fn scheduling_gates(causes: &mut Causes, gates: &Value, list: &str) {
    let mut seen = BTreeSet::new();
    for (index, gate) in items(gates) {
        let (field, name) = (format!("{list}[{index}]"), text(&gate["name"]));
        causes.name(&field, name, names::qualified_name);
        if !seen.insert(name) {
            causes.duplicate(&field, name);
        }
    }
}

/// Users of its own do not go with the host's other namespaces.
fn host_users(causes: &mut Causes, spec: &Value, field: &str) {
    if spec["hostUsers"] != false {
        return;
    }
    for (part, shown) in
        [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")]
    {
        if spec[part] == true {
            causes.forbidden(&format!("{field}.{shown}"), "when `hostUsers` is false");
        }
    }
}

fn tokens_need_an_account(causes: &mut Causes, volumes: &Value, list: &str) {
    for (index, volume) in items(volumes) {
        for (at, source) in items(&volume["projected"]["sources"]) {
            if !source["serviceAccountToken"].is_null() {
                causes.forbidden(
                    &format!("{list}[{index}].projected.sources[{at}].serviceAccountToken"),
                    "must not be specified when serviceAccountName is not set",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::lines;
    use super::*;

    fn found_of(change: impl FnOnce(&mut Value), of: Of<'_>) -> Vec<String> {
        let mut pod = json!({"spec": {"containers": [{"name": "app", "image": "nginx"}]}});
        change(&mut pod["spec"]);
        crate::defaulting::pod_spec(&mut pod["spec"]);
        let mut causes = Causes::new();
        validate(&mut causes, &pod["spec"], "spec", of);
        lines(&causes.into_list())
    }

    fn found(change: impl FnOnce(&mut Value)) -> Vec<String> {
        found_of(change, Of::Pod("web"))
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
            (
                |s| {
                    s["hostNetwork"] = true.into();
                    s["containers"][0]["ports"] = json!([{"hostPort": 1, "containerPort": 2}]);
                },
                "Invalid spec.containers[0].ports[0].hostPort: Invalid value: 1: must match",
            ),
            (
                |s| {
                    s["containers"][0]["resizePolicy"] =
                        json!([{"resourceName": "gpu", "restartPolicy": "NotRequired"}])
                },
                "NotSupported spec.containers[0].resizePolicy",
            ),
        ]);
    }

    #[test]
    fn wrong_init_and_ephemeral_containers_are_named() {
        assert_named(&[
            (
                |s| {
                    s["initContainers"] = json!([{"name": "i", "image": "x",
                "readinessProbe": {"tcpSocket": {"port": 1}}}])
                },
                "Forbidden spec.initContainers[0].readinessProbe",
            ),
            (
                |s| {
                    s["initContainers"] =
                        json!([{"name": "i", "image": "x", "restartPolicy": "Never"}])
                },
                "NotSupported spec.initContainers[0].restartPolicy",
            ),
            (
                |s| s["initContainers"] = json!([{"name": "app", "image": "x"}]),
                "Duplicate spec.initContainers[0].name",
            ),
            (
                |s| {
                    s["ephemeralContainers"] =
                        json!([{"name": "d", "image": "x", "targetContainerName": "other"}])
                },
                "NotFound spec.ephemeralContainers[0].targetContainerName: Not found: \"other\"",
            ),
            (
                |s| {
                    s["ephemeralContainers"] =
                        json!([{"name": "d", "image": "x", "ports": [{"containerPort": 1}]}])
                },
                "Forbidden spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an \
                 Ephemeral Container",
            ),
        ]);
    }

    #[test]
    fn wrong_pods_are_named() {
        assert_named(&[
            (
                |s| s["containers"][0]["livenessProbe"] = json!({}),
                "Required spec.containers[0].livenessProbe: Required value: must specify a handler",
            ),
            (
                |s| s["containers"][0]["env"] = json!([{"value": "x"}]),
                "Required spec.containers[0].env[0].name",
            ),
            (|s| s["activeDeadlineSeconds"] = 0.into(), "Invalid spec.activeDeadlineSeconds"),
            (|s| s["nodeSelector"] = json!({"a b": "c"}), "Invalid spec.nodeSelector"),
            (
                |s| s["containers"][0]["volumeMounts"] = json!([{"name": "x", "mountPath": "/x"}]),
                "NotFound spec.containers[0].volumeMounts[0].name: Not found: \"x\"",
            ),
            (|s| s["hostname"] = "a.b".into(), "Invalid spec.hostname"),
            (|s| s["subdomain"] = "A".into(), "Invalid spec.subdomain"),
            (
                |s| s["schedulingGates"] = json!([{"name": "a"}, {"name": "a"}]),
                "Duplicate spec.schedulingGates[1]",
            ),
            (
                |s| s["readinessGates"] = json!([{"conditionType": "a b"}]),
                "Invalid spec.readinessGates[0].conditionType",
            ),
            (
                |s| s["dnsPolicy"] = "None".into(),
                "Required spec.dnsConfig: Required value: must provide `dnsConfig` when",
            ),
            (
                |s| s["dnsConfig"] = json!({"nameservers": ["1.1.1.1", "x"]}),
                "Invalid spec.dnsConfig.nameservers[1]: Invalid value: \"x\": must be a valid IP",
            ),
            (
                |s| s["hostAliases"] = json!([{"ip": "1.2.3", "hostnames": ["a"]}]),
                "Invalid spec.hostAliases[0].ip",
            ),
            (|s| s["preemptionPolicy"] = "x".into(), "NotSupported spec.preemptionPolicy"),
            (|s| s["os"] = json!({"name": "plan9"}), "NotSupported spec.os"),
            (
                |s| {
                    s["hostUsers"] = false.into();
                    s["hostPID"] = true.into();
                },
                "Forbidden spec.HostPID: Forbidden: when `hostUsers` is false",
            ),
            (
                |s| {
                    s["volumes"] = json!([{"name": "t", "projected": {"sources": [
                        {"serviceAccountToken": {"path": "t"}}]}}])
                },
                "Forbidden spec.volumes[0].projected.sources[0].serviceAccountToken",
            ),
            (|s| s["resourceClaims"] = json!([{"name": "gpu"}]), "Invalid spec.resourceClaims[0]"),
        ]);
    }

    #[test]
    fn a_template_leaves_some_of_it_to_its_pods() {
        let change = |s: &mut Value| {
            s["hostNetwork"] = true.into();
            s["containers"][0]["ports"] = json!([{"containerPort": 80}]);
            s["containers"][0]["image"] = " nginx".into();
        };
        assert_eq!(found_of(change, Of::Template), [""; 0]);
        assert_eq!(found(change).len(), 2);
    }
}
