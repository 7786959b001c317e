//! Custom resources, asked for as clients do.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::outbound::{Outbound, OutboundError, Peer, Upgraded};
use crate::testing::{World, named, text};
use crate::{Body, Config};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/acme.io/v1/namespaces/default/widgets";
const APPLY: &str = "application/apply-patch+yaml";

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "size": {"type": "integer", "default": 1, "maximum": 5},
            "mode": {"type": "string"},
            "ports": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["port"], "items": {"type": "object",
                    "required": ["port"], "properties": {
                        "port": {"type": "integer"}, "name": {"type": "string"}}}}},
            "x-kubernetes-validations": [
                {"rule": "!has(self.mode) || self.mode != 'bad'", "message": "mode may not be bad"}]},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
}

fn version(name: &str, is_stored: bool) -> Value {
    json!({"name": name, "served": true, "storage": is_stored, "schema": {"openAPIV3Schema": schema()}})
}

fn definition() -> Value {
    let mut first = version("v1", true);
    first["subresources"] = json!({"status": {}, "scale": {"specReplicasPath": ".spec.size",
        "statusReplicasPath": ".status.size", "labelSelectorPath": ".status.selector"}});
    first["selectableFields"] = json!([{"jsonPath": ".spec.mode"}]);
    first["additionalPrinterColumns"] =
        json!([{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]);
    let mut definition =
        named("apiextensions.k8s.io/v1", "CustomResourceDefinition", "widgets.acme.io");
    definition["spec"] = json!({"group": "acme.io", "scope": "Namespaced", "versions": [first],
        "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]}});
    definition
}

fn widget(name: &str, spec: Value) -> Value {
    let mut object = named("acme.io/v1", "Widget", name);
    object["spec"] = spec;
    object
}

async fn settle(world: &World) {
    world.env.sleep(Duration::from_secs(1)).await;
}

async fn world() -> World {
    let world = World::new().await;
    world.create(DEFINITIONS, definition()).await;
    settle(&world).await;
    world
}

async fn send(world: &World, method: Method, path: &str, form: &str, body: Value) -> (u16, Value) {
    world.call_with(method, path, &[("content-type", form)], &body).await
}

#[tokio::test(start_paused = true)]
async fn a_definition_is_established_and_served() {
    let world = world().await;
    let path = format!("{DEFINITIONS}/widgets.acme.io");
    let status = &world.get(&path).await["status"];
    let told: Vec<_> = status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            format!("{}={} {}", text(&one["type"]), text(&one["status"]), text(&one["reason"]))
        })
        .collect();
    assert_eq!(told, ["NamesAccepted=True NoConflicts", "Established=True InitialNamesAccepted"]);
    assert_eq!(status["acceptedNames"]["singular"], "widget");
    assert_eq!(status["storedVersions"], json!(["v1"]));
    assert_eq!(world.get(WIDGETS).await["kind"], "WidgetList");
    assert_eq!(world.get("/apis/acme.io/v1/widgets").await["items"], json!([]));
    for path in
        ["/apis/acme.io/v2/widgets", "/apis/acme.io/v1/gadgets", "/apis/other.io/v1/widgets"]
    {
        assert_eq!(world.call(Method::GET, path, &Value::Null).await.0, 404, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_are_taken_are_not_given_twice() {
    let world = world().await;
    let mut other = definition();
    other["metadata"]["name"] = "wheels.acme.io".into();
    other["spec"]["names"] = json!({"plural": "wheels", "kind": "Widget"});
    world.create(DEFINITIONS, other).await;
    settle(&world).await;
    let path = format!("{DEFINITIONS}/wheels.acme.io");
    let conditions = world.get(&path).await["status"]["conditions"].clone();
    assert_eq!(
        (&conditions[0]["reason"], &conditions[1]["status"]),
        (&json!("ListKindConflict"), &json!("False"))
    );
    assert_eq!(world.call(Method::GET, "/apis/acme.io/v1/wheels", &Value::Null).await.0, 404);
    world.delete(&format!("{DEFINITIONS}/widgets.acme.io")).await;
    world.env.sleep(Duration::from_secs(5)).await;
    world.get("/apis/acme.io/v1/wheels").await;
}

#[tokio::test(start_paused = true)]
async fn objects_are_pruned_defaulted_and_checked() {
    let world = world().await;
    let body = widget("a", json!({"mode": "x", "odd": 1}));
    let response = world.send(Method::POST, WIDGETS, &[], Bytes::from(body.to_string())).await;
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["warning"], "299 - \"unknown field \\\"spec.odd\\\"\"");
    let made = world.get(&format!("{WIDGETS}/a")).await;
    assert_eq!(made["spec"], json!({"mode": "x", "size": 1}));
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:mode"], json!({}));
    for (query, spec, code, message) in [
        (
            "",
            json!({"size": 9}),
            422,
            "Widget.acme.io \"b\" is invalid: spec.size: Invalid value: 9: \
            spec.size in body should be less than or equal to 5",
        ),
        (
            "",
            json!({"size": "1"}),
            422,
            "Widget.acme.io \"b\" is invalid: spec.size: Invalid value: \
            \"string\": spec.size in body must be of type integer: \"string\"",
        ),
        (
            "",
            json!({"mode": "bad"}),
            422,
            "Widget.acme.io \"b\" is invalid: spec: Invalid value: \
            \"object\": mode may not be bad",
        ),
        (
            "",
            json!({"ports": [{"port": 1}, {"port": 1}]}),
            422,
            "Widget.acme.io \"b\" is invalid: \
            spec.ports[1]: Duplicate value: {\"port\":1}",
        ),
        (
            "?fieldValidation=Strict",
            json!({"odd": 1}),
            400,
            "Widget in version \"v1\" cannot be handled \
            as a Widget: strict decoding error: unknown field \"spec.odd\"",
        ),
    ] {
        let path = format!("{WIDGETS}{query}");
        let (found, answer) = world.call(Method::POST, &path, &widget("b", spec)).await;
        assert_eq!((found, text(&answer["message"])), (code, message));
    }
    let mut odd = widget("b", json!({}));
    odd["metadata"]["odd"] = 1.into();
    let (code, answer) =
        world.call(Method::POST, &format!("{WIDGETS}?fieldValidation=Strict"), &odd).await;
    assert_eq!(code, 400);
    assert!(text(&answer["message"]).contains("unknown field \"metadata.odd\""), "{answer}");
    odd["metadata"] = json!({"name": "b", "labels": {"a": 1}});
    assert_eq!(world.call(Method::POST, WIDGETS, &odd).await.0, 400);
}

#[tokio::test(start_paused = true)]
async fn every_form_of_change_works() {
    let world = world().await;
    world.create(WIDGETS, widget("a", json!({"mode": "x"}))).await;
    let path = format!("{WIDGETS}/a");
    let strategic = "application/strategic-merge-patch+json";
    assert_eq!(send(&world, Method::PATCH, &path, strategic, json!({})).await.0, 415);
    let after = world.patch(&path, json!({"spec": {"mode": "y"}})).await;
    assert_eq!(
        (&after["spec"]["mode"], &after["metadata"]["generation"]),
        (&json!("y"), &json!(2))
    );
    let patch = json!([{"op": "replace", "path": "/spec/size", "value": 2}]);
    let (code, after) =
        send(&world, Method::PATCH, &path, "application/json-patch+json", patch).await;
    assert_eq!((code, &after["spec"]["size"]), (200, &json!(2)));
    let mut whole = after.clone();
    whole["spec"]["size"] = 3.into();
    assert_eq!(world.update(&path, &whole).await["spec"]["size"], 3);
    assert_eq!(world.call(Method::PUT, &path, &whole).await.0, 409);
    let apply = async |manager: &str, port: Value| {
        let mut config = widget("a", json!({"ports": [port]}));
        config["metadata"]["namespace"] = "default".into();
        let path = format!("{path}?fieldManager={manager}");
        send(&world, Method::PATCH, &path, APPLY, config).await
    };
    assert_eq!(apply("one", json!({"port": 1, "name": "a"})).await.0, 200);
    let (_, both) = apply("two", json!({"port": 2})).await;
    assert_eq!(both["spec"]["ports"], json!([{"port": 1, "name": "a"}, {"port": 2}]));
    let (code, refused) = apply("two", json!({"port": 1, "name": "b"})).await;
    assert_eq!(
        (code, text(&refused["details"]["causes"][0]["reason"])),
        (409, "FieldManagerConflict")
    );
    let (code, _) = apply("two", json!({"port": 1, "odd": "b"})).await;
    assert_eq!(code, 500, "as upstream");
    let mut config = widget("new", json!({}));
    config["metadata"]["namespace"] = "default".into();
    let new = format!("{WIDGETS}/new?fieldManager=one");
    let (code, made) = send(&world, Method::PATCH, &new, APPLY, config).await;
    assert_eq!((code, &made["spec"]["size"]), (201, &json!(1)));
    world.delete(&path).await;
    let (code, gone) = world.call(Method::GET, &path, &Value::Null).await;
    assert_eq!((code, text(&gone["message"])), (404, "widgets.acme.io \"a\" not found"));
    let (code, left) = world.call(Method::DELETE, WIDGETS, &Value::Null).await;
    assert_eq!((code, text(&left["kind"])), (200, "WidgetList"));
    assert_eq!(world.get(WIDGETS).await["items"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn status_and_scale_are_subresources() {
    let world = world().await;
    let mut body = widget("a", json!({"size": 2}));
    body["status"] = json!({"size": 9});
    let made = world.create(WIDGETS, body).await;
    assert_eq!(made.get("status"), None);
    let path = format!("{WIDGETS}/a");
    let status = json!({"spec": {"size": 5}, "metadata": {"labels": {"a": "b"}},
        "status": {"size": 1, "selector": "app=a", "any": {"thing": 1}}});
    let after = world.patch(&format!("{path}/status"), status).await;
    assert_eq!((&after["spec"]["size"], &after["metadata"]["generation"]), (&json!(2), &json!(1)));
    assert_eq!(
        (&after["status"]["any"], after["metadata"].get("labels")),
        (&json!({"thing": 1}), None)
    );
    let kept = world.patch(&path, json!({"status": {"size": 7}, "spec": {"size": 3}})).await;
    assert_eq!((&kept["status"]["size"], &kept["metadata"]["generation"]), (&json!(1), &json!(2)));
    let scale = world.get(&format!("{path}/scale")).await;
    assert_eq!(scale["spec"]["replicas"], 3);
    assert_eq!(scale["status"], json!({"replicas": 1, "selector": "app=a"}));
    let scaled = world.patch(&format!("{path}/scale"), json!({"spec": {"replicas": 4}})).await;
    assert_eq!(scaled["spec"]["replicas"], 4);
    assert_eq!(world.get(&path).await["spec"]["size"], 4);
    let (code, _) = world
        .call(Method::PATCH, &format!("{path}/scale"), &json!({"spec": {"replicas": 40}}))
        .await;
    assert_eq!(code, 422, "the schema holds for the scale too");
}

#[tokio::test(start_paused = true)]
async fn lists_and_watches_are_narrowed_and_tables_printed() {
    let world = world().await;
    let mut watch = world.watch(&format!("{WIDGETS}?watch=true&fieldSelector=spec.mode%3Dx")).await;
    world.create(WIDGETS, widget("a", json!({"mode": "x"}))).await;
    world.create(WIDGETS, widget("b", json!({"mode": "y"}))).await;
    assert!(watch.told().await.starts_with("ADDED a "));
    world.patch(&format!("{WIDGETS}/a"), json!({"spec": {"mode": "z"}})).await;
    assert!(watch.told().await.starts_with("DELETED a "));
    let list = world.get(&format!("{WIDGETS}?fieldSelector=spec.mode%3Dy")).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let wrong = format!("{WIDGETS}?fieldSelector=spec.size%3D1");
    assert_eq!(world.call(Method::GET, &wrong, &Value::Null).await.0, 400);
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let (_, table) =
        world.call_with(Method::GET, WIDGETS, &[("accept", table)], &Value::Null).await;
    let names: Vec<_> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| text(&one["name"]))
        .collect();
    assert_eq!((names, &table["rows"][0]["cells"]), (vec!["Name", "Size"], &json!(["a", 1])));
    let protobuf = [("accept", "application/vnd.kubernetes.protobuf")];
    assert_eq!(world.call_with(Method::GET, WIDGETS, &protobuf, &Value::Null).await.0, 406);
    let protobuf = [("content-type", "application/vnd.kubernetes.protobuf")];
    assert_eq!(
        world.call_with(Method::POST, WIDGETS, &protobuf, &widget("c", json!({}))).await.0,
        415
    );
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_goes_takes_its_objects_along() {
    let world = world().await;
    let mut held = widget("held", json!({}));
    held["metadata"]["finalizers"] = json!(["acme.io/hold"]);
    world.create(WIDGETS, held).await;
    world.create(WIDGETS, widget("free", json!({}))).await;
    let mut watch = world.watch(&format!("{WIDGETS}?watch=true")).await;
    for _ in 0..2 {
        assert!(watch.told().await.starts_with("ADDED"));
    }
    let path = format!("{DEFINITIONS}/widgets.acme.io");
    world.delete(&path).await;
    settle(&world).await;
    let going = world.get(&path).await;
    assert_eq!(
        going["metadata"]["finalizers"],
        json!(["customresourcecleanup.apiextensions.k8s.io"])
    );
    let conditions = going["status"]["conditions"].as_array().unwrap();
    let terminating = conditions.iter().find(|one| one["type"] == "Terminating").unwrap();
    assert_eq!(terminating["reason"], "InstanceDeletionInProgress");
    let (code, refused) = world.call(Method::POST, WIDGETS, &widget("late", json!({}))).await;
    assert_eq!(
        (code, text(&refused["message"])),
        (405, "create not allowed while custom resource definition is terminating")
    );
    assert!(watch.told().await.starts_with("DELETED free"));
    assert!(watch.told().await.starts_with("MODIFIED held"));
    world.patch(&format!("{WIDGETS}/held"), json!({"metadata": {"finalizers": null}})).await;
    world.env.sleep(Duration::from_secs(5)).await;
    assert_eq!(world.call(Method::GET, &path, &Value::Null).await.0, 404);
    assert_eq!(world.call(Method::GET, WIDGETS, &Value::Null).await.0, 404);
    assert!(watch.told().await.starts_with("DELETED held"));
    assert_eq!(watch.told().await, "END", "nobody watches what is not there any more");
    world.create(DEFINITIONS, definition()).await;
    settle(&world).await;
    assert_eq!(world.get(WIDGETS).await["items"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn what_is_served_is_published() {
    let world = World::new().await;
    let aggregated =
        [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let tag = async || {
        let response = world.send(Method::GET, "/apis", &aggregated, Bytes::new()).await;
        response.headers()["etag"].to_str().unwrap().to_owned()
    };
    let before = tag().await;
    world.create(DEFINITIONS, definition()).await;
    settle(&world).await;
    assert_ne!(tag().await, before);
    let list = world.get("/apis/acme.io/v1").await;
    let names: Vec<_> =
        list["resources"].as_array().unwrap().iter().map(|one| text(&one["name"])).collect();
    assert_eq!(names, ["widgets", "widgets/scale", "widgets/status"]);
    assert_eq!(list["resources"][0]["shortNames"], json!(["wd"]));
    assert_eq!(world.get("/apis/acme.io").await["preferredVersion"]["version"], "v1");
    let index = world.get("/openapi/v3").await;
    let url = text(&index["paths"]["apis/acme.io/v1"]["serverRelativeURL"]).to_owned();
    let document = world.get(&url).await;
    let spec = &document["components"]["schemas"]["io.acme.v1.Widget"]["properties"]["spec"];
    assert_eq!(spec["properties"]["mode"], json!({"type": "string"}));
    let second = world.get("/openapi/v2").await;
    assert!(second["definitions"]["io.acme.v1.Widget"].is_object());
    world.delete(&format!("{DEFINITIONS}/widgets.acme.io")).await;
    world.env.sleep(Duration::from_secs(5)).await;
    assert_eq!(tag().await, before);
    assert_eq!(world.call(Method::GET, "/apis/acme.io/v1", &Value::Null).await.0, 404);
    assert!(world.get("/openapi/v3").await["paths"]["apis/acme.io/v1"].is_null());
    assert!(world.get("/openapi/v2").await["definitions"]["io.acme.v1.Widget"].is_null());
}

fn two_versions(conversion: Value) -> Value {
    let mut definition = definition();
    definition["spec"]["versions"] = json!([version("v1", true), version("v2", false)]);
    definition["spec"]["conversion"] = conversion;
    definition
}

const SECOND: &str = "/apis/acme.io/v2/namespaces/default/widgets";

#[tokio::test(start_paused = true)]
async fn versions_without_a_webhook_differ_by_name() {
    let world = World::new().await;
    let mut definition = two_versions(json!({"strategy": "None"}));
    definition["spec"]["versions"][1]["deprecated"] = true.into();
    world.create(DEFINITIONS, definition).await;
    settle(&world).await;
    world.create(WIDGETS, widget("a", json!({"mode": "x"}))).await;
    let path = format!("{SECOND}/a");
    let response = world.send(Method::GET, &path, &[], Bytes::new()).await;
    assert_eq!(response.headers()["warning"], "299 - \"acme.io/v2 Widget is deprecated\"");
    let second = world.get(&path).await;
    assert_eq!((text(&second["apiVersion"]), text(&second["spec"]["mode"])), ("acme.io/v2", "x"));
    let mut watch = world.watch(&format!("{SECOND}?watch=true")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["apiVersion"], "acme.io/v2");
    world.patch(&path, json!({"spec": {"mode": "y"}})).await;
    assert_eq!(watch.next().await.unwrap()["object"]["apiVersion"], "acme.io/v2");
    assert_eq!(world.get(&format!("{WIDGETS}/a")).await["apiVersion"], "acme.io/v1");
    // Another version is stored from now on, and what is written moves there.
    let mut changed = world.get(&format!("{DEFINITIONS}/widgets.acme.io")).await;
    changed["spec"]["versions"][0]["storage"] = false.into();
    changed["spec"]["versions"][1]["storage"] = true.into();
    let changed = world.update(&format!("{DEFINITIONS}/widgets.acme.io"), &changed).await;
    assert_eq!(changed["status"]["storedVersions"], json!(["v1", "v2"]));
    settle(&world).await;
    assert_eq!(watch.told().await, "END", "the kind is another");
    let stored = async || {
        let key = storage::KeyRange::key("/registry/acme.io/widgets/default/a");
        let found = world.server.store.range(storage::RangeRequest::latest(key)).await.unwrap();
        serde_json::from_slice::<Value>(&found.kvs[0].value).unwrap()["apiVersion"].clone()
    };
    assert_eq!(stored().await, "acme.io/v1");
    let whole = world.get(&format!("{WIDGETS}/a")).await;
    world.update(&format!("{WIDGETS}/a"), &whole).await;
    assert_eq!(stored().await, "acme.io/v2");
    let mut dropped = world.get(&format!("{DEFINITIONS}/widgets.acme.io")).await;
    dropped["spec"]["versions"].as_array_mut().unwrap().remove(0);
    let (code, answer) =
        world.call(Method::PUT, &format!("{DEFINITIONS}/widgets.acme.io"), &dropped).await;
    assert_eq!(code, 422, "{answer}");
}

/// A webhook that turns `spec.mode` of v1 into `metadata.annotations` and a longer mode of v2.
struct Hook;

#[async_trait]
impl Outbound for Hook {
    async fn call(
        &self,
        peer: &Peer,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, OutboundError> {
        assert_eq!((peer.host.as_str(), peer.port), ("hook.example", 8443));
        let review: Value = serde_json::from_slice(request.body()).unwrap();
        let wanted = &review["request"]["desiredAPIVersion"];
        let objects = review["request"]["objects"].as_array().unwrap().iter().map(|object| {
            let mut object = object.clone();
            object["apiVersion"] = wanted.clone();
            let mode = text(&object["spec"]["mode"]).to_owned();
            object["spec"]["mode"] = match wanted == "acme.io/v2" {
                true => format!("long-{mode}").into(),
                false => mode.trim_start_matches("long-").into(),
            };
            object["metadata"]["generation"] = 77.into();
            object
        });
        let objects: Vec<Value> = objects.collect();
        let refuses = objects.iter().any(|one| text(&one["metadata"]["name"]) == "refused");
        let result = match refuses {
            true => json!({"status": "Failed", "message": "I cannot"}),
            false => json!({"status": "Success"}),
        };
        let answer = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
            "response": {"uid": review["request"]["uid"], "result": result,
                "convertedObjects": objects}});
        Ok(Response::new(Body::whole(answer.to_string())))
    }

    async fn upgrade(&self, _: &Peer, _: Request<Bytes>) -> Result<Upgraded, OutboundError> {
        unreachable!("nobody asks for another protocol")
    }
}

#[tokio::test(start_paused = true)]
async fn a_webhook_converts() {
    let world = World::with(&[], Config { outbound: Arc::new(Hook), ..Config::default() }).await;
    let hook = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://hook.example:8443/convert"}}});
    world.create(DEFINITIONS, two_versions(hook)).await;
    settle(&world).await;
    world.create(WIDGETS, widget("a", json!({"mode": "x"}))).await;
    world.create(WIDGETS, widget("b", json!({"mode": "y"}))).await;
    let list = world.get(SECOND).await;
    let modes: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|one| text(&one["spec"]["mode"])).collect();
    assert_eq!(modes, ["long-x", "long-y"]);
    assert_eq!(list["items"][0]["metadata"]["generation"], 1, "a webhook may not change that");
    let after = world.patch(&format!("{SECOND}/a"), json!({"spec": {"mode": "long-z"}})).await;
    assert_eq!(after["spec"]["mode"], "long-z");
    assert_eq!(world.get(&format!("{WIDGETS}/a")).await["spec"]["mode"], "z");
    let mut watch = world.watch(&format!("{SECOND}?watch=true")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["spec"]["mode"], "long-z");
    world.create(WIDGETS, widget("refused", json!({}))).await;
    let (code, answer) = world.call(Method::GET, &format!("{SECOND}/refused"), &Value::Null).await;
    assert_eq!(
        (code, text(&answer["message"])),
        (500, "conversion webhook for acme.io/v1, Kind=Widget failed: I cannot")
    );
}

#[tokio::test(start_paused = true)]
async fn a_restarted_server_goes_on() {
    let world = world().await;
    world.create(WIDGETS, widget("a", json!({}))).await;
    let another = world.another().await;
    let user = crate::User::new("kubernetes-admin", &["system:masters"]);
    let request = Request::get(format!("{WIDGETS}/a")).body(Bytes::new()).unwrap();
    let response = another.handle(user, request).await;
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body.starts_with(b"{\"metadata\""), "{body:?}");
}

#[tokio::test(start_paused = true)]
async fn roles_speak_of_custom_resources() {
    let world = world().await;
    let running = world.env.spawn(world.server.clone().run());
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "reader"},
        "rules": [{"apiGroups": ["acme.io"], "resources": ["widgets"], "verbs": ["list"]}]});
    world.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await;
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "reader"},
        "subjects": [{"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "ClusterRole", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"}});
    world.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    world.env.sleep(Duration::from_secs(3)).await;
    let ask = async |method: Method| {
        let user = crate::User::new("ann", &[]);
        let request = Request::builder().method(method).uri(WIDGETS).body(Bytes::new()).unwrap();
        world.server.handle(user, request).await.status().as_u16()
    };
    assert_eq!(ask(Method::GET).await, 200);
    assert_eq!(ask(Method::POST).await, 403);
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn hostile_definitions_are_refused_clearly() {
    let world = World::new().await;
    let with = |field: Value| {
        let mut definition = definition();
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["x"] = field;
        definition
    };
    let mut deep = json!({"type": "string"});
    // Deeper than a body may be, and not yet so deep that it is not read at all.
    for _ in 0..52 {
        deep = json!({"type": "object", "properties": {"a": deep}});
    }
    for (field, message) in [
        (deep, "nests deeper than"),
        (json!({"$ref": "#"}), "$ref is not supported"),
        (
            json!({"type": "string", "pattern": "(((a{999}){999}){999}){999}"}),
            "the pattern is too large",
        ),
        (json!({"type": "integer", "default": "x"}), "must be of type integer"),
        (
            json!({"type": "string", "x-kubernetes-validations": [{"rule": "(".repeat(5000)}]}),
            "recursion limit",
        ),
    ] {
        let (code, answer) = world.call(Method::POST, DEFINITIONS, &with(field)).await;
        assert!([400, 422].contains(&code), "{answer}");
        assert!(text(&answer["message"]).contains(message), "{message}: {answer}");
    }
}
