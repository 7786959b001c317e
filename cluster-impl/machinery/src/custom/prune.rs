//! What becomes of a custom resource before it is looked at: unknown fields go, nulls that mean nothing go,
//! defaults come.

use serde_json::{Map, Value};

use super::schema::{Schema, Type};

/// Fields of a whole object that its schema need not name.
const OWN: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Takes away what a schema does not know; tells the paths of what went.
pub(super) fn prune(value: &mut Value, schema: &Schema, is_object: bool) -> Vec<String> {
    let mut gone = Vec::new();
    fields(value, Some(schema), is_object, &mut String::new(), &mut gone);
    gone.sort();
    gone
}

/// The paths of what [`prune`] would take away.
pub(super) fn unknown(value: &Value, schema: &Schema, is_object: bool) -> Vec<String> {
    prune(&mut value.clone(), schema, is_object)
}

/// Prunes one value. Below what keeps everything, only what is named is pruned.
fn fields(
    value: &mut Value,
    schema: Option<&Schema>,
    is_whole: bool,
    path: &mut String,
    gone: &mut Vec<String>,
) {
    let Some(schema) = schema else { return };
    let is_whole = is_whole || schema.is_embedded;
    match value {
        Value::Object(map) => {
            let keeps = schema.preserves_unknown || schema.additional_any;
            let is_known = |name: &str| {
                keeps || schema.field(name).is_some() || (is_whole && OWN.contains(&name))
            };
            let unknown: Vec<String> = map.keys().filter(|name| !is_known(name)).cloned().collect();
            for name in unknown {
                map.remove(&name);
                gone.push(join(path, &name));
            }
            for (name, inner) in map.iter_mut() {
                if is_whole && OWN.contains(&name.as_str()) {
                    continue;
                }
                let before = path.len();
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
                fields(inner, schema.field(name), false, path, gone);
                path.truncate(before);
            }
        }
        Value::Array(list) => {
            for (index, inner) in list.iter_mut().enumerate() {
                let before = path.len();
                path.push_str(&format!("[{index}]"));
                // A list whose items nobody describes keeps them.
                fields(inner, schema.items.as_deref(), false, path, gone);
                path.truncate(before);
            }
        }
        _ => {}
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Drops nulls that are no values, then sets defaults, from the outside in.
pub(super) fn default(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            map.retain(|name, inner| {
                !inner.is_null() || schema.field(name).is_none_or(is_nullable)
            });
            for (name, known) in &schema.properties {
                if let Some(default) = &known.default
                    && !map.contains_key(name)
                {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, inner) in map.iter_mut() {
                if let Some(known) = schema.field(name) {
                    default(inner, known);
                }
            }
        }
        Value::Array(list) => {
            let Some(known) = &schema.items else { return };
            for inner in list {
                if inner.is_null()
                    && !known.nullable
                    && let Some(default) = &known.default
                {
                    *inner = default.clone();
                }
                default(inner, known);
            }
        }
        _ => {}
    }
}

/// Whether null may stay: because it is a value, or because nobody says what there must be.
fn is_nullable(schema: &Schema) -> bool {
    schema.nullable
        || schema.kind == Type::Any && !schema.is_int_or_string && schema.default.is_none()
}

/// Sets defaults in a whole object; what its schema says of its own fields aside.
pub(super) fn default_object(value: &mut Value, schema: &Schema) {
    let own = take(value);
    default(value, schema);
    if let Value::Object(map) = value {
        for name in OWN {
            map.remove(name);
        }
        map.extend(own);
    }
}

fn take(value: &mut Value) -> Map<String, Value> {
    let mut own = Map::new();
    if let Value::Object(map) = value {
        for name in OWN {
            own.extend(map.remove_entry(name));
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Schema {
        Schema::read(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "size": {"type": "integer", "default": 3},
                "mode": {"type": "string", "nullable": true, "default": "a"},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {"known": {"type": "object", "properties": {}}}},
                "map": {"type": "object", "additionalProperties":
                    {"type": "object", "properties": {"x": {"type": "string", "default": "y"}}}},
                "list": {"type": "array", "items":
                    {"type": "object", "properties": {"n": {"type": "integer", "default": 1}}}},
                "pod": {"type": "object", "x-kubernetes-embedded-resource": true,
                    "properties": {"spec": {"type": "object"}}},
            }},
        }}))
    }

    #[test]
    fn what_nobody_knows_goes() {
        let mut value = json!({
            "apiVersion": "a/v1", "kind": "A", "metadata": {"name": "a", "odd": 1}, "more": 1,
            "spec": {"size": 1, "x": {"y": 2},
                "free": {"a": {"b": 1}, "known": {"c": 1}},
                "map": {"one": {"x": "1", "z": 2}},
                "list": [{"n": 1}, {"m": 2}],
                "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "status": {},
                    "spec": {"a": 1}}},
        });
        assert_eq!(
            prune(&mut value, &schema(), true),
            [
                "more",
                "spec.free.known.c",
                "spec.list[1].m",
                "spec.map.one.z",
                "spec.pod.spec.a",
                "spec.pod.status",
                "spec.x"
            ]
        );
        assert_eq!(value["spec"]["free"], json!({"a": {"b": 1}, "known": {}}));
        assert_eq!(value["spec"]["pod"]["metadata"], json!({"name": "p"}));
        assert_eq!(value["metadata"], json!({"name": "a", "odd": 1}), "that is not the schema's");
    }

    #[test]
    fn defaults_come_where_something_is() {
        for (spec, expected) in [
            (json!({}), json!({"size": 3, "mode": "a"})),
            (json!({"size": null, "mode": null}), json!({"size": 3, "mode": null})),
            (
                json!({"size": 1, "map": {"one": {}}, "list": [{}, {"n": 2}]}),
                json!({"size": 1, "mode": "a", "map": {"one": {"x": "y"}}, "list": [{"n": 1}, {"n": 2}]}),
            ),
        ] {
            let mut value = json!({"metadata": {"name": "a"}, "spec": spec});
            default_object(&mut value, &schema());
            assert_eq!(value["spec"], expected);
            let once = value.clone();
            default_object(&mut value, &schema());
            assert_eq!(value, once, "defaulting twice changes nothing");
        }
        let mut bare = json!({"metadata": {"name": "a"}});
        default_object(&mut bare, &schema());
        assert_eq!(bare.get("spec"), None, "a parent without a default is not made");
    }
}
