//! The columns of a custom resource's table: `additionalPrinterColumns`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::json_path::JsonPath;
use crate::Object;
use crate::duration::human;
use crate::validation::{items, text};

/// A column after the name.
#[derive(Debug)]
pub struct PrinterColumn {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i64,
    path: Option<JsonPath>,
}

/// The columns that a version of a definition has; the age if it names none.
pub(super) fn read(list: &Value) -> Vec<PrinterColumn> {
    let mut found: Vec<PrinterColumn> = items(list)
        .map(|(_, one)| PrinterColumn {
            name: text(&one["name"]).to_owned(),
            kind: text(&one["type"]).to_owned(),
            format: text(&one["format"]).to_owned(),
            description: text(&one["description"]).to_owned(),
            priority: one["priority"].as_i64().unwrap_or_default(),
            path: JsonPath::read(text(&one["jsonPath"])).ok(),
        })
        .collect();
    if found.is_empty() {
        found.push(PrinterColumn {
            name: "Age".to_owned(),
            kind: "date".to_owned(),
            format: String::new(),
            description: "CreationTimestamp is a timestamp representing the server time when this \
                          object was created."
                .to_owned(),
            priority: 0,
            path: JsonPath::read(".metadata.creationTimestamp").ok(),
        });
    }
    found
}

/// The headings, the name first.
pub(super) fn headings(columns: &[PrinterColumn]) -> Vec<Value> {
    let name = json!({"name": "Name", "type": "string", "format": "name", "priority": 0,
        "description": "Name must be unique within a namespace."});
    let others = columns.iter().map(|column| {
        json!({"name": column.name, "type": column.kind, "format": column.format,
            "description": column.description, "priority": column.priority})
    });
    std::iter::once(name).chain(others).collect()
}

/// The cells of one row.
pub(super) fn cells(columns: &[PrinterColumn], object: &Object, now: Timestamp) -> Vec<Value> {
    let others = columns.iter().map(|column| {
        let found = column.path.as_ref().map(|path| path.find(&object.0)).unwrap_or_default();
        found.first().map_or(Value::Null, |value| cell(&column.kind, value, now))
    });
    std::iter::once(object.name().into()).chain(others).collect()
}

/// As upstream: what is not of the column's type is left out.
fn cell(kind: &str, value: &Value, now: Timestamp) -> Value {
    match (kind, value) {
        (_, Value::Null) => Value::Null,
        ("string", Value::String(text)) => text.as_str().into(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(number)) => number
            .as_i64()
            .or_else(|| number.as_f64().map(|number| number as i64))
            .map_or(Value::Null, Value::from),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(at) => human(now.as_second() - at.as_second()).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_of_their_columns_type() {
        let column = |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path});
        let columns = read(&json!([
            column("Size", "integer", ".spec.size"),
            column("Text", "string", ".spec.size"),
            column("Wrong", "integer", ".spec.mode"),
            column("Ready", "string", ".status.conditions[?(@.type==\"Ready\")].status"),
            column("On", "boolean", ".spec.on"),
            column("Since", "date", ".spec.at"),
            column("None", "string", ".spec.none"),
        ]));
        let object = Object(json!({"metadata": {"name": "a"},
            "spec": {"size": 3, "mode": "x", "on": true, "at": "1970-01-01T00:00:00Z"},
            "status": {"conditions": [{"type": "Ready", "status": "False"}]}}));
        let now = Timestamp::from_second(120).unwrap();
        assert_eq!(
            cells(&columns, &object, now),
            [
                json!("a"),
                json!(3),
                json!("3"),
                Value::Null,
                json!("False"),
                json!(true),
                json!("2m"),
                Value::Null
            ]
        );
        let headings = headings(&read(&Value::Null));
        assert_eq!((text(&headings[0]["format"]), text(&headings[1]["type"])), ("name", "date"));
        let age = cells(
            &read(&Value::Null),
            &Object(json!({"metadata": {"name": "a",
            "creationTimestamp": "1970-01-01T00:01:00Z"}})),
            now,
        );
        assert_eq!(age, [json!("a"), json!("60s")]);
    }
}
