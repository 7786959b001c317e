//! Aggregation, asked for as clients do.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Value, json};

use crate::outbound::{Outbound, OutboundError, Peer, Upgraded};
use crate::testing::{World, named, text};
use crate::{Body, Config, User};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// A server of `wardle.example.com/v1alpha1` that says what it was asked.
#[derive(Default)]
struct Wardle {
    is_down: Mutex<bool>,
}

#[async_trait]
impl Outbound for Wardle {
    async fn call(
        &self,
        peer: &Peer,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, OutboundError> {
        assert_eq!((peer.server_name.as_str(), peer.is_identified), ("wardle.default.svc", true));
        if *self.is_down.lock().unwrap() {
            return Err(OutboundError::Unreachable(
                peer.host.clone(),
                "connection refused".to_owned(),
            ));
        }
        let header = |name: &str| -> Vec<String> {
            let all = request.headers().get_all(name).iter();
            all.map(|value| value.to_str().unwrap().to_owned()).collect()
        };
        let answer = match request.uri().path() {
            "/apis/wardle.example.com/v1alpha1" => json!({"kind": "APIResourceList",
                "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1",
                "resources": [{"name": "flunders", "singularName": "flunder", "namespaced": true,
                    "kind": "Flunder", "verbs": ["get", "list"]}]}),
            path => json!({"path": path, "method": request.method().as_str(),
                "user": header("x-remote-user"), "groups": header("x-remote-group"),
                "authorization": header("authorization"),
                "body": String::from_utf8_lossy(request.body())}),
        };
        let mut response = Response::new(Body::whole(answer.to_string()));
        response.headers_mut().insert("content-type", "application/json".parse().unwrap());
        Ok(response)
    }

    async fn upgrade(&self, _: &Peer, _: Request<Bytes>) -> Result<Upgraded, OutboundError> {
        unreachable!("nobody asks for another protocol")
    }
}

async fn settle(world: &World) {
    world.env.sleep(Duration::from_secs(15)).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_server_serves_itself_is_always_available() {
    let world = World::new().await;
    world.server.aggregation.start(&world.server);
    settle(&world).await;
    let apps = world.get(&format!("{SERVICES}/v1.apps")).await;
    assert_eq!(
        (&apps["spec"]["groupPriorityMinimum"], &apps["spec"]["versionPriority"]),
        (&json!(17800), &json!(15))
    );
    let condition = &apps["status"]["conditions"][0];
    assert_eq!((text(&condition["status"]), text(&condition["reason"])), ("True", "Local"));
    world.get(&format!("{SERVICES}/v1.")).await;
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "gears.acme.io"}, "spec": {"group": "acme.io", "scope": "Cluster",
            "names": {"plural": "gears", "kind": "Gear"}, "versions": [{"name": "v1", "served": true,
                "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    world.create(definitions, definition).await;
    settle(&world).await;
    world.get(&format!("{SERVICES}/v1.acme.io")).await;
    world.delete(&format!("{definitions}/gears.acme.io")).await;
    settle(&world).await;
    let gone = world.call(Method::GET, &format!("{SERVICES}/v1.acme.io"), &Value::Null).await;
    assert_eq!(gone.0, 404);
}

#[tokio::test(start_paused = true)]
async fn another_server_gets_what_is_its_own() {
    let wardle = Arc::new(Wardle::default());
    let world = World::with(&[], Config { outbound: wardle.clone(), ..Config::default() }).await;
    world.server.aggregation.start(&world.server);
    let mut service =
        named("apiregistration.k8s.io/v1", "APIService", "v1alpha1.wardle.example.com");
    service["spec"] = json!({"group": "wardle.example.com", "version": "v1alpha1",
        "groupPriorityMinimum": 2000, "versionPriority": 200, "insecureSkipTLSVerify": true,
        "service": {"namespace": "default", "name": "wardle"}});
    world.create(SERVICES, service).await;
    settle(&world).await;
    let path = format!("{SERVICES}/v1alpha1.wardle.example.com");
    let condition = async || world.get(&path).await["status"]["conditions"][0].clone();
    assert_eq!(text(&condition().await["reason"]), "ServiceNotFound");
    let flunders = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders";
    let (code, refused) = world.call(Method::GET, flunders, &Value::Null).await;
    assert_eq!(
        (code, text(&refused["message"])),
        (503, "the server is currently unable to handle the request")
    );
    let mut service = named("v1", "Service", "wardle");
    service["spec"] = json!({"ports": [{"port": 443}]});
    world.create("/api/v1/namespaces/default/services", service).await;
    settle(&world).await;
    assert_eq!(text(&condition().await["reason"]), "Passed");
    let headers = [("authorization", "Bearer secret"), ("x-remote-user", "forged")];
    let (code, told) =
        world.call_with(Method::POST, flunders, &headers, &json!({"kind": "Flunder"})).await;
    assert_eq!(code, 200);
    assert_eq!(told["user"], json!(["kubernetes-admin"]));
    assert_eq!(told["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(
        (&told["authorization"], text(&told["body"])),
        (&json!([]), "{\"kind\":\"Flunder\"}")
    );
    let list = world.get("/apis/wardle.example.com/v1alpha1").await;
    assert_eq!(list["resources"][0]["name"], "flunders");
    assert_eq!(world.get("/apis/wardle.example.com").await["kind"], "APIGroup");
    let accept =
        [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let (_, all) = world.call_with(Method::GET, "/apis", &accept, &Value::Null).await;
    let items = all["items"].as_array().unwrap();
    let own = items.iter().find(|one| one["metadata"]["name"] == "wardle.example.com").unwrap();
    assert_eq!(own["versions"][0]["resources"][0]["resource"], "flunders");
    let request = Request::get(flunders).body(Bytes::new()).unwrap();
    let bob = User::new("bob", &[]);
    let running = world.env.spawn(world.server.clone().run());
    settle(&world).await;
    assert_eq!(world.server.handle(bob, request).await.status(), 403);
    drop(running);
    *wardle.is_down.lock().unwrap() = true;
    settle(&world).await;
    assert_eq!(text(&condition().await["reason"]), "FailedDiscoveryCheck");
    assert_eq!(world.call(Method::GET, flunders, &Value::Null).await.0, 503);
    world.delete(&path).await;
    settle(&world).await;
    assert_eq!(world.call(Method::GET, flunders, &Value::Null).await.0, 404);
}
