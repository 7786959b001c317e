//! The kubelet: runs the pods that are bound to its node and tells the API server how they are.
//!
//! One main loop hands changes of pods, of the runtime and of the node to one worker per pod.
//! Invariants: nothing is stopped or removed before the pods of this node were read from an API
//! server once, so a kubelet without an API server leaves everything running; containers belong to
//! the runtime and outlive the kubelet, which finds them again by their labels.

pub mod access;
mod backoff;
mod decide;
mod downward;
mod environment;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod heartbeat;
mod main_loop;
pub mod network;
mod node;
mod pod_spec;
mod reports;
pub mod runtime;
pub mod runtimes;
pub mod server;
mod services;
mod status;
mod volumes;
mod worker;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use apiclient::{ApiClient, EventRecorder};
use env::Env;
use machinery::Object;
use tokio::sync::watch;
use tokio::time::Instant;

pub use network::PodNetwork;
pub use node::MachineFacts;
pub use pod_spec::ClusterDns;
pub use runtime::ContainerRuntime;

use node::NodeState;
use reports::{Events, Statuses};

/// The version that nodes report.
pub const VERSION: &str = "v1.33.0+shakedown";

/// How a kubelet runs.
#[derive(Clone)]
pub struct Config {
    /// The name of its Node object.
    pub node_name: String,
    /// Its address.
    pub node_ip: String,
    /// Its host name.
    pub hostname: String,
    /// What `nodeInfo.kubeletVersion` says.
    pub kubelet_version: String,
    /// Labels beside those that every node has.
    pub node_labels: BTreeMap<String, String>,
    /// What the machine is.
    pub machine: MachineFacts,
    /// How often the lease is renewed; it is good for four times as long.
    pub heartbeat: Duration,
    /// How often the node's status is computed (`nodeStatusUpdateFrequency`).
    pub status_frequency: Duration,
    /// How often it is reported if nothing has changed (`nodeStatusReportFrequency`).
    pub status_report_frequency: Duration,
    /// How long the runtime may be silent before the node is not ready.
    pub runtime_grace: Duration,
    /// How pods resolve names.
    pub dns: ClusterDns,
    /// Lays the pod network on a real node; a simulated one needs none.
    pub network: Option<Arc<dyn PodNetwork>>,
    /// The port of its own server, as its Node tells it.
    pub port: u16,
    /// Tells others how the kubelet is.
    pub health: Health,
    /// Tells others which pods it has.
    pub pods: Pods,
}

impl Config {
    /// The documented defaults for a node of this name and address.
    pub fn new(node_name: &str, node_ip: &str, machine: MachineFacts) -> Self {
        Self {
            node_name: node_name.to_owned(),
            node_ip: node_ip.to_owned(),
            hostname: node_name.to_owned(),
            kubelet_version: VERSION.to_owned(),
            node_labels: BTreeMap::new(),
            machine,
            heartbeat: Duration::from_secs(10),
            status_frequency: Duration::from_secs(10),
            status_report_frequency: Duration::from_secs(300),
            runtime_grace: Duration::from_secs(30),
            dns: ClusterDns::default(),
            network: None,
            port: server::PORT,
            health: Health::default(),
            pods: Pods::default(),
        }
    }
}

/// For so long the runtime may be silent before the kubelet calls itself unhealthy (upstream's
/// relist threshold).
const UNHEALTHY_AFTER: Duration = Duration::from_secs(180);

/// How the kubelet is, for `/healthz`. Cheap to clone.
#[derive(Clone, Default)]
pub struct Health {
    state: Arc<Mutex<Option<HealthState>>>,
}

#[derive(Clone, Copy)]
struct HealthState {
    silent_since: Option<Instant>,
}

impl Health {
    /// Whether the kubelet runs and its runtime has answered within the last three minutes.
    pub fn is_healthy(&self) -> bool {
        let state = *self.state.lock().expect("no code panics while it holds the state");
        state.is_some_and(|state| {
            state.silent_since.is_none_or(|since| since.elapsed() < UNHEALTHY_AFTER)
        })
    }

    pub(crate) fn set(&self, silent_since: Option<Instant>) {
        *self.state.lock().expect("no code panics while it holds the state") =
            Some(HealthState { silent_since });
    }
}

/// The pods of a kubelet as the API has them, by uid. Cheap to clone.
#[derive(Clone, Default)]
pub struct Pods {
    all: Arc<Mutex<BTreeMap<String, Arc<Object>>>>,
}

impl Pods {
    /// The pod of this name; of several, the latest that is not terminating.
    pub(crate) fn named(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let all = self.lock();
        let named = all.values().filter(|pod| (pod.namespace(), pod.name()) == (namespace, name));
        named.max_by_key(|pod| (!pod.is_terminating(), pod.uid())).cloned()
    }

    /// All of them, in order of uid.
    pub(crate) fn all(&self) -> Vec<Arc<Object>> {
        self.lock().values().cloned().collect()
    }

    pub(crate) fn insert(&self, pod: &Arc<Object>) {
        self.lock().insert(pod.uid().to_owned(), pod.clone());
    }

    pub(crate) fn remove(&self, uid: &str) {
        self.lock().remove(uid);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Object>>> {
        self.all.lock().expect("no code panics while it holds the pods")
    }
}

/// What all parts of one kubelet share.
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) client: ApiClient,
    pub(crate) runtime: Arc<dyn ContainerRuntime>,
    pub(crate) config: Config,
    pub(crate) events: Events,
    pub(crate) statuses: Statuses,
    pub(crate) node: NodeState,
    /// The ConfigMaps and Secrets that pods of this node use.
    pub(crate) objects: volumes::Objects,
    pub(crate) services: services::Services,
}

/// Runs a kubelet. It never returns by itself.
pub async fn run(env: Env, client: ApiClient, runtime: Arc<dyn ContainerRuntime>, config: Config) {
    let (events, queue) = Events::new();
    let recorder = EventRecorder::new(client.clone(), env.clone(), "kubelet", &config.node_name);
    config.health.set(None);
    let cx = Arc::new(Shared {
        env: env.clone(),
        client,
        runtime,
        config,
        events,
        statuses: Statuses::default(),
        node: NodeState::new(),
        objects: volumes::Objects::default(),
        services: services::Services::default(),
    });
    let (own_node, own_node_seen) = watch::channel(None);
    let statuses = cx.clone();
    // Dropped, and thereby ended, together with this future.
    let _tasks = [
        env.spawn(reports::record_events(recorder, queue)),
        env.spawn(async move { statuses.statuses.run(&statuses.env, &statuses.client).await }),
        env.spawn(heartbeat::report_node(cx.clone(), own_node_seen)),
        env.spawn(heartbeat::renew_lease(cx.clone())),
    ];
    main_loop::run(cx, own_node).await;
}
