//! Admission: what may still be filled in or refused before a write. One file per plugin.

mod default_toleration_seconds;
mod namespace_lifecycle;
pub(crate) mod node_restriction;
mod priority;
mod service_account;

use machinery::{Kind, Object, ObjectKey, Status};

use crate::codec::Stored;
use crate::config::{Config, User};
use crate::server::ApiServer;
use crate::verbs::create::read_namespace;

/// Every plugin, in order of name. They run in order of their `stage`.
pub(crate) static ALL: &[Plugin] = &[
    default_toleration_seconds::PLUGIN,
    namespace_lifecycle::PLUGIN,
    node_restriction::PLUGIN,
    priority::PLUGIN,
    service_account::PLUGIN,
];

/// How many stages there are; [`ALL`] holds one plugin for each.
const STAGES: u8 = 5;

/// One admission plugin.
pub(crate) struct Plugin {
    /// As in `--enable-admission-plugins`.
    pub(crate) name: &'static str,
    /// When it runs, from 0.
    pub(crate) stage: u8,
    /// Changes the object or refuses the write.
    pub(crate) admit: fn(&mut Review<'_>) -> Result<(), Status>,
}

/// What is done to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

/// One write, as a plugin sees it.
pub(crate) struct Review<'r> {
    pub(crate) operation: Operation,
    pub(crate) kind: &'static Kind,
    pub(crate) subresource: &'r str,
    pub(crate) key: &'r ObjectKey,
    /// What would be written; `None` for a deletion.
    pub(crate) object: Option<&'r mut Object>,
    /// The object's namespace, when one is created in it; `None` if it does not exist.
    pub(crate) namespace: Option<&'r Namespace>,
    /// What is there, if something is replaced.
    pub(crate) old: Option<&'r Object>,
    /// Who asks.
    pub(crate) user: &'r User,
    pub(crate) config: &'r Config,
}

impl Review<'_> {
    /// The pod that is written, if it is one and not merely a subresource of it.
    pub(crate) fn pod(&mut self, operations: &[Operation]) -> Option<&mut Object> {
        let is_meant = self.kind.id == "pods"
            && self.subresource.is_empty()
            && operations.contains(&self.operation);
        self.object.as_deref_mut().filter(|_| is_meant)
    }
}

/// A namespace as it was at a revision.
#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    pub(crate) key: Vec<u8>,
    pub(crate) revision: i64,
    pub(crate) is_terminating: bool,
}

/// The namespace of this name. Whoever relies on the answer compares its revision when writing.
pub(crate) async fn namespace(server: &ApiServer, name: &str) -> Result<Option<Namespace>, Status> {
    let key = crate::storage_key::key(&machinery::kinds::NAMESPACE, &ObjectKey::new("", name));
    if let Some(revision) = server.namespaces.revision(name) {
        return Ok(Some(Namespace { key, revision, is_terminating: false }));
    }
    let Some(kv) = read_namespace(server, name).await? else { return Ok(None) };
    let object = Stored::from(&kv).object()?;
    let is_terminating = object.is_terminating() || object.text("/status/phase") == "Terminating";
    if !is_terminating {
        server.namespaces.keep(name, kv.mod_revision);
    }
    Ok(Some(Namespace { key, revision: kv.mod_revision, is_terminating }))
}

/// Asks every plugin, in order of stage.
pub(crate) fn admit(mut review: Review<'_>) -> Result<(), Status> {
    for stage in 0..STAGES {
        for plugin in ALL.iter().filter(|plugin| plugin.stage == stage) {
            (plugin.admit)(&mut review).inspect_err(|status| {
                tracing::debug!(plugin = plugin.name, %status, "refused");
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Runs one plugin over an object that is created in an Active namespace.
    pub(crate) fn created(
        plugin: &Plugin,
        kind: &'static Kind,
        object: &mut Object,
    ) -> Result<(), Status> {
        let key = object.key();
        let namespace = Namespace { key: Vec::new(), revision: 1, is_terminating: false };
        (plugin.admit)(&mut Review {
            operation: Operation::Create,
            kind,
            subresource: "",
            key: &key,
            object: Some(object),
            namespace: Some(&namespace),
            old: None,
            user: &User::new("jane", &[]),
            config: &Config::default(),
        })
    }

    #[test]
    fn the_list_is_sorted_and_every_stage_is_taken_once() {
        assert!(ALL.windows(2).all(|pair| pair[0].name < pair[1].name));
        let mut stages: Vec<_> = ALL.iter().map(|plugin| plugin.stage).collect();
        stages.sort_unstable();
        assert_eq!(stages, (0..STAGES).collect::<Vec<_>>());
    }
}
