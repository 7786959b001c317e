//! The worker of one pod: it looks at the runtime, decides, acts, reports, and waits.
//!
//! Invariant: a worker changes nothing but its own pod's sandboxes and containers, and only one
//! worker exists for a uid. It may be dropped at any point: the next kubelet goes on from what the
//! runtime has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use env::{Sabotage, Timestamp};
use futures::future::join_all;
use machinery::Object;
use serde_json::Value;
use tokio::sync::watch;

use crate::Shared;
use crate::backoff::{self, Backoff};
use crate::decide::{
    Decision, Departure, FailedPull, Memory, Record, Situation, Step, Trouble, deadline, decide,
    restart_due,
};
use crate::downward::Places;
use crate::environment::{environment, words};
use crate::pod_spec::{self, all_containers, grace, grace_of_gone, name_of, pull_policy, text};
use crate::runtime::{ContainerConfig, ContainerState, RuntimeError, Sandbox, is_image_name};
use crate::status::pod_status;
use crate::volumes::Volumes;

/// After this long a worker asks a runtime again that did not answer, and tries a container again
/// that could not be made.
const RUNTIME_RETRY: Duration = Duration::from_secs(1);
const MAKE_RETRY: Duration = Duration::from_secs(10);

/// What a worker is told.
#[derive(Clone)]
pub(crate) struct Wish {
    /// The pod as the API has it.
    pub(crate) pod: Arc<Object>,
    /// The API no longer has it.
    pub(crate) gone: bool,
}

/// The next life of a container.
struct NextLife<'n> {
    record: &'n Record,
    sandbox: &'n Sandbox,
    name: &'n str,
    attempt: u32,
    /// When the one before ended.
    ended: Option<Timestamp>,
}

/// One pod's worker.
pub(crate) struct Worker {
    cx: Arc<Shared>,
    wishes: watch::Receiver<Wish>,
    memory: Memory,
    volumes: Volumes,
    /// The status that was computed last.
    previous: Value,
    /// Back-offs that have had their event: container and end, or container and failed pull.
    announced: BTreeSet<(String, Timestamp)>,
}

impl Worker {
    /// A worker; `rejected` says why the node cannot take the pod.
    pub(crate) fn new(
        cx: Arc<Shared>,
        wishes: watch::Receiver<Wish>,
        rejected: Option<(String, String)>,
    ) -> Self {
        let mut memory = Memory::new(cx.env.now());
        if let Some((reason, message)) = &rejected {
            let pod = wishes.borrow().pod.clone();
            let reason: &'static str =
                if reason == "OutOfcpu" { "OutOfcpu" } else { "OutOfmemory" };
            cx.events.warning(&pod, reason, message.clone());
        }
        memory.failed = rejected;
        let (volumes, announced) = (Volumes::default(), BTreeSet::new());
        Self { cx, wishes, memory, volumes, previous: Value::Null, announced }
    }

    /// Works until the pod is gone from the API and from the node.
    pub(crate) async fn run(mut self) {
        loop {
            let wish = self.wishes.borrow_and_update().clone();
            let mut refresh = None;
            let wait = match self.sync(&wish).await {
                Ok(decision) if decision.departure == Departure::Done => {
                    // One that never got a sandbox may have volumes all the same.
                    let _ = self.cx.runtime.forget_pod(&pod_spec::pod_id(&wish.pod)).await;
                    return;
                }
                Ok(decision) if !decision.steps.is_empty() => continue,
                Ok(decision) => {
                    let at = if decision.is_running { self.volumes.due() } else { None };
                    refresh = at.map(|at| self.until(at));
                    decision.again.map(|at| self.until(at))
                }
                Err(error) => {
                    tracing::debug!(pod = %wish.pod.key(), %error, "pod not synced");
                    Some(RUNTIME_RETRY)
                }
            };
            let Self { cx, wishes, volumes, .. } = &mut self;
            // While volumes are refreshed, which may take an API server's answer, all else goes on.
            let refreshed = async {
                sleep_for(refresh).await;
                volumes.refresh(cx, &wish.pod).await;
            };
            tokio::select! {
                biased;
                changed = wishes.changed() => if changed.is_err() { return },
                () = sleep_for(wait) => {}
                () = refreshed => {}
            }
        }
    }

    fn until(&self, at: Timestamp) -> Duration {
        let wait = at.duration_since(self.cx.env.now());
        // A nap of zero would spin if the wall clock lags a little behind the monotonic one.
        Duration::try_from(wait).unwrap_or_default().max(Duration::from_millis(1))
    }

    async fn record(&self, uid: &str) -> Result<Record, RuntimeError> {
        let runtime = &self.cx.runtime;
        Ok(Record {
            sandboxes: runtime.sandboxes(uid).await?,
            containers: runtime.containers(uid).await?,
        })
    }

    /// Looks, reports, and does the steps of one decision.
    async fn sync(&mut self, wish: &Wish) -> Result<Decision, RuntimeError> {
        let record = self.record(wish.pod.uid()).await?;
        let now = self.cx.env.now();
        self.notice_deadline(&wish.pod, now);
        let restarts_always = self.cx.env.sabotaged(Sabotage::RestartPolicyIgnored);
        if !wish.gone && self.volumes.notice(&self.cx, &wish.pod, record.is_alive()) {
            self.memory.volumes_retry = None;
        }
        let mut pod = wish.pod.clone();
        if restarts_always {
            Arc::make_mut(&mut pod).set("/spec/restartPolicy", "Always");
        }
        let situation =
            Situation { pod: &pod, record: &record, memory: &self.memory, now, gone: wish.gone };
        let mut decision = decide(&situation);
        if self.cx.env.sabotaged(Sabotage::ContainerNotRestarted) {
            decision.steps.retain(|step| !matches!(step, Step::Start { ended: Some(_), .. }));
        }
        if !wish.gone {
            let mut status = pod_status(&situation, &self.cx.config.node_ip, &self.previous);
            if self.cx.env.sabotaged(Sabotage::ReadyWithoutRunning) {
                claim_readiness(&mut status);
            }
            let goes_early = self.cx.env.sabotaged(Sabotage::RemovedWhileRunning);
            let stopped =
                decision.departure == Departure::Stopped || goes_early && wish.pod.is_terminating();
            self.cx.statuses.set(&wish.pod, status.clone(), stopped);
            self.previous = status;
            let news = back_offs(&situation);
            self.announce(&wish.pod, news);
        }
        for step in &decision.steps {
            self.perform(wish, &record, step).await?;
        }
        Ok(decision)
    }

    fn notice_deadline(&mut self, pod: &Arc<Object>, now: Timestamp) {
        let is_final = matches!(pod.text("/status/phase"), "Succeeded" | "Failed");
        if self.memory.failed.is_none()
            && !is_final
            && deadline(pod).is_some_and(|deadline| deadline <= now)
        {
            let message =
                "Pod was active on the node longer than the specified deadline".to_owned();
            self.cx.events.normal(pod, "DeadlineExceeded", message.clone());
            self.memory.failed = Some(("DeadlineExceeded".to_owned(), message));
        }
    }

    /// Records each back-off once.
    fn announce(&mut self, pod: &Arc<Object>, news: Vec<((String, Timestamp), String, bool)>) {
        for (what, message, is_pull) in news {
            if self.announced.insert(what) {
                if is_pull {
                    self.cx.events.normal(pod, "BackOff", message);
                    self.cx.events.warning(pod, "Failed", "Error: ImagePullBackOff".to_owned());
                } else {
                    self.cx.events.warning(pod, "BackOff", message);
                }
            }
        }
    }

    async fn perform(
        &mut self,
        wish: &Wish,
        record: &Record,
        step: &Step,
    ) -> Result<(), RuntimeError> {
        let runtime = self.cx.runtime.clone();
        match step {
            Step::KillPod { grace, sandbox_changed } => {
                if *sandbox_changed {
                    let message = "Pod sandbox changed, it will be killed and re-created.";
                    self.cx.events.normal(&wish.pod, "SandboxChanged", message.to_owned());
                }
                let is_hasty = self.cx.env.sabotaged(Sabotage::KilledWithoutGrace);
                let grace = if is_hasty { Duration::ZERO } else { *grace };
                self.kill(wish, record, grace).await
            }
            Step::KillContainer { id, message, .. } => {
                self.cx.events.normal(&wish.pod, "Killing", message.clone());
                runtime.stop_container(id, grace(&wish.pod)).await
            }
            Step::CreateSandbox { attempt } => self.create_sandbox(wish, *attempt).await,
            Step::Start { name, attempt, ended } => {
                let Some(sandbox) = record.current_sandbox(&wish.pod) else { return Ok(()) };
                let life = NextLife { record, sandbox, name, attempt: *attempt, ended: *ended };
                self.start(&wish.pod, life).await
            }
            Step::RemoveContainer { id } => runtime.remove_container(id).await,
            Step::RemoveSandbox { id } => runtime.remove_sandbox(id).await,
            Step::RemovePod => {
                for sandbox in &record.sandboxes {
                    runtime.remove_sandbox(&sandbox.id).await?;
                }
                // Containers whose sandbox the runtime has lost.
                for container in &record.containers {
                    if !record.sandboxes.iter().any(|s| s.id == container.sandbox_id) {
                        runtime.remove_container(&container.id).await?;
                    }
                }
                runtime.forget_pod(&pod_spec::pod_id(&wish.pod)).await
            }
        }
    }

    /// Stops everything. A shorter grace that comes meanwhile holds at once.
    async fn kill(
        &mut self,
        wish: &Wish,
        record: &Record,
        mut grace: Duration,
    ) -> Result<(), RuntimeError> {
        let running: Vec<_> =
            record.containers.iter().filter(|c| c.state == ContainerState::Running).collect();
        for container in &running {
            let message = format!("Stopping container {}", container.name);
            self.cx.events.normal(&wish.pod, "Killing", message);
        }
        let runtime = self.cx.runtime.clone();
        loop {
            let stops = running.iter().map(|c| runtime.stop_container(&c.id, grace));
            tokio::select! {
                biased;
                results = join_all(stops) => {
                    results.into_iter().collect::<Result<(), _>>()?;
                    break;
                }
                shorter = shorter_grace(&mut self.wishes, grace) => grace = shorter,
            }
        }
        for sandbox in record.sandboxes.iter().filter(|sandbox| sandbox.ready) {
            runtime.stop_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }

    async fn create_sandbox(&mut self, wish: &Wish, attempt: u32) -> Result<(), RuntimeError> {
        let pod = &wish.pod;
        if !self.volumes.set_up(&self.cx, pod, &mut self.memory.volumes_retry).await? {
            return Ok(());
        }
        let now = self.cx.env.now();
        let problem = self.cx.node.network_problem();
        if !pod_spec::is_host_network(pod) && !problem.is_empty() {
            let message =
                format!("network is not ready: container runtime network not ready: {problem}");
            // Once is enough: it is tried again every second.
            if self.announced.insert((String::new(), self.memory.first_seen)) {
                self.cx.events.warning(pod, "NetworkNotReady", message);
            }
            self.memory.sandbox_retry = Some(now + RUNTIME_RETRY);
            return Ok(());
        }
        let config = &self.cx.config;
        let sandbox = pod_spec::sandbox_config(pod, attempt, &config.hostname, &config.dns);
        match self.cx.runtime.run_sandbox(&sandbox).await {
            Ok(_) => {
                self.memory.sandbox_retry = None;
                Ok(())
            }
            Err(RuntimeError::Unavailable(why)) => Err(RuntimeError::Unavailable(why)),
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {error}");
                self.cx.events.warning(pod, "FailedCreatePodSandBox", message);
                self.memory.sandbox_retry = Some(self.cx.env.now() + MAKE_RETRY);
                Ok(())
            }
        }
    }

    /// Fetches the image if needed, makes the container and starts it. Troubles go into the memory.
    async fn start(&mut self, pod: &Arc<Object>, life: NextLife<'_>) -> Result<(), RuntimeError> {
        let NextLife { sandbox, name, ended, .. } = life;
        let Some(container) = all_containers(pod).find(|c| name_of(c) == name) else {
            return Ok(());
        };
        // A kubelet that starts anew has yet to put the volumes of an older sandbox in place.
        if !self.volumes.set_up(&self.cx, pod, &mut self.memory.volumes_retry).await? {
            return Ok(());
        }
        self.memory.troubles.remove(name);
        if !self.fetch_image(pod, container).await? {
            return Ok(());
        }
        let config = match configured(&self.cx, pod, container, &life).await {
            Ok(config) => config,
            Err(message) => {
                self.trouble(pod, name, "CreateContainerConfigError", message);
                return Ok(());
            }
        };
        let cluster = &self.cx.config;
        let sandbox_config =
            pod_spec::sandbox_config(pod, sandbox.attempt, &cluster.hostname, &cluster.dns);
        if let Some(ended) = ended {
            self.raise_backoff(name, ended);
        }
        let made = self.cx.runtime.create_container(sandbox, &sandbox_config, &config).await;
        let id = match made {
            Ok(id) => id,
            Err(RuntimeError::Unavailable(why)) => return Err(RuntimeError::Unavailable(why)),
            Err(RuntimeError::Unfit(why)) => {
                self.trouble(pod, name, "CreateContainerConfigError", why);
                return Ok(());
            }
            Err(error) => {
                self.trouble(pod, name, "CreateContainerError", error.to_string());
                return Ok(());
            }
        };
        self.cx.events.normal(pod, "Created", format!("Created container: {name}"));
        match self.cx.runtime.start_container(&id).await {
            Ok(()) => self.cx.events.normal(pod, "Started", format!("Started container {name}")),
            Err(RuntimeError::Unavailable(why)) => return Err(RuntimeError::Unavailable(why)),
            // The runtime keeps it as one that ended: from there on it is a crash like any other.
            Err(error) => self.cx.events.warning(pod, "Failed", format!("Error: {error}")),
        }
        Ok(())
    }

    fn raise_backoff(&mut self, name: &str, ended: Timestamp) {
        let is_uncapped = self.cx.env.sabotaged(Sabotage::BackoffNotCapped);
        let most = if is_uncapped { Duration::from_secs(1 << 30) } else { backoff::MOST };
        let now = self.cx.env.now();
        let raised = Backoff::raise(self.memory.restarts.get(name), ended, now, most);
        self.memory.restarts.insert(name.to_owned(), raised);
    }

    fn trouble(&mut self, pod: &Arc<Object>, name: &str, reason: &str, message: String) {
        self.cx.events.warning(pod, "Failed", format!("Error: {message}"));
        let retry = self.cx.env.now() + MAKE_RETRY;
        let trouble = Trouble { reason: reason.to_owned(), message, retry };
        self.memory.troubles.insert(name.to_owned(), trouble);
    }

    /// Whether the image is there, fetched now if the policy says so.
    async fn fetch_image(
        &mut self,
        pod: &Arc<Object>,
        container: &Value,
    ) -> Result<bool, RuntimeError> {
        let (name, image) = (name_of(container), text(container, "image"));
        if !is_image_name(image) {
            let message = format!(
                "Failed to apply default image tag \"{image}\": couldn't parse image name \
                 \"{image}\": invalid reference format"
            );
            self.trouble(pod, name, "InvalidImageName", message);
            return Ok(false);
        }
        let policy = pull_policy(container);
        if policy != "Always" {
            if self.cx.runtime.image(image).await?.is_some() {
                let message = format!("Container image \"{image}\" already present on machine");
                self.cx.events.normal(pod, "Pulled", message);
                self.memory.pulls.remove(name);
                return Ok(true);
            }
            if policy == "Never" {
                let message =
                    format!("Container image \"{image}\" is not present with pull policy of Never");
                self.trouble(pod, name, "ErrImageNeverPull", message);
                return Ok(false);
            }
        }
        self.cx.events.normal(pod, "Pulling", format!("Pulling image \"{image}\""));
        let asked = self.cx.env.instant();
        match self.cx.runtime.pull_image(image).await {
            Ok(_) => {
                let took_ms = asked.elapsed().as_millis();
                let message = format!("Successfully pulled image \"{image}\" in {took_ms}ms");
                self.cx.events.normal(pod, "Pulled", message);
                self.memory.pulls.remove(name);
                Ok(true)
            }
            Err(RuntimeError::Unavailable(why)) => Err(RuntimeError::Unavailable(why)),
            Err(error) => {
                let message = error.to_string();
                let full = format!("Failed to pull image \"{image}\": {message}");
                self.cx.events.warning(pod, "Failed", full);
                self.cx.events.warning(pod, "Failed", "Error: ErrImagePull".to_owned());
                let failed = self.cx.env.now();
                let earlier = self.memory.pulls.get(name).map(|pull| pull.backoff);
                let backoff = Backoff::raise(earlier.as_ref(), failed, failed, backoff::MOST);
                let pull = FailedPull { backoff, failed, message };
                self.memory.pulls.insert(name.to_owned(), pull);
                Ok(false)
            }
        }
    }
}

/// A planted defect: says that everything is ready.
fn claim_readiness(status: &mut Value) {
    for list in ["conditions", "containerStatuses"] {
        for entry in status[list].as_array_mut().into_iter().flatten() {
            if entry.get("ready").is_some() {
                entry["ready"] = true.into();
            } else if matches!(entry["type"].as_str(), Some("Ready" | "ContainersReady")) {
                entry["status"] = "True".into();
            }
        }
    }
}

async fn sleep_for(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// Waits until the pod is asked to go within less than `grace`.
async fn shorter_grace(wishes: &mut watch::Receiver<Wish>, current: Duration) -> Duration {
    loop {
        if wishes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let wish = wishes.borrow_and_update().clone();
        let wanted = if wish.gone {
            Some(grace_of_gone(&wish.pod))
        } else {
            wish.pod.is_terminating().then(|| grace(&wish.pod))
        };
        if let Some(wanted) = wanted.filter(|wanted| *wanted < current) {
            return wanted;
        }
    }
}

/// The back-offs in force: what identifies each, the event's message, and whether it is an image's.
fn back_offs(s: &Situation<'_>) -> Vec<((String, Timestamp), String, bool)> {
    let mut news = Vec::new();
    for container in all_containers(s.pod) {
        let name = name_of(container);
        if let Some(pull) = s.memory.pulls.get(name)
            && pull.is_backing_off(s.now)
        {
            let message = format!("Back-off pulling image \"{}\"", text(container, "image"));
            news.push(((name.to_owned(), pull.failed), message, true));
        }
        let ended = s.record.latest(name).0.and_then(|latest| latest.finished);
        if let Some(ended) = ended
            && restart_due(s, name).is_some()
        {
            let message = format!(
                "Back-off restarting failed container {name} in pod {}_{}({})",
                s.pod.name(),
                s.pod.namespace(),
                s.pod.uid()
            );
            news.push(((name.to_owned(), ended), message, false));
        }
    }
    news
}

/// How a container is to be made. The error is for the status.
async fn configured(
    cx: &Shared,
    pod: &Object,
    container: &Value,
    life: &NextLife<'_>,
) -> Result<ContainerConfig, String> {
    let NextLife { record, sandbox, attempt, .. } = *life;
    let places = Places {
        node_name: &cx.config.node_name,
        node_ip: &cx.config.node_ip,
        pod_ip: if sandbox.ip.is_empty() { &cx.config.node_ip } else { &sandbox.ip },
    };
    let env = environment(cx, &places, pod, container).await?;
    let mounts = pod_spec::mounts(pod, container, &env)?;
    let name = name_of(container).to_owned();
    Ok(ContainerConfig {
        attempt,
        image: text(container, "image").to_owned(),
        command: words(&container["command"], &env),
        args: words(&container["args"], &env),
        env,
        working_dir: text(container, "workingDir").to_owned(),
        labels: pod_spec::container_labels(pod, &name).into_iter().collect(),
        annotations: pod_spec::container_annotations(container, attempt).into_iter().collect(),
        mounts,
        resources: pod_spec::resources(pod, container, cx.config.machine.memory),
        security: pod_spec::security(pod, container),
        processes_of: target(record, container)?,
        stdin: container["stdin"] == true,
        stdin_once: container["stdinOnce"] == true,
        tty: container["tty"] == true,
        name,
    })
}

/// The id of the container that an ephemeral one is to look into.
fn target(record: &Record, container: &Value) -> Result<Option<String>, String> {
    let name = text(container, "targetContainerName");
    match record.latest(name).0 {
        _ if name.is_empty() => Ok(None),
        Some(found) => Ok(Some(found.id.clone())),
        None => Err(format!("unable to find target container {name}")),
    }
}
