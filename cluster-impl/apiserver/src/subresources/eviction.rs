//! pods/eviction (policy/v1): a delete that asks the pod's PodDisruptionBudget for permission.
//!
//! Invariant: a budget's `disruptionsAllowed` is taken down, in the store and compared, before the pod
//! that it guards is deleted; so two evictions never use the same permission.

use std::sync::Arc;

use futures::FutureExt;
use machinery::kinds::POD_DISRUPTION_BUDGET;
use machinery::{Condition, LabelSelector, Object, ObjectKey, Status, conditions, pod};
use serde_json::{Value, json};

use crate::admission::{self, Operation};
use crate::answer::Answer;
use crate::commit::{self, Along, Decision};
use crate::query::Query;
use crate::request::Request;
use crate::selection::Selection;
use crate::server::ApiServer;
use crate::verbs::delete::{self, Options};
use crate::verbs::list;
use crate::{decode, status};

/// A budget that waits for more pods than this to go is refused.
const DISRUPTED_MAX: usize = 2000;
/// How often a pod that keeps changing is looked at again.
const ATTEMPTS_MAX: usize = 20;
const VIOLATED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
/// When to come back to a budget that nobody has looked at yet.
const RETRY_SECONDS: u32 = 10;

/// Evicts a pod.
pub(crate) async fn create(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let body = decode::object_of(&server.config, request, "policy/v1", "Eviction")?;
    if !body.name().is_empty() && body.name() != request.key.name {
        return Err(Status::bad_request(format!(
            "name in URL does not match name in Eviction object: {}, {}",
            request.key.name,
            body.name()
        )));
    }
    let options = Options::from_value(body.get("/deleteOptions").unwrap_or(&Value::Null))?;
    if options.dry_run {
        request.set_dry_run();
    }
    let mut body = body;
    admission::pass(server, request, Operation::Create, &request.key, &mut body).await?;
    let mut found = None;
    for _ in 0..ATTEMPTS_MAX {
        let pod = read(server, request).await?;
        if !is_out_of_reach(&pod) {
            found = Some(pod);
            break;
        }
        match delete(server, request, &of_revision(&options, &pod, is_pending(&pod))).await {
            Err(stale) if stale.code == 409 && options.resource_version.is_none() => {}
            done => return done.map(|()| Answer::success(201, Value::Null)),
        }
    }
    let pod = found.ok_or_else(|| status::stale(request.kind, &request.key))?;
    let budgets = budgets(server, &pod).await?;
    let budget = match budgets.as_slice() {
        [] => None,
        [budget] => Some(budget),
        _ => {
            let why = "This pod has more than one PodDisruptionBudget, which the eviction \
                       subresource does not support.";
            return Err(Status::new(500, "", why));
        }
    };
    let is_free = budget.is_some_and(|budget| is_free(budget, &pod));
    if let Some(budget) = budget.filter(|_| !is_free) {
        take_permission(server, request, budget).await?;
    }
    match delete(server, request, &of_revision(&options, &pod, is_free)).await {
        // It may have become healthy in the meantime, and then the budget has a say.
        Err(stale) if stale.code == 409 && is_free && options.resource_version.is_none() => {
            Err(being_processed(budget.map_or("", |budget| budget.name())))
        }
        done => done.map(|()| Answer::success(201, Value::Null)),
    }
}

async fn read(server: &ApiServer, request: &Request) -> Result<Arc<Object>, Status> {
    let kv = commit::read(server, request, &request.key).await?;
    let kv = kv.ok_or_else(|| status::not_found(request.kind, &request.key))?;
    server.decoded.object(&kv)
}

/// Whether no budget counts on a pod: it has ended, is ending, or has not begun.
fn is_out_of_reach(pod: &Object) -> bool {
    pod::is_finished(pod) || is_pending(pod) || pod.is_terminating()
}

/// Whether a pod may yet begin to be counted on.
fn is_pending(pod: &Object) -> bool {
    pod.text("/status/phase") == "Pending" && !pod.is_terminating()
}

/// The options, bound to the pod as it was seen, if it must still be like that and nothing else is asked.
fn of_revision(options: &Options, pod: &Object, is_bound: bool) -> Options {
    let mut options = options.clone();
    if is_bound {
        options.resource_version.get_or_insert_with(|| pod.resource_version().to_owned());
    }
    options
}

/// The budgets that guard a pod.
async fn budgets(server: &ApiServer, pod: &Object) -> Result<Vec<Arc<Object>>, Status> {
    let scope = ObjectKey::new(pod.namespace(), "");
    let selection = Selection::read(&POD_DISRUPTION_BUDGET, &scope, &Query::parse(""))?;
    let mut all = Vec::new();
    for kv in list::everything(server, &selection, None).await?.kvs {
        let budget = server.decoded.object(&kv)?;
        // A selector that makes no sense guards nothing.
        let selector = LabelSelector::from_value(budget.get("/spec/selector"));
        if selector.is_ok_and(|selector| selector.matches_object(pod)) {
            all.push(budget);
        }
    }
    Ok(all)
}

/// Whether an unhealthy pod can go without a permission: nothing is lost with it.
fn is_free(budget: &Object, pod: &Object) -> bool {
    let count = |name: &str| budget.integer(&format!("/status/{name}")).unwrap_or_default();
    !pod::is_ready(pod)
        && (budget.text("/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow"
            || count("desiredHealthy") > 0 && count("currentHealthy") >= count("desiredHealthy"))
}

/// Takes one disruption off a budget, and notes for its controller which pod goes.
async fn take_permission(
    server: &ApiServer,
    request: &Request,
    budget: &Object,
) -> Result<(), Status> {
    let key = budget.key();
    let pod = &request.key.name;
    let write = request.about(&POD_DISRUPTION_BUDGET, &key, "status");
    let key = &key;
    let mut decide = |old: Option<Arc<Object>>| {
        async move {
            let old = old.ok_or_else(|| status::not_found(&POD_DISRUPTION_BUDGET, key))?;
            let allowed = allowed(&old)? - 1;
            let mut new = Object::clone(&old);
            new.set("/status/disruptionsAllowed", allowed);
            if allowed == 0 {
                used_up(server, &mut new);
            }
            let mut disrupted = new.map("/status/disruptedPods").cloned().unwrap_or_default();
            disrupted.insert(pod.clone(), conditions::seconds(server.env.now()).into());
            new.set("/status/disruptedPods", disrupted);
            Ok(Decision::Put(Box::new(new), Along::default()))
        }
        .boxed()
    };
    commit::change(server, &write, key, &mut decide).await?;
    Ok(())
}

/// How many pods may go; a refusal if none may.
fn allowed(budget: &Object) -> Result<i64, Status> {
    let name = budget.name();
    let generation = budget.integer("/metadata/generation").unwrap_or_default();
    if budget.integer("/status/observedGeneration").unwrap_or_default() < generation {
        return Err(being_processed(name));
    }
    let allowed = budget.integer("/status/disruptionsAllowed").unwrap_or_default();
    if allowed < 0 {
        let why = "pdb disruptions allowed is negative";
        return Err(status::forbidden(&POD_DISRUPTION_BUDGET, name, why));
    }
    if budget.map("/status/disruptedPods").is_some_and(|pods| pods.len() > DISRUPTED_MAX) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(status::forbidden(&POD_DISRUPTION_BUDGET, name, why));
    }
    if allowed == 0 {
        return Err(refused(&denied(budget)));
    }
    Ok(allowed)
}

/// Why a budget allows nothing.
fn denied(budget: &Object) -> String {
    let name = budget.name();
    let count = |name: &str| budget.integer(&format!("/status/{name}")).unwrap_or_default();
    let (healthy, desired) = (count("currentHealthy"), count("desiredHealthy"));
    let condition = budget.condition("DisruptionAllowed").filter(|one| one["status"] == "False");
    let part =
        |part: &str| condition.and_then(|one| one[part].as_str()).filter(|text| !text.is_empty());
    match (part("reason"), part("message")) {
        (Some("SyncFailed"), Some(message)) => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed \
             sync: {message}"
        ),
        _ if healthy <= desired => format!(
            "The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
        ),
        (reason, Some(message)) => format!(
            "The disruption budget {name} does not allow evicting pods currently ({}): {message}",
            reason.unwrap_or_default()
        ),
        _ => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

fn used_up(server: &ApiServer, budget: &mut Object) {
    let condition = Condition {
        name: "DisruptionAllowed",
        status: "False",
        reason: "InsufficientPods",
        message: "",
    };
    conditions::set(budget, condition, server.env.now());
    let observed = budget.integer("/status/observedGeneration").unwrap_or_default();
    let Some(Value::Array(list)) = budget.0.pointer_mut("/status/conditions") else { return };
    for entry in list.iter_mut().filter(|entry| entry["type"] == "DisruptionAllowed") {
        entry["observedGeneration"] = observed.into();
        entry["message"] = "".into();
    }
}

fn refused(why: &str) -> Status {
    let mut status = Status::new(429, "TooManyRequests", VIOLATED);
    status.details = json!({"causes": [{"reason": "DisruptionBudget", "message": why}]});
    status
}

/// The budget's controller has not seen its latest state.
fn being_processed(budget: &str) -> Status {
    let why = format!("The disruption budget {budget} is still being processed by the server.");
    status::retry(refused(&why), RETRY_SECONDS)
}

/// Notes on the pod why it goes, then deletes it.
async fn delete(server: &ApiServer, request: &Request, options: &Options) -> Result<(), Status> {
    let mut options = options.clone();
    if !request.is_dry_run() {
        let asked = &options;
        let mut decide = |old: Option<Arc<Object>>| {
            async move {
                let old = old.ok_or_else(|| status::not_found(request.kind, &request.key))?;
                delete::check_preconditions(request.kind, &old, asked)?;
                let mut new = Object::clone(&old);
                let condition = Condition {
                    name: "DisruptionTarget",
                    status: "True",
                    reason: "EvictionByEvictionAPI",
                    message: "Eviction API: evicting",
                };
                conditions::set(&mut new, condition, server.env.now());
                Ok(Decision::Put(Box::new(new), Along::default()))
            }
            .boxed()
        };
        let written = commit::change(server, request, &request.key, &mut decide).await?;
        if let Some(revision) = &mut options.resource_version {
            *revision = written.stored.revision.to_string();
        }
    }
    delete::delete_object(server, request, &request.key, &options).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use http::Method;

    use super::*;
    use crate::testing::{PODS, World, pod as pod_body, text};

    const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

    /// A world with running, ready pods and a budget.
    async fn world(pods: &[&str], status: Value) -> World {
        let world = World::new().await;
        for name in pods {
            let mut body = world.create(PODS, pod_body(name)).await;
            body["status"]["phase"] = "Running".into();
            body["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
            world.update(&format!("{PODS}/{name}/status"), &body).await;
        }
        budget(&world, "web", status).await;
        world
    }

    async fn budget(world: &World, name: &str, status: Value) {
        let body = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": name},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
        let mut body = world.create(BUDGETS, body).await;
        for (field, value) in status.as_object().unwrap() {
            body["status"][field] = value.clone();
        }
        world.update(&format!("{BUDGETS}/{name}/status"), &body).await;
    }

    async fn evict(world: &World, name: &str, options: Value) -> (u16, Value) {
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": name}, "deleteOptions": options});
        world.call(Method::POST, &format!("{PODS}/{name}/eviction"), &body).await
    }

    async fn is_there(world: &World, name: &str) -> bool {
        world.call(Method::GET, &format!("{PODS}/{name}"), &Value::Null).await.0 == 200
    }

    fn seen(allowed: i64) -> Value {
        json!({"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 2,
            "desiredHealthy": 2 - allowed, "expectedPods": 2})
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_lets_as_many_go_as_it_allows() {
        let world = world(&["a", "b", "c"], seen(1)).await;
        let asked = ["a", "b", "c"].map(|name| evict(&world, name, Value::Null));
        let answers = join_all(asked).await;
        let codes: Vec<u16> = answers.iter().map(|(code, _)| *code).collect();
        assert_eq!(codes.iter().filter(|code| **code == 201).count(), 1, "{codes:?}");
        assert_eq!(codes.iter().filter(|code| **code == 429).count(), 2, "{codes:?}");
        let status = &world.get(&format!("{BUDGETS}/web")).await["status"];
        assert_eq!(status["disruptionsAllowed"], 0);
        assert_eq!(status["disruptedPods"].as_object().unwrap().len(), 1);
        let condition = &status["conditions"][0];
        assert_eq!(
            (text(&condition["reason"]), text(&condition["status"])),
            ("InsufficientPods", "False")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_says_why() {
        let world = world(&["a"], seen(0)).await;
        let (code, answer) = evict(&world, "a", Value::Null).await;
        assert_eq!((code, text(&answer["reason"])), (429, "TooManyRequests"));
        assert_eq!(text(&answer["message"]), VIOLATED);
        assert_eq!(
            answer["details"]["causes"],
            json!([{"reason": "DisruptionBudget",
                "message": "The disruption budget web needs 2 healthy pods and has 2 currently"}])
        );
        assert!(is_there(&world, "a").await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unseen_budget_is_asked_again_later() {
        let world = world(&["a"], json!({})).await;
        let (code, answer) = evict(&world, "a", Value::Null).await;
        assert_eq!(code, 429);
        assert_eq!(answer["details"]["retryAfterSeconds"], 10);
        let cause = text(&answer["details"]["causes"][0]["message"]);
        assert!(cause.ends_with("web is still being processed by the server."), "{cause}");
    }

    #[tokio::test(start_paused = true)]
    async fn two_budgets_are_one_too_many() {
        let world = world(&["a"], seen(1)).await;
        budget(&world, "web-2", seen(1)).await;
        let (code, answer) = evict(&world, "a", Value::Null).await;
        assert_eq!(code, 500);
        assert!(text(&answer["message"]).starts_with("This pod has more than one"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dry_run_and_a_failed_precondition_take_nothing() {
        let world = world(&["a"], seen(1)).await;
        assert_eq!(evict(&world, "a", json!({"dryRun": ["All"]})).await.0, 201);
        let path = format!("{BUDGETS}/web");
        assert_eq!(world.get(&path).await["status"]["disruptionsAllowed"], 1);
        assert!(is_there(&world, "a").await);
        let other = json!({"preconditions": {"uid": "other"}});
        assert_eq!(evict(&world, "a", other).await.0, 409);
        assert!(is_there(&world, "a").await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unhealthy_pod_goes_without_a_permission_if_nothing_is_lost() {
        for (policy, desired, code) in
            [("AlwaysAllow", 3, 201), ("IfHealthyBudget", 2, 201), ("IfHealthyBudget", 3, 429)]
        {
            let status = json!({"observedGeneration": 2, "disruptionsAllowed": 0,
                "currentHealthy": 2, "desiredHealthy": desired, "expectedPods": 3});
            let world = world(&["a"], status).await;
            let spec = json!({"spec": {"unhealthyPodEvictionPolicy": policy}});
            world.patch(&format!("{BUDGETS}/web"), spec).await;
            let sick = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
            world.patch(&format!("{PODS}/a/status"), sick).await;
            assert_eq!(evict(&world, "a", Value::Null).await.0, code, "{policy} {desired}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_budget_counts_on_just_goes() {
        let world = world(&["a"], seen(0)).await;
        world.patch(&format!("{PODS}/a/status"), json!({"status": {"phase": "Failed"}})).await;
        assert_eq!(evict(&world, "a", Value::Null).await.0, 201);
        assert!(!is_there(&world, "a").await);
        world.create(PODS, pod_body("b")).await;
        assert_eq!(evict(&world, "b", Value::Null).await.0, 201, "it is pending");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_stays_a_while_says_why_it_goes() {
        let world = world(&["a"], seen(1)).await;
        let finalizer = json!({"metadata": {"finalizers": ["a.b/c"]}});
        world.patch(&format!("{PODS}/a"), finalizer).await;
        assert_eq!(evict(&world, "a", Value::Null).await.0, 201);
        let conditions = &world.get(&format!("{PODS}/a")).await["status"]["conditions"];
        let target =
            conditions.as_array().unwrap().iter().find(|one| one["type"] == "DisruptionTarget");
        assert_eq!(target.unwrap()["reason"], "EvictionByEvictionAPI");
    }
}
