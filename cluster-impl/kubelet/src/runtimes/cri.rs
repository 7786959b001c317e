//! CRI v1 over a unix socket, to containerd: the only door to CRI.
//!
//! What CRI leaves to the kubelet happens here too: log folders, `/etc/hosts`, the pods' cgroup folders
//! (`cri_files.rs`) and their volumes (`cri_volumes.rs`). Containers are found again by labels, so their ids stay
//! the same across restarts of the kubelet.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use env::{Env, Timestamp};
use hyper_util::rt::TokioIo;
use k8s_cri::v1 as cri;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use rand::Rng;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use super::cri_files::{self, Places};
use crate::runtime::{
    Brief, CONTAINER_NAME_LABEL, ContainerConfig, ContainerRuntime, ContainerState,
    ContainerStatus, HASH_ANNOTATION, Image, POD_NAME_LABEL, POD_NAMESPACE_LABEL, POD_UID_LABEL,
    PodId, PodVolume, RESTART_COUNT_ANNOTATION, RuntimeConditions, RuntimeError, RuntimeVersion,
    Sandbox, SandboxConfig, full_image_name,
};

/// Questions are answered within this time, or the runtime counts as silent.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Work may take as long as upstream's runtimeRequestTimeout.
pub(super) const WORK_TIMEOUT: Duration = Duration::from_secs(120);
/// Pulling an image may take longer.
const PULL_TIMEOUT: Duration = Duration::from_secs(600);
/// How often the runtime is looked at: containerd 1.6 tells no events over CRI.
const RELIST_PERIOD: Duration = Duration::from_secs(1);
/// A list of many containers is longer than gRPC's 4 MiB.
const MESSAGE_MAX: usize = 16 << 20;

/// Where images come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImageSource {
    /// From their registries.
    #[default]
    Registry,
    /// There is no registry: images were imported beforehand, and a pull only looks for them.
    Imported,
}

/// How to reach a runtime.
#[derive(Debug, Clone)]
pub struct CriConfig {
    /// The socket, such as `/run/containerd/containerd.sock`.
    pub socket: PathBuf,
    /// The kubelet's own folder, such as `/var/lib/kubelet`.
    pub root_dir: PathBuf,
    /// Where pods' logs go, such as `/var/log/pods`.
    pub log_dir: PathBuf,
    /// The cgroup above all pods, such as `/kubepods`.
    pub cgroup_root: String,
    /// Where images come from.
    pub images: ImageSource,
}

impl CriConfig {
    /// The usual places, for a runtime at this socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            root_dir: "/var/lib/kubelet".into(),
            log_dir: "/var/log/pods".into(),
            cgroup_root: "/kubepods".to_owned(),
            images: ImageSource::default(),
        }
    }
}

/// A runtime behind CRI v1.
pub struct CriRuntime {
    env: Env,
    config: CriConfig,
    pub(super) places: Places,
    pub(super) runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl CriRuntime {
    /// A runtime at this socket; it connects with the first request, and again after a loss.
    /// Must be called within a tokio runtime with I/O.
    pub fn new(env: Env, config: CriConfig) -> Self {
        let socket = config.socket.clone();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        let channel =
            Endpoint::from_static("http://containerd").connect_with_connector_lazy(connector);
        let places = Places {
            root_dir: config.root_dir.clone(),
            log_dir: config.log_dir.clone(),
            cgroup_root: config.cgroup_root.clone(),
        };
        Self {
            env,
            config,
            places,
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_MAX),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX),
        }
    }

    async fn list_containers(
        &self,
        label: Option<(&str, &str)>,
    ) -> Result<Vec<cri::Container>, RuntimeError> {
        let filter = cri::ContainerFilter { label_selector: selector(label), ..Default::default() };
        let request = cri::ListContainersRequest { filter: Some(filter) };
        let mut client = self.runtime.clone();
        Ok(within(ASK_TIMEOUT, client.list_containers(request)).await?.containers)
    }

    async fn list_sandboxes(
        &self,
        label: Option<(&str, &str)>,
    ) -> Result<Vec<cri::PodSandbox>, RuntimeError> {
        let filter =
            cri::PodSandboxFilter { label_selector: selector(label), ..Default::default() };
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        let mut client = self.runtime.clone();
        Ok(within(ASK_TIMEOUT, client.list_pod_sandbox(request)).await?.items)
    }

    async fn container_status(&self, id: &str) -> Result<Option<ContainerStatus>, RuntimeError> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let mut client = self.runtime.clone();
        match within(ASK_TIMEOUT, client.container_status(request)).await {
            Ok(response) => Ok(response.status.map(|status| read_status(&status))),
            Err(RuntimeError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn selector<M: FromIterator<(String, String)>>(label: Option<(&str, &str)>) -> M {
    label.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Awaits an answer, but not for ever.
pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, RuntimeError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(error_of(&status)),
        Err(_) => Err(RuntimeError::Unavailable(format!("no answer within {} s", limit.as_secs()))),
    }
}

fn error_of(status: &tonic::Status) -> RuntimeError {
    let message = status.message().to_owned();
    match status.code() {
        tonic::Code::NotFound => RuntimeError::NotFound(message),
        tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => {
            RuntimeError::Unavailable(message)
        }
        // A connection that breaks while a request is under way.
        tonic::Code::Unknown if message.contains("transport error") => {
            RuntimeError::Unavailable(message)
        }
        _ => RuntimeError::Failed(message),
    }
}

/// What is not there needs no removal.
fn gone_is_fine(result: Result<(), RuntimeError>) -> Result<(), RuntimeError> {
    match result {
        Err(RuntimeError::NotFound(_)) => Ok(()),
        other => other,
    }
}

fn instant(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()).flatten()
}

fn read_state(state: cri::ContainerState) -> ContainerState {
    match state {
        cri::ContainerState::ContainerCreated => ContainerState::Created,
        cri::ContainerState::ContainerRunning => ContainerState::Running,
        cri::ContainerState::ContainerExited => ContainerState::Exited,
        cri::ContainerState::ContainerUnknown => ContainerState::Unknown,
    }
}

fn brief(container: &cri::Container) -> Brief {
    let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
    Brief {
        pod: PodId {
            namespace: label(POD_NAMESPACE_LABEL),
            name: label(POD_NAME_LABEL),
            uid: label(POD_UID_LABEL),
        },
        id: container.id.clone(),
        container: label(CONTAINER_NAME_LABEL),
        state: read_state(container.state()),
    }
}

fn read_status(status: &cri::ContainerStatus) -> ContainerStatus {
    let label = |key: &str| status.labels.get(key).cloned().unwrap_or_default();
    let annotation = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
    let made_as = status.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    let state = read_state(status.state());
    let created = instant(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH);
    let (started, ended) = (instant(status.started_at), instant(status.finished_at));
    // containerd does not know when a container ended that a reboot took away.
    let finished = (state == ContainerState::Exited).then(|| ended.or(started).unwrap_or(created));
    ContainerStatus {
        id: status.id.clone(),
        sandbox_id: String::new(),
        pod_uid: label(POD_UID_LABEL),
        name: label(CONTAINER_NAME_LABEL),
        attempt: annotation(RESTART_COUNT_ANNOTATION).parse().unwrap_or(made_as),
        hash: annotation(HASH_ANNOTATION),
        image: status.image.as_ref().map(|image| image.image.clone()).unwrap_or_default(),
        image_id: status.image_ref.clone(),
        state,
        created,
        // containerd notes a start after the process runs: one that ends at once has ended before.
        started: started.map(|start| finished.map_or(start, |end| start.min(end))),
        finished,
        exit_code: status.exit_code,
        reason: status.reason.clone(),
        message: status.message.clone(),
    }
}

fn pod_of(metadata: Option<&cri::PodSandboxMetadata>) -> PodId {
    metadata.map_or_else(PodId::default, |metadata| PodId {
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
    })
}

#[async_trait]
impl ContainerRuntime for CriRuntime {
    async fn version(&self) -> Result<RuntimeVersion, RuntimeError> {
        let request = cri::VersionRequest { version: "v1".to_owned() };
        let answer = within(ASK_TIMEOUT, self.runtime.clone().version(request)).await?;
        Ok(RuntimeVersion { name: answer.runtime_name, version: answer.runtime_version })
    }

    async fn conditions(&self) -> Result<RuntimeConditions, RuntimeError> {
        let request = cri::StatusRequest { verbose: false };
        let answer = within(ASK_TIMEOUT, self.runtime.clone().status(request)).await?;
        let conditions = answer.status.map(|status| status.conditions).unwrap_or_default();
        let problem = |name: &str| {
            let found = conditions.iter().find(|condition| condition.r#type == name);
            match found {
                Some(condition) if condition.status => String::new(),
                Some(condition) => match condition.message.as_str() {
                    "" => format!("{name} is false"),
                    message => message.to_owned(),
                },
                None => format!("the runtime does not tell {name}"),
            }
        };
        Ok(RuntimeConditions {
            runtime_problem: problem("RuntimeReady"),
            network_problem: problem("NetworkReady"),
        })
    }

    async fn set_pod_cidr(&self, cidr: &str) -> Result<(), RuntimeError> {
        let network_config = cri::NetworkConfig { pod_cidr: cidr.to_owned() };
        let runtime_config = cri::RuntimeConfig { network_config: Some(network_config) };
        let request = cri::UpdateRuntimeConfigRequest { runtime_config: Some(runtime_config) };
        within(ASK_TIMEOUT, self.runtime.clone().update_runtime_config(request)).await?;
        Ok(())
    }

    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String, RuntimeError> {
        self.places.prepare_pod(&config.pod).await?;
        let request = cri::RunPodSandboxRequest {
            config: Some(cri_files::sandbox_config(&self.places, config)),
            runtime_handler: String::new(),
        };
        let mut client = self.runtime.clone();
        Ok(within(WORK_TIMEOUT, client.run_pod_sandbox(request)).await?.pod_sandbox_id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let mut client = self.runtime.clone();
        gone_is_fine(within(WORK_TIMEOUT, client.stop_pod_sandbox(request)).await.map(|_| ()))
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.stop_sandbox(id).await?;
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let mut client = self.runtime.clone();
        gone_is_fine(within(WORK_TIMEOUT, client.remove_pod_sandbox(request)).await.map(|_| ()))
    }

    async fn sandboxes(&self, pod_uid: &str) -> Result<Vec<Sandbox>, RuntimeError> {
        let mut sandboxes = Vec::new();
        for item in self.list_sandboxes(Some((POD_UID_LABEL, pod_uid))).await? {
            let request =
                cri::PodSandboxStatusRequest { pod_sandbox_id: item.id.clone(), verbose: false };
            let mut client = self.runtime.clone();
            let status = match within(ASK_TIMEOUT, client.pod_sandbox_status(request)).await {
                Ok(answer) => answer.status,
                Err(RuntimeError::NotFound(_)) => continue,
                Err(error) => return Err(error),
            };
            sandboxes.push(Sandbox {
                pod: pod_of(item.metadata.as_ref()),
                attempt: item.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
                ready: item.state() == cri::PodSandboxState::SandboxReady,
                created: instant(item.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
                ip: status.and_then(|s| s.network).map(|network| network.ip).unwrap_or_default(),
                id: item.id,
            });
        }
        sandboxes.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(sandboxes)
    }

    async fn set_up_volume(&self, pod: &PodId, volume: &PodVolume) -> Result<(), RuntimeError> {
        let number = self.env.entropy("volume").random_range(0..u32::MAX);
        let stamp = format!("{}.{number}", self.env.now().strftime("%Y_%m_%d_%H_%M_%S"));
        self.places.set_up_volume(pod, volume, &stamp)
    }

    async fn create_container(
        &self,
        sandbox: &Sandbox,
        sandbox_config: &SandboxConfig,
        config: &ContainerConfig,
    ) -> Result<String, RuntimeError> {
        self.places.prepare_container(&sandbox.pod, config).await?;
        let hosts = self.places.write_hosts(sandbox, sandbox_config).await?;
        let container_config =
            cri_files::container_config(&self.places, sandbox_config, config, hosts)?;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(container_config),
            sandbox_config: Some(cri_files::sandbox_config(&self.places, sandbox_config)),
        };
        let mut client = self.runtime.clone();
        Ok(within(WORK_TIMEOUT, client.create_container(request)).await?.container_id)
    }

    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        within(WORK_TIMEOUT, self.runtime.clone().start_container(request)).await?;
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout };
        let limit = grace.saturating_add(WORK_TIMEOUT);
        let mut client = self.runtime.clone();
        gone_is_fine(within(limit, client.stop_container(request)).await.map(|_| ()))
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = cri::RemoveContainerRequest { container_id: id.to_owned() };
        let mut client = self.runtime.clone();
        gone_is_fine(within(WORK_TIMEOUT, client.remove_container(request)).await.map(|_| ()))
    }

    async fn containers(&self, pod_uid: &str) -> Result<Vec<ContainerStatus>, RuntimeError> {
        let mut containers = Vec::new();
        for item in self.list_containers(Some((POD_UID_LABEL, pod_uid))).await? {
            if let Some(mut status) = self.container_status(&item.id).await? {
                status.sandbox_id = item.pod_sandbox_id;
                containers.push(status);
            }
        }
        containers.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(containers)
    }

    async fn all(&self) -> Result<Vec<Brief>, RuntimeError> {
        let sandboxes = self.list_sandboxes(None).await?;
        let containers = self.list_containers(None).await?;
        let sandboxes = sandboxes.iter().map(|item| Brief {
            pod: pod_of(item.metadata.as_ref()),
            id: item.id.clone(),
            container: String::new(),
            state: match item.state() {
                cri::PodSandboxState::SandboxReady => ContainerState::Running,
                cri::PodSandboxState::SandboxNotready => ContainerState::Exited,
            },
        });
        let containers = containers.iter().map(brief);
        let mut all: Vec<_> = sandboxes.chain(containers).collect();
        all.sort();
        Ok(all)
    }

    async fn image(&self, name: &str) -> Result<Option<Image>, RuntimeError> {
        let image = cri::ImageSpec { image: full_image_name(name), ..Default::default() };
        let request = cri::ImageStatusRequest { image: Some(image), verbose: false };
        let answer = within(ASK_TIMEOUT, self.images.clone().image_status(request)).await?;
        Ok(answer.image.map(read_image))
    }

    async fn images(&self) -> Result<Vec<Image>, RuntimeError> {
        let request = cri::ListImagesRequest { filter: None };
        let answer = within(ASK_TIMEOUT, self.images.clone().list_images(request)).await?;
        let mut images: Vec<_> = answer.images.into_iter().map(read_image).collect();
        images.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(images)
    }

    async fn pull_image(&self, name: &str) -> Result<String, RuntimeError> {
        let full = full_image_name(name);
        if self.config.images == ImageSource::Imported {
            let there = self.image(name).await?;
            return there.map(|image| image.id).ok_or_else(|| {
                RuntimeError::NotFound(format!(
                    "failed to resolve reference \"{full}\": {full}: not found among the imported images"
                ))
            });
        }
        let image = cri::ImageSpec { image: full, ..Default::default() };
        let request =
            cri::PullImageRequest { image: Some(image), auth: None, sandbox_config: None };
        Ok(within(PULL_TIMEOUT, self.images.clone().pull_image(request)).await?.image_ref)
    }

    async fn forget_pod(&self, pod: &PodId) -> Result<(), RuntimeError> {
        self.places.forget_pod(pod).await;
        Ok(())
    }

    async fn forget_others(&self, uids: &BTreeSet<String>) -> Result<(), RuntimeError> {
        self.places.remove_other_pod_dirs(uids);
        Ok(())
    }

    async fn changed(&self, seen: u64) -> u64 {
        self.env.sleep(RELIST_PERIOD).await;
        seen + 1
    }
}

fn read_image(image: cri::Image) -> Image {
    Image { id: image.id, tags: image.repo_tags, size: image.size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lived_between_two_looks_looks_different() {
        let at = |state: cri::ContainerState| {
            brief(&cri::Container { id: "a".to_owned(), state: state.into(), ..Default::default() })
        };
        let (made, ended) =
            (at(cri::ContainerState::ContainerCreated), at(cri::ContainerState::ContainerExited));
        assert!(!made.is_running() && !ended.is_running());
        assert_ne!(made, ended, "the kubelet looks again only at what has changed");
        assert!(at(cri::ContainerState::ContainerRunning).is_running());
    }

    #[test]
    fn a_container_never_ends_before_it_starts() {
        let told = |started_at, finished_at| {
            let state = cri::ContainerState::ContainerExited.into();
            let status = cri::ContainerStatus {
                created_at: 10,
                started_at,
                finished_at,
                state,
                ..Default::default()
            };
            let read = read_status(&status);
            let nanoseconds = |at: Option<Timestamp>| at.map(Timestamp::as_nanosecond);
            (nanoseconds(read.started), nanoseconds(read.finished))
        };
        assert_eq!(told(20, 30), (Some(20), Some(30)));
        assert_eq!(told(30, 20), (Some(20), Some(20)), "noted as started when it had ended");
        assert_eq!(told(20, 0), (Some(20), Some(20)), "a reboot took it away");
        assert_eq!(told(0, 20), (None, Some(20)), "it could not be started");
        assert_eq!(told(0, 0), (None, Some(10)));
    }
}
