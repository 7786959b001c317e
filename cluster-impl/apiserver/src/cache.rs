//! Small caches whose content the store itself vouches for.
//!
//! A decoded object is kept by key and revision and taken for the same bytes only, so it can never be
//! stale, and the servers of one process may share what they have decoded. A namespace is kept as
//! Active at a revision, and whoever relies on it compares that revision in the transaction.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use machinery::{Kind, Object, Status};
use storage::KeyValue;

use crate::codec::Stored;

/// How many decoded objects are kept; those that came first go first, however old their revision:
/// the state before a change is as old as can be, and every watch with a selector wants it.
const DECODED_MAX: usize = 4096;

/// A key at a revision.
type At = (i64, Bytes);

/// Objects that were decoded lately.
#[derive(Default)]
pub struct Decoded {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    objects: BTreeMap<At, (Bytes, Arc<Object>)>,
    order: VecDeque<At>,
}

impl Decoded {
    /// The object that a key held at its revision; decodes it only if nobody did so lately.
    pub(crate) fn object(&self, kv: &KeyValue) -> Result<Arc<Object>, Status> {
        let at = (kv.mod_revision, kv.key.clone());
        if let Some((value, known)) = self.lock().objects.get(&at)
            && *value == kv.value
        {
            return Ok(known.clone());
        }
        let object = Arc::new(Stored::from(kv).object()?);
        self.put(at, kv.value.clone(), object.clone());
        Ok(object)
    }

    /// The same for a kind; custom resources are told in several versions, so they are not kept.
    pub(crate) fn of(&self, kind: &Kind, kv: &KeyValue) -> Result<Arc<Object>, Status> {
        match kind.custom {
            None => self.object(kv),
            Some(_) => Ok(Arc::new(Stored::from(kv).object()?)),
        }
    }

    /// Keeps an object that was just written as this value.
    pub(crate) fn keep(&self, key: Vec<u8>, value: Bytes, object: Arc<Object>) {
        self.put((object.revision(), key.into()), value, object);
    }

    fn put(&self, at: At, value: Bytes, object: Arc<Object>) {
        let mut kept = self.lock();
        if kept.objects.insert(at.clone(), (value, object)).is_none() {
            kept.order.push_back(at);
        }
        while kept.order.len() > DECODED_MAX
            && let Some(first) = kept.order.pop_front()
        {
            kept.objects.remove(&first);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no code panics while it holds the cache")
    }
}

/// Namespaces that were Active when last looked at, and the revision at which they were.
#[derive(Default)]
pub(crate) struct Namespaces {
    active: Mutex<BTreeMap<String, i64>>,
}

impl Namespaces {
    /// The revision at which the namespace was seen Active.
    pub(crate) fn revision(&self, name: &str) -> Option<i64> {
        self.lock().get(name).copied()
    }

    /// Remembers that the namespace is Active.
    pub(crate) fn keep(&self, name: &str, revision: i64) {
        self.lock().insert(name.to_owned(), revision);
    }

    /// Forgets a namespace that is not what it was.
    pub(crate) fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, i64>> {
        self.active.lock().expect("no code panics while it holds the cache")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(revision: i64) -> KeyValue {
        KeyValue {
            key: Bytes::from_static(b"/registry/pods/a/web"),
            value: Bytes::from_static(br#"{"metadata":{"name":"web"}}"#),
            create_revision: 1,
            mod_revision: revision,
            version: 1,
            lease: 0,
        }
    }

    #[test]
    fn only_the_same_bytes_are_the_same_object() {
        let decoded = Decoded::default();
        let first = decoded.object(&kv(3)).unwrap();
        let copied = KeyValue { value: Bytes::from(kv(3).value.to_vec()), ..kv(3) };
        assert!(Arc::ptr_eq(&first, &decoded.object(&copied).unwrap()));
        let value = Bytes::from_static(br#"{"metadata":{"name":"wob"}}"#);
        let other = decoded.object(&KeyValue { value, ..kv(3) }).unwrap();
        assert_eq!((first.name(), other.name()), ("web", "wob"), "of another store, say");
    }

    #[test]
    fn what_came_first_goes_first() {
        let decoded = Decoded::default();
        let first = decoded.object(&kv(1)).unwrap();
        assert!(Arc::ptr_eq(&first, &decoded.object(&kv(1)).unwrap()), "decoded once");
        for revision in 2..=DECODED_MAX as i64 + 1 {
            decoded.object(&kv(revision)).unwrap();
        }
        let again = decoded.object(&kv(1)).unwrap();
        assert!(!Arc::ptr_eq(&first, &again), "it had to go");
        assert_eq!(again.resource_version(), "1");
        let once_more = decoded.object(&kv(1)).unwrap();
        assert!(Arc::ptr_eq(&again, &once_more), "an old revision is kept as long as a new one");
    }
}
