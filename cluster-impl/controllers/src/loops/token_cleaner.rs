//! Deletes bootstrap tokens that have expired.
//!
//! ```yaml
//! apiVersion: v1
//! kind: Secret
//! metadata: {name: bootstrap-token-abcdef, namespace: kube-system}
//! type: bootstrap.kubernetes.io/token
//! stringData: {token-id: abcdef, token-secret: 0123456789abcdef, expiration: "2026-01-01T00:00:00Z"}
//! ```

use std::time::Duration;

use apiclient::Informed;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use env::Timestamp;
use machinery::kinds::SECRET;
use machinery::{Kind, Object, View};

use crate::{Config, Controller, DecideCx, Decision, Key, Write};

const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAMESPACE: &str = "kube-system";

/// The controller. It remembers nothing.
pub struct TokenCleaner;

impl TokenCleaner {
    /// The controller.
    pub fn new(_: &Config) -> Self {
        Self
    }
}

impl Controller for TokenCleaner {
    fn name(&self) -> &'static str {
        "token-cleaner-controller"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        vec![&SECRET]
    }

    fn changed(&mut self, _: &View, change: &Informed, _: &DecideCx<'_>) -> Vec<Key> {
        let is_token = |secret: &Object| {
            secret.namespace() == NAMESPACE && secret.text("/type") == TYPE
        };
        let is_meant =
            change.kind.id == SECRET.id && change.new.as_deref().is_some_and(is_token);
        is_meant.then(|| Key::of(&SECRET, change.key.clone())).into_iter().collect()
    }

    fn decide(&mut self, view: &View, key: &Key, cx: &DecideCx<'_>) -> Decision {
        let Some(secret) = view.get(&SECRET, &key.object) else { return Decision::settled() };
        let mut decision = Decision::settled();
        // One that says no time, or nonsense, is left alone, as upstream.
        let Some(end) = expiration(secret) else { return decision };
        match Duration::try_from(end.duration_since(cx.now)) {
            Ok(left) if !left.is_zero() => decision.again(left),
            _ if secret.is_terminating() => {}
            _ => decision.writes.push(Write::Delete {
                kind: &SECRET,
                object: secret.clone(),
                grace_s: None,
                propagation: "",
                note: None,
            }),
        }
        decision
    }
}

fn expiration(secret: &Object) -> Option<Timestamp> {
    let text = STANDARD.decode(secret.text("/data/expiration")).ok()?;
    String::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::World;

    fn token(namespace: &str, kind: &str, expiration: &str) -> Object {
        Object(json!({
            "metadata": {"name": "bootstrap-token-abcdef", "namespace": namespace}, "type": kind,
            "data": {"expiration": STANDARD.encode(expiration)},
        }))
    }

    #[test]
    fn a_token_goes_when_it_has_expired() {
        let mut world = World::new(|config| Box::new(TokenCleaner::new(config)), "");
        world.see_object(&SECRET, token(NAMESPACE, TYPE, "2024-01-01T00:01:00Z"));
        assert_eq!(world.run_to(59), "");
        let log = world.run_to(60);
        assert!(log.contains("delete secrets/bootstrap-token-abcdef"), "{log}");
    }

    #[test]
    fn what_is_no_token_or_never_expires_stays() {
        for (namespace, kind, expiration) in [
            ("default", TYPE, "2024-01-01T00:00:01Z"),
            (NAMESPACE, "Opaque", "2024-01-01T00:00:01Z"),
            (NAMESPACE, TYPE, "tomorrow"),
            (NAMESPACE, TYPE, ""),
        ] {
            let mut world = World::new(|config| Box::new(TokenCleaner::new(config)), "");
            world.see_object(&SECRET, token(namespace, kind, expiration));
            assert_eq!(world.run_to(3600), "", "{namespace} {kind} {expiration}");
        }
    }
}
