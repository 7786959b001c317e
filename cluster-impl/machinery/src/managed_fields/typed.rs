//! How server-side apply takes a value: as one, field by field, or item by item.

use std::borrow::Cow;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::set::PathElement;
use crate::schema::{FieldFact, ListType, Shape, TypeFact};

/// How a value is taken.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// A scalar of this kind.
    Scalar(Scalar),
    /// A list, as one value; of these items.
    AtomicList(&'static Shape),
    /// An object or map, as one value.
    AtomicMap(&'static Shape),
    /// An object, field by field.
    Struct(&'static TypeFact),
    /// A map, entry by entry.
    Map(&'static Shape),
    /// A list as a set of scalars.
    Set(&'static Shape),
    /// A list as a map, by these fields of its items.
    Keyed(&'static [String], &'static Shape),
    /// Whatever it is: maps entry by entry, everything else as one value.
    Deduced,
}

/// What a scalar must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    Number,
    Text,
    Bool,
    Any,
}

/// The form of a field's value.
pub(super) fn of_field(fact: &'static FieldFact) -> Form {
    match (&fact.shape, &fact.list) {
        (Shape::List(item), ListType::Set) => Form::Set(item),
        (Shape::List(item), ListType::Map(keys)) => Form::Keyed(keys, item),
        (shape @ (Shape::Map(_) | Shape::Ref(_) | Shape::Own(_)), _)
            if fact.is_atomic == Some(true) =>
        {
            Form::AtomicMap(shape)
        }
        (Shape::Ref(_), _) if fact.is_atomic == Some(false) => {
            fact.shape.item_type().map_or(Form::Deduced, Form::Struct)
        }
        (shape, _) => of_shape(shape),
    }
}

/// The form of a value of which only the shape is known: an item of a list or map.
pub(super) fn of_shape(shape: &'static Shape) -> Form {
    match shape {
        Shape::String | Shape::Bytes => Form::Scalar(Scalar::Text),
        Shape::Int32 | Shape::Int64 | Shape::Double => Form::Scalar(Scalar::Number),
        Shape::Bool => Form::Scalar(Scalar::Bool),
        Shape::Time | Shape::Quantity | Shape::IntOrString => Form::Scalar(Scalar::Any),
        Shape::Any => Form::Deduced,
        Shape::List(item) => Form::AtomicList(item),
        Shape::Map(item) => Form::Map(item),
        Shape::Ref(_) | Shape::Own(_) => match shape.item_type() {
            Some(fact) if fact.is_atomic => Form::AtomicMap(shape),
            Some(fact) => Form::Struct(fact),
            None => Form::Deduced,
        },
    }
}

static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
static TEXT: LazyLock<Value> = LazyLock::new(|| "".into());
static ZERO: LazyLock<Value> = LazyLock::new(|| 0.into());
static NONE: LazyLock<Value> = LazyLock::new(|| "0".into());
static TCP: LazyLock<Value> = LazyLock::new(|| json!("TCP"));
static FALSE: Value = Value::Bool(false);
static NULL: Value = Value::Null;

/// What Go writes for a field that is not set and may not be left out.
pub(super) fn zero(fact: &FieldFact) -> &'static Value {
    if fact.is_pointer {
        return &NULL;
    }
    match fact.shape {
        Shape::String => &TEXT,
        Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => &ZERO,
        Shape::Bool => &FALSE,
        Shape::Quantity => &NONE,
        Shape::Ref(_) | Shape::Own(_) => &EMPTY,
        Shape::Bytes | Shape::Time | Shape::Any | Shape::List(_) | Shape::Map(_) => &NULL,
    }
}

/// A field of an object as Go would write it.
pub(super) fn field_of<'v>(
    fact: &'static TypeFact,
    object: &'v Map<String, Value>,
    name: &str,
) -> Option<&'v Value> {
    object.get(name).or_else(|| {
        let is_always = fact.always.iter().any(|known| known == name);
        is_always.then(|| fact.field(name).map(zero)).flatten()
    })
}

/// How an item of a list that is merged by keys is named; why it cannot be.
pub(super) fn key_of(
    keys: &'static [String],
    shape: &'static Shape,
    item: &Value,
) -> Result<PathElement, String> {
    let Value::Object(item) = item else {
        let what = if item.is_null() { "a null element" } else { "non-map elements" };
        return Err(format!("associative list with keys may not have {what}"));
    };
    let mut pairs = Vec::with_capacity(keys.len());
    for key in keys {
        let value = item.get(key).or_else(|| default_of(shape, key));
        let value = value.ok_or_else(|| {
            format!(
                "associative list with keys has an element that omits key field {key:?} (and \
                 doesn't have default value)"
            )
        })?;
        pairs.push((Cow::Borrowed(key.as_str()), value.clone()));
    }
    pairs.sort_by(|(one, _), (two, _)| one.cmp(two));
    Ok(PathElement::Key(pairs))
}

/// The default of a key, as upstream's OpenAPI has it: that of `protocol`, else the zero of what must be there.
fn default_of(shape: &'static Shape, key: &str) -> Option<&'static Value> {
    let fact = shape.item_type()?;
    if let Some(default) = fact.field(key).and_then(|field| field.default.as_ref()) {
        return Some(default);
    }
    if matches!(shape, Shape::Own(_)) {
        return None;
    }
    if key == "protocol" {
        return Some(&TCP);
    }
    let is_required = fact.required.iter().any(|name| name == key) || key == "name";
    is_required.then(|| fact.field(key).map(zero)).flatten()
}

/// How an item of a set is named.
pub(super) fn value_of(item: &Value) -> Result<PathElement, String> {
    match item {
        Value::Object(_) => {
            Err("associative list without keys has an element that's a map type".to_owned())
        }
        Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
        Value::Null => {
            Err("associative list without keys has an element that's an explicit null".to_owned())
        }
        scalar => Ok(PathElement::Value(scalar.clone())),
    }
}

/// How an item of a list is named, if the list is merged item by item.
pub(super) fn item_of(form: Form, item: &Value) -> Result<PathElement, String> {
    match form {
        Form::Keyed(keys, shape) => key_of(keys, shape, item),
        _ => value_of(item),
    }
}

/// The shape of a list's items, if the list is merged item by item.
pub(super) fn items_of(form: Form) -> Option<&'static Shape> {
    match form {
        Form::Set(item) | Form::Keyed(_, item) => Some(item),
        _ => None,
    }
}

/// Whether it is a map without entries.
pub(super) fn is_empty_map(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty)
}
