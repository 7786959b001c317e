//! Strategic merge patch: lists of objects are merged by the key that the schema names.
//!
//! Directives: `$patch: replace|delete|merge`, `$deleteFromPrimitiveList/<field>`,
//! `$setElementOrder/<field>`, `$retainKeys`. The semantics, down to the order of merged lists, are those of
//! k8s.io/apimachinery/pkg/util/strategicpatch. Unlike there, lists are merged in about linear time.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{check_depth, check_size, unprocessable};
use crate::Status;
use crate::schema::{FieldFact, Shape, TypeFact};

const DIRECTIVE: &str = "$patch";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";
const RETAIN: &str = "$retainKeys";

type Fields = Map<String, Value>;

/// The value with a strategic merge patch applied; `fact` is the type of the value.
pub fn strategic(original: &Value, patch: &Value, fact: &TypeFact) -> Result<Value, Status> {
    check_depth(patch)?;
    let Value::Object(patch) = patch else {
        return Err(Status::bad_request("a strategic merge patch is a JSON object"));
    };
    let original = original.as_object().cloned().unwrap_or_default();
    let merged = Value::Object(merge_fields(original, patch, Of::Type(fact))?);
    check_size(&merged)?;
    Ok(merged)
}

/// What the schema says of a map.
#[derive(Clone, Copy)]
enum Of<'s> {
    Type(&'s TypeFact),
    /// A map whose values have this shape.
    Values(&'s Shape),
    Unknown,
}

impl<'s> Of<'s> {
    fn field(self, name: &str) -> Option<&'s FieldFact> {
        match self {
            Self::Type(fact) => fact.field(name),
            Self::Values(_) | Self::Unknown => None,
        }
    }

    /// What the schema says of the map in a field.
    fn inside(self, name: &str) -> Self {
        match self {
            Self::Type(fact) => {
                fact.field(name).map_or(Self::Unknown, |f| Self::of_shape(&f.shape))
            }
            Self::Values(shape) => Self::of_shape(shape),
            Self::Unknown => Self::Unknown,
        }
    }

    fn of_shape(shape: &'s Shape) -> Self {
        match shape {
            Shape::Ref(_) | Shape::Own(_) => shape.item_type().map_or(Self::Unknown, Self::Type),
            Shape::Map(values) => Self::Values(values),
            _ => Self::Unknown,
        }
    }

    /// What the schema says of the items of a list in a field.
    fn items(self, name: &str) -> Self {
        match self.field(name).map(|field| &field.shape) {
            Some(Shape::List(item)) => Self::of_shape(item),
            _ => Self::Unknown,
        }
    }
}

fn merge_fields(mut original: Fields, patch: &Fields, of: Of<'_>) -> Result<Fields, Status> {
    match patch.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or("?")) {
        None | Some("merge") => {}
        Some("replace") => {
            let mut replaced = patch.clone();
            replaced.remove(DIRECTIVE);
            return Ok(replaced);
        }
        Some("delete") => return Ok(Fields::new()),
        Some(other) => {
            return Err(Status::bad_request(format!("unknown patch type found: {other}")));
        }
    }
    retain_keys(&mut original, patch)?;
    let ordered = order_lists(&mut original, patch, of)?;
    for (key, value) in patch {
        if key == DIRECTIVE || key == RETAIN || key.starts_with(ORDER_PREFIX) {
            continue;
        }
        if let Some(field) = key.strip_prefix(DELETE_PREFIX) {
            delete_from_list(&mut original, field, value)?;
            continue;
        }
        if ordered.contains(&key.as_str()) {
            continue;
        }
        if value.is_null() {
            original.remove(key);
            continue;
        }
        let merged = merge_value(original.remove(key), value, key, of)?;
        original.insert(key.clone(), merged);
    }
    Ok(original)
}

fn merge_value(old: Option<Value>, new: &Value, key: &str, of: Of<'_>) -> Result<Value, Status> {
    match new {
        Value::Object(new) => {
            // A map that is not there yet is merged into an empty one, which drops nulls and directives.
            let old = match old {
                Some(Value::Object(old)) => old,
                _ => Fields::new(),
            };
            Ok(Value::Object(merge_fields(old, new, of.inside(key))?))
        }
        Value::Array(new) => {
            let old = match old {
                Some(Value::Array(old)) => old,
                _ => Vec::new(),
            };
            Ok(Value::Array(merge_list(old, new, key, of)?))
        }
        scalar => Ok(scalar.clone()),
    }
}

fn merge_list(old: Vec<Value>, new: &[Value], key: &str, of: Of<'_>) -> Result<Vec<Value>, Status> {
    let Some(field) = of.field(key).filter(|field| field.merge) else { return Ok(new.to_vec()) };
    match &field.merge_key {
        None => Ok(merge_scalars(&old, new)),
        Some(merge_key) => merge_items(old, new, merge_key, of.items(key)),
    }
}

/// What an item of a list is known by: its merge key, or all of it. Two items are the same if this is.
fn identity(item: &Value, merge_key: Option<&str>) -> String {
    merge_key.map_or(item, |merge_key| &item[merge_key]).to_string()
}

/// Where each item first stands in a list.
fn places(list: &[Value], merge_key: Option<&str>) -> BTreeMap<String, usize> {
    let mut places = BTreeMap::new();
    for (place, item) in list.iter().enumerate() {
        places.entry(identity(item, merge_key)).or_insert(place);
    }
    places
}

fn merge_scalars(old: &[Value], new: &[Value]) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let mut all: Vec<Value> = Vec::with_capacity(old.len() + new.len());
    for value in old.iter().chain(new) {
        if seen.insert(identity(value, None)) {
            all.push(value.clone());
        }
    }
    order(all, new, old, None)
}

fn merge_items(
    old: Vec<Value>,
    new: &[Value],
    merge_key: &str,
    of: Of<'_>,
) -> Result<Vec<Value>, Status> {
    let (mut deleted, mut replace) = (BTreeSet::new(), false);
    let mut plain: Vec<&Value> = Vec::new();
    for item in new {
        let Some(fields) = item.as_object() else {
            return Err(unprocessable(format!(
                "items of a list merged by {merge_key} must be maps"
            )));
        };
        match fields.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or("?")) {
            None | Some("merge") => {
                has_key(fields, merge_key)?;
                plain.push(item);
            }
            Some("delete") => {
                has_key(fields, merge_key)?;
                deleted.insert(identity(item, Some(merge_key)));
            }
            Some("replace") => replace = true,
            Some(other) => {
                return Err(Status::bad_request(format!("unknown patch type found: {other}")));
            }
        }
    }
    if replace {
        return Ok(plain.into_iter().cloned().collect());
    }
    let mut merged = old.clone();
    if !deleted.is_empty() {
        merged.retain(|one| !deleted.contains(&identity(one, Some(merge_key))));
    }
    let mut known = places(&merged, Some(merge_key));
    for item in &plain {
        let fields = item.as_object().expect("only maps were kept");
        let name = identity(item, Some(merge_key));
        let place = known.get(&name).copied();
        let before = place.and_then(|place| merged[place].as_object().cloned());
        let after = Value::Object(merge_fields(before.unwrap_or_default(), fields, of)?);
        match place {
            Some(place) => merged[place] = after,
            None => {
                known.insert(name, merged.len());
                merged.push(after);
            }
        }
    }
    let plain: Vec<Value> = plain.into_iter().cloned().collect();
    Ok(order(merged, &plain, &old, Some(merge_key)))
}

fn has_key(fields: &Fields, merge_key: &str) -> Result<(), Status> {
    if fields.contains_key(merge_key) {
        return Ok(());
    }
    let list = Value::Object(fields.clone());
    Err(unprocessable(format!("map: {list} does not contain declared merge key: {merge_key}")))
}

/// Orders a merged list: what the patch names in the patch's order, the rest in the server's, and an item
/// that only the server has goes before the first patched item that stood behind it on the server.
fn order(
    merged: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    merge_key: Option<&str>,
) -> Vec<Value> {
    let (in_patch, on_server) = (places(patch_order, merge_key), places(server_order, merge_key));
    let (mut patched, mut server_only) = (Vec::new(), Vec::new());
    for item in merged {
        let name = identity(&item, merge_key);
        let place = on_server.get(&name).copied();
        match in_patch.get(&name) {
            Some(wanted) => patched.push((*wanted, place, item)),
            None => server_only.push((place, item)),
        }
    }
    patched.sort_by_key(|(wanted, ..)| *wanted);
    server_only.sort_by_key(|(place, _)| place.unwrap_or(usize::MAX));
    let mut all = Vec::with_capacity(server_only.len() + patched.len());
    let mut left = server_only.into_iter().peekable();
    let mut right = patched.into_iter().peekable();
    while let (Some((server, _)), Some((_, patch, _))) = (left.peek(), right.peek()) {
        let before = server.zip(*patch).is_some_and(|(server, patch)| server < patch);
        match before {
            true => all.extend(left.next().map(|(_, item)| item)),
            false => all.extend(right.next().map(|(.., item)| item)),
        }
    }
    all.extend(left.map(|(_, item)| item));
    all.extend(right.map(|(.., item)| item));
    all
}

/// Obeys `$setElementOrder/<field>`: merges the field's list and orders it. Answers the fields it merged.
fn order_lists<'p>(
    original: &mut Fields,
    patch: &'p Fields,
    of: Of<'_>,
) -> Result<Vec<&'p str>, Status> {
    let mut ordered = Vec::new();
    for (key, wanted) in patch {
        let Some(field) = key.strip_prefix(ORDER_PREFIX) else { continue };
        let Value::Array(wanted) = wanted else {
            return Err(Status::bad_request(format!("{key} must be a list")));
        };
        let merge_key = of.field(field).and_then(|fact| fact.merge_key.as_deref());
        let new = patch.get(field).and_then(Value::as_array);
        check_order(new, wanted, field, merge_key)?;
        let old = original.get(field).and_then(Value::as_array).cloned();
        let merged = match (&old, new) {
            (None, None) => continue,
            (Some(old), None) => old.clone(),
            (old, Some(new)) => merge_list(old.clone().unwrap_or_default(), new, field, of)?,
        };
        let merged = order(merged, wanted, &old.unwrap_or_default(), merge_key);
        original.insert(field.to_owned(), Value::Array(merged));
        ordered.push(field);
    }
    Ok(ordered)
}

/// The items of a patched list must be in the wanted order, deletions aside.
fn check_order(
    new: Option<&Vec<Value>>,
    order: &[Value],
    field: &str,
    merge_key: Option<&str>,
) -> Result<(), Status> {
    let mut rest = order.iter();
    let same = |a: &Value, b: &Value| match merge_key {
        Some(merge_key) => a[merge_key] == b[merge_key],
        None => a == b,
    };
    for item in new.into_iter().flatten().filter(|item| item.get(DIRECTIVE).is_none()) {
        if !rest.any(|wanted| same(wanted, item)) {
            return Err(unprocessable(format!(
                "the order in patch list of {field} doesn't match the $setElementOrder list"
            )));
        }
    }
    Ok(())
}

fn delete_from_list(original: &mut Fields, field: &str, gone: &Value) -> Result<(), Status> {
    let Value::Array(gone) = gone else {
        return Err(Status::bad_request(format!("{DELETE_PREFIX}{field} must be a list")));
    };
    if let Some(Value::Array(list)) = original.get_mut(field) {
        let gone: BTreeSet<_> = gone.iter().map(|value| identity(value, None)).collect();
        list.retain(|value| !gone.contains(&identity(value, None)));
    }
    Ok(())
}

fn retain_keys(original: &mut Fields, patch: &Fields) -> Result<(), Status> {
    let Some(retained) = patch.get(RETAIN) else { return Ok(()) };
    let Value::Array(retained) = retained else {
        return Err(Status::bad_request(format!("{RETAIN} must be a list")));
    };
    let retained: BTreeSet<_> = retained.iter().filter_map(Value::as_str).collect();
    let kept = |key: &str| retained.contains(key);
    if let Some(stray) =
        patch.iter().find(|(key, value)| !key.starts_with('$') && !value.is_null() && !kept(key))
    {
        return Err(unprocessable(format!(
            "the patch sets {} which is not in its {RETAIN} list",
            stray.0
        )));
    }
    original.retain(|key, _| kept(key));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::{DEPLOYMENT, NODE, POD, SERVICE};
    use crate::{Kind, schema};

    fn patched(kind: &Kind, original: &Value, patch: &Value) -> Value {
        strategic(original, patch, schema::type_of(kind)).expect("the patch applies")
    }

    fn containers(list: Value) -> Value {
        json!({"spec": {"template": {"spec": {"containers": list}}}})
    }

    /// Nobody can have the server compare everything with everything.
    #[test]
    fn lists_of_a_hundred_thousand_items_are_merged() {
        let count = 100_000;
        let ports = |from: usize| -> Value {
            (from..from + count)
                .map(|port| json!({"port": port, "name": port.to_string()}))
                .collect()
        };
        let names = |from: usize| -> Value {
            (from..from + count).map(|name| Value::from(name.to_string())).collect()
        };
        let original = json!({"metadata": {"finalizers": names(0)}, "spec": {"ports": ports(0)}});
        let patch = json!({
            "metadata": {
                "finalizers": names(10), "$deleteFromPrimitiveList/finalizers": names(50_000),
            },
            "spec": {"ports": ports(10), "$setElementOrder/ports": ports(10)},
        });
        let result = patched(&SERVICE, &original, &patch);
        assert_eq!(result["spec"]["ports"].as_array().map(Vec::len), Some(count + 10));
        assert!(result["metadata"]["finalizers"].as_array().is_some_and(|all| all.len() >= count));
    }

    #[test]
    fn set_image_changes_one_container() {
        // The body of `kubectl set image deployment/web app=nginx:2`.
        let original = containers(json!([
            {"name": "app", "image": "nginx:1", "env": [{"name": "A", "value": "1"}]},
            {"name": "side", "image": "busybox"},
        ]));
        let patch = json!({"spec": {"template": {"spec": {
            "$setElementOrder/containers": [{"name": "app"}, {"name": "side"}],
            "containers": [{"image": "nginx:2", "name": "app"}],
        }}}});
        let expected = containers(json!([
            {"name": "app", "image": "nginx:2", "env": [{"name": "A", "value": "1"}]},
            {"name": "side", "image": "busybox"},
        ]));
        assert_eq!(patched(&DEPLOYMENT, &original, &patch), expected);
    }

    #[test]
    fn rollout_restart_adds_an_annotation_to_the_template() {
        let original = json!({"spec": {"template": {"metadata": {"creationTimestamp": null,
            "labels": {"app": "web"}}}}});
        let patch = json!({"spec": {"template": {"metadata": {"annotations": {
            "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}}}}});
        let result = patched(&DEPLOYMENT, &original, &patch);
        assert_eq!(
            result["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"],
            "2026-01-01T00:00:00Z"
        );
        assert_eq!(result["spec"]["template"]["metadata"]["labels"]["app"], "web");
    }

    #[test]
    fn cordon_uncordon_and_taint() {
        let node = json!({"metadata": {"name": "worker-1"}, "spec": {"podCIDR": "10.244.1.0/24"}});
        let cordoned = patched(&NODE, &node, &json!({"spec": {"unschedulable": true}}));
        assert_eq!(cordoned["spec"]["unschedulable"], true);
        let back = patched(&NODE, &cordoned, &json!({"spec": {"unschedulable": null}}));
        assert_eq!(back, node);
        // Taints are an atomic list in a strategic merge patch: kubectl sends all of them.
        let taint = |key: &str| json!({"key": key, "effect": "NoExecute"});
        let one = patched(&NODE, &node, &json!({"spec": {"taints": [taint("a")]}}));
        let two = patched(&NODE, &one, &json!({"spec": {"taints": [taint("b"), taint("c")]}}));
        assert_eq!(two["spec"]["taints"], json!([taint("b"), taint("c")]));
        let none = patched(&NODE, &two, &json!({"spec": {"taints": null}}));
        assert_eq!(none["spec"].get("taints"), None);
    }

    #[test]
    fn apply_removes_and_adds_items() {
        // `kubectl apply` after an env entry and a container were taken out and a volume was added.
        let original = json!({"metadata": {"annotations": {"last": "x"}}, "spec": {
            "containers": [
                {"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
                {"name": "b"},
            ],
            "volumes": [{"name": "token", "projected": {}}],
        }});
        let patch = json!({"metadata": {"annotations": {"last": "y"}}, "spec": {
            "$setElementOrder/containers": [{"name": "a"}],
            "containers": [
                {"$setElementOrder/env": [{"name": "Y"}], "name": "a",
                 "env": [{"$patch": "delete", "name": "X"}]},
                {"$patch": "delete", "name": "b"},
            ],
            "$setElementOrder/volumes": [{"name": "data"}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        }});
        let result = patched(&POD, &original, &patch);
        assert_eq!(
            result["spec"]["containers"],
            json!([{"name": "a", "env": [{"name": "Y", "value": "2"}]}])
        );
        assert_eq!(
            result["spec"]["volumes"],
            json!([{"name": "data", "emptyDir": {}}, {"name": "token", "projected": {}}])
        );
        assert_eq!(result["metadata"]["annotations"]["last"], "y");
    }

    #[test]
    fn element_order_moves_items_and_keeps_server_items_near() {
        let original = json!({"spec": {"containers": [
            {"name": "a"}, {"name": "server"}, {"name": "b"},
        ]}});
        let patch = json!({"spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
        }});
        let names: Vec<_> = patched(&POD, &original, &patch)["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["server", "b", "a"]);
    }

    #[test]
    fn a_new_item_without_an_order_goes_first() {
        let original = json!({"spec": {"containers": [{"name": "old"}]}});
        let patch = json!({"spec": {"containers": [{"name": "new", "image": "x", "stdin": null}]}});
        assert_eq!(
            patched(&POD, &original, &patch)["spec"]["containers"],
            json!([{"name": "new", "image": "x"}, {"name": "old"}])
        );
    }

    #[test]
    fn service_ports_are_merged_by_port() {
        let original =
            json!({"spec": {"ports": [{"port": 80, "targetPort": 80, "nodePort": 30001}]}});
        let patch = json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}]}});
        assert_eq!(
            patched(&SERVICE, &original, &patch)["spec"]["ports"],
            json!([{"port": 80, "targetPort": 8080, "nodePort": 30001}])
        );
    }

    #[test]
    fn primitive_lists_merge_and_shrink() {
        let original = json!({"metadata": {"finalizers": ["a", "b"]}});
        let add = json!({"metadata": {"finalizers": ["c", "b"]}});
        assert_eq!(
            patched(&POD, &original, &add)["metadata"]["finalizers"],
            json!(["c", "a", "b"])
        );
        let delete = json!({"metadata": {
            "$deleteFromPrimitiveList/finalizers": ["b"],
            "$setElementOrder/finalizers": ["a"],
        }});
        assert_eq!(patched(&POD, &original, &delete)["metadata"]["finalizers"], json!(["a"]));
    }

    #[test]
    fn directives_on_maps() {
        let original = json!({"spec": {"nodeSelector": {"a": "1"}, "securityContext": {"x": 1}}});
        let replace = json!({"spec": {"nodeSelector": {"$patch": "replace", "b": "2"}}});
        assert_eq!(patched(&POD, &original, &replace)["spec"]["nodeSelector"], json!({"b": "2"}));
        let delete = json!({"spec": {"nodeSelector": {"$patch": "delete"}}});
        assert_eq!(patched(&POD, &original, &delete)["spec"]["nodeSelector"], json!({}));
        let list = json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "z"}]}});
        let two = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(patched(&POD, &two, &list)["spec"]["containers"], json!([{"name": "z"}]));
    }

    #[test]
    fn retain_keys_switches_a_union() {
        // `kubectl apply` from RollingUpdate to Recreate.
        let original = json!({"spec": {"strategy": {"type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        assert_eq!(
            patched(&DEPLOYMENT, &original, &patch)["spec"]["strategy"],
            json!({"type": "Recreate"})
        );
    }

    #[test]
    fn conditions_of_status_are_merged_by_type() {
        let original = json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "reason": "x"}, {"type": "Other", "status": "True"},
        ]}});
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
        assert_eq!(
            patched(&NODE, &original, &patch)["status"]["conditions"],
            json!([{"type": "Ready", "status": "Unknown", "reason": "x"},
                   {"type": "Other", "status": "True"}])
        );
    }

    #[test]
    fn wrong_patches_are_refused() {
        let original = json!({"spec": {"containers": [{"name": "a"}]}});
        for (patch, code) in [
            (json!([]), 400),
            (json!({"spec": {"$patch": "frob"}}), 400),
            (json!({"spec": {"containers": [{"image": "x"}]}}), 422),
            (json!({"spec": {"containers": ["x"]}}), 422),
            (
                json!({"spec": {"$setElementOrder/containers": [{"name": "b"}],
                "containers": [{"name": "a"}]}}),
                422,
            ),
            (json!({"spec": {"$retainKeys": ["a"], "b": 1}}), 422),
            (json!({"metadata": {"$deleteFromPrimitiveList/finalizers": 1}}), 400),
        ] {
            let error = strategic(&original, &patch, schema::type_of(&POD)).unwrap_err();
            assert_eq!(error.code, code, "{patch}");
        }
    }
}
