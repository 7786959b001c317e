//! Server-side apply: what a manager wants, merged into what is there.

use serde_json::{Value, json};

use super::compare::compare;
use super::entries::{self, Entry, Operation};
use super::set::{FieldSet, PathElement, path_text};
use super::{POINTER, STRIPPED, Writer, extract, merge, out_of_reach, put};
use crate::schema::{TypeFact, type_of};
use crate::{Kind, Object, Status};

/// Who owned the fields of an object before anybody applied it.
const BEFORE: &str = "before-first-apply";
/// The manager whose client-side apply is taken over.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str =
    "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";

/// What is applied.
#[derive(Debug, Clone, Copy)]
pub struct Apply<'a> {
    /// What the manager wants.
    pub config: &'a Value,
    /// Whether it takes what others own.
    pub force: bool,
}

/// A field that somebody else owns.
#[derive(Debug, Clone, PartialEq)]
struct Conflict {
    manager: String,
    path: Vec<PathElement>,
}

/// The object after an apply, and in it who owns what. `live` is what was there, if anything was.
/// Defaults are not set and nothing is validated; values may be null.
pub fn apply(
    kind: &Kind,
    writer: Writer<'_>,
    live: Option<&Object>,
    wanted: Apply<'_>,
) -> Result<Object, Status> {
    check(kind, wanted.config)?;
    let owners = live.map_or(&[][..], |live| live.list(POINTER));
    let owners = entries::decode(owners)
        .map_err(|why| server_error(format!("failed to decode managed fields: {why}")))?;
    let mut bare = live.cloned().unwrap_or_else(|| Object(json!({})));
    bare.remove(POINTER);
    let owners =
        if owners.is_empty() && live.is_some() { before(kind, writer, &bare) } else { owners };
    let run = |force: bool| update(kind, writer, &bare, &owners, (wanted.config, force));
    let applied = match run(wanted.force) {
        Err(conflicts) if writer.manager == KUBECTL => match allowed(kind, &bare) {
            Some(allowed) => {
                let left: Vec<_> =
                    conflicts.into_iter().filter(|one| !allowed.has(&one.path)).collect();
                if left.is_empty() { run(true) } else { Err(left) }
            }
            None => Err(conflicts),
        },
        applied => applied,
    };
    let (mut object, entries) = applied.map_err(|conflicts| refusal(&conflicts))?;
    if writer.manager == KUBECTL && object.get(LAST_APPLIED).is_some() {
        object.set(LAST_APPLIED, last_applied(wanted.config));
    }
    put(&mut object, entries);
    Ok(object)
}

fn server_error(message: String) -> Status {
    Status::new(500, "", message)
}

fn check(kind: &Kind, config: &Value) -> Result<(), Status> {
    let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let named = |api_version: &str, kind: &str| {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        format!("{group}/{version}, Kind={kind}")
    };
    let (api_version, name) = (text("/apiVersion"), text("/kind"));
    if api_version != kind.api_version() || name != kind.kind {
        let name = named(api_version, name);
        return Err(Status::bad_request(format!("invalid object type: {name}")));
    }
    if config.pointer(POINTER).is_some_and(|list| !list.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let problems = extract::problems(type_of(kind), config);
    let why = match problems.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    Err(server_error(format!(
        "failed to create typed patch object ({}/{}; {}): {why}",
        text("/metadata/namespace"),
        text("/metadata/name"),
        named(api_version, name),
    )))
}

/// Everything that is there, owned by nobody in particular.
fn before(kind: &Kind, writer: Writer<'_>, bare: &Object) -> Vec<Entry> {
    let writer = Writer { manager: BEFORE, ..writer };
    let all = compare(type_of(kind), &json!({}), &bare.0)
        .excluding(out_of_reach(kind, writer.subresource))
        .set()
        .difference(&STRIPPED);
    let mut entry = writer.entry(kind, Operation::Update);
    entry.fields = all.to_value();
    if all.is_empty() { Vec::new() } else { vec![entry] }
}

/// The merged object and its owners, or who stands in the way.
fn update(
    kind: &Kind,
    writer: Writer<'_>,
    live: &Object,
    owners: &[Entry],
    (config, force): (&Value, bool),
) -> Result<(Object, Vec<Entry>), Vec<Conflict>> {
    let fact = type_of(kind);
    let ignored = out_of_reach(kind, writer.subresource);
    let mut own = writer.entry(kind, Operation::Apply);
    let wanted = extract::all(fact, config).excluding(ignored);
    own.fields = wanted.to_value();
    let last = owners.iter().find(|entry| entry.is_of(&own));
    let others: Vec<&Entry> = owners.iter().filter(|entry| !entry.is_of(&own)).collect();
    let owned = others.iter().fold(wanted.clone(), |owned, entry| owned.union(&entry.set()));
    let merged = merge::merge(fact, &live.0, config);
    let object = match last.map(Entry::set).filter(|last| !last.is_empty()) {
        Some(last) => prune(fact, merged, &owned, &last),
        None => merged,
    };
    let found = compare(fact, &live.0, &object).excluding(ignored);
    let changed = found.set();
    let mut conflicts: Vec<(String, Conflict)> = Vec::new();
    let mut entries = Vec::with_capacity(owners.len() + 1);
    for entry in others {
        let set = entry.set();
        for path in set.intersection(&changed).paths() {
            conflicts.push((entry.identity(), Conflict { manager: entry.name(), path }));
        }
        let left = set.difference(&set.intersection(&changed)).difference(&found.removed);
        entries.push(Entry { fields: left.to_value(), ..entry.clone() });
    }
    if !force && !conflicts.is_empty() {
        conflicts.sort_by(|(one, _), (two, _)| one.cmp(two));
        return Err(conflicts.into_iter().map(|(_, conflict)| conflict).collect());
    }
    let stripped = wanted.difference(&STRIPPED);
    own.fields = stripped.to_value();
    let is_same = object == live.0 && last.is_some_and(|last| last.set() == stripped);
    if is_same && let Some(last) = last {
        own.time.clone_from(&last.time);
        own.api_version.clone_from(&last.api_version);
    }
    entries.push(own);
    Ok((Object(object), entries))
}

/// The merged object without what its manager wanted last, no longer wants, and nobody else owns.
fn prune(fact: &'static TypeFact, merged: Value, owned: &FieldSet, last: &FieldSet) -> Value {
    let named = |set: &FieldSet| merge::with_named_fields(fact, set);
    let last = named(last);
    let all = named(&extract::all(fact, &merged));
    let pruned = merge::without(fact, &merged, &last);
    // What somebody owns comes back, with the items of lists that it is in.
    let kept = named(&extract::all(fact, &pruned)).union(&named(owned));
    let pruned = merge::without(fact, &merged, &all.difference(&kept));
    // Nor may that take what the manager never owned.
    let kept = named(&extract::all(fact, &pruned));
    merge::without(fact, &merged, &all.difference(&kept).intersection(&last))
}

/// The fields whose owner kubectl is by its client-side apply; it may take them over.
fn allowed(kind: &Kind, live: &Object) -> Option<FieldSet> {
    let fact = type_of(kind);
    let last: Value = serde_json::from_str(live.text(LAST_APPLIED)).ok()?;
    if last["apiVersion"].as_str() != Some(&kind.api_version())
        || !extract::problems(fact, &last).is_empty()
    {
        return None;
    }
    let found = compare(fact, &last, &live.0);
    Some(
        extract::all(fact, &last)
            .difference(&found.modified)
            .difference(&found.added)
            .difference(&found.removed),
    )
}

/// The annotation that client-side apply reads, for what was applied.
fn last_applied(config: &Value) -> String {
    let mut config = Object(config.clone());
    config.remove(LAST_APPLIED);
    format!("{}\n", config.0)
}

fn refusal(conflicts: &[Conflict]) -> Status {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|one| {
            json!({
                "reason": "FieldManagerConflict", "message": format!("conflict with {}", one.manager),
                "field": path_text(&one.path),
            })
        })
        .collect();
    let message = match conflicts {
        [one] => format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.manager,
            path_text(&one.path)
        ),
        many => {
            let mut lines: Vec<String> = Vec::new();
            let mut manager = None;
            for one in many {
                if manager != Some(&one.manager) {
                    lines.push(format!("conflicts with {}:", one.manager));
                    manager = Some(&one.manager);
                }
                lines.push(format!("- {}", path_text(&one.path)));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    let mut status = Status::new(409, "Conflict", message);
    status.details = json!({ "causes": causes });
    status
}
