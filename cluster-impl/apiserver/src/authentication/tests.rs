//! Tokens of every kind, against a server in memory.

use http::Method;
use machinery::signing::SigningKey;
use serde_json::{Value, json};

use super::*;
use crate::Config;
use crate::testing::{PODS, World, named, pod, text};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

async fn world() -> World {
    let config = Config {
        service_accounts: Some(ServiceAccounts::simulated()),
        static_tokens: StaticTokens::parse("of-jane,jane,u-1,\"dev\"").unwrap(),
        bootstrap_tokens: true,
        authorization_modes: vec![crate::AuthorizationMode::AlwaysAllow],
        ..Config::default()
    };
    let world = World::with(&[], config).await;
    world.create(ACCOUNTS, named("v1", "ServiceAccount", "builder")).await;
    world
}

/// What the server takes the bearer of a token for.
async fn who(world: &World, token: &str) -> (u16, Value) {
    let authorization = format!("Bearer {token}");
    let headers = [("content-type", "application/json"), ("authorization", &authorization)];
    let user = User::anonymous();
    let body = json!({});
    let (code, answer) = world.call_as_with(&user, (Method::POST, WHO), &headers, &body).await;
    (code, answer["status"]["userInfo"].clone())
}

async fn token(world: &World, spec: Value) -> (u16, Value) {
    let path = format!("{ACCOUNTS}/builder/token");
    world.call(Method::POST, &path, &json!({"spec": spec})).await
}

async fn made(world: &World, spec: Value) -> String {
    let (code, answer) = token(world, spec).await;
    assert_eq!(code, 201, "{answer}");
    text(&answer["status"]["token"]).to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_token_stands_for_its_account_until_it_ends() {
    let world = world().await;
    let (code, answer) = token(&world, json!({})).await;
    assert_eq!((code, text(&answer["kind"])), (201, "TokenRequest"));
    assert_eq!(answer["spec"]["expirationSeconds"], 3600);
    assert_eq!(answer["spec"]["audiences"].as_array().unwrap().len(), 1);
    assert_eq!(answer["status"]["expirationTimestamp"], "2026-01-01T01:00:10Z");
    let of_account = text(&answer["status"]["token"]);
    let (code, user) = who(&world, of_account).await;
    assert_eq!(code, 201);
    assert_eq!(user["username"], "system:serviceaccount:default:builder");
    let groups =
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]);
    assert_eq!(user["groups"], groups);
    let account = world.get(&format!("{ACCOUNTS}/builder")).await;
    assert_eq!(user["uid"], account["metadata"]["uid"]);
    let id = &user["extra"]["authentication.kubernetes.io/credential-id"][0];
    assert!(text(id).starts_with("JTI="), "{id}");
    world.env.sleep(std::time::Duration::from_secs(3600 + 59)).await;
    assert_eq!(who(&world, of_account).await.0, 201, "clocks may differ by a minute");
    world.env.sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(who(&world, of_account).await.0, 401);
}

#[tokio::test(start_paused = true)]
async fn a_token_ends_with_what_it_is_bound_to() {
    let world = world().await;
    world.create("/api/v1/nodes", named("v1", "Node", "n-1")).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    world.create(secrets, named("v1", "Secret", "web")).await;
    let mut body = pod("web");
    body["spec"]["serviceAccountName"] = "builder".into();
    body["spec"]["nodeName"] = "n-1".into();
    let with_pod = world.create(PODS, body.clone()).await;
    let bound = |kind: &str, name: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name}});
    let of_pod = made(&world, bound("Pod", "web")).await;
    let of_node = made(&world, bound("Node", "n-1")).await;
    let of_secret = made(&world, bound("Secret", "web")).await;
    let of_account = made(&world, json!({})).await;
    let (_, user) = who(&world, &of_pod).await;
    let extra =
        |name: &str| user["extra"][format!("authentication.kubernetes.io/{name}")][0].clone();
    assert_eq!((extra("pod-name"), extra("node-name")), (json!("web"), json!("n-1")));
    assert_eq!(extra("pod-uid"), with_pod["metadata"]["uid"]);
    for token in [&of_node, &of_secret, &of_account] {
        assert_eq!(who(&world, token).await.0, 201);
    }
    world.delete(&format!("{PODS}/web?gracePeriodSeconds=0")).await;
    assert_eq!(who(&world, &of_pod).await.0, 401, "at once");
    world.create(PODS, body).await;
    assert_eq!(who(&world, &of_pod).await.0, 401, "another pod of the same name");
    world.delete("/api/v1/nodes/n-1").await;
    assert_eq!(who(&world, &of_node).await.0, 401);
    world.delete(&format!("{secrets}/web")).await;
    assert_eq!(who(&world, &of_secret).await.0, 401);
    world.delete(&format!("{ACCOUNTS}/builder")).await;
    assert_eq!(who(&world, &of_account).await.0, 401, "at once");
    world.create(ACCOUNTS, named("v1", "ServiceAccount", "builder")).await;
    assert_eq!(who(&world, &of_account).await.0, 401, "another account of the same name");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_asked_for_is_refused() {
    let world = world().await;
    world.create(PODS, pod("web")).await;
    let reference = |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}});
    for (spec, code, message) in [
        (json!({"expirationSeconds": 599}), 422, "may not specify a duration less than 10 minutes"),
        (json!({"expirationSeconds": 4294967297u64}), 422, "larger than 2^32 seconds"),
        (json!({"expirationSeconds": "1h"}), 422, "must be an integer"),
        (json!({"audiences": [1]}), 422, "must be text"),
        (reference("Pod", "none", ""), 404, "pods \"none\" not found"),
        (reference("Pod", "web", ""), 400, "different serviceaccount name"),
        (reference("ConfigMap", "web", ""), 400, "cannot bind token"),
    ] {
        let (found, answer) = token(&world, spec.clone()).await;
        assert_eq!(found, code, "{spec}: {answer}");
        assert!(text(&answer["message"]).contains(message), "{answer}");
    }
    let mut body = pod("own");
    body["spec"]["serviceAccountName"] = "builder".into();
    world.create(PODS, body).await;
    assert_eq!(token(&world, reference("Pod", "own", "other")).await.0, 409);
    let missing = format!("{ACCOUNTS}/none/token");
    assert_eq!(world.call(Method::POST, &missing, &json!({})).await.0, 404);
    let kubelet = User::new("system:node:n-1", &["system:nodes"]);
    let path = format!("{ACCOUNTS}/builder/token");
    let body = json!({"spec": {}});
    let (code, answer) = world.call_as(&kubelet, Method::POST, &path, &body).await;
    assert_eq!(code, 403, "{answer}");
    assert!(text(&answer["message"]).ends_with("node requested token not bound to a pod"));
    let uid = world.get(&format!("{PODS}/own")).await["metadata"]["uid"].clone();
    let body = json!({"spec": reference("Pod", "own", text(&uid))});
    let (code, answer) = world.call_as(&kubelet, Method::POST, &path, &body).await;
    assert_eq!(code, 403, "{answer}");
    assert!(text(&answer["message"]).ends_with("scheduled on a different node"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_review_tells_whose_a_token_is_and_for_whom() {
    let world = world().await;
    let vault = made(&world, json!({"audiences": ["vault"]})).await;
    assert_eq!(who(&world, &vault).await.0, 401, "it is not meant for this server");
    let review = async |token: &str, audiences: Value| {
        let body = json!({"spec": {"token": token, "audiences": audiences}});
        world.create(REVIEWS, body).await["status"].clone()
    };
    let right = review(&vault, json!(["vault", "other"])).await;
    assert_eq!((&right["authenticated"], &right["audiences"]), (&json!(true), &json!(["vault"])));
    assert_eq!(right["user"]["username"], "system:serviceaccount:default:builder");
    let wrong = review(&vault, json!(["other"])).await;
    assert_eq!(wrong.get("authenticated"), None);
    assert!(text(&wrong["error"]).contains("invalid for the target audiences"), "{wrong}");
    assert_eq!(review("garbage", json!([])).await["error"], "[invalid bearer token]");
    assert_eq!(review("of-jane", json!([])).await["user"]["username"], "jane");
    assert_eq!(review("of-jane", json!(["vault"])).await.get("authenticated"), None);
    let (code, _) = world.call(Method::POST, REVIEWS, &json!({"spec": {}})).await;
    assert_eq!(code, 400);
}

#[tokio::test(start_paused = true)]
async fn pods_that_never_read_their_token_again_are_given_a_year() {
    let world = world().await;
    let mut body = pod("web");
    body["spec"]["serviceAccountName"] = "builder".into();
    world.create(PODS, body).await;
    let spec = json!({"expirationSeconds": 3607,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "web"}});
    let token = made(&world, spec).await;
    let claims = machinery::signing::Token::parse(&token).unwrap().claims;
    let life = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert_eq!(life, 365 * 24 * 3600);
    let warned = claims["kubernetes.io"]["warnafter"].as_i64().unwrap();
    assert_eq!(warned - claims["iat"].as_i64().unwrap(), 3607);
}

#[tokio::test(start_paused = true)]
async fn a_token_in_a_secret_lives_as_long_as_the_secret() {
    let world = world().await;
    let account = world.get(&format!("{ACCOUNTS}/builder")).await;
    let key = SigningKey::of_seed("simulated service accounts");
    let token = key.token(&json!({
        "iss": service_account::LEGACY_ISSUER, "sub": "system:serviceaccount:default:builder",
        "kubernetes.io/serviceaccount/namespace": "default",
        "kubernetes.io/serviceaccount/secret.name": "builder-token",
        "kubernetes.io/serviceaccount/service-account.name": "builder",
        "kubernetes.io/serviceaccount/service-account.uid": account["metadata"]["uid"],
    }));
    assert_eq!(who(&world, &token).await.0, 401, "no Secret holds it");
    let mut secret = named("v1", "Secret", "builder-token");
    secret["type"] = "kubernetes.io/service-account-token".into();
    secret["metadata"]["annotations"] = json!({"kubernetes.io/service-account.name": "builder"});
    secret["stringData"] = json!({"token": token});
    let secrets = "/api/v1/namespaces/default/secrets";
    world.create(secrets, secret).await;
    let (code, user) = who(&world, &token).await;
    assert_eq!((code, text(&user["username"])), (201, "system:serviceaccount:default:builder"));
    world.delete(&format!("{secrets}/builder-token")).await;
    assert_eq!(who(&world, &token).await.0, 401);
}

#[tokio::test(start_paused = true)]
async fn a_bootstrap_token_is_a_secret() {
    let world = world().await;
    const TOKEN: &str = "abcdef.0123456789abcdef";
    assert_eq!(who(&world, TOKEN).await.0, 401);
    let mut secret = named("v1", "Secret", "bootstrap-token-abcdef");
    secret["type"] = "bootstrap.kubernetes.io/token".into();
    secret["stringData"] = json!({
        "token-id": "abcdef", "token-secret": "0123456789abcdef",
        "usage-bootstrap-authentication": "true", "expiration": "2026-01-01T02:00:00Z",
        "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
    });
    world.create(SECRETS, secret).await;
    let (code, user) = who(&world, TOKEN).await;
    assert_eq!((code, text(&user["username"])), (201, "system:bootstrap:abcdef"));
    let groups = json!([
        "system:bootstrappers",
        "system:bootstrappers:kubeadm:default-node-token",
        "system:authenticated"
    ]);
    assert_eq!(user["groups"], groups);
    assert_eq!(who(&world, "abcdef.0123456789abcdee").await.0, 401);
    let path = format!("{SECRETS}/bootstrap-token-abcdef");
    for (entry, value) in [
        ("usage-bootstrap-authentication", "false"),
        ("auth-extra-groups", "system:masters"),
        ("expiration", "soon"),
        ("token-id", "abcdeg"),
    ] {
        let before = world.get(&path).await;
        world.patch(&path, json!({"stringData": {entry: value}})).await;
        assert_eq!(who(&world, TOKEN).await.0, 401, "{entry}");
        let data = before["data"].clone();
        world.patch(&path, json!({"data": data})).await;
        assert_eq!(who(&world, TOKEN).await.0, 201, "{entry}");
    }
    world.env.sleep(std::time::Duration::from_secs(2 * 3600)).await;
    assert_eq!(who(&world, TOKEN).await.0, 401, "it has expired");
}

#[tokio::test(start_paused = true)]
async fn who_shows_what_does_not_hold_is_not_taken_for_nobody() {
    let world = world().await;
    for (authorization, code) in
        [("", 200), ("Basic eDp5", 200), ("Bearer wrong", 401), ("bearer a.b.c", 401)]
    {
        let headers: &[(&str, &str)] =
            if authorization.is_empty() { &[] } else { &[("authorization", authorization)] };
        let asked = (Method::GET, "/livez/ping");
        let user = User::anonymous();
        let (found, _) = world.call_as_with(&user, asked, headers, &Value::Null).await;
        assert_eq!(found, code, "{authorization}");
    }
    let request = http::Request::get("/livez").body(bytes::Bytes::new()).unwrap();
    let response = world.server.handle_shown(Shown::BadCertificate, request).await;
    assert_eq!(response.status(), 401);
    let mut request = http::Request::get("/livez").body(bytes::Bytes::new()).unwrap();
    let odd = http::HeaderValue::from_bytes(b"Bearer \xff").unwrap();
    request.headers_mut().insert("authorization", odd);
    assert_eq!(world.server.handle(User::anonymous(), request).await.status(), 401);
    world.cluster.set_up(0, false);
    let token = ServiceAccounts::simulated().signing.as_ref().unwrap().token(&json!({
        "iss": "https://kubernetes.default.svc.cluster.local", "exp": 1_900_000_000,
        "aud": ["https://kubernetes.default.svc.cluster.local"],
        "kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "builder", "uid": "u"}},
    }));
    assert_eq!(who(&world, &token).await.0, 503, "it is not known whether the token holds");
}

#[tokio::test(start_paused = true)]
async fn others_can_learn_whose_signatures_hold() {
    let world = world().await;
    let found = world.get("/.well-known/openid-configuration").await;
    assert_eq!(found["issuer"], "https://kubernetes.default.svc.cluster.local");
    assert_eq!(found["id_token_signing_alg_values_supported"], json!(["ES256"]));
    let keys = world.get("/openid/v1/jwks").await;
    assert_eq!((&keys["keys"][0]["kty"], &keys["keys"][0]["alg"]), (&json!("EC"), &json!("ES256")));
}

#[tokio::test(start_paused = true)]
async fn strangers_may_ask_for_more_only_if_that_is_switched_on() {
    let stranger = User::anonymous();
    for (anonymous_auth, code) in [(false, 401), (true, 200)] {
        let authorization_modes = vec![crate::AuthorizationMode::AlwaysAllow];
        let config = Config { anonymous_auth, authorization_modes, ..Config::default() };
        let world = World::with(&[], config).await;
        let (found, answer) = world.call_as(&stranger, Method::GET, PODS, &Value::Null).await;
        assert_eq!(found, code);
        if code == 401 {
            assert_eq!(
                (text(&answer["reason"]), text(&answer["message"])),
                ("Unauthorized", "Unauthorized")
            );
        }
    }
}
