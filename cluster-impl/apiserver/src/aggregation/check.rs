//! Whether another server is there: its Service, its endpoints, and an answer of its own.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::FutureExt;
use http_body_util::{BodyExt, Limited};
use machinery::conditions::{self, Condition};
use machinery::kinds::API_SERVICE;
use machinery::{Object, ObjectKey, Status};
use serde_json::Value;

use crate::commit::{self, Along, Decision};
use crate::config::User;
use crate::outbound::{Peer, Trust};
use crate::request::{Request, Verb};
use crate::server::ApiServer;
use crate::service_address;

/// How long it may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How much it may say.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why it is not available.
pub(super) struct Unavailable {
    reason: &'static str,
    message: String,
}

/// Where an APIService's requests go.
pub(super) async fn peer(server: &ApiServer, object: &Object) -> Result<Peer, String> {
    let (namespace, name) =
        (object.text("/spec/service/namespace"), object.text("/spec/service/name"));
    let port = object.integer("/spec/service/port").unwrap_or(443);
    let port = u16::try_from(port).map_err(|_| format!("{port} is no port"))?;
    let key = ObjectKey::new(namespace, name);
    let (host, port) = service_address::resolve(server, &key, port).await?;
    let trust = if object.flag("/spec/insecureSkipTLSVerify") {
        Trust::Anybody
    } else {
        let bundle = STANDARD.decode(object.text("/spec/caBundle"));
        Trust::Authorities(bundle.map_err(|error| error.to_string())?)
    };
    let server_name = format!("{name}.{namespace}.svc");
    Ok(Peer { host, port, server_name, trust, is_identified: true })
}

/// Asks; answers what it serves.
pub(super) async fn check(server: &ApiServer, object: &Object) -> Result<Value, Unavailable> {
    let (namespace, name) =
        (object.text("/spec/service/namespace"), object.text("/spec/service/name"));
    let refused = |reason, message| Unavailable { reason, message };
    let peer = peer(server, object).await.map_err(|why| {
        if why.ends_with("not found") {
            let message = format!("service/{name} in {namespace:?} is not present");
            return refused("ServiceNotFound", message);
        }
        if why.starts_with("no endpoints") {
            let message =
                format!("endpoints for service/{name} in {namespace:?} have no addresses");
            return refused("MissingEndpoints", message);
        }
        refused("ServicePortError", why)
    })?;
    let path = format!("/apis/{}/{}", object.text("/spec/group"), object.text("/spec/version"));
    let failed = |why: String| {
        let url = format!("https://{}:{}{path}", peer.host, peer.port);
        let message = format!("failing or missing response from {url}: {why}");
        refused("FailedDiscoveryCheck", message)
    };
    let request = http::Request::get(&path)
        .header(http::header::HOST, &peer.server_name)
        .header(http::header::ACCEPT, "application/json")
        .header("x-remote-user", "system:kube-aggregator")
        .header("x-remote-group", "system:masters")
        .body(Bytes::new())
        .map_err(|error| failed(error.to_string()))?;
    let answer = async {
        let response = server.config.outbound.call(&peer, request).await;
        let response = response.map_err(|error| failed(error.to_string()))?;
        let code = response.status();
        if !code.is_success() {
            return Err(failed(format!("bad status from {}: {}", peer.server_name, code.as_u16())));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| failed(error.to_string()))?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| failed(error.to_string()))
    };
    tokio::time::timeout(TIMEOUT, answer)
        .await
        .unwrap_or_else(|_| Err(failed("context deadline exceeded".to_owned())))
}

/// Writes what came of a check into the APIService's status, if that is news.
pub(super) async fn tell(
    server: &Arc<ApiServer>,
    object: &Object,
    checked: &Result<Value, Unavailable>,
) -> Result<(), Status> {
    let condition = match checked {
        Ok(_) => Condition {
            name: "Available",
            status: "True",
            reason: "Passed",
            message: "all checks passed",
        },
        Err(why) => Condition {
            name: "Available",
            status: "False",
            reason: why.reason,
            message: &why.message,
        },
    };
    let now = server.env.now();
    if !conditions::set(&mut object.clone(), condition, now) {
        return Ok(());
    }
    let user = User::new("system:apiserver", &["system:masters"]);
    let key = ObjectKey::new("", object.name());
    let mut request = Request::own(user, Verb::Update, &API_SERVICE, key);
    request.subresource = "status".to_owned();
    let uid = object.uid();
    let mut decide = |old: Option<Arc<Object>>| {
        async move {
            let gone = || Status::new(404, "NotFound", "the APIService is gone");
            let old = old.filter(|old| old.uid() == uid).ok_or_else(gone)?;
            let mut new = (*old).clone();
            Ok(match conditions::set(&mut new, condition, now) {
                true => Decision::Put(Box::new(new), Along::default()),
                false => Decision::Keep,
            })
        }
        .boxed()
    };
    let written = commit::change(server, &request, &request.key, &mut decide).await;
    server.audit_own(&request, &written);
    match written {
        Err(status) if status.code != 404 => Err(status),
        _ => Ok(()),
    }
}
