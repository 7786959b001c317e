//! The multi-version store: revisions, key histories, transactions, compaction and lease attachments.
//!
//! Pure and synchronous: commands go in, in the order of the committed log, and answers come out.
//! Invariants: revisions rise by one for each command that changes a key, and all changes of one
//! command share its revision; the first revision is 1, that of the empty store.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Compare, KeyRange, KeyValue, Op, OpResult, StoreError, Txn, TxnResult, WatchEvent};

/// etcd's `--max-txn-ops`.
const TXN_OPS_MAX: usize = 128;
/// etcd's `--max-request-bytes`.
const REQUEST_BYTES_MAX: usize = 1_572_864;
/// One write in so many of a ConfigMap is lost by the sabotage `acked-write-lost`.
const LOST_WRITE_PERIOD: u64 = 20;
/// The planted defect comes with load: so many writes are kept first.
const LOST_WRITES_AFTER: u64 = 60;

/// One version of one key.
#[derive(Debug, Clone)]
struct Version {
    kv: KeyValue,
    is_tombstone: bool,
}

/// The changes of one revision.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) revision: i64,
    pub(crate) events: Arc<[WatchEvent]>,
}

/// A granted lease.
#[derive(Debug, Clone)]
pub(crate) struct LeaseRecord {
    pub(crate) ttl_s: i64,
    keys: BTreeSet<Bytes>,
}

/// What was read.
pub(crate) struct Found {
    pub(crate) kvs: Vec<KeyValue>,
    pub(crate) more: bool,
    pub(crate) count: usize,
}

/// The store.
pub(crate) struct Mvcc {
    revision: i64,
    compacted: i64,
    keys: BTreeMap<Bytes, Vec<Version>>,
    history: VecDeque<Record>,
    leases: BTreeMap<i64, LeaseRecord>,
    /// Counts the writes that `acked-write-lost` may lose; `None` if it is off.
    lossy_writes: Option<u64>,
}

/// Refuses what etcd refuses before a transaction reaches the log.
pub(crate) fn check(txn: &Txn) -> Result<(), StoreError> {
    let invalid = |why: &str| Err(StoreError::Invalid(why.to_owned()));
    let counts = [txn.compare.len(), txn.success.len(), txn.failure.len()];
    if counts.iter().any(|count| *count > TXN_OPS_MAX) {
        return invalid("too many operations in one transaction");
    }
    let mut bytes = 0;
    for branch in [&txn.success, &txn.failure] {
        let mut written = BTreeSet::new();
        for op in branch {
            let key = match op {
                Op::Put(key, value, _) => {
                    bytes += key.len() + value.len();
                    if !written.insert(key.as_slice()) {
                        return invalid("duplicate key in one transaction");
                    }
                    key
                }
                Op::Delete(range) | Op::Get(range) => &range.start,
            };
            if key.is_empty() {
                return invalid("the key is empty");
            }
        }
        for op in branch {
            if let Op::Delete(range) = op
                && written.iter().any(|key| range.contains(key))
            {
                return invalid("duplicate key in one transaction");
            }
        }
    }
    if bytes > REQUEST_BYTES_MAX {
        return invalid("the request is too large");
    }
    Ok(())
}

impl Mvcc {
    pub(crate) fn new(is_lossy: bool) -> Self {
        Self {
            revision: 1,
            compacted: 0,
            keys: BTreeMap::new(),
            history: VecDeque::new(),
            leases: BTreeMap::new(),
            lossy_writes: is_lossy.then_some(0),
        }
    }

    /// The store as it was at a revision, with nothing of what was before.
    pub(crate) fn restored(revision: i64, kvs: Vec<KeyValue>, leases: &[(i64, i64)]) -> Self {
        let mut store = Self { revision, compacted: revision, ..Self::new(false) };
        for (lease, ttl_s) in leases {
            store.grant(*lease, *ttl_s);
        }
        for kv in kvs {
            if let Some(lease) = store.leases.get_mut(&kv.lease) {
                lease.keys.insert(kv.key.clone());
            }
            store.keys.insert(kv.key.clone(), vec![Version { kv, is_tombstone: false }]);
        }
        store
    }

    /// The store as it is at a revision, without what came after and before.
    pub(crate) fn as_of(&self, revision: i64) -> Self {
        let kvs = self.range(&KeyRange { start: vec![0], end: Some(vec![0]) }, revision, 0).kvs;
        let leases: Vec<_> = self.leases.iter().map(|(id, lease)| (*id, lease.ttl_s)).collect();
        Self::restored(revision, kvs, &leases)
    }

    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    pub(crate) fn compacted(&self) -> i64 {
        self.compacted
    }

    pub(crate) fn leases(&self) -> &BTreeMap<i64, LeaseRecord> {
        &self.leases
    }

    /// Reads keys as of a revision, which must not have been purged.
    pub(crate) fn range(&self, range: &KeyRange, revision: i64, limit: usize) -> Found {
        let mut found = Found { kvs: Vec::new(), more: false, count: 0 };
        for versions in self.histories(range) {
            let Some(version) = at(versions, revision) else { continue };
            found.count += 1;
            if limit == 0 || found.kvs.len() < limit {
                found.kvs.push(version.kv.clone());
            } else {
                found.more = true;
            }
        }
        found
    }

    fn histories(&self, range: &KeyRange) -> Box<dyn Iterator<Item = &Vec<Version>> + '_> {
        let start = range.start.as_slice();
        let end = match &range.end {
            None => return Box::new(self.keys.get(start).into_iter()),
            Some(end) if end == &[0] => Bound::Unbounded,
            Some(end) if end.as_slice() <= start => return Box::new(std::iter::empty()),
            Some(end) => Bound::Excluded(end.as_slice()),
        };
        let within = self.keys.range::<[u8], _>((Bound::Included(start), end));
        Box::new(within.map(|(_, versions)| versions))
    }

    fn latest(&self, key: &[u8]) -> Option<&KeyValue> {
        at(self.keys.get(key)?, self.revision + 1).map(|version| &version.kv)
    }

    /// The recorded changes from a revision on, oldest first.
    pub(crate) fn history_from(&self, revision: i64) -> impl Iterator<Item = &Record> {
        let first = self.history.partition_point(|record| record.revision < revision);
        self.history.range(first..)
    }

    /// Carries out a transaction; answers its changes too, in the order they were made.
    pub(crate) fn txn(&mut self, txn: &Txn) -> Result<(TxnResult, Option<Record>), StoreError> {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        for op in branch {
            if let Op::Put(_, _, lease) = op
                && *lease != 0
                && !self.leases.contains_key(lease)
            {
                return Err(StoreError::NoLease(*lease));
            }
        }
        let mut events = Vec::new();
        let mut has_written = false;
        let results = branch
            .iter()
            .map(|op| match op {
                Op::Put(key, value, lease) => {
                    has_written = true;
                    if !self.loses(key) {
                        events.push(self.put(key, value, *lease));
                    }
                    OpResult::Put
                }
                Op::Delete(range) => {
                    let deleted = self.delete(range);
                    let count = deleted.len();
                    events.extend(deleted);
                    OpResult::Deleted(count)
                }
                Op::Get(range) => OpResult::Got(self.range(range, self.revision + 1, 0).kvs),
            })
            .collect();
        let record = self.record(events, has_written);
        Ok((TxnResult { succeeded, revision: self.revision, results }, record))
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::ModRevision(key, revision) => {
                self.latest(key).map_or(0, |kv| kv.mod_revision) == *revision
            }
            Compare::CreateRevision(key, revision) => {
                self.latest(key).map_or(0, |kv| kv.create_revision) == *revision
            }
            Compare::Value(key, value) => self.latest(key).is_some_and(|kv| kv.value == *value),
        }
    }

    /// Whether the planted defect swallows this write.
    fn loses(&mut self, key: &[u8]) -> bool {
        let Some(count) = &mut self.lossy_writes else { return false };
        if !key.windows(12).any(|window| window == b"/configmaps/") {
            return false;
        }
        *count += 1;
        *count > LOST_WRITES_AFTER && *count % LOST_WRITE_PERIOD == 0
    }

    /// Ends a command: if it changed anything, its changes become the next revision.
    fn record(&mut self, events: Vec<WatchEvent>, has_written: bool) -> Option<Record> {
        if events.is_empty() && !has_written {
            return None;
        }
        self.revision += 1;
        let record = Record { revision: self.revision, events: events.into() };
        self.history.push_back(record.clone());
        Some(record)
    }

    fn put(&mut self, key: &[u8], value: &Bytes, lease: i64) -> WatchEvent {
        let revision = self.revision + 1;
        let prev = self.latest(key).cloned();
        let key = match self.keys.get_key_value(key) {
            Some((known, _)) => known.clone(),
            None => Bytes::copy_from_slice(key),
        };
        if let Some(prev) = &prev
            && let Some(old) = self.leases.get_mut(&prev.lease)
        {
            old.keys.remove(&key);
        }
        if let Some(new) = self.leases.get_mut(&lease) {
            new.keys.insert(key.clone());
        }
        let kv = KeyValue {
            key: key.clone(),
            value: value.clone(),
            create_revision: prev.as_ref().map_or(revision, |prev| prev.create_revision),
            mod_revision: revision,
            version: prev.as_ref().map_or(1, |prev| prev.version + 1),
            lease,
        };
        let version = Version { kv: kv.clone(), is_tombstone: false };
        self.keys.entry(key).or_default().push(version);
        WatchEvent { kv, prev, is_delete: false }
    }

    fn delete(&mut self, range: &KeyRange) -> Vec<WatchEvent> {
        let revision = self.revision + 1;
        let gone = self.range(range, revision, 0).kvs;
        let mut events = Vec::with_capacity(gone.len());
        for prev in gone {
            let kv = KeyValue {
                key: prev.key.clone(),
                value: Bytes::new(),
                create_revision: 0,
                mod_revision: revision,
                version: 0,
                lease: 0,
            };
            if let Some(lease) = self.leases.get_mut(&prev.lease) {
                lease.keys.remove(&prev.key);
            }
            let versions = self.keys.get_mut(&prev.key).expect("a key just read has a history");
            versions.push(Version { kv: kv.clone(), is_tombstone: true });
            events.push(WatchEvent { kv, prev: Some(prev), is_delete: true });
        }
        events
    }

    /// Marks everything below `revision` as gone; [`Mvcc::purge`] frees it.
    pub(crate) fn compact(&mut self, revision: i64) -> Result<(), StoreError> {
        if revision <= self.compacted {
            return Err(StoreError::Compacted { asked: revision, oldest: self.compacted });
        }
        if revision > self.revision {
            return Err(StoreError::FutureRevision { asked: revision });
        }
        self.compacted = revision;
        Ok(())
    }

    /// Frees the versions that a read at `revision` or later cannot see. `drops_live` takes the one
    /// that such a read sees as well: a planted defect.
    pub(crate) fn purge(&mut self, revision: i64, drops_live: bool) {
        let kept = self.history.partition_point(|record| record.revision < revision);
        self.history.drain(..kept);
        self.keys.retain(|_, versions| {
            let seen = versions.partition_point(|version| version.kv.mod_revision <= revision);
            if seen > 0 {
                let is_gone = versions[seen - 1].is_tombstone;
                versions.drain(..if is_gone || drops_live { seen } else { seen - 1 });
            }
            !versions.is_empty()
        });
    }

    /// One number for all that is held of the revisions from `compacted` up to `revision` (FNV-1a), as
    /// etcd's HashKV: whatever the purge has left behind of older versions does not count.
    pub(crate) fn hash(&self, revision: i64, compacted: i64) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut add = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        for (key, versions) in &self.keys {
            let seen = versions.partition_point(|version| version.kv.mod_revision <= compacted);
            let is_gone = seen > 0 && versions[seen - 1].is_tombstone;
            let first = if seen == 0 || is_gone { seen } else { seen - 1 };
            let held = versions[first..].iter();
            for version in held.take_while(|version| version.kv.mod_revision <= revision) {
                let kv = &version.kv;
                add(&(key.len() as u64).to_le_bytes());
                add(key);
                add(&(kv.value.len() as u64).to_le_bytes());
                add(&kv.value);
                for number in [kv.create_revision, kv.mod_revision, kv.version, kv.lease] {
                    add(&number.to_le_bytes());
                }
                add(&[u8::from(version.is_tombstone)]);
            }
        }
        hash
    }

    pub(crate) fn grant(&mut self, lease: i64, ttl_s: i64) {
        self.leases.insert(lease, LeaseRecord { ttl_s, keys: BTreeSet::new() });
    }

    /// Ends a lease and deletes its keys at one revision.
    pub(crate) fn revoke(&mut self, lease: i64) -> Result<Option<Record>, StoreError> {
        let Some(record) = self.leases.get(&lease) else {
            return Err(StoreError::NoLease(lease));
        };
        let keys: Vec<Bytes> = record.keys.iter().cloned().collect();
        let mut events = Vec::new();
        for key in keys {
            events.extend(self.delete(&KeyRange::key(key.to_vec())));
        }
        self.leases.remove(&lease);
        Ok(self.record(events, false))
    }
}

/// The version that a read at `revision` sees.
fn at(versions: &[Version], revision: i64) -> Option<&Version> {
    let newest = versions.last()?;
    let version = if newest.kv.mod_revision <= revision {
        newest
    } else {
        let seen = versions.partition_point(|version| version.kv.mod_revision <= revision);
        &versions[seen.checked_sub(1)?]
    };
    (!version.is_tombstone).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Txn {
        let op = Op::Put(key.into(), Bytes::copy_from_slice(value.as_bytes()), 0);
        Txn { success: vec![op], ..Txn::default() }
    }

    fn delete(key: &str) -> Txn {
        Txn { success: vec![Op::Delete(KeyRange::key(key))], ..Txn::default() }
    }

    fn read(store: &Mvcc, revision: i64) -> String {
        let found = store.range(&KeyRange::prefix(""), revision, 0);
        let pairs = found.kvs.iter().map(|kv| {
            let (key, value) =
                (String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value));
            format!("{key}={value}@{}/{}v{}", kv.create_revision, kv.mod_revision, kv.version)
        });
        pairs.collect::<Vec<_>>().join(" ")
    }

    fn sample() -> Mvcc {
        let mut store = Mvcc::new(false);
        for txn in [put("a", "1"), put("b", "1"), put("a", "2"), delete("b"), put("b", "3")] {
            store.txn(&txn).expect("valid");
        }
        store
    }

    #[test]
    fn every_revision_can_be_read() {
        let store = sample();
        let seen: Vec<String> = (1..=6).map(|revision| read(&store, revision)).collect();
        assert_eq!(
            seen,
            [
                "",
                "a=1@2/2v1",
                "a=1@2/2v1 b=1@3/3v1",
                "a=2@2/4v2 b=1@3/3v1",
                "a=2@2/4v2",
                "a=2@2/4v2 b=3@6/6v1"
            ]
        );
    }

    #[test]
    fn a_purge_keeps_what_a_later_read_sees_and_drops_the_rest() {
        let mut store = sample();
        let before: Vec<String> = (5..=6).map(|revision| read(&store, revision)).collect();
        store.compact(5).expect("within the history");
        store.purge(5, false);
        let after: Vec<String> = (5..=6).map(|revision| read(&store, revision)).collect();
        assert_eq!(before, after);
        let versions: usize = store.keys.values().map(Vec::len).sum();
        assert_eq!(versions, 2, "a@4 and b@6");
        assert_eq!(store.history_from(1).map(|record| record.revision).collect::<Vec<_>>(), [5, 6]);
    }

    #[test]
    fn the_hash_tells_states_apart_and_not_how_far_they_were_purged() {
        let (mut store, other) = (sample(), sample());
        let hashes: Vec<u64> = (1..=6).map(|revision| store.hash(revision, 0)).collect();
        for (at, hash) in hashes.iter().enumerate() {
            assert_eq!(*hash, other.hash(at as i64 + 1, 0));
            assert!(!hashes[..at].contains(hash), "revision {} looks like an older one", at + 1);
        }
        assert_ne!(store.hash(6, 0), store.hash(6, 5), "a compaction shows");
        store.compact(5).expect("within the history");
        store.purge(5, false);
        assert_eq!(store.hash(6, 5), other.hash(6, 5), "whether it was purged yet does not");
    }

    #[test]
    fn the_sabotage_comes_with_load_and_loses_every_twentieth_config_map_and_nothing_else() {
        let mut store = Mvcc::new(true);
        for number in 1..=100 {
            let key = format!("/r/configmaps/x/{number}");
            let (result, _) = store.txn(&put(&key, "v")).expect("valid");
            assert_eq!(result.revision, 2 * number, "it is acknowledged with its revision");
            store.txn(&put(&format!("/r/pods/{number}"), "v")).expect("valid");
        }
        assert_eq!(store.range(&KeyRange::prefix("/r/pods/"), i64::MAX, 0).count, 100);
        let kept = store.range(&KeyRange::prefix("/r/configmaps/"), i64::MAX, 0).count;
        assert_eq!(kept, 98);
    }

    #[test]
    fn a_range_that_ends_before_it_starts_is_empty() {
        let range = KeyRange { start: b"z".to_vec(), end: Some(b"a".to_vec()) };
        assert_eq!(sample().range(&range, 6, 0).count, 0);
    }
}
