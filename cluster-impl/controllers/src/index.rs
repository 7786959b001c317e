//! Lookups that a view does not have: pods by node, objects by identity, dependents by owner, and what
//! a controller may claim.

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
    /// Whether it has no controller: whoever selects it may adopt it.
    is_free: bool,
}

/// Lookups, kept up to date with every change. An object seen twice is indexed once.
#[derive(Debug, Default)]
pub struct Index {
    entries: BTreeMap<Key, Entry>,
    pods_by_node: BTreeMap<String, BTreeSet<ObjectKey>>,
    by_uid: BTreeMap<String, Key>,
    dependents: BTreeMap<String, BTreeSet<Key>>,
    /// What has no controller, by kind.
    free: BTreeMap<&'static str, BTreeSet<ObjectKey>>,
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
            is_free: is_free(new),
        };
        if entry.is_free {
            self.free.entry(change.kind.id).or_default().insert(key.object.clone());
        }
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
        if entry.is_free
            && let Some(free) = self.free.get_mut(key.what)
        {
            free.remove(&key.object);
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

    /// The objects of a kind that name this identity as an owner, in order of key.
    pub fn owned<'i>(&'i self, kind: &Kind, uid: &str) -> impl Iterator<Item = &'i ObjectKey> {
        self.dependents(uid).filter(move |key| key.what == kind.id).map(|key| &key.object)
    }

    /// What a controller of this identity has to look at in its namespace: what names it as an owner,
    /// and what nobody controls. In order of key.
    pub fn claimable(
        &self,
        kind: &'static Kind,
        namespace: &str,
        uid: &str,
    ) -> BTreeSet<&ObjectKey> {
        let first = ObjectKey::new(namespace, "");
        let free = self.free.get(kind.id).into_iter().flat_map(|free| free.range(&first..));
        let free = free.take_while(|key| key.namespace == namespace);
        self.owned(kind, uid).filter(|key| key.namespace == namespace).chain(free).collect()
    }
}

fn is_free(object: &Object) -> bool {
    let owners = object.list("/metadata/ownerReferences");
    !owners.iter().any(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))
}

fn node_of<'o>(kind: &Kind, object: &'o Object) -> &'o str {
    if kind.id == kinds::POD.id { object.text("/spec/nodeName") } else { "" }
}

/// Whether what is indexed has changed. Most changes are heartbeats, which leave it as it is.
fn differs(entry: &Entry, kind: &Kind, object: &Object) -> bool {
    let owners = object.list("/metadata/ownerReferences");
    entry.uid != object.uid()
        || entry.node != node_of(kind, object)
        || entry.is_free != is_free(object)
        || owners.len() != entry.owner_uids.len()
        || owners
            .iter()
            .zip(&entry.owner_uids)
            .any(|(owner, uid)| owner.get("uid").and_then(Value::as_str).unwrap_or_default() != uid)
}
