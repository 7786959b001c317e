//! Sets of fields as `managedFields` holds them, and objects whose `managedFields` a client wrote.

use machinery::managed_fields::{self, FieldSet, Writer, path_text};
use machinery::{Object, versions};
use serde_json::Value;

use super::arbitrary::Source;
use super::samples;

const NAMES: &[&str] = &[
    "f:a",
    "f:spec",
    "f:metadata",
    "f:labels",
    ".",
    "v:1",
    "v:\"a\"",
    "v:[]",
    "k:{\"name\":\"a\"}",
    "k:{\"name\":\"a\",\"b\":1}",
    "k:{}",
    "i:0",
    "i:-1",
    "i:x",
    "f:",
    "x",
    "",
    "f:containers",
    "f:a.b",
];

pub(super) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    if let Ok(value) = serde_json::from_slice::<Value>(data) {
        sets(&value, &value);
        return;
    }
    let (one, two) = (fields(&mut source, 5), fields(&mut source, 5));
    sets(&one, &two);
    let kinds: Vec<_> = versions::served().collect();
    let kind = source.pick(&kinds);
    let mut live = Object(samples::object(kind, &mut source));
    live.set("/metadata/managedFields", entry(kind.api_version(), one, &mut source));
    let mut new = Object(samples::object(kind, &mut source));
    new.set("/metadata/managedFields", entry(kind.api_version(), two, &mut source));
    for subresource in ["", "status"] {
        let writer = Writer { manager: "m", subresource, time: "2026-01-01T00:00:00Z" };
        managed_fields::update(kind, writer, Some(&live), &mut new.clone());
        managed_fields::update(kind, writer, None, &mut new.clone());
    }
    managed_fields::keep_times(&live, &mut new);
}

fn sets(one: &Value, two: &Value) {
    let (Ok(one), Ok(two)) = (FieldSet::from_value(one), FieldSet::from_value(two)) else { return };
    for set in [&one, &two] {
        let again = FieldSet::from_value(&set.to_value()).expect("what is written can be read");
        assert_eq!(*set, again, "what is read is what was written");
        let paths = set.paths();
        assert_eq!(paths.len(), set.len());
        for path in &paths {
            let _ = path_text(path);
            assert!(set.has(path), "{path:?}");
        }
        assert_eq!(
            paths.iter().fold(FieldSet::default(), |all, path| all.union(&FieldSet::of(path))),
            *set
        );
    }
    let (union, both, less) = (one.union(&two), one.intersection(&two), one.difference(&two));
    assert_eq!(union, two.union(&one));
    assert_eq!(both, two.intersection(&one));
    assert_eq!(less.union(&both), one);
    assert!(less.intersection(&two).is_empty());
    assert_eq!(one.union(&one), one);
    assert!(one.difference(&one).is_empty());
    let _ = one.excluding(&two);
}

fn fields(source: &mut Source<'_>, depth: usize) -> Value {
    let count = if depth == 0 { 0 } else { source.below(4) };
    let member = |_| {
        let name = match source.once_in(16) {
            true => source.text(),
            false => (source.pick(NAMES)).to_owned(),
        };
        (name, fields(source, depth - 1))
    };
    Value::Object((0..count).map(member).collect())
}

fn entry(api_version: String, fields: Value, source: &mut Source<'_>) -> Value {
    if source.once_in(8) {
        return source.any(3);
    }
    serde_json::json!([{
        "manager": source.pick(&["m", "n", "before-first-apply", "kubectl-client-side-apply"]),
        "operation": source.pick(&["Apply", "Update"]),
        "apiVersion": api_version, "fieldsType": "FieldsV1", "fieldsV1": fields,
        "time": source.pick(&["2026-01-01T00:00:00Z", "x", ""]),
    }])
}
