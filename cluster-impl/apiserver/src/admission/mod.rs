//! Admission: what may still be filled in or refused before a write. One file per plugin.

mod attributes;
mod authorizer;
mod certificate_approval;
mod certificate_signing;
mod certificate_subject_restriction;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod expressions;
mod limit_ranger;
mod mutating_admission_webhook;
mod namespace_lifecycle;
pub(crate) mod node_restriction;
mod persistent_volume_claim_resize;
mod pod_security;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_object_in_use_protection;
mod taint_nodes_by_condition;
mod validating_admission_policy;
mod validating_admission_webhook;
mod webhook;

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::{Kind, Object, ObjectKey, Status};
use storage::{KeyRange, RangeRequest};
use tokio::time::Instant;

use crate::codec::Stored;
use crate::commit::Along;
use crate::config::{Config, User};
use crate::picture::Picture;
use crate::request::Request;
use crate::server::ApiServer;
use crate::verbs::create::read_namespace;
use crate::{status, storage_key};

pub(crate) use resource_quota::{Turn, Turns};

/// Every plugin, in order of name. They run in order of their `stage`: first everyone's `admit`, then,
/// after the kind's own validation, everyone's `validate`.
pub(crate) static ALL: &[Plugin] = &[
    certificate_approval::PLUGIN,
    certificate_signing::PLUGIN,
    certificate_subject_restriction::PLUGIN,
    default_ingress_class::PLUGIN,
    default_storage_class::PLUGIN,
    default_toleration_seconds::PLUGIN,
    limit_ranger::PLUGIN,
    mutating_admission_webhook::PLUGIN,
    namespace_lifecycle::PLUGIN,
    node_restriction::PLUGIN,
    persistent_volume_claim_resize::PLUGIN,
    pod_security::PLUGIN,
    priority::PLUGIN,
    resource_quota::PLUGIN,
    runtime_class::PLUGIN,
    service_account::PLUGIN,
    storage_object_in_use_protection::PLUGIN,
    taint_nodes_by_condition::PLUGIN,
    validating_admission_policy::PLUGIN,
    validating_admission_webhook::PLUGIN,
];

/// The plugins that upstream has, in the order in which they run; a plugin's stage is its place here
/// (`AllOrderedPlugins` of pkg/kubeapiserver/options/plugins.go).
#[cfg(test)]
const ORDER: [&str; 35] = [
    "AlwaysAdmit",
    "NamespaceAutoProvision",
    "NamespaceLifecycle",
    "NamespaceExists",
    "LimitPodHardAntiAffinityTopology",
    "LimitRanger",
    "ServiceAccount",
    "NodeRestriction",
    "TaintNodesByCondition",
    "AlwaysPullImages",
    "ImagePolicyWebhook",
    "PodSecurity",
    "PodNodeSelector",
    "Priority",
    "DefaultTolerationSeconds",
    "PodTolerationRestriction",
    "EventRateLimit",
    "ExtendedResourceToleration",
    "DefaultStorageClass",
    "StorageObjectInUseProtection",
    "OwnerReferencesPermissionEnforcement",
    "PersistentVolumeClaimResize",
    "RuntimeClass",
    "CertificateApproval",
    "CertificateSigning",
    "ClusterTrustBundleAttest",
    "CertificateSubjectRestriction",
    "DefaultIngressClass",
    "DenyServiceExternalIPs",
    "PodTopologyLabels",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionWebhook",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
    "ResourceQuota",
];

static IN_ORDER: LazyLock<Vec<&'static Plugin>> = LazyLock::new(|| {
    let mut plugins: Vec<_> = ALL.iter().collect();
    plugins.sort_by_key(|plugin| plugin.stage);
    plugins
});

/// Which plugins run: all that this server has, but for some.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plugins {
    disabled: BTreeSet<String>,
}

impl Plugins {
    /// The names of all plugins that this server has. All of them run by default.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ALL.iter().map(|plugin| plugin.name)
    }

    /// What `--enable-admission-plugins` and `--disable-admission-plugins` ask for.
    pub fn choose(enabled: &[String], disabled: &[String]) -> Result<Self, String> {
        for (flag, names) in [("enable", enabled), ("disable", disabled)] {
            if let Some(name) = names.iter().find(|name| Self::names().all(|known| known != *name))
            {
                let known: Vec<_> = Self::names().collect();
                return Err(format!(
                    "{flag}-admission-plugins plugin \"{name}\" is unknown; known are {}",
                    known.join(", ")
                ));
            }
        }
        let both: Vec<_> = enabled.iter().filter(|name| disabled.contains(name)).collect();
        if !both.is_empty() {
            return Err(format!(
                "{both:?} in enable-admission-plugins and disable-admission-plugins overlapped"
            ));
        }
        Ok(Self { disabled: disabled.iter().cloned().collect() })
    }

    fn runs(&self, plugin: &Plugin) -> bool {
        self.disabled.is_empty() || !self.disabled.contains(plugin.name)
    }
}

/// One admission plugin.
pub(crate) struct Plugin {
    /// As in `--enable-admission-plugins`.
    pub(crate) name: &'static str,
    /// When it runs: its place among upstream's plugins, which the tests list.
    pub(crate) stage: u8,
    /// Changes the object or refuses the write.
    pub(crate) admit: Step,
    /// Refuses the write as it would be stored, or says what must hold and be written along with it.
    /// What it changes in the object is not looked at any more.
    pub(crate) validate: Step,
}

/// What a plugin does at one point of a write.
pub(crate) enum Step {
    /// Nothing.
    Nothing,
    /// Something that needs no waiting.
    Now(fn(&mut Review<'_>) -> Result<(), Status>),
    /// Something that asks others, or reads the store.
    Waits(for<'a> fn(&'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>>),
}

impl Step {
    fn is_nothing(&self) -> bool {
        matches!(self, Step::Nothing)
    }

    async fn run(&self, review: &mut Review<'_>) -> Result<(), Status> {
        match self {
            Step::Nothing => Ok(()),
            Step::Now(step) => step(review),
            Step::Waits(step) => step(review).await,
        }
    }
}

/// What is done to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A stream to something is opened.
    Connect,
    Create,
    Delete,
    Update,
}

/// One write, as a plugin sees it.
pub(crate) struct Review<'r> {
    pub(crate) server: &'r ApiServer,
    /// What was asked for. The object need not be the one that it names: a request may write others.
    pub(crate) request: &'r Request,
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
    /// What must hold and be written in the transaction of the write; only for creates and updates.
    pub(crate) along: Along,
    /// What webhooks did so far.
    pub(crate) webhooks: webhook::Progress,
}

impl<'r> Review<'r> {
    /// What a request does, before anything is known of the object.
    pub(crate) fn new(server: &'r ApiServer, request: &'r Request, operation: Operation) -> Self {
        Self {
            server,
            request,
            operation,
            kind: request.kind,
            subresource: &request.subresource,
            key: &request.key,
            object: None,
            namespace: None,
            old: None,
            user: &request.user,
            config: &server.config,
            along: Along::default(),
            webhooks: webhook::Progress::default(),
        }
    }

    /// The pod that is written, if it is one and not merely a subresource of it.
    pub(crate) fn pod(&mut self, operations: &[Operation]) -> Option<&mut Object> {
        self.written("pods", operations)
    }

    /// The object that is written, if it is of this kind and not merely a subresource of one.
    pub(crate) fn written(&mut self, id: &str, operations: &[Operation]) -> Option<&mut Object> {
        let is_meant = self.kind.id == id
            && self.subresource.is_empty()
            && operations.contains(&self.operation);
        self.object.as_deref_mut().filter(|_| is_meant)
    }

    /// 403, said of what is written.
    pub(crate) fn refusal(&self, why: &str) -> Status {
        status::forbidden(self.kind, &self.key.name, why)
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

/// What a step that needs to wait for nothing answers.
pub(crate) fn nothing_to_do<'a>() -> BoxFuture<'a, Result<(), Status>> {
    std::future::ready(Ok(())).boxed()
}

/// An object that hardly ever changes: as the server's picture has it, or as it is, should the picture
/// not have it yet.
pub(crate) async fn find(
    server: &ApiServer,
    kind: &'static Kind,
    key: &ObjectKey,
) -> Result<Option<Arc<Object>>, Status> {
    if let Some(known) = Picture::get(server, kind, key).await? {
        return Ok(Some(known));
    }
    let range = KeyRange::key(storage_key::key(kind, key));
    let found = server.store.range(RangeRequest::latest(range)).await;
    let kv = found.map_err(status::from_store)?.kvs.pop();
    kv.as_ref().map(|kv| server.decoded.object(kv)).transpose()
}

/// The newest object that one of these annotations marks; of equally new ones the first by name.
fn newest_marked<'o>(objects: &'o [Arc<Object>], marks: &[&str]) -> Option<&'o Arc<Object>> {
    let is_marked = |object: &&Arc<Object>| {
        marks.iter().any(|mark| object.annotation(mark).is_some_and(|value| value == "true"))
    };
    let newest = |one: &&Arc<Object>, other: &&Arc<Object>| {
        other.created().cmp(&one.created()).then_with(|| one.name().cmp(other.name()))
    };
    objects.iter().filter(is_marked).min_by(newest)
}

/// Lets every plugin change the object or refuse the write; once more if a webhook changed it, for
/// the others know nothing of what that put in.
pub(crate) async fn mutate(review: &mut Review<'_>) -> Result<(), Status> {
    let began = review.server.env.instant();
    let outcome = mutate_unmeasured(review).await;
    measure(review, ("", "admit"), outcome.is_err(), began);
    outcome
}

async fn mutate_unmeasured(review: &mut Review<'_>) -> Result<(), Status> {
    let chosen = &review.config.admission;
    for _ in 0..2 {
        for plugin in IN_ORDER.iter().filter(|plugin| chosen.runs(plugin)) {
            run_step(plugin, review, true).await?;
        }
        if !review.webhooks.begin_again() {
            break;
        }
    }
    Ok(())
}

/// Runs one step of a plugin, and measures it.
async fn run_step(
    plugin: &Plugin,
    review: &mut Review<'_>,
    is_mutating: bool,
) -> Result<(), Status> {
    let (step, name) = match is_mutating {
        true => (&plugin.admit, "admit"),
        false => (&plugin.validate, "validate"),
    };
    if step.is_nothing() {
        return Ok(());
    }
    let began = review.server.env.instant();
    let outcome = step.run(review).await;
    measure(review, (plugin.name, name), outcome.is_err(), began);
    outcome.inspect_err(|status| tracing::debug!(plugin = plugin.name, %status, "refused"))
}

fn measure(review: &Review<'_>, (name, step): (&str, &str), is_refused: bool, began: Instant) {
    let metrics = &review.server.metrics;
    metrics.admitted((name, step, review.operation.name()), is_refused, began);
}

/// Admission of something that is posted to a subresource, or of a stream that is opened, and not
/// stored: a Binding, an Eviction, the options of a connection.
pub(crate) async fn pass(
    server: &ApiServer,
    request: &Request,
    operation: Operation,
    key: &ObjectKey,
    object: &mut Object,
) -> Result<(), Status> {
    let namespace = namespace(server, &key.namespace).await?;
    let mut review = Review {
        key,
        object: Some(object),
        namespace: namespace.as_ref(),
        ..Review::new(server, request, operation)
    };
    mutate(&mut review).await?;
    validate(review).await.map(drop)
}

/// Lets every plugin refuse what would be stored; answers what must be written along with it.
pub(crate) async fn validate(mut review: Review<'_>) -> Result<Along, Status> {
    let began = review.server.env.instant();
    let outcome = validate_unmeasured(&mut review).await;
    measure(&review, ("", "validate"), outcome.is_err(), began);
    outcome.map(|()| review.along)
}

async fn validate_unmeasured(review: &mut Review<'_>) -> Result<(), Status> {
    if let Some(object) = review.object.as_deref() {
        expressions::check(review.kind, object, review.old)?;
    }
    let chosen = &review.config.admission;
    for plugin in IN_ORDER.iter().filter(|plugin| chosen.runs(plugin)) {
        run_step(plugin, review, false).await?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing;

    /// A write on which one plugin is tried.
    pub(crate) struct Trial {
        server: Arc<ApiServer>,
        request: Request,
    }

    impl Trial {
        pub(crate) fn new(user: &User, kind: &'static Kind, key: ObjectKey, part: &str) -> Self {
            let server = testing::server(Config::default());
            Self { server, request: testing::request(user, kind, key, part) }
        }

        pub(crate) fn review(&self, operation: Operation) -> Review<'_> {
            Review::new(&self.server, &self.request, operation)
        }
    }

    /// Runs one plugin over an object that is created in an Active namespace.
    pub(crate) async fn created(
        plugin: &Plugin,
        kind: &'static Kind,
        object: &mut Object,
    ) -> Result<(), Status> {
        let trial = Trial::new(&User::new("jane", &[]), kind, object.key(), "");
        let namespace = Namespace { key: Vec::new(), revision: 1, is_terminating: false };
        let mut review = Review {
            object: Some(object),
            namespace: Some(&namespace),
            ..trial.review(Operation::Create)
        };
        plugin.admit.run(&mut review).await?;
        plugin.validate.run(&mut review).await
    }

    #[test]
    fn the_list_is_sorted_and_runs_in_upstreams_order() {
        assert!(ALL.windows(2).all(|pair| pair[0].name < pair[1].name));
        for plugin in ALL {
            assert_eq!(ORDER[usize::from(plugin.stage)], plugin.name);
        }
    }

    #[test]
    fn plugins_are_chosen_by_name() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let choose = |on: &[&str], off: &[&str]| Plugins::choose(&names(on), &names(off));
        let priority = ALL.iter().find(|plugin| plugin.name == "Priority").unwrap();
        assert!(choose(&["Priority"], &[]).unwrap().runs(priority));
        assert!(!choose(&["PodSecurity"], &["Priority"]).unwrap().runs(priority));
        let unknown = choose(&[], &["Prioity"]).unwrap_err();
        assert!(
            unknown
                .starts_with("disable-admission-plugins plugin \"Prioity\" is unknown; known are")
        );
        assert!(unknown.contains("PodSecurity, Priority, ResourceQuota"), "{unknown}");
        assert_eq!(
            choose(&["Priority"], &["Priority"]).unwrap_err(),
            "[\"Priority\"] in enable-admission-plugins and disable-admission-plugins overlapped"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_disabled_plugin_does_not_run() {
        let admission = Plugins::choose(&[], &["ServiceAccount".to_owned()]).unwrap();
        let config = Config { admission, ..Config::default() };
        let world = testing::World::with(&[], config).await;
        let made = world.create(testing::PODS, testing::pod("a")).await;
        assert_eq!(made["spec"].get("serviceAccountName"), None);
    }
}
