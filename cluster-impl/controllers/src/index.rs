//! Lookups that a view does not have: pods by node, objects by identity, dependents by owner.

use std::collections::{BTreeMap, BTreeSet};

use apiclient::Informed;
use machinery::{Kind, Object, ObjectKey, kinds};
use serde_json::Value;

use crate::Key;

#[derive(Debug, Default)]
struct Entry {
    uid: String,
    node: String,
    owner_uids: Vec<String>,
}

/// Lookups, kept up to date with every change. An object seen twice is indexed once.
#[derive(Debug, Default)]
pub struct Index {
    entries: BTreeMap<Key, Entry>,
    pods_by_node: BTreeMap<String, BTreeSet<ObjectKey>>,
    by_uid: BTreeMap<String, Key>,
    dependents: BTreeMap<String, BTreeSet<Key>>,
}

impl Index {
    /// Takes a change in.
    pub fn apply(&mut self, change: &Informed) {
        let key = Key::of(change.kind, change.key.clone());
        let Some(new) = &change.new else {
            self.remove(&key);
            return;
        };
        if self.entries.get(&key).is_some_and(|entry| !differs(entry, change.kind, new)) {
            return;
        }
        self.remove(&key);
        let entry = Entry {
            uid: new.uid().to_owned(),
            node: node_of(change.kind, new).to_owned(),
            owner_uids: new.owners().into_iter().map(|owner| owner.uid).collect(),
        };
        if !entry.node.is_empty() {
            self.pods_by_node.entry(entry.node.clone()).or_default().insert(key.object.clone());
        }
        for owner in &entry.owner_uids {
            self.dependents.entry(owner.clone()).or_default().insert(key.clone());
        }
        self.by_uid.insert(entry.uid.clone(), key.clone());
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        if self.by_uid.get(&entry.uid) == Some(key) {
            self.by_uid.remove(&entry.uid);
        }
        if let Some(pods) = self.pods_by_node.get_mut(&entry.node) {
            pods.remove(&key.object);
            if pods.is_empty() {
                self.pods_by_node.remove(&entry.node);
            }
        }
        for owner in &entry.owner_uids {
            if let Some(dependents) = self.dependents.get_mut(owner) {
                dependents.remove(key);
                if dependents.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
    }

    /// The pods bound to a node, in order of key.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &ObjectKey> {
        self.pods_by_node.get(node).into_iter().flatten()
    }

    /// The names of all nodes that pods are bound to, whether these nodes exist or not.
    pub fn nodes_with_pods(&self) -> impl Iterator<Item = &str> {
        self.pods_by_node.keys().map(String::as_str)
    }

    /// The object with this identity.
    pub fn by_uid(&self, uid: &str) -> Option<&Key> {
        self.by_uid.get(uid)
    }

    /// The objects that name this identity as an owner.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = &Key> {
        self.dependents.get(uid).into_iter().flatten()
    }
}

fn node_of<'o>(kind: &Kind, object: &'o Object) -> &'o str {
    if kind.id == kinds::POD.id { object.text("/spec/nodeName") } else { "" }
}

/// Whether what is indexed has changed. Most changes are heartbeats, which leave it as it is.
fn differs(entry: &Entry, kind: &Kind, object: &Object) -> bool {
    let owners = object.list("/metadata/ownerReferences");
    entry.uid != object.uid()
        || entry.node != node_of(kind, object)
        || owners.len() != entry.owner_uids.len()
        || owners
            .iter()
            .zip(&entry.owner_uids)
            .any(|(owner, uid)| owner.get("uid").and_then(Value::as_str).unwrap_or_default() != uid)
}
