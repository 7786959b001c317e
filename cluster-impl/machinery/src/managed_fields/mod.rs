//! `metadata.managedFields`: who owns which field, and server-side apply.
//!
//! Works as upstream's fieldmanager over structured-merge-diff: every write is compared with what was there, and
//! what it changed is its manager's from then on. Applying merges what a manager wants into the object, takes away
//! what it no longer wants and nobody else owns, and is refused where another manager owns what it would change.
//! Limits: entries of another version of the same kind are taken as if they were of this one; unions and fields of
//! types that the schema does not know are taken as what they look like.

mod apply;
mod compare;
mod entries;
mod extract;
mod merge;
mod owned;
mod set;
mod typed;

use std::sync::LazyLock;

use serde_json::{Value, json};

pub use apply::{Apply, apply};
pub use entries::UPDATERS_MAX;
pub use set::{FieldSet, PathElement, path_text};

use crate::schema::type_of;
use crate::{Kind, Object};
use entries::{Entry, Operation};

/// The longest name of a manager.
pub const MANAGER_BYTES_MAX: usize = 128;

const POINTER: &str = "/metadata/managedFields";

/// Who writes.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The manager's name; see [`manager`].
    pub manager: &'a str,
    /// The subresource that is written, or "".
    pub subresource: &'a str,
    /// Now, as `time` is written.
    pub time: &'a str,
}

impl Writer<'_> {
    fn entry(&self, kind: &Kind, operation: Operation) -> Entry {
        Entry {
            manager: if self.manager.is_empty() { "unknown" } else { self.manager }.to_owned(),
            operation,
            api_version: kind.api_version(),
            subresource: self.subresource.to_owned(),
            time: Some(self.time.to_owned()),
            fields: json!({}),
        }
    }
}

/// The name of a manager: what the request says, else how its user agent begins.
pub fn manager(field_manager: &str, user_agent: &str) -> String {
    if !field_manager.is_empty() {
        return field_manager.to_owned();
    }
    let prefix = user_agent.split('/').next().unwrap_or_default();
    let mut name = String::new();
    for c in prefix.chars().filter(|c| !c.is_control()) {
        if name.len() + c.len_utf8() > MANAGER_BYTES_MAX {
            break;
        }
        name.push(c);
    }
    name
}

/// What is wrong with the query parameter `fieldManager`, as a cause's message.
pub fn check_manager(name: &str) -> Option<String> {
    if name.len() > MANAGER_BYTES_MAX {
        return Some(format!("Too long: may not be more than {MANAGER_BYTES_MAX} bytes"));
    }
    name.chars()
        .any(char::is_control)
        .then(|| format!("Invalid value: {name:?}: should only contain printable characters"))
}

/// Fields that nobody owns.
static STRIPPED: LazyLock<FieldSet> = LazyLock::new(|| {
    FieldSet::of_names(&[
        "apiVersion",
        "kind",
        "metadata",
        "metadata.clusterName",
        "metadata.creationTimestamp",
        "metadata.generation",
        "metadata.managedFields",
        "metadata.name",
        "metadata.namespace",
        "metadata.resourceVersion",
        "metadata.selfLink",
        "metadata.uid",
    ])
});

static STATUS: LazyLock<FieldSet> = LazyLock::new(|| FieldSet::of_names(&["status"]));
static SPEC: LazyLock<FieldSet> = LazyLock::new(|| FieldSet::of_names(&["spec"]));
static DEPLOYMENT_SPEC: LazyLock<FieldSet> =
    LazyLock::new(|| FieldSet::of_names(&["spec", "metadata.labels"]));
static POD_SPEC: LazyLock<FieldSet> = LazyLock::new(|| {
    FieldSet::of_names(&["spec", "metadata.deletionTimestamp", "metadata.ownerReferences"])
});
static NOTHING: LazyLock<FieldSet> = LazyLock::new(FieldSet::default);

/// What a write through a resource or subresource does not reach (upstream's reset fields).
fn out_of_reach(kind: &Kind, subresource: &str) -> &'static FieldSet {
    match subresource {
        "" if kind.has_status => &STATUS,
        "status" => match kind.id {
            "deployments.apps" => &DEPLOYMENT_SPEC,
            "pods" => &POD_SPEC,
            _ => &SPEC,
        },
        _ => &NOTHING,
    }
}

/// Notes in `new` who owns what after a write that is no apply. `live` is what was there, if anything was.
///
/// A main resource's write may set `managedFields` itself, and forgets all owners with `[]` or `[{}]`.
pub fn update(kind: &Kind, writer: Writer<'_>, live: Option<&Object>, new: &mut Object) {
    let live_list = live.map_or(&[][..], |live| live.list(POINTER));
    let wanted = new.remove(POINTER).filter(|_| writer.subresource.is_empty());
    let wanted = wanted.as_ref().and_then(Value::as_array).map(Vec::as_slice);
    let wanted = match wanted {
        // Who knows of nothing does not forget.
        Some(list) if list == live_list => None,
        wanted => wanted,
    };
    let mut entries = match wanted {
        Some([]) => Vec::new(),
        Some([one]) if one.as_object().is_some_and(serde_json::Map::is_empty) => Vec::new(),
        Some(list) => entries::decode(list)
            .ok()
            .filter(|list| !list.is_empty())
            .or_else(|| entries::read(live_list).ok())
            .unwrap_or_default(),
        None if live_list.is_empty() => Vec::new(),
        None => {
            let found = changes(kind, writer, live, new);
            if found.is_same() {
                new.set(POINTER, live_list.to_vec());
                return;
            }
            let Ok(mut entries) = entries::read(live_list) else { return };
            take_over(kind, writer, &found, &mut entries);
            return put(new, entries);
        }
    };
    // Once nobody is known, nobody is noted before the next apply.
    if entries.is_empty() && live.is_some() {
        return;
    }
    let found = changes(kind, writer, live, new);
    take_over(kind, writer, &found, &mut entries);
    put(new, entries);
}

fn changes(
    kind: &Kind,
    writer: Writer<'_>,
    live: Option<&Object>,
    new: &Object,
) -> compare::Comparison {
    static NO_OBJECT: LazyLock<Value> = LazyLock::new(|| json!({}));
    let old = live.map_or(&*NO_OBJECT, |live| &live.0);
    compare::compare(type_of(kind), old, &new.0).excluding(out_of_reach(kind, writer.subresource))
}

/// Gives a writer what it changed, and nobody what is gone.
fn take_over(
    kind: &Kind,
    writer: Writer<'_>,
    found: &compare::Comparison,
    entries: &mut Vec<Entry>,
) {
    let changed = found.set();
    for entry in entries.iter_mut() {
        owned::subtract(&mut entry.fields, &changed);
        owned::subtract(&mut entry.fields, &found.removed);
    }
    let taken = changed.difference(&STRIPPED);
    if !taken.is_empty() {
        let mut own = writer.entry(kind, Operation::Update);
        match entries.iter_mut().find(|entry| entry.is_of(&own)) {
            Some(entry) => {
                owned::add(&mut entry.fields, &taken);
                entry.time = own.time;
            }
            None => {
                own.fields = taken.to_value();
                entries.push(own);
            }
        }
    }
    entries.retain(|entry| !entry.is_empty());
    entries::cap(entries);
}

fn put(object: &mut Object, entries: Vec<Entry>) {
    let list = entries::encode(entries);
    if list.is_empty() {
        object.remove(POINTER);
    } else {
        object.set(POINTER, list);
    }
}

/// Keeps the old times in an object that differs from the old one in nothing else.
pub fn keep_times(old: &Object, new: &mut Object) {
    let (ours, theirs) = (old.list(POINTER), new.list(POINTER));
    if ours == theirs || ours.len() != theirs.len() {
        return;
    }
    let is_told = |name: &str| name != "managedFields" && name != "resourceVersion";
    let members = |object: &Value, is_told: &dyn Fn(&str) -> bool| -> usize {
        object.as_object().map_or(0, |map| map.keys().filter(|name| is_told(name)).count())
    };
    let is_same = |one: &Value, two: &Value, is_told: &dyn Fn(&str) -> bool| {
        // From behind: the status is what differs most often.
        let entries = one.as_object().into_iter().flat_map(|map| map.iter().rev());
        let mut entries = entries.filter(|(name, _)| is_told(name));
        entries.all(|(name, value)| two.get(name) == Some(value))
            && members(one, is_told) == members(two, is_told)
    };
    let is_part = |name: &str| name != "metadata";
    if !is_same(&old.0, &new.0, &is_part)
        || !is_same(&old.0["metadata"], &new.0["metadata"], &is_told)
    {
        return;
    }
    let is_no_time = |name: &str| name != "time";
    if ours.iter().zip(theirs).all(|(one, two)| is_same(one, two, &is_no_time)) {
        new.set(POINTER, ours.to_vec());
    }
}

#[cfg(test)]
mod tests;
