//! Fills in Secrets of the type `kubernetes.io/service-account-token`, and takes them away with their account.
//!
//! ```yaml
//! kind: Secret
//! type: kubernetes.io/service-account-token
//! metadata: {name: builder-token, annotations: {kubernetes.io/service-account.name: builder}}
//! ```
//! Accounts get no such Secret of themselves: who wants a token that does not end asks for one. Without a
//! key nothing is done.

use std::sync::Arc;

use apiclient::Informed;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::kinds::{SECRET, SERVICE_ACCOUNT};
use machinery::signing::SigningKey;
use machinery::{Kind, Object, ObjectKey, View};
use serde_json::json;

use crate::{Config, Controller, DecideCx, Decision, Guard, Key, Write};

const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";
const ISSUER: &str = "kubernetes/serviceaccount";

/// The controller. It remembers nothing but its key and the cluster's authority.
pub struct TokenController {
    key: Option<Arc<SigningKey>>,
    root_ca: String,
}

impl TokenController {
    /// The controller.
    pub fn new(config: &Config) -> Self {
        Self { key: config.service_account_key.clone(), root_ca: config.root_ca.clone().unwrap_or_default() }
    }
}

fn is_token(secret: &Object) -> bool {
    secret.text("/type") == TYPE
}

fn account(secret: &Object) -> ObjectKey {
    ObjectKey::new(secret.namespace(), secret.annotation(NAME).unwrap_or_default())
}

impl Controller for TokenController {
    fn name(&self) -> &'static str {
        "serviceaccount-token-controller"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        vec![&SERVICE_ACCOUNT]
    }

    fn watches_rare(&self) -> Vec<&'static Kind> {
        vec![&SECRET]
    }

    fn changed(&mut self, view: &View, change: &Informed, _: &DecideCx<'_>) -> Vec<Key> {
        if self.key.is_none() {
            return Vec::new();
        }
        if change.kind.id == SECRET.id {
            let is_meant = change.new.as_ref().is_some_and(|secret| is_token(secret));
            return is_meant.then(|| Key::of(&SECRET, change.key.clone())).into_iter().collect();
        }
        if change.kind.id != SERVICE_ACCOUNT.id {
            return Vec::new();
        }
        view.in_namespace(&SECRET, &change.key.namespace)
            .filter(|secret| is_token(secret) && account(secret) == change.key)
            .map(|secret| Key::of(&SECRET, secret.key()))
            .collect()
    }

    fn decide(&mut self, view: &View, key: &Key, _: &DecideCx<'_>) -> Decision {
        let secret = view.get(&SECRET, &key.object).filter(|secret| is_token(secret));
        let (Some(signing), Some(secret)) = (&self.key, secret) else { return Decision::settled() };
        if secret.is_terminating() {
            return Decision::settled();
        }
        let uid = secret.annotation(UID).unwrap_or_default();
        let owner = account(secret);
        let found = view.get(&SERVICE_ACCOUNT, &owner);
        let Some(found) = found.filter(|found| uid.is_empty() || found.uid() == uid) else {
            let write = Box::new(Write::Delete {
                kind: &SECRET,
                object: secret.clone(),
                grace_s: None,
                propagation: "",
                note: None,
            });
            // The view of accounts may be behind that of Secrets.
            let uid = uid.to_owned();
            let guards = vec![Guard { kind: &SERVICE_ACCOUNT, key: owner, uid, present: false }];
            return Decision { writes: vec![Write::If { guards, write }], ..Decision::default() };
        };
        let wanted = self.filled(signing, secret, found);
        if wanted == **secret {
            return Decision::settled();
        }
        let write = Write::Update { kind: &SECRET, object: wanted };
        Decision { writes: vec![write], ..Decision::default() }
    }
}

impl TokenController {
    fn filled(&self, signing: &SigningKey, secret: &Object, account: &Object) -> Object {
        let mut object = secret.clone();
        if object.annotation(UID).unwrap_or_default().is_empty() {
            object.set("/metadata/annotations/kubernetes.io~1service-account.uid", account.uid());
        }
        if !self.root_ca.is_empty() {
            object.set("/data/ca.crt", STANDARD.encode(&self.root_ca));
        }
        object.set("/data/namespace", STANDARD.encode(secret.namespace()));
        if secret.text("/data/token").is_empty() {
            let (namespace, name) = (account.namespace(), account.name());
            let token = signing.token(&json!({
                "iss": ISSUER, "sub": format!("system:serviceaccount:{namespace}:{name}"),
                "kubernetes.io/serviceaccount/namespace": namespace,
                "kubernetes.io/serviceaccount/secret.name": secret.name(),
                "kubernetes.io/serviceaccount/service-account.name": name,
                "kubernetes.io/serviceaccount/service-account.uid": account.uid(),
            }));
            object.set("/data/token", STANDARD.encode(token));
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    const OWNED: &str = "secret/t /type=kubernetes.io/service-account-token \
        /metadata/annotations={\"kubernetes.io/service-account.name\":\"builder\"}";

    fn world(text: &str) -> World {
        World::new(
            |config| {
                let mut config = config.clone();
                config.service_account_key = Some(Arc::new(SigningKey::of_seed("a")));
                config.root_ca = Some("the authority".to_owned());
                Box::new(TokenController::new(&config))
            },
            text,
        )
    }

    #[test]
    fn a_secret_is_filled_in_and_goes_with_its_account() {
        let mut world = world(&format!("sa/builder; {OWNED}; secret/other /type=Opaque"));
        assert_eq!(world.run_to(0).trim(), "0 update secrets/t");
        let key = ObjectKey::new("default", "t");
        let secret = world.view.get(&SECRET, &key).unwrap();
        let entry = |name: &str| {
            String::from_utf8(STANDARD.decode(secret.text(&format!("/data/{name}"))).unwrap()).unwrap()
        };
        assert_eq!((entry("namespace").as_str(), entry("ca.crt").as_str()), ("default", "the authority"));
        assert_eq!(secret.annotation(UID), Some("sa/builder"));
        let token = entry("token");
        let signed = machinery::signing::Token::parse(&token).unwrap();
        assert!(signed.is_signed_by([SigningKey::of_seed("a").public()].into_iter()));
        assert_eq!(signed.claims["sub"], "system:serviceaccount:default:builder");
        assert_eq!(world.run_to(10), "", "nothing more");
        world.see("-sa/builder");
        assert_eq!(world.run_to(20).trim(), "10 delete secrets/t");
    }

    #[test]
    fn a_secret_without_its_account_goes() {
        let mut world = world(OWNED);
        assert_eq!(world.run_to(0).trim(), "0 delete secrets/t");
    }
}
