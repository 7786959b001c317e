//! The status that the kubelet reports for a pod: a pure function of the same situation as the
//! decision (upstream: generateAPIPodStatus).

use env::Timestamp;
use machinery::Object;
use serde_json::{Map, Value, json};

use crate::decide::{Record, Situation, restart_due};
use crate::pod_spec::{
    self, RestartPolicy, all_containers, app_containers, ephemeral_containers, init_containers,
    is_host_network, name_of, text,
};
use crate::runtime::{ContainerState, ContainerStatus};

/// RFC 3339 in whole seconds, as `Time` is written.
pub(crate) fn time_text(at: Timestamp) -> String {
    format!("{at:.0}")
}

/// Where a pod's status tells of its containers.
const STATUSES: [&str; 3] = [
    "/status/containerStatuses",
    "/status/initContainerStatuses",
    "/status/ephemeralContainerStatuses",
];

/// What the API's status says of a container, if anything.
pub(crate) fn reported<'p>(pod: &'p Object, name: &str) -> Option<&'p Value> {
    STATUSES.iter().flat_map(|list| pod.list(list)).find(|status| status["name"] == name)
}

/// What a container is in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Init,
    App,
    /// Nobody probes it or starts it again, and the pod's phase and readiness do not depend on it.
    Ephemeral,
}

impl Role {
    fn of(pod: &Object, name: &str) -> Self {
        let is_among = |list: &[Value]| list.iter().any(|container| container["name"] == name);
        if is_among(init_containers(pod)) {
            Self::Init
        } else if is_among(ephemeral_containers(pod)) {
            Self::Ephemeral
        } else {
            Self::App
        }
    }
}

/// The pod's phase.
pub(crate) fn phase(s: &Situation<'_>) -> &'static str {
    let statuses = |containers: &[Value]| -> Vec<Value> {
        containers.iter().map(|container| container_status(s, container)).collect()
    };
    let init = statuses(init_containers(s.pod));
    phase_of(s, &init, &statuses(app_containers(s.pod)))
}

fn phase_of(s: &Situation<'_>, init: &[Value], app: &[Value]) -> &'static str {
    match s.pod.text("/status/phase") {
        // The end is the end.
        "Failed" => return "Failed",
        "Succeeded" => return "Succeeded",
        _ => {}
    }
    if s.memory.failed.is_some() {
        return "Failed";
    }
    let policy = RestartPolicy::of(s.pod);
    let ended = |status: &Value| status["state"]["terminated"]["exitCode"].as_i64();
    let ended_before = |status: &Value| status["lastState"]["terminated"]["exitCode"].as_i64();
    let is_running = |status: &Value| status["state"].get("running").is_some();
    if policy == RestartPolicy::Never && init.iter().any(|s| ended(s).is_some_and(|c| c != 0)) {
        return "Failed";
    }
    let running = app.iter().filter(|status| is_running(status)).count();
    let init_pending = init.iter().any(|status| ended(status) != Some(0));
    if init_pending && running == 0 {
        return "Pending";
    }
    // A container that waits for its restart has ended; one that never ran is waiting.
    let stopped: Vec<i64> = app
        .iter()
        .filter(|status| !is_running(status))
        .filter_map(|status| ended(status).or_else(|| ended_before(status)))
        .collect();
    if running + stopped.len() < app.len() {
        return "Pending";
    }
    if running > 0 {
        return "Running";
    }
    match policy {
        RestartPolicy::Always => "Running",
        _ if stopped.iter().all(|code| *code == 0) => "Succeeded",
        RestartPolicy::Never => "Failed",
        RestartPolicy::OnFailure => "Running",
    }
}

/// The status to report. `node_ip` is the node's address; `previous` is what was reported last.
pub(crate) fn pod_status(s: &Situation<'_>, node_ip: &str, previous: &Value) -> Value {
    let statuses = |containers: &[Value]| -> Vec<Value> {
        containers.iter().map(|container| container_status(s, container)).collect()
    };
    let init = statuses(init_containers(s.pod));
    let app = statuses(app_containers(s.pod));
    let phase = phase_of(s, &init, &app);
    let mut status = Map::new();
    status.insert("phase".into(), phase.into());
    let truths = conditions(s, phase, &init, &app);
    status.insert("conditions".into(), with_transitions(s, truths, previous));
    status.insert("hostIP".into(), node_ip.into());
    status.insert("hostIPs".into(), json!([{"ip": node_ip}]));
    let ip = if is_host_network(s.pod) {
        node_ip
    } else {
        match s.record.newest_sandbox().map(|sandbox| sandbox.ip.as_str()) {
            Some(ip) if !ip.is_empty() => ip,
            _ => s.pod.text("/status/podIP"),
        }
    };
    if !ip.is_empty() {
        status.insert("podIP".into(), ip.into());
        status.insert("podIPs".into(), json!([{"ip": ip}]));
    }
    let start = match s.pod.text("/status/startTime") {
        "" => time_text(s.memory.first_seen),
        start => start.to_owned(),
    };
    status.insert("startTime".into(), start.into());
    if !init.is_empty() {
        status.insert("initContainerStatuses".into(), init.into());
    }
    status.insert("containerStatuses".into(), app.into());
    let ephemeral = statuses(ephemeral_containers(s.pod));
    if !ephemeral.is_empty() {
        status.insert("ephemeralContainerStatuses".into(), ephemeral.into());
    }
    status.insert("qosClass".into(), pod_spec::qos(s.pod).into());
    if let Some((reason, message)) = &s.memory.failed {
        status.insert("reason".into(), reason.as_str().into());
        status.insert("message".into(), message.as_str().into());
    }
    Value::Object(status)
}

fn container_status(s: &Situation<'_>, container: &Value) -> Value {
    let name = name_of(container);
    let (latest, before) = s.record.latest(name);
    let role = Role::of(s.pod, name);
    let Some(latest) = latest else { return unmade_status(s, container, role) };
    let waiting = waiting_reason(s, name, latest, role);
    let (state, last) = match waiting {
        Some((reason, message)) => (waiting_state(&reason, &message), Some(latest)),
        None => (state_of(latest), before),
    };
    let is_running = latest.state == ContainerState::Running;
    let has_completed = latest.state == ContainerState::Exited && latest.exit_code == 0;
    let last = last.filter(|last| last.state == ContainerState::Exited);
    let last_state = last.map_or_else(|| json!({}), state_of);
    let status = json!({
        "name": name,
        "image": latest.image,
        "imageID": latest.image_id,
        "containerID": format!("containerd://{}", latest.id),
        "state": state,
        "lastState": last_state,
        // A completed init container counts as ready; others need to run. Probes will have a say here.
        "ready": match role {
            Role::Init => has_completed,
            Role::App => is_running,
            Role::Ephemeral => false,
        },
        "started": is_running,
        "restartCount": latest.attempt,
    });
    fit(status, role)
}

/// Only probes say of a container that it has started.
fn fit(mut status: Value, role: Role) -> Value {
    if role == Role::Ephemeral
        && let Some(status) = status.as_object_mut()
    {
        status.remove("started");
    }
    status
}

/// The status of a container that the runtime does not have.
fn unmade_status(s: &Situation<'_>, container: &Value, role: Role) -> Value {
    let name = name_of(container);
    let old = reported(s.pod, name);
    let is_over = s.pod.is_terminating() || is_final(s.pod);
    if let Some(old) = old
        && old["state"].get("terminated").is_some()
        && (is_over || role != Role::App)
    {
        return old.clone();
    }
    let ran = old.filter(|old| !text(old, "containerID").is_empty());
    let lost = ran.map(|old| match old["state"].get("terminated") {
        Some(terminated) => json!({"terminated": terminated}),
        None => json!({"terminated": {
            "exitCode": 137,
            "reason": "ContainerStatusUnknown",
            "message": "The container could not be located when the pod was terminated",
            "startedAt": old["state"]["running"]["startedAt"],
            "finishedAt": null,
        }}),
    });
    let (state, last) = match lost {
        Some(lost) if is_over || role == Role::Ephemeral => (lost, json!({})),
        lost => {
            let (reason, message) = trouble(s, name).unwrap_or_else(|| first_wait(s.pod));
            (waiting_state(&reason, &message), lost.unwrap_or_else(|| json!({})))
        }
    };
    let status = json!({
        "name": name,
        "image": text(container, "image"),
        "imageID": ran.map_or("", |old| text(old, "imageID")),
        "containerID": ran.map_or("", |old| text(old, "containerID")),
        "state": state,
        "lastState": last,
        "ready": false,
        "started": false,
        "restartCount": ran.map_or(0, |old| old["restartCount"].as_u64().unwrap_or_default()),
    });
    fit(status, role)
}

fn is_final(pod: &Object) -> bool {
    matches!(pod.text("/status/phase"), "Succeeded" | "Failed")
}

fn first_wait(pod: &Object) -> (String, String) {
    let reason =
        if init_containers(pod).is_empty() { "ContainerCreating" } else { "PodInitializing" };
    (reason.to_owned(), String::new())
}

fn waiting_state(reason: &str, message: &str) -> Value {
    let mut waiting = json!({"reason": reason});
    if !message.is_empty() {
        waiting["message"] = message.into();
    }
    json!({"waiting": waiting})
}

/// Why a container that exists is not running and will be: reason and message.
fn waiting_reason(
    s: &Situation<'_>,
    name: &str,
    latest: &ContainerStatus,
    role: Role,
) -> Option<(String, String)> {
    if s.gone || s.pod.is_terminating() || is_final(s.pod) || s.memory.failed.is_some() {
        return None;
    }
    match latest.state {
        ContainerState::Running => return None,
        ContainerState::Created | ContainerState::Unknown => {
            return Some(trouble(s, name).unwrap_or_else(|| first_wait(s.pod)));
        }
        ContainerState::Exited => {}
    }
    let policy = RestartPolicy::of(s.pod);
    let restarts = match role {
        Role::Init => latest.exit_code != 0 && policy != RestartPolicy::Never,
        Role::App => policy.restarts(latest.exit_code),
        Role::Ephemeral => false,
    };
    if !restarts {
        return None;
    }
    if let Some(trouble) = trouble(s, name) {
        return Some(trouble);
    }
    restart_due(s, name)?;
    let wait = s.memory.restarts.get(name)?.wait;
    let message = format!(
        "back-off {} restarting failed container={name} pod={}_{}({})",
        minutes_and_seconds(wait.as_secs()),
        s.pod.name(),
        s.pod.namespace(),
        s.pod.uid()
    );
    Some(("CrashLoopBackOff".to_owned(), message))
}

/// As Go prints a duration: 10s, 1m20s, 5m0s.
pub(crate) fn minutes_and_seconds(seconds: u64) -> String {
    match seconds / 60 {
        0 => format!("{seconds}s"),
        minutes => format!("{minutes}m{}s", seconds % 60),
    }
}

/// Why a container could not be made.
fn trouble(s: &Situation<'_>, name: &str) -> Option<(String, String)> {
    if let Some(pull) = s.memory.pulls.get(name) {
        if !pull.is_backing_off(s.now) {
            return Some(("ErrImagePull".to_owned(), pull.message.clone()));
        }
        let mut all = all_containers(s.pod);
        let image = all.find(|c| name_of(c) == name).map(|c| text(c, "image"));
        let message = format!(
            "Back-off pulling image \"{}\": ErrImagePull: {}",
            image.unwrap_or_default(),
            pull.message
        );
        return Some(("ImagePullBackOff".to_owned(), message));
    }
    let trouble = s.memory.troubles.get(name)?;
    Some((trouble.reason.clone(), trouble.message.clone()))
}

fn state_of(container: &ContainerStatus) -> Value {
    let time = |at: Option<Timestamp>| at.map_or(Value::Null, |at| time_text(at).into());
    if container.state == ContainerState::Running {
        return json!({"running": {"startedAt": time(container.started)}});
    }
    let reason = match container.reason.as_str() {
        "" if container.exit_code == 0 => "Completed",
        "" => "Error",
        reason => reason,
    };
    let mut terminated = json!({
        "exitCode": container.exit_code,
        "reason": reason,
        "startedAt": time(container.started),
        "finishedAt": time(container.finished),
        "containerID": format!("containerd://{}", container.id),
    });
    if !container.message.is_empty() {
        terminated["message"] = container.message.as_str().into();
    }
    json!({"terminated": terminated})
}

/// One condition: type, whether it holds, and if not why.
struct Truth {
    name: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Truth {
    fn yes(name: &'static str) -> Self {
        Self { name, holds: true, reason: "", message: String::new() }
    }

    fn no(name: &'static str, reason: &'static str, message: String) -> Self {
        Self { name, holds: false, reason, message }
    }
}

fn conditions(s: &Situation<'_>, phase: &str, init: &[Value], app: &[Value]) -> Vec<Truth> {
    let unready = |statuses: &[Value]| -> Vec<String> {
        let unready = statuses.iter().filter(|status| status["ready"] != true);
        unready.map(|status| name_of(status).to_owned()).collect()
    };
    let is_finished = matches!(phase, "Succeeded" | "Failed");
    let sandbox = Truth {
        holds: !is_finished && has_sandbox(s.record, s.pod),
        ..Truth::yes("PodReadyToStartContainers")
    };
    let incomplete = unready(init);
    let initialized = if phase == "Succeeded" {
        Truth { reason: "PodCompleted", ..Truth::yes("Initialized") }
    } else if incomplete.is_empty() {
        Truth::yes("Initialized")
    } else {
        let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
        Truth::no("Initialized", "ContainersNotInitialized", message)
    };
    let waiting_for = unready(app);
    let ready = |name| match phase {
        "Succeeded" => Truth::no(name, "PodCompleted", String::new()),
        "Failed" => Truth::no(name, "PodFailed", String::new()),
        _ if waiting_for.is_empty() && incomplete.is_empty() => Truth::yes(name),
        _ => {
            let names: Vec<_> = incomplete.iter().chain(&waiting_for).map(String::as_str).collect();
            let message = format!("containers with unready status: [{}]", names.join(" "));
            Truth::no(name, "ContainersNotReady", message)
        }
    };
    let containers_ready = ready("ContainersReady");
    let closed = s.pod.list("/spec/readinessGates").iter().find(|gate| {
        s.pod.condition_status(gate["conditionType"].as_str().unwrap_or_default()) != "True"
    });
    let pod_ready = match closed {
        Some(gate) if containers_ready.holds => {
            let message = format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                gate["conditionType"].as_str().unwrap_or_default()
            );
            Truth::no("Ready", "ReadinessGatesNotReady", message)
        }
        _ => ready("Ready"),
    };
    vec![sandbox, initialized, pod_ready, containers_ready, Truth::yes("PodScheduled")]
}

fn has_sandbox(record: &Record, pod: &Object) -> bool {
    record.current_sandbox(pod).is_some()
}

/// Writes the conditions, with the time of the last change of each. Conditions of others are kept.
fn with_transitions(s: &Situation<'_>, truths: Vec<Truth>, previous: &Value) -> Value {
    let find = |list: &[Value], name: &str| list.iter().find(|old| old["type"] == name).cloned();
    let before = previous["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let in_api = s.pod.list("/status/conditions");
    let mut conditions: Vec<Value> = truths
        .iter()
        .map(|truth| {
            let holds = if truth.holds { "True" } else { "False" };
            let old = find(before, truth.name).or_else(|| find(in_api, truth.name));
            let since = old
                .filter(|old| old["status"] == holds)
                .and_then(|old| old["lastTransitionTime"].as_str().map(str::to_owned))
                .unwrap_or_else(|| time_text(s.now));
            let mut condition = json!({
                "type": truth.name, "status": holds, "lastProbeTime": null,
                "lastTransitionTime": since,
            });
            for (key, value) in [("reason", truth.reason), ("message", truth.message.as_str())] {
                if !value.is_empty() {
                    condition[key] = value.into();
                }
            }
            condition
        })
        .collect();
    let foreign = in_api.iter().filter(|old| !truths.iter().any(|t| old["type"] == t.name));
    conditions.extend(foreign.cloned());
    conditions.into()
}

/// Whether the API's status already says what `wanted` says. Fields that only others write do not
/// count, nor do those that are absent on one side and null or empty on the other.
pub(crate) fn is_reported(wanted: &Value, in_api: &Value) -> bool {
    match (wanted, in_api) {
        (Value::Object(wanted), in_api) => {
            wanted.iter().all(|(key, value)| is_reported(value, &in_api[key]))
        }
        (Value::Array(wanted), in_api) => match in_api.as_array() {
            // Conditions: the order is nobody's.
            Some(list) if wanted.first().is_some_and(|first| first["type"].is_string()) => {
                wanted.len() == list.len()
                    && wanted.iter().all(|wanted| {
                        let there = list.iter().find(|there| there["type"] == wanted["type"]);
                        there.is_some_and(|there| is_reported(wanted, there))
                    })
            }
            Some(list) => {
                wanted.len() == list.len()
                    && wanted.iter().zip(list).all(|(wanted, there)| is_reported(wanted, there))
            }
            None => wanted.is_empty(),
        },
        (Value::Null, in_api) => in_api.is_null(),
        (Value::String(wanted), Value::Null) => wanted.is_empty(),
        _ => wanted == in_api,
    }
}
