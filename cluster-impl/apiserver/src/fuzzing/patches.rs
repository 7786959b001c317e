//! Patches of every form on an object of a kind.

use machinery::patch::{PatchType, apply};
use machinery::schema::type_of;
use machinery::{Object, versions};
use serde_json::{Value, json};

use super::arbitrary::Source;
use super::samples;

pub(super) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let kinds: Vec<_> = versions::served().collect();
    let kind = source.pick(&kinds);
    let object = Object(samples::object(kind, &mut source));
    let patch = match source.byte() % 4 {
        0 => source.typed(type_of(kind), 8, false),
        1 => samples::object(kind, &mut source),
        2 => source.any(5),
        _ => serde_json::from_slice(source.rest()).unwrap_or_default(),
    };
    let mut marked = patch.clone();
    mark(&mut marked, &mut source, 6);
    for (form, patch) in [
        (PatchType::Merge, &patch),
        (PatchType::Strategic, &patch),
        (PatchType::Strategic, &marked),
    ] {
        let Ok(once) = apply(kind, &object, form, patch) else { continue };
        if form == PatchType::Merge {
            let twice = apply(kind, &once, form, patch);
            assert_eq!(twice, Ok(once), "merging twice is merging once (RFC 7396)");
        } else {
            let _ = apply(kind, &once, form, patch);
        }
    }
    let _ = apply(kind, &object, PatchType::Json, &operations(&object.0, &mut source));
}

/// Puts directives of strategic merge patches into a patch.
fn mark(value: &mut Value, source: &mut Source<'_>, depth: usize) {
    if depth == 0 || source.is_empty() {
        return;
    }
    match value {
        Value::Object(members) => {
            for inner in members.values_mut() {
                mark(inner, source, depth - 1);
            }
            let Some(field) = members.keys().next().cloned() else { return };
            match source.byte() % 8 {
                0 => {
                    _ = members.insert(
                        "$patch".into(),
                        json!(source.pick(&["delete", "replace", "merge", "x"])),
                    )
                }
                1 => _ = members.insert("$retainKeys".into(), json!([field])),
                2 => _ = members.insert(format!("$deleteFromPrimitiveList/{field}"), source.any(2)),
                3 => {
                    let order = members[&field].clone();
                    members.insert(format!("$setElementOrder/{field}"), order);
                }
                _ => {}
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| mark(item, source, depth - 1)),
        _ => {}
    }
}

/// A JSON patch whose pointers lead somewhere.
fn operations(object: &Value, source: &mut Source<'_>) -> Value {
    let mut places = vec![String::new()];
    pointers(object, &mut String::new(), &mut places);
    let count = source.below(5);
    let operation = |_| {
        let place = |source: &mut Source<'_>| {
            let mut place = places[source.below(places.len())].clone();
            if source.once_in(4) {
                place.push_str(source.pick(&[
                    "/-",
                    "/0",
                    "/x",
                    "/18446744073709551616",
                    "~",
                    "/~2",
                ]));
            }
            place
        };
        json!({
            "op": source.pick(&["add", "remove", "replace", "move", "copy", "test", "x"]),
            "path": place(source), "from": place(source), "value": source.any(3),
        })
    };
    (0..count).map(operation).collect()
}

fn pointers(value: &Value, at: &mut String, found: &mut Vec<String>) {
    let before = at.len();
    let mut step = |name: &str, inner: &Value, found: &mut Vec<String>| {
        at.push('/');
        at.push_str(&name.replace('~', "~0").replace('/', "~1"));
        found.push(at.clone());
        pointers(inner, at, found);
        at.truncate(before);
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, inner)| step(name, inner, found)),
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                step(&index.to_string(), inner, found);
            }
        }
        _ => {}
    }
}
