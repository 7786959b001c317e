//! Connections over a kubelet that the tests play.

pub(super) mod played;

use std::sync::Arc;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::upgrade::{Relay, Upgrade};
use crate::outbound::Duplex;
use crate::testing::{PODS, World, named, pod, text};
use crate::{Body, Config, User};
use played::{Kubelet, Plays};

/// Nodes `n` (up) and `away` (unreachable); pods `one` on `n`, `two` with two containers, `loose`
/// without a node and `lost` on `away`.
async fn world(kubelet: &Arc<Kubelet>) -> World {
    let config = Config { outbound: kubelet.clone(), ..Config::default() };
    let world = World::with(&[], config).await;
    for (name, address) in [("n", "10.0.0.7"), ("away", "10.0.0.99")] {
        let mut node = named("v1", "Node", name);
        node["status"] = json!({
            "addresses": [{"type": "Hostname", "address": name},
                {"type": "InternalIP", "address": address}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}});
        world.create("/api/v1/nodes", node.clone()).await;
        world.call(Method::PUT, &format!("/api/v1/nodes/{name}/status"), &node).await;
    }
    for (name, node) in [("one", "n"), ("two", "n"), ("loose", ""), ("lost", "away")] {
        let mut pod = pod(name);
        if name == "two" {
            let container = |name: &str| json!({"name": name, "image": "web:1"});
            pod["spec"]["containers"] = json!([container("waiting"), container("gone")]);
            pod["spec"]["initContainers"] = json!([container("first")]);
        }
        if !node.is_empty() {
            pod["spec"]["nodeName"] = node.into();
        }
        world.create(PODS, pod).await;
        let mut status = world.get(&format!("{PODS}/{name}")).await;
        status["status"]["podIP"] = "10.244.0.9".into();
        world.update(&format!("{PODS}/{name}/status"), &status).await;
    }
    world
}

const WEBSOCKET: [(&str, &str); 4] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];
const SPDY: [(&str, &str); 3] =
    [("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v4")];

/// Asks to leave HTTP; answers the head, and the client's end of the connection.
async fn upgraded(
    world: &World,
    (method, path): (Method, &str),
    headers: &[(&str, &str)],
) -> (Response<Body>, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers.iter().chain(&[("authorization", "Bearer secret")]) {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Bytes::new()).unwrap();
    let wire = async { Ok(Box::pin(theirs) as std::pin::Pin<Box<dyn Duplex>>) };
    request.extensions_mut().insert(Upgrade::new(wire));
    let user = User::new("kubernetes-admin", &["system:masters"]);
    let mut response = world.server.handle(user, request).await;
    if let Some(relay) = response.extensions_mut().remove::<Relay>() {
        world.keep(world.env.spawn(relay.run()));
    }
    (response, ours)
}

/// A v5 client's messages.
async fn exec(world: &World, path: &str) -> WebSocketStream<DuplexStream> {
    let headers = [&WEBSOCKET[..], &[("sec-websocket-protocol", "v5.channel.k8s.io")]].concat();
    let (response, wire) = upgraded(world, (Method::GET, path), &headers).await;
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    WebSocketStream::from_raw_socket(wire, Role::Client, None).await
}

/// What came on each channel until the server said goodbye.
async fn heard(client: &mut WebSocketStream<DuplexStream>) -> (Vec<u8>, Value) {
    let (mut stdout, mut status) = (Vec::new(), Value::Null);
    while let Some(Ok(message)) = client.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            // kubectl takes any other end for a failure.
            Message::Close(frame) => {
                assert_eq!(u16::from(frame.unwrap().code), 1000);
                continue;
            }
            other => panic!("{other:?}"),
        };
        match bytes[0] {
            1 => stdout.extend_from_slice(&bytes[1..]),
            3 => status = serde_json::from_slice(&bytes[1..]).unwrap(),
            other => panic!("channel {other}"),
        }
    }
    (stdout, status)
}

#[tokio::test(start_paused = true)]
async fn logs_come_from_the_kubelet_of_the_pod_s_node() {
    let kubelet = Kubelet::new(Plays::Cat);
    let world = world(&kubelet).await;
    let path = format!("{PODS}/one/log?follow=true&tailLines=5&sinceTime=2026-01-01T00:00:00Z");
    let response = world.send(Method::GET, &path, &[], Bytes::new()).await;
    assert_eq!(response.headers()["content-type"], "text/plain");
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&text[..], b"one\ntwo\n");
    let expected = "GET https://10.0.0.7:10250/containerLogs/default/one/main?follow=true&tailLines=5\
                    &sinceTime=2026-01-01T00%3A00%3A00Z";
    assert_eq!(kubelet.asked(), [expected]);
    let loose = world.send(Method::GET, &format!("{PODS}/loose/log"), &[], Bytes::new()).await;
    assert_eq!((loose.status().as_u16(), kubelet.asked().len()), (204, 0));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_logged_is_refused_in_upstreams_words() {
    let kubelet = Kubelet::new(Plays::Cat);
    let world = world(&kubelet).await;
    for (path, code, message) in [
        ("nope/log", 404, "pods \"nope\" not found"),
        (
            "two/log",
            400,
            "a container name must be specified for pod two, choose one of: [waiting gone] or one of \
             the init containers: [first]",
        ),
        ("one/log?container=x", 400, "container x is not valid for pod one"),
        (
            "two/log?container=waiting",
            400,
            "container \"waiting\" in pod \"two\" is waiting to start: ContainerCreating",
        ),
        (
            "two/log?container=gone",
            404,
            "the server could not find the requested resource (\"pod does not exist\") ( pods/log two)",
        ),
        (
            "one/log?tailLines=-1",
            422,
            "PodLogOptions \"one\" is invalid: tailLines: Invalid value: -1: must be greater than or \
             equal to 0",
        ),
        (
            "one/log?tailLines=x",
            400,
            "invalid value for query parameter tailLines: \"x\" is not an integer",
        ),
        (
            "lost/log",
            500,
            "Get \"https://10.0.0.99:10250/containerLogs/default/lost/main\": dial tcp \
             10.0.0.99:10250: connect: connection refused",
        ),
        ("one/exec?command=ls", 400, "Upgrade request required"),
        ("loose/exec?command=ls", 400, "pod loose does not have a host assigned"),
        ("one/portforward", 400, "Upgrade request required"),
    ] {
        let (found, answer) =
            world.call(Method::GET, &format!("{PODS}/{path}"), &Value::Null).await;
        assert_eq!((found, text(&answer["message"])), (code, message), "{path}");
    }
    for (method, path) in [(Method::POST, "one/log"), (Method::PUT, "one/exec")] {
        assert_eq!(world.call(method, &format!("{PODS}/{path}"), &Value::Null).await.0, 405);
    }
}

#[tokio::test(start_paused = true)]
async fn logs_come_over_websocket_too() {
    let world = world(&Kubelet::new(Plays::Cat)).await;
    for (protocol, expected) in [
        ("binary.k8s.io", Message::Binary("one\n".into())),
        ("base64.binary.k8s.io", Message::text("b25lCg==")),
    ] {
        let headers = [&WEBSOCKET[..], &[("sec-websocket-protocol", protocol)]].concat();
        let path = format!("{PODS}/one/log");
        let (response, wire) = upgraded(&world, (Method::GET, &path), &headers).await;
        assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
        let mut client = WebSocketStream::from_raw_socket(wire, Role::Client, None).await;
        assert_eq!(client.next().await.unwrap().unwrap(), expected);
        assert!(client.next().await.unwrap().is_ok());
        assert!(client.next().await.unwrap().unwrap().is_close());
    }
}

#[tokio::test(start_paused = true)]
async fn standard_input_ends_and_the_exit_code_comes_back() {
    let kubelet = Kubelet::new(Plays::Cat);
    let world = world(&kubelet).await;
    let path = format!("{PODS}/one/exec?command=cat&command=-+b&stdin=true&stdout=true");
    let mut client = exec(&world, &path).await;
    let expected = "POST https://10.0.0.7:10250/exec/default/one/main?command=cat&command=-%20b\
                    &input=1&output=1";
    client.send(Message::Binary(Bytes::from_static(b"\0hello "))).await.unwrap();
    // As some clients send it, of which Python's is one.
    client.send(Message::Text("\0there".into())).await.unwrap();
    client.send(Message::Binary(Bytes::from_static(b"\xff\0"))).await.unwrap();
    let (stdout, status) = heard(&mut client).await;
    assert_eq!(stdout, b"hello there");
    assert_eq!(status["details"]["causes"][0]["message"], "7");
    assert_eq!(kubelet.asked(), [expected]);
}

#[tokio::test(start_paused = true)]
async fn how_it_ended_comes_after_all_that_was_said() {
    let world = world(&Kubelet::new(Plays::EndsEarly)).await;
    let path = format!("{PODS}/one/exec?command=tar&stdout=true&stderr=true");
    let mut client = exec(&world, &path).await;
    let mut said = Vec::new();
    while let Some(Ok(message)) = client.next().await {
        if let Message::Binary(bytes) = message {
            said.push(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    let status = said.pop().unwrap();
    assert_eq!(said, ["\u{1}archive", "\u{2}No such file"]);
    assert!(status.starts_with('\u{3}') && status.contains("NonZeroExitCode"), "{status}");
}

#[tokio::test(start_paused = true)]
async fn a_terminal_s_size_arrives_as_a_line() {
    let world = world(&Kubelet::new(Plays::Cat)).await;
    let path = format!("{PODS}/one/exec?command=sh&stdin=1&stdout=1&tty=1");
    let mut client = exec(&world, &path).await;
    let size = br#"{"Width":80,"Height":24}"#;
    let message = [&[4], &size[..]].concat();
    client.send(Message::Binary(message.into())).await.unwrap();
    client.send(Message::Binary(Bytes::from_static(b"\xff\0"))).await.unwrap();
    assert_eq!(heard(&mut client).await.0, [&size[..], b"\n"].concat());
}

#[tokio::test(start_paused = true)]
async fn a_hundred_megabytes_pass() {
    let world = world(&Kubelet::new(Plays::Says(100 << 20))).await;
    let mut client = exec(&world, &format!("{PODS}/one/exec?command=x&stdout=true")).await;
    let (mut count, mut status) = (0, Value::Null);
    while let Some(Ok(message)) = client.next().await {
        match message {
            Message::Binary(bytes) if bytes[0] == 1 => count += bytes.len() - 1,
            Message::Binary(bytes) => status = serde_json::from_slice(&bytes[1..]).unwrap(),
            _ => {}
        }
    }
    assert_eq!((count, text(&status["status"])), (100 << 20, "Success"));
}

#[tokio::test(start_paused = true)]
async fn failures_behind_an_exec_are_told_on_its_status_channel() {
    for (plays, pod, query, expected) in [
        (
            Plays::Dies,
            "one",
            "stdout=1",
            "Internal error occurred: the connection to the container broke off",
        ),
        (
            Plays::Cat,
            "lost",
            "stdout=1",
            "Internal error occurred: error dialing backend: dial tcp 10.0.0.99:10250: connect: \
             connection refused",
        ),
        (
            Plays::Cat,
            "two",
            "stdout=1&container=gone",
            "Internal error occurred: unable to upgrade connection: container not found (\"gone\")",
        ),
    ] {
        let world = world(&Kubelet::new(plays)).await;
        let mut client = exec(&world, &format!("{PODS}/{pod}/exec?command=x&{query}")).await;
        let (stdout, status) = heard(&mut client).await;
        assert_eq!((stdout.len(), text(&status["message"])), (0, expected));
    }
}

#[tokio::test(start_paused = true)]
async fn older_protocols_pass_through_untouched() {
    let kubelet = Kubelet::new(Plays::Echo);
    let world = world(&kubelet).await;
    let v4 = [&WEBSOCKET[..], &[("sec-websocket-protocol", "v4.channel.k8s.io")]].concat();
    for (method, path, headers, expected) in [
        (
            Method::GET,
            "exec?command=ls&stdout=1",
            &v4[..],
            "GET .../exec/default/one/main?command=ls&output=1",
        ),
        (Method::POST, "attach?stdout=1", &SPDY[..], "POST .../attach/default/one/main?output=1"),
        (Method::POST, "portforward", &SPDY[..], "POST .../portForward/default/one"),
        (
            Method::GET,
            "portforward?ports=80,81",
            &v4[..],
            "GET .../portForward/default/one?port=80&port=81",
        ),
        (Method::GET, "proxy/socket?a=b", &v4[..], "GET http://10.244.0.9:80/socket?a=b"),
    ] {
        let path = format!("{PODS}/one/{path}");
        let (response, mut wire) = upgraded(&world, (method, &path), headers).await;
        assert_eq!(response.headers()["x-from"], "the-kubelet");
        wire.write_all(b"bytes").await.unwrap();
        let mut back = [0; 5];
        wire.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"bytes");
        let expected = expected.replace("...", "https://10.0.0.7:10250");
        assert_eq!(kubelet.asked(), [expected]);
    }
}

#[tokio::test(start_paused = true)]
async fn spdy_inside_of_websocket_is_unwrapped() {
    let kubelet = Kubelet::new(Plays::Echo);
    let world = world(&kubelet).await;
    let tunnel = ("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io");
    let headers = [&WEBSOCKET[..], &[tunnel]].concat();
    let path = format!("{PODS}/one/portforward");
    let (response, wire) = upgraded(&world, (Method::GET, &path), &headers).await;
    assert_eq!(response.headers()[tunnel.0], tunnel.1);
    let mut client = WebSocketStream::from_raw_socket(wire, Role::Client, None).await;
    client.send(Message::Binary(Bytes::from_static(b"frames"))).await.unwrap();
    let back = client.next().await.unwrap().unwrap();
    assert_eq!(back, Message::Binary(Bytes::from_static(b"frames")));
    let lost = format!("{PODS}/lost/portforward");
    let (response, _) = upgraded(&world, (Method::GET, &lost), &headers).await;
    assert_eq!(response.status(), 500);
}

#[tokio::test(start_paused = true)]
async fn proxies_pass_on_any_method_and_tell_places_as_their_own() {
    let kubelet = Kubelet::new(Plays::Cat);
    let world = world(&kubelet).await;
    let services = "/api/v1/namespaces/default/services";
    let mut service = named("v1", "Service", "web");
    service["spec"] = json!({"ports": [{"name": "http", "port": 80}]});
    world.create(services, service).await;
    let mut endpoints = named("v1", "Endpoints", "web");
    endpoints["subsets"] = json!([{"addresses": [{"ip": "10.244.0.9"}],
        "ports": [{"name": "http", "port": 8080}]}]);
    world.create("/api/v1/namespaces/default/endpoints", endpoints).await;
    let body = || Bytes::from_static(b"12345");
    for (method, path, expected) in [
        (
            Method::PUT,
            format!("{PODS}/one:8080/proxy/a//b/?c=d"),
            "PUT http://10.244.0.9:8080/a//b/?c=d",
        ),
        (Method::DELETE, format!("{PODS}/https:one:/proxy/x"), "DELETE https://10.244.0.9:443/x"),
        (Method::POST, format!("{services}/web/proxy/x"), "POST http://10.244.0.9:8080/x"),
        (Method::PATCH, format!("{services}/web:80/proxy/x"), "PATCH http://10.244.0.9:8080/x"),
        (Method::GET, format!("{services}/web:http/proxy/x"), "GET http://10.244.0.9:8080/x"),
        (
            Method::GET,
            "/api/v1/nodes/n/proxy/stats/summary".to_owned(),
            "GET https://10.0.0.7:10250/stats/summary",
        ),
        (
            Method::OPTIONS,
            "/api/v1/nodes/n:9100/proxy/x".to_owned(),
            "OPTIONS http://10.0.0.7:9100/x",
        ),
        (Method::POST, format!("{PODS}/one/proxy"), "POST http://10.244.0.9:80/"),
    ] {
        let headers = [("authorization", "Bearer secret"), ("x-mine", "1")];
        let response = world.send(method, &path, &headers, body()).await;
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(kubelet.asked(), [expected]);
        assert_eq!(response.headers()["x-body"], "5");
        assert!(!response.headers().contains_key("x-hop"));
        let location = response.headers()["location"].to_str().unwrap();
        assert!(location.ends_with("/proxy/elsewhere"), "{location}");
    }
    let bare = world.send(Method::GET, "/api/v1/nodes/n/proxy?a=b", &[], Bytes::new()).await;
    assert_eq!(bare.status(), 301);
    assert_eq!(bare.headers()["location"], "/api/v1/nodes/n/proxy/?a=b");
    for (path, code) in [
        (format!("{services}/web:81/proxy/x"), 503),
        (format!("{services}/nope/proxy/x"), 404),
        ("/api/v1/nodes/away/proxy/x".to_owned(), 503),
        (format!("{PODS}/one:x/proxy/"), 400),
    ] {
        assert_eq!(world.call(Method::GET, &path, &Value::Null).await.0, code, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_method_decides_which_right_is_needed() {
    let world = world(&Kubelet::new(Plays::Cat)).await;
    world.keep(world.env.spawn(world.server.clone().run()));
    let group = "rbac.authorization.k8s.io";
    let mut role = named(&format!("{group}/v1"), "Role", "shell");
    role["rules"] = json!([{"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]}]);
    let roles = format!("/apis/{group}/v1/namespaces/default");
    world.create(&format!("{roles}/roles"), role).await;
    let mut binding = named(&format!("{group}/v1"), "RoleBinding", "shell");
    binding["roleRef"] = json!({"apiGroup": group, "kind": "Role", "name": "shell"});
    binding["subjects"] = json!([{"apiGroup": group, "kind": "User", "name": "jane"}]);
    world.create(&format!("{roles}/rolebindings"), binding).await;
    world.env.sleep(std::time::Duration::from_secs(5)).await;
    let jane = User::new("jane", &[]);
    let path = format!("{PODS}/one/exec?command=ls");
    // Allowed, and then refused as no upgrade.
    assert_eq!(world.call_as(&jane, Method::POST, &path, &Value::Null).await.0, 400);
    for (method, path) in [
        (Method::GET, path.as_str()),
        (Method::GET, &format!("{PODS}/one/log")),
        (Method::GET, "/api/v1/nodes/n/proxy/"),
    ] {
        let (code, answer) = world.call_as(&jane, method, path, &Value::Null).await;
        assert_eq!(code, 403, "{path}: {answer}");
    }
}
