//! The entries of `metadata.managedFields`: who owns what, since when.
//!
//! Invariant: entries are written in upstream's order: appliers before updaters, then by time, manager, version
//! and subresource. At most [`UPDATERS_MAX`] are of updaters: the oldest are joined into one.

use serde_json::{Map, Value, json};

use super::owned;
use super::set::FieldSet;

/// More entries of updaters are not kept.
pub const UPDATERS_MAX: usize = 10;
/// The manager of what the oldest updaters own.
const ANCIENT: &str = "ancient-changes";

/// Whether a manager says what it wants, or changes what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: Option<String>,
    /// `fieldsV1`.
    pub(super) fields: Value,
}

impl Entry {
    /// Whether two entries are of one manager: an applier is one whatever version it speaks.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// What it owns.
    pub(super) fn set(&self) -> FieldSet {
        // Entries are read with `decode`, which refuses what is no set.
        FieldSet::from_value(&self.fields).unwrap_or_default()
    }

    /// Whether it owns nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.fields.as_object().is_none_or(Map::is_empty)
    }

    /// As conflicts name it.
    pub(super) fn name(&self) -> String {
        let mut name = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            name.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            name.push_str(&format!(" using {}", self.api_version));
        }
        name
    }

    /// What entries are ordered by when upstream has no other order: the manager as JSON.
    pub(super) fn identity(&self) -> String {
        let mut identity = json!({"manager": self.manager, "operation": self.operation.name()});
        if self.operation == Operation::Update {
            identity["apiVersion"] = self.api_version.as_str().into();
        }
        if !self.subresource.is_empty() {
            identity["subresource"] = self.subresource.as_str().into();
        }
        // Upstream's order of members: manager, operation, apiVersion, subresource.
        ["manager", "operation", "apiVersion", "subresource"]
            .iter()
            .filter_map(|name| Some(format!("{name}:{}", identity.get(name)?)))
            .collect::<Vec<_>>()
            .join(",")
    }

    fn decode(value: &Value) -> Result<Self, String> {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let operation = match value["operation"].as_str() {
            Some("Apply") => Operation::Apply,
            Some("Update") => Operation::Update,
            _ => return Err("operation must be `Apply` or `Update`".to_owned()),
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            return Err("apiVersion must not be empty".to_owned());
        }
        match value["fieldsType"].as_str() {
            Some("FieldsV1") => {}
            None | Some("") => return Err("missing fieldsType in managed fields entry".to_owned()),
            Some(other) => {
                return Err(format!("invalid fieldsType {other:?} in managed fields entry"));
            }
        }
        let fields = match value.get("fieldsV1") {
            None | Some(Value::Null) => json!({}),
            Some(fields) => fields.clone(),
        };
        Ok(Self {
            manager: text("manager"),
            operation,
            api_version,
            subresource: text("subresource"),
            time: value["time"].as_str().map(str::to_owned),
            fields,
        })
    }

    fn encode(self) -> Value {
        let mut map = Map::new();
        let mut put = |name: &str, value: Value| {
            if value != "" {
                map.insert(name.to_owned(), value);
            }
        };
        put("manager", self.manager.into());
        put("operation", self.operation.name().into());
        put("apiVersion", self.api_version.into());
        put("subresource", self.subresource.into());
        put("time", self.time.unwrap_or_default().into());
        put("fieldsType", "FieldsV1".into());
        put("fieldsV1", self.fields);
        Value::Object(map)
    }
}

/// Reads `metadata.managedFields`, without looking into the sets.
pub(super) fn read(list: &[Value]) -> Result<Vec<Entry>, String> {
    list.iter().map(Entry::decode).collect()
}

/// Reads what a client sent: the sets must be sets.
pub(super) fn decode(list: &[Value]) -> Result<Vec<Entry>, String> {
    let entries = read(list)?;
    for entry in &entries {
        FieldSet::from_value(&entry.fields)?;
    }
    Ok(entries)
}

/// As `metadata.managedFields`; entries that own nothing are left out.
pub(super) fn encode(mut entries: Vec<Entry>) -> Vec<Value> {
    entries.retain(|entry| !entry.is_empty());
    entries.sort_by(|one, two| {
        let key = |entry: &Entry| {
            (
                entry.operation,
                seconds(entry),
                entry.manager.clone(),
                entry.api_version.clone(),
                entry.subresource.clone(),
            )
        };
        key(one).cmp(&key(two))
    });
    entries.into_iter().map(Entry::encode).collect()
}

fn seconds(entry: &Entry) -> i64 {
    let at = entry.time.as_deref().and_then(|time| time.parse::<jiff::Timestamp>().ok());
    at.map_or(0, jiff::Timestamp::as_second)
}

/// Joins the oldest updaters of each version until there are few enough.
pub(super) fn cap(entries: &mut Vec<Entry>) {
    let is_updater = |entry: &Entry| entry.operation == Operation::Update;
    let mut count = entries.iter().filter(|entry| is_updater(entry)).count();
    if count <= UPDATERS_MAX {
        return;
    }
    let mut oldest: Vec<Entry> =
        entries.iter().filter(|entry| is_updater(entry)).cloned().collect();
    oldest.sort_by_key(|entry| (seconds(entry), entry.identity()));
    let mut firsts: Vec<Entry> = Vec::new();
    for entry in oldest {
        if count <= UPDATERS_MAX {
            return;
        }
        let Some(first) = firsts.iter().find(|first| first.api_version == entry.api_version) else {
            firsts.push(entry);
            continue;
        };
        let bucket =
            Entry { manager: ANCIENT.to_owned(), subresource: String::new(), ..entry.clone() };
        let position = |entries: &[Entry], of: &Entry| entries.iter().position(|one| one.is_of(of));
        let at = position(entries, &bucket).or_else(|| {
            let at = position(entries, first)?;
            entries[at].manager = ANCIENT.to_owned();
            entries[at].subresource = String::new();
            Some(at)
        });
        let Some(at) = at else { continue };
        if !entry.is_of(&bucket) {
            owned::add(&mut entries[at].fields, &entry.set());
            entries[at].time = entry.time.clone();
            entries.retain(|one| !one.is_of(&entry));
            count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, second: usize) -> Entry {
        Entry {
            manager: manager.to_owned(),
            operation: Operation::Update,
            api_version: "v1".to_owned(),
            subresource: String::new(),
            time: Some(format!("2026-01-01T00:00:{second:02}Z")),
            fields: json!({"f:data": {format!("f:{manager}"): {}}}),
        }
    }

    #[test]
    fn the_oldest_updaters_are_joined() {
        let mut entries: Vec<Entry> = (0..12).map(|at| entry(&format!("m{at:02}"), at)).collect();
        entries[11].operation = Operation::Apply;
        cap(&mut entries);
        assert_eq!(entries.len(), 11);
        let ancient = entries.iter().find(|entry| entry.manager == ANCIENT).unwrap();
        assert_eq!(ancient.fields, json!({"f:data": {"f:m00": {}, "f:m01": {}}}));
        assert_eq!(ancient.time.as_deref(), Some("2026-01-01T00:00:01Z"));
        entries.push(entry("late", 30));
        cap(&mut entries);
        assert_eq!(entries.len(), 11);
        let ancient = entries.iter().find(|entry| entry.manager == ANCIENT).unwrap();
        assert_eq!(ancient.fields["f:data"].as_object().unwrap().len(), 3);
        let unchanged = entries.clone();
        cap(&mut entries);
        assert_eq!(entries, unchanged);
    }

    #[test]
    fn entries_are_ordered_and_read_again() {
        let mut apply = entry("zed", 50);
        apply.operation = Operation::Apply;
        let mut status = entry("b", 2);
        status.subresource = "status".into();
        let mut nothing = entry("none", 1);
        nothing.fields = json!({});
        let list = encode(vec![entry("c", 3), status, nothing, apply, entry("a", 3)]);
        let names: Vec<_> = list.iter().map(|one| one["manager"].as_str().unwrap()).collect();
        assert_eq!(names, ["zed", "b", "a", "c"]);
        assert_eq!(
            list[1],
            json!({"manager": "b", "operation": "Update", "apiVersion": "v1", "subresource": "status",
                "time": "2026-01-01T00:00:02Z", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:data": {"f:b": {}}}})
        );
        assert_eq!(encode(decode(&list).unwrap()), list);
        for wrong in [
            json!({"operation": "Delete"}),
            json!({"operation": "Apply"}),
            json!({"operation": "Apply", "apiVersion": "v1"}),
            json!({"operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV2"}),
            json!({"operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"x": {}}}),
        ] {
            assert!(decode(std::slice::from_ref(&wrong)).is_err(), "{wrong}");
        }
    }
}
