//! OpenAPI v2: one document for all groups, made from those of OpenAPI v3.
//!
//! For clients of before 1.27, and for those who ask for it by name. Descriptions are left out.

mod protobuf;

use std::sync::{LazyLock, OnceLock};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::Kind;
use crate::custom::publish::second;
use crate::openapi::{Document, custom_paths, custom_schemas, documents};

/// The document in both its forms.
pub struct Both {
    /// In JSON.
    pub json: Document,
    protobuf: OnceLock<Bytes>,
}

impl Both {
    fn of(value: &Value) -> Self {
        Self { json: Document::of(value), protobuf: OnceLock::new() }
    }

    /// In protobuf, as kubectl asks for it. Made when it is first asked for.
    pub fn protobuf(&self) -> &Bytes {
        self.protobuf.get_or_init(|| {
            let value: Value =
                serde_json::from_slice(&self.json.body).expect("the document was just made");
            protobuf::document(&value).into()
        })
    }
}

static DOCUMENT: LazyLock<Both> = LazyLock::new(|| Both::of(&make(&[])));

/// The document at `/openapi/v2`.
pub fn document() -> &'static Both {
    &DOCUMENT
}

/// The same with custom kinds. It takes its time: keep it.
pub fn with_custom(kinds: &[&'static Kind]) -> Both {
    Both::of(&make(kinds))
}

fn make(custom: &[&'static Kind]) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for document in documents() {
        let mut document: Value =
            serde_json::from_slice(&document.body).expect("the document was just made");
        if let Value::Object(all) = document["paths"].take() {
            paths.extend(all.into_iter().map(|(path, item)| (path, path_item(item))));
        }
        if let Value::Object(all) = document["components"]["schemas"].take() {
            definitions.extend(all.into_iter().map(|(name, one)| (name, schema(one))));
        }
    }
    for kind in custom {
        let own = custom_paths(kind).into_iter().map(|(path, item)| (path, path_item(item)));
        paths.extend(own);
        let own = custom_schemas(kind).into_iter().map(|(name, one)| (name, second(&one)));
        definitions.extend(own);
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.33.0"},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey", "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}],
    })
}

/// References lead elsewhere, a lone `allOf` is what is in it, and there is no `oneOf`.
fn schema(value: Value) -> Value {
    match value {
        Value::Object(mut map) => {
            if let Some(Value::Array(mut all)) = map.remove("allOf")
                && let Some(only) = all.pop()
            {
                return schema(only);
            }
            if map.remove("oneOf").is_some() {
                map.insert("type".to_owned(), "string".into());
            }
            let entries = map.into_iter().map(|(name, value)| match (name.as_str(), &value) {
                ("$ref", Value::String(to)) => {
                    let to = to.replace("#/components/schemas/", "#/definitions/");
                    (name, to.into())
                }
                _ => (name, schema(value)),
            });
            Value::Object(entries.collect())
        }
        Value::Array(list) => list.into_iter().map(schema).collect(),
        other => other,
    }
}

fn path_item(value: Value) -> Value {
    let Value::Object(map) = value else { return value };
    let entries = map.into_iter().map(|(name, value)| {
        let value = if name == "parameters" { parameters(value) } else { operation(value) };
        (name, value)
    });
    Value::Object(entries.collect())
}

fn parameters(value: Value) -> Value {
    let Value::Array(list) = value else { return json!([]) };
    list.into_iter()
        .map(|mut one| {
            let kind = one["schema"]["type"].take();
            if let Value::Object(one) = &mut one {
                one.remove("schema");
                one.insert("type".to_owned(), kind);
                one.insert("uniqueItems".to_owned(), true.into());
            }
            one
        })
        .collect()
}

fn operation(mut value: Value) -> Value {
    let Value::Object(map) = &mut value else { return value };
    let mut all = parameters(map.remove("parameters").unwrap_or_default());
    if let Some(body) = map.remove("requestBody") {
        let content = body["content"].as_object().and_then(|content| content.values().next());
        if let (Some(content), Value::Array(all)) = (content, &mut all) {
            let body = schema(content["schema"].clone());
            all.push(json!({"name": "body", "in": "body", "required": true, "schema": body}));
        }
        let types: Vec<&String> =
            body["content"].as_object().into_iter().flat_map(Map::keys).collect();
        map.insert("consumes".to_owned(), json!(types));
    }
    map.insert("parameters".to_owned(), all);
    map.insert("schemes".to_owned(), json!(["https"]));
    if let Some(Value::Object(responses)) = map.get_mut("responses") {
        let mut produces = Vec::new();
        for response in responses.values_mut() {
            if let Some(Value::Object(content)) =
                response.as_object_mut().and_then(|response| response.remove("content"))
            {
                produces = content.keys().cloned().collect();
                if let Some(content) = content.values().next() {
                    response["schema"] = schema(content["schema"].clone());
                }
            }
        }
        map.insert("produces".to_owned(), json!(produces));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read() -> Value {
        serde_json::from_slice(&document().json.body).unwrap()
    }

    #[test]
    fn it_speaks_the_second_version() {
        let document = read();
        let text = document.to_string();
        assert!(
            !text.contains("components/schemas")
                && !text.contains("allOf")
                && !text.contains("oneOf")
        );
        let patch =
            &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        let names: Vec<_> =
            patch["parameters"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
        assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force", "body"]);
        assert!(patch["consumes"].to_string().contains("apply-patch+yaml"));
        let get = &document["paths"]["/api/v1/nodes/{name}"]["get"];
        assert_eq!(
            get["responses"]["200"]["schema"],
            json!({"$ref": "#/definitions/io.k8s.api.core.v1.Node"})
        );
        let spec = &document["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"];
        assert_eq!(spec["affinity"], json!({"$ref": "#/definitions/io.k8s.api.core.v1.Affinity"}));
        let port =
            &document["definitions"]["io.k8s.api.core.v1.ServicePort"]["properties"]["targetPort"];
        let target = port["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
        assert_eq!(
            document["definitions"][target],
            json!({"type": "string", "format": "int-or-string"})
        );
    }

    #[test]
    fn every_reference_has_its_definition() {
        fn check(value: &Value, definitions: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(to)) = map.get("$ref") {
                        let name = to.strip_prefix("#/definitions/").unwrap();
                        assert!(definitions.get(name).is_some(), "{to}");
                    }
                    map.values().for_each(|value| check(value, definitions));
                }
                Value::Array(items) => items.iter().for_each(|value| check(value, definitions)),
                _ => {}
            }
        }
        let document = read();
        check(&document, &document["definitions"]);
    }
}
