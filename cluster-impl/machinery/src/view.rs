//! A view: what a component has seen of the cluster so far.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Kind, Object, ObjectKey};

type Objects = BTreeMap<ObjectKey, Arc<Object>>;

/// Objects by kind and key. Cheap to clone: objects are shared.
#[derive(Debug, Clone, Default)]
pub struct View {
    kinds: BTreeMap<&'static str, Objects>,
}

impl View {
    /// All objects of a kind, in order of key.
    pub fn all(&self, kind: &Kind) -> impl Iterator<Item = &Arc<Object>> {
        self.kinds.get(kind.id).into_iter().flat_map(BTreeMap::values)
    }

    /// All objects of a kind in one namespace, in order of name.
    pub fn in_namespace<'v>(
        &'v self,
        kind: &Kind,
        namespace: &'v str,
    ) -> impl Iterator<Item = &'v Arc<Object>> {
        self.kinds.get(kind.id).into_iter().flat_map(move |objects| {
            objects
                .range(ObjectKey::new(namespace, "")..)
                .take_while(move |(key, _)| key.namespace == namespace)
                .map(|(_, object)| object)
        })
    }

    /// One object.
    pub fn get(&self, kind: &Kind, key: &ObjectKey) -> Option<&Arc<Object>> {
        self.kinds.get(kind.id)?.get(key)
    }

    /// Puts an object in; answers what was there.
    pub fn put(&mut self, kind: &Kind, object: Arc<Object>) -> Option<Arc<Object>> {
        self.kinds.entry(kind.id).or_default().insert(object.key(), object)
    }

    /// Takes an object out.
    pub fn take(&mut self, kind: &Kind, key: &ObjectKey) -> Option<Arc<Object>> {
        self.kinds.get_mut(kind.id)?.remove(key)
    }
}
