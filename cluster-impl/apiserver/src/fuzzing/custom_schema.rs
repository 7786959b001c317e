//! Schemas of custom resources: any is judged, and what is taken prunes and fills in once for all.

use machinery::Object;
use machinery::custom::schema::Schema;
use machinery::kinds::CUSTOM_RESOURCE_DEFINITION;
use serde_json::{Map, Value, json};

use super::arbitrary::{NAMES, Source};
use super::samples;

pub(super) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let written = match source.once_in(4) {
        true => serde_json::from_slice(source.rest()).unwrap_or_default(),
        false => schema(&mut source, 4),
    };
    let mut definition = Object(samples::plain(&CUSTOM_RESOURCE_DEFINITION));
    definition.set("/spec/versions/0/schema/openAPIV3Schema", written.clone());
    let mut shaped = definition.clone();
    let is_shaped = machinery::fields::decode(&CUSTOM_RESOURCE_DEFINITION, &mut shaped).is_ok();
    CUSTOM_RESOURCE_DEFINITION.set_defaults(&mut shaped);
    let problems = CUSTOM_RESOURCE_DEFINITION.problems(&shaped, None);
    let own = Schema::read(&written);
    for _ in 0..2 {
        let mut value = value(&written, &mut source, 5);
        let old = value.clone();
        let _ = own.unknown(&value, true);
        own.prune(&mut value, true);
        let once = value.clone();
        assert_eq!(own.prune(&mut value, true), Vec::<String>::new(), "what is pruned is pruned");
        assert_eq!(value, once);
        assert_eq!(own.unknown(&value, true), Vec::<String>::new());
        own.fill_in(&mut value);
        let once = value.clone();
        own.fill_in(&mut value);
        if is_shaped && problems.is_empty() {
            assert_eq!(value, once, "defaulting twice is defaulting once");
        }
        let _ = own.problems(&value, None);
        let _ = own.problems(&value, Some(&old));
    }
}

const BOUNDS: &[&str] = &[
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "multipleOf",
];
const FLAGS: &[&str] = &[
    "nullable",
    "uniqueItems",
    "exclusiveMinimum",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-int-or-string",
    "x-kubernetes-embedded-resource",
    "additionalProperties",
];
const FORMATS: &[&str] = &[
    "date-time",
    "date",
    "ipv4",
    "ipv6",
    "cidr",
    "uuid",
    "email",
    "hostname",
    "uri",
    "byte",
    "int32",
    "int64",
    "double",
    "duration",
    "quantity",
    "bsonobjectid",
    "mac",
    "isbn",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "password",
    "x",
];
const RULES: &[&str] = &[
    "true",
    "self.a == 1",
    "self == oldSelf",
    "size(self) < 5",
    "self.all(x, x > 1)",
    "1",
    "(",
    "has(self.b)",
];
const PATTERNS: &[&str] = &["^a*$", "(", "[0-9]{1,1000}", "(a|b)+$", "\\d", "\\p{L}", "(?=a)", ""];

/// A schema whose parts fit together more often than not.
fn schema(source: &mut Source<'_>, depth: usize) -> Value {
    const TYPES: &[&str] = &["object", "array", "string", "integer", "number", "boolean"];
    let kind = source.pick(TYPES);
    let mut own = json!({"type": kind});
    if source.once_in(8) {
        own.as_object_mut().expect("just made").remove("type");
    }
    match kind {
        "object" if depth > 0 => {
            let count = source.below(4);
            let member = |_| ((source.pick(NAMES)).to_owned(), schema(source, depth - 1));
            let properties: Map<_, _> = (0..count).map(member).collect();
            match source.once_in(4) {
                true => own["additionalProperties"] = schema(source, depth - 1),
                false => own["properties"] = properties.into(),
            }
        }
        "array" if depth > 0 => own["items"] = schema(source, depth - 1),
        _ => {}
    }
    let count = source.below(4);
    for _ in 0..count {
        facet(&mut own, source, depth);
    }
    own
}

fn facet(own: &mut Value, source: &mut Source<'_>, depth: usize) {
    match source.byte() % 12 {
        0 | 1 => own[source.pick(BOUNDS)] = source.number().into(),
        2 => own[source.pick(FLAGS)] = (!source.once_in(8)).into(),
        3 => own["default"] = value(&own.clone(), source, 3),
        4 => own["enum"] = (0..source.below(3)).map(|_| value(&own.clone(), source, 2)).collect(),
        5 => own["pattern"] = (source.pick(PATTERNS)).into(),
        6 => own["format"] = (source.pick(FORMATS)).into(),
        7 => {
            own["required"] =
                (0..source.below(3)).map(|_| Value::from(source.pick(NAMES))).collect()
        }
        8 => {
            own["x-kubernetes-list-type"] = (source.pick(&["map", "set", "atomic", "x"])).into();
            own["x-kubernetes-list-map-keys"] = json!([source.pick(NAMES)]);
        }
        9 => {
            let rule = source.pick(RULES);
            own["x-kubernetes-validations"] =
                json!([{"rule": rule, "messageExpression": "'a' + rule"}]);
        }
        10 if depth > 0 => {
            let name = source.pick(&["allOf", "anyOf", "oneOf"]);
            own[name] = json!([schema(source, depth - 1)]);
        }
        11 if depth > 0 => own["not"] = schema(source, depth - 1),
        _ => own["description"] = source.text().into(),
    }
}

/// A value that a schema may be about.
fn value(schema: &Value, source: &mut Source<'_>, depth: usize) -> Value {
    if depth == 0 || source.once_in(16) {
        return source.any(depth);
    }
    if let Some(choices) = schema["enum"].as_array()
        && !choices.is_empty()
        && source.once_in(2)
    {
        return choices[source.below(choices.len())].clone();
    }
    match schema["type"].as_str().unwrap_or_default() {
        "object" => {
            let mut object = Map::new();
            for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
                if !source.once_in(3) {
                    object.insert(name.clone(), value(inner, source, depth - 1));
                }
            }
            let count = source.below(3);
            for _ in 0..count {
                let name = (source.pick(NAMES)).to_owned();
                object.insert(name, value(&schema["additionalProperties"], source, depth - 1));
            }
            object.into()
        }
        "array" => {
            (0..source.below(4)).map(|_| value(&schema["items"], source, depth - 1)).collect()
        }
        "string" => source.text().into(),
        "integer" => source.number().into(),
        "number" => json!(source.number() as f64 / 8.0),
        "boolean" => (source.byte() & 1 == 1).into(),
        _ => source.any(depth),
    }
}
