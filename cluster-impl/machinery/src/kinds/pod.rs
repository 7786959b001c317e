//! Pod.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Kind, NAME, Subresource, age, column, keep_status, or};
use crate::defaulting::{absent, part, pod_only, pod_spec};
use crate::pod::{is_finished, is_sidecar, qos_class};
use crate::validation::{
    Causes, is_new_spec, items, metadata, names, pod_spec as spec_rules, pod_update, status_change,
    text,
};
use crate::{Cause, Object, duration};

/// Pod.
pub static POD: Kind = Kind {
    id: "pods",
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    short_names: &["po"],
    categories: &["all"],
    namespaced: true,
    has_status: true,
    has_scale: false,
    subresources: &[
        Subresource {
            name: "attach",
            kind: "PodAttachOptions",
            group: "",
            verbs: &["create", "get"],
        },
        Subresource { name: "binding", kind: "Binding", group: "", verbs: &["create"] },
        Subresource {
            name: "ephemeralcontainers",
            kind: "Pod",
            group: "",
            verbs: &["get", "patch", "update"],
        },
        Subresource { name: "eviction", kind: "Eviction", group: "policy", verbs: &["create"] },
        Subresource { name: "exec", kind: "PodExecOptions", group: "", verbs: &["create", "get"] },
        Subresource { name: "log", kind: "Pod", group: "", verbs: &["get"] },
        Subresource {
            name: "portforward",
            kind: "PodPortForwardOptions",
            group: "",
            verbs: &["create", "get"],
        },
        Subresource {
            name: "proxy",
            kind: "PodProxyOptions",
            group: "",
            verbs: &["create", "delete", "get", "patch", "update"],
        },
        Subresource { name: "resize", kind: "Pod", group: "", verbs: &["get", "patch", "update"] },
    ],
    has_generation: true,
    selectable: &[
        ("spec.nodeName", "/spec/nodeName"),
        ("spec.restartPolicy", "/spec/restartPolicy"),
        ("spec.schedulerName", "/spec/schedulerName"),
        ("spec.serviceAccountName", "/spec/serviceAccountName"),
        ("spec.hostNetwork", "/spec/hostNetwork"),
        ("status.phase", "/status/phase"),
        ("status.podIP", "/status/podIP"),
        ("status.nominatedNodeName", "/status/nominatedNodeName"),
    ],
    default,
    prepare_create,
    prepare_update: keep_status,
    validate,
    columns: &[
        NAME,
        column("Ready", "string", 0),
        column("Status", "string", 0),
        column("Restarts", "string", 0),
        AGE,
        column("IP", "string", 1),
        column("Node", "string", 1),
        column("Nominated Node", "string", 1),
        column("Readiness Gates", "string", 1),
    ],
    cells,
    custom: None,
};

fn default(object: &mut Object) {
    if let Some(spec) = part(&mut object.0, "spec") {
        pod_spec(spec);
        pod_only(spec);
    }
    if let Some(status) = part(&mut object.0, "status") {
        absent(status, "phase", "Pending");
    }
}

/// The class of service is known once requests are defaulted from limits.
fn prepare_create(object: &mut Object) {
    let mut defaulted = object.clone();
    default(&mut defaulted);
    object.set("/status", json!({"phase": "Pending", "qosClass": qos_class(&defaulted)}));
    if !object.list("/spec/schedulingGates").is_empty() {
        object.set(
            "/status/conditions",
            json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates"}]),
        );
    }
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    let spec = &object.0["spec"];
    if is_new_spec(object, old) {
        spec_rules::validate(&mut causes, spec, "spec", spec_rules::Of::Pod(object.name()));
    }
    for part in ["ephemeralContainers", "nodeName"] {
        let gates = items(&spec["schedulingGates"]).next().is_some();
        if old.is_none() && part == "nodeName" && gates && !text(&spec[part]).is_empty() {
            causes.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared");
        }
        if old.is_none() && part == "ephemeralContainers" && items(&spec[part]).next().is_some() {
            causes.forbidden("spec.ephemeralContainers", "cannot be set on create");
        }
    }
    if let Some(old) = old {
        pod_update(&mut causes, object, old);
        status_update(&mut causes, object, old);
    }
    causes.into_list()
}

/// Checks a change of the status.
fn status_update(causes: &mut Causes, object: &Object, old: &Object) {
    let Some((new, before)) = status_change(object, Some(old)) else { return };
    for (index, condition) in items(&new["conditions"]) {
        let field = format!("metadata.conditions[{index}].Type");
        causes.name(&field, text(&condition["type"]), names::qualified_name);
    }
    let nominated = text(&new["nominatedNodeName"]);
    if nominated != text(&before["nominatedNodeName"]) && !nominated.is_empty() {
        causes.name("status.nominatedNodeName", nominated, names::dns_subdomain);
    }
    let policy = object.text("/spec/restartPolicy");
    let sidecars: Vec<&Value> =
        object.list("/spec/initContainers").iter().filter(|one| is_sidecar(one)).collect();
    for (list, policy) in [
        ("containerStatuses", policy),
        ("initContainerStatuses", policy),
        // Nobody starts them again.
        ("ephemeralContainerStatuses", "Never"),
    ] {
        for (index, ended) in items(&before[list]) {
            let exit = &ended["state"]["terminated"];
            let may_run_again = exit.is_null()
                || policy == "Always"
                || policy == "OnFailure" && exit["exitCode"] != 0
                || list == "initContainerStatuses"
                    && sidecars.iter().any(|one| one["name"] == ended["name"]);
            let runs_again = |now: &Value| {
                now["name"] == ended["name"] && now["state"]["terminated"].is_null()
            };
            if !may_run_again && items(&new[list]).any(|(_, now)| runs_again(now)) {
                let field = format!("status.{list}[{index}].state");
                causes.forbidden(&field, "may not be transitioned to non-terminated state");
            }
        }
    }
    addresses(causes, new);
}

/// Checks the addresses in a status: of each family at most one.
fn addresses(causes: &mut Causes, status: &Value) {
    let hosts = &status["hostIPs"];
    if items(hosts).next().is_some() && status["hostIP"] != hosts[0]["ip"] {
        causes.invalid("status.hostIPs[0].ip", text(&hosts[0]["ip"]), "must be equal to `hostIP`");
    }
    for list in ["podIPs", "hostIPs"] {
        let all: Vec<&str> = items(&status[list]).map(|(_, one)| text(&one["ip"])).collect();
        for (index, address) in all.iter().enumerate() {
            causes.ip(&format!("status.{list}[{index}]"), address);
        }
        let of_six = all.iter().filter(|address| address.contains(':')).count();
        if of_six > 1 || all.len() - of_six > 1 {
            let why = "may specify no more than one IP for each IP family";
            causes.invalid(&format!("status.{list}"), status[list].clone(), why);
        }
    }
}

/// What the containers of a pod add up to, as `kubectl get` shows it.
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    restarted: Option<Timestamp>,
}

fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let summary = summary(object);
    let restarts = match summary.restarted {
        Some(at) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, duration::age(Some(at), now))
        }
        _ => summary.restarts.to_string(),
    };
    let ip = text(&object.0["status"]["podIPs"][0]["ip"]);
    let gates = object.list("/spec/readinessGates");
    let open = |gate: &&Value| object.condition_status(text(&gate["conditionType"])) == "True";
    let gates = if gates.is_empty() {
        "<none>".to_owned()
    } else {
        format!("{}/{}", gates.iter().filter(open).count(), gates.len())
    };
    vec![
        object.name().into(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age(object, now),
        or(if ip.is_empty() { object.text("/status/podIP") } else { ip }, "<none>"),
        or(object.text("/spec/nodeName"), "<none>"),
        or(object.text("/status/nominatedNodeName"), "<none>"),
        gates.into(),
    ]
}

fn summary(object: &Object) -> Summary {
    let init = object.list("/spec/initContainers");
    let sidecars: BTreeMap<&str, bool> =
        init.iter().map(|one| (text(&one["name"]), is_sidecar(one))).collect();
    let mut summary = Summary {
        ready: 0,
        total: object.list("/spec/containers").len()
            + sidecars.values().filter(|sidecar| **sidecar).count(),
        reason: text(&object.0["status"]["phase"]).to_owned(),
        restarts: 0,
        restarted: None,
    };
    let status_reason = object.text("/status/reason");
    if !status_reason.is_empty() {
        summary.reason = status_reason.to_owned();
    }
    if object.condition("PodScheduled").is_some_and(|one| one["reason"] == "SchedulingGated") {
        summary.reason = "SchedulingGated".to_owned();
    }
    let mut of_sidecars = (0, None);
    let initializing = initializing(object, &sidecars, &mut summary, &mut of_sidecars);
    if !initializing || object.condition_status("Initialized") == "True" {
        (summary.restarts, summary.restarted) = of_sidecars;
        running(object, &mut summary);
    }
    if object.is_terminating() && status_reason == "NodeLost" {
        summary.reason = "Unknown".to_owned();
    } else if object.is_terminating() && !is_finished(object) {
        summary.reason = "Terminating".to_owned();
    }
    summary
}

/// Goes over the init containers up to the first that has not done its work; answers whether there is one.
fn initializing(
    object: &Object,
    sidecars: &BTreeMap<&str, bool>,
    summary: &mut Summary,
    of_sidecars: &mut (i64, Option<Timestamp>),
) -> bool {
    for (index, status) in object.list("/status/initContainerStatuses").iter().enumerate() {
        let sidecar = sidecars.get(text(&status["name"])) == Some(&true);
        let restarts = status["restartCount"].as_i64().unwrap_or_default();
        let restarted = last_end(status);
        summary.restarts += restarts;
        summary.restarted = summary.restarted.max(restarted);
        if sidecar {
            *of_sidecars = (of_sidecars.0 + restarts, of_sidecars.1.max(restarted));
        }
        let (ended, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
        let waits_for = text(&waiting["reason"]);
        summary.reason = match () {
            () if ended.is_object() && ended["exitCode"] == 0 => continue,
            () if sidecar && status["started"] == true => {
                summary.ready += usize::from(status["ready"] == true);
                continue;
            }
            () if ended.is_object() => format!("Init:{}", end_reason(ended)),
            () if !waits_for.is_empty() && waits_for != "PodInitializing" => {
                format!("Init:{waits_for}")
            }
            () => format!("Init:{index}/{}", object.list("/spec/initContainers").len()),
        };
        return true;
    }
    false
}

/// Goes over the main containers, the first one last, so that its reason wins.
fn running(object: &Object, summary: &mut Summary) {
    let mut any = false;
    for status in object.list("/status/containerStatuses").iter().rev() {
        summary.restarts += status["restartCount"].as_i64().unwrap_or_default();
        summary.restarted = summary.restarted.max(last_end(status));
        let state = &status["state"];
        let waits_for = text(&state["waiting"]["reason"]);
        if !waits_for.is_empty() {
            summary.reason = waits_for.to_owned();
        } else if state["terminated"].is_object() {
            summary.reason = end_reason(&state["terminated"]);
        } else if status["ready"] == true && state["running"].is_object() {
            any = true;
            summary.ready += 1;
        }
    }
    if any && summary.reason == "Completed" {
        let ready = object.condition_status("Ready") == "True";
        summary.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

fn end_reason(ended: &Value) -> String {
    match (text(&ended["reason"]), ended["signal"].as_i64().unwrap_or_default()) {
        ("", 0) => format!("ExitCode:{}", ended["exitCode"].as_i64().unwrap_or_default()),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// When a container ended before it was started again.
fn last_end(status: &Value) -> Option<Timestamp> {
    text(&status["lastState"]["terminated"]["finishedAt"]).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, found, row};
    use super::*;

    fn pod() -> Object {
        let mut pod = Object(json!({
            "metadata": {"name": "web", "namespace": "default",
                "creationTimestamp": at(0).to_string()},
            "spec": {"containers": [{"name": "a", "image": "x:1"}], "nodeName": "worker-1"},
        }));
        (POD.prepare_create)(&mut pod);
        (POD.default)(&mut pod);
        pod
    }

    fn with_status(status: Value) -> Object {
        let mut pod = pod();
        pod.set("/status", status);
        pod
    }

    fn container(state: Value) -> Value {
        json!({"name": "a", "ready": state.get("running").is_some(), "restartCount": 0, "state": state})
    }

    #[test]
    fn a_new_pod_is_pending_with_a_class() {
        let mut pod = Object(json!({"metadata": {"name": "web"}, "status": {"phase": "Running"},
            "spec": {"containers": [{"name": "a", "resources": {
                "limits": {"cpu": "1", "memory": "1Gi"}}}]}}));
        (POD.prepare_create)(&mut pod);
        assert_eq!(pod.0["status"], json!({"phase": "Pending", "qosClass": "Guaranteed"}));
        assert_eq!(pod.get("/spec/restartPolicy"), None, "defaulting is a step of its own");
    }

    #[test]
    fn columns_are_kubectls() {
        assert_eq!(
            row(&POD, &pod(), 5),
            "web|0/1|Pending|0|5s|<none>|worker-1|<none>|<none>"
        );
        let mut pod = with_status(json!({"phase": "Running", "podIPs": [{"ip": "10.244.1.2"}],
            "containerStatuses": [container(json!({"running": {}}))]}));
        pod.set("/spec/readinessGates", json!([{"conditionType": "x"}]));
        assert_eq!(
            row(&POD, &pod, 600),
            "web|1/1|Running|0|10m|10.244.1.2|worker-1|<none>|0/1"
        );
        pod.set("/status/containerStatuses/0", Value::Null);
    }

    #[test]
    fn the_status_column() {
        let waiting = |reason: &str| container(json!({"waiting": {"reason": reason}}));
        let ended = |reason: &str, code: i64, signal: i64| {
            container(json!({"terminated": {"reason": reason, "exitCode": code, "signal": signal}}))
        };
        let one = |phase: &str, container: Value| {
            json!({"phase": phase, "containerStatuses": [container]})
        };
        for (status, expected) in [
            (one("Running", waiting("CrashLoopBackOff")), "CrashLoopBackOff"),
            (one("Pending", waiting("ContainerCreating")), "ContainerCreating"),
            (one("Succeeded", ended("Completed", 0, 0)), "Completed"),
            (one("Failed", ended("Error", 1, 0)), "Error"),
            (one("Failed", ended("OOMKilled", 137, 0)), "OOMKilled"),
            (one("Failed", ended("", 3, 0)), "ExitCode:3"),
            (one("Failed", ended("", 0, 9)), "Signal:9"),
            (json!({"phase": "Failed", "reason": "Evicted"}), "Evicted"),
            (json!({"phase": "Running", "containerStatuses": [
                container(json!({"running": {}})), ended("Completed", 0, 0)]}), "NotReady"),
            (json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [container(json!({"running": {}})), ended("Completed", 0, 0)]}),
                "Running"),
            (json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
                "reason": "SchedulingGated"}]}), "SchedulingGated"),
        ] {
            let row = row(&POD, &with_status(status), 0);
            assert_eq!(row.split('|').nth(2), Some(expected), "{row}");
        }
    }

    #[test]
    fn init_containers_show_progress() {
        let state = |state: Value| json!({"name": "i", "state": state});
        for (first, expected) in [
            (state(json!({"running": {}})), "Init:0/2"),
            (state(json!({"waiting": {"reason": "PodInitializing"}})), "Init:0/2"),
            (state(json!({"waiting": {"reason": "CrashLoopBackOff"}})), "Init:CrashLoopBackOff"),
            (state(json!({"terminated": {"exitCode": 1, "reason": "Error"}})), "Init:Error"),
            (state(json!({"terminated": {"exitCode": 2}})), "Init:ExitCode:2"),
            (state(json!({"terminated": {"exitCode": 0}})), "Init:1/2"),
        ] {
            let mut pod = with_status(json!({"phase": "Pending", "initContainerStatuses":
                [first, {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}]}));
            pod.set("/spec/initContainers", json!([{"name": "i"}, {"name": "j"}]));
            let row = row(&POD, &pod, 0);
            assert_eq!(row.split('|').nth(2), Some(expected), "{row}");
        }
    }

    #[test]
    fn restarts_and_deletion() {
        let mut pod = with_status(json!({"phase": "Running", "containerStatuses": [{
            "name": "a", "ready": true, "restartCount": 4, "state": {"running": {}},
            "lastState": {"terminated": {"finishedAt": at(90).to_string()}}}]}));
        assert!(row(&POD, &pod, 95).contains("|4 (5s ago)|"));
        pod.set("/metadata/deletionTimestamp", at(100).to_string());
        assert!(row(&POD, &pod, 95).contains("|Terminating|"));
        pod.set("/status/reason", "NodeLost");
        assert!(row(&POD, &pod, 95).contains("|Unknown|"));
        pod.set("/status/phase", "Failed");
        pod.set("/status/reason", "");
        assert!(!row(&POD, &pod, 95).contains("|Terminating|"));
    }

    #[test]
    fn an_empty_spec_is_refused_once() {
        let mut pod = Object::new("v1", "Pod", "default", "web");
        (POD.default)(&mut pod);
        assert_eq!(found(&POD, &pod, None), ["Required spec.containers: Required value"]);
    }

    #[test]
    fn a_pod_does_not_move() {
        let old = pod();
        let mut new = pod();
        new.set("/spec/nodeName", "worker-2");
        assert_eq!(found(&POD, &new, Some(&old)).len(), 1);
        assert_eq!(found(&POD, &old, Some(&old)), [""; 0]);
    }
}
