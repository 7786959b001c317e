//! The steps of a scenario file, read: one key says what a step does, the others belong to it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::condition::{Compiled, Condition};
use crate::kinds::{KINDS, Kind};
use crate::partial::Partial;
use crate::plan::{ObjectRef, Word};
use crate::read::{Cursor, Placed, did_you_mean};
use crate::roles::Who;
use crate::scenario::{expression, read_who};

/// A step as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct StepEntry {
    /// `as:`
    pub name: Option<Placed<String>>,
    /// What it does.
    pub action: ActionEntry,
}

/// What a step does, as it was written.
#[derive(Debug, Clone, PartialEq)]
pub enum ActionEntry {
    /// `apply:` of a file.
    ApplyFile(Placed<String>),
    /// `apply:` of manifests.
    Apply(Vec<Value>),
    /// `delete:`
    Delete(ObjectRef),
    /// `patch:`
    Patch(ObjectRef, Value),
    /// `scale:`
    Scale(ObjectRef, u32),
    /// `wait:`, and `until:` a condition.
    Wait(Placed<String>, Option<Placed<Condition>>),
    /// `heal:`
    Heal(Placed<String>),
    /// `fault:`
    Fault(FaultEntry),
    /// `eventually:`, `always:`, `never:`, `settles:`
    Check(CheckEntry),
}

/// A fault step as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultEntry {
    /// The kind of fault.
    pub fault: Placed<String>,
    /// `on:`
    pub on: Vec<Who>,
    /// `between:`, or `from:` and `to:`
    pub sides: Vec<Vec<Who>>,
    /// The fault's own fields.
    pub fields: BTreeMap<String, Value>,
    /// `for:`
    pub lasts: Option<Placed<String>>,
    /// `until:` a moment.
    pub until_moment: Option<Placed<String>>,
    /// `until:` a condition.
    pub until: Option<Condition>,
}

/// An expectation as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckEntry {
    /// When.
    pub word: Word,
    /// What.
    pub condition: Placed<Condition>,
    /// `within:`
    pub within: Option<(Placed<String>, Placed<String>)>,
    /// `for:`
    pub hold: Option<Placed<String>>,
    /// `after:`
    pub after: Option<Placed<String>>,
}

/// The keys that say what a step does.
pub const ACTIONS: &[&str] = &[
    "always",
    "apply",
    "delete",
    "eventually",
    "fault",
    "heal",
    "never",
    "patch",
    "scale",
    "settles",
    "wait",
];

/// Reads one step.
pub(crate) fn read_step(cursor: &Cursor<'_>) -> Option<StepEntry> {
    let fields = cursor.fields();
    let found: Vec<&str> =
        fields.iter().map(|(name, _)| *name).filter(|name| ACTIONS.contains(name)).collect();
    let action = match found.as_slice() {
        [action] => *action,
        [] => {
            let nearest = fields
                .iter()
                .find(|(name, _)| !["as", "within", "after", "for", "until"].contains(name));
            match nearest {
                Some((name, field)) => {
                    field.wrong(format!("`{name}` is no step"), did_you_mean(name, ACTIONS));
                }
                None => cursor.wrong("the step does nothing", did_you_mean("", ACTIONS)),
            }
            return None;
        }
        [first, second, ..] => {
            cursor.wrong(
                format!("one step cannot be both `{first}` and `{second}`"),
                "make two steps",
            );
            return None;
        }
    };
    let target = cursor.get(action)?;
    let known: &[&str] = match action {
        "always" | "eventually" | "never" | "settles" => &["within", "after", "for"],
        "wait" => &["until"],
        _ => &[],
    };
    if action != "fault" {
        cursor.only(&[known, &[action, "as"]].concat());
    }
    let action = match action {
        "apply" => read_apply(&target)?,
        "delete" => read_delete(&target)?,
        "patch" => read_patch(&target)?,
        "scale" => read_scale(&target)?,
        "wait" => read_wait(cursor, &target)?,
        "heal" => ActionEntry::Heal(target.placed_text()?),
        "fault" => read_fault(cursor, &target)?,
        word => read_check(cursor, word, &target)?,
    };
    Some(StepEntry { name: cursor.get("as").and_then(|name| read_moment(&name)), action })
}

/// A time that is waited for; a condition ends it earlier.
fn read_wait(cursor: &Cursor<'_>, target: &Cursor<'_>) -> Option<ActionEntry> {
    let until = match cursor.get("until") {
        Some(until) if !until.value.is_object() => {
            until.wrong(
                "a wait goes on until something is true",
                "write an object, such as `{pod: web-0, status: {phase: Running}}`, or `{cel: ..}`",
            );
            return None;
        }
        Some(until) => Some(Placed { value: read_condition(&until)?, at: until.at.clone() }),
        None => None,
    };
    Some(ActionEntry::Wait(expression(target)?, until))
}

/// The name of a moment.
fn read_moment(cursor: &Cursor<'_>) -> Option<Placed<String>> {
    let name = cursor.placed_text()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if !name.value.chars().all(plain) || name.value.len() > 40 {
        cursor.wrong(
            format!("`{}` cannot name a moment", name.value),
            "use letters, digits, `-` and `_`, at most 40",
        );
        return None;
    }
    Some(name)
}

fn read_apply(target: &Cursor<'_>) -> Option<ActionEntry> {
    if let Some(file) = target.get("file") {
        target.only(&["file"]);
        return Some(ActionEntry::ApplyFile(file.placed_text()?));
    }
    let manifest = target.get("manifest");
    if manifest.is_some() {
        target.only(&["manifest"]);
    }
    let target = manifest.as_ref().unwrap_or(target);
    Some(ActionEntry::Apply(match target.value {
        Value::Array(items) => items.clone(),
        Value::Object(_) => vec![target.value.clone()],
        other => {
            let message = format!("a manifest is expected, not {}", crate::read::describe(other));
            target.wrong(message, "write the object, a list of them, or `{file: ..}`");
            return None;
        }
    }))
}

/// The fields that name an object, and the object: `pod: web-0`, `lease: kube-system/kube-scheduler`,
/// or `lease: kube-scheduler` with `namespace: kube-system`.
struct Named {
    kind: &'static Kind,
    object: ObjectRef,
    fields: Vec<&'static str>,
}

fn read_object(target: &Cursor<'_>) -> Option<Named> {
    let fields = target.fields();
    let mut kinds: Vec<&'static Kind> =
        fields.iter().filter_map(|(name, _)| Kind::of_word(name)).collect();
    // Beside an object that lives in one, `namespace` says where.
    let is_place = kinds.len() == 2 && kinds.iter().any(|kind| kind.is_namespaced);
    if is_place {
        kinds.retain(|kind| kind.word != "namespace");
    }
    let [kind] = kinds.as_slice() else {
        let words: Vec<&str> = KINDS.iter().map(|kind| kind.word).collect();
        match (kinds.len(), fields.first()) {
            (0, Some((name, field))) => {
                field
                    .wrong(format!("`{name}` names no kind of object"), did_you_mean(name, &words));
            }
            (0, None) => target.wrong("no object is named", "write for example `pod: web-0`"),
            _ => target.wrong("two objects are named", "make two steps"),
        }
        return None;
    };
    let field = target.get(kind.word)?;
    let text = field.text()?;
    let (mut namespace, name) = match text.split_once('/') {
        Some((namespace, name)) if kind.is_namespaced => (Some(namespace.to_string()), name),
        Some(_) => {
            field.wrong(format!("a {} has no namespace", kind.word), "write its name only");
            return None;
        }
        None => (None, text.as_str()),
    };
    let mut named = vec![kind.word];
    if let Some(place) = target.get("namespace").filter(|_| is_place) {
        if namespace.is_some() {
            place.wrong("the namespace is named twice", "drop one");
        }
        namespace = Some(place.text()?);
        named.push("namespace");
    }
    let name = name.to_string();
    let object = ObjectRef { kind: kind.id.into(), namespace, name, grace_seconds: None };
    Some(Named { kind, object, fields: named })
}

fn read_delete(target: &Cursor<'_>) -> Option<ActionEntry> {
    let Named { mut object, fields, .. } = read_object(target)?;
    target.only(&[&fields[..], &["graceSeconds"]].concat());
    if let Some(grace) = target.get("graceSeconds") {
        object.grace_seconds = Some(grace.number()?);
    }
    Some(ActionEntry::Delete(object))
}

fn rest(target: &Cursor<'_>, without: &[&str]) -> Map<String, Value> {
    let fields = target.value.as_object().cloned().unwrap_or_default();
    fields.into_iter().filter(|(name, _)| !without.contains(&name.as_str())).collect()
}

fn read_patch(target: &Cursor<'_>) -> Option<ActionEntry> {
    let Named { object, fields: named, .. } = read_object(target)?;
    let fields = rest(target, &named);
    if fields.is_empty() {
        target.wrong("the patch changes nothing", "add fields, such as `spec: {..}`");
        return None;
    }
    Some(ActionEntry::Patch(object, Value::Object(fields)))
}

fn read_scale(target: &Cursor<'_>) -> Option<ActionEntry> {
    let Named { kind: Kind { word, .. }, object, fields } = read_object(target)?;
    target.only(&[&fields[..], &["replicas"]].concat());
    if !["deployment", "replicaset"].contains(word) {
        target.wrong(format!("a {word} has no replicas"), "scale a deployment or a replicaset");
        return None;
    }
    let replicas = target.need("replicas")?.number()?;
    Some(ActionEntry::Scale(object, u32::try_from(replicas).ok()?))
}

fn read_fault(cursor: &Cursor<'_>, target: &Cursor<'_>) -> Option<ActionEntry> {
    const OURS: &[&str] = &["fault", "as", "on", "between", "from", "to", "for", "until"];
    let mut fields: BTreeMap<String, Value> = rest(cursor, OURS).into_iter().collect();
    let on = cursor.get("on").map(|on| read_who(&on)).unwrap_or(Some(Vec::new()))?;
    let sides = match (cursor.get("between"), cursor.get("from"), cursor.get("to")) {
        (None, None, None) => Vec::new(),
        (Some(between), None, None) => {
            let sides = between.items();
            if sides.len() != 2 {
                between.wrong(format!("{} sides are named", sides.len()), "write two: [a, b]");
                return None;
            }
            sides.iter().map(read_who).collect::<Option<_>>()?
        }
        (None, Some(from), Some(to)) => {
            fields.insert("direction".into(), "to".into());
            vec![read_who(&from)?, read_who(&to)?]
        }
        _ => {
            cursor.wrong(
                "the sides are not clear",
                "write `between: [a, b]`, or `from: a` and `to: b`",
            );
            return None;
        }
    };
    let (mut until, mut until_moment) = (None, None);
    match cursor.get("until") {
        Some(moment) if moment.value.is_string() => until_moment = read_moment(&moment),
        Some(condition) => until = Some(read_condition(&condition)?),
        None => {}
    }
    if let (Some(_), Some(until)) = (cursor.get("for"), cursor.get("until")) {
        until.wrong("a fault ends by `for:` or by `until:`, not by both", "");
    }
    Some(ActionEntry::Fault(FaultEntry {
        fault: target.placed_text()?,
        on,
        sides,
        fields,
        lasts: cursor.get("for").and_then(|time| expression(&time)),
        until_moment,
        until,
    }))
}

fn read_check(cursor: &Cursor<'_>, word: &str, target: &Cursor<'_>) -> Option<ActionEntry> {
    let word = *Word::ALL.iter().find(|known| known.name() == word)?;
    let within = match cursor.get("within") {
        Some(within) => {
            let bounds = within.value.as_array().map(Vec::len);
            if bounds != Some(2) {
                within.wrong("a window has two bounds", "write for example `within: [0s, 20s]`");
                return None;
            }
            let bounds = within.items();
            Some((expression(&bounds[0])?, expression(&bounds[1])?))
        }
        None => None,
    };
    Some(ActionEntry::Check(CheckEntry {
        word,
        condition: Placed { value: read_condition(target)?, at: target.at.clone() },
        within,
        hold: cursor.get("for").and_then(|time| expression(&time)),
        after: cursor.get("after").and_then(|name| name.placed_text()),
    }))
}

/// A partial object, a CEL expression, or both.
pub(crate) fn read_condition(target: &Cursor<'_>) -> Option<Condition> {
    let cel = match target.get("cel") {
        Some(cel) => Some((cel.text()?, cel)),
        None => None,
    };
    let alone = target.fields().len() == 1 && cel.is_some();
    let object = if alone { None } else { Some(read_partial(target)?) };
    let condition = Condition { object, cel: cel.as_ref().map(|(source, _)| source.clone()) };
    if let (Err(error), Some((_, cursor))) = (Compiled::new(&condition), cel) {
        cursor.wrong(error.message, error.hint);
        return None;
    }
    Some(condition)
}

fn read_partial(target: &Cursor<'_>) -> Option<Partial> {
    let Named { kind, object, fields: named } = read_object(target)?;
    let word = kind.word;
    if !kind.is_watched {
        target.wrong(format!("nobody watches a {word}"), "conditions speak of watched kinds only");
        return None;
    }
    let exists = match target.get("exists") {
        Some(exists) => match exists.value {
            Value::Bool(exists) => *exists,
            _ => {
                exists.wrong("`exists` is true or false", "");
                return None;
            }
        },
        None => true,
    };
    let fields = rest(target, &[&named[..], &["exists", "cel"]].concat());
    const PARTS: &[&str] = &["metadata", "spec", "status", "data", "subsets", "type"];
    for name in fields.keys().filter(|name| !PARTS.contains(&name.as_str())) {
        let field = target.get(name)?;
        field.wrong(format!("a {word} has no `{name}`"), did_you_mean(name, PARTS));
    }
    if !exists && !fields.is_empty() {
        target.wrong("what does not exist has no fields", "drop the fields, or `exists: false`");
    }
    unquoted(target);
    Some(Partial {
        kind: object.kind,
        namespace: object.namespace,
        name: object.name,
        exists,
        fields: Value::Object(fields),
    })
}

/// Finds what YAML reads as a truth value but Kubernetes has as a text: `status: True` of a condition.
fn unquoted(target: &Cursor<'_>) {
    let conditions = target.get("status").and_then(|status| status.get("conditions"));
    for condition in conditions.iter().flat_map(Cursor::items) {
        if let Some(status) = condition.get("status")
            && let Value::Bool(value) = status.value
        {
            let word = if *value { "True" } else { "False" };
            status.wrong("a condition's status is a text", format!("quote it: \"{word}\""));
        }
    }
}
