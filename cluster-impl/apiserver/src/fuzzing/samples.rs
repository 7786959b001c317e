//! Objects that a server takes, and what becomes of them when a fuzzer has its way.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use machinery::Kind;
use machinery::patch::merge;
use machinery::schema::type_of;
use serde_json::{Value, json};

use super::arbitrary::Source;

static SAMPLES: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    serde_yaml::from_str(include_str!("samples.yaml")).expect("the file is covered by a test")
});

/// An object that is taken, as far as there is one for the kind.
pub(super) fn plain(kind: &Kind) -> Value {
    let name = match kind.group {
        "" => kind.plural.to_owned(),
        group => format!("{}.{group}", kind.plural),
    };
    let mut object = SAMPLES.get(&name).cloned().unwrap_or_else(|| json!({}));
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind.into();
    if object.get("metadata").is_none() {
        object["metadata"] = json!({});
    }
    // Some kinds are named after what they hold.
    object["metadata"]["name"] = match kind.kind {
        "APIService" => "v1.g.io",
        "CustomResourceDefinition" => "as.acme.io",
        "IPAddress" => "10.96.0.9",
        _ => "a",
    }
    .into();
    if kind.namespaced {
        object["metadata"]["namespace"] = "default".into();
    }
    object
}

/// An object of a kind: made up, or a good one into which something was merged.
pub(super) fn object(kind: &Kind, source: &mut Source<'_>) -> Value {
    match source.byte() % 4 {
        0 => source.object(kind, false),
        1 => plain(kind),
        _ => {
            let plain = plain(kind);
            let mut change = source.typed(type_of(kind), 8, false);
            // What is changed is most often what there is.
            if let Some(spec) = machinery::schema::type_of(kind).field("spec")
                && source.once_in(2)
                && plain["spec"].is_object()
            {
                change = json!({"spec": source.shaped(&spec.shape, 8, false)});
            }
            let merged = merge(&plain, &change).unwrap_or(plain);
            let mut merged = if merged.is_object() { merged } else { json!({}) };
            merged["apiVersion"] = kind.api_version().into();
            merged["kind"] = kind.kind.into();
            merged
        }
    }
}

#[cfg(test)]
mod tests {
    use machinery::{Object, fields, versions};

    use super::*;

    #[test]
    fn there_is_a_good_sample_of_every_kind() {
        for kind in versions::served() {
            let mut object = Object(plain(kind));
            assert_eq!(fields::unknown(kind, &object.0), Vec::<String>::new(), "{}", kind.id);
            fields::decode(kind, &mut object).unwrap();
            versions::to_stored(kind, &mut object).unwrap();
            let stored = versions::stored(kind);
            object.set("/metadata/uid", "00000000-0000-4000-8000-000000000001");
            stored.prepare_new(&mut object);
            stored.set_defaults(&mut object);
            assert_eq!(stored.problems(&object, None), [], "{}", kind.id);
        }
    }
}
