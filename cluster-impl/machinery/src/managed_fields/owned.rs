//! Small changes to `fieldsV1` as it lies in an object, without reading all of it.
//!
//! A write changes few fields of an object that many own: only the paths that changed are looked at.

use serde_json::{Map, Value};

use super::set::FieldSet;

/// Takes the paths of a set out of `fieldsV1`; tells whether any was there.
pub(super) fn subtract(fields: &mut Value, set: &FieldSet) -> bool {
    let Value::Object(map) = fields else { return false };
    let mut is_changed = false;
    for (element, is_member, inside) in set.nodes() {
        let key = element.write();
        let Some(at) = map.get_mut(&key) else { continue };
        // What has nothing below it is a member, and otherwise says so with a dot.
        let was_leaf = is_leaf(at);
        if is_member {
            is_changed |= was_leaf || at.as_object_mut().is_some_and(|at| at.remove(".").is_some());
        }
        if !was_leaf {
            let was_member = at.get(".").is_some();
            is_changed |= subtract(at, inside);
            if !was_member && is_leaf(at) {
                map.remove(&key);
            } else if was_member && at.as_object().is_some_and(|at| at.len() == 1) {
                *at = Value::Object(Map::new());
            }
        } else if is_member {
            map.remove(&key);
        }
    }
    is_changed
}

/// Adds the paths of a set to `fieldsV1`; tells whether any was not there.
pub(super) fn add(fields: &mut Value, set: &FieldSet) -> bool {
    let Value::Object(map) = fields else { return false };
    let mut is_changed = false;
    for (element, is_member, inside) in set.nodes() {
        let key = element.write();
        match map.get_mut(&key) {
            None => {
                map.insert(key, inside.to_fields(is_member));
                is_changed = true;
            }
            Some(at) => {
                let was_member = is_leaf(at) || at.get(".").is_some();
                is_changed |= add(at, inside) | (is_member && !was_member);
                if let Value::Object(at) = at
                    && (is_member || was_member)
                    && !at.is_empty()
                {
                    at.insert(".".to_owned(), Value::Object(Map::new()));
                }
            }
        }
    }
    is_changed
}

fn is_leaf(at: &Value) -> bool {
    at.as_object().is_none_or(Map::is_empty)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_json_changes_as_the_sets_do() {
        let samples = [
            json!({}),
            json!({"f:a": {}}),
            json!({"f:a": {"f:b": {}}}),
            json!({"f:a": {".": {}, "f:b": {}}}),
            json!({"f:a": {".": {}, "f:b": {".": {}, "f:c": {}}, "f:d": {}}, "f:e": {}}),
            json!({"f:a": {"f:b": {"f:c": {}}, "f:d": {}}}),
            json!({"f:a": {"f:d": {}}, "f:e": {}}),
            json!({"f:l": {"k:{\"name\":\"x\"}": {".": {}, "f:name": {}}}}),
            json!({"f:l": {"k:{\"name\":\"x\"}": {}}, "f:a": {"f:b": {"f:c": {}}}}),
        ];
        for one in &samples {
            for two in &samples {
                let (set, other) =
                    (FieldSet::from_value(one).unwrap(), FieldSet::from_value(two).unwrap());
                let mut changed = one.clone();
                let is_changed = subtract(&mut changed, &other);
                assert_eq!(changed, set.difference(&other).to_value(), "{one} - {two}");
                assert_eq!(is_changed, set.difference(&other) != set, "{one} - {two}");
                let mut changed = one.clone();
                let is_changed = add(&mut changed, &other);
                assert_eq!(changed, set.union(&other).to_value(), "{one} + {two}");
                assert_eq!(is_changed, set.union(&other) != set, "{one} + {two}");
            }
        }
    }
}
