//! Encryption at rest: a store around the store, which encrypts what goes in and decrypts what comes out,
//! as `--encryption-provider-config` says. Everybody else in this crate sees plain values.
//!
//! The stored form is upstream's: `k8s:enc:<provider>:v1:<key>:` and the ciphertext. The first provider
//! writes, all read. What no key reads stays as it is, and whoever wants that object is told so.
//! Limits: the kinds of the cluster itself, not those that CustomResourceDefinitions add; no KMS.

mod cipher;
mod settings;

use std::sync::Arc;

use bytes::Bytes;
use env::Env;
use futures::StreamExt;
use machinery::Status;
use rand::RngCore;
use storage::{
    Compare, KeyRange, KeyValue, MemberStatus, Op, OpResult, RangeRequest, RangeResult, Store,
    StoreError, Txn, TxnResult, WatchStream,
};

use cipher::Cipher;
pub use settings::{EncryptionError, EncryptionSettings};

use crate::status;

/// How every encrypted value begins.
pub(crate) const HEAD: &[u8] = b"k8s:enc:";

/// One way to write and read values.
#[derive(Debug)]
pub(crate) enum Provider {
    /// As it is.
    Identity,
    /// Encrypted; the values begin with this.
    Encrypting { head: Vec<u8>, cipher: Cipher },
}

/// A store whose values are encrypted.
pub(crate) struct Encrypted {
    inner: Arc<dyn Store>,
    rules: Arc<Rules>,
}

struct Rules {
    env: Env,
    settings: EncryptionSettings,
}

impl Encrypted {
    pub(crate) fn new(env: Env, inner: Arc<dyn Store>, settings: EncryptionSettings) -> Self {
        Self { inner, rules: Arc::new(Rules { env, settings }) }
    }

    /// Whether a value lies in the store otherwise than it would be written now.
    pub(crate) async fn is_stale(&self, key: &[u8]) -> Result<bool, Status> {
        let Some([first, ..]) = self.rules.settings.providers(key) else { return Ok(false) };
        let asked = RangeRequest::latest(KeyRange::key(key.to_vec()));
        let found = self.inner.range(asked).await.map_err(status::from_store)?.kvs.pop();
        Ok(found.is_some_and(|kv| match first {
            Provider::Identity => kv.value.starts_with(HEAD),
            Provider::Encrypting { head, .. } => !kv.value.starts_with(head),
        }))
    }
}

impl Rules {
    /// A value as it is stored.
    fn seal(&self, key: &[u8], value: Bytes) -> Result<Bytes, StoreError> {
        let Some([Provider::Encrypting { head, cipher }, ..]) = self.settings.providers(key) else {
            return Ok(value);
        };
        let mut nonce = vec![0; cipher.nonce_bytes()];
        self.env.entropy("encryption").fill_bytes(&mut nonce);
        let sealed = cipher.seal(&nonce, key, &value);
        let sealed = sealed.map_err(|why| StoreError::Invalid(format!("cannot encrypt: {why}")))?;
        Ok([head, nonce.as_slice(), &sealed].concat().into())
    }

    /// A value as it was; what no key reads stays encrypted.
    fn open(&self, mut kv: KeyValue) -> KeyValue {
        if !kv.value.starts_with(HEAD) {
            return kv;
        }
        for provider in self.settings.providers(&kv.key).unwrap_or_default() {
            let Provider::Encrypting { head, cipher } = provider else { continue };
            let Some(rest) = kv.value.strip_prefix(head.as_slice()) else { continue };
            if let Some(plain) = cipher.open(&kv.key, rest) {
                kv.value = plain.into();
                return kv;
            }
        }
        kv
    }

    fn seal_all(&self, ops: Vec<Op>) -> Result<Vec<Op>, StoreError> {
        ops.into_iter()
            .map(|op| match op {
                Op::Put(key, value, lease) => {
                    let value = self.seal(&key, value)?;
                    Ok(Op::Put(key, value, lease))
                }
                other => Ok(other),
            })
            .collect()
    }
}

#[async_trait::async_trait]
impl Store for Encrypted {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult, StoreError> {
        let mut result = self.inner.range(request).await?;
        result.kvs = result.kvs.into_iter().map(|kv| self.rules.open(kv)).collect();
        Ok(result)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        // Two encryptions of one value differ, so values can only be compared where none is encrypted.
        let is_compared = txn.compare.iter().any(|one| {
            matches!(one, Compare::Value(key, _) if self.rules.settings.providers(key).is_some())
        });
        if is_compared {
            return Err(StoreError::Invalid("an encrypted value cannot be compared".to_owned()));
        }
        let success = self.rules.seal_all(txn.success)?;
        let failure = self.rules.seal_all(txn.failure)?;
        let mut result = self.inner.txn(Txn { success, failure, ..txn }).await?;
        for one in &mut result.results {
            if let OpResult::Got(kvs) = one {
                *kvs = std::mem::take(kvs).into_iter().map(|kv| self.rules.open(kv)).collect();
            }
        }
        Ok(result)
    }

    async fn watch(&self, range: KeyRange, from: i64) -> Result<WatchStream, StoreError> {
        let rules = self.rules.clone();
        let events = self.inner.watch(range, from).await?;
        let opened = events.map(move |batch| {
            let mut batch = batch?;
            for event in &mut batch.events {
                event.kv = rules.open(event.kv.clone());
                event.prev = event.prev.take().map(|kv| rules.open(kv));
            }
            Ok(batch)
        });
        Ok(opened.boxed())
    }

    async fn compact(&self, revision: i64) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    async fn lease_grant(&self, ttl_s: i64) -> Result<i64, StoreError> {
        self.inner.lease_grant(ttl_s).await
    }

    async fn lease_keep_alive(&self, lease: i64) -> Result<i64, StoreError> {
        self.inner.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: i64) -> Result<(), StoreError> {
        self.inner.lease_revoke(lease).await
    }

    async fn status(&self) -> Result<MemberStatus, StoreError> {
        self.inner.status().await
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::{Value, json};

    use super::*;
    use crate::Config;
    use crate::testing::{World, named, text};

    const SECRETS: &str = "/api/v1/namespaces/default/secrets";

    fn settings(providers: &[Value], resources: &[&str]) -> EncryptionSettings {
        let document = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
            "resources": [{"resources": resources, "providers": providers}],
        });
        EncryptionSettings::parse(&document.to_string()).unwrap()
    }

    fn keys(provider: &str, names: &[&str]) -> Value {
        let key = |name: &&str| {
            use base64::Engine as _;
            let secret = base64::engine::general_purpose::STANDARD.encode(format!("{name:x>32}"));
            json!({"name": name, "secret": secret})
        };
        json!({provider: {"keys": names.iter().map(key).collect::<Vec<_>>()}})
    }

    /// Another server over the same store, with other settings.
    fn another(world: &World, settings: EncryptionSettings) -> Arc<crate::ApiServer> {
        let config = Config { encryption: Some(settings), ..Config::default() };
        crate::ApiServer::new(world.env.clone(), world.cluster.member(0), config)
    }

    async fn raw(world: &World, name: &str) -> Vec<u8> {
        let key = format!("/registry/secrets/default/{name}");
        let asked = RangeRequest::latest(KeyRange::key(key));
        let found = world.cluster.member(0).range(asked).await.unwrap().kvs.pop();
        found.unwrap().value.to_vec()
    }

    fn secret(name: &str) -> Value {
        let mut secret = named("v1", "Secret", name);
        secret["stringData"] = json!({"password": "correct horse"});
        secret
    }

    #[tokio::test(start_paused = true)]
    async fn values_are_encrypted_in_the_store_and_nowhere_else() {
        for provider in ["aescbc", "aesgcm", "secretbox"] {
            let encryption = Some(settings(&[keys(provider, &["key1"])], &["secrets"]));
            let world = World::with(&[], Config { encryption, ..Config::default() }).await;
            let mut watch = world.watch(&format!("{SECRETS}?watch=1")).await;
            let made = world.create(SECRETS, secret("a")).await;
            let stored = raw(&world, "a").await;
            let head = format!("k8s:enc:{provider}:v1:key1:");
            assert!(stored.starts_with(head.as_bytes()), "{provider}");
            assert!(!String::from_utf8_lossy(&stored).contains("password"));
            assert_eq!(world.get(&format!("{SECRETS}/a")).await, made);
            let listed = world.get(SECRETS).await;
            assert_eq!(listed["items"][0]["data"], made["data"]);
            assert_eq!(watch.next().await.unwrap()["object"]["data"], made["data"]);
            world.patch(&format!("{SECRETS}/a"), json!({"stringData": {"b": "c"}})).await;
            assert_eq!(watch.next().await.unwrap()["object"]["data"]["b"], "Yw==");
            world.delete(&format!("{SECRETS}/a")).await;
            assert_eq!(watch.next().await.unwrap()["object"]["data"]["b"], "Yw==");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_key_writes_and_all_read() {
        let encryption = Some(settings(&[keys("aescbc", &["key1"])], &["secrets"]));
        let mut world = World::with(&[], Config { encryption, ..Config::default() }).await;
        world.create(SECRETS, secret("a")).await;
        let both = [keys("aesgcm", &["key2"]), keys("aescbc", &["key1"]), json!({"identity": {}})];
        world.server = another(&world, settings(&both, &["*.*"]));
        let read = world.get(&format!("{SECRETS}/a")).await;
        // What an administrator does after a change of keys: writes everything as it is.
        world.update(&format!("{SECRETS}/a"), &read).await;
        assert!(raw(&world, "a").await.starts_with(b"k8s:enc:aesgcm:v1:key2:"));
        let before = raw(&world, "a").await;
        let read = world.get(&format!("{SECRETS}/a")).await;
        world.update(&format!("{SECRETS}/a"), &read).await;
        assert_eq!(raw(&world, "a").await, before, "nothing is written twice");
        world.server =
            another(&world, settings(&[json!({"identity": {}}), both[0].clone()], &["secrets"]));
        let read = world.get(&format!("{SECRETS}/a")).await;
        world.update(&format!("{SECRETS}/a"), &read).await;
        assert!(raw(&world, "a").await.starts_with(b"{"), "and back");
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_key_reads_is_told_and_harms_nobody_else() {
        let encryption = Some(settings(&[keys("aescbc", &["key1"])], &["secrets"]));
        let mut world = World::with(&[], Config { encryption, ..Config::default() }).await;
        world.create(SECRETS, secret("a")).await;
        world.server = another(&world, settings(&[keys("aescbc", &["key2"])], &["secrets"]));
        world.create(SECRETS, secret("b")).await;
        let (code, answer) = world.call(Method::GET, &format!("{SECRETS}/a"), &Value::Null).await;
        assert_eq!(code, 500);
        assert!(text(&answer["message"]).contains("k8s:enc:aescbc:v1:key1:"), "{answer}");
        world.get(&format!("{SECRETS}/b")).await;
        world.get("/api/v1/namespaces/default/configmaps").await;
        // The same name, but another key: the ciphertext is moved, not read.
        let wrong = keys("aesgcm", &["key1"]);
        world.server = another(&world, settings(&[wrong], &["secrets"]));
        world.create(SECRETS, secret("c")).await;
        let moved = raw(&world, "c").await;
        let put = Op::Put(b"/registry/secrets/default/d".to_vec(), moved.into(), 0);
        let txn = Txn { success: vec![put], ..Txn::default() };
        world.cluster.member(0).txn(txn).await.unwrap();
        let (code, _) = world.call(Method::GET, &format!("{SECRETS}/d"), &Value::Null).await;
        assert_eq!(code, 500, "a value is bound to its key");
    }
}
