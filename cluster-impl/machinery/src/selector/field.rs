//! Field selectors: `status.phase!=Running,spec.nodeName=worker-1`.

use super::SelectorError;
use crate::{Kind, Object};

/// Conditions on fields that must all hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    field: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// Reads the form of a query; "" selects everything. `\` escapes `,`, `=` and itself in a value.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let terms = split(text).into_iter().filter(|term| !term.is_empty());
        let terms = terms.map(|term| {
            let at = term.find('=').ok_or_else(|| {
                SelectorError::Invalid(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                ))
            })?;
            let (field, value) = (&term[..at], &term[at + 1..]);
            let (field, equal) =
                field.strip_suffix('!').map_or((field, true), |field| (field, false));
            let value = value.strip_prefix('=').filter(|_| equal).unwrap_or(value);
            Ok(Term { field: field.to_owned(), equal, value: unescape(value) })
        });
        Ok(Self { terms: terms.collect::<Result<_, _>>()? })
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Refuses fields by which lists of this kind cannot be narrowed.
    pub fn check(&self, kind: &Kind) -> Result<(), SelectorError> {
        match self.terms.iter().find(|term| pointer(kind, &term.field).is_none()) {
            None => Ok(()),
            Some(term) => {
                Err(SelectorError::Invalid(format!("field label not supported: {}", term.field)))
            }
        }
    }

    /// Whether an object is selected. A field that is absent counts as empty.
    pub fn matches(&self, kind: &Kind, object: &Object) -> bool {
        self.terms.iter().all(|term| {
            pointer(kind, &term.field)
                .is_some_and(|pointer| (text(kind, object, pointer) == term.value) == term.equal)
        })
    }

    /// The value that a field must have, if the selector says so.
    pub fn required(&self, field: &str) -> Option<&str> {
        let term = self.terms.iter().find(|term| term.equal && term.field == field)?;
        Some(&term.value)
    }
}

fn pointer<'k>(kind: &'k Kind, field: &str) -> Option<&'k str> {
    match field {
        "metadata.name" => Some("/metadata/name"),
        "metadata.namespace" => Some("/metadata/namespace"),
        _ => kind.selectable.iter().find(|(name, _)| *name == field).map(|(_, pointer)| *pointer),
    }
}

fn text(kind: &Kind, object: &Object, pointer: &str) -> String {
    match object.get(pointer) {
        None if kind.custom.is_some() => String::new(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(serde_json::Value::Null) => String::new(),
        // Absent flags count as false: upstream's structs have no third state for them.
        None if pointer.ends_with("/unschedulable") || pointer.ends_with("/hostNetwork") => {
            "false".to_owned()
        }
        None if pointer.ends_with("/replicas") => "0".to_owned(),
        None => String::new(),
        Some(other) => other.to_string(),
    }
}

fn split(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn unescape(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut escaped = false;
    for c in value.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            plain.push(c);
            escaped = false;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::{NODE, POD};

    #[test]
    fn selects_by_field() {
        let pod = Object(json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"nodeName": "worker-1"}, "status": {"phase": "Running"},
        }));
        for (selector, expected) in [
            ("", true),
            ("metadata.name=web", true),
            ("metadata.name==web", true),
            ("metadata.name!=web", false),
            ("status.phase!=Pending,status.phase!=Failed", true),
            ("spec.nodeName=worker-1,status.phase=Running", true),
            ("spec.nodeName=", false),
            ("metadata.name=we\\,b", false),
        ] {
            let selector_read = FieldSelector::parse(selector).unwrap();
            assert!(selector_read.check(&POD).is_ok(), "{selector}");
            assert_eq!(selector_read.matches(&POD, &pod), expected, "{selector}");
        }
        let waiting = FieldSelector::parse("spec.nodeName=").unwrap();
        assert!(waiting.matches(&POD, &Object(json!({"spec": {}}))));
        assert_eq!(waiting.required("spec.nodeName"), Some(""));
    }

    #[test]
    fn absent_flags_count_as_false() {
        let selector = FieldSelector::parse("spec.unschedulable=false").unwrap();
        assert!(selector.matches(&NODE, &Object(json!({}))));
        assert!(!selector.matches(&NODE, &Object(json!({"spec": {"unschedulable": true}}))));
    }

    #[test]
    fn unknown_fields_and_wrong_forms_are_refused() {
        let selector = FieldSelector::parse("spec.foo=bar").unwrap();
        assert_eq!(
            selector.check(&POD).unwrap_err().to_string(),
            "field label not supported: spec.foo"
        );
        assert!(FieldSelector::parse("metadata.name").is_err());
    }
}
