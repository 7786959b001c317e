//! Events (core/v1) about objects, with the counts that upstream keeps.

use env::Env;
use machinery::Object;

use crate::ApiClient;

/// Records events about objects.
#[derive(Clone)]
pub struct EventRecorder {
    client: ApiClient,
    env: Env,
    component: String,
    host: String,
}

impl EventRecorder {
    /// A recorder for `source.component` (such as `kubelet`) on `source.host`.
    pub fn new(client: ApiClient, env: Env, component: &str, host: &str) -> Self {
        Self { client, env, component: component.to_owned(), host: host.to_owned() }
    }

    /// Records an event; `kind` is Normal or Warning. A repeated event raises `count`. A failure is
    /// dropped: events are best effort.
    pub async fn record(&self, about: &Object, kind: &str, reason: &str, message: &str) {
        let _ = (&self.client, &self.env, &self.component, &self.host, about, kind, reason, message);
        todo!()
    }
}
