//! Further versions of stored kinds: what is stored once is read and written under another group or version.
//!
//! A further version is a [`Kind`] with the `id` of the kind that is stored, so that keys, watches and views
//! are one. Its functions (defaults, validation, cells) and the pointers of its selectable fields are about
//! the stored form; its group, version, kind and schema are those of the form that clients see.
//! Objects are converted at the edges alone: as they come in, and as they go out.

mod event;
mod horizontal_pod_autoscaler;

use std::sync::LazyLock;

use crate::{Kind, Object};

/// A kind under another group or version than the one it is stored in.
#[derive(Debug)]
pub struct Version {
    /// As it is served.
    pub kind: &'static Kind,
    /// From the served form to the stored one; apiVersion and kind aside. An error is for people.
    pub to_stored: fn(&mut Object) -> Result<(), String>,
    /// From the stored form to the served one; apiVersion and kind aside.
    pub from_stored: fn(&mut Object),
}

/// The versions whose stored kind is registered.
static VERSIONS: LazyLock<Vec<&'static Version>> = LazyLock::new(|| {
    let all: [&'static Version; 2] = [&event::V1, &horizontal_pod_autoscaler::V1];
    all.into_iter().filter(|version| stored_as(version.kind).is_some()).collect()
});

/// The kind that is stored for an id.
fn stored_as(kind: &Kind) -> Option<&'static Kind> {
    crate::kinds::ALL.iter().copied().find(|stored| stored.id == kind.id)
}

/// The further versions.
pub fn all() -> &'static [&'static Version] {
    &VERSIONS
}

/// Every kind that is served: those that are stored, and their further versions.
pub fn served() -> impl Iterator<Item = &'static Kind> {
    crate::kinds::ALL.iter().copied().chain(VERSIONS.iter().map(|version| version.kind))
}

/// The version that a served kind is; `None` if it is stored as it is served.
pub fn of(kind: &Kind) -> Option<&'static Version> {
    VERSIONS.iter().copied().find(|version| std::ptr::eq(version.kind, kind))
}

/// The kind as it is stored.
pub fn stored(kind: &'static Kind) -> &'static Kind {
    if of(kind).is_none() { kind } else { stored_as(kind).unwrap_or(kind) }
}

/// Brings an object from the form of a served kind to the stored one.
pub fn to_stored(kind: &'static Kind, object: &mut Object) -> Result<(), String> {
    let Some(version) = of(kind) else { return Ok(()) };
    (version.to_stored)(object)?;
    name(object, stored(kind));
    Ok(())
}

/// Brings an object from the stored form to that of a served kind.
pub fn from_stored(kind: &Kind, object: &mut Object) {
    let Some(version) = of(kind) else { return };
    (version.from_stored)(object);
    name(object, kind);
}

fn name(object: &mut Object, kind: &Kind) {
    object.set("/apiVersion", kind.api_version());
    object.set("/kind", kind.kind);
}

/// Gives a member another name.
fn rename(object: &mut Object, from: &str, to: &str) {
    if let Some(members) = object.0.as_object_mut()
        && let Some(value) = members.remove(from)
    {
        members.insert(to.to_owned(), value);
    }
}

/// How a version stands among others: v2 before v1 before v1beta2 before v1alpha1.
pub fn priority(version: &str) -> (u8, u32, u32) {
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (major, rest) = rest.split_at(digits(rest));
    let (stage, minor) = match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
        (Some(minor), _) => (2, minor),
        (_, Some(minor)) => (1, minor),
        _ => (3, "0"),
    };
    (stage, major.parse().unwrap_or_default(), minor.parse().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ranked() {
        let mut versions = ["v1", "v1beta1", "v2", "v1alpha1", "v1beta2", "v10"];
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1"]);
    }

    #[test]
    fn every_version_is_found_and_shares_its_storage() {
        assert!(!all().is_empty());
        for version in all() {
            let kind = version.kind;
            let found = Kind::served(kind.group, kind.version, kind.plural).unwrap();
            assert!(std::ptr::eq(found, kind));
            let stored = stored(kind);
            assert_eq!(
                (stored.id, stored.plural, stored.namespaced),
                (kind.id, kind.plural, kind.namespaced)
            );
            assert_eq!(stored.has_status, kind.has_status);
            assert_ne!(stored.api_version(), kind.api_version());
            assert!(crate::schema::type_of_gvk(kind.group, kind.version, kind.kind).is_some());
        }
    }
}
