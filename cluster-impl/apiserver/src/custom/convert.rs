//! Custom resources between the version in which they are stored and the one in which they are asked for.
//!
//! What comes out of the store is pruned, defaulted and converted before anybody looks at it; what goes in is
//! converted last. A webhook is asked once for all objects of a list.
//! Limit: a webhook gets [`TIMEOUT`] and may answer [`ANSWER_BYTES_MAX`].

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use machinery::{Kind, Object, ObjectKey, Status};
use serde_json::{Value, json};
use storage::KeyValue;

use super::Definition;
use crate::codec::{Stored, encode};
use crate::outbound::{Peer, Trust};
use crate::server::ApiServer;
use crate::service_address;

/// As upstream.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Brings what was read from the store into the form of a kind.
pub(crate) async fn incoming(
    server: &ApiServer,
    kind: &'static Kind,
    kvs: &mut [KeyValue],
) -> Result<(), Status> {
    if kind.custom.is_none() || kvs.is_empty() {
        return Ok(());
    }
    let definition = server.customs.definition(kind.id);
    let mut objects = Vec::with_capacity(kvs.len());
    for kv in kvs.iter() {
        let mut object = Stored::from(kv).object()?;
        let (_, version) = object.api_version().rsplit_once('/').unwrap_or_default();
        let own = definition.as_ref().and_then(|known| known.of_version(version));
        fit(own, &mut object);
        objects.push(object);
    }
    convert(server, definition.as_deref(), kind, &mut objects).await?;
    for (kv, object) in kvs.iter_mut().zip(&mut objects) {
        fit(Some(kind), object);
        kv.value = encode(object);
    }
    Ok(())
}

/// The same for what may not be there.
pub(crate) async fn incoming_one(
    server: &ApiServer,
    kind: &'static Kind,
    kv: &mut Option<KeyValue>,
) -> Result<(), Status> {
    match kv {
        Some(kv) => incoming(server, kind, std::slice::from_mut(kv)).await,
        None => Ok(()),
    }
}

/// An object as it goes into the store.
pub(crate) async fn outgoing(
    server: &ApiServer,
    kind: &'static Kind,
    object: &Object,
) -> Result<Bytes, Status> {
    if kind.custom.is_none() {
        return Ok(encode(object));
    }
    let definition = server.customs.definition(kind.id);
    let storage = definition.as_ref().and_then(|known| known.storage).unwrap_or(kind);
    if object.api_version() == storage.api_version() {
        return Ok(encode(object));
    }
    let mut objects = [object.clone()];
    convert(server, definition.as_deref(), storage, &mut objects).await?;
    fit(Some(storage), &mut objects[0]);
    Ok(encode(&objects[0]))
}

/// An object in another version of its custom kind.
pub(crate) async fn in_version(
    server: &ApiServer,
    kind: &'static Kind,
    object: &Object,
) -> Result<Object, Status> {
    let mut objects = [object.clone()];
    if object.api_version() != kind.api_version() {
        let definition = server.customs.definition(kind.id);
        convert(server, definition.as_deref(), kind, &mut objects).await?;
        fit(Some(kind), &mut objects[0]);
    }
    let [object] = objects;
    Ok(object)
}

/// Prunes and defaults by a version's schema.
fn fit(kind: Option<&'static Kind>, object: &mut Object) {
    if let Some(custom) = kind.and_then(|kind| kind.custom) {
        custom.prune(object);
        custom.default(object);
    }
}

async fn convert(
    server: &ApiServer,
    definition: Option<&Definition>,
    to: &'static Kind,
    objects: &mut [Object],
) -> Result<(), Status> {
    let wanted = to.api_version();
    let others: Vec<usize> =
        (0..objects.len()).filter(|at| objects[*at].api_version() != wanted).collect();
    let Some(first) = others.first() else { return Ok(()) };
    let conversion = definition.and_then(|known| known.object.get("/spec/conversion"));
    let hook = conversion.filter(|conversion| conversion["strategy"] == "Webhook");
    let Some(hook) = hook else {
        for at in others {
            objects[at].set("/apiVersion", wanted.as_str());
        }
        return Ok(());
    };
    let from = format!("{}, Kind={}", objects[*first].api_version(), to.kind);
    let failed = |why: String| {
        Status::new(500, "InternalError", format!("conversion webhook for {from} failed: {why}"))
    };
    let sent: Vec<Value> = others.iter().map(|at| objects[*at].0.clone()).collect();
    let got = ask(server, &hook["webhook"], &wanted, &sent).await.map_err(failed)?;
    if got.len() != sent.len() {
        let why = format!("expected {} converted objects, got {}", sent.len(), got.len());
        return Err(failed(why));
    }
    for ((at, new), old) in others.into_iter().zip(got).zip(sent) {
        objects[at] = accept(Object(new), &Object(old), to).map_err(failed)?;
    }
    Ok(())
}

/// A converted object, with the metadata that no webhook may change.
fn accept(mut new: Object, old: &Object, to: &Kind) -> Result<Object, String> {
    let wanted = to.api_version();
    if new.api_version() != wanted {
        let found = new.api_version();
        return Err(format!(
            "invalid converted object: expected apiVersion {wanted:?}, got {found:?}"
        ));
    }
    if new.kind() != old.kind() {
        return Err(format!(
            "invalid converted object: must have the same kind: {} != {}",
            new.kind(),
            old.kind()
        ));
    }
    for member in ["name", "namespace", "uid"] {
        let pointer = format!("/metadata/{member}");
        if new.text(&pointer) != old.text(&pointer) {
            return Err(format!(
                "invalid converted object: must have the same {member}: {} != {}",
                new.text(&pointer),
                old.text(&pointer)
            ));
        }
    }
    let said = new.get("/metadata").cloned().unwrap_or_default();
    let mut metadata = old.get("/metadata").cloned().unwrap_or_default();
    if let Value::Object(members) = &mut metadata {
        for member in ["labels", "annotations"] {
            match said.get(member).filter(|value| !value.is_null()) {
                Some(value) => drop(members.insert(member.to_owned(), value.clone())),
                None => drop(members.remove(member)),
            }
        }
    }
    new.set("/metadata", metadata);
    Ok(new)
}

/// Asks the webhook.
async fn ask(
    server: &ApiServer,
    hook: &Value,
    wanted: &str,
    objects: &[Value],
) -> Result<Vec<Value>, String> {
    let versions = hook["conversionReviewVersions"].as_array().into_iter().flatten();
    let version = versions.filter_map(Value::as_str).find(|one| ["v1", "v1beta1"].contains(one));
    let version = version.ok_or("the webhook takes neither v1 nor v1beta1 of ConversionReview")?;
    let uid = server.env.uid();
    let review = json!({
        "apiVersion": format!("apiextensions.k8s.io/{version}"), "kind": "ConversionReview",
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects},
    });
    let (peer, url) = peer(server, &hook["clientConfig"]).await?;
    let told = |why: &dyn std::fmt::Display| format!("Post \"{url}?timeout=30s\": {why}");
    let request = http::Request::post(format!("{}?timeout=30s", path(&url)))
        .header(http::header::HOST, authority(&url))
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::ACCEPT, "application/json, */*")
        .body(Bytes::from(review.to_string()))
        .map_err(|error| told(&error))?;
    let answer = async {
        let response =
            server.config.outbound.call(&peer, request).await.map_err(|error| told(&error))?;
        let code = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| told(&error))?.to_bytes();
        if !code.is_success() {
            let said = String::from_utf8_lossy(&body[..body.len().min(1024)]).into_owned();
            return Err(format!(
                "the server responded with the status code {} ({said})",
                code.as_u16()
            ));
        }
        Ok(body)
    };
    let body = tokio::time::timeout(TIMEOUT, answer)
        .await
        .map_err(|_| told(&"context deadline exceeded"))??;
    let mut answer: Value = serde_json::from_slice(&body)
        .map_err(|error| format!("the answer is no ConversionReview: {error}"))?;
    let response = &mut answer["response"];
    if !response.is_object() {
        return Err("no response provided".to_owned());
    }
    if response["uid"] != uid.as_str() {
        return Err(format!("expected response.uid={uid:?}, got {}", response["uid"]));
    }
    if response["result"]["status"] != "Success" {
        return Err(match response["result"]["message"].as_str() {
            Some(message) if !message.is_empty() => message.to_owned(),
            _ => "the webhook gave no reason".to_owned(),
        });
    }
    match response["convertedObjects"].take() {
        Value::Array(list) => Ok(list),
        _ => Err("response.convertedObjects is no list".to_owned()),
    }
}

fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?']).next().unwrap_or_default()
}

fn path(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    format!("/{}", path.split('?').next().unwrap_or_default())
}

/// Whom to ask, and what is asked for.
async fn peer(server: &ApiServer, client: &Value) -> Result<(Peer, String), String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let bundle = STANDARD.decode(text(&client["caBundle"])).map_err(|error| error.to_string())?;
    let trust = Trust::Authorities(bundle);
    let service = &client["service"];
    if service.is_object() {
        let (namespace, name) = (text(&service["namespace"]), text(&service["name"]));
        let port = u16::try_from(service["port"].as_u64().unwrap_or(443))
            .map_err(|_| "the port is none".to_owned())?;
        let host = format!("{name}.{namespace}.svc");
        let path = text(&service["path"]);
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        let url = format!("https://{host}:{port}{path}");
        let found = service_address::resolve(server, &ObjectKey::new(namespace, name), port).await;
        let (address, port) = found.map_err(|why| format!("Post {url:?}: {why}"))?;
        let peer = Peer { host: address, port, server_name: host, trust, is_identified: false };
        return Ok((peer, url));
    }
    let url = text(&client["url"]);
    let own = authority(&url);
    let (host, port) = match own.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse().map_err(|_| format!("invalid port in {url:?}"))?)
        }
        _ => (own, 443),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let peer = Peer { host, port, server_name: String::new(), trust, is_identified: false };
    Ok((peer, url))
}
