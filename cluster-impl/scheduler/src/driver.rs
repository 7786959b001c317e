//! The scheduler's loop: elects, informs itself, chooses for one pod at a time, binds beside that.
//!
//! What was seen comes first, then what was answered, then the next pod. A binding without an answer
//! keeps its pod assumed until the API server says what became of it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use apiclient::{
    ApiClient, ApiError, Elector, EventRecorder, Informed, Informer, PatchKind, Watched,
};
use env::{Env, Sabotage};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use machinery::kinds::{NODE, POD};
use machinery::{Object, ObjectKey, View, conditions};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::pending::Pending;
use crate::{Config, FitError, PodInfo, schedule_from};

/// Waits between looks at a pod whose binding had no answer.
const LOOK_FIRST: Duration = Duration::from_millis(500);
const LOOK_MOST: Duration = Duration::from_secs(5);

/// Stands for election, then schedules; returns when leadership is lost: the process must then end
/// and be started anew.
pub async fn run(env: Env, client: ApiClient, config: Config) {
    let mut elector = Elector::new(client.clone(), env.clone(), config.elector.clone());
    let fence = elector.acquire().await;
    tracing::info!(%fence, "leading");
    let mut hold = pin!(elector.hold());
    let client = client.fenced(fence);
    tokio::select! {
        biased;
        () = &mut hold => {}
        () = lead(env, client, config) => {}
    }
    tracing::warn!("leadership lost");
}

/// Schedules for ever.
async fn lead(env: Env, client: ApiClient, config: Config) {
    let watched = vec![Watched::all(&NODE), Watched::all(&POD)];
    let mut informer = Informer::new(client.clone(), env.clone(), watched);
    informer.sync().await;
    let mut driver = Driver::new(env, client, config);
    while let Some(change) = informer.try_next() {
        driver.changed(&change);
    }
    loop {
        let until_due = driver.until_due();
        tokio::select! {
            biased;
            change = informer.next() => driver.changed(&change),
            Some(done) = driver.under_way.next() => driver.done(done),
            () = until_due => driver.turn(informer.view()),
        }
    }
}

/// What became of something under way.
enum Done {
    /// The pod is bound.
    Bound(ObjectKey),
    /// The pod is not bound.
    Failed(ObjectKey),
    /// A report about a pod was sent.
    Reported,
}

struct Driver {
    env: Env,
    client: ApiClient,
    config: Config,
    began: tokio::time::Instant,
    recorder: EventRecorder,
    random: ChaCha8Rng,
    /// The node to begin with in the next turn.
    start: String,
    cache: Cache,
    pending: Pending,
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
}

impl Driver {
    fn new(env: Env, client: ApiClient, config: Config) -> Self {
        let host = config.elector.identity.split('_').next().unwrap_or_default();
        Self {
            recorder: EventRecorder::new(client.clone(), env.clone(), &config.scheduler_name, host),
            random: env.entropy("scheduler"),
            start: String::new(),
            began: env.instant(),
            env,
            client,
            config,
            cache: Cache::default(),
            pending: Pending::default(),
            under_way: FuturesUnordered::new(),
        }
    }

    fn elapsed(&self) -> Duration {
        self.env.instant() - self.began
    }

    fn changed(&mut self, change: &Informed) {
        let now = self.elapsed();
        let (old, new) = (change.old.as_ref(), change.new.as_ref());
        if change.kind.id == NODE.id {
            if new.is_none() && self.env.sabotaged(Sabotage::GoneNodeChosen) {
                return;
            }
            if is_news(old, new) && self.env.sabotaged(Sabotage::PendingNotWoken) {
                self.cache.set_node(&change.key.name, new.cloned());
            } else if is_news(old, new) {
                self.cache.set_node(&change.key.name, new.cloned());
                self.pending.wake(now);
            }
            return;
        }
        self.cache.set_pod(&change.key, new);
        if old.is_some_and(|old| takes_room(old)) && !new.is_some_and(|new| takes_room(new)) {
            self.pending.wake(now);
        }
        let Some(pod) = new.filter(|pod| self.is_mine(pod)) else {
            self.pending.remove(&change.key);
            return;
        };
        if self.cache.has(&change.key) {
            return;
        }
        let is_same_pod = old.is_some_and(|old| old.uid() == pod.uid());
        if !is_same_pod {
            self.pending.remove(&change.key);
        }
        let is_changed = old.is_none_or(|old| {
            ["/spec", "/metadata/labels"].iter().any(|part| old.get(part) != pod.get(part))
        });
        if !is_same_pod || is_changed {
            let priority = pod.integer("/spec/priority").unwrap_or_default();
            self.pending.add(&change.key, priority, now);
        }
    }

    /// Whether a pod waits for this scheduler to choose a node.
    fn is_mine(&self, pod: &Object) -> bool {
        let name = pod.text("/spec/schedulerName");
        (name.is_empty() || name == self.config.scheduler_name)
            && pod.text("/spec/nodeName").is_empty()
            && !pod.is_terminating()
            && pod.list("/spec/schedulingGates").is_empty()
            && !machinery::pod::is_finished(pod)
    }

    /// Ends when the next pod may be tried.
    fn until_due(&self) -> BoxFuture<'static, ()> {
        match self.pending.next_due() {
            None => Box::pin(std::future::pending()),
            Some(due) if due <= self.elapsed() => Box::pin(std::future::ready(())),
            Some(due) => Box::pin(tokio::time::sleep_until(self.began + due)),
        }
    }

    /// Chooses a node for the next pod.
    fn turn(&mut self, view: &View) {
        let now = self.elapsed();
        let Some(key) = self.pending.pop(now) else { return };
        let Some(pod) = view.get(&POD, &key).filter(|pod| self.is_mine(pod)) else {
            self.pending.remove(&key);
            return;
        };
        let info = PodInfo::new(misread(&self.env, pod));
        match schedule_from(&info, self.cache.snapshot(), &mut self.random, &mut self.start) {
            Ok(node) => {
                self.cache.assume(&info, &node);
                tracing::debug!(pod = %key, node, "chose");
                let bind = self.binding(pod, node);
                self.under_way.push(bind);
            }
            Err(error) => {
                tracing::debug!(pod = %key, %error, "fits nowhere");
                self.pending.stuck(&key, now);
                let report = self.report(pod, &error);
                self.under_way.push(report);
            }
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Bound(key) => self.pending.remove(&key),
            Done::Failed(key) => {
                self.cache.give_up(&key);
                self.pending.failed(&key, self.elapsed());
            }
            Done::Reported => {}
        }
    }

    fn binding(&self, pod: &Arc<Object>, node: String) -> BoxFuture<'static, Done> {
        let (env, client, recorder) =
            (self.env.clone(), self.client.clone(), self.recorder.clone());
        let pod = pod.clone();
        let other = self.cache.snapshot().keys().find(|name| **name != node).cloned();
        Box::pin(async move {
            match bind(&env, &client, &pod, &node).await {
                Ok(()) => {
                    if env.sabotaged(Sabotage::DoubleBind)
                        && let Some(other) = other
                    {
                        let again = bind(&env, &client, &pod, &other).await;
                        tracing::debug!(?again, "sabotage: bound a second time");
                    }
                    let message = format!("Successfully assigned {} to {node}", pod.key());
                    recorder.record(&pod, "Normal", "Scheduled", &message).await;
                    Done::Bound(pod.key())
                }
                Err(error) => {
                    let message = format!("binding rejected: {error}");
                    recorder.record(&pod, "Warning", "FailedScheduling", &message).await;
                    Done::Failed(pod.key())
                }
            }
        })
    }

    /// Says on the pod, and in an event, why it fits nowhere.
    fn report(&self, pod: &Arc<Object>, error: &FitError) -> BoxFuture<'static, Done> {
        let (client, recorder) = (self.client.clone(), self.recorder.clone());
        let pod = pod.clone();
        let message = error.to_string();
        let patch = unschedulable(&pod, &message, &conditions::seconds(self.env.now()));
        Box::pin(async move {
            if let Some(patch) = patch {
                let patch = (PatchKind::Strategic, &patch);
                if let Err(error) = client.patch(&POD, &pod.key(), "status", patch).await {
                    tracing::debug!(pod = %pod.key(), %error, "condition not written");
                }
            }
            recorder.record(&pod, "Warning", "FailedScheduling", &message).await;
            Done::Reported
        })
    }
}

/// The pod as planted defects make the filters see it.
fn misread(env: &Env, pod: &Arc<Object>) -> Arc<Object> {
    let mut pod = pod.clone();
    if env.sabotaged(Sabotage::NodeSelectorIgnored) {
        Arc::make_mut(&mut pod).remove("/spec/nodeSelector");
    }
    for (sabotage, key) in [
        (Sabotage::CordonIgnored, "node.kubernetes.io/unschedulable"),
        (Sabotage::NoScheduleIgnored, ""),
    ] {
        if env.sabotaged(sabotage) {
            let mut tolerations = pod.list("/spec/tolerations").to_vec();
            tolerations.push(match key {
                "" => json!({"operator": "Exists"}),
                key => json!({"key": key, "operator": "Exists"}),
            });
            Arc::make_mut(&mut pod).set("/spec/tolerations", tolerations);
        }
    }
    if env.sabotaged(Sabotage::RequestsIgnored) {
        let mut containers = pod.list("/spec/containers").to_vec();
        containers.iter_mut().for_each(|container| container["resources"] = json!({}));
        Arc::make_mut(&mut pod).set("/spec/containers", containers);
    }
    pod
}

/// The patch that sets PodScheduled to False; `None` if the pod says so already.
fn unschedulable(pod: &Object, message: &str, now: &str) -> Option<Value> {
    let known = pod.condition("PodScheduled");
    let is_false = known.is_some_and(|known| known["status"] == "False");
    if is_false && known.is_some_and(|known| known["message"] == message) {
        return None;
    }
    let mut condition = json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
    });
    if !is_false {
        condition["lastTransitionTime"] = now.into();
    }
    Some(json!({"status": {"conditions": [condition]}}))
}

/// Whether a node's change may make room: anything but a heartbeat.
fn is_news(old: Option<&Arc<Object>>, new: Option<&Arc<Object>>) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return true };
    old.uid() != new.uid()
        || [
            "/spec",
            "/metadata/labels",
            "/metadata/annotations",
            "/status/allocatable",
            "/status/images",
        ]
        .iter()
        .any(|part| old.get(part) != new.get(part))
}

fn takes_room(pod: &Object) -> bool {
    !pod.text("/spec/nodeName").is_empty() && !machinery::pod::is_finished(pod)
}

/// Binds a pod to a node. Without an answer it asks until it knows whether the pod was bound.
async fn bind(env: &Env, client: &ApiClient, pod: &Object, node: &str) -> Result<(), ApiError> {
    let key = pod.key();
    let body = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": key.name, "namespace": key.namespace, "uid": pod.uid()},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let error = match client.post(&POD, &key, "binding", &body).await {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    if matches!(&error, ApiError::Status(status) if status.code < 500) {
        return Err(error);
    }
    let mut backoff = env.backoff("binding", LOOK_FIRST, LOOK_MOST);
    loop {
        env.sleep(backoff.next_wait()).await;
        match client.get(&POD, &key).await {
            Ok(now) if now.uid() == pod.uid() && now.text("/spec/nodeName") == node => {
                return Ok(());
            }
            Ok(_) => return Err(error),
            Err(error) if error.is_not_found() => return Err(error),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use env::{SimMachine, Timestamp};
    use http::{Method, Request, Response};
    use http_body_util::{BodyExt, Full};

    use super::*;

    /// An API server with one pod and two nodes, which does not answer the first binding.
    #[derive(Default)]
    struct Server {
        /// Whether the unanswered binding is done all the same.
        does_it: bool,
        node: String,
        bindings: Vec<String>,
    }

    impl Server {
        fn pod(&self) -> Value {
            let mut pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "namespace": "default", "uid": "u", "resourceVersion": "5"},
                "spec": {"containers": [{"name": "c"}]},
            });
            if !self.node.is_empty() {
                pod["spec"]["nodeName"] = self.node.as_str().into();
            }
            pod
        }

        fn list(&self, path: &str) -> Value {
            let node = |name: &str| {
                json!({"metadata": {"name": name, "resourceVersion": "5"},
                    "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}})
            };
            let items = if path.ends_with("/nodes") {
                vec![node("a"), node("b")]
            } else {
                // A list of long ago: what the informer shows lags behind.
                vec![Server::default().pod()]
            };
            json!({"items": items, "metadata": {"resourceVersion": "5"}})
        }

        /// The answer; `None` if there will be none.
        fn answer(&mut self, method: &Method, path: &str, body: &Value) -> Option<Value> {
            if path.ends_with("/binding") {
                let node = body["target"]["name"].as_str().unwrap_or_default();
                self.bindings.push(node.to_owned());
                let is_first = self.bindings.len() == 1;
                if !is_first || self.does_it {
                    self.node = node.to_owned();
                }
                return (!is_first).then(|| json!({}));
            }
            if method != Method::GET {
                return Some(body.clone());
            }
            Some(if path.ends_with("/pods/p") { self.pod() } else { self.list(path) })
        }
    }

    fn client(server: Arc<Mutex<Server>>) -> ApiClient {
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.expect("a request has a body").to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let is_watch = parts.uri.query().is_some_and(|query| query.contains("watch=true"));
                let answer = if is_watch {
                    None
                } else {
                    server.lock().unwrap().answer(&parts.method, parts.uri.path(), &body)
                };
                let Some(answer) = answer else { return std::future::pending().await };
                let body = Full::new(Bytes::from(answer.to_string()));
                Ok::<_, std::convert::Infallible>(Response::new(body))
            }
        });
        ApiClient::new(vec![kube::Client::new(service, "default")])
    }

    async fn bindings(does_it: bool) -> usize {
        let server = Arc::new(Mutex::new(Server { does_it, ..Server::default() }));
        let machine = Arc::new(SimMachine::new(1, "cp-1", Timestamp::UNIX_EPOCH));
        let leading = lead(Env::new(machine, None), client(server.clone()), Config::new("cp-1_x"));
        let ended = tokio::time::timeout(Duration::from_secs(100), leading).await;
        assert!(ended.is_err(), "it leads until it is stopped");
        server.lock().unwrap().bindings.len()
    }

    #[tokio::test(start_paused = true)]
    async fn a_binding_without_an_answer_is_looked_up_before_it_is_tried_again() {
        assert_eq!(bindings(true).await, 1, "it was done");
        assert_eq!(bindings(false).await, 2, "it was not done");
    }
}
