//! Values merged and cut down, field by field as their types say.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::extract::{field, of_name};
use super::set::{FieldSet, PathElement};
use super::typed::{Form, item_of, items_of, of_shape};
use crate::schema::TypeFact;

/// `live` with what `config` names laid over it.
pub(super) fn merge(fact: &'static TypeFact, live: &Value, config: &Value) -> Value {
    merged(Form::Struct(fact), Some(live), Some(config)).unwrap_or_else(|| live.clone())
}

fn merged(form: Form, live: Option<&Value>, config: Option<&Value>) -> Option<Value> {
    let (live, config) = match (live, config) {
        (live, None) => return live.cloned(),
        (None, Some(config)) => return Some(config.clone()),
        (Some(live), Some(config)) => (live, config),
    };
    match (form, live, config) {
        (Form::Struct(fact), Value::Object(live), Value::Object(config)) => {
            Some(entries(live, config, |name| of_name(fact, name)))
        }
        (Form::Map(shape), Value::Object(live), Value::Object(config)) => {
            Some(entries(live, config, |_| of_shape(shape)))
        }
        (Form::Deduced, Value::Object(live), Value::Object(config)) => {
            Some(entries(live, config, |_| Form::Deduced))
        }
        // Null or nothing beside something leaves that as it is.
        (Form::Struct(_) | Form::Map(_), Value::Object(map), Value::Null) if !map.is_empty() => {
            Some(live.clone())
        }
        (Form::Set(_) | Form::Keyed(..), Value::Array(live), Value::Array(config)) => {
            Some(Value::Array(items(form, live, config)))
        }
        (Form::Set(_) | Form::Keyed(..), Value::Array(list), Value::Null) if !list.is_empty() => {
            Some(live.clone())
        }
        (_, _, config) => Some(config.clone()),
    }
}

fn entries(
    live: &Map<String, Value>,
    config: &Map<String, Value>,
    form_of: impl Fn(&str) -> Form,
) -> Value {
    let mut out = Map::new();
    for name in live.keys().chain(config.keys().filter(|name| !live.contains_key(*name))) {
        let value = merged(form_of(name), live.get(name), config.get(name));
        out.extend(value.map(|value| (name.clone(), value)));
    }
    Value::Object(out)
}

/// Two lists as one: the order of `config` holds among its items, that of `live` among the others.
fn items(form: Form, live: &[Value], config: &[Value]) -> Vec<Value> {
    let Some(shape) = items_of(form) else { return config.to_vec() };
    let named = |list: &[Value]| -> Vec<Option<PathElement>> {
        list.iter().map(|item| item_of(form, item).ok()).collect()
    };
    let (ours, theirs) = (named(live), named(config));
    let (in_ours, in_theirs) = (places(&ours), places(&theirs));
    let find = |places: &Places<'_>, element: &Option<PathElement>| {
        element.as_ref().and_then(|element| places.get(element)).map(|(first, _)| *first)
    };
    let pair = |right: usize| {
        // Live items that share a key have no say.
        let place = theirs[right].as_ref().and_then(|element| in_ours.get(element));
        let left = place.filter(|(_, count)| *count == 1).map(|(left, _)| *left);
        merged(of_shape(shape), left.map(|left| &live[left]), Some(&config[right]))
    };
    let mut shared = (0..theirs.len()).filter(|right| find(&in_ours, &theirs[*right]).is_some());
    let mut next_shared = shared.next();
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let (mut left, mut right) = (0, 0);
    while left < live.len() || right < config.len() {
        if left < live.len() && right < config.len() {
            if ours[left].is_some() && ours[left] == theirs[right] {
                out.extend(pair(right));
                (left, right) = (left + 1, right + 1);
                next_shared = shared.next();
                continue;
            }
            let is_shared = find(&in_theirs, &ours[left]).is_some();
            if is_shared && next_shared.is_some_and(|next| theirs[next] != ours[left]) {
                // Another one's turn comes first.
                left += 1;
                continue;
            }
        }
        if left < live.len() {
            match find(&in_theirs, &ours[left]) {
                None => {
                    out.push(live[left].clone());
                    left += 1;
                    continue;
                }
                Some(at) if at < right => left += 1,
                Some(_) => {}
            }
        }
        if right < config.len() {
            out.extend(pair(right));
            if next_shared == Some(right) {
                next_shared = shared.next();
            }
            right += 1;
        }
    }
    out
}

/// Where each name stands first in a list, and how often it is there.
type Places<'e> = BTreeMap<&'e PathElement, (usize, usize)>;

fn places(names: &[Option<PathElement>]) -> Places<'_> {
    let mut places = Places::new();
    for (place, name) in names.iter().enumerate() {
        if let Some(name) = name {
            places.entry(name).or_insert((place, 0)).1 += 1;
        }
    }
    places
}

/// An object without the fields of a set.
pub(super) fn without(fact: &'static TypeFact, object: &Value, fields: &FieldSet) -> Value {
    cut(Form::Struct(fact), object, fields)
}

fn cut(form: Form, value: &Value, fields: &FieldSet) -> Value {
    match (form, value) {
        (Form::Struct(fact), Value::Object(map)) => {
            cut_map(map, fields, |name| of_name(fact, name))
        }
        (Form::Map(shape), Value::Object(map)) => cut_map(map, fields, |_| of_shape(shape)),
        (Form::Deduced, Value::Object(map)) => cut_map(map, fields, |_| Form::Deduced),
        (Form::Set(shape) | Form::Keyed(_, shape), Value::Array(list)) => {
            let kept = |item: &Value| match item_of(form, item) {
                Err(_) => Some(item.clone()),
                Ok(element) => match fields.at(&element) {
                    (true, _) => None,
                    (false, None) => Some(item.clone()),
                    (false, Some(below)) => Some(cut(of_shape(shape), item, below)),
                },
            };
            let kept: Vec<Value> = list.iter().filter_map(kept).collect();
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        (_, value) => value.clone(),
    }
}

fn cut_map(map: &Map<String, Value>, fields: &FieldSet, form_of: impl Fn(&str) -> Form) -> Value {
    let mut kept = Map::new();
    for (name, value) in map {
        match fields.at(&field(name)) {
            (true, _) => {}
            (false, None) => drop(kept.insert(name.clone(), value.clone())),
            (false, Some(below)) => {
                kept.insert(name.clone(), cut(form_of(name), value, below));
            }
        }
    }
    // What is left of a map from which all was taken is nothing, as upstream has it.
    if kept.is_empty() { Value::Null } else { Value::Object(kept) }
}

/// A set with the names of an object's fields on the way to its members, so that an object goes with the last of
/// its fields; entries of maps are not added.
pub(super) fn with_named_fields(fact: &'static TypeFact, set: &FieldSet) -> FieldSet {
    named(Form::Struct(fact), set)
}

fn named(form: Form, set: &FieldSet) -> FieldSet {
    set.map_members(&mut |element, is_member, inside| {
        let (is_field, below) = match (form, element) {
            (Form::Struct(fact), PathElement::Field(name)) => match fact.field(name) {
                Some(_) => (true, of_name(fact, name)),
                None => (false, Form::Deduced),
            },
            (Form::Map(shape), PathElement::Field(_)) => (false, of_shape(shape)),
            (Form::Keyed(_, shape), PathElement::Key(_)) => (false, of_shape(shape)),
            _ => (false, Form::Deduced),
        };
        (is_member || is_field && !inside.is_empty(), named(below, inside))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::{DEPLOYMENT, POD};
    use crate::schema::type_of;

    fn containers(names: &str) -> Value {
        let list: Vec<Value> =
            names.chars().map(|name| json!({"name": name.to_string()})).collect();
        json!({"spec": {"containers": list}})
    }

    #[test]
    fn lists_keep_both_orders() {
        for (live, config, merged_names) in [
            ("ab", "ab", "ab"),
            ("ab", "ba", "ba"),
            ("ab", "c", "abc"),
            ("abc", "ca", "bca"),
            ("abcd", "db", "acdb"),
            ("", "ab", "ab"),
            ("axb", "ab", "axb"),
            ("ab", "cab", "cab"),
            ("ab", "acb", "acb"),
        ] {
            let found = merge(type_of(&POD), &containers(live), &containers(config));
            assert_eq!(found, containers(merged_names), "{live} + {config}");
        }
    }

    #[test]
    fn values_are_merged_as_their_types_say() {
        for (kind, live, config, after) in [
            (
                &DEPLOYMENT,
                json!({"spec": {"replicas": 1, "paused": true}}),
                json!({"spec": {"replicas": 2}}),
                json!({"spec": {"replicas": 2, "paused": true}}),
            ),
            (
                &POD,
                json!({"spec": {"nodeSelector": {"a": "1"}}}),
                json!({"spec": {"nodeSelector": {"b": "1"}}}),
                json!({"spec": {"nodeSelector": {"b": "1"}}}),
            ),
            (
                &POD,
                json!({"metadata": {"labels": {"a": "1"}}}),
                json!({"metadata": {"labels": {"b": "1"}}}),
                json!({"metadata": {"labels": {"a": "1", "b": "1"}}}),
            ),
            (
                &POD,
                json!({"spec": {"tolerations": [{"key": "a"}]}}),
                json!({"spec": {"tolerations": []}}),
                json!({"spec": {"tolerations": []}}),
            ),
            (
                &POD,
                json!({"metadata": {"finalizers": ["a"]}}),
                json!({"metadata": {"finalizers": ["b", "a"]}}),
                json!({"metadata": {"finalizers": ["b", "a"]}}),
            ),
            (
                &POD,
                json!({"metadata": {"labels": {"a": "1"}}}),
                json!({"metadata": {"labels": null}}),
                json!({"metadata": {"labels": {"a": "1"}}}),
            ),
            (
                &POD,
                json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP", "name": "x"}]}]}}),
                json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 1}]}]}}),
                json!({"spec": {"containers": [{"name": "a", "ports":
                    [{"containerPort": 80, "protocol": "TCP", "name": "x", "hostPort": 1}]}]}}),
            ),
        ] {
            assert_eq!(merge(type_of(kind), &live, &config), after);
        }
    }

    #[test]
    fn fields_are_cut_out() {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b"}],
            "nodeSelector": {"a": "1"}}, "metadata": {"labels": {"a": "1"}}});
        for (set, after) in [
            (
                json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {}}}}),
                json!({"spec": {"containers": [{"name": "b"}], "nodeSelector": {"a": "1"}},
                    "metadata": {"labels": {"a": "1"}}}),
            ),
            (
                json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {"f:image": {}}}, "f:nodeSelector": {"f:a": {}}}}),
                json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"a": "1"}},
                    "metadata": {"labels": {"a": "1"}}}),
            ),
            (
                json!({"f:spec": {}, "f:metadata": {"f:labels": {"f:a": {}}}}),
                json!({"metadata": {"labels": null}}),
            ),
        ] {
            let set = FieldSet::from_value(&set).unwrap();
            assert_eq!(without(type_of(&POD), &pod, &set), after);
        }
        let set =
            FieldSet::from_value(&json!({"f:spec": {"f:securityContext": {"f:runAsUser": {}}},
            "f:metadata": {"f:labels": {"f:a": {}}}}))
            .unwrap();
        assert_eq!(
            with_named_fields(type_of(&POD), &set).to_value(),
            json!({"f:spec": {".": {}, "f:securityContext": {".": {}, "f:runAsUser": {}}},
                "f:metadata": {".": {}, "f:labels": {".": {}, "f:a": {}}}})
        );
    }
}
