//! What the kubelet tells the API server about pods: events and statuses, each from one task, so that
//! a slow or absent API server never holds a pod worker up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use apiclient::{ApiClient, ApiError, DeleteOptions, EventRecorder, PatchKind};
use env::Env;
use machinery::Object;
use machinery::kinds::POD;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use crate::status::is_reported;

/// More events than this wait for a slow API server, and further ones are dropped.
pub(crate) const EVENTS_MAX: usize = 1024;
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(10);

/// One event to record.
pub(crate) struct Event {
    about: Arc<Object>,
    kind: &'static str,
    reason: &'static str,
    message: String,
}

/// Where events are dropped off.
#[derive(Clone)]
pub(crate) struct Events {
    queue: mpsc::Sender<Event>,
}

impl Events {
    /// A queue and its other end, for [`record_events`].
    pub(crate) fn new() -> (Self, mpsc::Receiver<Event>) {
        let (queue, events) = mpsc::channel(EVENTS_MAX);
        (Self { queue }, events)
    }

    pub(crate) fn normal(&self, about: &Arc<Object>, reason: &'static str, message: String) {
        self.put(Event { about: about.clone(), kind: "Normal", reason, message });
    }

    pub(crate) fn warning(&self, about: &Arc<Object>, reason: &'static str, message: String) {
        self.put(Event { about: about.clone(), kind: "Warning", reason, message });
    }

    fn put(&self, event: Event) {
        tracing::debug!(about = %event.about.key(), reason = event.reason, event.message);
        // Events are best effort: a full queue drops them.
        let _ = self.queue.try_send(event);
    }
}

/// Records events one after the other.
pub(crate) async fn record_events(recorder: EventRecorder, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        recorder.record(&event.about, event.kind, event.reason, &event.message).await;
    }
}

struct Entry {
    /// The newest form of the pod that is known, from the watch or from an own write.
    pod: Arc<Object>,
    status: Value,
    /// The status that was last accepted: sent again only if somebody else changed it.
    sent: Option<(Value, i64)>,
    /// Nothing of the pod runs and it was asked to go.
    stopped: bool,
    dirty: bool,
}

/// What is to be written now.
struct Due {
    pod: Arc<Object>,
    status: Value,
    stopped: bool,
}

/// The statuses to report, by pod uid. The newest wins.
#[derive(Default)]
pub(crate) struct Statuses {
    entries: Mutex<BTreeMap<String, Entry>>,
    wake: Notify,
}

impl Statuses {
    /// Reports this status, as soon as the API server can be reached.
    pub(crate) fn set(&self, pod: &Arc<Object>, status: Value, stopped: bool) {
        let mut entries = self.lock();
        let entry = entries.entry(pod.uid().to_owned()).or_insert_with(|| Entry {
            pod: pod.clone(),
            status: Value::Null,
            sent: None,
            stopped: false,
            dirty: false,
        });
        if pod.revision() > entry.pod.revision() {
            entry.pod = pod.clone();
        }
        entry.status = status;
        entry.stopped = stopped;
        entry.dirty = entry.is_due();
        if entry.dirty {
            self.wake.notify_one();
        }
    }

    /// Forgets a pod that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().expect("no code panics while it holds the statuses")
    }

    /// Writes statuses for ever.
    pub(crate) async fn run(&self, env: &Env, client: &ApiClient) {
        let mut backoff = env.backoff("pod-status", RETRY_FIRST, RETRY_MOST);
        loop {
            let next = {
                let entries = self.lock();
                let mut dirty = entries.iter().filter(|(_, entry)| entry.dirty);
                dirty.next().map(|(_, entry)| Due {
                    pod: entry.pod.clone(),
                    status: entry.status.clone(),
                    stopped: entry.stopped,
                })
            };
            let Some(due) = next else {
                self.wake.notified().await;
                continue;
            };
            let key = due.pod.key();
            match self.write(client, due).await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    tracing::debug!(pod = %key, %error, "status not written");
                    env.sleep(backoff.next_wait()).await;
                }
            }
        }
    }

    async fn write(&self, client: &ApiClient, due: Due) -> Result<(), ApiError> {
        let Due { pod: mut newest, status, stopped } = due;
        let (key, uid) = (newest.key(), newest.uid().to_owned());
        let uid = uid.as_str();
        if !is_reported(&status, newest.get("/status").unwrap_or(&Value::Null)) {
            let patch = json!({"metadata": {"uid": uid}, "status": status});
            match client.patch(&POD, &key, "status", (PatchKind::Merge, &patch)).await {
                Ok(object) => newest = Arc::new(object),
                Err(error) => return self.refused(uid, &status, error),
            }
        }
        self.sent(uid, &newest, status);
        if stopped && newest.is_terminating() {
            let options =
                DeleteOptions { grace_s: Some(0), uid: uid.to_owned(), ..Default::default() };
            match client.delete(&POD, &key, &options).await {
                Err(error) if !(error.is_not_found() || error.is_conflict()) => return Err(error),
                _ => self.forget(uid),
            }
        }
        Ok(())
    }

    /// Tells refusals that are final from those that time may cure.
    fn refused(&self, uid: &str, status: &Value, error: ApiError) -> Result<(), ApiError> {
        if error.is_not_found() {
            self.forget(uid);
            return Ok(());
        }
        let is_final = matches!(&error, ApiError::Status(refusal) if refusal.code < 500 && !matches!(refusal.code, 409 | 429));
        if is_final {
            tracing::warn!(%uid, %error, "the API server refuses a pod's status");
            let mut entries = self.lock();
            if let Some(entry) = entries.get_mut(uid) {
                entry.sent = Some((status.clone(), entry.pod.revision()));
                entry.dirty = entry.is_due();
            }
            return Ok(());
        }
        Err(error)
    }

    fn sent(&self, uid: &str, newest: &Arc<Object>, status: Value) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(uid) else { return };
        if newest.revision() > entry.pod.revision() {
            entry.pod = newest.clone();
        }
        entry.sent = Some((status, newest.revision()));
        entry.dirty = entry.is_due();
    }
}

impl Entry {
    /// Whether there is something to write.
    fn is_due(&self) -> bool {
        if let Some((sent, revision)) = &self.sent
            && *sent == self.status
            && *revision >= self.pod.revision()
        {
            return self.stopped && self.pod.is_terminating();
        }
        let in_api = self.pod.get("/status").unwrap_or(&Value::Null);
        !is_reported(&self.status, in_api) || (self.stopped && self.pod.is_terminating())
    }
}
