//! Custom kinds where others decide about writes: policies, webhooks, quotas.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Value, json};

use crate::outbound::{Outbound, OutboundError, Peer, Upgraded};
use crate::testing::{DEPLOYMENTS, World, deployment, named, text};
use crate::{Body, Config};

const API: &str = "admissionregistration.k8s.io/v1";
const REGISTRATION: &str = "/apis/admissionregistration.k8s.io/v1";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/acme.io/v1/namespaces/default/widgets";

/// A kind in two versions that differ by name alone.
async fn define(world: &World) {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer", "default": 1}}}}});
    let version = |name: &str, is_stored: bool| {
        json!({"name": name, "served": true, "storage": is_stored,
            "schema": {"openAPIV3Schema": schema}})
    };
    let mut definition =
        named("apiextensions.k8s.io/v1", "CustomResourceDefinition", "widgets.acme.io");
    definition["spec"] = json!({"group": "acme.io", "scope": "Namespaced",
        "versions": [version("v1", true), version("v2", false)],
        "names": {"plural": "widgets", "kind": "Widget"}});
    world.create(DEFINITIONS, definition).await;
    settle(world).await;
}

async fn settle(world: &World) {
    world.env.sleep(Duration::from_secs(1)).await;
}

fn widget(name: &str, size: i64) -> Value {
    let mut object = named("acme.io/v1", "Widget", name);
    object["spec"] = json!({ "size": size });
    object
}

fn rule(version: &str) -> Value {
    json!({"operations": ["CREATE"], "apiGroups": ["acme.io"], "apiVersions": [version],
        "resources": ["widgets"]})
}

async fn policy(world: &World, name: &str, spec: Value, binding: Value) {
    let mut policy = named(API, "ValidatingAdmissionPolicy", name);
    policy["spec"] = spec;
    world.create(&format!("{REGISTRATION}/validatingadmissionpolicies"), policy).await;
    let mut bound = named(API, "ValidatingAdmissionPolicyBinding", name);
    bound["spec"] = json!({"policyName": name, "validationActions": ["Deny"]});
    bound["spec"].as_object_mut().unwrap().extend(binding.as_object().unwrap().clone());
    world.create(&format!("{REGISTRATION}/validatingadmissionpolicybindings"), bound).await;
    settle(world).await;
}

#[tokio::test(start_paused = true)]
async fn a_policy_on_one_version_holds_for_writes_in_another() {
    let world = World::new().await;
    define(&world).await;
    let spec = |policy: &str, expression: &str| {
        json!({"matchConstraints": {"resourceRules": [rule("v2")], "matchPolicy": policy},
            "validations": [{"expression": expression}]})
    };
    policy(&world, "exact", spec("Exact", "false"), json!({})).await;
    world.create(WIDGETS, widget("free", 9)).await;
    let expression = "object.apiVersion == 'acme.io/v2' && request.kind.version == 'v2' && \
                      request.requestKind.version == 'v1' && object.spec.size < 4";
    policy(&world, "limit", spec("Equivalent", expression), json!({})).await;
    world.create(WIDGETS, widget("small", 3)).await;
    let (code, answer) = world.call(Method::POST, WIDGETS, &widget("large", 4)).await;
    assert_eq!(code, 422, "{answer}");
    assert!(text(&answer["message"]).contains("ValidatingAdmissionPolicy 'limit'"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_policy_takes_its_parameters_from_custom_resources() {
    let world = World::new().await;
    define(&world).await;
    let rule = json!({"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"],
        "resources": ["deployments"]});
    // Stored as v1, asked for as v2.
    let spec = json!({"matchConstraints": {"resourceRules": [rule]},
        "paramKind": {"apiVersion": "acme.io/v2", "kind": "Widget"},
        "validations": [{"expression":
            "params.apiVersion == 'acme.io/v2' && object.spec.replicas <= params.spec.size"}]});
    let reference = json!({"paramRef": {"name": "limit", "parameterNotFoundAction": "Deny"}});
    policy(&world, "limit", spec, reference).await;
    let with = |replicas: i64| {
        let mut body = deployment("web");
        body["spec"]["replicas"] = replicas.into();
        body
    };
    let (code, answer) = world.call(Method::POST, DEPLOYMENTS, &with(1)).await;
    assert_eq!(code, 422, "{answer}");
    assert!(text(&answer["message"]).contains("no params found"), "{answer}");
    world.create(WIDGETS, widget("limit", 2)).await;
    settle(&world).await;
    let (code, answer) = world.call(Method::POST, DEPLOYMENTS, &with(3)).await;
    assert_eq!(code, 422, "{answer}");
    assert!(text(&answer["message"]).contains("failed expression"), "{answer}");
    world.create(DEPLOYMENTS, with(2)).await;
}

/// A webhook that makes every widget of size 3, and keeps what it was asked.
#[derive(Default)]
struct Hook(Mutex<Vec<Value>>);

#[async_trait]
impl Outbound for Hook {
    async fn call(
        &self,
        _: &Peer,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, OutboundError> {
        let review: Value = serde_json::from_slice(request.body()).unwrap();
        let patch = json!([{"op": "replace", "path": "/spec/size", "value": 3}]).to_string();
        let patch = base64::engine::general_purpose::STANDARD.encode(patch);
        let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "response": {"uid": review["request"]["uid"], "allowed": true,
                "patchType": "JSONPatch", "patch": patch}});
        self.0.lock().unwrap().push(review["request"].clone());
        Ok(Response::new(Body::whole(answer.to_string())))
    }

    async fn upgrade(&self, _: &Peer, _: Request<Bytes>) -> Result<Upgraded, OutboundError> {
        Err(OutboundError::Broken("a webhook streams nothing".to_owned()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_webhook_on_one_version_changes_what_is_written_in_another() {
    let hook = Arc::new(Hook::default());
    let config = Config { outbound: hook.clone(), ..Config::default() };
    let world = World::with(&[], config).await;
    define(&world).await;
    let mut hooks = named(API, "MutatingWebhookConfiguration", "hooks");
    hooks["webhooks"] = json!([{"name": "a.acme.io", "rules": [rule("v2")],
        "clientConfig": {"url": "https://hooks.example.com/a"}, "sideEffects": "None",
        "admissionReviewVersions": ["v1"]}]);
    world.create(&format!("{REGISTRATION}/mutatingwebhookconfigurations"), hooks).await;
    settle(&world).await;
    // The server follows the configurations from the first write on that could fall under them.
    let made = world.create(WIDGETS, widget("a", 5)).await;
    assert_eq!((text(&made["apiVersion"]), &made["spec"]["size"]), ("acme.io/v1", &json!(3)));
    let asked = hook.0.lock().unwrap().pop().unwrap();
    assert_eq!(asked["object"]["apiVersion"], "acme.io/v2");
    assert_eq!(
        (&asked["kind"]["version"], &asked["requestKind"]["version"]),
        (&json!("v2"), &json!("v1"))
    );
    assert_eq!((&asked["object"]["spec"]["size"], &asked["oldObject"]), (&json!(5), &Value::Null));
    assert_eq!(world.get(&format!("{WIDGETS}/a")).await, made);
    let series = "apiserver_admission_webhook_admission_duration_seconds_count{name=\"a.acme.io\",\
                  operation=\"CREATE\",rejected=\"false\",type=\"admit\"} 1";
    let told = crate::metrics::text(&world.server).await;
    assert!(told.contains(series), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_quota_limits_custom_resources() {
    let world = World::new().await;
    define(&world).await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let hard = json!({"count/widgets.acme.io": "1"});
    let mut quota = named("v1", "ResourceQuota", "q");
    quota["spec"] = json!({ "hard": hard });
    world.create(quotas, quota).await;
    let status = json!({"status": {"hard": hard, "used": {"count/widgets.acme.io": "0"}}});
    world.patch(&format!("{quotas}/q/status"), status).await;
    world.create(&format!("{WIDGETS}?dryRun=All"), widget("first", 1)).await;
    settle(&world).await;
    world.create(WIDGETS, widget("a", 1)).await;
    let (code, answer) = world.call(Method::POST, WIDGETS, &widget("b", 1)).await;
    assert_eq!(code, 403);
    assert_eq!(
        text(&answer["message"]),
        "widgets.acme.io \"b\" is forbidden: exceeded quota: q, requested: \
         count/widgets.acme.io=1, used: count/widgets.acme.io=1, limited: count/widgets.acme.io=1"
    );
    let used = &world.get(&format!("{quotas}/q")).await["status"]["used"];
    assert_eq!(used["count/widgets.acme.io"], "1");
}
