//! A custom resource's schema as OpenAPI publishes it, in its third version and in its second.

use serde_json::{Map, Value, json};

/// What the second version does not know, or not in the form that definitions use.
const NOT_IN_V2: [&str; 7] =
    ["allOf", "anyOf", "oneOf", "not", "nullable", "default", "x-kubernetes-validations"];

/// The name of a custom resource's type, such as `io.acme.v1.Widget`.
pub fn type_name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{kind}", parts.join("."))
}

/// The published schema of a custom resource.
pub(super) fn schema(own: &Value, (group, version, kind): (&str, &str, &str)) -> Value {
    let mut schema = own.clone();
    if !schema.is_object() {
        schema = json!({"type": "object"});
    }
    let free = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let has_properties = schema["properties"].as_object().is_some_and(|all| !all.is_empty());
    if !free || has_properties {
        let about = |field: &str| match field {
            "apiVersion" => {
                "APIVersion defines the versioned schema of this representation of an object."
            }
            _ => "Kind is a string value representing the REST resource this object represents.",
        };
        if !schema["properties"].is_object() {
            schema["properties"] = json!({});
        }
        for field in ["apiVersion", "kind"] {
            schema["properties"][field] = json!({"type": "string", "description": about(field)});
        }
        schema["properties"]["metadata"] = json!({
            "description": "Standard object's metadata.",
            "allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}],
        });
    }
    schema["x-kubernetes-group-version-kind"] =
        json!([{"group": group, "version": version, "kind": kind}]);
    embedded(&mut schema, true);
    schema
}

/// Whole objects inside an object have their metadata described.
fn embedded(schema: &mut Value, is_root: bool) {
    match schema {
        Value::Object(map) => {
            let is_embedded = map.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true));
            if is_embedded && !is_root {
                let properties = map.entry("properties").or_insert_with(|| json!({}));
                if let Value::Object(properties) = properties {
                    for field in ["apiVersion", "kind"] {
                        properties.insert(field.to_owned(), json!({"type": "string"}));
                    }
                    properties.insert(
                        "metadata".to_owned(),
                        json!({"allOf": [{"$ref":
                            "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}]}),
                    );
                }
            }
            for inner in map.values_mut() {
                embedded(inner, false);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|inner| embedded(inner, false)),
        _ => {}
    }
}

/// A published schema with what the second version of OpenAPI knows alone.
pub fn second(value: &Value) -> Value {
    let Value::Object(map) = value else { return value.clone() };
    if let Some(Value::Array(all)) = map.get("allOf")
        && let [only] = all.as_slice()
        && let Some(Value::String(to)) = only.get("$ref")
    {
        let to = to.replace("#/components/schemas/", "#/definitions/");
        let mut reference = Map::new();
        reference.insert("$ref".to_owned(), to.into());
        reference
            .extend(map.get("description").map(|text| ("description".to_owned(), text.clone())));
        return Value::Object(reference);
    }
    let is_free = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    let is_nullable = map.get("nullable") == Some(&Value::Bool(true));
    let mut plain = Map::new();
    for (name, inner) in map {
        let kept = match name.as_str() {
            name if NOT_IN_V2.contains(&name) => continue,
            // As upstream: what the second version cannot say must not be forbidden by it.
            "type" | "items" if is_nullable => continue,
            "properties" if is_nullable || is_free => continue,
            "properties" => match inner {
                Value::Object(all) => {
                    all.iter().map(|(name, one)| (name.clone(), second(one))).collect()
                }
                other => other.clone(),
            },
            "items" | "additionalProperties" => second(inner),
            _ => inner.clone(),
        };
        plain.insert(name.clone(), kept);
    }
    Value::Object(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_says_which_kind_it_is() {
        let own = json!({"type": "object", "description": "A widget.", "properties": {
            "spec": {"type": "object", "properties": {"a": {"type": "string", "nullable": true},
                "b": {"anyOf": [{"type": "integer"}, {"type": "string"}], "default": 1,
                    "x-kubernetes-int-or-string": true}}}}});
        let third = schema(&own, ("acme.io", "v1", "Widget"));
        assert_eq!(third["properties"]["spec"], own["properties"]["spec"]);
        assert_eq!(third["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
        assert_eq!(type_name("acme.io", "v1", "Widget"), "io.acme.v1.Widget");
        let second = second(&third);
        assert_eq!(
            second["properties"]["metadata"]["$ref"],
            "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
        );
        let spec = &second["properties"]["spec"]["properties"];
        assert_eq!(*spec, json!({"a": {}, "b": {"x-kubernetes-int-or-string": true}}));
    }
}
