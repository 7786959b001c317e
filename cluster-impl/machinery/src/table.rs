//! `meta.k8s.io` Tables, as `kubectl get` asks for them, and objects cut down to their metadata.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::duration::age;
use crate::{Kind, Object, versions};

/// How much of each object goes into its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All.
    Object,
}

impl IncludeObject {
    /// The value of the query parameter `includeObject`; "" is the default.
    pub fn from_query(text: &str) -> Option<Self> {
        match text {
            "None" => Some(Self::None),
            "" | "Metadata" => Some(Self::Metadata),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// How a table is asked for.
#[derive(Debug, Clone, Copy)]
pub struct TableOptions<'a> {
    /// Version of `meta.k8s.io`: `v1` or `v1beta1`.
    pub version: &'a str,
    /// How much of each object goes into its row.
    pub include: IncludeObject,
    /// Whether the columns are described; in a watch only in the first event.
    pub headings: bool,
    /// Ages are computed from here.
    pub now: Timestamp,
}

/// A table of stored objects of one kind. `metadata` is that of the list, or of the one object.
pub fn table<'o>(
    kind: &'static Kind,
    objects: impl IntoIterator<Item = &'o Object>,
    metadata: Value,
    options: TableOptions<'_>,
) -> Value {
    let rows: Vec<_> = objects.into_iter().map(|object| row(kind, object, options)).collect();
    let columns = if options.headings { headings(kind) } else { Vec::new() };
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{}", options.version),
        "metadata": metadata, "columnDefinitions": columns, "rows": rows,
    })
}

/// A table of one `Scale`, which no kind of its own has columns for.
pub fn scale_table(scale: &Value, options: TableOptions<'_>) -> Value {
    let columns = [
        ("Name", "string", "name"),
        ("Desired", "integer", ""),
        ("Available", "integer", ""),
        ("Age", "string", ""),
    ];
    let columns = columns.map(|(name, kind, format)| {
        json!({"name": name, "type": kind, "format": format, "description": "", "priority": 0})
    });
    let metadata = &scale["metadata"];
    let made = metadata["creationTimestamp"].as_str().and_then(|text| text.parse().ok());
    let object = match options.include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => partial(&Object(scale.clone()), options.version),
        IncludeObject::Object => scale.clone(),
    };
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{}", options.version),
        "metadata": {"resourceVersion": metadata["resourceVersion"]},
        "columnDefinitions": columns,
        "rows": [{
            "cells": [
                metadata["name"], scale["spec"]["replicas"], scale["status"]["replicas"],
                age(made, options.now),
            ],
            "object": object,
        }],
    })
}

fn headings(kind: &'static Kind) -> Vec<Value> {
    if let Some(custom) = kind.custom {
        return custom.headings();
    }
    let heading = |column: &crate::kinds::Column| {
        let format = if column.name == "Name" { "name" } else { "" };
        json!({"name": column.name, "type": column.format, "format": format,
            "description": "", "priority": column.priority})
    };
    versions::stored(kind).columns.iter().map(heading).collect()
}

fn row(kind: &Kind, object: &Object, options: TableOptions<'_>) -> Value {
    let mut row = json!({"cells": kind.row(object, options.now)});
    let done = match (kind.kind, object.text("/status/phase")) {
        ("Pod", "Succeeded") => Some(("Succeeded", "The pod has completed successfully.")),
        ("Pod", "Failed") => Some(("Failed", "The pod failed.")),
        _ => None,
    };
    if let Some((reason, message)) = done {
        row["conditions"] = json!([
            {"type": "Completed", "status": "True", "reason": reason, "message": message},
        ]);
    }
    match options.include {
        IncludeObject::None => {}
        IncludeObject::Metadata | IncludeObject::Object => {
            let mut served = None;
            if versions::of(kind).is_some() {
                versions::from_stored(kind, served.insert(object.clone()));
            }
            let object = served.as_ref().unwrap_or(object);
            row["object"] = match options.include {
                IncludeObject::Object => object.0.clone(),
                _ => partial(object, options.version),
            };
        }
    }
    row
}

/// An object cut down to its metadata. `version` is that of `meta.k8s.io`.
pub fn partial(object: &Object, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object.0["metadata"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::POD;

    fn options(include: IncludeObject, headings: bool) -> TableOptions<'static> {
        TableOptions { version: "v1", include, headings, now: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn a_table_has_columns_and_rows() {
        let mut pod = Object::new("v1", "Pod", "default", "web");
        pod.set("/status/phase", "Failed");
        let metadata = json!({"resourceVersion": "7"});
        let table = table(&POD, [&pod], metadata, options(IncludeObject::Metadata, true));
        assert_eq!(table["apiVersion"], "meta.k8s.io/v1");
        assert_eq!(table["metadata"]["resourceVersion"], "7");
        assert_eq!(
            table["columnDefinitions"][0],
            json!({"name": "Name", "type": "string", "format": "name", "description": "",
                "priority": 0})
        );
        let row = &table["rows"][0];
        assert_eq!(row["cells"][0], "web");
        assert_eq!(row["cells"].as_array().unwrap().len(), POD.columns.len());
        assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(row["object"]["metadata"]["name"], "web");
        assert_eq!(row["object"].get("status"), None);
        assert_eq!(row["conditions"][0]["reason"], "Failed");
    }

    #[test]
    fn objects_and_headings_can_be_left_out() {
        let pod = Object::new("v1", "Pod", "default", "web");
        let bare = table(&POD, [&pod], json!({}), options(IncludeObject::None, false));
        assert_eq!(bare["columnDefinitions"], json!([]));
        assert_eq!(bare["rows"][0].get("object"), None);
        let full = table(&POD, [&pod], json!({}), options(IncludeObject::Object, false));
        assert_eq!(full["rows"][0]["object"], pod.0);
        assert_eq!(IncludeObject::from_query(""), Some(IncludeObject::Metadata));
        assert_eq!(IncludeObject::from_query("Everything"), None);
    }
}
