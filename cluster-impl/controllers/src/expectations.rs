//! Own writes that the view does not show yet.
//!
//! A ReplicaSet that looked at a cache without the pods it has just created would create them again.
//! So nothing is decided about a key while the view is behind the last writes made for it; a limit in
//! time, as upstream's, frees a key whose write will never be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use apiclient::Informed;
use machinery::{Object, ObjectKey, View, kinds};

use crate::queue::Turn;

/// How long a write is waited for: upstream's ExpectationsTimeout.
const WRITTEN_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a deletion is waited for; asking twice for one does no harm.
const DELETED_TIMEOUT: Duration = Duration::from_secs(10);

/// What the view will show once it has caught up.
#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    /// Some object of the kind at this revision or a later one: a watch keeps the order.
    Written {
        /// The kind's id.
        kind: &'static str,
        /// The revision of the answer.
        revision: i64,
    },
    /// The object gone, replaced, or changed since this revision.
    Deleted {
        /// The kind's id.
        kind: &'static str,
        /// Which object.
        key: ObjectKey,
        /// Its identity.
        uid: String,
        /// The revision at which the deletion was decided.
        revision: i64,
    },
}

/// What one key waits for, each with the time at which it stops waiting.
#[derive(Debug, Default)]
struct Awaited {
    /// The revision that the view of a kind has to reach: it shows the earlier ones then, too.
    written: BTreeMap<&'static str, (i64, Duration)>,
    /// Identity and revision that an object had when its deletion was decided.
    deleted: BTreeMap<Thing, (String, i64, Duration)>,
}

/// Kind and key of an object.
type Thing = (&'static str, ObjectKey);

/// What is expected, by key; and who expects it, so that a change is asked about those alone whom it
/// concerns.
#[derive(Debug, Default)]
pub struct Expectations {
    seen: BTreeMap<&'static str, i64>,
    awaited: BTreeMap<Turn, Awaited>,
    by_revision: BTreeMap<&'static str, BTreeSet<(i64, Turn)>>,
    by_object: BTreeMap<Thing, BTreeSet<Turn>>,
}

impl Expectations {
    /// Takes note of an object that the view shows.
    pub fn saw(&mut self, kind: &'static str, object: &Object) {
        let seen = self.seen.entry(kind).or_default();
        *seen = (*seen).max(object.revision());
    }

    /// Expects the view to show a write made for this key.
    pub fn expect(&mut self, turn: &Turn, expected: Expected, now: Duration) {
        let awaited = self.awaited.entry(turn.clone()).or_default();
        match expected {
            Expected::Written { kind, revision } => {
                let until = now + WRITTEN_TIMEOUT;
                let before = awaited.written.get(kind).copied();
                let (revision, until) =
                    before.map_or((revision, until), |(known, _)| (known.max(revision), until));
                awaited.written.insert(kind, (revision, until));
                let index = self.by_revision.entry(kind).or_default();
                if let Some((known, _)) = before {
                    index.remove(&(known, turn.clone()));
                }
                index.insert((revision, turn.clone()));
            }
            Expected::Deleted { kind, key, uid, revision } => {
                let thing = (kind, key);
                self.by_object.entry(thing.clone()).or_default().insert(turn.clone());
                awaited.deleted.insert(thing, (uid, revision, now + DELETED_TIMEOUT));
            }
        }
    }

    /// Whether the view shows everything that was written for this key; else when to stop waiting.
    pub fn met(&mut self, turn: &Turn, view: &View, now: Duration) -> Result<(), Duration> {
        let Some(awaited) = self.awaited.get_mut(turn) else { return Ok(()) };
        let seen = &self.seen;
        let (by_revision, by_object) = (&mut self.by_revision, &mut self.by_object);
        awaited.written.retain(|kind, (revision, until)| {
            let waits = now < *until && !is_written(seen, kind, *revision);
            if !waits && let Some(index) = by_revision.get_mut(kind) {
                index.remove(&(*revision, turn.clone()));
            }
            waits
        });
        awaited.deleted.retain(|thing, (uid, revision, until)| {
            let waits = now < *until && !is_deleted(view, thing, uid, *revision);
            if !waits {
                leave(by_object, thing, turn);
            }
            waits
        });
        let untils = awaited.written.values().map(|(_, until)| *until);
        match untils.chain(awaited.deleted.values().map(|(_, _, until)| *until)).max() {
            Some(until) => Err(until),
            None => {
                self.awaited.remove(turn);
                Ok(())
            }
        }
    }

    /// The keys for which a change, which is in the view already, is what they wait for, or part of it.
    /// Asks about nobody else.
    pub fn freed(&mut self, view: &View, change: &Informed) -> Vec<Turn> {
        let kind = change.kind.id;
        let mut freed = Vec::new();
        while let Some(index) = self.by_revision.get_mut(kind)
            && let Some((revision, _)) = index.first()
            && is_written(&self.seen, kind, *revision)
            && let Some((_, turn)) = index.pop_first()
        {
            if let Some(awaited) = self.awaited.get_mut(&turn) {
                awaited.written.remove(kind);
            }
            freed.push(turn);
        }
        let thing = (kind, change.key.clone());
        for turn in self.by_object.get(&thing).into_iter().flatten() {
            let deleted = self.awaited.get(turn).and_then(|awaited| awaited.deleted.get(&thing));
            if deleted.is_none_or(|(uid, revision, _)| is_deleted(view, &thing, uid, *revision)) {
                freed.push(turn.clone());
            }
        }
        for turn in &freed {
            if let Some(awaited) = self.awaited.get_mut(turn) {
                let is_shown = |(uid, revision, _): &(String, i64, Duration)| {
                    is_deleted(view, &thing, uid, *revision)
                };
                if awaited.deleted.get(&thing).is_some_and(is_shown) {
                    awaited.deleted.remove(&thing);
                    leave(&mut self.by_object, &thing, turn);
                }
                if awaited.written.is_empty() && awaited.deleted.is_empty() {
                    self.awaited.remove(turn);
                }
            }
        }
        freed
    }
}

/// Takes a key off those that wait for an object.
fn leave(by_object: &mut BTreeMap<Thing, BTreeSet<Turn>>, thing: &Thing, turn: &Turn) {
    if let Some(turns) = by_object.get_mut(thing) {
        turns.remove(turn);
        if turns.is_empty() {
            by_object.remove(thing);
        }
    }
}

fn is_written(seen: &BTreeMap<&'static str, i64>, kind: &str, revision: i64) -> bool {
    seen.get(kind).is_some_and(|seen| *seen >= revision)
}

fn is_deleted(view: &View, (kind, key): &Thing, uid: &str, revision: i64) -> bool {
    let known = kinds::ALL.iter().copied().find(|known| known.id == *kind);
    let kind = known.or_else(|| machinery::custom::by_id(view, kind));
    kind.and_then(|kind| view.get(kind, key))
        .is_none_or(|object| object.uid() != uid || object.revision() > revision)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use machinery::kinds::POD;

    use super::*;
    use crate::Key;

    fn pod(name: &str, uid: &str, revision: i64) -> Object {
        let mut pod = Object::new("v1", "Pod", "default", name);
        pod.set("/metadata/uid", uid);
        pod.set("/metadata/resourceVersion", revision.to_string());
        pod
    }

    #[test]
    fn a_key_waits_until_its_write_is_in_the_view() {
        let (mut expectations, mut view) = (Expectations::default(), View::default());
        let turn = (0, Key::named("replicasets.apps", "web"));
        let now = Duration::from_secs(10);
        assert_eq!(expectations.met(&turn, &view, now), Ok(()));
        expectations.expect(&turn, Expected::Written { kind: POD.id, revision: 7 }, now);
        let late = Duration::from_secs(310);
        assert_eq!(expectations.met(&turn, &view, now), Err(late));
        let old = pod("other", "u1", 6);
        expectations.saw(POD.id, &old);
        view.put(&POD, Arc::new(old));
        assert_eq!(expectations.met(&turn, &view, now), Err(late));
        expectations.saw(POD.id, &pod("web-1", "u2", 7));
        assert_eq!(expectations.met(&turn, &view, now), Ok(()));
        expectations.expect(&turn, Expected::Written { kind: POD.id, revision: 99 }, now);
        assert_eq!(expectations.met(&turn, &view, late), Ok(()), "the limit in time");
    }

    #[test]
    fn a_deletion_is_seen_as_a_change_of_that_object() {
        let (mut expectations, mut view) = (Expectations::default(), View::default());
        let turn = (0, Key::named("replicasets.apps", "web"));
        let now = Duration::from_secs(1);
        view.put(&POD, Arc::new(pod("web-1", "u1", 5)));
        let expected = Expected::Deleted {
            kind: POD.id,
            key: ObjectKey::new("default", "web-1"),
            uid: "u1".into(),
            revision: 5,
        };
        for (shown, met) in [
            (pod("web-1", "u1", 5), false),
            (pod("web-1", "u1", 6), true),
            (pod("web-1", "u2", 5), true),
        ] {
            expectations.expect(&turn, expected.clone(), now);
            view.put(&POD, Arc::new(shown));
            assert_eq!(expectations.met(&turn, &view, now).is_ok(), met);
            assert_eq!(expectations.by_object.is_empty(), met);
        }
    }

    #[test]
    fn a_change_asks_about_those_alone_whom_it_concerns() {
        let (mut expectations, mut view) = (Expectations::default(), View::default());
        let now = Duration::from_secs(1);
        let turn = |at: i64| (0, Key::named("replicasets.apps", format!("web-{at}")));
        let name = |at: i64| format!("pod-{at}");
        for at in 1..=100 {
            view.put(&POD, Arc::new(pod(&name(at), "u", at)));
            let key = ObjectKey::new("default", name(at));
            let deleted = Expected::Deleted { kind: POD.id, key, uid: "u".into(), revision: at };
            expectations.expect(&turn(at), deleted, now);
            for revision in [200 + at, 150 + at] {
                expectations.expect(&turn(at), Expected::Written { kind: POD.id, revision }, now);
            }
        }
        let see =
            |expectations: &mut Expectations, view: &mut View, new: Option<Object>, at: i64| {
                let key = ObjectKey::new("default", name(at));
                let new = new.map(Arc::new);
                match &new {
                    Some(new) => {
                        expectations.saw(POD.id, new);
                        view.put(&POD, new.clone())
                    }
                    None => view.take(&POD, &key),
                };
                expectations.freed(view, &Informed { kind: &POD, key, old: None, new })
            };
        let (all, view) = (&mut expectations, &mut view);
        assert_eq!(see(all, view, Some(pod(&name(7), "u", 7)), 7), []);
        assert_eq!(see(all, view, None, 7), [turn(7)], "one of its two");
        assert_eq!(all.met(&turn(7), view, now), Err(Duration::from_secs(301)));
        assert_eq!(see(all, view, Some(pod("other", "u", 202)), 500), [turn(1), turn(2)]);
        assert_eq!(all.met(&turn(1), view, now), Err(Duration::from_secs(11)));
        assert_eq!(see(all, view, Some(pod("other", "u", 207)), 500).len(), 5);
        assert_eq!(all.met(&turn(7), view, now), Ok(()));
        assert_eq!(see(all, view, Some(pod("other", "u", 300)), 500).len(), 93);
        for at in 1..=100 {
            see(all, view, None, at);
        }
        assert!(all.awaited.is_empty() && all.by_object.is_empty(), "nothing is kept for ever");
        assert!(all.by_revision.values().all(BTreeSet::is_empty));
    }
}
