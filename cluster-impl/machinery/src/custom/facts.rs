//! A custom resource's schema as the facts by which server-side apply works.
//!
//! What is made here is kept for ever, as the kind that it belongs to.

use std::collections::BTreeMap;

use super::publish::type_name;
use super::schema::{ListType, Schema, Type};
use crate::schema::{FieldFact, ListType as Merged, Shape, TypeFact};

const METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The type of a whole custom resource.
pub(super) fn of_object(
    schema: &Schema,
    (group, version, kind): (&str, &str, &str),
) -> &'static TypeFact {
    let mut fact = of_fields(schema, type_name(group, version, kind), true);
    fact.kind = Some((group.to_owned(), version.to_owned(), kind.to_owned()));
    Box::leak(Box::new(fact))
}

fn of_fields(schema: &Schema, name: String, is_whole: bool) -> TypeFact {
    let field = |inner: &Schema, name: &str| FieldFact {
        list: match &inner.list {
            ListType::Atomic => Merged::Atomic,
            ListType::Set => Merged::Set,
            ListType::Map(keys) => Merged::Map(keys.clone()),
        },
        is_atomic: inner.is_atomic_map.then_some(true),
        default: inner.default.clone(),
        ..FieldFact::plain(shape(inner, name))
    };
    let mut fields: BTreeMap<String, FieldFact> = schema
        .properties
        .iter()
        .map(|(own, inner)| (own.clone(), field(inner, &format!("{name}.{own}"))))
        .collect();
    if is_whole {
        for own in ["apiVersion", "kind"] {
            fields.insert(own.to_owned(), FieldFact::plain(Shape::String));
        }
        fields.insert("metadata".to_owned(), FieldFact::plain(Shape::Ref(METADATA.to_owned())));
    }
    TypeFact {
        name,
        kind: None,
        required: schema.required.clone(),
        fields,
        is_atomic: schema.is_atomic_map,
        always: Vec::new(),
        is_open: schema.preserves_unknown,
    }
}

fn shape(schema: &Schema, name: &str) -> Shape {
    if schema.is_int_or_string {
        return Shape::IntOrString;
    }
    match schema.kind {
        Type::String => Shape::String,
        Type::Integer => Shape::Int64,
        Type::Number => Shape::Double,
        Type::Boolean => Shape::Bool,
        Type::Array => match &schema.items {
            Some(item) => Shape::List(Box::new(shape(item, name))),
            None => Shape::Any,
        },
        Type::Object => match &schema.additional {
            Some(entry) => Shape::Map(Box::new(shape(entry, name))),
            None if schema.additional_any => Shape::Map(Box::new(Shape::Any)),
            None if schema.properties.is_empty() && !schema.is_embedded => {
                match schema.preserves_unknown {
                    true if schema.is_atomic_map => {
                        let open = of_fields(schema, name.to_owned(), false);
                        Shape::Own(Box::leak(Box::new(open)))
                    }
                    true => Shape::Any,
                    false => {
                        let empty = of_fields(schema, name.to_owned(), false);
                        Shape::Own(Box::leak(Box::new(empty)))
                    }
                }
            }
            None => {
                let fact = of_fields(schema, name.to_owned(), schema.is_embedded);
                Shape::Own(Box::leak(Box::new(fact)))
            }
        },
        Type::Any => Shape::Any,
    }
}
