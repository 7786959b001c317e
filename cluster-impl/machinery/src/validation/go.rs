//! Values written as upstream's messages write them, which is Go's `%v`, `%q` or `%#v`.

use serde_json::{Map, Value};

/// A value in an error message: text quoted, numbers plain, maps of text as `map[string]string{..}`.
pub fn value(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(text) => format!("{text:?}"),
        Value::Object(map) if map.values().all(Value::is_string) => labels(map),
        other => other.to_string(),
    }
}

/// `map[string]string{"app":"web"}`.
pub fn labels(map: &Map<String, Value>) -> String {
    let mut entries: Vec<_> =
        map.iter().map(|(key, value)| format!("{key:?}:{}", self::value(value))).collect();
    entries.sort();
    format!("map[string]string{{{}}}", entries.join(", "))
}

/// `intstr.IntOrString{Type:0, IntVal:3, StrVal:""}`.
pub fn int_or_string(value: &Value) -> String {
    match value {
        Value::String(text) => {
            format!("intstr.IntOrString{{Type:1, IntVal:0, StrVal:{text:?}}}")
        }
        other => {
            let number = other.as_i64().unwrap_or_default();
            format!("intstr.IntOrString{{Type:0, IntVal:{number}, StrVal:\"\"}}")
        }
    }
}

/// `[]core.Type{"a", "b"}`, a list of texts of a type of their own.
pub fn texts(type_name: &str, list: &Value) -> String {
    match list.as_array() {
        Some(list) => {
            let list: Vec<_> = list.iter().map(value).collect();
            format!("[]{type_name}{{{}}}", list.join(", "))
        }
        None => format!("[]{type_name}(nil)"),
    }
}

/// `v1.LabelSelector{MatchLabels:.., MatchExpressions:..}`.
pub fn label_selector(selector: &Value) -> String {
    let match_labels = match selector["matchLabels"].as_object() {
        Some(map) => labels(map),
        None => "map[string]string(nil)".to_owned(),
    };
    let one = |expression: &Value| {
        let values = match expression["values"].as_array() {
            Some(values) => {
                let values: Vec<_> = values.iter().map(self::value).collect();
                format!("[]string{{{}}}", values.join(", "))
            }
            None => "[]string(nil)".to_owned(),
        };
        format!(
            "v1.LabelSelectorRequirement{{Key:{}, Operator:{}, Values:{values}}}",
            value(&expression["key"]),
            value(&expression["operator"]),
        )
    };
    let expressions = match selector["matchExpressions"].as_array() {
        Some(list) => {
            let list: Vec<_> = list.iter().map(one).collect();
            format!("[]v1.LabelSelectorRequirement{{{}}}", list.join(", "))
        }
        None => "[]v1.LabelSelectorRequirement(nil)".to_owned(),
    };
    format!("v1.LabelSelector{{MatchLabels:{match_labels}, MatchExpressions:{expressions}}}")
}

/// A value as Go prints it with `%+v`.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let entries: Vec<_> =
                map.iter().map(|(key, value)| format!("{key}:{}", plain(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
        scalar => scalar.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn writes_as_go() {
        assert_eq!(value(&json!("a\"b")), r#""a\"b""#);
        assert_eq!(value(&json!({"b": "2", "a": "1"})), r#"map[string]string{"a":"1", "b":"2"}"#);
        assert_eq!(int_or_string(&json!(3)), r#"intstr.IntOrString{Type:0, IntVal:3, StrVal:""}"#);
        assert_eq!(texts("core.Scope", &json!(["A", "B"])), r#"[]core.Scope{"A", "B"}"#);
        assert_eq!(texts("int32", &Value::Null), "[]int32(nil)");
        assert_eq!(
            label_selector(&json!({"matchLabels": {"app": "web"}})),
            "v1.LabelSelector{MatchLabels:map[string]string{\"app\":\"web\"}, \
             MatchExpressions:[]v1.LabelSelectorRequirement(nil)}"
        );
    }
}
