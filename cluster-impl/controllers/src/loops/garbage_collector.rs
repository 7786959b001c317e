//! Deletes what has lost all its owners, and carries out foreground and orphaning deletions.
//!
//! ```yaml
//! # Deleted once no ReplicaSet with this uid exists any more:
//! kind: Pod
//! metadata:
//!   ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web, uid: 4c9b, controller: true}]
//! ```
//!
//! An owner is its uid. One that the view does not show is looked up at the API server before anything
//! is deleted. An owner of a kind that nobody serves counts as present: nobody can tell.

use std::sync::Arc;

use apiclient::Informed;
use env::Sabotage;
use machinery::kinds::{self, EVENT};
use machinery::{Kind, Object, ObjectKey, OwnerReference, View, custom};
use serde_json::Value;

use super::replica_set::release;
use crate::{Config, Controller, DecideCx, Decision, Guard, Key, Write};

/// The finalizer of an object whose dependents go first.
const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object whose dependents are to stay.
const ORPHAN: &str = "orphan";

/// The controller. It remembers nothing; who depends on whom stands in the driver's index.
pub struct GarbageCollector;

impl GarbageCollector {
    /// The controller.
    pub fn new(_: &Config) -> Self {
        Self
    }
}

impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage-collector-controller"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        Vec::new()
    }

    fn watches_rare(&self) -> Vec<&'static Kind> {
        kinds::ALL.iter().copied().filter(|kind| kind.id != EVENT.id).collect()
    }

    fn changed(&mut self, view: &View, change: &Informed, cx: &DecideCx<'_>) -> Vec<Key> {
        let mut keys = Vec::new();
        if let Some(old) = &change.old
            && change.new.as_ref().is_none_or(|new| new.uid() != old.uid())
        {
            keys.extend(cx.index.dependents(old.uid()).cloned());
        }
        let mut owners = Vec::new();
        if let Some(new) = &change.new {
            let old = change.old.as_ref();
            let (now_going, was_going) =
                (new.is_terminating(), old.is_some_and(|old| old.is_terminating()));
            let owners_at = "/metadata/ownerReferences";
            let is_reowned = old.is_none_or(|old| old.get(owners_at) != new.get(owners_at));
            let has_owners = !new.list(owners_at).is_empty();
            if has_owners && is_reowned || now_going && has_finalizer(new, &[FOREGROUND, ORPHAN]) {
                keys.push(Key::of(change.kind, change.key.clone()));
            }
            if now_going && !was_going {
                keys.extend(cx.index.dependents(new.uid()).cloned());
            }
            if is_reowned {
                owners = old.map_or_else(Vec::new, |old| old.owners());
            }
        } else if let Some(old) = &change.old {
            owners = old.owners();
        }
        // An owner that waits for this object may go on.
        for owner in owners {
            let Some(key) = cx.index.by_uid(&owner.uid) else { continue };
            if find(view, key).is_some_and(|owner| owner.is_terminating()) {
                keys.push(key.clone());
            }
        }
        keys
    }

    fn decide(&mut self, view: &View, key: &Key, cx: &DecideCx<'_>) -> Decision {
        let (Some(kind), Some(object)) = (kind_of(view, key), find(view, key)) else {
            return Decision::settled();
        };
        if object.is_terminating() {
            return finish(view, kind, object, cx);
        }
        if cx.sabotaged(Sabotage::GarbageKept) {
            return Decision::settled();
        }
        let owners = object.owners();
        let (mut absent, mut going, mut present) = (Vec::new(), 0, 0);
        for owner in &owners {
            match state(view, object, owner, cx) {
                Owner::Present => present += 1,
                Owner::Going => going += 1,
                Owner::Absent(guard) => absent.push((guard, owner.uid.clone())),
            }
        }
        if absent.is_empty() && going == 0 || owners.is_empty() {
            return Decision::settled();
        }
        let mut guards: Vec<_> = absent.iter().map(|(guard, _)| guard.clone()).collect();
        if cx.sabotaged(Sabotage::OwnerNotLookedUp) {
            guards.clear();
        }
        if present > 0 {
            return disown(kind, object, &guards, &absent);
        }
        let blocks = going > 0 && cx.index.dependents(object.uid()).next().is_some();
        let write = Write::Delete {
            kind,
            object: object.clone(),
            grace_s: None,
            propagation: if blocks { "Foreground" } else { "Background" },
            note: None,
        };
        let write = if guards.is_empty() { write } else { Write::If { guards, write: Box::new(write) } };
        Decision { writes: vec![write], ..Decision::default() }
    }
}

/// What became of an owner.
enum Owner {
    Present,
    /// It waits for its dependents.
    Going,
    /// The view does not show it.
    Absent(Guard),
}

fn state(view: &View, object: &Object, owner: &OwnerReference, cx: &DecideCx<'_>) -> Owner {
    let kind = Kind::by_name(&owner.api_version, &owner.kind);
    let kind = kind.or_else(|| custom::by_name(view, &owner.api_version, &owner.kind));
    let Some(kind) = kind else { return Owner::Present };
    if kind.id == EVENT.id {
        return Owner::Present;
    }
    let known = cx.index.by_uid(&owner.uid).filter(|key| key.what == kind.id);
    match known.and_then(|key| find(view, key)) {
        Some(owner) if owner.is_terminating() && has_finalizer(owner, &[FOREGROUND]) => Owner::Going,
        Some(_) => Owner::Present,
        None => {
            let namespace = if kind.namespaced { object.namespace() } else { "" };
            if cx.sabotaged(Sabotage::OwnerKnownByName)
                && view.get(kind, &ObjectKey::new(namespace, &*owner.name)).is_some()
            {
                return Owner::Present;
            }
            Owner::Absent(Guard {
                kind,
                key: ObjectKey::new(namespace, &*owner.name),
                uid: owner.uid.clone(),
                present: false,
            })
        }
    }
}

/// Takes the absent owners away from an object that has others.
fn disown(
    kind: &'static Kind,
    object: &Arc<Object>,
    guards: &[Guard],
    absent: &[(Guard, String)],
) -> Decision {
    let mut rest = object.clone();
    for (_, uid) in absent {
        if let Write::Update { object, .. } = release(kind, &rest, uid) {
            rest = Arc::new(object);
        }
    }
    if absent.is_empty() {
        return Decision::settled();
    }
    let write = Box::new(Write::Update { kind, object: Object::clone(&rest) });
    Decision { writes: vec![Write::If { guards: guards.to_vec(), write }], ..Decision::default() }
}

/// Goes on with a deletion that has a say over dependents.
fn finish(view: &View, kind: &'static Kind, object: &Arc<Object>, cx: &DecideCx<'_>) -> Decision {
    let dependents: Vec<_> = cx
        .index
        .dependents(object.uid())
        .filter_map(|key| Some((kind_of(view, key)?, find(view, key)?)))
        .collect();
    if has_finalizer(object, &[ORPHAN]) {
        let mut writes: Vec<_> = dependents
            .iter()
            .map(|(kind, dependent)| release(kind, dependent, object.uid()))
            .collect();
        if writes.is_empty() {
            writes.push(without_finalizer(kind, object, ORPHAN));
        }
        return Decision { writes, ..Decision::default() };
    }
    if !has_finalizer(object, &[FOREGROUND]) {
        return Decision::settled();
    }
    let blocks = |dependent: &Object| {
        dependent.owners().iter().any(|owner| {
            owner.uid == object.uid() && owner.block_owner_deletion == Some(true)
        })
    };
    let mut decision = Decision::settled();
    if dependents.iter().any(|(_, dependent)| blocks(dependent)) {
        let staying = dependents.iter().filter(|(_, dependent)| !dependent.is_terminating());
        decision.wake = staying.map(|(kind, dependent)| Key::of(kind, dependent.key())).collect();
    } else {
        decision.writes.push(without_finalizer(kind, object, FOREGROUND));
    }
    decision
}

fn without_finalizer(kind: &'static Kind, object: &Object, finalizer: &str) -> Write {
    let mut finalizers = object.list("/metadata/finalizers").to_vec();
    finalizers.retain(|known| known != finalizer);
    let mut object = object.clone();
    object.set("/metadata/finalizers", Value::Array(finalizers));
    Write::Update { kind, object }
}

fn has_finalizer(object: &Object, finalizers: &[&str]) -> bool {
    object
        .list("/metadata/finalizers")
        .iter()
        .any(|known| finalizers.iter().any(|finalizer| known == *finalizer))
}

fn kind_of(view: &View, key: &Key) -> Option<&'static Kind> {
    let known = kinds::ALL.iter().copied().find(|kind| kind.id == key.what);
    known.or_else(|| custom::by_id(view, key.what))
}

fn find<'v>(view: &'v View, key: &Key) -> Option<&'v Arc<Object>> {
    view.get(kind_of(view, key)?, &key.object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    #[track_caller]
    fn check(start: &str, then: &str, expected: &str) {
        let mut world = World::new(|config| Box::new(GarbageCollector::new(config)), start);
        let mut log = world.run_to(0);
        world.see(then);
        log += &world.run_to(100);
        let lines: Vec<_> = log.lines().map(|line| line.split_once(' ').unwrap().1.trim()).collect();
        assert_eq!(lines.join("; "), expected, "{start} / {then}");
    }

    #[test]
    fn what_has_lost_all_owners_goes() {
        let chain = "deploy/web; rs/web-1 owner=deploy/web; pod/p owner=rs/web-1; pod/bare";
        check(chain, "", "");
        check(chain, "-deploy/web", "delete replicasets/web-1 Background; delete pods/p Background");
        check("pod/p owner=rs/gone", "", "delete pods/p Background");
        check("rs/a; rs/b; pod/p owner=rs/a owner=rs/b", "-rs/a", "update pods/p owner=rs/b");
        check("rs/a; pod/p owner=rs/a", "rs/a /metadata/uid=other", "delete pods/p Background");
        let foreign = r#"/metadata/ownerReferences=[{"apiVersion":"x/v1","kind":"X","name":"x","uid":"x"}]"#;
        check(&format!("pod/p {foreign}"), "", "");
    }

    #[test]
    fn an_owner_of_a_custom_kind_is_looked_up_once_somebody_defines_it() {
        let definition = concat!(
            r#"crd/gears.acme.io /spec={"group":"acme.io","scope":"Namespaced","#,
            r#""versions":[{"name":"v1","served":true,"storage":true,"#,
            r#""schema":{"openAPIV3Schema":{"type":"object"}}}]} "#,
            r#"/status={"acceptedNames":{"plural":"gears","kind":"Gear","singular":"gear","#,
            r#""listKind":"GearList"},"conditions":[{"type":"Established","status":"True"}]}"#,
        );
        let owned = concat!(
            r#"pod/p /metadata/ownerReferences=[{"apiVersion":"acme.io/v1","kind":"Gear","#,
            r#""name":"g","uid":"g"}]"#,
        );
        check(owned, "", "");
        check(&format!("{definition}; {owned}"), "", "delete pods/p Background");
    }

    #[test]
    fn foreground_deletion_takes_the_dependents_first() {
        check(
            "rs/web; pod/p owner=rs/web; pod/q owner=rs/web node=a",
            "rs/web finalizer=foregroundDeletion deleted",
            "delete pods/p Background; delete pods/q Background",
        );
        let mut world = World::new(
            |config| Box::new(GarbageCollector::new(config)),
            "rs/web finalizer=foregroundDeletion deleted; pod/q owner=rs/web node=a",
        );
        assert_eq!(world.run_to(0).trim(), "0 delete pods/q Background");
        assert_eq!(world.run_to(50), "", "it waits for the last pod");
        world.see("-pod/q");
        assert_eq!(world.run_to(50).trim(), "50 update replicasets/web");
        assert!(world.view.all(&kinds::REPLICA_SET).next().is_none());
    }

    #[test]
    fn orphaning_lets_the_dependents_stay() {
        check(
            "rs/web; pod/p owner=rs/web",
            "rs/web finalizer=orphan deleted",
            "update pods/p; update replicasets/web",
        );
    }
}
