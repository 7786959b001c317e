//! The security table: what is tried at the door, over real TLS sockets, and how it is answered.
//!
//! `results/security.md` is this table; the test fails when it is not, and writes it anew with
//! `UPDATE_RESULTS=1`. Every row is tried anew in each run, and none may be answered 500 or panic.

use std::sync::Arc;
use std::time::Duration;

use crate::loopback::{Loopback, authority, client};
use crate::table::{Identity, Table};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use machinery::signing::SigningKey;
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use shakedown_apiserver::{Config, ServiceAccounts, StaticTokens};

const ISSUER: &str = "https://issuer.example";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const BAD: &str = "401 Unauthorized";
/// Waits that are minutes in earnest.
const PATIENCE: Duration = Duration::from_millis(400);

fn key() -> SigningKey {
    SigningKey::of_seed("the issuer")
}

fn config() -> Config {
    Config {
        service_accounts: Some(Arc::new(ServiceAccounts::new(key(), ISSUER))),
        static_tokens: StaticTokens::parse("of-jane,jane,u-1,\"dev\"").expect("it is well formed"),
        bootstrap_tokens: true,
        header_timeout: PATIENCE,
        body_timeout: PATIENCE,
        ..Config::default()
    }
}

#[tokio::test]
async fn the_answers_are_those_of_the_table() {
    let loopback = Loopback::with(config()).await;
    let mut table = Table::new(&loopback).await;
    certificates(&mut table).await;
    tokens(&mut table).await;
    nodes(&mut table).await;
    escalations(&mut table).await;
    paths(&mut table).await;
    bodies(&mut table).await;
    streams(&mut table).await;
    table.compare();
}

async fn certificates(table: &mut Table<'_>) {
    table.chapter("Who shows a certificate, or nothing");
    let nobody = Identity::nobody();
    table.get("nobody asks for health", &nobody, "/livez", "200").await;
    table.get("nobody asks for the version", &nobody, "/version", "200").await;
    for path in ["/api", "/metrics", "/api/v1/secrets", "/nowhere", "/openid/v1/jwks"] {
        table.get("nobody asks for anything else", &nobody, path, "401 Unauthorized").await;
    }
    let (_, stranger) = authority();
    let pair = KeyPair::generate().expect("ring makes keys");
    let signed = client("kubernetes-admin", &["system:masters"]).signed_by(&pair, &stranger);
    let certificate = signed.expect("the issuer can sign").pem();
    let wrong = Identity::certificate((certificate, pair.serialize_pem()));
    table.get("a certificate of another authority", &wrong, "/api", "401 Unauthorized").await;
    table.get("... does not pass for nobody", &wrong, "/livez", "401 Unauthorized").await;
    let mut past = client("kubernetes-admin", &["system:masters"]);
    (past.not_before, past.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
    let past = Identity::certificate(table.loopback.sign(past));
    table.get("a certificate that has expired", &past, "/api", "401 Unauthorized").await;
    let mut early = client("kubernetes-admin", &["system:masters"]);
    (early.not_before, early.not_after) = (date_time_ymd(2900, 1, 1), date_time_ymd(2901, 1, 1));
    let early = Identity::certificate(table.loopback.sign(early));
    table.get("a certificate that is not valid yet", &early, "/api", "401 Unauthorized").await;
    let mut server = client("kubernetes-admin", &["system:masters"]);
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let server = Identity::certificate(table.loopback.sign(server));
    table
        .get("a server's certificate, shown by a client", &server, "/api", "401 Unauthorized")
        .await;
    let own = KeyPair::generate().expect("ring makes keys");
    let signed = client("kubernetes-admin", &["system:masters"]).self_signed(&own);
    let signed = signed.expect("a key can sign for itself").pem();
    let own = Identity::certificate((signed, own.serialize_pem()));
    table.get("a certificate that signs itself", &own, "/api", "401 Unauthorized").await;
    let unnamed = Identity::certificate(table.loopback.certificate("", &["system:masters"]));
    table.get("a certificate without a name", &unnamed, "/api", "401 Unauthorized").await;
    let admin = table.admin();
    table.get("an administrator's certificate", &admin, "/api", "200").await;
}

/// The claims of a good token for an account, from now on.
fn claims(uid: &Value) -> Value {
    let now = env::Env::os().now().as_second();
    json!({
        "iss": ISSUER, "aud": [ISSUER], "iat": now, "nbf": now, "exp": now + 3600, "jti": "id",
        "sub": "system:serviceaccount:default:builder",
        "kubernetes.io": {"namespace": "default",
            "serviceaccount": {"name": "builder", "uid": uid}},
    })
}

async fn tokens(table: &mut Table<'_>) {
    table.chapter("Who shows a token");
    let made = table.create(ACCOUNTS, json!({"metadata": {"name": "builder"}})).await;
    let good = claims(&made["metadata"]["uid"]);
    let with = |pointer: &str, value: Value| {
        let mut claims = good.clone();
        claims[pointer] = value;
        Identity::token(&key().token(&claims))
    };
    let right = key().token(&good);
    table.get("a good token", &Identity::token(&right), "/api", "200").await;
    table.get("a token of the token file", &Identity::token("of-jane"), "/api", "200").await;
    for (what, identity) in [
        ("a token that has expired", with("exp", json!(1_000_000_000))),
        ("a token without an expiry", with("exp", Value::Null)),
        ("a token that is not valid yet", with("nbf", json!(4_000_000_000u64))),
        ("a token for another audience", with("aud", json!(["vault"]))),
        ("a token for no audience", with("aud", json!([]))),
        ("a token of another issuer", with("iss", json!("https://elsewhere.example"))),
        (
            "a token that says it is a Secret's, and of no Secret",
            with("iss", json!("kubernetes/serviceaccount")),
        ),
    ] {
        table.get(what, &identity, "/api", BAD).await;
    }
    forgeries(table, &good, &right).await;
    ends(table, &good, &right).await;
}

async fn forgeries(table: &mut Table<'_>, good: &Value, right: &str) {
    let other = SigningKey::of_seed("somebody else").token(good);
    table.get("a token signed by another key", &Identity::token(&other), "/api", BAD).await;
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let forged = |header: Value| format!("{}.{}", encode(&header), encode(good));
    let id = key().public().id().to_owned();
    let none = format!("{}.", forged(json!({"alg": "none"})));
    table.get("alg: none, without a signature", &Identity::token(&none), "/api", BAD).await;
    let message = forged(json!({"alg": "HS256", "kid": id}));
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key().public().info());
    let mac = ring::hmac::sign(&secret, message.as_bytes());
    let mac = format!("{message}.{}", URL_SAFE_NO_PAD.encode(mac.as_ref()));
    table.get("alg: HS256 over the public key", &Identity::token(&mac), "/api", BAD).await;
    let signature = right.rsplit('.').next().expect("it has three parts");
    let swapped = format!("{}.{signature}", forged(json!({"alg": "RS256", "kid": id})));
    table.get("alg: RS256 over an ES256 signature", &Identity::token(&swapped), "/api", BAD).await;
    let zero = format!(
        "{}.{}",
        forged(json!({"alg": "ES256", "kid": id})),
        URL_SAFE_NO_PAD.encode([0; 64])
    );
    table.get("a signature of zeros", &Identity::token(&zero), "/api", BAD).await;
    for (what, token) in [
        ("a token cut short", &right[..right.len() - 8]),
        ("a token without its signature", right.rsplit_once('.').expect("it has three parts").0),
        ("garbage", "garbage"),
        ("dots", "..."),
        ("a bootstrap token that nobody made", "abcdef.0123456789abcdef"),
    ] {
        table.get(what, &Identity::token(token), "/api", BAD).await;
    }
    let long = "x".repeat(8192);
    table.get("garbage of 8 KiB", &Identity::token(&long), "/api", BAD).await;
    table.get("a wrong token, and health", &Identity::token("wrong"), "/livez", BAD).await;
}

async fn ends(table: &mut Table<'_>, good: &Value, right: &str) {
    let mut pod = json!({"metadata": {"name": "web"},
        "spec": {"serviceAccountName": "builder", "containers": [{"name": "main", "image": "web:1"}]}});
    let first = table.create(PODS, pod.clone()).await;
    let mut bound = good.clone();
    bound["kubernetes.io"]["pod"] = json!({"name": "web", "uid": first["metadata"]["uid"]});
    let bound = Identity::token(&key().token(&bound));
    table.get("a token bound to a pod", &bound, "/api", "200").await;
    table.delete(&format!("{PODS}/web?gracePeriodSeconds=0")).await;
    table.get("... once the pod is deleted, at once", &bound, "/api", BAD).await;
    pod["metadata"]["labels"] = json!({"again": "yes"});
    table.create(PODS, pod).await;
    table.get("... and when another has its name", &bound, "/api", BAD).await;
    let right = Identity::token(right);
    table.delete(&format!("{ACCOUNTS}/builder")).await;
    table.get("a token whose account is deleted, at once", &right, "/api", BAD).await;
    table.create(ACCOUNTS, json!({"metadata": {"name": "builder"}})).await;
    table.get("... and when another has its name", &right, "/api", BAD).await;
}

async fn nodes(table: &mut Table<'_>) {
    table.chapter("A kubelet that wants more than its own");
    let secrets = "/api/v1/namespaces/default/secrets";
    for name in ["mine", "theirs"] {
        table.create(secrets, json!({"metadata": {"name": name}})).await;
    }
    for node in ["n-1", "n-2"] {
        table.create("/api/v1/nodes", json!({"metadata": {"name": node}})).await;
        let name = if node == "n-1" { "mine" } else { "theirs" };
        let pod = json!({"metadata": {"name": format!("on-{node}")}, "spec": {"nodeName": node,
            "containers": [{"name": "main", "image": "web:1"}],
            "volumes": [{"name": "v", "secret": {"secretName": name}}]}});
        table.create("/api/v1/namespaces/default/pods", pod).await;
    }
    let node = table.user("system:node:n-1", &["system:nodes"]);
    table.get("a Secret of a pod on it", &node, &format!("{secrets}/mine"), "200").await;
    table
        .get("a Secret of another node's pod", &node, &format!("{secrets}/theirs"), "403 Forbidden")
        .await;
    table.get("all Secrets", &node, "/api/v1/secrets", "403 Forbidden").await;
    let path = "/api/v1/namespaces/default/serviceaccounts/builder/token";
    let body = json!({"spec": {}});
    table
        .send(
            "a token that is bound to no pod of its own",
            &node,
            ("POST", path, &body),
            "403 Forbidden",
        )
        .await;
    let labelled = json!({"metadata": {"labels": {"node-restriction.kubernetes.io/x": "y"}}});
    table
        .send(
            "a label that sets nodes apart",
            &node,
            ("PATCH", "/api/v1/nodes/n-1", &labelled),
            "403 Forbidden",
        )
        .await;
    table
        .send(
            "another node's labels",
            &node,
            ("PATCH", "/api/v1/nodes/n-2", &labelled),
            "403 Forbidden",
        )
        .await;
    let odd = table.user("system:node:n-1", &[]);
    table
        .get(
            "a kubelet's name without its group",
            &odd,
            &format!("{secrets}/mine"),
            "403 Forbidden",
        )
        .await;
}

async fn escalations(table: &mut Table<'_>) {
    table.chapter("Who gives, or takes, more than they have");
    const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let rule = json!({"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"],
        "verbs": ["create", "update", "get"]});
    table.create(&roles, json!({"metadata": {"name": "author"}, "rules": [rule]})).await;
    let jane = json!([{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}]);
    let reference = |kind: &str, name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
    let binding = |name: &str, role: Value| json!({"metadata": {"name": name}, "subjects": jane, "roleRef": role});
    table.create(&bindings, binding("author", reference("Role", "author"))).await;
    let author = table.user("jane", &[]);
    table.settle(&author, &format!("{roles}/author"), 200).await;
    let all = json!({"metadata": {"name": "all"},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]});
    table
        .send(
            "a role with more than its author has",
            &author,
            ("POST", &roles, &all),
            "403 Forbidden",
        )
        .await;
    let own = json!({"metadata": {"name": "own"}, "rules": [{"apiGroups": ["rbac.authorization.k8s.io"],
        "resources": ["roles"], "verbs": ["get"]}]});
    table.send("a role with what its author has", &author, ("POST", &roles, &own), "201").await;
    let admin = binding("admin", reference("ClusterRole", "cluster-admin"));
    table
        .send("binding cluster-admin", &author, ("POST", &bindings, &admin), "403 Forbidden")
        .await;
    table
        .send(
            "a ClusterRole, without a right to any",
            &author,
            ("POST", &format!("{RBAC}/clusterroles"), &all),
            "403 Forbidden",
        )
        .await;
    for (what, headers) in [
        ("impersonating a user", &[("Impersonate-User", "kubernetes-admin")][..]),
        (
            "impersonating a group",
            &[("Impersonate-User", "jane"), ("Impersonate-Group", "system:masters")],
        ),
        (
            "impersonating an account",
            &[("Impersonate-User", "system:serviceaccount:kube-system:default")],
        ),
        ("impersonating a uid", &[("Impersonate-User", "jane"), ("Impersonate-Uid", "1")]),
        (
            "impersonating an extra",
            &[("Impersonate-User", "jane"), ("Impersonate-Extra-scopes", "all")],
        ),
    ] {
        let author = author.clone().with(headers);
        table.get(what, &author, "/api", "403 Forbidden").await;
    }
    let nobody = Identity::nobody().with(&[("Impersonate-User", "kubernetes-admin")]);
    table.get("nobody impersonates", &nobody, "/api", "401 Unauthorized").await;
    let forged = Identity::nobody()
        .with(&[("X-Remote-User", "kubernetes-admin"), ("X-Remote-Group", "system:masters")]);
    table.get("nobody, with the headers of a proxy", &forged, "/api", "401 Unauthorized").await;
}

async fn paths(table: &mut Table<'_>) {
    table.chapter("Paths that lead elsewhere");
    let (jane, admin) = (table.user("jane", &[]), table.admin());
    for (path, answer) in [
        (format!("{MAPS}/.."), "400 BadRequest"),
        (format!("{MAPS}/%2e%2e"), "400 BadRequest"),
        (format!("{MAPS}/%2E"), "400 BadRequest"),
        (format!("{MAPS}/..%2f..%2fsecrets"), "400 BadRequest"),
        (format!("{MAPS}/a%2fb"), "400 BadRequest"),
        (format!("{MAPS}/a%00b"), "400 BadRequest"),
        (format!("{MAPS}/%252e%252e"), "400 BadRequest"),
        ("/api/v1/namespaces/%2e%2e/configmaps/a".to_owned(), "400 BadRequest"),
        ("/api/v1/namespaces/default%2f..%2fkube-system/configmaps/a".to_owned(), "400 BadRequest"),
        ("/api/v1/namespaces/default/../kube-system/secrets".to_owned(), "404 NotFound"),
        ("/api/v1/nodes/n-1/%2e%2e".to_owned(), "404 NotFound"),
        (format!("{MAPS}/a/../../../kube-system/secrets/b"), "404 NotFound"),
    ] {
        table.get("an administrator asks", &admin, &path, answer).await;
    }
    for (path, answer) in [
        ("//api/v1/secrets", "403 Forbidden"),
        ("/api//v1///secrets", "403 Forbidden"),
        ("/api/v1/namespaces/default/../../secrets", "404 NotFound"),
        ("/livez/../api/v1/secrets", "404"),
        ("/healthz/%2e%2e/metrics", "404"),
        ("//metrics", "403 Forbidden"),
        ("/metrics/", "403 Forbidden"),
        ("/%6detrics", "404 NotFound"),
    ] {
        table.get("somebody without rights asks", &jane, path, answer).await;
    }
    for (what, body, answer) in [
        ("a name that leads up", json!({"metadata": {"name": "../a"}}), "422 Invalid"),
        ("a name with a NUL", json!({"metadata": {"name": "a\u{0}"}}), "422 Invalid"),
        (
            "a body for another namespace",
            json!({"metadata": {"name": "a", "namespace": "kube-system"}}),
            "400 BadRequest",
        ),
        ("a prefix that leads up", json!({"metadata": {"generateName": "../"}}), "422 Invalid"),
    ] {
        table.send(what, &admin, ("POST", MAPS, &body), answer).await;
    }
}

async fn bodies(table: &mut Table<'_>) {
    table.chapter("Bodies");
    let admin = table.admin();
    let deep = |open: &str, close: &str, levels: usize| {
        format!("{{\"data\":{}1{}}}", open.repeat(levels), close.repeat(levels))
    };
    let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (name, before) in ('b'..='k').zip('a'..='j') {
        bomb += &format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 9].join(","));
    }
    for (what, media, body, answer) in [
        ("4 MiB", "application/json", vec![b' '; 4 << 20], "413 RequestEntityTooLarge"),
        (
            "5,000 lists in one another",
            "application/json",
            deep("[", "]", 5000).into(),
            "400 BadRequest",
        ),
        (
            "5,000 objects in one another",
            "application/json",
            deep("{\"a\":", "}", 5000).into(),
            "400 BadRequest",
        ),
        ("5,000 lists in YAML", "application/yaml", deep("[", "]", 5000).into(), "400 BadRequest"),
        ("YAML whose aliases multiply", "application/yaml", bomb.into(), "400 BadRequest"),
        (
            "half of a JSON document",
            "application/json",
            b"{\"metadata\":".to_vec(),
            "400 BadRequest",
        ),
        (
            "no UTF-8",
            "application/json",
            b"{\"metadata\":{\"name\":\"\xff\"}}".to_vec(),
            "400 BadRequest",
        ),
        ("a list where an object belongs", "application/json", b"[]".to_vec(), "400 BadRequest"),
        ("nothing", "application/json", Vec::new(), "400 BadRequest"),
        (
            "broken protobuf",
            "application/vnd.kubernetes.protobuf",
            b"k8s\0\xff\xff\xff\xff".to_vec(),
            "400 BadRequest",
        ),
        (
            "protobuf in name only",
            "application/vnd.kubernetes.protobuf",
            b"{}".to_vec(),
            "400 BadRequest",
        ),
        ("XML", "application/xml", b"<a/>".to_vec(), "415 UnsupportedMediaType"),
    ] {
        let identity = admin.clone().with(&[("Content-Type", media)]);
        table.bytes(what, &identity, ("POST", MAPS, &body), answer).await;
    }
    patches(table, &admin).await;
}

async fn patches(table: &mut Table<'_>, admin: &Identity) {
    table.create(MAPS, json!({"metadata": {"name": "patched"}, "data": {"a": "1"}})).await;
    let one = json!({"op": "add", "path": "/data/b", "value": "1"});
    let many = Value::Array(vec![one; 10_001]).to_string();
    let identity = admin.clone().with(&[("Content-Type", "application/json-patch+json")]);
    let path = format!("{MAPS}/patched");
    table
        .bytes(
            "a patch of 10,001 operations",
            &identity,
            ("PATCH", &path, many.as_bytes()),
            "413 RequestEntityTooLarge",
        )
        .await;
}

async fn streams(table: &mut Table<'_>) {
    table.chapter("Headers and streams");
    let admin = table.admin();
    let many: String = (0..150).map(|at| format!("X-{at}: y\r\n")).collect();
    table
        .raw("150 headers", &admin, &format!("GET /api HTTP/1.1\r\nHost: a\r\n{many}\r\n"), "431")
        .await;
    let huge = "y".repeat(1 << 20);
    table
        .raw(
            "a header of 1 MiB",
            &admin,
            &format!("GET /api HTTP/1.1\r\nHost: a\r\nX: {huge}\r\n\r\n"),
            "431",
        )
        .await;
    table
        .raw("a path of 1 MiB", &admin, &format!("GET /{huge} HTTP/1.1\r\nHost: a\r\n\r\n"), "431")
        .await;
    table
        .raw("headers that never end", &admin, "GET /api HTTP/1.1\r\nHost: a\r\nX: ", "closed")
        .await;
    table
        .raw(
            "a body that never comes",
            &admin,
            "POST /api/v1/namespaces HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{",
            "504",
        )
        .await;
    table.raw("two lengths", &admin, "POST /api/v1/namespaces HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", "400").await;
    table
        .raw(
            "a length that is no number",
            &admin,
            "POST /api/v1/namespaces HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n{}",
            "400",
        )
        .await;
    table
        .raw(
            "a header with a space in its name",
            &admin,
            "GET /api HTTP/1.1\r\nHost: a\r\nA B: c\r\n\r\n",
            "400",
        )
        .await;
    table.raw("no HTTP", &admin, "HELP\r\n\r\n", "400").await;
    table.silent("a client that never shakes hands", "closed").await;
    table.many_streams("300 watches on one connection", &admin, 300, "250 answered, 50 wait").await;
}
