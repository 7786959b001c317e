//! Own writes that the view does not show yet.
//!
//! A ReplicaSet that looked at a cache without the pods it has just created would create them again.
//! So nothing is decided about a key while the view is behind the last writes made for it; a limit in
//! time, as upstream's, frees a key whose write will never be seen.

use std::collections::BTreeMap;
use std::time::Duration;

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

impl Expected {
    fn kind(&self) -> &'static str {
        match self {
            Expected::Written { kind, .. } | Expected::Deleted { kind, .. } => kind,
        }
    }
}

/// What is expected, by key.
#[derive(Debug, Default)]
pub struct Expectations {
    seen: BTreeMap<&'static str, i64>,
    awaited: BTreeMap<Turn, Vec<(Expected, Duration)>>,
}

impl Expectations {
    /// Takes note of an object that the view shows.
    pub fn saw(&mut self, kind: &'static str, object: &Object) {
        let seen = self.seen.entry(kind).or_default();
        *seen = (*seen).max(object.revision());
    }

    /// Expects the view to show a write made for this key.
    pub fn expect(&mut self, turn: &Turn, expected: Expected, now: Duration) {
        let timeout = match expected {
            Expected::Written { .. } => WRITTEN_TIMEOUT,
            Expected::Deleted { .. } => DELETED_TIMEOUT,
        };
        self.awaited.entry(turn.clone()).or_default().push((expected, now + timeout));
    }

    /// Whether the view shows everything that was written for this key; else when to stop waiting.
    pub fn met(&mut self, turn: &Turn, view: &View, now: Duration) -> Result<(), Duration> {
        let Some(awaited) = self.awaited.get_mut(turn) else { return Ok(()) };
        let seen = &self.seen;
        awaited.retain(|(expected, until)| now < *until && !shows(view, seen, expected));
        match awaited.iter().map(|(_, until)| *until).max() {
            Some(until) => Err(until),
            None => {
                self.awaited.remove(turn);
                Ok(())
            }
        }
    }

    /// Whether a change of this kind may be what the key waits for.
    pub fn awaits(&self, turn: &Turn, kind: &str) -> bool {
        self.awaited
            .get(turn)
            .is_some_and(|awaited| awaited.iter().any(|(expected, _)| expected.kind() == kind))
    }
}

fn shows(view: &View, seen: &BTreeMap<&'static str, i64>, expected: &Expected) -> bool {
    match expected {
        Expected::Written { kind, revision } => seen.get(kind).is_some_and(|seen| seen >= revision),
        Expected::Deleted { kind, key, uid, revision } => {
            let kind = kinds::ALL.iter().find(|known| known.id == *kind);
            kind.and_then(|kind| view.get(kind, key))
                .is_none_or(|object| object.uid() != uid || object.revision() > *revision)
        }
    }
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
            assert_eq!(expectations.awaits(&turn, POD.id), !met);
        }
    }
}
