//! What differs between two objects, as sets of fields.
//!
//! Fields that Go always writes count as there although the JSON leaves them out, so that the sets are those
//! that upstream computes from its structs.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::extract::{field, named, of_name};
use super::set::{FieldSet, PathElement};
use super::typed::{Form, field_of, items_of, of_shape};
use crate::schema::{Shape, TypeFact};

/// What differs between an old and a new object.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl Comparison {
    /// What the new object has that the old one had not, or had otherwise.
    pub(super) fn set(&self) -> FieldSet {
        self.added.union(&self.modified)
    }

    /// Whether nothing differs.
    pub(super) fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Without some fields and all that is below them.
    pub(super) fn excluding(self, ignored: &FieldSet) -> Self {
        if ignored.is_empty() {
            return self;
        }
        Self {
            added: self.added.excluding(ignored),
            modified: self.modified.excluding(ignored),
            removed: self.removed.excluding(ignored),
        }
    }

    /// Notes what became of a part. Most parts are as they were, so that their names are not asked for.
    fn put(&mut self, element: impl FnOnce() -> PathElement, own: &[Change], below: Self) {
        if own.is_empty() && below.is_same() {
            return;
        }
        let element = element();
        let put = |set: &mut FieldSet, change: Change, inside: FieldSet| {
            if own.contains(&change) || !inside.is_empty() {
                set.put(element.clone(), own.contains(&change), inside);
            }
        };
        put(&mut self.added, Change::Added, below.added);
        put(&mut self.modified, Change::Modified, below.modified);
        put(&mut self.removed, Change::Removed, below.removed);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Added,
    Modified,
    Removed,
}

/// Compares two objects of a type.
pub(super) fn compare(fact: &'static TypeFact, old: &Value, new: &Value) -> Comparison {
    inside(Form::Struct(fact), Some(old), Some(new)).1
}

/// What became of the value itself, and of what is in it.
fn inside(form: Form, old: Option<&Value>, new: Option<&Value>) -> (Option<Change>, Comparison) {
    let nothing = Comparison::default;
    let form = deduce(form, old, new);
    let is_leaf = match form {
        Form::Scalar(_) | Form::AtomicList(_) | Form::AtomicMap(_) | Form::Deduced => true,
        Form::Struct(fact) => {
            let is_empty = |value: Option<&Value>| {
                entries(value).is_none_or(|map| map.is_empty() && fact.always.is_empty())
            };
            is_empty(old) && is_empty(new)
        }
        Form::Map(_) => {
            let is_empty = |value: Option<&Value>| entries(value).is_none_or(Map::is_empty);
            is_empty(old) && is_empty(new)
        }
        Form::Set(_) | Form::Keyed(..) => items(old).is_empty() && items(new).is_empty(),
    };
    let own = match (old, new) {
        (None, Some(_)) => Some(Change::Added),
        (Some(_), None) => Some(Change::Removed),
        (Some(old), Some(new)) if is_leaf && old != new => Some(Change::Modified),
        _ => None,
    };
    if is_leaf {
        return (own, nothing());
    }
    let below = match form {
        Form::Struct(fact) => fields(fact, entries(old), entries(new)),
        Form::Map(shape) => within(shape, entries(old), entries(new)),
        _ if items(old) == items(new) => nothing(),
        _ => listed(form, items(old), items(new)),
    };
    (own, below)
}

/// What a value whose type says nothing is taken for.
fn deduce(form: Form, old: Option<&Value>, new: Option<&Value>) -> Form {
    static ANY: Shape = Shape::Any;
    match form {
        Form::Deduced => {
            let is_map = |value: Option<&Value>| value.is_some_and(Value::is_object);
            let is_other = |value: Option<&Value>| {
                value.is_some_and(|value| !value.is_object() && !value.is_null())
            };
            if (is_map(old) || is_map(new)) && !is_other(old) && !is_other(new) {
                Form::Map(&ANY)
            } else {
                Form::Deduced
            }
        }
        form => form,
    }
}

fn entries(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn fields(
    fact: &'static TypeFact,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
) -> Comparison {
    let mut found = Comparison::default();
    let mut visit = |name: &str, old: Option<&Value>, new: Option<&Value>| {
        let (own, below) = inside(of_name(fact, name), old, new);
        found.put(|| field(name), own.as_slice(), below);
    };
    each(old, new, |name, left, right| match (left, right) {
        (Some(left), Some(right)) => visit(name, Some(left), Some(right)),
        (Some(left), None) => visit(name, Some(left), written(fact, new, name)),
        (None, Some(right)) => visit(name, written(fact, old, name), Some(right)),
        (None, None) => {}
    });
    // What neither names is the same on both sides, unless there is only one side.
    if old.is_none() != new.is_none() {
        let side = old.or(new);
        let is_told = |name: &str| side.is_some_and(|map| map.contains_key(name));
        for name in fact.always.iter().filter(|name| !is_told(name)) {
            visit(name, written(fact, old, name), written(fact, new, name));
        }
    }
    found
}

/// A field as Go would write it, if its object is there.
fn written<'v>(
    fact: &'static TypeFact,
    object: Option<&'v Map<String, Value>>,
    name: &str,
) -> Option<&'v Value> {
    object.and_then(|map| field_of(fact, map, name))
}

fn within(
    shape: &'static Shape,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
) -> Comparison {
    let mut found = Comparison::default();
    each(old, new, |name, old, new| {
        let (own, below) = inside(of_shape(shape), old, new);
        found.put(|| field(name), own.as_slice(), below);
    });
    found
}

/// Visits the entries of two maps, in order of name.
fn each<'v>(
    old: Option<&'v Map<String, Value>>,
    new: Option<&'v Map<String, Value>>,
    mut visit: impl FnMut(&str, Option<&'v Value>, Option<&'v Value>),
) {
    let mut old = old.into_iter().flatten().peekable();
    let mut new = new.into_iter().flatten().peekable();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((one, _)), Some((two, _))) => one.cmp(two),
        };
        let left = if order.is_le() { old.next() } else { None };
        let right = if order.is_ge() { new.next() } else { None };
        let Some((name, _)) = left.or(right) else { return };
        visit(name, left.map(|(_, value)| value), right.map(|(_, value)| value));
    }
}

fn listed(form: Form, old: &[Value], new: &[Value]) -> Comparison {
    let mut found = Comparison::default();
    let Some(shape) = items_of(form) else { return found };
    let (old, new) = (named(form, old), named(form, new));
    let (mut old, mut new) = (old.as_slice(), new.as_slice());
    while let Some(element) = first(old, new) {
        let (left, right) = (shared(&mut old, element), shared(&mut new, element));
        let at = |old: Option<&Value>, new: Option<&Value>| match (old, new) {
            (None, None) => (None, Comparison::default()),
            (old, new) => inside(of_shape(shape), old, new),
        };
        let name = || element.clone();
        match (left.as_slice(), right.as_slice()) {
            // Items that share a key are owned as one.
            ([_, _, ..], [_, _, ..]) => {
                let own: &[Change] = if left == right { &[] } else { &[Change::Modified] };
                found.put(name, own, Comparison::default());
            }
            ([_, _, ..], right) => {
                let (own, below) = at(None, right.first().copied());
                let own: Vec<Change> = own.into_iter().chain([Change::Removed]).collect();
                found.put(name, &own, below);
            }
            (left, [_, _, ..]) => {
                let (own, below) = at(left.first().copied(), None);
                let own: Vec<Change> = own.into_iter().chain([Change::Added]).collect();
                found.put(name, &own, below);
            }
            (left, right) => {
                let (own, below) = at(left.first().copied(), right.first().copied());
                found.put(name, own.as_slice(), below);
            }
        }
    }
    found
}

/// The least name in two lists that are in order of name.
fn first<'e>(old: &'e [Named<'_>], new: &'e [Named<'_>]) -> Option<&'e PathElement> {
    let names = old.first().into_iter().chain(new.first());
    names.map(|(element, _)| element).min()
}

/// Takes the items of this name from the head of a list.
fn shared<'v>(list: &mut &[Named<'v>], element: &PathElement) -> Vec<&'v Value> {
    let count = list.iter().take_while(|(one, _)| one == element).count();
    let (same, rest) = list.split_at(count);
    *list = rest;
    same.iter().map(|(_, item)| *item).collect()
}

type Named<'v> = (PathElement, &'v Value);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::{DEPLOYMENT, POD, SERVICE};
    use crate::schema::type_of;

    #[test]
    fn a_new_deployment_is_owned_as_upstream_shows_it() {
        let mut object = crate::Object(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "nginx", "image": "nginx"}]}}},
        }));
        (DEPLOYMENT.default)(&mut object);
        let found = compare(type_of(&DEPLOYMENT), &json!({}), &object.0);
        // As `kubectl create deployment` leaves it on Kubernetes.
        assert_eq!(
            found.set().to_value()["f:spec"],
            json!({
                "f:progressDeadlineSeconds": {}, "f:replicas": {}, "f:revisionHistoryLimit": {},
                "f:selector": {},
                "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}},
                    "f:type": {}},
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {
                        "f:containers": {"k:{\"name\":\"nginx\"}": {
                            ".": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {},
                            "f:resources": {}, "f:terminationMessagePath": {},
                            "f:terminationMessagePolicy": {}}},
                        "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:schedulerName": {},
                        "f:securityContext": {}, "f:terminationGracePeriodSeconds": {},
                    },
                },
            })
        );
        assert_eq!(found.set().to_value()["f:metadata"]["f:labels"], json!({".": {}, "f:app": {}}));
        assert!(found.removed.is_empty());
    }

    #[test]
    fn differences_are_sorted_into_sets() {
        let port = |port: i64, target: i64| json!({"port": port, "targetPort": target});
        for (kind, old, new, added, modified, removed) in [
            (
                &DEPLOYMENT,
                json!({"spec": {"replicas": 1}}),
                json!({"spec": {"replicas": 2}}),
                json!({}),
                json!({"f:spec": {"f:replicas": {}}}),
                json!({}),
            ),
            (
                &DEPLOYMENT,
                json!({"metadata": {"labels": {"a": "1"}}}),
                json!({"metadata": {}}),
                json!({}),
                json!({}),
                json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}}),
            ),
            (
                &SERVICE,
                json!({"spec": {"ports": [port(80, 80), port(81, 1)]}}),
                json!({"spec": {"ports": [port(81, 2), port(82, 82)]}}),
                json!({"f:spec": {"f:ports": {"k:{\"port\":82,\"protocol\":\"TCP\"}":
                    {".": {}, "f:port": {}, "f:targetPort": {}}}}}),
                json!({"f:spec": {"f:ports": {"k:{\"port\":81,\"protocol\":\"TCP\"}":
                    {"f:targetPort": {}}}}}),
                json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}":
                    {".": {}, "f:port": {}, "f:targetPort": {}}}}}),
            ),
            (
                &SERVICE,
                json!({"spec": {"selector": {"a": "1"}}}),
                json!({"spec": {"selector": {"b": "1"}}}),
                json!({}),
                json!({"f:spec": {"f:selector": {}}}),
                json!({}),
            ),
            (
                &POD,
                json!({"spec": {"volumes": [{"name": "a", "emptyDir": {}}]}}),
                json!({"spec": {}}),
                json!({}),
                json!({}),
                json!({"f:spec": {"f:volumes": {".": {}, "k:{\"name\":\"a\"}":
                    {".": {}, "f:emptyDir": {}, "f:name": {}}}}}),
            ),
            (
                &POD,
                json!({"metadata": {"finalizers": ["a", "b"]}}),
                json!({"metadata": {"finalizers": ["b", "c"]}}),
                json!({"f:metadata": {"f:finalizers": {"v:\"c\"": {}}}}),
                json!({}),
                json!({"f:metadata": {"f:finalizers": {"v:\"a\"": {}}}}),
            ),
            // What Go always writes is there on both sides.
            (
                &POD,
                json!({"spec": {"containers": [{"name": "a"}]}}),
                json!({"spec": {"containers": [{"name": "a", "resources": {}}]}}),
                json!({}),
                json!({}),
                json!({}),
            ),
        ] {
            let found = compare(type_of(kind), &old, &new);
            assert_eq!(found.added.to_value(), added, "{new}");
            assert_eq!(found.modified.to_value(), modified, "{new}");
            assert_eq!(found.removed.to_value(), removed, "{new}");
        }
    }

    #[test]
    fn items_that_share_a_key_are_owned_as_one() {
        let env = |list: Value| json!({"spec": {"containers": [{"name": "a", "env": list}]}});
        let (one, two) = (json!({"name": "E", "value": "1"}), json!({"name": "E", "value": "2"}));
        let at = |set: &FieldSet| {
            let value = set.to_value();
            value["f:spec"]["f:containers"]["k:{\"name\":\"a\"}"]["f:env"]["k:{\"name\":\"E\"}"]
                .clone()
        };
        let twice = env(json!([one, two]));
        let found = compare(type_of(&POD), &env(json!([one])), &twice);
        assert_eq!(at(&found.added), json!({}));
        let found = compare(type_of(&POD), &twice, &env(json!([two, one])));
        assert_eq!(at(&found.modified), json!({}));
        let found = compare(type_of(&POD), &twice, &env(json!([one])));
        assert_eq!(at(&found.removed), json!({}));
        assert_eq!(at(&found.added), json!({".": {}, "f:name": {}, "f:value": {}}));
    }
}
