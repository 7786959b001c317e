//! The one driver: elects, informs itself, asks the controllers, executes what they decide.
//!
//! Everything runs in one task and in one order: what was seen comes before what was answered, and
//! that before what is due. A key is never decided twice at once, and never on a view that is behind
//! the key's own writes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::time::Duration;

use apiclient::{ApiClient, Elector, EventRecorder, Informed, Informer, Watched};
use env::{Backoff, Env, Sabotage};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use machinery::{View, custom, kinds};

use crate::controller::{Controller, DecideCx};
use crate::execute::{Outcome, execute};
use crate::expectations::Expectations;
use crate::queue::{Queue, Turn};
use crate::{Config, Index, Note, loops};

/// A failed key is tried again after this long at first.
const RETRY_FIRST: Duration = Duration::from_millis(20);
/// A key that fails again and again is tried again after this long.
const RETRY_MOST: Duration = Duration::from_secs(15);
/// A guard that did not hold, or a namespace that is not empty yet, is looked at again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Stands for election, then runs all controllers until leadership is lost; the process must then
/// end and be started anew.
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

/// Follows what a definition defines, for as long as it does.
fn follow_custom(informer: &mut Informer, change: &Informed) {
    if change.kind.id != kinds::CUSTOM_RESOURCE_DEFINITION.id {
        return;
    }
    match change.new.as_ref().and_then(|definition| custom::preferred(definition)) {
        Some(kind) => informer.follow(Watched::rare(kind)),
        None => informer.leave(&change.key.name),
    }
}

/// Runs all controllers for ever.
async fn lead(env: Env, client: ApiClient, config: Config) {
    let controllers = loops::all(&config);
    let rare = controllers.iter().flat_map(|controller| controller.watches_rare());
    let mut watched: BTreeMap<_, _> = rare.map(|kind| (kind.id, Watched::rare(kind))).collect();
    let usual = controllers.iter().flat_map(|controller| controller.watches());
    watched.extend(usual.map(|kind| (kind.id, Watched::all(kind))));
    let mut informer = Informer::new(client.clone(), env.clone(), watched.into_values().collect());
    informer.sync().await;
    let mut driver = Driver::new(env, client, config, controllers);
    driver.begin(&mut informer);
    for kind in custom::of_view(informer.view()) {
        informer.follow(Watched::rare(kind));
    }
    loop {
        let until_due = driver.until_due();
        tokio::select! {
            biased;
            change = informer.next() => {
                follow_custom(&mut informer, &change);
                driver.changed(informer.view(), &change, false);
            }
            Some((turn, outcome)) = driver.in_flight.next() => driver.done(turn, outcome),
            () = &mut driver.recording => driver.record_next(),
            () = until_due => driver.turn(informer.view()),
        }
    }
}

struct Driver {
    env: Env,
    client: ApiClient,
    config: Config,
    began: tokio::time::Instant,
    sabotages: Vec<Sabotage>,
    controllers: Vec<Box<dyn Controller>>,
    recorders: Vec<EventRecorder>,
    index: Index,
    queue: Queue,
    expectations: Expectations,
    /// Keys that wait for the view to catch up.
    blocked: BTreeSet<Turn>,
    /// Keys whose writes are under way; true if they must be looked at again afterwards.
    busy: BTreeMap<Turn, bool>,
    backoffs: BTreeMap<Turn, Backoff>,
    in_flight: FuturesUnordered<BoxFuture<'static, (Turn, Outcome)>>,
    /// Events yet to be recorded, with the controller that tells them.
    notes: VecDeque<(usize, Note)>,
    /// The event that is being recorded; events keep their order and hold nothing up.
    recording: BoxFuture<'static, ()>,
    is_recording: bool,
    next_resync: Duration,
}

impl Driver {
    fn new(
        env: Env,
        client: ApiClient,
        config: Config,
        controllers: Vec<Box<dyn Controller>>,
    ) -> Self {
        let host = config.elector.identity.split('_').next().unwrap_or_default().to_owned();
        let recorders = controllers
            .iter()
            .map(|known| EventRecorder::new(client.clone(), env.clone(), known.name(), &host))
            .collect();
        let is_on = |sabotage: &Sabotage| env.sabotaged(*sabotage);
        let next_resync = config.min_resync_period;
        Self {
            began: env.instant(),
            sabotages: Sabotage::ALL.iter().copied().filter(is_on).collect(),
            env,
            client,
            config,
            controllers,
            recorders,
            index: Index::default(),
            queue: Queue::default(),
            expectations: Expectations::default(),
            blocked: BTreeSet::new(),
            busy: BTreeMap::new(),
            backoffs: BTreeMap::new(),
            in_flight: FuturesUnordered::new(),
            notes: VecDeque::new(),
            recording: Box::pin(std::future::pending()),
            is_recording: false,
            next_resync,
        }
    }

    fn elapsed(&self) -> Duration {
        self.env.instant() - self.began
    }

    /// Shows the controllers everything that was listed. All of it is indexed before they see any.
    fn begin(&mut self, informer: &mut Informer) {
        let mut changes: Vec<_> = std::iter::from_fn(|| informer.try_next()).collect();
        // Which list came first must not matter.
        changes.sort_by(|one, other| (one.kind.id, &one.key).cmp(&(other.kind.id, &other.key)));
        for change in &changes {
            self.index.apply(change);
        }
        for change in &changes {
            self.changed(informer.view(), change, true);
        }
        let now = self.elapsed();
        for (at, controller) in self.controllers.iter_mut().enumerate() {
            for key in controller.start() {
                self.queue.add((at, key), now);
            }
        }
    }

    fn changed(&mut self, view: &View, change: &Informed, first_sight: bool) {
        self.index.apply(change);
        if let Some(new) = &change.new {
            self.expectations.saw(change.kind.id, new);
        }
        let elapsed = self.elapsed();
        let cx = DecideCx {
            now: self.env.now(),
            elapsed,
            index: &self.index,
            config: &self.config,
            sabotages: &self.sabotages,
            first_sight,
        };
        let mut turns = Vec::new();
        for (at, controller) in self.controllers.iter_mut().enumerate() {
            turns.extend(controller.changed(view, change, &cx).into_iter().map(|key| (at, key)));
        }
        let freed = self.expectations.freed(view, change);
        turns.extend(freed.into_iter().filter(|turn| self.blocked.contains(turn)));
        if first_sight && self.sabotages.contains(&Sabotage::RestartLeavesOld) {
            turns.retain(|(_, key)| key.what != kinds::REPLICA_SET.id);
        }
        for turn in turns {
            self.queue.add(turn, elapsed);
        }
    }

    /// Ends when the next key is due.
    fn until_due(&self) -> BoxFuture<'static, ()> {
        match self.queue.next_due().map(|due| due.min(self.next_resync)) {
            Some(due) if due <= self.elapsed() => Box::pin(std::future::ready(())),
            due => {
                let at = self.began + due.unwrap_or(self.next_resync);
                Box::pin(tokio::time::sleep_until(at))
            }
        }
    }

    /// Asks about the first key that is due.
    fn turn(&mut self, view: &View) {
        let elapsed = self.elapsed();
        if elapsed >= self.next_resync {
            self.next_resync = elapsed + self.config.min_resync_period;
            self.begin_again(view);
        }
        let Some(turn) = self.queue.pop(elapsed) else { return };
        if let Some(look_again) = self.busy.get_mut(&turn) {
            *look_again = true;
            return;
        }
        let is_met = self.expectations.met(&turn, view, elapsed);
        if let Err(until) = is_met
            && !self.sabotages.contains(&Sabotage::ExpectationsIgnored)
        {
            self.queue.add(turn.clone(), until);
            self.blocked.insert(turn);
            return;
        }
        self.blocked.remove(&turn);
        let cx = DecideCx {
            now: self.env.now(),
            elapsed,
            index: &self.index,
            config: &self.config,
            sabotages: &self.sabotages,
            first_sight: false,
        };
        let decision = self.controllers[turn.0].decide(view, &turn.1, &cx);
        for key in decision.wake {
            self.queue.add((turn.0, key), elapsed);
        }
        if let Some(after) = decision.again_after {
            self.queue.add(turn.clone(), elapsed + after);
        }
        if decision.writes.is_empty() {
            self.backoffs.remove(&turn);
            return;
        }
        tracing::debug!(key = %turn.1, writes = ?decision.writes, "decided");
        self.busy.insert(turn.clone(), false);
        let client = self.client.clone();
        self.in_flight.push(Box::pin(async move {
            let outcome = execute(client, decision.writes).await;
            (turn, outcome)
        }));
    }

    /// Shows the controllers everything again, in case something was missed.
    fn begin_again(&mut self, view: &View) {
        for kind in kinds::ALL.iter().copied().chain(custom::of_view(view)) {
            for object in view.all(kind) {
                let (old, new) = (Some(object.clone()), Some(object.clone()));
                self.changed(view, &Informed { kind, key: object.key(), old, new }, false);
            }
        }
    }

    fn done(&mut self, turn: Turn, outcome: Outcome) {
        let elapsed = self.elapsed();
        let look_again = self.busy.remove(&turn).unwrap_or_default();
        for expected in outcome.expected {
            self.expectations.expect(&turn, expected, elapsed);
        }
        self.notes.extend(outcome.notes.into_iter().map(|note| (turn.0, note)));
        if !self.is_recording {
            self.record_next();
        }
        if let Some(error) = outcome.error {
            tracing::debug!(key = %turn.1, %error, "failed, will look again");
            let env = &self.env;
            let backoff = self
                .backoffs
                .entry(turn.clone())
                .or_insert_with(|| env.backoff("controllers", RETRY_FIRST, RETRY_MOST));
            let wait = backoff.next_wait();
            self.queue.add(turn, elapsed + wait);
            return;
        }
        self.backoffs.remove(&turn);
        if outcome.again {
            self.queue.add(turn.clone(), elapsed + LOOK_AGAIN);
        }
        if look_again {
            self.queue.add(turn, elapsed);
        }
    }

    fn record_next(&mut self) {
        let next = self.notes.pop_front();
        self.is_recording = next.is_some();
        self.recording = match next {
            Some((at, note)) => {
                let recorder = self.recorders[at].clone();
                Box::pin(async move {
                    recorder.record(&note.about, note.kind, note.reason, &note.message).await;
                })
            }
            None => Box::pin(std::future::pending()),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use env::{SimMachine, Timestamp};
    use http::{Method, Request, Response};
    use http_body_util::{BodyExt, Full};
    use machinery::kinds::REPLICA_SET;
    use serde_json::{Value, json};

    use super::*;

    /// An API server with one ReplicaSet that changes every second, and whose watch of pods is mute.
    struct Server {
        revision: u64,
        set: Value,
        changes: usize,
        pods: usize,
    }

    impl Server {
        fn next_revision(&mut self) -> Value {
            self.revision += 1;
            self.revision.to_string().into()
        }

        /// Answers everything but a watch.
        fn answer(&mut self, method: &Method, path: &str, mut body: Value) -> Value {
            let is_sets = path.contains(REPLICA_SET.plural);
            if method == Method::GET {
                let items = if is_sets { vec![self.set.clone()] } else { Vec::new() };
                let revision = self.revision.to_string();
                return json!({"items": items, "metadata": {"resourceVersion": revision}});
            }
            body["metadata"]["resourceVersion"] = self.next_revision();
            if path.ends_with("/pods") {
                self.pods += 1;
                body["metadata"]["name"] = format!("web-{}", self.pods).into();
            } else if is_sets {
                self.set = body.clone();
            }
            body
        }
    }

    fn client(server: Arc<Mutex<Server>>) -> ApiClient {
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.expect("a request has a body").to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let path = parts.uri.path();
                let is_watch = parts.uri.query().is_some_and(|query| query.contains("watch=true"));
                let answer = if !is_watch {
                    server.lock().unwrap().answer(&parts.method, path, body)
                } else if path.contains(REPLICA_SET.plural) {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let mut server = server.lock().unwrap();
                    server.changes += 1;
                    server.set["metadata"]["resourceVersion"] = server.next_revision();
                    json!({"type": "MODIFIED", "object": server.set})
                } else {
                    std::future::pending().await
                };
                let body = Full::new(Bytes::from(format!("{answer}\n")));
                Ok::<_, std::convert::Infallible>(Response::new(body))
            }
        });
        ApiClient::new(vec![kube::Client::new(service, "default")])
    }

    #[tokio::test(start_paused = true)]
    async fn pods_are_not_created_again_while_the_view_does_not_show_them() {
        let set = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": "web", "namespace": "default", "uid": "u", "resourceVersion": "5"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {}}},
        });
        let server = Arc::new(Mutex::new(Server { revision: 5, set, changes: 0, pods: 0 }));
        let machine = Arc::new(SimMachine::new(1, "cp-1", Timestamp::UNIX_EPOCH));
        let leading = lead(Env::new(machine, None), client(server.clone()), Config::new("cp-1_x"));
        let ended = tokio::time::timeout(Duration::from_secs(100), leading).await;
        assert!(ended.is_err(), "it leads until it is stopped");
        let server = server.lock().unwrap();
        assert!(server.changes > 10, "woken {} times", server.changes);
        assert_eq!(server.pods, 2);
    }
}
