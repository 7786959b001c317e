//! Custom resources: kinds that a CustomResourceDefinition makes while the program runs.
//!
//! All code takes `&'static Kind`. A custom kind becomes one by interning: equal definitions of a version share
//! one [`Kind`], which is kept for as long as the process lives. So what is kept is bounded by the *different*
//! definitions that a process ever sees; beyond [`KINDS_MAX`] of them no more are taken, with a clear error.
//! Which custom kinds a server serves is the server's own business: simulations have many servers in one process.
//! Limits: see [`json_path`], [`rules`] and [`schema`].

mod check;
mod columns;
mod facts;
mod formats;
pub mod json_path;
mod prune;
pub mod publish;
pub mod rules;
pub mod schema;
pub(crate) mod structural;
mod structural_rules;

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::kinds::{self, Kind};
use crate::schema::TypeFact;
use crate::validation::{Causes, items, metadata, names, text};
use crate::{Cause, Object, ObjectKey, View};
use columns::PrinterColumn;
use json_path::JsonPath;
use schema::Schema;

/// So many different versions of definitions are taken in one process.
pub const KINDS_MAX: usize = 100_000;

/// What a custom kind has beyond a built-in one.
#[derive(Debug)]
pub struct Custom {
    /// What objects must be like.
    pub schema: Schema,
    /// The facts for server-side apply.
    pub fact: TypeFactRef,
    /// Its schema as OpenAPI publishes it.
    pub published: Value,
    /// The name for one, as in `kubectl get widget`.
    pub singular: String,
    /// The kind of its lists.
    pub list_kind: String,
    /// Where `/scale` finds its numbers.
    pub scale: Option<Scale>,
    /// What clients of this version are warned of.
    pub deprecation: Option<String>,
    columns: Vec<PrinterColumn>,
}

/// Facts that are kept for ever.
pub type TypeFactRef = &'static TypeFact;

/// Where `/scale` finds its numbers, as JSON pointers.
#[derive(Debug, Clone)]
pub struct Scale {
    /// How many are wanted.
    pub wanted: String,
    /// How many there are.
    pub current: String,
    /// The selector as text; "" if there is none.
    pub selector: String,
}

type Interned = BTreeMap<[u8; 32], &'static Kind>;
static INTERNED: LazyLock<Mutex<Interned>> = LazyLock::new(Mutex::default);

/// The kind that a version of a definition makes; `None` if there is no such version.
pub fn kind(definition: &Value, version: &str) -> Result<Option<&'static Kind>, String> {
    let spec = &definition["spec"];
    let Some((_, own)) = items(&spec["versions"]).find(|(_, one)| one["name"] == version) else {
        return Ok(None);
    };
    // As accepted, else as asked for.
    let names = Some(&definition["status"]["acceptedNames"])
        .filter(|names| !text(&names["kind"]).is_empty());
    let names = names.unwrap_or(&spec["names"]);
    let whole = json!([spec["group"], spec["scope"], names, own]);
    let key: [u8; 32] = Sha256::digest(whole.to_string()).into();
    let mut interned = INTERNED.lock().expect("no code panics while it holds the table");
    if let Some(known) = interned.get(&key) {
        return Ok(Some(known));
    }
    if interned.len() >= KINDS_MAX {
        return Err(format!(
            "this process has seen {KINDS_MAX} different versions of custom resource definitions and \
             takes no more; start it anew"
        ));
    }
    let made: &'static Kind = Box::leak(Box::new(make(spec, names, own)));
    interned.insert(key, made);
    Ok(Some(made))
}

/// The kind by which components look at the objects of a definition: as it is stored, if that is served; `None`
/// if nothing of it is served.
pub fn preferred(definition: &Object) -> Option<&'static Kind> {
    if definition.condition_status("Established") != "True" {
        return None;
    }
    let served = || definition.list("/spec/versions").iter().filter(|one| one["served"] == true);
    let version = served().find(|one| one["storage"] == true).or_else(|| served().next())?;
    kind(&definition.0, text(&version["name"])).ok().flatten()
}

/// The custom kinds of the definitions that a component has seen, in order of id.
pub fn of_view(view: &View) -> Vec<&'static Kind> {
    let definitions = view.all(&kinds::CUSTOM_RESOURCE_DEFINITION);
    definitions.filter_map(|definition| preferred(definition)).collect()
}

/// The custom kind with an id, among those that a component has seen.
pub fn by_id(view: &View, id: &str) -> Option<&'static Kind> {
    let key = ObjectKey::new("", id);
    preferred(view.get(&kinds::CUSTOM_RESOURCE_DEFINITION, &key)?)
}

/// The custom kind with this group and name, whatever its version, among those that a component has seen.
pub fn by_name(view: &View, api_version: &str, name: &str) -> Option<&'static Kind> {
    let (group, _) = api_version.rsplit_once('/')?;
    let mut definitions = view.all(&kinds::CUSTOM_RESOURCE_DEFINITION);
    preferred(definitions.find(|one| {
        one.text("/spec/group") == group && one.text("/status/acceptedNames/kind") == name
    })?)
}

fn keep(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

fn keep_all(list: &Value) -> &'static [&'static str] {
    let all: Vec<&'static str> = items(list).map(|(_, one)| keep(text(one))).collect();
    Box::leak(all.into_boxed_slice())
}

/// A path of plain names as a JSON pointer.
fn pointer(path: &str) -> Option<String> {
    let path = JsonPath::read(path).ok()?;
    let names = path.names()?;
    Some(
        names
            .iter()
            .map(|name| format!("/{}", name.replace('~', "~0").replace('/', "~1")))
            .collect(),
    )
}

fn make(spec: &Value, names: &Value, own: &Value) -> Kind {
    let (group, version, kind) = (text(&spec["group"]), text(&own["name"]), text(&names["kind"]));
    let plural = text(&names["plural"]);
    let whole = &own["schema"]["openAPIV3Schema"];
    let schema = Schema::read(whole);
    let subresources = &own["subresources"];
    let at = |field: &str| pointer(text(&subresources["scale"][field]));
    let scale = at("specReplicasPath").zip(at("statusReplicasPath")).map(|(wanted, current)| {
        Scale { wanted, current, selector: at("labelSelectorPath").unwrap_or_default() }
    });
    let has_status = subresources["status"].is_object();
    let selectable: Vec<(&'static str, &'static str)> = items(&own["selectableFields"])
        .filter_map(|(_, field)| {
            let path = text(&field["jsonPath"]);
            Some((keep(path.trim_start_matches('.')), keep(&pointer(path)?)))
        })
        .collect();
    let deprecation = (own["deprecated"] == true).then(|| {
        let said = text(&own["deprecationWarning"]);
        match said {
            "" => format!("{group}/{version} {kind} is deprecated"),
            said => said.to_owned(),
        }
    });
    let custom = Custom {
        fact: facts::of_object(&schema, (group, version, kind)),
        published: publish::schema(whole, (group, version, kind)),
        singular: text(&names["singular"]).to_owned(),
        list_kind: text(&names["listKind"]).to_owned(),
        scale,
        deprecation,
        columns: columns::read(&own["additionalPrinterColumns"]),
        schema,
    };
    Kind {
        id: keep(&format!("{plural}.{group}")),
        group: keep(group),
        version: keep(version),
        kind: keep(kind),
        plural: keep(plural),
        short_names: keep_all(&names["shortNames"]),
        categories: keep_all(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        has_status,
        has_scale: custom.scale.is_some(),
        has_generation: true,
        selectable: Box::leak(selectable.into_boxed_slice()),
        custom: Some(Box::leak(Box::new(custom))),
        ..kinds::PLAIN
    }
}

impl Custom {
    /// Sets the defaults of the schema.
    pub fn default(&self, object: &mut Object) {
        self.schema.fill_in(&mut object.0);
    }

    /// Takes away what the schema does not know; tells the paths.
    pub fn prune(&self, object: &mut Object) -> Vec<String> {
        self.schema.prune(&mut object.0, true)
    }

    /// The paths of what the schema does not know.
    pub fn unknown(&self, value: &Value) -> Vec<String> {
        self.schema.unknown(value, true)
    }

    /// What is wrong with an object.
    pub fn validate(&self, kind: &Kind, object: &Object, old: Option<&Object>) -> Vec<Cause> {
        let mut causes = Causes::new();
        metadata::validate(&mut causes, object, old, kind.namespaced, names::dns_subdomain);
        let before = old.map(|old| &old.0);
        causes.extend(check::values(&object.0, &self.schema, before, ""));
        embedded(&mut causes, &object.0, &self.schema, &mut String::new(), true);
        // As upstream: expressions may rely on the types.
        if causes.count() == 0 {
            causes.extend(check::rules(&object.0, &self.schema, before));
        }
        let mut causes = causes.into_list();
        causes.truncate(check::CAUSES_MAX);
        causes
    }

    /// The headings of the table.
    pub fn headings(&self) -> Vec<Value> {
        columns::headings(&self.columns)
    }

    /// One row of the table.
    pub fn cells(&self, object: &Object, now: Timestamp) -> Vec<Value> {
        columns::cells(&self.columns, object, now)
    }

    /// The status changes only through its own subresource, if it has one.
    pub(crate) fn prepare_status_update(object: &mut Object, old: &Object) {
        let status = object.remove("/status");
        let managed = object.remove("/metadata/managedFields");
        let mut new = old.clone();
        match status {
            Some(status) => new.set("/status", status),
            None => drop(new.remove("/status")),
        }
        match managed {
            Some(managed) => new.set("/metadata/managedFields", managed),
            None => drop(new.remove("/metadata/managedFields")),
        }
        *object = new;
    }
}

/// Whole objects inside an object must say what they are.
fn embedded(causes: &mut Causes, value: &Value, schema: &Schema, path: &mut String, is_root: bool) {
    if causes.count() >= check::CAUSES_MAX {
        return;
    }
    match value {
        Value::Object(map) => {
            if schema.is_embedded && !is_root {
                for field in ["apiVersion", "kind"] {
                    if text(map.get(field).unwrap_or(&Value::Null)).is_empty() {
                        causes.required(&format!("{path}.{field}"), "must not be empty");
                    }
                }
                let empty = Value::Object(Map::new());
                let inner = map.get("metadata").unwrap_or(&empty);
                metadata::labels(causes, &inner["labels"], &format!("{path}.metadata.labels"));
            }
            for (name, inner) in map {
                if let Some(known) = schema.field(name) {
                    step(path, &format!(".{name}"), |path| {
                        embedded(causes, inner, known, path, false)
                    });
                }
            }
        }
        Value::Array(list) => {
            let Some(item) = &schema.items else { return };
            for (index, inner) in list.iter().enumerate() {
                step(path, &format!("[{index}]"), |path| {
                    embedded(causes, inner, item, path, false)
                });
            }
        }
        _ => {}
    }
}

fn step(path: &mut String, name: &str, act: impl FnOnce(&mut String)) {
    let before = path.len();
    path.push_str(if path.is_empty() { name.trim_start_matches('.') } else { name });
    act(path);
    path.truncate(before);
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn definition() -> Value {
        json!({
            "metadata": {"name": "widgets.acme.io"},
            "spec": {"group": "acme.io", "scope": "Namespaced",
                "names": {"plural": "widgets", "kind": "Widget", "singular": "widget",
                    "listKind": "WidgetList", "shortNames": ["wd"], "categories": ["all"]},
                "versions": [{"name": "v1", "served": true, "storage": true,
                    "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size",
                        "statusReplicasPath": ".status.size", "labelSelectorPath": ".status.selector"}},
                    "selectableFields": [{"jsonPath": ".spec.mode"}],
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                        "spec": {"type": "object", "properties": {
                            "size": {"type": "integer", "default": 1, "maximum": 5},
                            "mode": {"type": "string"},
                            "ports": {"type": "array", "x-kubernetes-list-type": "map",
                                "x-kubernetes-list-map-keys": ["port"], "items": {"type": "object",
                                    "required": ["port"], "properties": {
                                        "port": {"type": "integer"}, "name": {"type": "string"}}}}}},
                        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}},
                }]},
        })
    }

    #[test]
    fn equal_definitions_share_one_kind() {
        let one = kind(&definition(), "v1").unwrap().unwrap();
        let two = kind(&definition(), "v1").unwrap().unwrap();
        assert!(std::ptr::eq(one, two));
        assert_eq!((one.id, one.group, one.version), ("widgets.acme.io", "acme.io", "v1"));
        assert_eq!(one.selectable, [("spec.mode", "/spec/mode")]);
        let mut other = definition();
        other["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
            json!({"type": "object"});
        assert!(!std::ptr::eq(one, kind(&other, "v1").unwrap().unwrap()));
        assert!(kind(&other, "v2").unwrap().is_none());
    }

    #[test]
    fn a_kind_defaults_checks_and_prints_its_objects() {
        let kind = kind(&definition(), "v1").unwrap().unwrap();
        let mut object = Object(json!({"apiVersion": "acme.io/v1", "kind": "Widget",
            "metadata": {"name": "a", "namespace": "default"}, "spec": {"odd": 1}, "status": {"x": 1}}));
        assert_eq!(crate::fields::unknown(kind, &object.0), ["unknown field \"spec.odd\""]);
        crate::fields::decode(kind, &mut object).unwrap();
        kind.set_defaults(&mut object);
        assert_eq!(object.0["spec"], json!({"size": 1}));
        kind.prepare_new(&mut object);
        assert_eq!(object.get("/status"), None);
        assert_eq!(kind.problems(&object, None), []);
        object.set("/spec/size", 9);
        assert_eq!(kind.problems(&object, None)[0].field, "spec.size");
        assert_eq!(kind.problems(&object, Some(&object)), [], "what is as it was is let be");
        assert_eq!(kind.row(&object, Timestamp::UNIX_EPOCH).len(), 2);
    }

    #[test]
    fn lists_are_merged_by_their_keys() {
        use crate::managed_fields::{Apply, Writer, apply};
        let kind = kind(&definition(), "v1").unwrap().unwrap();
        let applied = |manager: &str, ports: Value, live: Option<&Object>| {
            let config = json!({"apiVersion": "acme.io/v1", "kind": "Widget",
                "metadata": {"name": "a", "namespace": "default"}, "spec": {"ports": ports}});
            let writer = Writer { manager, subresource: "", time: "2026-01-01T00:00:00Z" };
            apply(kind, writer, live, Apply { config: &config, force: false })
        };
        let one = applied("one", json!([{"port": 1, "name": "a"}]), None).unwrap();
        let two = applied("two", json!([{"port": 2, "name": "b"}]), Some(&one)).unwrap();
        assert_eq!(
            two.0["spec"]["ports"],
            json!([{"port": 1, "name": "a"}, {"port": 2, "name": "b"}])
        );
        let refused = applied("two", json!([{"port": 1, "name": "c"}]), Some(&two)).unwrap_err();
        assert_eq!(refused.code, 409);
        assert!(refused.message.contains(".spec.ports[port=1].name"), "{}", refused.message);
        let config = json!([{"port": 3, "odd": "c"}]);
        let refused = applied("two", config, Some(&two)).unwrap_err();
        assert!(refused.message.contains("field not declared in schema"), "{}", refused.message);
        let alone = applied("one", json!([]), Some(&two)).unwrap();
        assert_eq!(alone.0["spec"]["ports"], json!([{"port": 2, "name": "b"}]));
    }

    #[test]
    fn embedded_objects_say_what_they_are() {
        let mut other = definition();
        other["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = json!({
            "type": "object", "properties": {"pod": {"type": "object",
                "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}});
        let kind = kind(&other, "v1").unwrap().unwrap();
        let object = Object(json!({"metadata": {"name": "a", "namespace": "default"},
            "spec": {"pod": {"apiVersion": "v1", "any": 1}}}));
        let found = kind.problems(&object, None);
        assert_eq!((found.len(), found[0].field.as_str()), (1, "spec.pod.kind"));
    }
}
