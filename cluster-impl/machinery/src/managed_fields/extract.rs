//! The set of all fields of a value, and whether the value is of its type.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::set::{FieldSet, PathElement};
use super::typed::{Form, Scalar, is_empty_map, item_of, items_of, of_field, of_shape};
use crate::schema::TypeFact;
use crate::validation::go;

/// Every field that an object names.
pub(super) fn all(fact: &'static TypeFact, object: &Value) -> FieldSet {
    inside(Form::Struct(fact), object).1
}

/// Whether the value itself is a member, and the members below it.
pub(super) fn inside(form: Form, value: &Value) -> (bool, FieldSet) {
    let nothing = FieldSet::default;
    match (form, value) {
        (Form::Scalar(_) | Form::AtomicList(_) | Form::AtomicMap(_), _) => (true, nothing()),
        (Form::Struct(fact), Value::Object(map)) => {
            (false, entries(map, |name| (of_name(fact, name), fact.field(name).is_none())))
        }
        (Form::Map(item), Value::Object(map)) => (false, entries(map, |_| (of_shape(item), true))),
        (Form::Deduced, Value::Object(map)) => (false, entries(map, |_| (Form::Deduced, true))),
        (Form::Set(_) | Form::Keyed(..), Value::Array(list)) => (false, items(form, list)),
        (Form::Deduced, Value::Null) => (false, nothing()),
        (Form::Deduced, _) => (true, nothing()),
        _ => (false, nothing()),
    }
}

/// The form of a field by name; of what is no field, whatever it is.
pub(super) fn of_name(fact: &'static TypeFact, name: &str) -> Form {
    fact.field(name).map_or(Form::Deduced, of_field)
}

fn entries(map: &Map<String, Value>, form_of: impl Fn(&str) -> (Form, bool)) -> FieldSet {
    let mut set = FieldSet::default();
    for (name, value) in map {
        let (form, is_entry) = form_of(name);
        let (is_leaf, below) = inside(form, value);
        let is_member = is_leaf || is_entry || value.is_null() || is_empty_map(value);
        set.put(field(name), is_member, below);
    }
    set
}

fn items(form: Form, list: &[Value]) -> FieldSet {
    let Some(shape) = items_of(form) else { return FieldSet::default() };
    let mut set = FieldSet::default();
    for same in named(form, list).chunk_by(|(one, _), (two, _)| one == two) {
        let below = match same {
            [(_, item)] => inside(of_shape(shape), item).1,
            // Items that share a key are owned as one.
            _ => FieldSet::default(),
        };
        set.put(same[0].0.clone(), true, below);
    }
    set
}

/// The items of a list that have names, in order of name; those of one name as they stand.
pub(super) fn named(form: Form, list: &[Value]) -> Vec<(PathElement, &Value)> {
    let named = list.iter().filter_map(|item| Some((item_of(form, item).ok()?, item)));
    let mut named: Vec<_> = named.collect();
    named.sort_by(|(one, _), (two, _)| one.cmp(two));
    named
}

/// The step of a path that a field's name makes.
pub(super) fn field(name: &str) -> PathElement {
    PathElement::Field(super::set::known_name(name))
}

/// What makes a value no value of its type, as `.spec.replicas: expected ...`.
pub(super) fn problems(fact: &'static TypeFact, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(Form::Struct(fact), object, &mut String::new(), &mut found);
    found
}

fn check(form: Form, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let wrong = |path: &str, why: &str| {
        if path.is_empty() { why.to_owned() } else { format!("{path}: {why}") }
    };
    match (form, value) {
        (_, Value::Null) | (Form::Deduced, _) => {}
        (Form::Scalar(scalar), value) => {
            if let Some(why) = mismatch(scalar, value) {
                found.push(wrong(path, &why));
            }
        }
        (Form::Struct(fact), Value::Object(map)) => fields(fact, map, path, found),
        (Form::AtomicMap(shape), Value::Object(map)) => match shape.item_type() {
            Some(fact)
                if matches!(shape, crate::schema::Shape::Ref(_) | crate::schema::Shape::Own(_)) =>
            {
                fields(fact, map, path, found);
            }
            _ => {
                if let crate::schema::Shape::Map(item) = shape {
                    within(map, |_| of_shape(item), path, found);
                }
            }
        },
        (Form::Map(item), Value::Object(map)) => within(map, |_| of_shape(item), path, found),
        (Form::Struct(_) | Form::AtomicMap(_) | Form::Map(_), value) => {
            found.push(wrong(path, &format!("expected map, got &{{{}}}", go::plain(value))));
        }
        (Form::AtomicList(shape), Value::Array(list)) => {
            for (index, item) in list.iter().enumerate() {
                let element = PathElement::Index(index);
                below(path, &element, |path| check(of_shape(shape), item, path, found));
            }
        }
        (Form::Set(shape) | Form::Keyed(_, shape), Value::Array(list)) => {
            let mut seen = BTreeSet::new();
            for (index, item) in list.iter().enumerate() {
                let element = match item_of(form, item) {
                    Ok(element) => element,
                    Err(why) => return found.push(wrong(path, &format!("element {index}: {why}"))),
                };
                if seen.contains(&element) {
                    found.push(wrong(path, &format!("duplicate entries for key {element}")));
                }
                below(path, &element, |path| check(of_shape(shape), item, path, found));
                seen.insert(element);
            }
        }
        (Form::AtomicList(_) | Form::Set(_) | Form::Keyed(..), value) => {
            found.push(wrong(path, &format!("expected list, got &{{{}}}", go::plain(value))));
        }
    }
}

fn fields(
    fact: &'static TypeFact,
    map: &Map<String, Value>,
    path: &mut String,
    found: &mut Vec<String>,
) {
    for (name, value) in map {
        below(path, &field(name), |path| match fact.field(name) {
            None if fact.is_open => {}
            None => found.push(format!("{path}: field not declared in schema")),
            Some(fact) => check(of_field(fact), value, path, found),
        });
    }
}

fn within(
    map: &Map<String, Value>,
    form_of: impl Fn(&str) -> Form,
    path: &mut String,
    found: &mut Vec<String>,
) {
    for (name, value) in map {
        below(path, &field(name), |path| check(form_of(name), value, path, found));
    }
}

fn below(path: &mut String, element: &PathElement, then: impl FnOnce(&mut String)) {
    let length = path.len();
    path.push_str(&element.to_string());
    then(path);
    path.truncate(length);
}

fn mismatch(scalar: Scalar, value: &Value) -> Option<String> {
    let kind = match value {
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) | Value::Null => "map[string]interface {}",
    };
    match (scalar, value) {
        (Scalar::Number, Value::Number(_))
        | (Scalar::Text, Value::String(_))
        | (Scalar::Bool, Value::Bool(_))
        | (Scalar::Any, Value::Number(_) | Value::String(_) | Value::Bool(_)) => None,
        (Scalar::Number, _) => Some(format!("expected numeric (int or float), got {kind}")),
        (Scalar::Text, _) => Some(format!(
            "expected string, got &value.valueUnstructured{{Value:{}}}",
            go::plain(value)
        )),
        (Scalar::Bool, _) => Some(format!("expected boolean, got &{{{}}}", go::plain(value))),
        (Scalar::Any, _) => Some(format!("expected any scalar, got &{{{}}}", go::plain(value))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::{DEPLOYMENT, POD, SERVICE};
    use crate::schema::type_of;

    #[test]
    fn a_pods_fields_are_upstreams() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "labels": {"app": "web"}, "finalizers": ["a/b"],
                "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "u"}]},
            "spec": {"containers": [{"name": "c", "image": "i", "args": ["x", "y"], "resources": {},
                "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}],
                "env": [{"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}],
                "nodeSelector": {"a": "b"}, "tolerations": [{"key": "x"}]},
        });
        assert_eq!(
            all(type_of(&POD), &pod).to_value(),
            json!({
                "f:apiVersion": {}, "f:kind": {},
                "f:metadata": {"f:name": {}, "f:labels": {"f:app": {}},
                    "f:finalizers": {"v:\"a/b\"": {}}, "f:ownerReferences": {"k:{\"uid\":\"u\"}": {}}},
                "f:spec": {
                    "f:containers": {"k:{\"name\":\"c\"}": {
                        ".": {}, "f:name": {}, "f:image": {}, "f:args": {}, "f:resources": {},
                        "f:ports": {
                            "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}},
                            "k:{\"containerPort\":80,\"protocol\":\"UDP\"}":
                                {".": {}, "f:containerPort": {}, "f:protocol": {}},
                        },
                        "f:env": {"k:{\"name\":\"E\"}": {".": {}, "f:name": {},
                            "f:valueFrom": {"f:fieldRef": {}}}},
                    }},
                    "f:nodeSelector": {}, "f:tolerations": {},
                },
            })
        );
    }

    #[test]
    fn what_is_no_value_of_its_type_is_told() {
        for (kind, object, wrong) in [
            (
                &DEPLOYMENT,
                json!({"spec": {"replicas": "x"}}),
                ".spec.replicas: expected numeric (int or float), got string",
            ),
            (&DEPLOYMENT, json!({"spec": {"foo": 1}}), ".spec.foo: field not declared in schema"),
            (
                &POD,
                json!({"spec": {"containers": {}}}),
                ".spec.containers: expected list, got &{map[]}",
            ),
            (
                &POD,
                json!({"spec": {"containers": [{"image": 5, "name": "a"}]}}),
                ".spec.containers[name=\"a\"].image: expected string, got \
                 &value.valueUnstructured{Value:5}",
            ),
            (
                &POD,
                json!({"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}),
                ".spec.containers: duplicate entries for key [name=\"a\"]",
            ),
            (
                &POD,
                json!({"spec": {"containers": [{"name": "a", "ports": [{"protocol": 4}]}]}}),
                ".spec.containers[name=\"a\"].ports[containerPort=0,protocol=4].protocol: expected \
                 string, got &value.valueUnstructured{Value:4}",
            ),
            (
                &POD,
                json!({"spec": {"nodeSelector": {"a": 1}}}),
                ".spec.nodeSelector.a: expected string, got &value.valueUnstructured{Value:1}",
            ),
            (
                &SERVICE,
                json!({"spec": {"ports": [3]}}),
                ".spec.ports: element 0: associative list with keys may not have non-map elements",
            ),
        ] {
            assert_eq!(problems(type_of(kind), &object), [wrong]);
        }
        let fine = json!({"spec": {"replicas": null, "template": {"spec": {"volumes": []}}}});
        assert_eq!(problems(type_of(&DEPLOYMENT), &fine), [""; 0]);
    }
}
