//! The last events as they were sent, so that a change is written once for all who watch in the same form.
//!
//! Without it, five thousand watches of a Service would write it five thousand times, and those in
//! protobuf would parse it as often.
//! Invariant: an entry is what its key at its revision says, so it can never be stale.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;

use crate::accept::Language;

/// So many bytes of events are kept at most; who is further behind writes them anew.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// Everything by which two watches may be told one change differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Form {
    /// Of the kind as it is served.
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    /// ADDED, MODIFIED or DELETED: what it is depends on the selector.
    pub(crate) name: &'static str,
    pub(crate) language: Language,
    /// Whether only metadata is told.
    pub(crate) is_metadata: bool,
}

type Key = (i64, Bytes, Form);

/// Events that were sent lately.
#[derive(Default)]
pub(crate) struct EventCache(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    events: BTreeMap<Key, Bytes>,
    order: VecDeque<Key>,
    bytes: usize,
}

impl EventCache {
    /// What was sent of the key at this revision.
    pub(crate) fn get(&self, revision: i64, key: &Bytes, form: Form) -> Option<Bytes> {
        self.lock().events.get(&(revision, key.clone(), form)).cloned()
    }

    /// Keeps what is sent; what came first goes first.
    pub(crate) fn put(&self, revision: i64, key: &Bytes, form: Form, event: Bytes) {
        let at = (revision, key.clone(), form);
        let mut kept = self.lock();
        kept.bytes += event.len();
        match kept.events.insert(at.clone(), event) {
            // Two may have written it at once.
            Some(twin) => kept.bytes -= twin.len(),
            None => kept.order.push_back(at),
        }
        while kept.bytes > BYTES_MAX
            && let Some(first) = kept.order.pop_front()
        {
            let gone = kept.events.remove(&first).map_or(0, |event| event.len());
            kept.bytes -= gone;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("no code panics while it holds the events")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: Form = Form {
        group: "",
        version: "v1",
        name: "ADDED",
        language: Language::Json,
        is_metadata: false,
    };

    #[test]
    fn the_oldest_go_when_there_is_no_room() {
        let cache = EventCache::default();
        let key = Bytes::from_static(b"/registry/pods/a/web");
        let event = |revision: i64| Bytes::from(vec![b'x'; 1024 * 1024 + revision as usize]);
        for revision in 1..=10 {
            cache.put(revision, &key, FORM, event(revision));
            cache.put(revision, &key, FORM, event(revision));
        }
        let known: Vec<i64> =
            (1..=10).filter(|revision| cache.get(*revision, &key, FORM).is_some()).collect();
        assert_eq!(known, [4, 5, 6, 7, 8, 9, 10]);
        let kept = cache.lock();
        assert_eq!(kept.bytes, kept.events.values().map(Bytes::len).sum::<usize>());
        assert_eq!(kept.order.len(), 7);
    }

    #[test]
    fn forms_are_apart() {
        let cache = EventCache::default();
        let key = Bytes::from_static(b"/registry/events/a/web");
        cache.put(7, &key, FORM, Bytes::from_static(b"1"));
        for other in [
            Form { group: "events.k8s.io", ..FORM },
            Form { version: "v2", ..FORM },
            Form { name: "MODIFIED", ..FORM },
            Form { language: Language::Protobuf, ..FORM },
            Form { is_metadata: true, ..FORM },
        ] {
            assert_eq!(cache.get(7, &key, other), None, "{other:?}");
        }
        assert_eq!(cache.get(8, &key, FORM), None);
        assert_eq!(cache.get(7, &Bytes::from_static(b"other"), FORM), None);
        assert_eq!(cache.get(7, &key, FORM), Some(Bytes::from_static(b"1")));
    }
}
