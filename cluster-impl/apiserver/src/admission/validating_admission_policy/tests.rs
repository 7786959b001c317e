//! Policies and bindings over a whole server.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::User;
use crate::testing::{DEPLOYMENTS, MAPS, PODS, World, config_map, deployment, named, pod, text};

const API: &str = "admissionregistration.k8s.io/v1";
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";

fn policy(name: &str, changes: &Value) -> Value {
    let mut policy = named(API, "ValidatingAdmissionPolicy", name);
    let rule = json!({"operations": ["CREATE", "UPDATE"], "apiGroups": ["apps"],
        "apiVersions": ["v1"], "resources": ["deployments"]});
    let mut spec = json!({"matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "object.spec.replicas > 1"}]});
    spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    policy["spec"] = spec;
    policy
}

fn binding(name: &str, of: &str, changes: &Value) -> Value {
    let mut binding = named(API, "ValidatingAdmissionPolicyBinding", name);
    let mut spec = json!({"policyName": of, "validationActions": ["Deny"]});
    spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    binding["spec"] = spec;
    binding
}

/// A policy and a binding, seen by the server.
async fn bind(world: &World, of_policy: Value, of_binding: Value) {
    world.create(POLICIES, policy("limit", &of_policy)).await;
    world.create(BINDINGS, binding("all", "limit", &of_binding)).await;
    world.env.sleep(Duration::from_secs(1)).await;
}

async fn unbind(world: &World) {
    world.delete(&format!("{POLICIES}/limit")).await;
    world.delete(&format!("{BINDINGS}/all")).await;
    world.env.sleep(Duration::from_secs(1)).await;
}

/// What is said of a deployment of this many replicas; empty if it may be.
async fn said(world: &World, replicas: i64) -> String {
    let mut body = deployment("web");
    body["spec"]["replicas"] = replicas.into();
    let path = format!("{DEPLOYMENTS}?dryRun=All");
    let (code, answer) = world.call(Method::POST, &path, &body).await;
    match code {
        // A trial of what is there already has passed by then.
        201 | 409 => String::new(),
        _ => text(&answer["message"]).to_owned(),
    }
}

const DENIED: &str = "deployments.apps \"web\" is forbidden: ValidatingAdmissionPolicy 'limit' \
                      with binding 'all' denied request: ";

#[tokio::test(start_paused = true)]
async fn a_deployment_is_validated() {
    let world = World::new().await;
    let validations = json!([
        {"expression": " object.spec.replicas > 1 ", "messageExpression":
            "'wants replicas > 1, got ' + string(object.spec.replicas)"},
        {"expression": "namespaceObject.metadata.name == 'default'", "message": "elsewhere"},
    ]);
    bind(&world, json!({"validations": validations}), json!({})).await;
    assert_eq!(said(&world, 2).await, "");
    let mut body = deployment("web");
    body["spec"]["replicas"] = 1.into();
    let (code, answer) = world.call(Method::POST, DEPLOYMENTS, &body).await;
    assert_eq!((code, text(&answer["reason"])), (422, "Invalid"));
    assert_eq!(text(&answer["message"]), format!("{DENIED}wants replicas > 1, got 1"));
    let cause = &answer["details"]["causes"][0]["message"];
    assert!(text(cause).starts_with("ValidatingAdmissionPolicy 'limit' with binding 'all' denied"));
    world.create(DEPLOYMENTS, deployment("web")).await;
    let at = format!("{DEPLOYMENTS}/web");
    let (code, _) = world.call(Method::PATCH, &at, &json!({"spec": {"replicas": 1}})).await;
    assert_eq!(code, 422, "an update is held to it too");
    assert_eq!(world.get(&at).await["spec"]["replicas"], 2);
    let scale = json!({"spec": {"replicas": 1}});
    world.patch(&format!("{at}/scale"), scale).await;
    unbind(&world).await;
    assert_eq!(said(&world, 1).await, "");
}

#[tokio::test(start_paused = true)]
async fn what_is_said_and_with_which_code() {
    let world = World::new().await;
    let long = format!("'{}'", "x".repeat(6000));
    for (validation, code, message) in [
        (json!({}), 422, "failed expression: object.spec.replicas > 1"),
        (json!({"message": " too few "}), 422, "too few"),
        (json!({"reason": "Forbidden"}), 403, "failed expression: object.spec.replicas > 1"),
        (json!({"reason": "RequestEntityTooLarge", "message": "m"}), 413, "m"),
        (json!({"messageExpression": "'' + ''", "message": "m"}), 422, "m"),
        (json!({"messageExpression": "'a\\nb'", "message": "m"}), 422, "m"),
        (json!({"messageExpression": long, "message": "m"}), 422, "m"),
        (json!({"messageExpression": "object.missing", "message": "m"}), 422, "m"),
        (
            json!({"messageExpression": "'from ' + request.userInfo.username"}),
            422,
            "from kubernetes-admin",
        ),
    ] {
        let mut validation = validation;
        validation["expression"] = "object.spec.replicas > 1".into();
        bind(&world, json!({"validations": [validation]}), json!({})).await;
        let mut body = deployment("web");
        body["spec"]["replicas"] = 1.into();
        let (found, answer) = world.call(Method::POST, DEPLOYMENTS, &body).await;
        assert_eq!(found, code, "{answer}");
        assert_eq!(text(&answer["message"]), format!("{DENIED}{message}"));
        unbind(&world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn bindings_say_what_is_done() {
    let world = World::new().await;
    let warn = json!({"validationActions": ["Warn", "Audit"]});
    let annotations = json!({"auditAnnotations": [
        {"key": "replicas", "valueExpression": "'has ' + string(object.spec.replicas)"},
        {"key": "nothing", "valueExpression": "null"}]});
    bind(&world, annotations, warn).await;
    world.audit();
    let mut body = deployment("web");
    body["spec"]["replicas"] = 1.into();
    let response = world.send(Method::POST, DEPLOYMENTS, &[], Bytes::from(body.to_string())).await;
    assert_eq!(response.status(), 201);
    assert_eq!(
        response.headers()["warning"],
        "299 - \"Validation failed for ValidatingAdmissionPolicy 'limit' with binding 'all': \
         failed expression: object.spec.replicas > 1\""
    );
    let annotations = world.audit().pop().unwrap().annotations;
    assert_eq!(annotations["limit/replicas"], "has 1");
    let told = &annotations["validation.policy.admission.k8s.io/validation_failure"];
    let told: Value = serde_json::from_str(told).unwrap();
    assert_eq!(
        told,
        json!([{"message": "failed expression: object.spec.replicas > 1",
        "policy": "limit", "binding": "all", "expressionIndex": 0,
        "validationActions": ["Warn", "Audit"]}])
    );
    assert_eq!(annotations.len(), 2);
    // A policy without a binding does nothing.
    world.delete(&format!("{BINDINGS}/all")).await;
    world.env.sleep(Duration::from_secs(1)).await;
    assert_eq!(said(&world, 1).await, "");
}

#[tokio::test(start_paused = true)]
async fn expressions_refer_to_variables_and_to_who_asks() {
    let world = World::new().await;
    let spec = json!({
        "variables": [
            {"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "isOdd", "expression": "variables.replicas % 2 == 1"},
            {"name": "unused", "expression": "object.missing.missing"},
        ],
        "validations": [
            {"expression": "!variables.isOdd", "messageExpression":
                "'odd: ' + string(variables.replicas)"},
            {"expression": "request.operation == 'CREATE' && request.dryRun && \
                request.resource.resource == 'deployments' && request.namespace == 'default'"},
            {"expression": "authorizer.group('apps').resource('deployments').namespace('default')\
                .check('create').allowed() && authorizer.requestResource.check('get').allowed() && \
                authorizer.path('/healthz').check('get').allowed()"},
            {"expression": "!authorizer.serviceAccount('default', 'robot').group('')\
                .resource('secrets').check('list').allowed()"},
            {"expression": "oldObject == null"},
        ],
    });
    bind(&world, spec, json!({})).await;
    let running = world.env.spawn(world.server.clone().run());
    world.env.sleep(Duration::from_secs(5)).await;
    assert_eq!(said(&world, 2).await, "");
    assert_eq!(said(&world, 3).await, format!("{DENIED}odd: 3"));
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn who_asks_decides_what_the_authorizer_says() {
    let world = World::new().await;
    let running = world.env.spawn(world.server.clone().run());
    let rules = json!([{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create"]}]);
    let mut role = named("rbac.authorization.k8s.io/v1", "ClusterRole", "makers");
    role["rules"] = rules;
    world.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await;
    let mut bound = named("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "makers");
    bound["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
        "name": "makers"});
    bound["subjects"] = json!([{"kind": "User", "name": "jane",
        "apiGroup": "rbac.authorization.k8s.io"}]);
    world.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", bound).await;
    let spec = json!({"validations": [{"expression":
        "object.spec.replicas < 5 || authorizer.group('apps').resource('deployments')\
         .subresource('scale').namespace('default').check('update').allowed()"}]});
    bind(&world, spec, json!({})).await;
    world.env.sleep(Duration::from_secs(5)).await;
    let mut large = deployment("web");
    large["spec"]["replicas"] = 5.into();
    let jane = User::new("jane", &[]);
    let (code, answer) = world.call_as(&jane, Method::POST, DEPLOYMENTS, &large).await;
    assert_eq!(code, 422, "{answer}");
    let (code, answer) = world.call(Method::POST, DEPLOYMENTS, &large).await;
    assert_eq!(code, 201, "an administrator may: {answer}");
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn parameters_come_from_objects() {
    let world = World::new().await;
    let of = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.spec.replicas <= int(params.data.key)",
            "messageExpression": "'at most ' + params.data.key"}]});
    let reference = |reference: Value| json!({"paramRef": reference});
    let deny = json!({"name": "limits", "parameterNotFoundAction": "Deny"});
    bind(&world, of.clone(), reference(deny)).await;
    let missing = "failed to configure binding: no params found for policy binding with `Deny` \
                   parameterNotFoundAction";
    assert_eq!(said(&world, 3).await, format!("{DENIED}{missing}"));
    let mut limits = config_map("limits", "2");
    limits["metadata"]["labels"] = json!({"kind": "limit"});
    world.create(MAPS, limits.clone()).await;
    world.env.sleep(Duration::from_secs(1)).await;
    assert_eq!(said(&world, 3).await, format!("{DENIED}at most 2"));
    assert_eq!(said(&world, 2).await, "");
    unbind(&world).await;
    // All that a selector chooses must agree.
    limits["metadata"]["name"] = "more".into();
    limits["data"]["key"] = "5".into();
    world.create(MAPS, limits).await;
    let chosen = json!({"selector": {"matchLabels": {"kind": "limit"}}, "namespace": "default",
        "parameterNotFoundAction": "Allow"});
    bind(&world, of.clone(), reference(chosen)).await;
    assert_eq!(said(&world, 6).await, format!("{DENIED}at most 2"));
    world.delete(&format!("{MAPS}/limits")).await;
    world.env.sleep(Duration::from_secs(1)).await;
    assert_eq!(said(&world, 6).await, format!("{DENIED}at most 5"));
    assert_eq!(said(&world, 5).await, "");
    world.delete(&format!("{MAPS}/more")).await;
    world.env.sleep(Duration::from_secs(1)).await;
    assert_eq!(said(&world, 6).await, "", "nothing is chosen, and that is allowed");
    unbind(&world).await;
    let unknown = json!({"paramKind": {"apiVersion": "example.com/v1", "kind": "Limit"}});
    bind(&world, unknown, reference(json!({"name": "a", "parameterNotFoundAction": "Deny"}))).await;
    let why = "failed to configure binding: failed to find resource referenced by paramKind: \
               'example.com/v1, Kind=Limit'";
    assert_eq!(said(&world, 2).await, format!("{DENIED}{why}"));
}

#[tokio::test(start_paused = true)]
async fn resources_conditions_and_selectors_choose() {
    let world = World::new().await;
    let rule = |changes: Value| {
        let mut rule = json!({"operations": ["*"], "apiGroups": ["apps"], "apiVersions": ["*"],
            "resources": ["deployments"]});
        rule.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        rule
    };
    let constraints = |changes: Value| {
        let mut all = json!({"resourceRules": [rule(json!({}))]});
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        json!({"matchConstraints": all})
    };
    let resources = |changes: Value| json!({"matchResources": changes});
    let when =
        |expression: &str| json!({"matchConditions": [{"name": "when", "expression": expression}]});
    let none = json!({});
    for (of_policy, of_binding, is_chosen) in [
        (constraints(json!({})), none.clone(), true),
        (
            constraints(json!({"resourceRules": [rule(json!({"resourceNames": ["web"]}))]})),
            none.clone(),
            true,
        ),
        (
            constraints(json!({"resourceRules": [rule(json!({"resourceNames": ["db"]}))]})),
            none.clone(),
            false,
        ),
        (constraints(json!({"excludeResourceRules": [rule(json!({}))]})), none.clone(), false),
        (
            constraints(json!({"excludeResourceRules": [rule(json!({"resourceNames": ["db"]}))]})),
            none.clone(),
            true,
        ),
        (constraints(json!({"objectSelector": {"matchLabels": {"a": "b"}}})), none.clone(), false),
        (none.clone(), resources(json!({"namespaceSelector": {"matchLabels": {"a": "b"}}})), false),
        (
            none.clone(),
            resources(json!({"namespaceSelector": {"matchExpressions": [
            {"key": "a", "operator": "DoesNotExist"}]}})),
            true,
        ),
        (
            none.clone(),
            resources(json!({"resourceRules": [rule(json!({"operations":
            ["DELETE"]}))]})),
            false,
        ),
        (when("request.operation == 'UPDATE'"), none.clone(), false),
        (when("object.metadata.name == 'web'"), none.clone(), true),
    ] {
        bind(&world, of_policy.clone(), of_binding.clone()).await;
        let is_denied = !said(&world, 1).await.is_empty();
        assert_eq!(is_denied, is_chosen, "{of_policy} {of_binding}");
        unbind(&world).await;
    }
    bind(&world, json!({}), none).await;
    world.create(PODS, pod("web")).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_worked_out_follows_the_failure_policy() {
    let world = World::new().await;
    let broken = json!([{"expression": "object.spec.missing == 1", "reason": "Forbidden"}]);
    let condition = json!([{"name": "a", "expression": "object.spec.missing == 1"}]);
    let endless = "lists.range(900).all(x, lists.range(900).all(y, x + y >= 0))";
    for (spec, why) in [
        (
            json!({"validations": broken}),
            "expression 'object.spec.missing == 1' resulted in error: no such key: missing",
        ),
        (
            json!({"matchConditions": condition}),
            "expression 'object.spec.missing == 1' resulted in error: no such key: missing",
        ),
        (
            json!({"validations": [{"expression": endless}]}),
            "operation cancelled: actual cost limit exceeded",
        ),
        (
            json!({"auditAnnotations": [{"key": "a", "valueExpression": "object.spec"}]}),
            "valueExpression must evaluate to string or null",
        ),
    ] {
        bind(&world, spec.clone(), json!({})).await;
        let denied = said(&world, 2).await;
        assert!(denied.starts_with(DENIED) && denied.ends_with(why), "{denied}");
        unbind(&world).await;
        let mut ignoring = spec;
        ignoring["failurePolicy"] = "Ignore".into();
        bind(&world, ignoring, json!({})).await;
        assert_eq!(said(&world, 2).await, "");
        unbind(&world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_compile_cannot_be_written() {
    let world = World::new().await;
    let one = |expression: &str| json!({"validations": [{"expression": expression}]});
    for (spec, field, why) in [
        (one("object.spec.replicas >"), "spec.validations[0].expression", "Syntax error"),
        (one("'text'"), "spec.validations[0].expression", "must evaluate to bool"),
        (one("foo == 1"), "spec.validations[0].expression", "undeclared reference to 'foo'"),
        (
            one("params.a == 1"),
            "spec.validations[0].expression",
            "undeclared reference to 'params'",
        ),
        (one("frob(object)"), "spec.validations[0].expression", "undeclared reference to 'frob'"),
        (one("variables.a == 1"), "spec.validations[0].expression", "undefined field 'a'"),
        (one("request.foo == 1"), "spec.validations[0].expression", "undefined field 'foo'"),
        (
            json!({"validations": [{"expression": "true", "messageExpression": "1 == 1"}]}),
            "spec.validations[0].messageExpression",
            "must evaluate to string",
        ),
        (
            json!({"variables": [{"name": "a", "expression": "variables.b"},
            {"name": "b", "expression": "1"}]}),
            "spec.variables[0].expression",
            "undefined field 'b'",
        ),
        (
            json!({"matchConditions": [{"name": "a", "expression": "variables.x"}]}),
            "spec.matchConditions[0].expression",
            "undeclared reference to 'variables'",
        ),
        (
            json!({"auditAnnotations": [{"key": "a", "valueExpression": "1"}]}),
            "spec.auditAnnotations[0].valueExpression",
            "must evaluate to one of [string null_type]",
        ),
    ] {
        let (code, answer) = world.call(Method::POST, POLICIES, &policy("a", &spec)).await;
        assert_eq!((code, text(&answer["reason"])), (422, "Invalid"), "{spec}: {answer}");
        let cause = &answer["details"]["causes"][0];
        assert_eq!(text(&cause["field"]), field);
        assert!(text(&cause["message"]).contains(why), "{cause}");
    }
    let with_params = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "params.data.a == '1'"}]});
    world.create(POLICIES, policy("fine", &with_params)).await;
    let broken = json!({"spec": {"validations": [{"expression": "1 +"}]}});
    let (code, _) = world.call(Method::PATCH, &format!("{POLICIES}/fine"), &broken).await;
    assert_eq!(code, 422);
}

#[tokio::test(start_paused = true)]
async fn no_policy_stands_between_an_administrator_and_the_policies() {
    let world = World::new().await;
    let rule = json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"],
        "resources": ["*/*"]});
    let never = json!({"matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "false", "message": "never"}]});
    bind(&world, never, json!({})).await;
    for (method, path, body) in [
        (Method::POST, MAPS.to_owned(), config_map("a", "1")),
        (Method::DELETE, "/api/v1/namespaces/default".to_owned(), Value::Null),
    ] {
        let (code, _) = world.call(method, &path, &body).await;
        assert!([403, 422].contains(&code), "{path}: {code}");
    }
    world.patch(&format!("{POLICIES}/limit"), json!({"metadata": {"labels": {"a": "b"}}})).await;
    unbind(&world).await;
    world.create(MAPS, config_map("a", "1")).await;
}

/// What upstream's conformance tests do with the kinds themselves.
#[tokio::test(start_paused = true)]
async fn policies_and_bindings_are_kinds_like_others() {
    let world = World::new().await;
    for (path, object, change) in [
        (POLICIES, policy("a", &json!({})), json!({"spec": {"failurePolicy": "Ignore"}})),
        (BINDINGS, binding("a", "p", &json!({})), json!({"spec": {"validationActions": ["Warn"]}})),
    ] {
        let mut object = object;
        object["metadata"]["labels"] = json!({"e2e": "1"});
        let created = world.create(path, object.clone()).await;
        assert_eq!(created["metadata"]["generation"], 1);
        let at = format!("{path}/a");
        assert_eq!(world.get(&at).await, created);
        let list = world.get(&format!("{path}?labelSelector=e2e%3D1")).await;
        assert_eq!(list["items"].as_array().unwrap().len(), 1);
        let mut watch = world
            .watch(&format!(
                "{path}?watch=1&resourceVersion={}",
                text(&list["metadata"]["resourceVersion"])
            ))
            .await;
        let patched =
            world.patch(&at, json!({"metadata": {"annotations": {"patched": "true"}}})).await;
        assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
        assert!(watch.told().await.starts_with("MODIFIED a"));
        let mut body = patched;
        body["metadata"]["annotations"]["updated"] = "true".into();
        let updated = world.update(&at, &body).await;
        assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
        let changed = world.patch(&at, change).await;
        assert_eq!(changed["metadata"]["generation"], 2);
        if path == POLICIES {
            let status = json!({"status": {"conditions": [{"type": "StatusPatched", "status": "True",
                "reason": "E2E", "message": "set by a test",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            let after = world.patch(&format!("{at}/status"), status).await;
            assert_eq!(after["status"]["conditions"][0]["type"], "StatusPatched");
        }
        world.delete(&at).await;
        let mut second = object;
        second["metadata"]["name"] = "b".into();
        world.create(path, second).await;
        world.delete(&format!("{path}?labelSelector=e2e%3D1")).await;
        let list = world.get(path).await;
        assert_eq!(list["items"], json!([]));
    }
}
