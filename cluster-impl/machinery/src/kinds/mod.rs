//! The registry of kinds: one file per kind, one line per kind in [`ALL`].

use serde_json::Value;

use crate::{Cause, Object};

macro_rules! registry {
    ($($module:ident :: $name:ident,)+) => {
        $(mod $module;)+
        $(pub use $module::$name;)+
        /// Every kind, in order of its file's name.
        pub static ALL: &[&Kind] = &[$(&$name,)+];
    };
}

registry! {
    config_map::CONFIG_MAP,
    deployment::DEPLOYMENT,
    event::EVENT,
    lease::LEASE,
    namespace::NAMESPACE,
    node::NODE,
    pod::POD,
    replica_set::REPLICA_SET,
    secret::SECRET,
    service::SERVICE,
    service_account::SERVICE_ACCOUNT,
}

/// A column of the table that `kubectl get` prints.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// `string`, `integer` or `date`.
    pub format: &'static str,
    /// 0 always shown, 1 only with `-o wide`.
    pub priority: u8,
}

/// What the API server must know of a kind.
#[derive(Debug)]
pub struct Kind {
    /// Plural and group, such as `pods` or `deployments.apps`.
    pub id: &'static str,
    /// API group; "" for core.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Plural, as in URLs.
    pub plural: &'static str,
    /// Short names, such as `po`.
    pub short_names: &'static [&'static str],
    /// Categories, such as `all`.
    pub categories: &'static [&'static str],
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether `/status` is a subresource of its own.
    pub has_status: bool,
    /// Whether `/scale` exists.
    pub has_scale: bool,
    /// Whether a change of `spec` raises `metadata.generation`.
    pub has_generation: bool,
    /// Fields by which a list can be narrowed, beside metadata.name and metadata.namespace:
    /// the field's name and its JSON pointer.
    pub selectable: &'static [(&'static str, &'static str)],
    /// Sets the defaults that upstream sets.
    pub default: fn(&mut Object),
    /// What is wrong with an object; with the old one for an update.
    pub validate: fn(&Object, Option<&Object>) -> Vec<Cause>,
    /// The table's columns, without Name and Age... as upstream prints them, Name first.
    pub columns: &'static [Column],
    /// The cells of one row; ages are computed from `now`.
    pub cells: fn(&Object, now: jiff::Timestamp) -> Vec<Value>,
}

impl Kind {
    /// Group and version, such as `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The kind with this group and plural.
    pub fn by_plural(group: &str, plural: &str) -> Option<&'static Kind> {
        ALL.iter().copied().find(|kind| kind.group == group && kind.plural == plural)
    }

    /// The kind with this `apiVersion` and `kind`.
    pub fn by_name(api_version: &str, name: &str) -> Option<&'static Kind> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        ALL.iter()
            .copied()
            .find(|kind| kind.group == group && kind.version == version && kind.kind == name)
    }

    /// The URL path of the collection, or of one object if `name` is not empty.
    /// An empty namespace names all namespaces, or a cluster-scoped kind.
    pub fn path(&self, namespace: &str, name: &str) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if self.namespaced && !namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(self.plural);
        if !name.is_empty() {
            path.push('/');
            path.push_str(name);
        }
        path
    }
}
