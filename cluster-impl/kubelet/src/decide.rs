//! What to do next for one pod: a pure function of the pod, what its runtime has, and what was tried.
//!
//! The order is upstream's (computePodActions): sandbox first, then ephemeral containers, which wait for
//! nobody, init containers one by one, then the containers. Nothing is remembered here; a kubelet that starts anew decides the same from the
//! runtime's lists, and so adopts what runs.

use std::collections::BTreeMap;
use std::time::Duration;

use env::Timestamp;
use machinery::Object;
use serde_json::Value;

use crate::backoff::Backoff;
use crate::pod_spec::{
    self, RestartPolicy, app_containers, ephemeral_containers, hash, init_containers,
    is_host_network, name_of,
};
use crate::runtime::{ContainerState, ContainerStatus, Sandbox};

/// What the runtime has of one pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) containers: Vec<ContainerStatus>,
}

impl Record {
    /// The newest sandbox.
    pub(crate) fn newest_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.iter().max_by_key(|sandbox| (sandbox.attempt, sandbox.created))
    }

    /// The newest sandbox, if pods can run in it.
    pub(crate) fn current_sandbox(&self, pod: &Object) -> Option<&Sandbox> {
        self.newest_sandbox()
            .filter(|sandbox| sandbox.ready && (is_host_network(pod) || !sandbox.ip.is_empty()))
    }

    /// The newest container of this name, and the one before.
    pub(crate) fn latest(
        &self,
        name: &str,
    ) -> (Option<&ContainerStatus>, Option<&ContainerStatus>) {
        let mut named: Vec<_> = self.containers.iter().filter(|c| c.name == name).collect();
        named.sort_by_key(|container| (container.attempt, container.created));
        (named.pop(), named.pop())
    }

    fn latest_in(&self, name: &str, sandbox: &Sandbox) -> Option<&ContainerStatus> {
        self.latest(name).0.filter(|container| container.sandbox_id == sandbox.id)
    }

    /// Whether a process of the pod lives.
    pub(crate) fn is_alive(&self) -> bool {
        self.sandboxes.iter().any(|sandbox| sandbox.ready)
            || self.containers.iter().any(|c| c.state == ContainerState::Running)
    }

    fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }
}

/// A container's image that could not be fetched.
#[derive(Debug, Clone)]
pub(crate) struct FailedPull {
    pub(crate) backoff: Backoff,
    pub(crate) failed: Timestamp,
    pub(crate) message: String,
}

/// For so long a failed pull shows as ErrImagePull; then as ImagePullBackOff until it is tried again.
const ERR_IMAGE_PULL_SHOWN: Duration = Duration::from_secs(2);

impl FailedPull {
    /// When to try again.
    pub(crate) fn due(&self) -> Timestamp {
        self.backoff.due(self.failed).unwrap_or(self.failed)
    }

    /// Whether the failure has become a back-off.
    pub(crate) fn is_backing_off(&self, now: Timestamp) -> bool {
        now >= self.failed + ERR_IMAGE_PULL_SHOWN
    }
}

/// Why a container could not be made, and when to try again.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) retry: Timestamp,
}

/// What this kubelet remembers of a pod. It is lost when the kubelet restarts, as upstream's.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    /// When the kubelet first saw the pod.
    pub(crate) first_seen: Timestamp,
    pub(crate) restarts: BTreeMap<String, Backoff>,
    pub(crate) pulls: BTreeMap<String, FailedPull>,
    pub(crate) troubles: BTreeMap<String, Trouble>,
    /// Not before this is another sandbox tried.
    pub(crate) sandbox_retry: Option<Timestamp>,
    /// Not before this are the volumes tried again that could not be put in place.
    pub(crate) volumes_retry: Option<Timestamp>,
    /// Why the kubelet itself has failed the pod: reason and message.
    pub(crate) failed: Option<(String, String)>,
}

impl Memory {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            first_seen: now,
            restarts: BTreeMap::new(),
            pulls: BTreeMap::new(),
            troubles: BTreeMap::new(),
            sandbox_retry: None,
            volumes_retry: None,
            failed: None,
        }
    }
}

/// Everything that the decision depends on.
pub(crate) struct Situation<'s> {
    pub(crate) pod: &'s Object,
    pub(crate) record: &'s Record,
    pub(crate) memory: &'s Memory,
    pub(crate) now: Timestamp,
    /// The API no longer knows the pod.
    pub(crate) gone: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Stop all containers, then all sandboxes.
    KillPod { grace: Duration, sandbox_changed: bool },
    /// Stop one container.
    KillContainer { id: String, name: String, message: String },
    /// Make a sandbox.
    CreateSandbox { attempt: u32 },
    /// Make and start a container; `ended` is when the one before it did.
    Start { name: String, attempt: u32, ended: Option<Timestamp> },
    /// Remove an old container.
    RemoveContainer { id: String },
    /// Remove an old sandbox.
    RemoveSandbox { id: String },
    /// Remove all that is left.
    RemovePod,
}

/// How far a pod is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Departure {
    /// It stays, or its processes still run.
    #[default]
    No,
    /// Deletion was asked for and nothing of it runs: the object may go.
    Stopped,
    /// The object is gone and so is everything here.
    Done,
}

/// What to do, and when to look again if nothing happens before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Decision {
    pub(crate) steps: Vec<Step>,
    pub(crate) again: Option<Timestamp>,
    pub(crate) departure: Departure,
    /// The pod is to run, and something of it does: its volumes are to be kept up to date.
    pub(crate) is_running: bool,
}

impl Decision {
    fn step(step: Step) -> Self {
        Self { steps: vec![step], ..Self::default() }
    }

    fn again_at(&mut self, at: Timestamp) {
        self.again = Some(self.again.map_or(at, |again| again.min(at)));
    }
}

/// Decides.
pub(crate) fn decide(s: &Situation<'_>) -> Decision {
    if s.gone {
        return if s.record.is_alive() {
            let grace = pod_spec::grace_of_gone(s.pod);
            Decision::step(Step::KillPod { grace, sandbox_changed: false })
        } else if s.record.is_empty() {
            Decision { departure: Departure::Done, ..Decision::default() }
        } else {
            Decision::step(Step::RemovePod)
        };
    }
    if s.pod.is_terminating() {
        return if s.record.is_alive() {
            let grace = pod_spec::grace(s.pod);
            Decision::step(Step::KillPod { grace, sandbox_changed: false })
        } else {
            Decision { departure: Departure::Stopped, ..Decision::default() }
        };
    }
    let phase = crate::status::phase(s);
    if matches!(phase, "Succeeded" | "Failed") {
        return if s.record.is_alive() {
            let grace = pod_spec::grace(s.pod);
            Decision::step(Step::KillPod { grace, sandbox_changed: false })
        } else {
            Decision::default()
        };
    }
    let mut decision = match s.record.current_sandbox(s.pod) {
        Some(sandbox) => run(s, sandbox),
        None => make_sandbox(s),
    };
    if let Some(deadline) = deadline(s.pod) {
        decision.again_at(deadline);
    }
    if decision.steps.is_empty() {
        decision.steps = prune(s.record);
    }
    decision.is_running = s.record.is_alive();
    decision
}

/// When `activeDeadlineSeconds` runs out.
pub(crate) fn deadline(pod: &Object) -> Option<Timestamp> {
    let seconds = u64::try_from(pod.integer("/spec/activeDeadlineSeconds")?).ok()?;
    Some(pod.time("/status/startTime")? + Duration::from_secs(seconds))
}

fn make_sandbox(s: &Situation<'_>) -> Decision {
    let newest = s.record.newest_sandbox();
    if newest.is_some() && s.record.is_alive() {
        let grace = pod_spec::grace(s.pod);
        return Decision::step(Step::KillPod { grace, sandbox_changed: true });
    }
    let policy = RestartPolicy::of(s.pod);
    let has_run = |container: &Value| s.record.latest(name_of(container)).0;
    let all_done = app_containers(s.pod).iter().all(|container| {
        has_run(container).is_some_and(|status| !policy.restarts(status.exit_code))
    });
    if newest.is_some() && all_done {
        return Decision::default();
    }
    let retry = s.memory.sandbox_retry.max(s.memory.volumes_retry);
    if let Some(retry) = retry.filter(|retry| *retry > s.now) {
        return Decision { again: Some(retry), ..Decision::default() };
    }
    let attempt = newest.map_or(0, |sandbox| sandbox.attempt + 1);
    Decision::step(Step::CreateSandbox { attempt })
}

fn run(s: &Situation<'_>, sandbox: &Sandbox) -> Decision {
    let mut decision = Decision::default();
    // A container of an earlier sandbox has no network any more.
    for container in &s.record.containers {
        if container.state == ContainerState::Running && container.sandbox_id != sandbox.id {
            decision.steps.push(Step::KillContainer {
                id: container.id.clone(),
                name: container.name.clone(),
                message: format!("Stopping container {}", container.name),
            });
        }
    }
    for container in ephemeral_containers(s.pod) {
        if !has_been(s, name_of(container)) {
            start(s, name_of(container), &mut decision);
        }
    }
    let has_begun =
        app_containers(s.pod).iter().any(|c| s.record.latest_in(name_of(c), sandbox).is_some());
    if !has_begun {
        for container in init_containers(s.pod) {
            match s.record.latest_in(name_of(container), sandbox) {
                Some(status) if status.state == ContainerState::Running => return decision,
                Some(status) if has_succeeded(status) => {}
                // With restartPolicy Never a failed one has failed the pod, which ends elsewhere.
                _ => {
                    start(s, name_of(container), &mut decision);
                    return decision;
                }
            }
        }
    }
    let policy = RestartPolicy::of(s.pod);
    for container in app_containers(s.pod) {
        let name = name_of(container);
        match s.record.latest(name).0 {
            Some(status)
                if status.state == ContainerState::Running && status.sandbox_id == sandbox.id =>
            {
                if !status.hash.is_empty() && status.hash != hash(container) {
                    decision.steps.push(Step::KillContainer {
                        id: status.id.clone(),
                        name: name.to_owned(),
                        message: format!("Container {name} definition changed, will be restarted"),
                    });
                }
            }
            Some(status)
                if status.state == ContainerState::Exited && !policy.restarts(status.exit_code) => {
            }
            _ => start(s, name, &mut decision),
        }
    }
    decision
}

/// Whether a container has ever been made: no ephemeral one is made again.
fn has_been(s: &Situation<'_>, name: &str) -> bool {
    let reported = crate::status::reported(s.pod, name);
    s.record.latest(name).0.is_some()
        || reported.is_some_and(|old| !pod_spec::text(old, "containerID").is_empty())
}

fn has_succeeded(status: &ContainerStatus) -> bool {
    status.state == ContainerState::Exited && status.exit_code == 0
}

/// Starts a container, unless it has to wait.
fn start(s: &Situation<'_>, name: &str, decision: &mut Decision) {
    if let Some(pull) = s.memory.pulls.get(name) {
        if !pull.is_backing_off(s.now) {
            decision.again_at(pull.failed + ERR_IMAGE_PULL_SHOWN);
            return;
        }
        if pull.due() > s.now {
            decision.again_at(pull.due());
            return;
        }
    }
    let trouble = s.memory.troubles.get(name).map(|trouble| trouble.retry);
    if let Some(retry) = trouble.max(s.memory.volumes_retry).filter(|retry| *retry > s.now) {
        decision.again_at(retry);
        return;
    }
    if let Some(due) = restart_due(s, name) {
        decision.again_at(due);
        return;
    }
    let ended = s.record.latest(name).0.and_then(|status| status.finished);
    decision.steps.push(Step::Start { name: name.to_owned(), attempt: attempt(s, name), ended });
}

/// When a container that has ended may start again; `None` if at once.
pub(crate) fn restart_due(s: &Situation<'_>, name: &str) -> Option<Timestamp> {
    let ended = s.record.latest(name).0?.finished?;
    s.memory.restarts.get(name)?.due(ended).filter(|due| *due > s.now)
}

/// How often the container will have been restarted when it starts now.
fn attempt(s: &Situation<'_>, name: &str) -> u32 {
    if let (Some(latest), _) = s.record.latest(name) {
        return latest.attempt + 1;
    }
    // The runtime has lost it, but the API remembers that it ran.
    match crate::status::reported(s.pod, name) {
        Some(old) if !pod_spec::text(old, "containerID").is_empty() => {
            let count = old["restartCount"].as_u64().unwrap_or_default() + 1;
            u32::try_from(count).unwrap_or(u32::MAX)
        }
        _ => 0,
    }
}

/// Old containers and sandboxes. Of each container one predecessor stays, for `lastState`.
fn prune(record: &Record) -> Vec<Step> {
    let mut steps = Vec::new();
    let kept = |container: &ContainerStatus| {
        let (latest, before) = record.latest(&container.name);
        [latest, before].into_iter().flatten().any(|kept| kept.id == container.id)
    };
    for container in &record.containers {
        if container.state != ContainerState::Running && !kept(container) {
            steps.push(Step::RemoveContainer { id: container.id.clone() });
        }
    }
    let newest = record.newest_sandbox().map(|sandbox| &sandbox.id);
    for sandbox in &record.sandboxes {
        let is_used = record.containers.iter().any(|c| c.sandbox_id == sandbox.id && kept(c));
        if Some(&sandbox.id) != newest && !sandbox.ready && !is_used {
            steps.push(Step::RemoveSandbox { id: sandbox.id.clone() });
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// What the runtime has, in words: `sandbox`, `dead-sandbox`, `app running`, `app exited 1 @5`.
    /// Containers belong to the sandbox named last; each further one of a name is its next attempt.
    fn record(words: &str) -> Record {
        let mut record = Record::default();
        for (number, part) in words.split("; ").filter(|part| !part.is_empty()).enumerate() {
            let created = at(i64::try_from(number).unwrap());
            let parts: Vec<_> = part.split(' ').collect();
            if parts[0].ends_with("sandbox") {
                let attempt = u32::try_from(record.sandboxes.len()).unwrap();
                record.sandboxes.push(Sandbox {
                    id: format!("s{attempt}"),
                    pod: pod_spec::pod_id(&pod(json!({}))),
                    attempt,
                    ready: parts[0] == "sandbox",
                    created,
                    ip: "10.244.1.2".to_owned(),
                });
                continue;
            }
            let name = parts[0].to_owned();
            let attempt = record.containers.iter().filter(|c| c.name == name).count();
            let state = match parts[1] {
                "running" => ContainerState::Running,
                "created" => ContainerState::Created,
                _ => ContainerState::Exited,
            };
            let number = |index: usize| {
                parts.get(index).and_then(|word| word.trim_start_matches('@').parse().ok())
            };
            record.containers.push(ContainerStatus {
                id: format!("{name}-{attempt}"),
                sandbox_id: record.sandboxes.last().map(|s| s.id.clone()).unwrap_or_default(),
                pod_uid: "u".to_owned(),
                hash: hash(&json!({"name": name, "image": "kubetm/app:v1"})),
                name,
                attempt: u32::try_from(attempt).unwrap(),
                image: String::new(),
                image_id: String::new(),
                state,
                created,
                started: Some(created),
                finished: (state == ContainerState::Exited)
                    .then(|| at(number(3).unwrap_or_default())),
                exit_code: number(2).and_then(|code| i32::try_from(code).ok()).unwrap_or_default(),
                reason: String::new(),
                message: String::new(),
            });
        }
        record
    }

    fn pod(changes: Value) -> Object {
        let mut pod = Object::new("v1", "Pod", "default", "web");
        pod.set("/metadata/uid", "u");
        pod.set("/spec/containers", json!([{"name": "app", "image": "kubetm/app:v1"}]));
        for (pointer, value) in changes.as_object().unwrap() {
            pod.set(pointer, value.clone());
        }
        pod
    }

    fn told(pod: &Object, words: &str, memory: &Memory, gone: bool) -> String {
        let record = record(words);
        let situation = Situation { pod, record: &record, memory, now: at(100), gone };
        let decision = decide(&situation);
        let steps: Vec<_> = decision.steps.iter().map(|step| format!("{step:?}")).collect();
        let again = decision.again.map(|at| format!("again {}", at.as_second()));
        let departure =
            (decision.departure != Departure::No).then(|| format!("{:?}", decision.departure));
        let all: Vec<_> = steps.into_iter().chain(again).chain(departure).collect();
        all.join("; ")
    }

    #[test]
    fn a_pod_grows_step_by_step() {
        let init = json!({"/spec/initContainers": [{"name": "one"}, {"name": "two"}]});
        let none = Memory::new(at(0));
        for (changes, words, expected) in [
            (json!({}), "", "CreateSandbox { attempt: 0 }"),
            (json!({}), "sandbox", r#"Start { name: "app", attempt: 0, ended: None }"#),
            (json!({}), "sandbox; app running", ""),
            (
                json!({}),
                "sandbox; app created",
                r#"Start { name: "app", attempt: 1, ended: None }"#,
            ),
            (init.clone(), "sandbox", r#"Start { name: "one", attempt: 0, ended: None }"#),
            (init.clone(), "sandbox; one running", ""),
            (
                init.clone(),
                "sandbox; one exited 0",
                r#"Start { name: "two", attempt: 0, ended: None }"#,
            ),
            (
                init.clone(),
                "sandbox; one exited 0; two exited 0",
                r#"Start { name: "app", attempt: 0, ended: None }"#,
            ),
            (init, "sandbox; app running", ""),
        ] {
            assert_eq!(told(&pod(changes), words, &none, false), expected, "{words}");
        }
    }

    #[test]
    fn an_ephemeral_container_waits_for_nobody_and_starts_once() {
        let none = Memory::new(at(0));
        let changes = json!({"/spec/initContainers": [{"name": "one"}],
            "/spec/ephemeralContainers": [{"name": "look"}]});
        let look = r#"Start { name: "look", attempt: 0, ended: None }"#;
        let one = r#"Start { name: "one", attempt: 0, ended: None }"#;
        for (words, expected) in [
            ("", "CreateSandbox { attempt: 0 }"),
            ("sandbox", &format!("{look}; {one}")),
            ("sandbox; one running", look),
            ("sandbox; app running", look),
            ("sandbox; app running; look running", ""),
            ("sandbox; app running; look exited 1", ""),
            ("sandbox; app running; look created", ""),
            ("dead-sandbox; look exited 137; sandbox; app running", ""),
        ] {
            assert_eq!(told(&pod(changes.clone()), words, &none, false), expected, "{words}");
        }
        // The runtime has lost it, but the API remembers that it ran.
        let mut pod = pod(changes);
        let statuses = json!([{"name": "look", "containerID": "containerd://x"}]);
        pod.set("/status/ephemeralContainerStatuses", statuses);
        assert_eq!(told(&pod, "sandbox; app running", &none, false), "");
    }

    #[test]
    fn restart_policies_decide_about_ended_containers() {
        let none = Memory::new(at(0));
        for (policy, code, restarts) in [
            ("Always", 0, true),
            ("Always", 1, true),
            ("OnFailure", 0, false),
            ("OnFailure", 1, true),
            ("Never", 0, false),
            ("Never", 1, false),
        ] {
            let pod = pod(json!({"/spec/restartPolicy": policy}));
            let decision = told(&pod, &format!("sandbox; app exited {code} @90"), &none, false);
            assert_eq!(decision.contains("Start"), restarts, "{policy} {code}: {decision}");
            // What is not restarted has finished, and then its sandbox goes too.
            assert_eq!(decision.contains("KillPod"), !restarts, "{policy} {code}: {decision}");
        }
    }

    #[test]
    fn back_offs_hold_starts_back_until_they_are_due() {
        let mut memory = Memory::new(at(0));
        let raised = Backoff::raise(None, at(80), at(80), crate::backoff::MOST);
        memory.restarts.insert("app".to_owned(), raised);
        let pod = pod(json!({}));
        assert_eq!(told(&pod, "sandbox; app exited 1 @95", &memory, false), "again 105");
        let due = told(&pod, "sandbox; app exited 1 @90", &memory, false);
        assert!(due.starts_with("Start"), "{due}");
        let retry = at(130);
        let trouble =
            Trouble { reason: "CreateContainerError".into(), message: String::new(), retry };
        memory.troubles.insert("app".to_owned(), trouble);
        assert_eq!(told(&pod, "sandbox", &memory, false), "again 130");
        memory.volumes_retry = Some(at(140));
        assert_eq!(told(&pod, "sandbox", &memory, false), "again 140");
        assert_eq!(told(&pod, "", &memory, false), "again 140");
    }

    #[test]
    fn a_dead_sandbox_is_replaced_with_all_that_was_in_it() {
        let none = Memory::new(at(0));
        let pod_default = pod(json!({}));
        let still_alive = told(&pod_default, "dead-sandbox; app running", &none, false);
        assert!(still_alive.contains("sandbox_changed: true"), "{still_alive}");
        let ended = told(&pod_default, "dead-sandbox; app exited 137", &none, false);
        assert_eq!(ended, "CreateSandbox { attempt: 1 }");
        let again = told(&pod_default, "dead-sandbox; app exited 137; sandbox", &none, false);
        assert!(again.starts_with(r#"Start { name: "app", attempt: 1"#), "{again}");
        // What may not be restarted gets no sandbox.
        let never = pod(json!({"/spec/restartPolicy": "Never"}));
        assert_eq!(told(&never, "dead-sandbox; app exited 137", &none, false), "");
    }

    #[test]
    fn pods_on_their_way_out_are_stopped_then_removed() {
        let none = Memory::new(at(0));
        let leaving = pod(json!({"/metadata/deletionTimestamp": "2030-01-01T00:00:00Z",
            "/metadata/deletionGracePeriodSeconds": 7}));
        for (gone, words, expected) in [
            (false, "sandbox; app running", "KillPod { grace: 7s, sandbox_changed: false }"),
            (false, "dead-sandbox; app exited 0", "Stopped"),
            (false, "", "Stopped"),
            (true, "sandbox; app running", "KillPod { grace: 7s, sandbox_changed: false }"),
            (true, "dead-sandbox; app exited 0", "RemovePod"),
            (true, "", "Done"),
        ] {
            assert_eq!(told(&leaving, words, &none, gone), expected, "{gone} {words}");
        }
        let forced = told(&pod(json!({})), "sandbox; app running", &none, true);
        assert_eq!(forced, "KillPod { grace: 2s, sandbox_changed: false }");
    }

    #[test]
    fn a_new_image_replaces_the_container() {
        let none = Memory::new(at(0));
        let changed = pod(json!({"/spec/containers": [{"name": "app", "image": "kubetm/app:v2"}]}));
        let decision = told(&changed, "sandbox; app running", &none, false);
        assert!(decision.contains("Container app definition changed"), "{decision}");
    }

    #[test]
    fn one_predecessor_of_each_container_is_kept() {
        let none = Memory::new(at(0));
        let words = "sandbox; app exited 1; app exited 1; app exited 1; app running";
        let expected = r#"RemoveContainer { id: "app-0" }; RemoveContainer { id: "app-1" }"#;
        assert_eq!(told(&pod(json!({})), words, &none, false), expected);
        let words = "dead-sandbox; app exited 1; dead-sandbox; sandbox; app running";
        let expected = r#"RemoveSandbox { id: "s1" }"#;
        assert_eq!(told(&pod(json!({})), words, &none, false), expected);
    }
}
