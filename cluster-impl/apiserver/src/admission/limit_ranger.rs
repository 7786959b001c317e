//! LimitRanger: what containers get if they ask for nothing, and what nobody may ask for.
//!
//! As upstream, an update of a pod is not looked at but through `resize`, and what is being deleted is
//! let through.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::kinds::{LIMIT_RANGE, PERSISTENT_VOLUME_CLAIM, POD};
use machinery::pod::{self, Resources};
use machinery::{Object, Quantity, Status};
use serde_json::{Map, Value};

use super::{Operation, Plugin, Review, Step, nothing_to_do};
use crate::picture::Picture;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "LimitRanger",
    stage: 5,
    admit: Step::Waits(admit),
    validate: Step::Waits(validate),
};

/// Where it is told what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";
const CONTAINERS: [(&str, &str); 2] =
    [("containers", "container"), ("initContainers", "init container")];

fn admit<'a>(review: &'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>> {
    if is_concerned(review) { fill_in(review).boxed() } else { nothing_to_do() }
}

fn validate<'a>(review: &'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>> {
    if is_concerned(review) { check(review).boxed() } else { nothing_to_do() }
}

fn is_concerned(review: &Review<'_>) -> bool {
    let is_meant = match (review.kind.id, review.subresource, review.operation) {
        (id, "", Operation::Create) => id == POD.id || id == PERSISTENT_VOLUME_CLAIM.id,
        (id, "", Operation::Update) => id == PERSISTENT_VOLUME_CLAIM.id,
        (id, "resize", Operation::Update) => id == POD.id,
        _ => false,
    };
    is_meant && !review.old.is_some_and(Object::is_terminating)
}

async fn ranges(review: &Review<'_>) -> Result<Vec<Arc<Object>>, Status> {
    Picture::all(review.server, &LIMIT_RANGE, &review.key.namespace).await
}

async fn fill_in(review: &mut Review<'_>) -> Result<(), Status> {
    if review.kind.id != POD.id {
        return Ok(());
    }
    let ranges = ranges(review).await?;
    if let Some(pod) = review.object.as_deref_mut() {
        for range in ranges {
            default(pod, &range);
        }
    }
    Ok(())
}

async fn check(review: &mut Review<'_>) -> Result<(), Status> {
    let ranges = ranges(review).await?;
    let Some(object) = review.object.as_deref() else { return Ok(()) };
    for range in ranges {
        let mut found = violations(review.kind.id == POD.id, object, &range);
        let mut seen = std::collections::BTreeSet::new();
        found.retain(|one| seen.insert(one.clone()));
        match found.as_slice() {
            [] => {}
            [one] => return Err(review.refusal(one)),
            more => return Err(review.refusal(&format!("[{}]", more.join(", ")))),
        }
    }
    Ok(())
}

fn limits<'r>(range: &'r Object, kind: &'r str) -> impl Iterator<Item = &'r Value> {
    range.list("/spec/limits").iter().filter(move |limit| limit["type"] == kind)
}

/// Gives containers what they do not ask for, and notes what it was.
fn default(pod: &mut Object, range: &Object) {
    let mut wanted = [("requests", "defaultRequest"), ("limits", "default")]
        .map(|(which, from)| (which, Map::new(), from));
    for limit in limits(range, "Container") {
        for (_, amounts, from) in &mut wanted {
            amounts.extend(limit[*from].as_object().cloned().unwrap_or_default());
        }
    }
    let mut told = Vec::new();
    for (list, what) in CONTAINERS {
        let containers = pod.0.pointer_mut(&format!("/spec/{list}"));
        let Some(containers) = containers.and_then(Value::as_array_mut) else { continue };
        for container in containers {
            told.extend(fill_container(container, what, &wanted));
        }
    }
    if !told.is_empty() {
        let told = format!("LimitRanger plugin set: {}", told.join("; "));
        pod.set(&format!("/metadata/annotations/{}", ANNOTATION.replace('/', "~1")), told);
    }
}

fn fill_container(
    container: &mut Value,
    what: &str,
    wanted: &[(&str, Map<String, Value>, &str)],
) -> Vec<String> {
    let name = container["name"].as_str().unwrap_or_default().to_owned();
    let mut told = Vec::new();
    for (which, amounts, _) in wanted {
        let own = container["resources"][*which].as_object().cloned().unwrap_or_default();
        let missing = amounts.iter().filter(|(name, _)| !own.contains_key(*name));
        let mut names: Vec<_> = missing.clone().map(|(name, _)| name.as_str()).collect();
        if names.is_empty() {
            continue;
        }
        let filled = missing.map(|(name, amount)| (name.clone(), amount.clone()));
        let filled: Map<_, _> = own.clone().into_iter().chain(filled).collect();
        if !container["resources"].is_object() {
            container["resources"] = Value::Object(Map::new());
        }
        container["resources"][*which] = Value::Object(filled);
        names.sort_unstable();
        let which = which.trim_end_matches('s');
        told.push(format!("{} {which} for {what} {name}", names.join(", ")));
    }
    told
}

/// How an object goes beyond a range.
fn violations(is_pod: bool, object: &Object, range: &Object) -> Vec<String> {
    let mut found = Vec::new();
    if !is_pod {
        let asked = amounts(&object.0["spec"]["resources"]["requests"]);
        for limit in limits(range, "PersistentVolumeClaim") {
            let subject = Subject { what: "PersistentVolumeClaim", requests: &asked, limits: None };
            found.extend(subject.violations(limit));
        }
        return found;
    }
    for limit in range.list("/spec/limits") {
        if limit["type"] == "Container" {
            for container in CONTAINERS
                .iter()
                .flat_map(|(list, _)| object.0["spec"][*list].as_array().into_iter().flatten())
            {
                let requests = amounts(&container["resources"]["requests"]);
                let limits = amounts(&container["resources"]["limits"]);
                let (requests, limits) = (&requests, Some(&limits));
                found.extend(Subject { what: "Container", requests, limits }.violations(limit));
            }
        } else if limit["type"] == "Pod" {
            let (requests, limits) = (pod::requests(object), pod::limits(object));
            let (requests, limits) = (&requests, Some(&limits));
            found.extend(Subject { what: "Pod", requests, limits }.violations(limit));
        }
    }
    found
}

fn amounts(value: &Value) -> Resources {
    pod::resources(value)
}

/// What asks for something.
struct Subject<'s> {
    what: &'static str,
    requests: &'s Resources,
    /// `None` for what has no limits.
    limits: Option<&'s Resources>,
}

impl Subject<'_> {
    fn violations(&self, limit: &Value) -> Vec<String> {
        let list = |name: &str| amounts(&limit[name]).into_iter();
        let least = list("min").filter_map(|(name, least)| self.too_little(&name, least));
        let most = list("max").filter_map(|(name, most)| match self.limits {
            Some(limits) => self.too_much(&name, most, limits),
            None => self.too_much_asked(&name, most),
        });
        let ratios = list("maxLimitRequestRatio").filter(|_| self.limits.is_some());
        let ratios = ratios.filter_map(|(name, most)| self.too_uneven(&name, most));
        least.chain(most).chain(ratios).collect()
    }

    fn limit(&self, name: &str) -> Option<Quantity> {
        self.limits?.get(name).copied()
    }

    fn too_little(&self, name: &str, least: Quantity) -> Option<String> {
        let told = format!("minimum {name} usage per {} is {least}", self.what);
        let Some(request) = self.requests.get(name) else {
            return Some(format!("{told}.  No request is specified"));
        };
        if *request < least {
            return Some(format!("{told}, but request is {request}"));
        }
        let limit = self.limit(name).filter(|limit| *limit < least);
        limit.map(|limit| format!("{told}, but limit is {limit}"))
    }

    fn too_much(&self, name: &str, most: Quantity, limits: &Resources) -> Option<String> {
        let told = format!("maximum {name} usage per {} is {most}", self.what);
        let Some(limit) = limits.get(name) else {
            return Some(format!("{told}.  No limit is specified"));
        };
        if *limit > most {
            return Some(format!("{told}, but limit is {limit}"));
        }
        let request = self.requests.get(name).filter(|request| **request > most);
        request.map(|request| format!("{told}, but request is {request}"))
    }

    fn too_much_asked(&self, name: &str, most: Quantity) -> Option<String> {
        let told = format!("maximum {name} usage per {} is {most}", self.what);
        match self.requests.get(name) {
            None => Some(format!("{told}.  No request is specified")),
            Some(request) if *request > most => Some(format!("{told}, but request is {request}")),
            Some(_) => None,
        }
    }

    fn too_uneven(&self, name: &str, most: Quantity) -> Option<String> {
        let told = format!("{name} max limit to request ratio per {} is {most}", self.what);
        let some = |amount: Option<Quantity>| amount.filter(|amount| !amount.is_zero());
        let Some(request) = some(self.requests.get(name).copied()) else {
            return Some(format!("{told}, but no request is specified or request is 0"));
        };
        let Some(limit) = some(self.limit(name)) else {
            return Some(format!("{told}, but no limit is specified or limit is 0"));
        };
        let ratio = ratio(limit, request);
        // Upstream compares in thousandths where these can be counted, as they can with any real ratio.
        let is_beyond = ratio * 1000.0 > as_float(most.milli_value());
        is_beyond.then(|| format!("{told}, but provided ratio is {ratio:.6}"))
    }
}

/// How many times one amount is the other; in thousandths of units if they can be counted.
fn ratio(limit: Quantity, request: Quantity) -> f64 {
    let (more, less) = (limit.milli_value(), request.milli_value());
    if more == i64::MAX || less == i64::MAX {
        return as_float(limit.value()) / as_float(request.value());
    }
    as_float(more) / as_float(less)
}

#[expect(clippy::cast_precision_loss, reason = "a ratio of amounts needs no more than 53 bits")]
fn as_float(number: i64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Method;
    use serde_json::json;

    use super::super::default_storage_class::tests::{CLAIMS, claim};
    use super::*;
    use crate::testing::{PODS, World, named, pod as pod_body, text};

    fn range(limits: Value) -> Object {
        let mut range = Object(json!({"metadata": {"name": "r"}, "spec": {"limits": limits}}));
        (LIMIT_RANGE.default)(&mut range);
        range
    }

    #[test]
    fn what_is_missing_is_filled_in_and_told() {
        let mut pod = Object(json!({"spec": {
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "1m"}}},
                {"name": "b", "resources": {"limits": {"cpu": "9", "memory": "9Gi"}}}],
            "initContainers": [{"name": "i"}]}}));
        let limits = json!([{"type": "Container", "default": {"cpu": "2", "memory": "2Gi"},
            "defaultRequest": {"cpu": "1"}}]);
        default(&mut pod, &range(limits));
        assert_eq!(
            pod.annotation(ANNOTATION).unwrap(),
            "LimitRanger plugin set: memory request for container a; cpu, memory limit for \
             container a; cpu, memory request for container b; cpu, memory request for init \
             container i; cpu, memory limit for init container i"
        );
        let resources = |list: &str, at: usize| pod.0["spec"][list][at]["resources"].clone();
        assert_eq!(
            resources("containers", 0),
            json!({"requests": {"cpu": "1m", "memory": "2Gi"},
                "limits": {"cpu": "2", "memory": "2Gi"}})
        );
        assert_eq!(resources("containers", 1)["limits"], json!({"cpu": "9", "memory": "9Gi"}));
        let mut other = Object(json!({"spec": {"containers": [{"name": "a"}]}}));
        default(&mut other, &range(json!([{"type": "Pod", "max": {"cpu": "1"}}])));
        assert_eq!(other, Object(json!({"spec": {"containers": [{"name": "a"}]}})));
    }

    #[test]
    fn what_goes_beyond_is_told_in_upstreams_words() {
        let pod = |requests: Value, limits: Value| {
            Object(json!({"spec": {"containers": [
                {"name": "a", "resources": {"requests": requests, "limits": limits}}]}}))
        };
        let of =
            |kind: &str, what: &str, amount: &str| json!([{"type": kind, what: {"cpu": amount}}]);
        for (limits, pod, expected) in [
            (of("Container", "min", "100m"), pod(json!({"cpu": "100m"}), json!({})), ""),
            (
                of("Container", "min", "100m"),
                pod(json!({}), json!({})),
                "minimum cpu usage per Container is 100m.  No request is specified",
            ),
            (
                of("Container", "min", "100m"),
                pod(json!({"cpu": "50m"}), json!({})),
                "minimum cpu usage per Container is 100m, but request is 50m",
            ),
            (
                of("Container", "min", "100m"),
                pod(json!({"cpu": "100m"}), json!({"cpu": "99m"})),
                "minimum cpu usage per Container is 100m, but limit is 99m",
            ),
            (
                of("Container", "max", "1"),
                pod(json!({"cpu": "1"}), json!({})),
                "maximum cpu usage per Container is 1.  No limit is specified",
            ),
            (
                of("Pod", "max", "1"),
                pod(json!({}), json!({"cpu": "1100m"})),
                "maximum cpu usage per Pod is 1, but limit is 1100m",
            ),
            (
                of("Pod", "max", "1"),
                pod(json!({"cpu": "2"}), json!({"cpu": "1"})),
                "maximum cpu usage per Pod is 1, but request is 2",
            ),
            (
                of("Container", "maxLimitRequestRatio", "2"),
                pod(json!({"cpu": "1"}), json!({"cpu": "2500m"})),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 2.500000",
            ),
            (
                of("Container", "maxLimitRequestRatio", "2"),
                pod(json!({"cpu": "1"}), json!({"cpu": "2"})),
                "",
            ),
            (
                of("Container", "maxLimitRequestRatio", "2"),
                pod(json!({}), json!({"cpu": "2"})),
                "cpu max limit to request ratio per Container is 2, but no request is specified or \
                 request is 0",
            ),
            (
                of("Container", "maxLimitRequestRatio", "2"),
                pod(json!({"cpu": "1"}), json!({})),
                "cpu max limit to request ratio per Container is 2, but no limit is specified or \
                 limit is 0",
            ),
            (of("PersistentVolumeClaim", "max", "1"), pod(json!({}), json!({})), ""),
        ] {
            let range = Object(json!({"spec": {"limits": limits}}));
            assert_eq!(violations(true, &pod, &range).join(", "), expected, "{limits}");
        }
    }

    const RANGES: &str = "/api/v1/namespaces/default/limitranges";

    async fn world(limits: Value) -> World {
        let world = World::new().await;
        let mut range = named("v1", "LimitRange", "r");
        range["spec"] = json!({"limits": limits});
        world.create(RANGES, range).await;
        // The server follows them from the first pod on.
        let (_, _) = world.call(Method::POST, PODS, &pod_body("first")).await;
        world.env.sleep(Duration::from_secs(1)).await;
        world
    }

    #[tokio::test(start_paused = true)]
    async fn pods_get_defaults_and_are_held_to_bounds() {
        // As the conformance test "LimitRange should create a LimitRange with defaults and ensure pod has
        // those defaults applied".
        let amounts = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
        let world = world(json!([{"type": "Container",
            "min": amounts("50m", "100Mi"), "max": amounts("500m", "500Mi"),
            "default": amounts("500m", "500Mi"), "defaultRequest": amounts("100m", "200Mi"),
            "maxLimitRequestRatio": {}}]))
        .await;
        let made = world.create(PODS, pod_body("plain")).await;
        assert_eq!(
            made["spec"]["containers"][0]["resources"],
            json!({"requests": amounts("100m", "200Mi"), "limits": amounts("500m", "500Mi")})
        );
        let with = |name: &str, requests: Value, limits: Value| {
            let mut pod = pod_body(name);
            pod["spec"]["containers"][0]["resources"] =
                json!({"requests": requests, "limits": limits});
            pod
        };
        let partial = with("partial", amounts("100m", "100Mi"), json!({"cpu": "300m"}));
        let made = world.create(PODS, partial).await;
        assert_eq!(made["spec"]["containers"][0]["resources"]["limits"], amounts("300m", "500Mi"));
        let little = with("little", amounts("10m", "50Mi"), amounts("50m", "100Mi"));
        let (code, answer) = world.call(Method::POST, PODS, &little).await;
        assert_eq!(code, 403);
        assert_eq!(
            text(&answer["message"]),
            "pods \"little\" is forbidden: [minimum cpu usage per Container is 50m, but request is \
             10m, minimum memory usage per Container is 100Mi, but request is 50Mi]"
        );
        let much = with("much", amounts("500m", "500Mi"), amounts("600m", "500Mi"));
        assert_eq!(world.call(Method::POST, PODS, &much).await.0, 403);
        // An update of the pod is not looked at; a resize is.
        world.patch(&format!("{PODS}/plain"), json!({"metadata": {"labels": {"a": "b"}}})).await;
        let resize = json!({"spec": {"containers": [{"name": "main",
            "resources": {"limits": {"cpu": "900m"}}}]}});
        let headers = [("content-type", "application/strategic-merge-patch+json")];
        let path = format!("{PODS}/plain/resize");
        let (code, answer) = world.call_with(Method::PATCH, &path, &headers, &resize).await;
        assert_eq!(code, 403, "{answer}");
        // What is changed counts from then on.
        let more = json!({"spec": {"limits": [{"type": "Container", "max": amounts("2", "2Gi")}]}});
        world.patch(&format!("{RANGES}/r"), more).await;
        world.env.sleep(Duration::from_secs(1)).await;
        assert_eq!(world.call(Method::POST, PODS, &much).await.0, 201);
    }

    #[tokio::test(start_paused = true)]
    async fn claims_are_held_to_bounds() {
        let world =
            world(json!([{"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}, "min": {"storage": "1Mi"}}]))
                .await;
        world.create(CLAIMS, claim("fits", Value::Null)).await;
        let mut large = claim("large", Value::Null);
        large["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
        let (code, answer) = world.call(Method::POST, CLAIMS, &large).await;
        assert_eq!(code, 403);
        assert_eq!(
            text(&answer["message"]),
            "persistentvolumeclaims \"large\" is forbidden: maximum storage usage per \
             PersistentVolumeClaim is 1Gi, but request is 2Gi"
        );
    }
}
