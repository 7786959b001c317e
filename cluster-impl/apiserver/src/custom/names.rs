//! Which names a definition gets: those that no other one of its group has.

use machinery::Object;
use machinery::conditions::{self, Condition};
use serde_json::{Value, json};

/// The names that were accepted in a group, of all definitions but one.
struct Taken<'o> {
    resources: Vec<&'o str>,
    kinds: Vec<&'o str>,
}

fn taken<'o>(definition: &Object, others: impl Iterator<Item = &'o Object>) -> Taken<'o> {
    let mut taken = Taken { resources: Vec::new(), kinds: Vec::new() };
    let text = |value: &'o Value| value.as_str().filter(|text| !text.is_empty());
    for other in others {
        let is_other = other.name() != definition.name();
        if !is_other || other.text("/spec/group") != definition.text("/spec/group") {
            continue;
        }
        let Some(names) = other.get("/status/acceptedNames") else { continue };
        for name in ["plural", "singular"] {
            taken.resources.extend(text(&names[name]));
        }
        let short = names["shortNames"].as_array().into_iter().flatten();
        taken.resources.extend(short.filter_map(text));
        for name in ["kind", "listKind"] {
            taken.kinds.extend(text(&names[name]));
        }
    }
    taken
}

/// The names that are free, beside those that were accepted before; and why not all are.
fn accept(definition: &Object, taken: &Taken<'_>) -> (Value, Option<(&'static str, String)>) {
    let wanted = definition.get("/spec/names").cloned().unwrap_or_default();
    let mut accepted =
        definition.get("/status/acceptedNames").cloned().unwrap_or_else(|| json!({}));
    let mut conflict: Option<(&'static str, String)> = None;
    for (name, reason, is_kind) in [
        ("plural", "PluralConflict", false),
        ("singular", "SingularConflict", false),
        ("shortNames", "ShortNamesConflict", false),
        ("kind", "KindConflict", true),
        ("listKind", "ListKindConflict", true),
    ] {
        let pool = if is_kind { &taken.kinds } else { &taken.resources };
        let texts: Vec<&str> = match &wanted[name] {
            Value::String(text) => vec![text],
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let clash: Vec<String> = texts
            .into_iter()
            .filter(|text| pool.contains(text))
            .map(|text| format!("{text:?} is already in use"))
            .collect();
        if clash.is_empty() {
            match wanted.get(name) {
                Some(value) => accepted[name] = value.clone(),
                None => {
                    if let Value::Object(map) = &mut accepted {
                        map.remove(name);
                    }
                }
            }
        } else {
            // As upstream: the last one is told.
            let told =
                if clash.len() == 1 { clash[0].clone() } else { format!("[{}]", clash.join(", ")) };
            conflict = Some((reason, told));
        }
    }
    match wanted.get("categories") {
        Some(categories) => accepted["categories"] = categories.clone(),
        None => {
            if let Value::Object(map) = &mut accepted {
                map.remove("categories");
            }
        }
    }
    (accepted, conflict)
}

/// Accepts the names that are free, and says in the conditions what came of it. Answers whether anything
/// changed.
pub(super) fn decide<'o>(
    definition: &mut Object,
    others: impl Iterator<Item = &'o Object>,
    now: env::Timestamp,
) -> bool {
    let before = definition.get("/status/acceptedNames").cloned().unwrap_or_else(|| json!({}));
    let (accepted, conflict) = accept(definition, &taken(definition, others));
    let mut is_changed = accepted != before;
    definition.set("/status/acceptedNames", accepted);
    let condition =
        |name: &'static str, status, reason, message| Condition { name, status, reason, message };
    match &conflict {
        None => {
            let told = condition("NamesAccepted", "True", "NoConflicts", "no conflicts found");
            is_changed |= conditions::set(definition, told, now);
        }
        Some((reason, message)) => {
            let told = condition("NamesAccepted", "False", reason, message);
            is_changed |= conditions::set(definition, told, now);
        }
    }
    // What was established once stays so.
    if definition.condition_status("Established") != "True" {
        let told = match conflict {
            None => condition(
                "Established",
                "True",
                "InitialNamesAccepted",
                "the initial names have been accepted",
            ),
            Some(_) => {
                condition("Established", "False", "NotAccepted", "not all names are accepted")
            }
        };
        is_changed |= conditions::set(definition, told, now);
    }
    is_changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str, short: &[&str]) -> Object {
        Object(json!({"metadata": {"name": format!("{plural}.acme.io")},
            "spec": {"group": "acme.io", "names": {"plural": plural, "singular": plural, "kind": kind,
                "listKind": format!("{kind}List"), "shortNames": short}}}))
    }

    #[test]
    fn the_first_gets_the_names() {
        let now = env::Timestamp::UNIX_EPOCH;
        let mut first = definition("widgets", "Widget", &["w"]);
        assert!(decide(&mut first, [].into_iter(), now));
        assert_eq!(first.condition_status("Established"), "True");
        assert!(!decide(&mut first.clone(), [&first].into_iter(), now), "twice changes nothing");
        let mut second = definition("wheels", "Wheel", &["w"]);
        assert!(decide(&mut second, [&first].into_iter(), now));
        assert_eq!(second.condition_status("Established"), "False");
        let told = second.condition("NamesAccepted").unwrap();
        assert_eq!(
            (&told["reason"], &told["message"]),
            (&json!("ShortNamesConflict"), &json!("\"w\" is already in use"))
        );
        assert_eq!(second.get("/status/acceptedNames/shortNames"), None);
        assert_eq!(second.text("/status/acceptedNames/plural"), "wheels");
        let mut elsewhere = definition("wheels", "Wheel", &["w"]);
        elsewhere.set("/spec/group", "other.io");
        decide(&mut elsewhere, [&first].into_iter(), now);
        assert_eq!(elsewhere.condition_status("Established"), "True");
    }
}
