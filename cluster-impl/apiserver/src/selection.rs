//! Which objects a list, a watch or a collection's deletion is about: labels, fields, one name.

use machinery::{FieldSelector, Kind, LabelSelector, Object, ObjectKey, Status};
use storage::KeyRange;

use crate::query::Query;
use crate::storage_key;

/// A label selector and a field selector over one collection.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    kind: &'static Kind,
    /// The namespace; empty for all. The name, if the path gave one.
    scope: ObjectKey,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// What a query selects within `scope`.
    pub(crate) fn read(
        kind: &'static Kind,
        scope: &ObjectKey,
        query: &Query,
    ) -> Result<Self, Status> {
        let labels = LabelSelector::parse(query.text("labelSelector"))
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let fields = FieldSelector::parse(query.text("fieldSelector"))
            .and_then(|fields| fields.check(kind).map(|()| fields))
            .map_err(|error| Status::bad_request(error.to_string()))?;
        Ok(Self { kind, scope: scope.clone(), labels, fields })
    }

    /// The kind.
    pub(crate) fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// Whether every object in the range is selected.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && (self.fields.is_everything() || self.is_one())
    }

    /// Whether an object is selected.
    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.labels.matches(object.map("/metadata/labels"))
            && self.fields.matches(self.kind, object)
    }

    /// The keys among which the objects are: a single key if the selection names one object.
    pub(crate) fn range(&self) -> KeyRange {
        match self.name() {
            Some(name) => {
                let key = ObjectKey::new(self.scope.namespace.clone(), name);
                KeyRange::key(storage_key::key(self.kind, &key))
            }
            None => storage_key::range(self.kind, &self.scope.namespace),
        }
    }

    /// The one name that is asked for, if its key is known from it.
    fn name(&self) -> Option<&str> {
        if self.kind.namespaced && self.scope.namespace.is_empty() {
            return None;
        }
        if !self.scope.name.is_empty() {
            return Some(&self.scope.name);
        }
        self.fields.required("metadata.name").filter(|name| !name.is_empty())
    }

    /// The namespace; empty for all.
    pub(crate) fn namespace(&self) -> &str {
        &self.scope.namespace
    }

    /// The one node whose pods are asked for.
    pub(crate) fn node(&self) -> Option<&str> {
        self.fields.required("spec.nodeName").filter(|name| !name.is_empty())
    }

    /// Whether the field selector says no more than which key it is.
    fn is_one(&self) -> bool {
        self.name().is_some_and(|name| {
            let only = FieldSelector::parse(&format!("metadata.name={name}"));
            only.is_ok_and(|only| only == self.fields)
        })
    }
}

#[cfg(test)]
mod tests {
    use machinery::kinds::{NODE, POD};

    use super::*;

    fn selection(kind: &'static Kind, namespace: &str, query: &str) -> Result<Selection, Status> {
        Selection::read(kind, &ObjectKey::new(namespace, ""), &Query::parse(query))
    }

    #[test]
    fn a_name_narrows_the_range_to_one_key() {
        let one = selection(&NODE, "", "fieldSelector=metadata.name%3Dworker-1").unwrap();
        assert_eq!(one.range(), KeyRange::key("/registry/minions/worker-1"));
        assert!(one.is_everything());
        let more = "fieldSelector=metadata.name%3Dweb,status.phase%3DRunning";
        let one = selection(&POD, "a", more).unwrap();
        assert_eq!(one.range(), KeyRange::key("/registry/pods/a/web"));
        assert!(!one.is_everything());
        let all = selection(&POD, "", "fieldSelector=metadata.name%3Dweb").unwrap();
        assert_eq!(all.range(), KeyRange::prefix("/registry/pods/"));
        assert!(!all.is_everything());
    }

    #[test]
    fn wrong_selectors_are_refused() {
        for query in ["labelSelector=a%3D%3D%3D", "fieldSelector=spec.x%3D1", "fieldSelector=x"] {
            assert_eq!(selection(&POD, "a", query).unwrap_err().code, 400, "{query}");
        }
    }
}
