//! What the server does with an object of a kind before it is stored, and what it tells of it after.

use machinery::fields;
use machinery::kinds::{prepare_approval, validate_answer};
use machinery::pod_security::{self, Level};
use machinery::{Kind, Object, pod, quota, versions};

use super::arbitrary::Source;
use super::{now, samples};

/// Two objects of a kind through a creation and an update.
pub(super) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let kinds: Vec<_> = versions::served().collect();
    let kind = source.pick(&kinds);
    let Some(old) = created(kind, &mut source) else { return };
    let Some(mut new) = created(kind, &mut source) else { return };
    let stored = versions::stored(kind);
    for status in [false, true] {
        let mut prepared = new.clone();
        match status {
            false => stored.prepare_replaced(&mut prepared, &old),
            true if stored.has_status => stored.prepare_status_update(&mut prepared, &old),
            true => continue,
        }
        let _ = stored.problems(&prepared, Some(&old));
    }
    if stored.id.starts_with("certificatesigningrequests.") {
        prepare_approval(&mut new, &old);
        let _ = (validate_answer(&new, &old, true), validate_answer(&new, &old, false));
    }
}

/// An object as a creation would store it; `None` if it does not even have the right shape.
fn created(kind: &'static Kind, source: &mut Source<'_>) -> Option<Object> {
    let mut object = Object(samples::object(kind, source));
    fields::decode(kind, &mut object).ok()?;
    versions::to_stored(kind, &mut object).ok()?;
    let stored = versions::stored(kind);
    stored.prepare_new(&mut object);
    stored.set_defaults(&mut object);
    let mut again = object.clone();
    stored.set_defaults(&mut again);
    assert_eq!(object, again, "defaulting twice is defaulting once");
    let problems = stored.problems(&object, None);
    let _ = stored.row(&object, now());
    let _ = quota::usage(stored, &object, now());
    if stored.id == "pods" {
        pod_parts(&object);
    }
    let mut shown = object.clone();
    versions::from_stored(kind, &mut shown);
    assert_eq!(shown.kind(), kind.kind);
    if problems.is_empty() {
        let mut again = object.clone();
        let untouched = again.clone();
        assert!(fields::decode(stored, &mut again).is_ok(), "what is stored has the right shape");
        assert_eq!(again, untouched, "what is stored is what is read again");
    }
    Some(object)
}

fn pod_parts(object: &Object) {
    let _ = (pod::requests(object), pod::limits(object), pod::qos_class(object));
    let _ = (pod::is_ready(object), pod::is_available(object, i64::MAX, now()));
    for level in [Level::Baseline, Level::Restricted] {
        let pinned = pod_security::Pinned { level, minor: None };
        let found = pod_security::violations(object, pinned);
        let _ = (pod_security::details(&found), pod_security::reasons(&found));
    }
}
