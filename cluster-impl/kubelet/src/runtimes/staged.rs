//! The simulation's runtime: containers are table entries with a start, a life and an end.
//!
//! It stands for containerd and the kernel of one node, so it outlives the kubelet. Known images are
//! those of testapp; a command line does here what testapp does with it. A runtime of
//! [`StagedRuntime::of_any_image`] takes every other image too: its containers run until they are
//! asked to end. Delays come from the node's [`Env`], hence from the seed.
//! [`StagedRuntime::power_off`] ends all processes but keeps the records, as containerd finds them on
//! its disk after a reboot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use env::{Env, Signal, Timestamp};
use rand::Rng;

use super::script::{self, OnTerm, Script};
pub use super::staged_names::{Answers, ContainerChange};
use super::staged_names::{OnChange, image_id, network_of, new_id, not_found};
use super::staged_tables::{Container, Inner, change};
use super::staged_volumes::Shown;
use crate::runtime::{
    Brief, CONTAINER_NAME_LABEL, ContainerConfig, ContainerRuntime, ContainerState,
    ContainerStatus, HASH_ANNOTATION, Image, PodId, PodVolume, RuntimeConditions, RuntimeError,
    RuntimeVersion, Sandbox, SandboxConfig, full_image_name,
};

/// One node's simulated container runtime.
pub struct StagedRuntime {
    env: Mutex<Env>,
    images: BTreeMap<String, Vec<String>>,
    /// Whether what is no image of testapp can be pulled, and runs for ever.
    takes_any: bool,
    inner: Mutex<Inner>,
    version: Signal,
    on_change: Mutex<Option<OnChange>>,
    /// For tasks that must reach the runtime without keeping it alive.
    pub(super) this: std::sync::Weak<StagedRuntime>,
}

impl StagedRuntime {
    /// A runtime with testapp's images; `env` is the node's: freezing its gate freezes the containers.
    pub fn new(env: Env) -> Arc<Self> {
        Self::with(env, false)
    }

    /// A runtime for which every image exists.
    pub fn of_any_image(env: Env) -> Arc<Self> {
        Self::with(env, true)
    }

    fn with(env: Env, takes_any: bool) -> Arc<Self> {
        let images = script::images().map(|(name, args)| (full_image_name(name), args)).collect();
        Arc::new_cyclic(|this| Self {
            env: Mutex::new(env),
            images,
            takes_any,
            inner: Mutex::default(),
            version: Signal::default(),
            on_change: Mutex::new(None),
            this: this.clone(),
        })
    }

    /// Whether an image is here: testapp's always are, others once they were pulled.
    fn has(&self, image: &str) -> bool {
        self.images.contains_key(image) || self.takes_any && self.lock().pulled.contains(image)
    }

    /// Calls this with every container that starts or ends, when it does.
    pub fn on_change(&self, callback: impl Fn(&ContainerChange) + Send + Sync + 'static) {
        *self.on_change.lock().expect("no callback panics") = Some(Box::new(callback));
    }

    /// Changes how calls are answered. Containers are not touched: they outlive their runtime.
    pub fn set_answers(&self, answers: Answers) {
        self.lock().answers = answers;
        self.touch();
    }

    /// The main process of a container gets SIGKILL. False if it does not run.
    pub fn kill_container(&self, id: &str) -> bool {
        self.end(id, 137, "Error")
    }

    /// The pause process of a sandbox dies. Its containers run on until the kubelet notices.
    pub fn kill_sandbox(&self, id: &str) -> bool {
        let found = match self.lock().sandboxes.get_mut(id) {
            Some(sandbox) if sandbox.ready => {
                sandbox.ready = false;
                true
            }
            _ => false,
        };
        self.touch();
        found
    }

    /// The node loses power: every process ends at once, and the runtime answers no more.
    pub fn power_off(&self) {
        self.lock().powered_off = true;
        let running: Vec<_> = self.running().into_iter().map(|change| change.id).collect();
        for id in running {
            self.end(&id, 255, "Unknown");
        }
        let mut inner = self.lock();
        inner.sandboxes.values_mut().for_each(|sandbox| sandbox.ready = false);
        inner.containers.values_mut().for_each(|container| container.life = None);
        // What was in memory is gone, and the next kubelet writes the rest anew anyway.
        inner.volumes.clear();
        inner.pod_network = None;
        drop(inner);
        self.touch();
    }

    /// The disk of a node without power is emptied: no sandboxes, containers or images are left.
    pub fn lose_disk(&self) {
        let mut inner = self.lock();
        inner.sandboxes.clear();
        inner.containers.clear();
        inner.volumes.clear();
        inner.pulled.clear();
        drop(inner);
        self.touch();
    }

    /// The node starts again; `env` is the new boot's.
    pub fn power_on(&self, env: Env) {
        *self.env.lock().expect("never held over a panic") = env;
        let mut inner = self.lock();
        (inner.powered_off, inner.answers) = (false, Answers::Normally);
        drop(inner);
        self.touch();
    }

    /// The containers that run now, in order of id.
    pub fn running(&self) -> Vec<ContainerChange> {
        self.lock()
            .containers
            .values()
            .filter(|container| container.status.state == ContainerState::Running)
            .map(|container| change(container, None))
            .collect()
    }

    /// What answers at this address and port: the container's command line. `None` if nothing does.
    pub fn serving(&self, ip: &str, port: u16) -> Option<Vec<String>> {
        let inner = self.lock();
        let sandbox = inner.sandboxes.values().find(|sandbox| sandbox.ready && sandbox.ip == ip)?;
        inner
            .containers
            .values()
            .find(|container| {
                container.status.sandbox_id == sandbox.id
                    && container.status.state == ContainerState::Running
                    && container.script.is_some_and(|script| script.serves == Some(port))
            })
            .map(|container| container.command_line.clone())
    }

    /// The files that a container sees of its volumes, by path. None if there is no such container.
    pub fn files(&self, id: &str) -> BTreeMap<String, Vec<u8>> {
        let inner = self.lock();
        inner.containers.get(id).map(|container| inner.files(container)).unwrap_or_default()
    }

    /// The pods that have volumes here, by uid.
    pub fn pods_with_volumes(&self) -> Vec<String> {
        self.lock().volumes.keys().cloned().collect()
    }

    /// Ends the containers that have waited for what is now in a file.
    fn end_those_who_waited(&self, pod_uid: &str) {
        let now = self.env().now();
        let ended = self.lock().those_who_waited(pod_uid, now);
        for id in ended {
            self.end(&id, 0, "Completed");
        }
    }

    /// The line of this number that a container has written.
    pub(super) fn said(&self, id: &str, number: usize) -> Option<(Timestamp, String)> {
        self.lock().containers.get(id)?.log.get(number).cloned()
    }

    /// How many lines a container has written.
    pub(super) fn said_count(&self, id: &str) -> Option<usize> {
        self.lock().containers.get(id).map(|container| container.log.len())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds the tables")
    }

    pub(super) fn env(&self) -> Env {
        self.env.lock().expect("never held over a panic").clone()
    }

    fn touch(&self) {
        self.version.raise();
    }

    fn tell(&self, change: &ContainerChange) {
        if let Some(callback) = &*self.on_change.lock().expect("no callback panics") {
            callback(change);
        }
        self.touch();
    }

    /// Answers as the runtime's process would before it looks at the request.
    pub(super) async fn answer(
        &self,
        label: &str,
        ms: std::ops::Range<u64>,
    ) -> Result<(), RuntimeError> {
        let env = self.env();
        loop {
            let seen = self.version.count();
            let (answers, off) = {
                let inner = self.lock();
                (inner.answers, inner.powered_off)
            };
            match answers {
                Answers::Refused => {
                    return Err(RuntimeError::Unavailable("connection refused".to_owned()));
                }
                Answers::Normally if !off => break,
                // A process that stands still, or a machine without power, says nothing.
                _ => {
                    self.version.after(seen).await;
                }
            }
        }
        let wait = env.entropy(label).random_range(ms);
        if wait > 0 {
            env.sleep(Duration::from_millis(wait)).await;
        }
        Ok(())
    }

    /// Ends a running container.
    fn end(&self, id: &str, exit_code: i32, reason: &str) -> bool {
        let now = self.env().now();
        let mut inner = self.lock();
        let Some(container) = inner.containers.get_mut(id) else { return false };
        if container.status.state != ContainerState::Running {
            return false;
        }
        container.status.state = ContainerState::Exited;
        container.status.finished = Some(now);
        container.status.exit_code = exit_code;
        container.status.reason = reason.to_owned();
        let change = change(container, Some(exit_code));
        drop(inner);
        self.tell(&change);
        true
    }

    /// Lets a container end by itself after a while.
    fn end_later(&self, id: &str, exit_code: i32, after: Duration) {
        let env = self.env();
        let this = self.this.clone();
        let (owned, sleeper) = (id.to_owned(), env.clone());
        let life = env.spawn(async move {
            sleeper.sleep(after).await;
            if let Some(runtime) = this.upgrade() {
                let reason = if exit_code == 0 { "Completed" } else { "Error" };
                runtime.end(&owned, exit_code, reason);
            }
        });
        if let Some(container) = self.lock().containers.get_mut(id) {
            container.life = Some(life);
        }
    }
}

#[async_trait]
impl ContainerRuntime for StagedRuntime {
    async fn version(&self) -> Result<RuntimeVersion, RuntimeError> {
        self.answer("version", 0..1).await?;
        Ok(RuntimeVersion { name: "containerd".to_owned(), version: "1.6.20-staged".to_owned() })
    }

    async fn conditions(&self) -> Result<RuntimeConditions, RuntimeError> {
        self.answer("conditions", 0..1).await?;
        let network_problem = match self.lock().pod_network {
            Some(_) => String::new(),
            None => "cni plugin not initialized".to_owned(),
        };
        Ok(RuntimeConditions { runtime_problem: String::new(), network_problem })
    }

    async fn set_pod_cidr(&self, cidr: &str) -> Result<(), RuntimeError> {
        self.answer("pod-cidr", 0..1).await?;
        let network = network_of(cidr)
            .ok_or_else(|| RuntimeError::Failed(format!("`{cidr}` is no IPv4 range")))?;
        self.lock().pod_network = Some(network);
        self.touch();
        Ok(())
    }

    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String, RuntimeError> {
        self.answer("run-sandbox", 200..400).await?;
        let env = self.env();
        let (id, created) = (new_id(&env), env.now());
        let mut inner = self.lock();
        let ip = if config.host.network { String::new() } else { inner.address()? };
        let sandbox = Sandbox {
            id: id.clone(),
            pod: config.pod.clone(),
            attempt: config.attempt,
            ready: true,
            created,
            ip,
        };
        inner.sandboxes.insert(id.clone(), sandbox);
        drop(inner);
        self.touch();
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.answer("stop-sandbox", 20..60).await?;
        let inside: Vec<_> = {
            let mut inner = self.lock();
            let Some(sandbox) = inner.sandboxes.get_mut(id) else { return Ok(()) };
            sandbox.ready = false;
            let containers = inner.containers.values();
            containers.filter(|c| c.status.sandbox_id == id).map(|c| c.status.id.clone()).collect()
        };
        for container in inside {
            self.end(&container, 137, "Error");
        }
        self.touch();
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.stop_sandbox(id).await?;
        let mut inner = self.lock();
        inner.containers.retain(|_, container| container.status.sandbox_id != id);
        inner.sandboxes.remove(id);
        drop(inner);
        self.touch();
        Ok(())
    }

    async fn sandboxes(&self, pod_uid: &str) -> Result<Vec<Sandbox>, RuntimeError> {
        self.answer("sandboxes", 0..1).await?;
        let inner = self.lock();
        Ok(inner.sandboxes.values().filter(|s| s.pod.uid == pod_uid).cloned().collect())
    }

    async fn set_up_volume(&self, pod: &PodId, volume: &PodVolume) -> Result<(), RuntimeError> {
        // Files are the kubelet's own work: containerd has no part in it.
        let mut inner = self.lock();
        let volumes = inner.volumes.entry(pod.uid.clone()).or_default();
        volumes.insert(volume.name.clone(), volume.clone());
        drop(inner);
        self.end_those_who_waited(&pod.uid);
        Ok(())
    }

    async fn create_container(
        &self,
        sandbox: &Sandbox,
        sandbox_config: &SandboxConfig,
        config: &ContainerConfig,
    ) -> Result<String, RuntimeError> {
        self.answer("create-container", 20..60).await?;
        let image = full_image_name(&config.image);
        let known = self.images.get(&image);
        if known.is_none() && !self.takes_any {
            return Err(not_found("image", &image));
        }
        let env = self.env();
        let (id, now) = (new_id(&env), env.now());
        let mut command_line = config.command.clone();
        if let Some(default_args) = known
            && command_line.is_empty()
        {
            command_line.push("/testapp".to_owned());
            let args = if config.args.is_empty() { default_args } else { &config.args };
            command_line.extend(args.iter().cloned());
        } else {
            command_line.extend(config.args.iter().cloned());
        }
        let name = config.labels.get(CONTAINER_NAME_LABEL).unwrap_or(&config.name).clone();
        let status = ContainerStatus {
            id: id.clone(),
            sandbox_id: sandbox.id.clone(),
            pod_uid: sandbox.pod.uid.clone(),
            name,
            attempt: config.attempt,
            hash: config.annotations.get(HASH_ANNOTATION).cloned().unwrap_or_default(),
            image_id: image_id(&image),
            image,
            state: ContainerState::Created,
            created: now,
            started: None,
            finished: None,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
        };
        let script = match known {
            Some(_) => Script::of(&command_line),
            None => Some(Script::FOR_EVER),
        };
        let pod = sandbox.pod.clone();
        let version = config.env.iter().find(|(name, _)| name == "VERSION");
        let version = version.map_or("", |(_, value)| value.as_str());
        let says = script::says_first(&command_line, &sandbox_config.hostname, version);
        let (terminated, life) = (false, None);
        let mut container = Container {
            status,
            pod,
            command_line,
            mounts: Vec::new(),
            says,
            log: Vec::new(),
            script,
            terminated,
            life,
        };
        let mut inner = self.lock();
        if !inner.sandboxes.get(&sandbox.id).is_some_and(|sandbox| sandbox.ready) {
            return Err(not_found("running sandbox", &sandbox.id));
        }
        if let Some(target) = &config.processes_of {
            inner.check_target(target, &sandbox.id)?;
        }
        let volumes = inner.volumes.get(&sandbox.pod.uid);
        container.mounts = Shown::all(volumes, &config.mounts);
        inner.containers.insert(id.clone(), container);
        drop(inner);
        self.touch();
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.answer("start-container", 30..100).await?;
        let now = self.env().now();
        let mut inner = self.lock();
        let Some(container) = inner.containers.get_mut(id) else {
            return Err(not_found("container", id));
        };
        if container.status.state != ContainerState::Created {
            return Err(RuntimeError::Failed(format!("container {id} was started before")));
        }
        container.status.started = Some(now);
        let Some(script) = container.script else {
            let message = format!(
                "failed to create containerd task: exec: \"{}\": executable file not found in $PATH",
                container.command_line[0]
            );
            container.status.state = ContainerState::Exited;
            container.status.finished = Some(now);
            container.status.exit_code = 128;
            container.status.reason = "StartError".to_owned();
            container.status.message.clone_from(&message);
            drop(inner);
            self.touch();
            return Err(RuntimeError::Failed(message));
        };
        container.status.state = ContainerState::Running;
        container.log.extend(container.says.take().map(|line| (now, line)));
        let change = change(container, None);
        let pod_uid = change.pod.uid.clone();
        inner.read_files(id, now);
        drop(inner);
        if let Some((code, after)) = script.exits {
            self.end_later(id, code, after);
        }
        self.tell(&change);
        self.end_those_who_waited(&pod_uid);
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        self.answer("stop-container", 1..5).await?;
        let now = self.env().now();
        let (script, again) = match self.lock().containers.get_mut(id) {
            Some(c) if c.status.state == ContainerState::Running => {
                c.log.extend(script::says_on_term(&c.command_line).map(|line| (now, line)));
                (c.script, std::mem::replace(&mut c.terminated, true))
            }
            _ => return Ok(()),
        };
        if !again && let Some(Script { on_term: OnTerm::Exits(code, after), .. }) = script {
            self.end_later(id, code, after);
        }
        let ended = async {
            loop {
                let seen = self.version.count();
                let container = self.lock().containers.get(id).map(|c| c.status.state);
                if container != Some(ContainerState::Running) {
                    return;
                }
                self.version.after(seen).await;
            }
        };
        if tokio::time::timeout(grace, ended).await.is_err() {
            self.end(id, 137, "Error");
        }
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.answer("remove-container", 1..10).await?;
        self.end(id, 137, "Error");
        self.lock().containers.remove(id);
        self.touch();
        Ok(())
    }

    async fn containers(&self, pod_uid: &str) -> Result<Vec<ContainerStatus>, RuntimeError> {
        self.answer("containers", 0..1).await?;
        let inner = self.lock();
        let containers = inner.containers.values();
        Ok(containers.filter(|c| c.pod.uid == pod_uid).map(|c| c.status.clone()).collect())
    }

    async fn all(&self) -> Result<Vec<Brief>, RuntimeError> {
        self.answer("all", 0..1).await?;
        let inner = self.lock();
        let sandboxes = inner.sandboxes.values().map(|sandbox| Brief {
            pod: sandbox.pod.clone(),
            id: sandbox.id.clone(),
            container: String::new(),
            state: if sandbox.ready { ContainerState::Running } else { ContainerState::Exited },
        });
        let containers = inner.containers.values().map(|container| Brief {
            pod: container.pod.clone(),
            id: container.status.id.clone(),
            container: container.status.name.clone(),
            state: container.status.state,
        });
        let mut all: Vec<_> = sandboxes.chain(containers).collect();
        all.sort();
        Ok(all)
    }

    async fn image(&self, name: &str) -> Result<Option<Image>, RuntimeError> {
        self.answer("image", 0..1).await?;
        let full = full_image_name(name);
        let known = self.has(&full);
        Ok(known.then(|| Image { id: image_id(&full), tags: vec![full], size: 4_194_304 }))
    }

    async fn images(&self) -> Result<Vec<Image>, RuntimeError> {
        self.answer("images", 0..1).await?;
        let images = self.images.keys().map(|full| Image {
            id: image_id(full),
            tags: vec![full.clone()],
            size: 4_194_304,
        });
        Ok(images.collect())
    }

    async fn pull_image(&self, name: &str) -> Result<String, RuntimeError> {
        let full = full_image_name(name);
        let is_first = self.lock().pulled.insert(full.clone());
        let ms = if is_first { 400..900 } else { 50..150 };
        self.answer("pull-image", ms).await?;
        if self.takes_any || self.images.contains_key(&full) {
            return Ok(image_id(&full));
        }
        Err(RuntimeError::NotFound(format!(
            "rpc error: code = NotFound desc = failed to pull and unpack image \"{full}\": failed to \
             resolve reference \"{full}\": {full}: not found"
        )))
    }

    async fn forget_pod(&self, pod: &PodId) -> Result<(), RuntimeError> {
        self.lock().volumes.remove(&pod.uid);
        Ok(())
    }

    async fn forget_others(&self, uids: &BTreeSet<String>) -> Result<(), RuntimeError> {
        self.lock().volumes.retain(|uid, _| uids.contains(uid));
        Ok(())
    }

    async fn changed(&self, seen: u64) -> u64 {
        self.version.after(seen).await
    }
}
