//! Authorization as a client meets it.

use http::Method;
use serde_json::{Value, json};

use crate::testing::{DEPLOYMENTS, MAPS, PODS, World, config_map, named, pod, text};
use crate::{AuthorizationMode, Config, User};

async fn world() -> World {
    let world = World::new().await;
    let server = world.server.clone();
    world.keep(world.env.spawn(server.run()));
    world.env.sleep(std::time::Duration::from_secs(1)).await;
    world
}

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn role(kind: &str, name: &str, rules: Value) -> Value {
    let mut role = named("rbac.authorization.k8s.io/v1", kind, name);
    role["rules"] = rules;
    role
}

fn binding(kind: &str, name: &str, role: (&str, &str), user: &str) -> Value {
    let mut binding = named("rbac.authorization.k8s.io/v1", kind, name);
    binding["roleRef"] = json!({"kind": role.0, "name": role.1});
    binding["subjects"] = json!([{"kind": "User", "name": user}]);
    binding
}

/// Lets the watch of roles and bindings catch up.
async fn settle(world: &World) {
    world.env.sleep(std::time::Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_role_is_needed_and_is_enough() {
    let world = world().await;
    let jane = User::new("jane", &[]);
    let deny = async |method: Method, path: &str, message: &str| {
        let (code, answer) = world.call_as(&jane, method, path, &Value::Null).await;
        assert_eq!((code, text(&answer["message"])), (403, message), "{path}");
        assert_eq!(answer["reason"], "Forbidden");
    };
    deny(
        Method::GET,
        PODS,
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API \
        group \"\" in the namespace \"default\"",
    )
    .await;
    deny(
        Method::GET,
        "/api/v1/nodes",
        "nodes is forbidden: User \"jane\" cannot list resource \
        \"nodes\" in API group \"\" at the cluster scope",
    )
    .await;
    deny(Method::PATCH, &format!("{DEPLOYMENTS}/web/status"), "deployments.apps \"web\" is \
        forbidden: User \"jane\" cannot patch resource \"deployments/status\" in API group \"apps\" \
        in the namespace \"default\"").await;
    deny(Method::GET, "/metrics", "forbidden: User \"jane\" cannot get path \"/metrics\"").await;
    assert_eq!(world.call_as(&jane, Method::GET, "/apis", &Value::Null).await.0, 200);
    world
        .create(
            &format!("{RBAC}/namespaces/default/rolebindings"),
            binding("RoleBinding", "jane", ("ClusterRole", "edit"), "jane"),
        )
        .await;
    settle(&world).await;
    assert_eq!(world.call_as(&jane, Method::GET, PODS, &Value::Null).await.0, 200);
    assert_eq!(world.call_as(&jane, Method::POST, MAPS, &config_map("a", "1")).await.0, 201);
    let elsewhere = "/api/v1/namespaces/kube-system/pods";
    assert_eq!(world.call_as(&jane, Method::GET, elsewhere, &Value::Null).await.0, 403);
    world.delete(&format!("{RBAC}/namespaces/default/rolebindings/jane")).await;
    settle(&world).await;
    assert_eq!(world.call_as(&jane, Method::GET, PODS, &Value::Null).await.0, 403);
}

#[tokio::test(start_paused = true)]
async fn the_default_roles_are_there_once() {
    let world = world().await;
    let roles = world.get(&format!("{RBAC}/clusterroles")).await;
    let find = |name: &str| {
        roles["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["metadata"]["name"] == name)
            .cloned()
    };
    assert_eq!(find("cluster-admin").unwrap()["rules"][0]["verbs"], json!(["*"]));
    let view = find("view").unwrap();
    assert!(view["rules"].as_array().unwrap().len() > 5, "the aggregated rules are in it");
    assert_eq!(view["metadata"]["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults");
    let before = view["metadata"]["uid"].clone();
    let again = world.another().await;
    world.keep(world.env.spawn(again.run()));
    settle(&world).await;
    let view = world.get(&format!("{RBAC}/clusterroles/view")).await;
    assert_eq!(view["metadata"]["uid"], before);
}

#[tokio::test(start_paused = true)]
async fn nobody_grants_what_they_do_not_have() {
    let world = world().await;
    let jane = User::new("jane", &["dev"]);
    let rules = json!([
        {"verbs": ["*"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
    ]);
    world
        .create(
            &format!("{RBAC}/clusterroles"),
            role("ClusterRole", "granter", {
                let mut rules = rules.clone();
                // Not `*`: that would hold `escalate` and `bind` too.
                rules[0]["verbs"] = json!(["get", "create", "update", "patch"]);
                rules
            }),
        )
        .await;
    world
        .create(
            &format!("{RBAC}/clusterrolebindings"),
            binding("ClusterRoleBinding", "jane", ("ClusterRole", "granter"), "jane"),
        )
        .await;
    settle(&world).await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let mine = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
    let more = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]);
    let (code, _) = world.call_as(&jane, Method::POST, &roles, &role("Role", "a", mine)).await;
    assert_eq!(code, 201);
    let (code, answer) =
        world.call_as(&jane, Method::POST, &roles, &role("Role", "b", more.clone())).await;
    assert_eq!(code, 403);
    assert_eq!(
        text(&answer["message"]),
        "roles.rbac.authorization.k8s.io \"b\" is forbidden: user \"jane\" (groups=[\"dev\" \
         \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}"
    );
    let (code, _) =
        world.call_as(&jane, Method::PATCH, &format!("{roles}/a"), &json!({"rules": more})).await;
    assert_eq!(code, 403);
    let labelled = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(world.call_as(&jane, Method::PATCH, &format!("{roles}/a"), &labelled).await.0, 200);
    settle(&world).await;
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    for (role, code) in [(("Role", "a"), 201), (("ClusterRole", "edit"), 403), (("Role", "x"), 404)]
    {
        let body = binding("RoleBinding", role.1, role, "joe");
        let (found, answer) = world.call_as(&jane, Method::POST, &bindings, &body).await;
        assert_eq!(found, code, "{role:?} {answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_kubelet_sees_and_writes_what_is_its_own() {
    let world = world().await;
    let kubelet = User::new("system:node:n-1", &["system:nodes"]);
    for (name, node) in [("mine", "n-1"), ("other", "n-2")] {
        let mut body = pod(name);
        body["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": name}}]);
        world.create(PODS, body).await;
        let target = json!({"metadata": {"name": name}, "target": {"name": node}});
        world.create(&format!("{PODS}/{name}/binding"), target).await;
        let secret = named("v1", "Secret", name);
        world.create("/api/v1/namespaces/default/secrets", secret).await;
    }
    let lease = |name: &str| named("coordination.k8s.io/v1", "Lease", name);
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let status = json!({"status": {"phase": "Running"}});
    let nothing = Value::Null;
    for (method, path, body, code) in [
        (Method::POST, "/api/v1/nodes", named("v1", "Node", "n-1"), 201),
        (Method::POST, "/api/v1/nodes", named("v1", "Node", "n-3"), 403),
        (Method::GET, "/api/v1/nodes/n-1", nothing.clone(), 200),
        (Method::GET, "/api/v1/nodes/n-2", nothing.clone(), 403),
        (Method::GET, "/api/v1/nodes", nothing.clone(), 403),
        (Method::GET, "/api/v1/nodes?fieldSelector=metadata.name%3Dn-1", nothing.clone(), 200),
        (Method::DELETE, "/api/v1/nodes/n-1", nothing.clone(), 403),
        (Method::GET, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn-1", nothing.clone(), 200),
        (Method::GET, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn-2", nothing.clone(), 403),
        (Method::GET, "/api/v1/pods", nothing.clone(), 403),
        (Method::GET, &format!("{PODS}/mine"), nothing.clone(), 200),
        (Method::GET, &format!("{PODS}/other"), nothing.clone(), 403),
        (Method::GET, &format!("{PODS}/gone"), nothing.clone(), 404),
        (Method::PATCH, &format!("{PODS}/mine/status"), status.clone(), 200),
        (Method::PATCH, &format!("{PODS}/other/status"), status.clone(), 403),
        (Method::PATCH, &format!("{PODS}/mine"), status.clone(), 403),
        (Method::DELETE, &format!("{PODS}/other"), nothing.clone(), 403),
        (Method::GET, "/api/v1/namespaces/default/secrets/mine", nothing.clone(), 200),
        (Method::GET, "/api/v1/namespaces/default/secrets/other", nothing.clone(), 403),
        (Method::GET, "/api/v1/namespaces/default/secrets", nothing.clone(), 403),
        (Method::POST, leases, lease("n-1"), 201),
        (Method::POST, leases, lease("n-2"), 403),
        (Method::GET, &format!("{leases}/n-1"), nothing.clone(), 200),
        (Method::GET, &format!("{leases}/n-2"), nothing.clone(), 403),
        (Method::DELETE, &format!("{PODS}/mine"), nothing.clone(), 200),
    ] {
        let (found, answer) = world.call_as(&kubelet, method.clone(), path, &body).await;
        assert_eq!(found, code, "{method} {path}: {answer}");
    }
    let (_, answer) = world.call_as(&kubelet, Method::GET, "/api/v1/nodes/n-2", &nothing).await;
    assert_eq!(
        text(&answer["message"]),
        "nodes \"n-2\" is forbidden: User \"system:node:n-1\" cannot get resource \"nodes\" in API \
         group \"\" at the cluster scope: node 'n-1' cannot read 'n-2', only its own Node object"
    );
}

#[tokio::test(start_paused = true)]
async fn reviews_answer_what_a_request_would() {
    let world = world().await;
    let jane = User::new("jane", &[]);
    let attributes = json!({"namespace": "default", "verb": "list", "resource": "pods"});
    let api = "/apis/authorization.k8s.io/v1";
    let own = format!("{api}/selfsubjectaccessreviews");
    let body = json!({"spec": {"resourceAttributes": attributes}});
    let (code, answer) = world.call_as(&jane, Method::POST, &own, &body).await;
    assert_eq!((code, &answer["status"]), (201, &json!({"allowed": false})));
    assert_eq!(text(&answer["kind"]), "SelfSubjectAccessReview");
    let others = format!("{api}/subjectaccessreviews");
    assert_eq!(world.call_as(&jane, Method::POST, &others, &body).await.0, 403);
    world
        .create(
            &format!("{RBAC}/namespaces/default/rolebindings"),
            binding("RoleBinding", "view", ("ClusterRole", "view"), "jane"),
        )
        .await;
    settle(&world).await;
    let (_, answer) = world.call_as(&jane, Method::POST, &own, &body).await;
    let reason =
        "RBAC: allowed by RoleBinding \"view/default\" of ClusterRole \"view\" to User \"jane\"";
    assert_eq!(answer["status"], json!({"allowed": true, "reason": reason}));
    let mut about = body.clone();
    about["spec"]["user"] = "jane".into();
    assert_eq!(world.create(&others, about.clone()).await["status"]["allowed"], true);
    let local = format!("{api}/namespaces/default/localsubjectaccessreviews");
    assert_eq!(world.create(&local, about.clone()).await["status"]["allowed"], true);
    let wrong = format!("{api}/namespaces/kube-system/localsubjectaccessreviews");
    let (code, answer) = world.call(Method::POST, &wrong, &about).await;
    assert_eq!(
        (code, text(&answer["details"]["causes"][0]["field"])),
        (422, "spec.resourceAttributes.namespace")
    );
    for (body, field) in [
        (json!({"spec": {}}), "spec.resourceAttributes"),
        (json!({"spec": {"resourceAttributes": {}}}), "spec.user"),
    ] {
        let (code, answer) = world.call(Method::POST, &others, &body).await;
        assert_eq!((code, text(&answer["details"]["causes"][0]["field"])), (422, field));
    }
    let path = json!({"spec": {"user": "jane", "groups": ["system:authenticated"],
        "nonResourceAttributes": {"verb": "get", "path": "/api"}}});
    assert_eq!(world.create(&others, path).await["status"]["allowed"], true);
    let rules = format!("{api}/selfsubjectrulesreviews");
    let body = json!({"spec": {"namespace": "default"}});
    let (code, answer) = world.call_as(&jane, Method::POST, &rules, &body).await;
    let resources = answer["status"]["resourceRules"].as_array().unwrap();
    assert!(code == 201 && resources.len() > 5, "{answer}");
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (_, answer) = world.call_as(&jane, Method::POST, who, &json!({})).await;
    assert_eq!(
        answer["status"]["userInfo"],
        json!({"username": "jane", "groups": ["system:authenticated"]})
    );
    assert_eq!(world.call(Method::GET, who, &Value::Null).await.0, 405);
    assert_eq!(world.call(Method::POST, &format!("{api}/nothing"), &json!({})).await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn somebody_may_ask_as_somebody_else_if_allowed() {
    let world = world().await;
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let headers = [
        ("impersonate-user", "joe"),
        ("impersonate-group", "dev"),
        ("impersonate-extra-acme.io%2fscope", "all"),
    ];
    let (_, answer) = world.call_with(Method::POST, who, &headers, &json!({})).await;
    assert_eq!(
        answer["status"]["userInfo"],
        json!({"username": "joe", "groups": ["dev", "system:authenticated"],
            "extra": {"acme.io/scope": ["all"]}})
    );
    let headers = [("impersonate-user", "system:serviceaccount:default:ci")];
    let (_, answer) = world.call_with(Method::POST, who, &headers, &json!({})).await;
    assert_eq!(
        answer["status"]["userInfo"]["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    let (code, answer) =
        world.call_with(Method::GET, PODS, &[("impersonate-user", "joe")], &Value::Null).await;
    assert!(
        code == 403 && text(&answer["message"]).contains("User \"joe\" cannot list"),
        "{answer}"
    );
    let jane = User::new("jane", &[]);
    let (code, answer) = world
        .call_as_with(&jane, (Method::GET, PODS), &[("impersonate-user", "joe")], &Value::Null)
        .await;
    assert_eq!(code, 403);
    assert_eq!(
        text(&answer["message"]),
        "users \"joe\" is forbidden: User \"jane\" cannot impersonate resource \"users\" in API \
         group \"\" at the cluster scope"
    );
    let (code, _) =
        world.call_with(Method::GET, PODS, &[("impersonate-group", "dev")], &Value::Null).await;
    assert_eq!(code, 500);
}

#[tokio::test(start_paused = true)]
async fn before_the_first_policy_only_masters_are_served() {
    let world = World::new().await;
    let jane = User::new("jane", &[]);
    let (code, answer) = world.call_as(&jane, Method::GET, PODS, &Value::Null).await;
    assert_eq!((code, text(&answer["reason"])), (503, "ServiceUnavailable"));
    let open =
        Config { authorization_modes: vec![AuthorizationMode::AlwaysAllow], ..Config::default() };
    let world = World::with(&[], open).await;
    assert_eq!(world.call_as(&jane, Method::GET, PODS, &Value::Null).await.0, 200);
}
