//! The main loop: changes of pods, of what they use, of the node and of the runtime go to the pod workers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apiclient::{Informed, Informer, ListOptions, Watched};
use env::{Sabotage, Task};
use machinery::kinds::{NODE, POD, SERVICE};
use machinery::{Object, Quantity};
use tokio::sync::{mpsc, watch};

use crate::Shared;
use crate::pod_spec::{app_containers, init_containers};
use crate::runtime::{Brief, RuntimeError};
use crate::volumes::{Users, references};
use crate::worker::{Wish, Worker};

/// So often a runtime is asked again that does not answer.
const RUNTIME_RETRY: Duration = Duration::from_secs(1);
/// A runtime that has not answered by then counts as silent.
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(10);
/// More snapshots than this wait only if the main loop stands still.
const SNAPSHOTS_MAX: usize = 4;
/// More workers than this end at once only if the main loop stands still.
const ENDED_MAX: usize = 64;

struct Handle {
    wishes: watch::Sender<Wish>,
    _task: Task<()>,
}

struct MainLoop {
    cx: Arc<Shared>,
    workers: BTreeMap<String, Handle>,
    ended: mpsc::Sender<String>,
    /// What the runtime had of each pod at the last look.
    seen: BTreeMap<String, Vec<Brief>>,
    own_node: watch::Sender<Option<Arc<Object>>>,
    routes: watch::Sender<BTreeMap<String, String>>,
    users: Users,
    /// Whether what earlier kubelets left behind has been removed.
    has_swept: bool,
}

/// Runs for ever.
pub(crate) async fn run(cx: Arc<Shared>, own_node: watch::Sender<Option<Arc<Object>>>) {
    let (snapshots, mut snapshot) = mpsc::channel(SNAPSHOTS_MAX);
    let _observer = cx.env.spawn(observe_runtime(cx.clone(), snapshots));
    let (routes, route_changes) = watch::channel(BTreeMap::new());
    let _router = cx.env.spawn(keep_routes(cx.clone(), route_changes));
    let (ended, mut ends) = mpsc::channel(ENDED_MAX);
    let mut informer = Informer::new(cx.client.clone(), cx.env.clone(), watched(&cx));
    // Until here an API server has told the pods of this node, nothing may be stopped.
    if !cx.env.sabotaged(Sabotage::KubeletStopsUnlisted) {
        informer.sync().await;
    }
    let mut main = MainLoop {
        cx,
        workers: BTreeMap::new(),
        ended,
        seen: BTreeMap::new(),
        own_node,
        routes,
        users: Users::default(),
        has_swept: false,
    };
    for service in informer.view().all(&SERVICE) {
        main.cx.services.set(&service.key(), Some(service.clone()));
    }
    for node in informer.view().all(&NODE).cloned().collect::<Vec<_>>() {
        main.node_changed(&node, &informer);
    }
    for pod in informer.view().all(&POD).cloned().collect::<Vec<_>>() {
        main.pod_there(pod, &mut informer);
    }
    loop {
        tokio::select! {
            biased;
            uid = ends.recv() => if let Some(uid) = uid { main.worker_ended(&uid) },
            informed = informer.next() => main.informed(informed, &mut informer),
            all = snapshot.recv() => match all {
                Some(all) => main.runtime_changed(all).await,
                None => return,
            },
        }
    }
}

fn watched(cx: &Shared) -> Vec<Watched> {
    let name = &cx.config.node_name;
    let pods = ListOptions { fields: format!("spec.nodeName={name}"), ..ListOptions::default() };
    // Routes need all nodes; who needs none watches only its own.
    let fields = match cx.config.network {
        Some(_) => String::new(),
        None => format!("metadata.name={name}"),
    };
    vec![
        Watched { options: pods, ..Watched::all(&POD) },
        Watched {
            options: ListOptions { fields, ..ListOptions::default() },
            ..Watched::all(&NODE)
        },
        Watched::rare(&SERVICE),
    ]
}

impl MainLoop {
    fn informed(&mut self, informed: Informed, informer: &mut Informer) {
        match informed.kind.id {
            id if id == POD.id => self.pod_changed(informed, informer),
            id if id == NODE.id => {
                if let Some(node) = &informed.new {
                    self.node_changed(node, informer);
                }
            }
            id if id == SERVICE.id => self.cx.services.set(&informed.key, informed.new),
            _ => self.object_changed(informed),
        }
    }

    /// Something that pods use has changed: their workers look whether that concerns them now.
    fn object_changed(&self, informed: Informed) {
        let Informed { kind, key, new, .. } = informed;
        if !self.cx.objects.tell(kind, &key, new) {
            return;
        }
        for uid in self.users.of(kind, &key) {
            if let Some(handle) = self.workers.get(&uid) {
                handle.wishes.send_modify(|_| ());
            }
        }
    }

    fn pod_changed(&mut self, informed: Informed, informer: &mut Informer) {
        let old_uid = informed.old.as_ref().map(|old| old.uid().to_owned());
        let new_uid = informed.new.as_ref().map(|new| new.uid().to_owned());
        if let Some(old) = informed.old
            && old_uid != new_uid
        {
            self.users.set((&self.cx.objects, informer), old.uid(), BTreeSet::new());
            self.pod_gone(old);
        }
        if let Some(pod) = informed.new {
            self.pod_there(pod, informer);
        }
    }

    fn node_changed(&mut self, node: &Arc<Object>, informer: &Informer) {
        if node.name() == self.cx.config.node_name {
            let cidr = node.text("/spec/podCIDR");
            if !cidr.is_empty() {
                self.cx.node.set_pod_cidr(cidr);
            }
            self.own_node.send_replace(Some(node.clone()));
        }
        let routes: BTreeMap<_, _> = informer
            .view()
            .all(&NODE)
            .filter(|other| other.name() != self.cx.config.node_name)
            .filter_map(|other| {
                let addresses = other.list("/status/addresses").iter();
                let internal = addresses.filter(|a| a["type"] == "InternalIP");
                let address = internal.filter_map(|a| a["address"].as_str()).next()?;
                let cidr = other.text("/spec/podCIDR");
                (!cidr.is_empty()).then(|| (cidr.to_owned(), address.to_owned()))
            })
            .collect();
        self.routes.send_if_modified(|known| {
            let changed = *known != routes;
            *known = routes;
            changed
        });
    }

    fn pod_there(&mut self, pod: Arc<Object>, informer: &mut Informer) {
        self.cx.config.pods.insert(&pod);
        let is_over = matches!(pod.text("/status/phase"), "Succeeded" | "Failed");
        let uses = if is_over { BTreeSet::new() } else { references(&pod) };
        self.users.set((&self.cx.objects, informer), pod.uid(), uses);
        let is_late = pod.deletion_timestamp().is_some_and(|at| at < self.cx.env.now());
        if is_late && self.cx.env.sabotaged(Sabotage::LateDeletionIgnored) {
            return;
        }
        if let Some(handle) = self.workers.get(pod.uid()) {
            handle.wishes.send_replace(Wish { pod, gone: false });
            return;
        }
        let rejected = self.rejects(&pod, informer);
        self.start_worker(Wish { pod, gone: false }, rejected);
    }

    fn pod_gone(&mut self, pod: Arc<Object>) {
        if self.cx.env.sabotaged(Sabotage::DeletedPodKept) {
            return;
        }
        match self.workers.get(pod.uid()) {
            Some(handle) => drop(handle.wishes.send_replace(Wish { pod, gone: true })),
            None => self.cx.config.pods.remove(pod.uid()),
        }
    }

    fn start_worker(&mut self, wish: Wish, rejected: Option<(String, String)>) {
        let uid = wish.pod.uid().to_owned();
        let (wishes, receiver) = watch::channel(wish);
        let worker = Worker::new(self.cx.clone(), receiver, rejected);
        let (ended, name) = (self.ended.clone(), uid.clone());
        let task = self.cx.env.spawn(async move {
            worker.run().await;
            let _ = ended.send(name).await;
        });
        self.workers.insert(uid, Handle { wishes, _task: task });
    }

    fn worker_ended(&mut self, uid: &str) {
        self.workers.remove(uid);
        self.cx.config.pods.remove(uid);
        self.cx.statuses.forget(uid);
    }

    /// Wakes the workers whose pods look different now, and removes what no pod of the API owns.
    async fn runtime_changed(&mut self, all: Vec<Brief>) {
        let mut now: BTreeMap<String, Vec<Brief>> = BTreeMap::new();
        for brief in all {
            now.entry(brief.pod.uid.clone()).or_default().push(brief);
        }
        let uids: BTreeSet<_> = now.keys().chain(self.seen.keys()).cloned().collect();
        for uid in uids {
            if let Some(handle) = self.workers.get(&uid) {
                if now.get(&uid) != self.seen.get(&uid) {
                    handle.wishes.send_modify(|_| ());
                }
            } else if let Some(brief) = now.get(&uid).and_then(|briefs| briefs.first()) {
                tracing::info!(pod = %brief.pod.name, uid, "removing a pod that the API does not know");
                let mut pod = Object::new("v1", "Pod", &brief.pod.namespace, &brief.pod.name);
                pod.set("/metadata/uid", uid.as_str());
                self.start_worker(Wish { pod: Arc::new(pod), gone: true }, None);
            }
        }
        self.seen = now;
        if !self.has_swept {
            // Everybody whom the API or the runtime knows has a worker by now.
            let uids = self.workers.keys().cloned().collect();
            match self.cx.runtime.forget_others(&uids).await {
                Ok(()) => self.has_swept = true,
                Err(error) => tracing::debug!(%error, "old volumes are not removed"),
            }
        }
    }

    /// Why the node cannot take a new pod (upstream's OutOfcpu and OutOfmemory).
    fn rejects(&self, pod: &Object, informer: &Informer) -> Option<(String, String)> {
        if !pod.text("/status/startTime").is_empty() || pod.is_terminating() {
            return None;
        }
        let machine = &self.cx.config.machine;
        let others = informer.view().all(&POD).filter(|other| {
            other.uid() != pod.uid()
                && self.workers.contains_key(other.uid())
                && !matches!(other.text("/status/phase"), "Succeeded" | "Failed")
        });
        let others: Vec<_> = others.collect();
        for (name, capacity) in [("cpu", machine.cpu_milli), ("memory", machine.memory * 1000)] {
            let asked = request_milli(pod, name);
            let used: i64 = others.iter().map(|other| request_milli(other, name)).sum();
            if asked > 0 && asked.saturating_add(used) > capacity {
                // cpu is told in thousandths, memory in bytes.
                let unit = if name == "cpu" { 1 } else { 1000 };
                let message = format!(
                    "Node didn't have enough resource: {name}, requested: {}, used: {}, capacity: {}",
                    asked / unit,
                    used / unit,
                    capacity / unit
                );
                return Some((format!("OutOf{name}"), message));
            }
        }
        None
    }
}

/// What a pod asks for, in thousandths: the sum of its containers, or its largest init container.
fn request_milli(pod: &Object, name: &str) -> i64 {
    let of = |container: &serde_json::Value| {
        let resources = &container["resources"];
        Quantity::from_value(&resources["requests"][name])
            .or_else(|| Quantity::from_value(&resources["limits"][name]))
            .map_or(0, |amount| amount.milli_value())
    };
    let sum: i64 = app_containers(pod).iter().map(of).fold(0, i64::saturating_add);
    let init = init_containers(pod).iter().map(of).max().unwrap_or_default();
    sum.max(init)
}

/// Watches the runtime: tells what it has whenever that may have changed, and how it is.
async fn observe_runtime(cx: Arc<Shared>, snapshots: mpsc::Sender<Vec<Brief>>) {
    let mut version = 0;
    let mut last: Option<Vec<Brief>> = None;
    loop {
        let look = tokio::time::timeout(RUNTIME_TIMEOUT, look_at_runtime(&cx)).await;
        let unavailable = || RuntimeError::Unavailable("no answer in time".to_owned());
        match look.map_err(|_| unavailable()).flatten() {
            Ok(all) => {
                cx.config.health.set(None);
                if last.as_ref() != Some(&all) {
                    last = Some(all.clone());
                    if snapshots.send(all).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    biased;
                    now = cx.runtime.changed(version) => version = now,
                    () = cx.node.pod_cidr_known.notified() => {}
                }
            }
            Err(error) => {
                let was_ready =
                    cx.node.problem(cx.env.instant(), cx.config.runtime_grace).is_empty();
                tracing::debug!(%error, "the runtime does not answer");
                cx.node.runtime_silent(cx.env.instant());
                cx.config.health.set(cx.node.silent_since());
                cx.env.sleep(RUNTIME_RETRY).await;
                let is_ready =
                    cx.node.problem(cx.env.instant(), cx.config.runtime_grace).is_empty();
                if was_ready && !is_ready {
                    cx.node.changed.notify_one();
                }
            }
        }
    }
}

async fn look_at_runtime(cx: &Shared) -> Result<Vec<Brief>, RuntimeError> {
    let runtime_version = cx.runtime.version().await?;
    let mut conditions = cx.runtime.conditions().await?;
    let pod_cidr = cx.node.pod_cidr();
    if !conditions.network_problem.is_empty() && !pod_cidr.is_empty() {
        if let Some(network) = &cx.config.network {
            let laid = network.set_own_range(&pod_cidr).await;
            laid.map_err(|error| RuntimeError::Failed(error.to_string()))?;
        }
        cx.runtime.set_pod_cidr(&pod_cidr).await?;
        conditions = cx.runtime.conditions().await?;
    } else if pod_cidr.is_empty() {
        conditions.network_problem = "the node has no podCIDR".to_owned();
    }
    if !conditions.runtime_problem.is_empty() {
        return Err(RuntimeError::Unavailable(conditions.runtime_problem));
    }
    cx.node.runtime_answered(runtime_version, conditions.network_problem);
    cx.runtime.all().await
}

/// Keeps the routes to the other nodes' pods.
async fn keep_routes(cx: Arc<Shared>, mut changes: watch::Receiver<BTreeMap<String, String>>) {
    let Some(network) = cx.config.network.clone() else { return };
    loop {
        let routes = changes.borrow_and_update().clone();
        let retry = match network.set_routes(&routes).await {
            Ok(()) => Duration::from_secs(60),
            Err(error) => {
                tracing::warn!(%error, "routes to other nodes' pods are missing");
                Duration::from_secs(1)
            }
        };
        tokio::select! {
            biased;
            changed = changes.changed() => if changed.is_err() { return },
            () = cx.env.sleep(retry) => {}
        }
    }
}
