//! OpenAPI v3: one document per group and version, made from the schema facts and the registry of kinds.
//!
//! Good enough for `kubectl explain`, and for `create|apply|replace -f`, which only look whether PATCH of the
//! kind takes `fieldValidation`. Descriptions are left out. Documents are made once, at the first question.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::custom::publish;
use crate::discovery;
use crate::kinds::{Kind, Subresource};
use crate::schema::{self, ListType, Shape, TypeFact};
use crate::versions;

const GVK: &str = "x-kubernetes-group-version-kind";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";

static DOCUMENTS: LazyLock<BTreeMap<String, Document>> = LazyLock::new(|| {
    let versions: BTreeSet<_> = versions::served().map(|kind| (kind.group, kind.version)).collect();
    let document = |(group, version): (&str, &str)| {
        (root(group, version), Document::of(&make(group, version)))
    };
    versions.into_iter().map(document).collect()
});

/// The document of one group and version.
#[derive(Debug)]
pub struct Document {
    /// JSON.
    pub body: Bytes,
    /// Changes with the body; part of its URL and good as an ETag.
    pub hash: String,
}

impl Document {
    pub(crate) fn of(value: &Value) -> Self {
        let body = serde_json::to_vec(value).expect("values are always JSON");
        let hash = Sha256::digest(&body).iter().map(|byte| format!("{byte:02X}")).collect();
        Self { body: Bytes::from(body), hash }
    }
}

/// The document at `/openapi/v3/{path}`, such as `api/v1` or `apis/apps/v1`.
pub fn document(path: &str) -> Option<&'static Document> {
    DOCUMENTS.get(path)
}

/// Every document, in order of path.
pub(crate) fn documents() -> impl Iterator<Item = &'static Document> {
    DOCUMENTS.values()
}

/// The documents of custom kinds, by path.
pub fn custom_documents(kinds: &[&'static Kind]) -> BTreeMap<String, Document> {
    let versions: BTreeSet<_> = kinds.iter().map(|kind| (kind.group, kind.version)).collect();
    let document = |(group, version): (&str, &str)| {
        let own = kinds.iter().filter(|kind| kind.group == group && kind.version == version);
        (root(group, version), Document::of(&make_custom(own.copied())))
    };
    versions.into_iter().map(document).collect()
}

fn make_custom(kinds: impl Iterator<Item = &'static Kind>) -> Value {
    let mut wanted: Vec<&TypeFact> = Vec::new();
    for name in ["DeleteOptions", "ListMeta", "ObjectMeta", "Status"] {
        wanted.extend(schema::type_named(&format!("{META}{name}")));
    }
    let (mut paths, mut schemas) = (Map::new(), schemas(wanted));
    for kind in kinds {
        add_paths(&mut paths, kind);
        schemas.extend(custom_schemas(kind));
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes CRD Swagger", "version": "v0.1.0"},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

/// The schemas of a custom kind and of its list.
pub(crate) fn custom_schemas(kind: &'static Kind) -> Vec<(String, Value)> {
    let Some(custom) = kind.custom else { return Vec::new() };
    let name = publish::type_name(kind.group, kind.version, kind.kind);
    let list_name = publish::type_name(kind.group, kind.version, &custom.list_kind);
    let item = json!({"$ref": format!("#/components/schemas/{name}")});
    let metadata = json!({"$ref": format!("#/components/schemas/{META}ListMeta")});
    let list = json!({
        "type": "object", "required": ["items"],
        "description": format!("{} is a list of {}", custom.list_kind, kind.kind),
        "properties": {
            "apiVersion": {"type": "string"}, "kind": {"type": "string"},
            "items": {"type": "array", "items": {"allOf": [item]}},
            "metadata": {"allOf": [metadata]},
        },
        GVK: [{"group": kind.group, "version": kind.version, "kind": custom.list_kind}],
    });
    vec![(name, custom.published.clone()), (list_name, list)]
}

/// The paths of a custom kind.
pub(crate) fn custom_paths(kind: &'static Kind) -> Map<String, Value> {
    let mut paths = Map::new();
    add_paths(&mut paths, kind);
    paths
}

/// `GET /openapi/v3`: the documents that there are, those of custom kinds among them.
pub fn index(custom: &BTreeMap<String, Document>) -> Value {
    let paths: Map<_, _> = DOCUMENTS
        .iter()
        .chain(custom)
        .map(|(path, document)| {
            let url = format!("/openapi/v3/{path}?hash={}", document.hash);
            (path.clone(), json!({ "serverRelativeURL": url }))
        })
        .collect();
    json!({ "paths": paths })
}

fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn make(group: &str, version: &str) -> Value {
    let served: Vec<&Kind> =
        versions::served().filter(|kind| kind.group == group && kind.version == version).collect();
    let mut wanted: Vec<&TypeFact> = served.iter().map(|kind| schema::type_of(kind)).collect();
    wanted.extend(
        served
            .iter()
            .filter_map(|kind| schema::type_of_gvk(group, version, &format!("{}List", kind.kind))),
    );
    wanted.extend(schema::type_named(&format!("{META}DeleteOptions")));
    wanted.extend(schema::type_named(&format!("{META}Status")));
    let mut paths = Map::new();
    for kind in &served {
        add_paths(&mut paths, kind);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.33.0"},
        "paths": paths,
        "components": {"schemas": schemas(wanted)},
    })
}

fn schemas(mut wanted: Vec<&'static TypeFact>) -> Map<String, Value> {
    let mut schemas = Map::new();
    schemas.insert(QUANTITY.into(), json!({"oneOf": [{"type": "string"}, {"type": "number"}]}));
    schemas.insert(
        INT_OR_STRING.into(),
        json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
    );
    schemas.insert(TIME.into(), json!({"type": "string", "format": "date-time"}));
    while let Some(fact) = wanted.pop() {
        if schemas.contains_key(&fact.name) {
            continue;
        }
        wanted.extend(fact.fields.values().filter_map(|field| field.shape.item_type()));
        schemas.insert(fact.name.clone(), type_schema(fact));
    }
    schemas
}

fn type_schema(fact: &TypeFact) -> Value {
    let mut properties = Map::new();
    for (name, field) in &fact.fields {
        let mut value = shape_schema(&field.shape);
        if matches!(field.shape, Shape::List(_)) {
            value["x-kubernetes-list-type"] = match &field.list {
                ListType::Atomic => "atomic".into(),
                ListType::Set => "set".into(),
                ListType::Map(keys) => {
                    value["x-kubernetes-list-map-keys"] = json!(keys);
                    "map".into()
                }
            };
        }
        let strategy = match (field.merge, field.retain_keys) {
            (true, true) => "merge,retainKeys",
            (true, false) => "merge",
            (false, true) => "retainKeys",
            (false, false) => "",
        };
        if !strategy.is_empty() {
            value["x-kubernetes-patch-strategy"] = strategy.into();
        }
        if let Some(key) = &field.merge_key {
            value["x-kubernetes-patch-merge-key"] = key.as_str().into();
        }
        properties.insert(name.clone(), value);
    }
    let mut value = json!({"type": "object", "properties": properties});
    if !fact.required.is_empty() {
        value["required"] = json!(fact.required);
    }
    if let Some((group, version, kind)) = &fact.kind {
        value[GVK] = json!([{"group": group, "version": version, "kind": kind}]);
    }
    value
}

fn shape_schema(shape: &Shape) -> Value {
    let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    match shape {
        Shape::String => json!({"type": "string"}),
        Shape::Bytes => json!({"type": "string", "format": "byte"}),
        Shape::Time => json!({"allOf": [reference(TIME)]}),
        Shape::Int32 => json!({"type": "integer", "format": "int32"}),
        Shape::Int64 => json!({"type": "integer", "format": "int64"}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Double => json!({"type": "number", "format": "double"}),
        Shape::Quantity => json!({"allOf": [reference(QUANTITY)]}),
        Shape::IntOrString => json!({"allOf": [reference(INT_OR_STRING)]}),
        Shape::Any => json!({"type": "object"}),
        Shape::Ref(name) => json!({"allOf": [reference(name)]}),
        Shape::Own(fact) => type_schema(fact),
        Shape::List(item) => json!({"type": "array", "items": shape_schema(item)}),
        Shape::Map(item) => json!({"type": "object", "additionalProperties": shape_schema(item)}),
    }
}

fn add_paths(paths: &mut Map<String, Value>, kind: &Kind) {
    let namespace = if kind.namespaced { "{namespace}" } else { "" };
    let mut shared = Vec::new();
    if kind.namespaced {
        shared.push(path_parameter("namespace"));
        let all = json!({"get": operation(kind, "list", "get")});
        paths.insert(kind.path("", ""), all);
    }
    paths.insert(
        kind.path(namespace, ""),
        json!({
            "parameters": shared,
            "get": operation(kind, "list", "get"),
            "post": operation(kind, "post", "post"),
            "delete": operation(kind, "deletecollection", "delete"),
        }),
    );
    shared.push(path_parameter("name"));
    let one = json!({
        "parameters": shared,
        "get": operation(kind, "get", "get"),
        "put": operation(kind, "put", "put"),
        "patch": operation(kind, "patch", "patch"),
        "delete": operation(kind, "delete", "delete"),
    });
    let path = kind.path(namespace, "{name}");
    if kind.has_status {
        let mut status = one.clone();
        if let Some(status) = status.as_object_mut() {
            status.remove("delete");
        }
        paths.insert(format!("{path}/status"), status);
    }
    for subresource in discovery::subresources(kind) {
        if subresource.name != "status" {
            paths.insert(
                format!("{path}/{}", subresource.name),
                subresource_item(kind, &subresource),
            );
        }
    }
    paths.insert(path, one);
}

/// The operations of a subresource, by the verbs that discovery tells of.
fn subresource_item(kind: &Kind, subresource: &Subresource) -> Value {
    let mut shared = vec![path_parameter("name")];
    if kind.namespaced {
        shared.push(path_parameter("namespace"));
    }
    let mut item = json!({ "parameters": shared });
    for (verb, method, action) in [
        ("create", "post", "post"),
        ("delete", "delete", "delete"),
        ("get", "get", "get"),
        ("patch", "patch", "patch"),
        ("update", "put", "put"),
    ] {
        if subresource.verbs.contains(&verb) {
            item[method] = operation(kind, action, method);
            item[method][GVK] =
                json!({"group": subresource.group, "version": "v1", "kind": subresource.kind});
            // Which type it is need not be known here: anything that has a kind.
            item[method]["responses"] = json!({"200": {"description": "OK"}});
            if let Some(item) = item[method].as_object_mut() {
                item.remove("requestBody");
            }
        }
    }
    item
}

fn path_parameter(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})
}

fn operation(kind: &Kind, action: &str, method: &str) -> Value {
    let query = |name: &&str| {
        let kind = match *name {
            "allowWatchBookmarks"
            | "force"
            | "orphanDependents"
            | "sendInitialEvents"
            | "watch" => "boolean",
            "gracePeriodSeconds" | "limit" | "timeoutSeconds" => "integer",
            _ => "string",
        };
        json!({"name": name, "in": "query", "schema": {"type": kind}})
    };
    let names: &[&str] = match method {
        "post" | "put" => &["dryRun", "fieldManager", "fieldValidation"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        "delete" => &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"],
        _ if action == "list" => &[
            "allowWatchBookmarks",
            "continue",
            "fieldSelector",
            "labelSelector",
            "limit",
            "resourceVersion",
            "resourceVersionMatch",
            "sendInitialEvents",
            "timeoutSeconds",
            "watch",
        ],
        _ => &[],
    };
    let body = json!({"$ref": format!("#/components/schemas/{}", schema::type_of(kind).name)});
    let mut value = json!({
        "parameters": names.iter().map(query).collect::<Vec<_>>(),
        "responses": {"200": {"description": "OK", "content": {
            "application/json": {"schema": body.clone()}}}},
        "x-kubernetes-action": action,
        GVK: {"group": kind.group, "version": kind.version, "kind": kind.kind},
    });
    if ["post", "put"].contains(&method) {
        value["requestBody"] = json!({"content": {"*/*": {"schema": body}}, "required": true});
    }
    if method == "patch" {
        let patch = json!({"schema": {"type": "object"}});
        let mut content = json!({
            "application/apply-patch+yaml": patch, "application/json-patch+json": patch,
            "application/merge-patch+json": patch,
        });
        if kind.custom.is_none() {
            content["application/strategic-merge-patch+json"] = patch;
        }
        value["requestBody"] = json!({"required": true, "content": content});
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> Value {
        serde_json::from_slice(&document(path).unwrap().body).unwrap()
    }

    #[test]
    fn patch_of_every_kind_takes_field_validation() {
        for kind in versions::served() {
            let document = read(&root(kind.group, kind.version));
            let found = document["paths"].as_object().unwrap().values().any(|path| {
                let patch = &path["patch"];
                patch[GVK]["kind"] == kind.kind
                    && patch["parameters"]
                        .as_array()
                        .is_some_and(|all| all.iter().any(|one| one["name"] == "fieldValidation"))
            });
            assert!(found, "{}", kind.kind);
        }
    }

    #[test]
    fn references_point_at_schemas() {
        fn check(value: &Value, schemas: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(to)) = map.get("$ref") {
                        let name = to.rsplit('/').next().unwrap();
                        assert!(schemas.get(name).is_some(), "{to}");
                    }
                    map.values().for_each(|value| check(value, schemas));
                }
                Value::Array(items) => items.iter().for_each(|value| check(value, schemas)),
                _ => {}
            }
        }
        for path in ["api/v1", "apis/apps/v1", "apis/coordination.k8s.io/v1"] {
            let document = read(path);
            check(&document, &document["components"]["schemas"]);
        }
    }

    #[test]
    fn explain_finds_kinds_and_fields() {
        let schemas = &read("apis/apps/v1")["components"]["schemas"];
        let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(
            deployment[GVK],
            json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
        );
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    }

    #[test]
    fn a_custom_kind_is_explained_and_takes_field_validation() {
        let definition = json!({"spec": {"group": "acme.io", "scope": "Namespaced",
            "names": {"plural": "gears", "kind": "Gear", "singular": "gear", "listKind": "GearList"},
            "versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object", "properties": {
                    "teeth": {"type": "integer", "description": "How many."}}}}}}}]}});
        let kind = crate::custom::kind(&definition, "v1").unwrap().unwrap();
        let documents = custom_documents(&[kind]);
        let document: Value = serde_json::from_slice(&documents["apis/acme.io/v1"].body).unwrap();
        let schemas = &document["components"]["schemas"];
        let gear = &schemas["io.acme.v1.Gear"];
        assert_eq!(gear["properties"]["spec"]["properties"]["teeth"]["description"], "How many.");
        assert_eq!(schemas["io.acme.v1.GearList"][GVK][0]["kind"], "GearList");
        let patch =
            &document["paths"]["/apis/acme.io/v1/namespaces/{namespace}/gears/{name}"]["patch"];
        assert_eq!(patch[GVK]["kind"], "Gear");
        assert!(
            patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_null()
        );
        let second = crate::openapi_v2::with_custom(&[kind]);
        let second: Value = serde_json::from_slice(&second.json.body).unwrap();
        let gear = &second["definitions"]["io.acme.v1.Gear"];
        assert_eq!(
            gear["properties"]["metadata"]["$ref"],
            format!("#/definitions/{META}ObjectMeta")
        );
        assert!(second["paths"]["/apis/acme.io/v1/gears"]["get"].is_object());
        assert!(second["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
    }

    #[test]
    fn the_index_names_every_document() {
        let index = index(&BTreeMap::new());
        let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with("/openapi/v3/api/v1?hash="), "{url}");
        let versions: BTreeSet<_> =
            versions::served().map(|kind| (kind.group, kind.version)).collect();
        assert_eq!(index["paths"].as_object().unwrap().len(), versions.len());
        assert!(document("apis/nope/v1").is_none());
    }
}
