//! The witness: an own list and watch of every watched kind, through one API server at a time.
//!
//! When that server dies, or lags behind because it is cut off from etcd, every watch goes on at
//! another one from the last revision. Events that come after such a break may be older than they
//! look: their error bound reaches back to when the server last answered a linearizable read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{AsyncBufReadExt, StreamExt};
use http::Request;
use serde_json::{Value as Plain, json};
use shakedown_core::json::Value;
use shakedown_core::kinds::{KINDS, Kind};
use shakedown_core::sabotage::{Sabotage, Switches};
use shakedown_core::target::Endpoint;
use shakedown_core::timeline::{Change, What};
use shakedown_core::world::Key;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::api::{Answer, ApiError, Call, ask, call, revision_of};
use crate::board::Board;
use crate::event_loop::{Message, Sender};
use crate::told::Told;

/// Between two linearizable reads that show that the witness' server is well.
const PULSE: Duration = Duration::from_secs(1);
/// After a watch ended, before the next one.
const RECONNECT: Duration = Duration::from_millis(100);
/// How long after a new watch began its events may still be old ones.
const CATCH_UP: Duration = Duration::from_secs(1);
/// How long a server may take to begin a watch.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How many canary writes are timed.
const CANARIES: u32 = 30;
/// How late a canary may be seen.
const CANARY_LIMIT: Duration = Duration::from_secs(10);

/// What the watches and the pulse share.
struct Shared {
    endpoints: Vec<Endpoint>,
    began: Instant,
    /// Which endpoint is used.
    current: Board<usize>,
    /// When the last read of each endpoint was answered, in microseconds after `began`: that one
    /// server is well says nothing of a watch on another.
    good_us: Vec<AtomicU64>,
    /// The measured delay, in microseconds.
    base_us: AtomicU64,
    switches: Switches,
}

/// The witness of one scenario. Its tasks belong to the set that it was started in.
pub(crate) struct Witness {
    shared: Arc<Shared>,
}

/// How many kinds are listed before the witness sees everything.
pub(crate) fn watched() -> usize {
    KINDS.iter().filter(|kind| kind.is_watched).count()
}

impl Witness {
    /// Begins to watch.
    pub fn start(
        tasks: &mut JoinSet<()>,
        endpoints: Vec<Endpoint>,
        began: Instant,
        sender: &Sender,
        switches: Switches,
    ) -> Self {
        let now_us = began.elapsed().as_micros() as u64;
        let shared = Arc::new(Shared {
            good_us: endpoints.iter().map(|_| AtomicU64::new(now_us)).collect(),
            endpoints,
            began,
            current: Board::new(0),
            base_us: AtomicU64::new(0),
            switches,
        });
        for kind in KINDS.iter().filter(|kind| kind.is_watched) {
            let stream = Stream {
                kind,
                shared: shared.clone(),
                sender: sender.clone(),
                known: BTreeMap::new(),
                last: Value::Null,
                count: 0,
            };
            tasks.spawn(stream.run());
        }
        tasks.spawn(pulse(shared.clone()));
        Self { shared }
    }

    /// The measured delay from a write to its event.
    pub fn error(&self) -> Duration {
        Duration::from_micros(self.shared.base_us.load(Ordering::Relaxed))
    }

    /// Takes a measured delay as the error bound of everything seen from now on.
    pub fn set_error(&self, error: Duration) {
        self.shared.base_us.store(error.as_micros() as u64, Ordering::Relaxed);
    }
}

impl Shared {
    fn endpoint(&self) -> (usize, &Endpoint) {
        let index = self.current.get();
        (index, &self.endpoints[index])
    }

    /// When a server was last known to be well.
    fn good(&self, index: usize) -> Instant {
        self.began + Duration::from_micros(self.good_us[index].load(Ordering::Relaxed))
    }
}

/// Reads through the witness' server once a second; moves on when it does not answer.
async fn pulse(shared: Arc<Shared>) {
    let read = Call::get("/api/v1/namespaces/kube-system");
    loop {
        let (index, endpoint) = shared.endpoint();
        let asked = Instant::now();
        match ask(endpoint, &read, PULSE).await {
            Answer::Unknown(_) => {
                shared.current.set((index + 1) % shared.endpoints.len());
                // A refused connection is answered at once.
                sleep(RECONNECT).await;
            }
            _ => {
                let good = asked.saturating_duration_since(shared.began).as_micros() as u64;
                shared.good_us[index].fetch_max(good, Ordering::Relaxed);
                sleep(PULSE).await;
            }
        }
    }
}

/// Why a watch ended.
enum End {
    /// It may go on where it was.
    Broken,
    /// The revision is gone: list anew.
    Expired(String),
    /// The scenario is over.
    Closed,
}

/// The list and watch of one kind.
struct Stream {
    kind: &'static Kind,
    shared: Arc<Shared>,
    sender: Sender,
    /// What the watch has told so far.
    known: BTreeMap<Key, Value>,
    /// What came last: a new object has most in common with it.
    last: Value,
    /// How many changes came, for the planted defects.
    count: u64,
}

impl Stream {
    async fn run(mut self) {
        let Some(mut revision) = self.list(None).await else { return };
        if self.sender.send(Message::Listed).await.is_err() {
            return;
        }
        let mut doubt: Option<Instant> = None;
        loop {
            let (on, opened) = (self.shared.current.get(), Instant::now());
            let end = self.watch(&mut revision, doubt).await;
            let since = known_until(self.shared.good(on), opened.elapsed(), doubt);
            match end {
                End::Closed => return,
                End::Broken => {
                    doubt = Some(since);
                    sleep(RECONNECT).await;
                }
                End::Expired(why) => {
                    if self.shared.switches.on(Sabotage::WitnessRelistsSilently) {
                        sleep(CONNECT_LIMIT).await;
                        let Some(listed) = self.list(Some(since)).await else { return };
                        (revision, doubt) = (listed, None);
                        continue;
                    }
                    let gap = What::WitnessGap { kind: self.kind.id.into(), why };
                    if self.tell(Duration::ZERO, gap).await.is_err() {
                        return;
                    }
                    let Some(listed) = self.list(Some(since)).await else { return };
                    revision = listed;
                    doubt = Some(since);
                }
            }
        }
    }

    async fn tell(&self, error: Duration, what: What) -> Result<(), mpsc::error::SendError<()>> {
        self.sender.send(Message::Saw { at: Instant::now(), error, what: Box::new(what) }).await
    }

    /// Lists, and tells what is different from what is known. `None` when the scenario is over.
    async fn list(&mut self, since: Option<Instant>) -> Option<i64> {
        let path = self.kind.path("", "");
        let list = loop {
            let (index, endpoint) = self.shared.endpoint();
            let mut moved = self.shared.current.reader();
            match ask(endpoint, &Call::get(&path), CONNECT_LIMIT).await {
                Answer::Ok(list) => break list,
                // A server without this kind has none of them.
                Answer::Refused { code: 404, .. } => break json!({"items": []}),
                _ => {
                    if moved.look() == index {
                        sleep(RECONNECT).await;
                    }
                }
            }
        };
        // What was there before may be as old as the run.
        let error = Instant::now().saturating_duration_since(since.unwrap_or(self.shared.began));
        let mut found = BTreeMap::new();
        for object in list["items"].as_array().into_iter().flatten() {
            let key = key_of(|pointer| object.pointer(pointer).and_then(Plain::as_str));
            found.insert(key, slim(object.clone()));
        }
        let gone: Vec<(Key, Value)> = self
            .known
            .iter()
            .filter(|(key, _)| !found.contains_key(*key))
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect();
        let revision = revision_of(&list);
        for (key, object) in gone {
            self.known.remove(&key);
            self.tell_of(Change::Deleted, revision, error, object).await.ok()?;
        }
        for (key, object) in found {
            let change = match self.known.get(&key) {
                Some(known)
                    if known["metadata"]["resourceVersion"]
                        == text(&object, "/metadata/resourceVersion") =>
                {
                    continue;
                }
                Some(_) => Change::Modified,
                None => Change::Added,
            };
            let revision = revision_of(&object);
            let object = Value::like(object, &self.last);
            self.changed(change, revision, error, object).await.ok()?;
        }
        Some(revision)
    }

    async fn changed(
        &mut self,
        change: Change,
        revision: i64,
        error: Duration,
        mut object: Value,
    ) -> Result<(), mpsc::error::SendError<()>> {
        let key = key_of(|pointer| object.pointer(pointer)?.as_str());
        object.share(self.known.get(&key).unwrap_or(&self.last));
        match change {
            Change::Deleted => drop(self.known.remove(&key)),
            _ => {
                self.last = object.clone();
                self.known.insert(key, object.clone());
            }
        }
        self.tell_of(change, revision, error, object).await
    }

    async fn tell_of(
        &self,
        change: Change,
        revision: i64,
        error: Duration,
        object: Value,
    ) -> Result<(), mpsc::error::SendError<()>> {
        self.tell(error, What::Object { change, kind: self.kind.id.into(), revision, object }).await
    }

    /// Watches from a revision on, until the watch ends or the witness moves to another server.
    /// Events are in doubt, as far back as `doubt`, until the watch has caught up.
    async fn watch(&mut self, revision: &mut i64, doubt: Option<Instant>) -> End {
        let mut moved = self.shared.current.reader();
        let index = moved.look();
        let endpoint = self.shared.endpoints[index].clone();
        let uri = format!(
            "{}?watch=true&allowWatchBookmarks=true&resourceVersion={revision}&timeoutSeconds=290",
            self.kind.path("", "")
        );
        let request = Request::get(uri).body(Vec::new()).expect("paths are made of checked names");
        let reader = match timeout(CONNECT_LIMIT, endpoint.client.request_stream(request)).await {
            Ok(Ok(reader)) => reader,
            Ok(Err(kube::Error::Api(status))) if status.code == 410 => {
                return End::Expired(status.message.clone());
            }
            Ok(Err(_)) | Err(_) => return End::Broken,
        };
        let caught_up = Instant::now() + CATCH_UP;
        let mut lines = Box::pin(reader).lines();
        loop {
            let line = tokio::select! {
                biased;
                () = moved.changed() => return End::Broken,
                line = lines.next() => line,
            };
            let Some(Ok(line)) = line else { return End::Broken };
            let Ok(Told { sort, object }) = Told::read(&line, &self.last) else {
                return End::Broken;
            };
            let told = object["metadata"]["resourceVersion"].as_str();
            let told = told.and_then(|text| text.parse().ok()).unwrap_or(0);
            let change = match sort.as_str() {
                "ADDED" => Change::Added,
                "MODIFIED" => Change::Modified,
                "DELETED" => Change::Deleted,
                "BOOKMARK" => {
                    *revision = told.max(*revision);
                    continue;
                }
                _ if object["code"] == 410 => {
                    return End::Expired(object["message"].as_str().unwrap_or("410").to_string());
                }
                _ => return End::Broken,
            };
            *revision = told;
            self.count += 1;
            if self.overlooks(change) {
                continue;
            }
            if self.count.is_multiple_of(40)
                && self.shared.switches.on(Sabotage::WitnessRelistsSilently)
            {
                return End::Expired(String::new());
            }
            let error = self.error(index, doubt.filter(|_| Instant::now() <= caught_up));
            if self.changed(change, *revision, error, object).await.is_err() {
                return End::Closed;
            }
        }
    }

    /// Whether a planted defect hides a change. Never without one.
    fn overlooks(&self, change: Change) -> bool {
        let on = |sabotage| self.shared.switches.on(sabotage);
        (change == Change::Deleted && on(Sabotage::WitnessMissesDeletions))
            || (self.count.is_multiple_of(20) && on(Sabotage::WitnessMissesChanges))
    }

    /// How much earlier than now a change may have happened.
    fn error(&self, on: usize, doubt: Option<Instant>) -> Duration {
        let base = Duration::from_micros(self.shared.base_us.load(Ordering::Relaxed));
        let now = Instant::now();
        // A server that has missed a pulse and the next may have stood still since the last answer.
        let silence = now.saturating_duration_since(self.shared.good(on));
        let silence = if silence > PULSE * 2 { silence } else { Duration::ZERO };
        let doubt = doubt.map(|since| now.saturating_duration_since(since)).unwrap_or_default();
        base + silence.max(doubt)
    }
}

/// Until when everything that happened was seen, once a watch has ended: until its server was last
/// well. A watch that did not live to catch up leaves it at what was known before.
fn known_until(good: Instant, lived: Duration, before: Option<Instant>) -> Instant {
    match before {
        Some(before) if lived < CATCH_UP => before,
        Some(before) => before.max(good),
        None => good,
    }
}

/// The key of an object whose texts stand at pointers.
fn key_of<'o>(text: impl Fn(&str) -> Option<&'o str>) -> Key {
    let text = |pointer| text(pointer).unwrap_or_default().to_string();
    (text("/metadata/namespace"), text("/metadata/name"))
}

fn text<'o>(object: &'o Plain, pointer: &str) -> &'o str {
    object.pointer(pointer).and_then(Plain::as_str).unwrap_or_default()
}

/// Without owners: see [`crate::told`].
fn slim(mut object: Plain) -> Plain {
    if let Some(metadata) = object.get_mut("metadata").and_then(Plain::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

/// Times canary writes from their call to the witness' event, and gives each delay. `seen` waits until
/// the witness has seen a revision of the canary.
pub(crate) struct Canary<'a> {
    /// Where it is written.
    pub endpoints: &'a [Endpoint],
    /// Where it lives.
    pub namespace: &'a str,
}

/// The canary's name.
pub(crate) const CANARY: &str = "shakedown-canary";

impl Canary<'_> {
    /// How many are written.
    pub const COUNT: u32 = CANARIES;
    /// How late each may be seen.
    pub const LIMIT: Duration = CANARY_LIMIT;

    fn path(&self, name: &str) -> String {
        Kind::of_word("configmap").expect("configmaps are a kind").path(self.namespace, name)
    }

    /// Writes it once more; its revision.
    pub async fn write(&self, round: u32) -> Result<i64, ApiError> {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CANARY},
            "data": {"round": round.to_string()},
        });
        let answer = match round {
            0 => call(self.endpoints, &Call::create(self.path(""), object)).await?,
            _ => {
                call(
                    self.endpoints,
                    &Call::patch(self.path(CANARY), json!({"data": {"round": round.to_string()}})),
                )
                .await?
            }
        };
        Ok(revision_of(&answer))
    }

    /// Deletes it.
    pub async fn delete(&self) -> Result<(), ApiError> {
        call(self.endpoints, &Call::delete(self.path(CANARY), json!({}))).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_reaches_to_when_the_server_of_the_watch_was_well() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (short, long) = (Duration::from_millis(200), Duration::from_secs(20));
        for (good, lived, before, until) in [
            (13, long, None, 13),
            (13, short, None, 13),
            // The next watch broke before it had told anything.
            (18, short, Some(13), 13),
            (9, short, Some(13), 13),
            // It lived, and its server was well since.
            (18, long, Some(13), 18),
            (9, long, Some(13), 13),
        ] {
            let found = known_until(at(good), lived, before.map(at));
            assert_eq!(found, at(until), "{good} {lived:?} {before:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn that_one_server_is_well_says_nothing_of_another() {
        let began = Instant::now();
        let shared = Shared {
            endpoints: Vec::new(),
            began,
            current: Board::new(1),
            good_us: vec![AtomicU64::new(13_000_000), AtomicU64::new(19_000_000)],
            base_us: AtomicU64::new(0),
            switches: Switches::default(),
        };
        assert_eq!(shared.good(0), began + Duration::from_secs(13));
        assert_eq!(shared.good(1), began + Duration::from_secs(19));
    }
}
