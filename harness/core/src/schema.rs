//! The JSON Schema of scenario files, for editors: made from the same words that the reader knows.

use serde_json::{Map, Value, json};

use crate::kinds::{KINDS, Kind};
use crate::plan::Word;
use crate::roles::ROLES;
use crate::scenario::{
    ABILITIES, API_VERSION, BLASTS, CHANGES, CLUSTER, SPEC, VERBS, WORKLOAD, pod_fields,
};
use crate::sometimes;
use crate::target::Parameters;

/// The schema. `faults` are the names of the faults that there are.
pub fn json_schema(faults: &[&str]) -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Scenario",
        "type": "object",
        "additionalProperties": false,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": "Scenario"},
            "metadata": closed(&["name"], &["name"], |_| name()),
            "spec": closed(SPEC, &["title", "proves", "cluster", "steps"], spec_field),
        },
        "$defs": {
            "duration": {
                "type": ["string", "number"],
                "description": format!("`30s`, or arithmetic over {}", Parameters::NAMES.join(", ")),
            },
            "who": {
                "description": "a role, or several",
                "examples": ROLES,
                "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
            },
            "condition": condition(),
            "object": object(&["replicas", "graceSeconds", "metadata", "spec", "status", "data"]),
            "step": {"oneOf": steps(faults)},
        },
    })
}

fn name() -> Value {
    json!({"type": "string", "pattern": "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", "maxLength": 63})
}

fn reference(to: &str) -> Value {
    json!({"$ref": format!("#/$defs/{to}")})
}

/// A mapping with these fields and no others.
fn closed(fields: &[&str], required: &[&str], of: impl Fn(&str) -> Value) -> Value {
    let properties: Map<String, Value> =
        fields.iter().map(|field| (field.to_string(), of(field))).collect();
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": required,
        "properties": properties,
    })
}

fn texts() -> Value {
    json!({"type": "array", "items": {"type": "string"}})
}

fn spec_field(field: &str) -> Value {
    match field {
        "cluster" => closed(CLUSTER, &["controlPlanes", "workers"], |field| match field {
            "parameters" => closed(Parameters::NAMES, &[], |_| reference("duration")),
            "zones" => json!({"type": "integer", "minimum": 1}),
            _ => json!({"type": "integer", "minimum": 0}),
        }),
        "needs" => json!({"type": "array", "items": {"enum": ABILITIES}}),
        "blast" => json!({"enum": BLASTS}),
        "given" => json!({"type": "array", "items": {"oneOf": [
            closed(&["file", "as"], &["file"], |_| json!({"type": "string"})),
            closed(&["manifest", "as"], &["manifest"], |_| json!({})),
            closed(&pod_fields(), &["pod"], |field| match field {
                "pod" | "as" | "image" => json!({"type": "string"}),
                "on" => reference("who"),
                _ => json!({}),
            }),
        ]}}),
        "bind" => json!({"type": "object", "additionalProperties": reference("who")}),
        "workload" => closed(WORKLOAD, &["clients", "rate"], |field| match field {
            "mix" => closed(
                &[VERBS, CHANGES].concat(),
                &[],
                |_| json!({"type": "integer", "minimum": 0}),
            ),
            "over" => json!({"const": "configmaps"}),
            "rate" => json!({"type": "string", "pattern": "^[0-9.]+ */s$"}),
            _ => json!({"type": "integer", "minimum": 1}),
        }),
        "reaches" => {
            json!({"type": "array", "items": {"enum": sometimes::names().collect::<Vec<_>>()}})
        }
        "steps" => json!({"type": "array", "minItems": 1, "items": reference("step")}),
        "title" => json!({"type": "string"}),
        _ => texts(),
    }
}

/// A mapping with the word of one kind, and these fields.
fn object(fields: &[&str]) -> Value {
    let words = KINDS.iter().map(|kind| kind.word);
    let properties: Map<String, Value> = words
        .map(|word| (word.to_string(), json!({"type": "string"})))
        .chain(fields.iter().map(|field| (field.to_string(), json!({}))))
        .collect();
    let one_kind: Vec<Value> = KINDS.iter().map(|kind| json!({"required": [kind.word]})).collect();
    json!({"type": "object", "additionalProperties": false, "properties": properties, "oneOf": one_kind})
}

fn condition() -> Value {
    let watched = KINDS.iter().filter(|kind| kind.is_watched).map(Kind::plural);
    let plurals: Vec<&str> = watched.collect();
    let cel = json!({
        "type": "string",
        "description": format!("CEL over object, cluster, bound names and objects.{{{}}}", plurals.join(", ")),
    });
    let alone = closed(&["cel"], &["cel"], |_| cel.clone());
    let mut partial = object(&["metadata", "spec", "status", "data", "subsets", "type"]);
    partial["properties"]["cel"] = cel.clone();
    partial["properties"]["exists"] = json!({"type": "boolean"});
    json!({"oneOf": [alone, partial]})
}

fn steps(faults: &[&str]) -> Vec<Value> {
    let moment = || json!({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,40}$"});
    let plain = |action: &str, what: Value| {
        closed(
            &[action, "as"],
            &[action],
            |field| if field == "as" { moment() } else { what.clone() },
        )
    };
    let mut steps = vec![
        closed(&["wait", "until", "as"], &["wait"], |field| match field {
            "wait" => reference("duration"),
            "until" => reference("condition"),
            _ => moment(),
        }),
        plain("heal", json!({"type": "string"})),
        plain("apply", json!({"type": ["object", "array"]})),
        plain("delete", reference("object")),
        plain("patch", reference("object")),
        plain("scale", reference("object")),
    ];
    for word in Word::ALL {
        let fields = [word.name(), "within", "after", "for", "as"];
        steps.push(closed(&fields, &[word.name()], |field| match field {
            "within" => json!({"type": "array", "items": reference("duration"), "minItems": 2, "maxItems": 2}),
            "for" => reference("duration"),
            "after" => json!({"type": "string"}),
            "as" => moment(),
            _ => reference("condition"),
        }));
    }
    let ours = ["fault", "as", "on", "between", "from", "to", "for", "until"];
    let mut fault = closed(&ours, &["fault"], |field| match field {
        "fault" => json!({"enum": faults}),
        "as" => moment(),
        "between" => {
            json!({"type": "array", "items": reference("who"), "minItems": 2, "maxItems": 2})
        }
        "for" => reference("duration"),
        "until" => json!({"oneOf": [{"type": "string"}, reference("condition")]}),
        _ => reference("who"),
    });
    // Every fault has fields of its own.
    fault["additionalProperties"] = json!(true);
    steps.push(fault);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::ACTIONS;

    #[test]
    fn every_word_of_the_language_is_in_the_schema() {
        let schema = json_schema(&["node-kill"]);
        let spec = schema["properties"]["spec"]["properties"].as_object().unwrap();
        assert!(SPEC.iter().all(|field| spec.contains_key(*field)) && spec.len() == SPEC.len());
        let steps = schema["$defs"]["step"]["oneOf"].as_array().unwrap();
        for action in ACTIONS {
            let is_it = |step: &&Value| step["required"] == json!([action]);
            assert_eq!(steps.iter().filter(is_it).count(), 1, "{action}");
        }
        assert_eq!(steps.len(), ACTIONS.len());
        let references = schema.to_string();
        for part in references.split("#/$defs/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(schema["$defs"][name].is_object(), "{name}");
        }
    }
}
