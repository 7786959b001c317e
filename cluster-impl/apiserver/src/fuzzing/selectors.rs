//! Selectors, in every form in which they come.

use machinery::{FieldSelector, LabelSelector, Object, versions};
use serde_json::json;

use super::arbitrary::Source;
use crate::query::Query;
use crate::selection::Selection;

const PARTS: &[&str] = &[
    "app",
    "tier",
    "a.b/c",
    "=",
    "==",
    "!=",
    "!",
    ",",
    " in ",
    " notin ",
    "(",
    ")",
    ">",
    "<",
    "1",
    "web",
    " ",
    "\\",
    "metadata.name",
    "spec.nodeName",
    "status.phase",
    "metadata.namespace",
    "\t",
    "=web",
    "in",
    "notin",
];

pub(super) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let text = match source.once_in(2) {
        true => String::from_utf8_lossy(source.rest()).into_owned(),
        false => {
            let mut text = String::new();
            while !source.is_empty() && text.len() < 300 {
                text.push_str(source.pick(PARTS));
            }
            text
        }
    };
    let object =
        json!({"metadata": {"name": "a", "namespace": "b", "labels": {"app": "web", "tier": "1"}}});
    let object = Object(object);
    if let Ok(selector) = LabelSelector::parse(&text) {
        let printed = selector.to_string();
        let again = LabelSelector::parse(&printed).expect("what is printed can be read");
        assert_eq!(again.to_string(), printed, "{text:?}");
        assert_eq!(again, selector, "{text:?} is printed as {printed:?}");
        assert_eq!(again.matches_object(&object), selector.matches_object(&object));
    }
    if let Ok(selector) = FieldSelector::parse(&text) {
        let kinds: Vec<_> = versions::served().collect();
        for kind in kinds {
            if selector.check(kind).is_ok() {
                let _ = selector.matches(kind, &object);
            }
        }
    }
    let mut query = String::from("labelSelector=");
    query.push_str(&text);
    query.push_str("&fieldSelector=");
    query.push_str(&text);
    let key = machinery::ObjectKey::new("default", "");
    if let Ok(selection) = Selection::read(&machinery::kinds::POD, &key, &Query::parse(&query)) {
        let _ = (selection.range(), selection.is_everything(), selection.matches(&object));
    }
}
