//! `fieldValidation`: what is told of unknown and doubled fields, for every form of write. The cases are those
//! of upstream's own tests.

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::testing::{World, named, text};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const WIDGETS: &str = "/apis/acme.io/v1/namespaces/default/widgets";

const BODY: &str = r#"
{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "nginx"}},
 "spec": {
    "unknown1": "val1",
    "unknownDupe": "valDupe",
    "unknownDupe": "valDupe2",
    "paused": true,
    "paused": false,
    "selector": {"matchLabels": {"app": "nginx"}},
    "template": {"metadata": {"labels": {"app": "nginx"}}, "spec": {"containers": [{
        "name": "nginx",
        "image": "nginx:latest",
        "unknownNested": "val1",
        "imagePullPolicy": "Always",
        "imagePullPolicy": "Never"}]}}}}"#;

const YAML: &str = "apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels:
    app: nginx
spec:
  unknown1: val1
  unknownDupe: valDupe
  unknownDupe: valDupe2
  paused: true
  paused: false
  selector:
    matchLabels:
      app: nginx
  template:
    metadata:
      labels:
        app: nginx
    spec:
      containers:
      - name: nginx
        image: nginx:latest
        unknownNested: val1
        imagePullPolicy: Always
        imagePullPolicy: Never
";

const PATCH: &str = r#"{"spec": {"unknown1": "val1", "unknownDupe": "valDupe", "unknownDupe": "valDupe2",
    "paused": true, "paused": false, "template": {"spec": {"containers": [{"name": "nginx",
    "image": "nginx:latest", "unknownNested": "val1", "imagePullPolicy": "Always",
    "imagePullPolicy": "Never"}]}}}}"#;

const OPERATIONS: &str = r#"[
    {"op": "add", "path": "/spec/unknown1", "value": "val1", "foo": "bar"},
    {"op": "add", "path": "/spec/unknown2", "path": "/spec/unknown3", "value": "val1"},
    {"op": "add", "path": "/spec/unknownDupe", "value": "valDupe"},
    {"op": "add", "path": "/spec/unknownDupe", "value": "valDupe2"},
    {"op": "add", "path": "/spec/paused", "value": true},
    {"op": "add", "path": "/spec/template/spec/containers/0/unknownNested", "value": "val1"}]"#;

/// Answers the code, the message and the warnings.
async fn ask(
    world: &World,
    (method, path): (Method, &str),
    form: &str,
    body: &str,
) -> (u16, String, Vec<String>) {
    let headers = [("content-type", form)];
    let response = world.send(method, path, &headers, Bytes::from(body.to_owned())).await;
    let code = response.status().as_u16();
    let unquoted = |header: &http::HeaderValue| {
        let text = header.to_str().unwrap().strip_prefix("299 - \"").unwrap();
        text.strip_suffix('"').unwrap().replace("\\\"", "\"")
    };
    let warnings = response.headers().get_all("warning").iter().map(unquoted).collect();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let answer: Value = serde_json::from_slice(&body).unwrap();
    (code, text(&answer["message"]).to_owned(), warnings)
}

/// Sends a body under each `fieldValidation`: it is warned of these problems, or refused with this code, once
/// each of them is in the message.
async fn expect(
    world: &World,
    (method, path): (Method, &str),
    form: &str,
    body: &str,
    (code, problems): (u16, &[&str]),
) {
    for (query, is_warned) in
        [("", true), ("&fieldValidation=Warn", true), ("&fieldValidation=Ignore", false)]
    {
        let path = format!("{path}?dryRun=All&fieldManager=me{query}");
        let (code, message, warnings) = ask(world, (method.clone(), &path), form, body).await;
        assert!(code < 300, "{form} {query}: {message}");
        assert_eq!(warnings, if is_warned { problems } else { &[] }, "{form} {query}");
    }
    let path = format!("{path}?dryRun=All&fieldManager=me&fieldValidation=Strict");
    let (found, message, warnings) = ask(world, (method, &path), form, body).await;
    assert_eq!((found, warnings), (code, Vec::new()), "{form}: {message}");
    for problem in problems {
        // What stands inside of a quoted value is quoted once more.
        assert!(message.replace("\\\"", "\"").contains(problem), "{form}: {problem}: {message}");
    }
}

#[tokio::test(start_paused = true)]
async fn objects_are_read_strictly() {
    let world = World::new().await;
    let in_order = [
        r#"unknown field "spec.unknown1""#,
        r#"unknown field "spec.unknownDupe""#,
        r#"duplicate field "spec.paused""#,
        r#"unknown field "spec.template.spec.containers[0].unknownNested""#,
        r#"duplicate field "spec.template.spec.containers[0].imagePullPolicy""#,
    ];
    let by_lines = [
        r#"line 10: key "unknownDupe" already set in map"#,
        r#"line 12: key "paused" already set in map"#,
        r#"line 26: key "imagePullPolicy" already set in map"#,
        r#"unknown field "spec.template.spec.containers[0].unknownNested""#,
        r#"unknown field "spec.unknown1""#,
        r#"unknown field "spec.unknownDupe""#,
    ];
    expect(&world, (Method::POST, DEPLOYMENTS), "application/json", BODY, (400, &in_order)).await;
    expect(&world, (Method::POST, DEPLOYMENTS), "application/yaml", YAML, (400, &by_lines)).await;
    ask(&world, (Method::POST, DEPLOYMENTS), "application/json", BODY).await;
    let web = format!("{DEPLOYMENTS}/web");
    expect(&world, (Method::PUT, &web), "application/json", BODY, (400, &in_order)).await;
    expect(&world, (Method::PUT, &web), "application/yaml", YAML, (400, &by_lines)).await;
}

#[tokio::test(start_paused = true)]
async fn patches_are_read_strictly_and_so_is_what_comes_of_them() {
    let world = World::new().await;
    ask(&world, (Method::POST, DEPLOYMENTS), "application/json", BODY).await;
    let web = format!("{DEPLOYMENTS}/web");
    let merged = [
        r#"duplicate field "spec.unknownDupe""#,
        r#"duplicate field "spec.paused""#,
        r#"duplicate field "spec.template.spec.containers[0].imagePullPolicy""#,
        r#"unknown field "spec.template.spec.containers[0].unknownNested""#,
        r#"unknown field "spec.unknown1""#,
        r#"unknown field "spec.unknownDupe""#,
    ];
    for form in ["merge-patch", "strategic-merge-patch"] {
        let form = format!("application/{form}+json");
        expect(&world, (Method::PATCH, &web), &form, PATCH, (422, &merged)).await;
        // Nothing is unknown in what comes of this one.
        let body = r#"{"spec": {"paused": true, "paused": false}}"#;
        expect(&world, (Method::PATCH, &web), &form, body, (422, &merged[1..2])).await;
    }
    let operated = [
        r#"json patch unknown field "[0].foo""#,
        r#"json patch duplicate field "[1].path""#,
        r#"unknown field "spec.template.spec.containers[0].unknownNested""#,
        r#"unknown field "spec.unknown1""#,
        r#"unknown field "spec.unknown3""#,
        r#"unknown field "spec.unknownDupe""#,
    ];
    let form = "application/json-patch+json";
    expect(&world, (Method::PATCH, &web), form, OPERATIONS, (422, &operated)).await;

    let path = format!("{web}?fieldValidation=Strict");
    let (_, message, _) = ask(
        &world,
        (Method::PATCH, &path),
        "application/strategic-merge-patch+json",
        r#"{"spec": {"foo": {"b": [1, "x"], "a": null}}}"#,
    )
    .await;
    assert_eq!(
        message,
        " \"\" is invalid: patch: Invalid value: \"map[spec:map[foo:map[a:<nil> b:[1 x]]]]\": strict decoding \
         error: unknown field \"spec.foo\""
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_applied_is_read_as_yaml() {
    let world = World::new().await;
    let body = r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "paused": false,
        "paused": true,
        "selector": {"matchLabels": {"app": "nginx"}},
        "template": {"metadata": {"labels": {"app": "nginx"}}, "spec": {"containers": [{
            "name": "nginx", "image": "nginx:latest", "imagePullPolicy": "Never",
            "imagePullPolicy": "Always"}]}}}}"#;
    let doubled = [
        r#"line 3: key "paused" already set in map"#,
        r#"line 7: key "imagePullPolicy" already set in map"#,
    ];
    let web = format!("{DEPLOYMENTS}/web");
    let form = "application/apply-patch+yaml";
    expect(&world, (Method::PATCH, &web), form, body, (400, &doubled)).await;
    let path = format!("{web}?fieldManager=me&fieldValidation=Strict");
    let (_, message, _) = ask(&world, (Method::PATCH, &path), form, body).await;
    assert!(
        message.starts_with(
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 3: key"
        ),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn custom_resources_are_read_strictly() {
    let world = World::new().await;
    let mut definition =
        named("apiextensions.k8s.io/v1", "CustomResourceDefinition", "widgets.acme.io");
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "knownField1": {"type": "string"}, "ports": {"type": "array", "items": {"type": "object",
            "properties": {"name": {"type": "string"}, "hostPort": {"type": "integer"}}}}}}}});
    definition["spec"] = json!({"group": "acme.io", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"}, "versions": [{"name": "v1", "served": true,
            "storage": true, "schema": {"openAPIV3Schema": schema}}]});
    world.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    world.env.sleep(std::time::Duration::from_secs(1)).await;
    let body = r#"{"apiVersion": "acme.io/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {
        "unknown1": "val1", "unknownDupe": "valDupe", "unknownDupe": "valDupe2",
        "knownField1": "val1", "knownField1": "val2",
        "ports": [{"name": "x", "hostPort": 8081, "hostPort": 8082, "unknownNested": "val"}]}}"#;
    let told = [
        r#"duplicate field "spec.unknownDupe""#,
        r#"duplicate field "spec.knownField1""#,
        r#"duplicate field "spec.ports[0].hostPort""#,
        r#"unknown field "spec.ports[0].unknownNested""#,
        r#"unknown field "spec.unknown1""#,
        r#"unknown field "spec.unknownDupe""#,
    ];
    expect(&world, (Method::POST, WIDGETS), "application/json", body, (400, &told)).await;
}
