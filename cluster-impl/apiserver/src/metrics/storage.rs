//! A store around the store, which measures what is asked of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use env::Env;
use storage::{
    Compare, KeyRange, MemberStatus, Op, RangeRequest, RangeResult, Store, StoreError, Txn,
    TxnResult, WatchStream,
};

use super::Metrics;
use crate::storage_key;

/// Kinds by where they lie in the store.
static PLACES: LazyLock<BTreeMap<String, &'static str>> = LazyLock::new(|| {
    machinery::kinds::ALL.iter().map(|kind| (storage_key::prefix(kind), kind.id)).collect()
});

/// The kind that lies at a key, as labels have it.
fn kind_at(key: &[u8]) -> Cow<'static, str> {
    let path = std::str::from_utf8(key).unwrap_or_default();
    let end = |parts: usize| path.match_indices('/').nth(parts).map(|(at, _)| &path[..=at]);
    // `/registry/{kind}/..`, or one part more.
    for prefix in [end(2), end(3)].into_iter().flatten() {
        if let Some(id) = PLACES.get(prefix) {
            return Cow::Borrowed(id);
        }
    }
    let mut parts = path.trim_start_matches("/registry/").split('/');
    match (parts.next(), parts.next()) {
        (Some(group), Some(plural)) if group.contains('.') => format!("{plural}.{group}").into(),
        (Some(first), _) => first.to_owned().into(),
        _ => Cow::Borrowed(""),
    }
}

/// What a transaction is called that writes something.
fn operation(txn: &Txn) -> (&'static str, &[u8]) {
    for op in &txn.success {
        match op {
            Op::Put(key, ..) => {
                let is_new = |one: &Compare| match one {
                    Compare::ModRevision(compared, revision)
                    | Compare::CreateRevision(compared, revision) => {
                        compared == key && *revision == 0
                    }
                    Compare::Value(..) => false,
                };
                let is_new = txn.compare.iter().any(is_new);
                return (if is_new { "create" } else { "update" }, key);
            }
            Op::Delete(range) => return ("delete", &range.start),
            Op::Get(_) => {}
        }
    }
    match txn.success.first() {
        Some(Op::Get(range)) => ("get", &range.start),
        _ => ("get", &[]),
    }
}

/// A store that is measured.
pub(crate) struct Measured {
    env: Env,
    inner: Arc<dyn Store>,
    metrics: Arc<Metrics>,
}

impl Measured {
    pub(crate) fn new(env: Env, inner: Arc<dyn Store>, metrics: Arc<Metrics>) -> Self {
        Self { env, inner, metrics }
    }

    async fn measure<T>(
        &self,
        operation: &str,
        kind: &str,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let began = self.env.instant();
        let answer = request.await;
        let labels = [operation, kind];
        self.metrics.store_requests.add(&labels, 1.0);
        self.metrics.store_seconds.observe(&labels, began.elapsed().as_secs_f64());
        if answer.is_err() {
            self.metrics.store_errors.add(&labels, 1.0);
        }
        answer
    }
}

#[async_trait::async_trait]
impl Store for Measured {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult, StoreError> {
        let operation = if request.range.end.is_none() { "get" } else { "list" };
        let kind = kind_at(&request.range.start);
        self.measure(operation, &kind, self.inner.range(request)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        let (operation, key) = operation(&txn);
        let kind = kind_at(key);
        self.measure(operation, &kind, self.inner.txn(txn)).await
    }

    async fn watch(&self, range: KeyRange, from: i64) -> Result<WatchStream, StoreError> {
        self.inner.watch(range, from).await
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
    use super::*;

    #[test]
    fn keys_tell_their_kind() {
        for (key, kind) in [
            ("/registry/pods/default/web", "pods"),
            ("/registry/pods/", "pods"),
            ("/registry/minions/n-1", "nodes"),
            ("/registry/services/specs/default/web", "services"),
            ("/registry/leases/kube-system/x", "leases.coordination.k8s.io"),
            (
                "/registry/apiextensions.k8s.io/customresourcedefinitions/x",
                "customresourcedefinitions.apiextensions.k8s.io",
            ),
            ("/registry/example.com/widgets/default/x", "widgets.example.com"),
            ("/registry/health", "health"),
            ("", ""),
        ] {
            assert_eq!(kind_at(key.as_bytes()), kind, "{key}");
        }
    }
}
