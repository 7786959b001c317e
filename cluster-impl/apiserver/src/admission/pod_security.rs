//! PodSecurity: pods keep to the level of the Pod Security Standards that their namespace asks for.
//!
//! Templates of workloads are only warned of. When a namespace asks for more than before, the pods that
//! run in it are looked at, and whoever changed it is told. What goes beyond the audited level is told to
//! the audit.
//! Limit: no exemptions.

use std::collections::BTreeMap;

use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::kinds::{NAMESPACE, POD};
use machinery::pod_security::{self as standards, Level, Pinned, Policy};
use machinery::{Object, ObjectKey, Status};
use serde_json::{Value, json};
use storage::RangeRequest;

use super::{Operation, Plugin, Review, Step, find, nothing_to_do};
use crate::server::ApiServer;
use crate::{status, storage_key};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "PodSecurity",
    stage: 11,
    admit: Step::Nothing,
    validate: Step::Waits(validate),
};

/// So many pods of a namespace are looked at when it asks for more.
const PODS_MAX: usize = 3000;
/// How the plugin's notes in the audit begin.
const AUDIT: &str = "pod-security.kubernetes.io/";
const SECCOMP: &str = "seccomp.security.alpha.kubernetes.io/pod";

/// Kinds that make pods, with where their template is.
const TEMPLATES: [(&str, &str); 8] = [
    ("cronjobs.batch", "/spec/jobTemplate/spec/template"),
    ("daemonsets.apps", "/spec/template"),
    ("deployments.apps", "/spec/template"),
    ("jobs.batch", "/spec/template"),
    ("podtemplates", "/template"),
    ("replicasets.apps", "/spec/template"),
    ("replicationcontrollers", "/spec/template"),
    ("statefulsets.apps", "/spec/template"),
];

fn validate<'a>(review: &'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>> {
    if review.operation == Operation::Delete {
        return nothing_to_do();
    }
    match (review.kind.id, review.subresource) {
        (id, "") if id == NAMESPACE.id => namespace(review).boxed(),
        (id, "" | "ephemeralcontainers" | "resize") if id == POD.id => {
            let new = review.object.as_deref();
            let is_unchanged =
                review.old.zip(new).is_some_and(|(old, new)| !is_significant(old, new));
            if is_unchanged { nothing_to_do() } else { pod(review).boxed() }
        }
        (id, "") => match TEMPLATES.iter().find(|(known, _)| *known == id) {
            Some((_, at)) => template(review, at).boxed(),
            None => nothing_to_do(),
        },
        _ => nothing_to_do(),
    }
}

/// The policy of the namespace in which something is written.
async fn policy(review: &Review<'_>) -> Result<Policy, Status> {
    let key = ObjectKey::new("", review.key.namespace.as_str());
    let namespace = find(review.server, &NAMESPACE, &key).await?;
    let labels = namespace.as_ref().and_then(|namespace| namespace.map("/metadata/labels"));
    Ok(Policy::of(labels).0)
}

async fn pod(review: &mut Review<'_>) -> Result<(), Status> {
    let policy = policy(review).await?;
    review.request.annotate(format!("{AUDIT}enforce-policy"), policy.enforce.to_string());
    if policy.is_privileged() {
        return Ok(());
    }
    let Some(pod) = review.object.as_deref() else { return Ok(()) };
    audit(review, pod, policy.audit);
    let found = standards::violations(pod, policy.enforce);
    if !found.is_empty() {
        let why =
            format!("violates PodSecurity \"{}\": {}", policy.enforce, standards::details(&found));
        return Err(review.refusal(&why));
    }
    warn(review, pod, policy.warn);
    Ok(())
}

async fn template(review: &mut Review<'_>, at: &str) -> Result<(), Status> {
    let policy = policy(review).await?;
    if policy.is_privileged() {
        return Ok(());
    }
    let template = review.object.as_deref().and_then(|object| object.get(at));
    if let Some(template) = template.filter(|template| template["spec"].is_object()) {
        let pod = Object(json!({"metadata": template["metadata"], "spec": template["spec"]}));
        audit(review, &pod, policy.audit);
        warn(review, &pod, policy.warn);
    }
    Ok(())
}

fn audit(review: &Review<'_>, pod: &Object, level: Pinned) {
    let found = standards::violations(pod, level);
    if !found.is_empty() {
        let told = standards::details(&found);
        let told = format!("would violate PodSecurity \"{level}\": {told}");
        review.request.annotate(format!("{AUDIT}audit-violations"), told);
    }
}

fn warn(review: &Review<'_>, pod: &Object, level: Pinned) {
    let found = standards::violations(pod, level);
    if !found.is_empty() {
        let told = standards::details(&found);
        review.request.warn(vec![format!("would violate PodSecurity \"{level}\": {told}")]);
    }
}

async fn namespace(review: &mut Review<'_>) -> Result<(), Status> {
    let Some(namespace) = review.object.as_deref() else { return Ok(()) };
    let (new, causes) = Policy::of(namespace.map("/metadata/labels"));
    let before = review.old.map(|old| Policy::of(old.map("/metadata/labels")));
    // What was wrong before may stay.
    if !causes.is_empty() && before.as_ref().is_none_or(|(_, before)| *before != causes) {
        let kind = review.kind;
        return Err(Status::invalid(kind.group, kind.kind, namespace.name(), &causes));
    }
    let Some((old, _)) = before else { return Ok(()) };
    let is_relaxed =
        new.enforce.minor == old.enforce.minor && new.enforce.level <= old.enforce.level;
    if new.enforce == old.enforce || new.enforce.level == Level::Privileged || is_relaxed {
        return Ok(());
    }
    let warnings = look_at_pods(review.server, namespace.name(), new.enforce).await?;
    review.request.warn(warnings);
    Ok(())
}

/// What is to be said of the pods that run in a namespace by a new level.
async fn look_at_pods(
    server: &ApiServer,
    namespace: &str,
    level: Pinned,
) -> Result<Vec<String>, Status> {
    let range = RangeRequest::latest(storage_key::range(&POD, namespace));
    let found = server.store.range(range).await.map_err(status::from_store)?;
    let total = found.kvs.len();
    let mut by_reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for kv in found.kvs.iter().take(PODS_MAX) {
        let pod = server.decoded.object(kv)?;
        let violations = standards::violations(&pod, level);
        if !violations.is_empty() {
            let reasons = standards::reasons(&violations);
            by_reasons.entry(reasons).or_default().push(pod.name().to_owned());
        }
    }
    let mut warnings = Vec::new();
    if total > PODS_MAX {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {PODS_MAX} of {total} \
             existing pods"
        ));
    }
    if !by_reasons.is_empty() {
        warnings.push(format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \
             \"{level}\""
        ));
    }
    let mut told: Vec<_> = by_reasons
        .into_iter()
        .map(|(reasons, names)| match names.len() {
            1 => format!("{}: {reasons}", names[0]),
            2 => format!("{} (and 1 other pod): {reasons}", names[0]),
            count => format!("{} (and {} other pods): {reasons}", names[0], count - 1),
        })
        .collect();
    told.sort();
    warnings.append(&mut told);
    Ok(warnings)
}

/// Whether an update changes what the standards speak of: most fields of a pod stay for ever.
fn is_significant(old: &Object, new: &Object) -> bool {
    let images = |pod: &Object, list: &str| -> Vec<(Value, Value)> {
        let containers = pod.0["spec"][list].as_array().into_iter().flatten();
        containers.map(|one| (one["name"].clone(), one["image"].clone())).collect()
    };
    old.annotation(SECCOMP) != new.annotation(SECCOMP)
        || ["containers", "initContainers", "ephemeralContainers"]
            .iter()
            .any(|list| images(old, list) != images(new, list))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Method;

    use super::*;
    use crate::testing::{World, deployment, named, pod, text};

    const NAMESPACES: &str = "/api/v1/namespaces";

    fn labelled(name: &str, labels: &[(&str, &str)]) -> Value {
        let mut namespace = named("v1", "Namespace", name);
        for (label, value) in labels {
            namespace["metadata"]["labels"][format!("pod-security.kubernetes.io/{label}")] =
                (*value).into();
        }
        namespace
    }

    async fn namespace(world: &World, name: &str, labels: &[(&str, &str)]) {
        world.create(NAMESPACES, labelled(name, labels)).await;
        let path = format!("{NAMESPACES}/{name}/serviceaccounts");
        world.create(&path, named("v1", "ServiceAccount", "default")).await;
    }

    /// The code and the warnings of a write.
    async fn told(world: &World, method: Method, path: &str, body: Value) -> (u16, Vec<String>) {
        let content_type = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let headers = [("content-type", content_type)];
        let response = world.send(method, path, &headers, Bytes::from(body.to_string())).await;
        let warnings = response.headers().get_all("warning").iter();
        let warnings = warnings.map(|one| {
            let text = one.to_str().unwrap().replace("\\\"", "\"");
            let text = text.strip_prefix("299 - \"").and_then(|text| text.strip_suffix('"'));
            text.unwrap().to_owned()
        });
        (response.status().as_u16(), warnings.collect())
    }

    const RESTRICTED: &str = "allowPrivilegeEscalation != false (container \"main\" must set \
        securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \
        \"main\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or \
        container \"main\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or \
        container \"main\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
        \"Localhost\")";

    #[tokio::test(start_paused = true)]
    async fn pods_are_refused_and_templates_warned_of() {
        let world = World::new().await;
        namespace(&world, "strict", &[("enforce", "restricted")]).await;
        let pods = format!("{NAMESPACES}/strict/pods");
        let (code, answer) = world.call(Method::POST, &pods, &pod("a")).await;
        assert_eq!(code, 403);
        assert_eq!(
            text(&answer["message"]),
            format!(
                "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": {RESTRICTED}"
            )
        );
        let deployments = "/apis/apps/v1/namespaces/strict/deployments";
        let (code, warnings) = told(&world, Method::POST, deployments, deployment("web")).await;
        assert_eq!(code, 201);
        assert_eq!(
            warnings,
            [format!("would violate PodSecurity \"restricted:latest\": {RESTRICTED}")]
        );
        let mut good = pod("good");
        good["spec"]["containers"][0]["securityContext"] = json!({"runAsNonRoot": true,
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"}});
        assert_eq!(told(&world, Method::POST, &pods, good).await, (201, Vec::new()));
        // What does not change what the standards speak of is let through.
        let labels = json!({"metadata": {"labels": {"a": "b"}}});
        world.patch(&format!("{pods}/good"), labels).await;
        let debugger = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "t:1"}]}});
        let path = format!("{pods}/good/ephemeralcontainers");
        assert_eq!(told(&world, Method::PATCH, &path, debugger).await.0, 403);
    }

    #[tokio::test(start_paused = true)]
    async fn warnings_alone_refuse_nothing() {
        let world = World::new().await;
        let labels = [("enforce", "baseline"), ("warn", "restricted"), ("warn-version", "v1.30")];
        namespace(&world, "mild", &labels).await;
        let pods = format!("{NAMESPACES}/mild/pods");
        let (code, warnings) = told(&world, Method::POST, &pods, pod("a")).await;
        assert_eq!(
            (code, warnings),
            (201, vec![format!("would violate PodSecurity \"restricted:v1.30\": {RESTRICTED}")])
        );
        let mut bad = pod("b");
        bad["spec"]["hostNetwork"] = true.into();
        let (code, answer) = world.call(Method::POST, &pods, &bad).await;
        assert_eq!(code, 403);
        assert_eq!(
            text(&answer["message"]),
            "pods \"b\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces \
             (hostNetwork=true)"
        );
        let mut plain = pod("c");
        plain["spec"]["hostNetwork"] = true.into();
        let elsewhere = format!("{NAMESPACES}/default/pods");
        assert_eq!(told(&world, Method::POST, &elsewhere, plain).await, (201, Vec::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_beyond_the_audited_level_is_told_to_the_audit() {
        let world = World::new().await;
        let labels = [("enforce", "baseline"), ("audit", "restricted"), ("audit-version", "v1.30")];
        namespace(&world, "watched", &labels).await;
        world.audit();
        world.create(&format!("{NAMESPACES}/watched/pods"), pod("a")).await;
        let deployments = "/apis/apps/v1/namespaces/watched/deployments";
        world.create(deployments, deployment("web")).await;
        let violation = format!("would violate PodSecurity \"restricted:v1.30\": {RESTRICTED}");
        let lines = world.audit();
        let told = |at: usize, note: &str| {
            lines[at].annotations.get(&format!("pod-security.kubernetes.io/{note}")).cloned()
        };
        assert_eq!(told(0, "enforce-policy").as_deref(), Some("baseline:latest"));
        assert_eq!(told(0, "audit-violations"), Some(violation.clone()));
        assert_eq!(
            (told(1, "enforce-policy"), told(1, "audit-violations")),
            (None, Some(violation))
        );
        let mut bad = pod("b");
        bad["spec"]["hostNetwork"] = true.into();
        let path = format!("{NAMESPACES}/watched/pods");
        assert_eq!(world.call(Method::POST, &path, &bad).await.0, 403);
        let line = &world.audit()[0];
        let note = &line.annotations["pod-security.kubernetes.io/audit-violations"];
        assert!(line.code == 403 && note.contains("host namespaces"), "{note}");
        world.create("/api/v1/namespaces/default/pods", pod("c")).await;
        let notes = &world.audit()[0].annotations;
        assert_eq!(notes["pod-security.kubernetes.io/enforce-policy"], "privileged:latest");
        assert!(!notes.contains_key("pod-security.kubernetes.io/audit-violations"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_asks_for_more_tells_who_falls_short() {
        let world = World::new().await;
        namespace(&world, "later", &[]).await;
        let pods = format!("{NAMESPACES}/later/pods");
        for (name, host_network) in [("b", true), ("a", true), ("c", false)] {
            let mut body = pod(name);
            body["spec"]["hostNetwork"] = host_network.into();
            world.create(&pods, body).await;
        }
        let path = format!("{NAMESPACES}/later");
        let label = |level: &str| labelled("later", &[("enforce", level)]);
        let (code, warnings) = told(&world, Method::PATCH, &path, label("baseline")).await;
        assert_eq!(code, 200);
        assert_eq!(
            warnings,
            [
                "existing pods in namespace \"later\" violate the new PodSecurity enforce level \
                 \"baseline:latest\"",
                "a (and 1 other pod): host namespaces",
            ]
        );
        let (_, warnings) = told(&world, Method::PATCH, &path, label("restricted")).await;
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(
            warnings[1].starts_with("a (and 1 other pod): host namespaces, allow"),
            "{warnings:?}"
        );
        assert!(
            warnings[2].starts_with("c: allowPrivilegeEscalation != false, unr"),
            "{warnings:?}"
        );
        let relaxed = told(&world, Method::PATCH, &path, label("baseline")).await;
        assert_eq!(relaxed, (200, Vec::new()));
        let (code, answer) = world.call(Method::PATCH, &path, &label("strict")).await;
        assert_eq!(code, 422);
        assert_eq!(
            text(&answer["message"]),
            "Namespace \"later\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: \
             Invalid value: \"strict\": must be one of privileged, baseline, restricted"
        );
    }
}
