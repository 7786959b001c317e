//! Decoding: an object made to fit its schema, or refused with 400.

use base64::engine::general_purpose::STANDARD;
use base64::{DecodeError, Engine as _};
use serde_json::Value;

use super::{Place, cannot_handle};
use crate::quantity::QuantityError;
use crate::schema::{Shape, TypeFact, type_of};
use crate::{Kind, Object, Quantity, Status};

/// Makes an object fit its schema ([`fit`]), or refuses it with 400.
pub fn decode(kind: &Kind, object: &mut Object) -> Result<(), Status> {
    fit(kind, object).map_err(|why| cannot_handle(kind, &why))
}

/// Makes an object fit its schema: drops nulls and unknown fields, writes quantities in canonical form.
/// Values of another shape do not fit; the error says so in upstream's words.
pub fn fit(kind: &Kind, object: &mut Object) -> Result<(), String> {
    if !object.0.is_object() {
        return Err("the body is no JSON object".to_owned());
    }
    let Some(custom) = kind.custom else {
        return decode_type(&mut object.0, type_of(kind), Place::Top);
    };
    // What a custom resource's own fields hold is said by its schema, and checked with everything else.
    custom.prune(object);
    decode_metadata(&mut object.0)
}

/// Makes the metadata of a custom resource fit.
fn decode_metadata(object: &mut Value) -> Result<(), String> {
    let Some(metadata) = object.get_mut("metadata").filter(|metadata| !metadata.is_null()) else {
        return Ok(());
    };
    decode_type(metadata, super::metadata(), Place::Field(&Place::Top, "metadata"))
}

fn decode_type(value: &mut Value, fact: &TypeFact, place: Place<'_>) -> Result<(), String> {
    let Value::Object(fields) = value else {
        return Err(mismatch(value, fact, place, &go_struct(fact)));
    };
    fields.retain(|name, value| !value.is_null() && fact.field(name).is_some());
    for (name, value) in fields.iter_mut() {
        let field = fact.field(name).expect("fields without a fact were dropped");
        decode_shape(value, &field.shape, fact, Place::Field(&place, name))?;
    }
    Ok(())
}

fn decode_shape(
    value: &mut Value,
    shape: &Shape,
    owner: &TypeFact,
    place: Place<'_>,
) -> Result<(), String> {
    match (shape, &mut *value) {
        (Shape::Ref(_) | Shape::Own(_), _) => match shape.item_type() {
            // A value of another shape is the owner's field, so the owner is named.
            Some(fact) if !value.is_object() => {
                Err(mismatch(value, owner, place, &go_struct(fact)))
            }
            Some(fact) => decode_type(value, fact, place),
            None => Ok(()),
        },
        (Shape::List(item), Value::Array(values)) => {
            for (index, value) in values.iter_mut().enumerate() {
                null_item(value, item);
                decode_shape(value, item, owner, Place::Item(&place, index))?;
            }
            Ok(())
        }
        (Shape::Map(item), Value::Object(values)) => {
            for (key, value) in values.iter_mut() {
                null_item(value, item);
                decode_shape(value, item, owner, Place::Field(&place, key))?;
            }
            Ok(())
        }
        (Shape::Quantity, _) => quantity(value),
        (Shape::Bytes, Value::String(text)) => match STANDARD.decode(&*text) {
            Ok(_) => Ok(()),
            Err(DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _)) => {
                Err(format!("illegal base64 data at input byte {at}"))
            }
            Err(_) => Err(format!("illegal base64 data at input byte {}", text.len())),
        },
        (Shape::Time, Value::String(text)) => match text.parse::<jiff::Timestamp>() {
            Ok(_) => Ok(()),
            Err(_) => {
                Err(format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse"))
            }
        },
        (Shape::Any, _)
        | (Shape::String, Value::String(_))
        | (Shape::Bool, Value::Bool(_))
        | (Shape::Double, Value::Number(_)) => Ok(()),
        (Shape::IntOrString, Value::String(_)) => Ok(()),
        (Shape::Int32 | Shape::IntOrString, Value::Number(number))
            if number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()) =>
        {
            Ok(())
        }
        (Shape::Int64, Value::Number(number)) if number.is_i64() => Ok(()),
        _ => Err(mismatch(value, owner, place, &go_type(shape))),
    }
}

/// A null inside a list or map stands for the empty value of its type.
fn null_item(value: &mut Value, shape: &Shape) {
    if value.is_null() {
        *value = match shape {
            Shape::String | Shape::Bytes => "".into(),
            Shape::Int32 | Shape::Int64 | Shape::IntOrString | Shape::Double => 0.into(),
            Shape::Bool => false.into(),
            Shape::Quantity => "0".into(),
            Shape::Ref(_) | Shape::Own(_) | Shape::Map(_) => Value::Object(serde_json::Map::new()),
            Shape::List(_) => Value::Array(Vec::new()),
            Shape::Time | Shape::Any => return,
        };
    }
}

fn quantity(value: &mut Value) -> Result<(), String> {
    let text = match &*value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return Err(QuantityError::Form.to_string()),
    };
    let quantity: Quantity = text.parse().map_err(|error: QuantityError| error.to_string())?;
    *value = quantity.to_string().into();
    Ok(())
}

/// In the words of Go's encoding/json, which clients know.
fn mismatch(value: &Value, owner: &TypeFact, place: Place<'_>, wanted: &str) -> String {
    let path = place.to_string();
    let found = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) if wanted.starts_with("int") => format!("number {number}"),
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    };
    // Go leaves the places in lists out.
    let mut plain = String::with_capacity(path.len());
    let mut in_index = false;
    for c in path.chars() {
        match c {
            '[' => in_index = true,
            ']' => in_index = false,
            _ if !in_index => plain.push(c),
            _ => {}
        }
    }
    let owner = owner.name.rsplit('.').next().unwrap_or_default();
    format!("json: cannot unmarshal {found} into Go struct field {owner}.{plain} of type {wanted}")
}

fn go_struct(fact: &TypeFact) -> String {
    let mut parts = fact.name.rsplit('.');
    let name = parts.next().unwrap_or_default();
    format!("{}.{name}", parts.next().unwrap_or_default())
}

fn go_type(shape: &Shape) -> String {
    match shape {
        Shape::String => "string".to_owned(),
        Shape::Bytes => "[]uint8".to_owned(),
        Shape::Time => "v1.Time".to_owned(),
        Shape::Int32 => "int32".to_owned(),
        Shape::Int64 => "int64".to_owned(),
        Shape::Bool => "bool".to_owned(),
        Shape::Double => "float64".to_owned(),
        Shape::Quantity => "resource.Quantity".to_owned(),
        Shape::IntOrString => "intstr.IntOrString".to_owned(),
        Shape::Any => "interface {}".to_owned(),
        Shape::Ref(_) | Shape::Own(_) => shape.item_type().map(go_struct).unwrap_or_default(),
        Shape::List(item) => format!("[]{}", go_type(item)),
        Shape::Map(item) => format!("map[string]{}", go_type(item)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::{DEPLOYMENT, POD, SECRET};

    #[test]
    fn nulls_and_unknown_fields_go_and_quantities_are_canonical() {
        let mut pod = Object(json!({
            "metadata": {"name": "a", "creationTimestamp": null, "labels": {"a": null}},
            "spec": {"foo": 1, "nodeName": null, "volumes": [{"name": "v", "emptyDir": null}],
                "containers": [{"name": "a", "resources": {"limits":
                    {"cpu": 0.5, "memory": "1024Mi", "example.com/x": 2}}}]},
        }));
        decode(&POD, &mut pod).unwrap();
        assert_eq!(
            pod.0,
            json!({
                "metadata": {"name": "a", "labels": {"a": ""}},
                "spec": {"volumes": [{"name": "v"}],
                    "containers": [{"name": "a", "resources": {"limits":
                        {"cpu": "500m", "memory": "1Gi", "example.com/x": "2"}}}]},
            })
        );
    }

    #[test]
    fn wrong_shapes_are_refused_in_gos_words() {
        let spec = |spec: Value| json!({"spec": spec});
        for (kind, value, end) in [
            (
                &DEPLOYMENT,
                spec(json!({"replicas": "3"})),
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of \
                 type int32",
            ),
            (
                &DEPLOYMENT,
                spec(json!({"replicas": 1.5})),
                "cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of \
                 type int32",
            ),
            (&DEPLOYMENT, spec(json!({"replicas": 3_000_000_000_i64})), "of type int32"),
            (
                &POD,
                spec(json!({"containers": {"name": "a"}})),
                "cannot unmarshal object into Go struct field PodSpec.spec.containers of type \
                 []v1.Container",
            ),
            (
                &POD,
                spec(json!({"containers": [{"env": [{"name": "A", "value": 1}]}]})),
                "cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of \
                 type string",
            ),
            (
                &POD,
                spec(json!([])),
                "cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec",
            ),
            (
                &POD,
                spec(json!({"overhead": {"cpu": "a lot"}})),
                "quantities must match the regular expression \
                 '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
            (&POD, json!({"metadata": {"creationTimestamp": "today"}}), "cannot parse"),
            (&SECRET, json!({"data": {"a": "%%%"}}), "illegal base64 data at input byte 0"),
        ] {
            let error = decode(kind, &mut Object(value.clone())).unwrap_err();
            assert_eq!(error.code, 400);
            assert!(error.message.ends_with(end), "{value}: {}", error.message);
        }
    }
}
