//! The kinds of objects that scenarios may speak of: their words, plurals, groups and scopes.
//!
//! A kind's name in timelines is its plural and group: `pods`, `deployments.apps`.

/// One kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The word in scenario files: the kind in small letters, `deployment`.
    pub word: &'static str,
    /// The kind, `Deployment`.
    pub kind: &'static str,
    /// Plural and group, `deployments.apps`.
    pub id: &'static str,
    /// Group and version, `apps/v1`.
    pub api_version: &'static str,
    /// Whether its objects live in namespaces.
    pub is_namespaced: bool,
    /// Whether the witness watches it, so that conditions can speak of it.
    pub is_watched: bool,
}

const fn kind(
    word: &'static str,
    kind: &'static str,
    id: &'static str,
    api_version: &'static str,
    scope: (bool, bool),
) -> Kind {
    Kind { word, kind, id, api_version, is_namespaced: scope.0, is_watched: scope.1 }
}

/// Namespaced and watched.
const SEEN: (bool, bool) = (true, true);
/// Namespaced, not watched.
const UNSEEN: (bool, bool) = (true, false);

/// Every kind, in order of its word.
pub const KINDS: &[Kind] = &[
    kind("configmap", "ConfigMap", "configmaps", "v1", SEEN),
    kind("deployment", "Deployment", "deployments.apps", "apps/v1", SEEN),
    kind("lease", "Lease", "leases.coordination.k8s.io", "coordination.k8s.io/v1", SEEN),
    kind("namespace", "Namespace", "namespaces", "v1", (false, true)),
    kind("node", "Node", "nodes", "v1", (false, true)),
    kind("pod", "Pod", "pods", "v1", SEEN),
    kind("replicaset", "ReplicaSet", "replicasets.apps", "apps/v1", SEEN),
    kind("resourcequota", "ResourceQuota", "resourcequotas", "v1", UNSEEN),
    kind("secret", "Secret", "secrets", "v1", UNSEEN),
    kind("service", "Service", "services", "v1", SEEN),
    kind("serviceaccount", "ServiceAccount", "serviceaccounts", "v1", UNSEEN),
];

impl Kind {
    /// The kind of this word in scenario files.
    pub fn of_word(word: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.word == word)
    }

    /// The kind of a manifest.
    pub fn of_manifest(api_version: &str, kind: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|known| known.api_version == api_version && known.kind == kind)
    }

    /// The kind of this plural and group.
    pub fn of_id(id: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.id == id)
    }

    /// The plural, `deployments`.
    pub fn plural(&self) -> &'static str {
        self.id.split_once('.').map_or(self.id, |(plural, _)| plural)
    }

    /// The path of the collection, or of one object, at an API server.
    pub fn path(&self, namespace: &str, name: &str) -> String {
        let root = if self.api_version.contains('/') { "/apis" } else { "/api" };
        let mut path = format!("{root}/{}", self.api_version);
        if self.is_namespaced && !namespace.is_empty() {
            path.push_str(&format!("/namespaces/{namespace}"));
        }
        path.push_str(&format!("/{}", self.plural()));
        if !name.is_empty() {
            path.push_str(&format!("/{name}"));
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_paths_are_kubernetes_own() {
        assert!(KINDS.windows(2).all(|pair| pair[0].word < pair[1].word));
        assert_eq!(
            Kind::of_word("deployment").unwrap().path("shop", "web"),
            "/apis/apps/v1/namespaces/shop/deployments/web"
        );
        assert_eq!(Kind::of_word("node").unwrap().path("shop", "n"), "/api/v1/nodes/n");
        assert_eq!(Kind::of_word("pod").unwrap().path("", ""), "/api/v1/pods");
        assert_eq!(Kind::of_id("replicasets.apps").unwrap().plural(), "replicasets");
    }
}
