//! etcd v3 semantics behind one trait: real etcd, a simulated etcd in memory, and a store of one process
//! that can keep itself on disk.
//!
//! All bodies pass the one suite in `conformance.rs`. Only the API server may use this crate.

pub mod conformance;
pub mod etcd;
pub mod local;
pub mod memory;

use bytes::Bytes;
use futures::stream::BoxStream;

/// A key with its value, as of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; opaque.
    pub value: Bytes,
    /// The revision at which the key was last created.
    pub create_revision: i64,
    /// The revision of the last change.
    pub mod_revision: i64,
    /// Changes since creation, from 1.
    pub version: i64,
    /// The lease that the key dies with; 0 for none.
    pub lease: i64,
}

/// Which keys: one, or all from `start` up to but not including `end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub start: Vec<u8>,
    /// The first key past the range; `None` for the single key `start`.
    pub end: Option<Vec<u8>>,
}

impl KeyRange {
    /// One key.
    pub fn key(key: impl Into<Vec<u8>>) -> Self {
        Self { start: key.into(), end: None }
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let start = prefix.into();
        let mut end = start.clone();
        while let Some(last) = end.pop() {
            if last < 0xff {
                end.push(last + 1);
                break;
            }
        }
        // An empty end means "to the last key", which etcd writes as one zero byte.
        Self { start, end: Some(if end.is_empty() { vec![0] } else { end }) }
    }

    /// Whether `key` lies inside.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            None => key == self.start,
            Some(end) if end == &[0] => key >= self.start.as_slice(),
            Some(end) => key >= self.start.as_slice() && key < end.as_slice(),
        }
    }
}

/// A read.
#[derive(Debug, Clone)]
pub struct RangeRequest {
    /// Which keys, answered in order of key.
    pub range: KeyRange,
    /// As of this revision; 0 for the latest.
    pub revision: i64,
    /// At most so many; 0 for all.
    pub limit: usize,
    /// Answer from the nearest member even if it may be behind.
    pub serializable: bool,
}

impl RangeRequest {
    /// A linearizable read of the whole range at the latest revision.
    pub fn latest(range: KeyRange) -> Self {
        Self { range, revision: 0, limit: 0, serializable: false }
    }
}

/// The answer to a read.
#[derive(Debug, Clone)]
pub struct RangeResult {
    /// The store's revision when it answered.
    pub revision: i64,
    /// The keys, in order.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut the answer short.
    pub more: bool,
    /// How many keys lie in the range, limit aside.
    pub count: usize,
}

/// What must hold for a transaction's `success` branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key's last change has this revision; 0 means that the key does not exist.
    ModRevision(Vec<u8>, i64),
    /// The key was created at this revision; 0 means that the key does not exist.
    CreateRevision(Vec<u8>, i64),
    /// The key has this value.
    Value(Vec<u8>, Bytes),
}

/// One operation of a transaction.
#[derive(Debug, Clone)]
pub enum Op {
    /// Writes a key, attached to a lease unless that is 0.
    Put(Vec<u8>, Bytes, i64),
    /// Deletes keys.
    Delete(KeyRange),
    /// Reads keys as of the transaction.
    Get(KeyRange),
}

/// Compare, then do one of two things, atomically and at one revision.
#[derive(Debug, Clone, Default)]
pub struct Txn {
    /// All must hold.
    pub compare: Vec<Compare>,
    /// Done if they hold.
    pub success: Vec<Op>,
    /// Done if they do not.
    pub failure: Vec<Op>,
}

/// What one operation answered.
#[derive(Debug, Clone)]
pub enum OpResult {
    /// A key was written.
    Put,
    /// So many keys were deleted.
    Deleted(usize),
    /// What was read.
    Got(Vec<KeyValue>),
}

/// What a transaction answered.
#[derive(Debug, Clone)]
pub struct TxnResult {
    /// Which branch ran.
    pub succeeded: bool,
    /// The store's revision afterwards: that of the write, if there was one.
    pub revision: i64,
    /// One answer for each operation of the branch.
    pub results: Vec<OpResult>,
}

/// One change, as a watch tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvent {
    /// The key after the change; of a deletion, only key and `mod_revision` are set.
    pub kv: KeyValue,
    /// The key before the change, if it existed and was not compacted away.
    pub prev: Option<KeyValue>,
    /// Whether the key was deleted.
    pub is_delete: bool,
}

/// All changes of one or more whole revisions, or a mere sign of progress when `events` is empty.
#[derive(Debug, Clone)]
pub struct WatchBatch {
    /// Every event up to and including this revision has been delivered.
    pub revision: i64,
    /// The changes, in order of revision; a revision is never split over two batches.
    pub events: Vec<WatchEvent>,
}

/// Why the store did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The revision asked for is gone.
    #[error("revision {asked} has been compacted; the oldest is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: i64,
        /// The oldest revision that can be asked for.
        oldest: i64,
    },
    /// The revision asked for has not happened yet.
    #[error("revision {asked} has not happened yet")]
    FutureRevision {
        /// What was asked for.
        asked: i64,
    },
    /// The request was not carried out: no leader, no quorum, nothing listening.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// The request may or may not have been carried out.
    #[error("store answered too late: {0}")]
    Unknown(String),
    /// The lease does not exist or has expired.
    #[error("no lease {0}")]
    NoLease(i64),
    /// The request is wrong.
    #[error("bad request to the store: {0}")]
    Invalid(String),
    /// The store's disk or quota is full.
    #[error("store is out of space")]
    NoSpace,
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// The member's id.
    pub member: u64,
    /// Whom it takes for the leader; 0 for nobody.
    pub leader: u64,
    /// Its raft term.
    pub term: u64,
    /// Its applied revision.
    pub revision: i64,
}

/// A stream of changes. It ends with an error, never silently.
pub type WatchStream = BoxStream<'static, Result<WatchBatch, StoreError>>;

/// A multi-version key-value store with the semantics of etcd v3.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads keys.
    async fn range(&self, request: RangeRequest) -> Result<RangeResult, StoreError>;
    /// Compares, then writes, at one revision.
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError>;
    /// All changes in `range` with a revision of at least `from`; 0 for "from now on".
    /// Answers [`StoreError::Compacted`] if `from` is below the compacted revision.
    /// The stream yields an empty batch from time to time while nothing changes (progress).
    async fn watch(&self, range: KeyRange, from: i64) -> Result<WatchStream, StoreError>;
    /// Forgets all revisions below `revision`, except for what is still the latest.
    async fn compact(&self, revision: i64) -> Result<(), StoreError>;
    /// A lease of this many seconds; answers its id.
    async fn lease_grant(&self, ttl_s: i64) -> Result<i64, StoreError>;
    /// Renews a lease; answers its time to live.
    async fn lease_keep_alive(&self, lease: i64) -> Result<i64, StoreError>;
    /// Ends a lease and deletes its keys.
    async fn lease_revoke(&self, lease: i64) -> Result<(), StoreError>;
    /// What the member behind this handle says of itself.
    async fn status(&self) -> Result<MemberStatus, StoreError>;
}
