//! A store in a real etcd cluster, over gRPC with TLS.
//!
//! Works with etcd 3.4 and later. Nothing is retried here: whoever asks knows whether asking twice
//! does harm. Fragmented watch responses are never asked for, so a revision comes in one piece.

use std::time::Duration;

use bytes::Bytes;
use etcd_client::{
    Certificate, Client, CompactionOptions, CompareOp, ConnectOptions, DeleteOptions, Error,
    EventType, GetOptions, Identity, PutOptions, TlsOptions, TxnOp, TxnOpResponse, WatchOptions,
    WatchResponse,
};
use futures::StreamExt;

use crate::{
    Compare, KeyRange, KeyValue, MemberStatus, Op, OpResult, RangeRequest, RangeResult, Store,
    StoreError, Txn, TxnResult, WatchBatch, WatchEvent, WatchStream,
};

/// The largest answer that is read: etcd itself limits requests, not answers.
const MESSAGE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Certificates for a connection, as PEM.
#[derive(Debug, Clone)]
pub struct EtcdTls {
    /// The authority that signed the members' certificates.
    pub ca: String,
    /// The client's certificate.
    pub certificate: String,
    /// The key of the client's certificate.
    pub key: String,
}

/// Where etcd is and how to speak to it.
#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// URLs, such as `https://10.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// Without it the connection is not encrypted.
    pub tls: Option<EtcdTls>,
    /// A request without an answer is given up after this long.
    pub request_timeout: Duration,
    /// A connection is pinged so often, and given up when a ping is not answered for as long.
    pub keep_alive: Duration,
}

impl EtcdConfig {
    /// Endpoints with kube-apiserver's defaults: pings every 10 s, and etcd's own patience of 7 s.
    pub fn new(endpoints: Vec<String>, tls: Option<EtcdTls>) -> Self {
        Self {
            endpoints,
            tls,
            request_timeout: Duration::from_secs(7),
            keep_alive: Duration::from_secs(10),
        }
    }
}

/// A store in a real etcd cluster.
pub struct EtcdStore {
    client: Client,
    request_timeout: Duration,
}

impl EtcdStore {
    /// A store at these endpoints. Connections are made when they are first needed.
    pub async fn connect(config: &EtcdConfig) -> Result<Self, StoreError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(config.request_timeout)
            .with_keep_alive(config.keep_alive, config.keep_alive)
            .with_keep_alive_while_idle(true);
        if let Some(tls) = &config.tls {
            let options_tls = TlsOptions::new()
                .ca_certificate(Certificate::from_pem(&tls.ca))
                .identity(Identity::from_pem(&tls.certificate, &tls.key));
            options = options.with_tls(options_tls);
        }
        let client = Client::connect(&config.endpoints, Some(options))
            .await
            .map_err(|error| StoreError::Unavailable(describe(&error)))?;
        Ok(Self { client, request_timeout: config.request_timeout })
    }

    /// Waits for an answer to a read.
    async fn read<T>(
        &self,
        asked: Asked,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(self.request_timeout, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(match translate(error, asked) {
                StoreError::Unknown(why) => StoreError::Unavailable(why),
                other => other,
            }),
            Err(_) => Err(StoreError::Unavailable(self.late())),
        }
    }

    /// Waits for an answer to a write: if none comes, the write may or may not have happened.
    async fn write<T>(
        &self,
        asked: Asked,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(self.request_timeout, answer).await {
            Ok(answer) => answer.map_err(|error| translate(error, asked)),
            Err(_) => Err(StoreError::Unknown(self.late())),
        }
    }

    fn late(&self) -> String {
        format!("no answer from etcd within {} s", self.request_timeout.as_secs())
    }
}

/// What a request was about, for the errors that speak of it.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    revision: i64,
    lease: i64,
}

fn describe(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    }
}

/// Says what an error of etcd, or on the way to it, means for a write.
fn translate(error: Error, asked: Asked) -> StoreError {
    let text = describe(&error);
    let has = |part: &str| text.contains(part);
    if has("required revision has been compacted") {
        // etcd does not say what the oldest is: it is later than what was asked for.
        return StoreError::Compacted { asked: asked.revision, oldest: asked.revision + 1 };
    }
    if has("required revision is a future revision") {
        return StoreError::FutureRevision { asked: asked.revision };
    }
    if has("lease not found") {
        return StoreError::NoLease(asked.lease);
    }
    if has("database space exceeded") {
        return StoreError::NoSpace;
    }
    // Refused before the request was proposed, or never sent at all.
    let was_not_proposed = ["no leader", "too many requests", "not capable", "connect"];
    match &error {
        Error::InvalidArgs(_) | Error::InvalidUri(_) => StoreError::Invalid(text),
        Error::GRpcStatus(status) => match status.code() as i32 {
            // InvalidArgument, FailedPrecondition, OutOfRange
            3 | 9 | 11 => StoreError::Invalid(text),
            // ResourceExhausted, Unavailable
            8 | 14 if was_not_proposed.iter().any(|part| has(part)) => {
                StoreError::Unavailable(text)
            }
            _ => StoreError::Unknown(text),
        },
        _ => StoreError::Unknown(text),
    }
}

fn key_value(kv: &etcd_client::KeyValue) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(kv.key()),
        value: Bytes::copy_from_slice(kv.value()),
        create_revision: kv.create_revision(),
        mod_revision: kv.mod_revision(),
        version: kv.version(),
        lease: kv.lease(),
    }
}

fn get_options(range: &KeyRange) -> GetOptions {
    match &range.end {
        Some(end) => GetOptions::new().with_range(end.clone()),
        None => GetOptions::new(),
    }
}

fn operation(op: Op) -> TxnOp {
    match op {
        Op::Put(key, value, lease) => {
            TxnOp::put(key, value.to_vec(), Some(PutOptions::new().with_lease(lease)))
        }
        Op::Delete(range) => {
            let options = match range.end {
                Some(end) => DeleteOptions::new().with_range(end),
                None => DeleteOptions::new(),
            };
            TxnOp::delete(range.start, Some(options))
        }
        Op::Get(range) => {
            let options = get_options(&range);
            TxnOp::get(range.start, Some(options))
        }
    }
}

fn comparison(compare: Compare) -> etcd_client::Compare {
    use etcd_client::Compare as Etcd;
    match compare {
        Compare::ModRevision(key, revision) => Etcd::mod_revision(key, CompareOp::Equal, revision),
        Compare::CreateRevision(key, revision) => {
            Etcd::create_revision(key, CompareOp::Equal, revision)
        }
        Compare::Value(key, value) => Etcd::value(key, CompareOp::Equal, value.to_vec()),
    }
}

fn result(response: &TxnOpResponse) -> OpResult {
    match response {
        TxnOpResponse::Put(_) => OpResult::Put,
        TxnOpResponse::Delete(deleted) => {
            OpResult::Deleted(usize::try_from(deleted.deleted()).unwrap_or_default())
        }
        TxnOpResponse::Get(got) => OpResult::Got(got.kvs().iter().map(key_value).collect()),
        TxnOpResponse::Txn(_) => OpResult::Got(Vec::new()),
    }
}

/// What a response of a watch brings; `None` for the one that says that the watch was made.
fn batch(response: &WatchResponse, from: i64) -> Option<Result<WatchBatch, StoreError>> {
    if response.compact_revision() > 0 {
        let oldest = response.compact_revision();
        return Some(Err(StoreError::Compacted { asked: from, oldest }));
    }
    if response.canceled() {
        let why = format!("etcd ended the watch: {}", response.cancel_reason());
        return Some(Err(StoreError::Unavailable(why)));
    }
    let header = response.header().map_or(0, |header| header.revision());
    // A watch from now on has by its making delivered everything up to its revision.
    if response.created() && from > 0 {
        return None;
    }
    let events: Vec<WatchEvent> = response
        .events()
        .iter()
        .filter_map(|event| {
            let is_delete = event.event_type() == EventType::Delete;
            let kv = event.kv().map(key_value)?;
            Some(WatchEvent { kv, prev: event.prev_kv().map(key_value), is_delete })
        })
        .collect();
    // While a watch catches up, the header runs ahead of what has been delivered.
    let revision = events.last().map_or(header, |event| event.kv.mod_revision);
    Some(Ok(WatchBatch { revision, events }))
}

#[async_trait::async_trait]
impl Store for EtcdStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult, StoreError> {
        let asked = Asked { revision: request.revision, ..Asked::default() };
        let mut options = get_options(&request.range).with_revision(request.revision);
        options = options.with_limit(i64::try_from(request.limit).unwrap_or(i64::MAX));
        if request.serializable {
            options = options.with_serializable();
        }
        let mut kv = self.client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
        let response = self.read(asked, kv.get(request.range.start, Some(options))).await?;
        Ok(RangeResult {
            revision: response.header().map_or(0, |header| header.revision()),
            kvs: response.kvs().iter().map(key_value).collect(),
            more: response.more(),
            count: usize::try_from(response.count()).unwrap_or_default(),
        })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        let leases = txn.success.iter().chain(&txn.failure).filter_map(|op| match op {
            Op::Put(_, _, lease) if *lease != 0 => Some(*lease),
            _ => None,
        });
        let asked = Asked { lease: leases.last().unwrap_or_default(), ..Asked::default() };
        let request = etcd_client::Txn::new()
            .when(txn.compare.into_iter().map(comparison).collect::<Vec<_>>())
            .and_then(txn.success.into_iter().map(operation).collect::<Vec<_>>())
            .or_else(txn.failure.into_iter().map(operation).collect::<Vec<_>>());
        let mut kv = self.client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
        let response = self.write(asked, kv.txn(request)).await?;
        Ok(TxnResult {
            succeeded: response.succeeded(),
            revision: response.header().map_or(0, |header| header.revision()),
            results: response.op_responses().iter().map(result).collect(),
        })
    }

    async fn watch(&self, range: KeyRange, from: i64) -> Result<WatchStream, StoreError> {
        let mut options = WatchOptions::new().with_prev_key().with_progress_notify();
        options = options.with_start_revision(from);
        if let Some(end) = range.end {
            options = options.with_range(end);
        }
        let asked = Asked { revision: from, ..Asked::default() };
        let mut client = self.client.watch_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
        let opening = async move {
            let mut watch = client.watch(range.start, Some(options)).await?;
            let made = watch.message().await?;
            Ok((watch, made))
        };
        let (watch, made) = self.read(asked, opening).await?;
        let Some(made) = made else {
            return Err(StoreError::Unavailable("etcd ended the watch at once".to_owned()));
        };
        let first = batch(&made, from);
        if let Some(Err(error)) = first {
            return Err(error);
        }
        let rest = futures::stream::unfold(Some(watch), move |watch| async move {
            let mut watch = watch?;
            loop {
                let item = match watch.message().await {
                    Ok(Some(response)) => batch(&response, from),
                    Ok(None) => {
                        Some(Err(StoreError::Unavailable("etcd ended the watch".to_owned())))
                    }
                    Err(error) => Some(Err(StoreError::Unavailable(describe(&error)))),
                };
                match item {
                    None => {}
                    Some(Ok(batch)) => return Some((Ok(batch), Some(watch))),
                    Some(Err(error)) => return Some((Err(error), None)),
                }
            }
        });
        Ok(futures::stream::iter(first).chain(rest).boxed())
    }

    async fn compact(&self, revision: i64) -> Result<(), StoreError> {
        let asked = Asked { revision, ..Asked::default() };
        let mut client = self.client.kv_client();
        let options = Some(CompactionOptions::new());
        self.write(asked, client.compact(revision, options)).await.map(|_| ())
    }

    async fn lease_grant(&self, ttl_s: i64) -> Result<i64, StoreError> {
        if ttl_s <= 0 {
            return Err(StoreError::Invalid("a lease needs a time to live".to_owned()));
        }
        let mut client = self.client.lease_client();
        let granted = self.write(Asked::default(), client.grant(ttl_s, None)).await?;
        Ok(granted.id())
    }

    async fn lease_keep_alive(&self, lease: i64) -> Result<i64, StoreError> {
        let mut client = self.client.lease_client();
        let renewal = async move {
            // The client library keeps the first answer to itself: ask again for the time to live.
            let (mut keeper, mut answers) = client.keep_alive(lease).await?;
            keeper.keep_alive().await?;
            answers.message().await
        };
        let asked = Asked { lease, ..Asked::default() };
        match self.write(asked, renewal).await? {
            Some(answer) if answer.ttl() > 0 => Ok(answer.ttl()),
            Some(_) => Err(StoreError::NoLease(lease)),
            None => Err(StoreError::Unknown("etcd ended the renewal".to_owned())),
        }
    }

    async fn lease_revoke(&self, lease: i64) -> Result<(), StoreError> {
        let asked = Asked { lease, ..Asked::default() };
        let mut client = self.client.lease_client();
        self.write(asked, client.revoke(lease)).await.map(|_| ())
    }

    async fn status(&self) -> Result<MemberStatus, StoreError> {
        let mut client = self.client.maintenance_client();
        let status = self.read(Asked::default(), client.status()).await?;
        let header = status.header();
        Ok(MemberStatus {
            member: header.map_or(0, |header| header.member_id()),
            leader: status.leader(),
            term: status.raft_term(),
            revision: header.map_or(0, |header| header.revision()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etcd_says(message: &str) -> StoreError {
        let error = Error::InvalidArgs(message.to_owned());
        translate(error, Asked { revision: 7, lease: 9 })
    }

    #[test]
    fn what_etcd_says_is_told_apart() {
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(etcd_says(compacted), StoreError::Compacted { asked: 7, oldest: 8 });
        let future = "etcdserver: mvcc: required revision is a future revision";
        assert_eq!(etcd_says(future), StoreError::FutureRevision { asked: 7 });
        assert_eq!(etcd_says("etcdserver: requested lease not found"), StoreError::NoLease(9));
        assert_eq!(etcd_says("etcdserver: mvcc: database space exceeded"), StoreError::NoSpace);
        assert!(matches!(etcd_says("etcdserver: duplicate key"), StoreError::Invalid(_)));
        let lost = translate(Error::WatchError("broken pipe".to_owned()), Asked::default());
        assert!(matches!(lost, StoreError::Unknown(_)));
    }
}
