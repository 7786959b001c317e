//! Events (core/v1) about objects, with the counts that upstream keeps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use env::Env;
use machinery::kinds::EVENT;
use machinery::{Object, ObjectKey};
use serde_json::json;

use crate::{ApiClient, PatchKind};

/// As many different events are remembered for counting; the rest start anew.
const REMEMBERED_MAX: usize = 4096;

/// Records events about objects.
#[derive(Clone)]
pub struct EventRecorder {
    client: ApiClient,
    env: Env,
    component: String,
    host: String,
    /// What was recorded, with the name of its Event and how often.
    known: Arc<Mutex<BTreeMap<String, (ObjectKey, i64)>>>,
}

impl EventRecorder {
    /// A recorder for `source.component` (such as `kubelet`) on `source.host`.
    pub fn new(client: ApiClient, env: Env, component: &str, host: &str) -> Self {
        Self {
            client,
            env,
            component: component.to_owned(),
            host: host.to_owned(),
            known: Arc::default(),
        }
    }

    /// Records an event; `kind` is Normal or Warning. A repeated event raises `count`. A failure is
    /// dropped: events are best effort.
    pub async fn record(&self, about: &Object, kind: &str, reason: &str, message: &str) {
        let identity = format!("{}/{}/{kind}/{reason}/{message}", about.kind(), about.uid());
        if let Some((key, count)) = self.repeated(&identity) {
            let patch = json!({"count": count, "lastTimestamp": self.now()});
            match self.client.patch(&EVENT, &key, "", (PatchKind::Merge, &patch)).await {
                Err(error) if error.is_not_found() => self.forget(&identity),
                _ => return,
            }
        }
        let event = self.event(about, kind, reason, message);
        let key = event.key();
        if self.client.create(&EVENT, &event).await.is_ok() {
            self.remember(identity, key);
        }
    }

    fn event(&self, about: &Object, kind: &str, reason: &str, message: &str) -> Object {
        let namespace = if about.namespace().is_empty() { "default" } else { about.namespace() };
        let name = format!("{}.{}", about.name(), self.env.suffix(10));
        let mut event = Object::new("v1", "Event", namespace, &name);
        let now = self.now();
        let mut involved = json!({
            "apiVersion": about.api_version(), "kind": about.kind(), "name": about.name(),
            "uid": about.uid(), "resourceVersion": about.resource_version(),
        });
        if !about.namespace().is_empty() {
            involved["namespace"] = about.namespace().into();
        }
        for (field, value) in [
            ("involvedObject", involved),
            ("type", kind.into()),
            ("reason", reason.into()),
            ("message", message.into()),
            ("source", json!({"component": self.component, "host": self.host})),
            ("reportingComponent", self.component.as_str().into()),
            ("reportingInstance", self.host.as_str().into()),
            ("firstTimestamp", now.as_str().into()),
            ("lastTimestamp", now.as_str().into()),
            ("count", 1.into()),
        ] {
            event.0[field] = value;
        }
        event
    }

    fn now(&self) -> String {
        format!("{:.0}", self.env.now())
    }

    fn repeated(&self, identity: &str) -> Option<(ObjectKey, i64)> {
        let mut known = self.known.lock().expect("no code panics while it holds the list");
        let (key, count) = known.get_mut(identity)?;
        *count += 1;
        Some((key.clone(), *count))
    }

    fn forget(&self, identity: &str) {
        self.known.lock().expect("no code panics while it holds the list").remove(identity);
    }

    fn remember(&self, identity: String, key: ObjectKey) {
        let mut known = self.known.lock().expect("no code panics while it holds the list");
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(identity, (key, 1));
    }
}
