//! The whole server: a few requests by an administrator to one over an empty store. No answer may be a
//! 5xx, save those that upstream gives too, and every answer comes and ends.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use env::{Env, SimMachine};
use http_body_util::BodyExt;
use machinery::{Kind, versions};
use serde_json::{Value, json};
use storage::memory::MemoryCluster;

use super::arbitrary::Source;
use super::{now, samples};
use crate::{ApiServer, Config, ServiceAccounts, User, protobuf};

/// So many requests go to one server.
const REQUESTS_MAX: usize = 6;

const SUBRESOURCES: &[&str] = &[
    "status",
    "scale",
    "binding",
    "eviction",
    "token",
    "finalize",
    "approval",
    "resize",
    "ephemeralcontainers",
    "log",
    "exec",
    "attach",
    "portforward",
    "proxy",
    "proxy/a/b",
    "x",
];

const ENDPOINTS: &[&str] = &[
    "/",
    "/api",
    "/apis",
    "/apis/apps",
    "/apis/apps/v1",
    "/openapi/v2",
    "/openapi/v3",
    "/openapi/v3/api/v1",
    "/version",
    "/livez",
    "/readyz/x",
    "/.well-known/openid-configuration",
    "/openid/v1/jwks",
    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    "/apis/authentication.k8s.io/v1/tokenreviews",
    "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
    "/apis/acme.io/v1/namespaces/default/as",
    "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews",
    "/apis/authorization.k8s.io/v1/subjectaccessreviews",
    "/apis/authentication.k8s.io/v1/selfsubjectreviews",
    "/api/v1/namespaces/default/bindings",
    "/apis/g.io/v1/x",
    "/api/v1/namespaces/default",
    "//",
    "/%2e%2e/",
];

const PARAMETERS: &[&str] = &[
    "watch",
    "limit",
    "continue",
    "labelSelector",
    "fieldSelector",
    "resourceVersion",
    "resourceVersionMatch",
    "timeoutSeconds",
    "allowWatchBookmarks",
    "sendInitialEvents",
    "dryRun",
    "fieldManager",
    "fieldValidation",
    "force",
    "gracePeriodSeconds",
    "propagationPolicy",
    "orphanDependents",
    "pretty",
    "includeObject",
    "container",
    "command",
    "stdin",
    "follow",
    "tailLines",
    "sinceSeconds",
    "sinceTime",
    "limitBytes",
    "path",
];

const ACCEPTS: &[&str] = &[
    "",
    "application/json",
    "*/*",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;as=Table;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json",
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    "text/plain",
    "a;q=x,*/*;q=0",
];

const PATCHES: &[&str] = &[
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/json-patch+json",
    "application/apply-patch+yaml",
];

/// Runs something under virtual time, where waiting costs nothing.
pub(super) fn in_virtual_time<T>(run: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("nothing can be missing");
    runtime.block_on(run)
}

/// A machine that is always the same.
pub(crate) fn surroundings() -> Env {
    Env::new(Arc::new(SimMachine::new(1, "cp-1", now())), None)
}

pub(super) fn run(data: &[u8]) {
    in_virtual_time(async {
        let env = surroundings();
        let cluster = MemoryCluster::new(env.clone(), 1);
        let accounts = Some(ServiceAccounts::simulated());
        let config =
            Config { service_accounts: accounts, bootstrap_tokens: true, ..Config::default() };
        let server = ApiServer::new(env, cluster.member(0), config);
        for (path, kind) in [("", "Namespace"), ("/default/serviceaccounts", "ServiceAccount")] {
            let made = json!({"kind": kind, "apiVersion": "v1", "metadata": {"name": "default"}});
            let asked = Asked::new("POST", format!("/api/v1/namespaces{path}"), made.to_string());
            assert_eq!(send(&server, asked).await, 201);
        }
        let mut source = Source::new(data);
        for _ in 0..REQUESTS_MAX {
            if source.is_empty() {
                break;
            }
            let asked = Asked::read(&mut source);
            send(&server, asked).await;
        }
    });
}

#[derive(Debug)]
struct Asked {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Asked {
    fn new(method: &'static str, path: String, body: impl Into<Bytes>) -> Self {
        Self { method, path, headers: Vec::new(), body: body.into() }
    }

    fn read(source: &mut Source<'_>) -> Self {
        let kinds: Vec<_> = versions::served().collect();
        let kind = source.pick(&kinds);
        let method =
            source.pick(&["POST", "PATCH", "PUT", "GET", "DELETE", "POST", "PATCH", "HEAD", "X"]);
        let mut path = path(kind, method, source);
        let parameters = source.below(4);
        for at in 0..parameters {
            path.push(if at == 0 { '?' } else { '&' });
            path.push_str(source.pick(PARAMETERS));
            if !source.once_in(8) {
                path.push('=');
                path.extend(value(source).bytes().map(|byte| match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
                    byte => format!("%{byte:02x}"),
                }));
            }
        }
        let mut asked = Self::new(method, path, Bytes::new());
        asked.headers.push(("accept", (source.pick(ACCEPTS)).to_owned()));
        asked.fill(kind, source);
        if source.once_in(16) {
            let name = source.pick(&[
                "x-shakedown-fence",
                "authorization",
                "impersonate-user",
                "user-agent",
            ]);
            asked.headers.push((name, value(source)));
        }
        asked
    }

    /// The body and its media type.
    fn fill(&mut self, kind: &Kind, source: &mut Source<'_>) {
        let patch = source.pick(PATCHES);
        let is_patch = self.method == "PATCH";
        let body = match (is_patch, patch) {
            (true, "application/apply-patch+yaml") => {
                self.path.push_str(if self.path.contains('?') { "&" } else { "?" });
                self.path.push_str("fieldManager=m&force=true");
                samples::object(kind, source)
            }
            (true, "application/json-patch+json") => {
                let path = source.pick(&[
                    "/spec",
                    "/metadata/labels",
                    "/status",
                    "/metadata",
                    "/data",
                    "",
                ]);
                json!([{"op": source.pick(&["add", "replace", "remove"]), "path": path, "value": source.any(4)}])
            }
            (true, _) => source.typed(machinery::schema::type_of(kind), 8, false),
            (false, _) if self.method == "DELETE" || self.method == "GET" => {
                delete_options(source).unwrap_or_default()
            }
            (false, _) => samples::object(kind, source),
        };
        let (media_type, bytes) = match source.byte() % 8 {
            _ if body.is_null() => ("", Bytes::new()),
            0 => (
                source.pick(&["application/json", "text/plain", "application/yaml"]),
                source.bytes(64).to_vec().into(),
            ),
            1 => ("application/yaml", serde_yaml::to_string(&body).unwrap_or_default().into()),
            2 => (protobuf::MEDIA_TYPE, protobuf::object(&body).unwrap_or_default().into()),
            _ => ("application/json", body.to_string().into()),
        };
        let media_type = if is_patch { patch } else { media_type };
        self.headers.push(("content-type", media_type.to_owned()));
        self.body = if is_patch { body.to_string().into() } else { bytes };
    }
}

fn path(kind: &'static Kind, method: &str, source: &mut Source<'_>) -> String {
    if source.once_in(12) {
        return (source.pick(ENDPOINTS)).to_owned();
    }
    let namespace =
        if kind.namespaced { source.pick(&["default", "default", "x", ""]) } else { "" };
    let plain = samples::plain(kind);
    let own = plain["metadata"]["name"].as_str().unwrap_or_default();
    let name = match (method, source.byte() % 8) {
        ("POST", 0..=5) | (_, 0) => "",
        (_, 1) => source.pick(&["b", "A", "%2e", "a%00", ".."]),
        _ => own,
    };
    let mut path = kind.path(namespace, name);
    if !name.is_empty() && source.once_in(3) {
        path.push('/');
        path.push_str(source.pick(SUBRESOURCES));
    }
    path
}

fn value(source: &mut Source<'_>) -> String {
    match source.byte() % 4 {
        0 => source.number().to_string(),
        1 => {
            let token =
                json!({"v": "meta.k8s.io/v1", "rv": source.number(), "start": source.text()});
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token.to_string())
        }
        2 => (source.pick(&[
            "true",
            "false",
            "All",
            "Strict",
            "Exact",
            "NotOlderThan",
            "Foreground",
            "m",
        ]))
        .to_owned(),
        _ => source.text(),
    }
}

fn delete_options(source: &mut Source<'_>) -> Option<Value> {
    let fact = machinery::schema::type_named("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions")?;
    source.once_in(2).then(|| source.typed(fact, 3, false))
}

/// Sends a request and reads all of the answer.
async fn send(server: &Arc<ApiServer>, asked: Asked) -> u16 {
    let mut request = http::Request::builder().method(asked.method).uri(&asked.path);
    for (name, value) in &asked.headers {
        request = request.header(*name, value);
    }
    // What is no HTTP never reaches the server.
    let Ok(request) = request.body(asked.body.clone()) else { return 0 };
    let user = User::new("kubernetes-admin", &["system:masters"]);
    // A watch that names no time lasts for an hour at most.
    let limit = Duration::from_secs(2 * 3600);
    let answer = tokio::time::timeout(limit, server.handle(user, request)).await;
    let answer = answer.unwrap_or_else(|_| panic!("no answer to {asked:?}"));
    let code = answer.status().as_u16();
    let body = match tokio::time::timeout(limit, answer.into_body().collect()).await {
        Ok(body) => body.expect("no body breaks off").to_bytes(),
        Err(_) => {
            assert!(asked.path.contains("timeoutSeconds"), "no end of the answer to {asked:?}");
            Bytes::new()
        }
    };
    let text = String::from_utf8_lossy(&body);
    assert!(code < 500 || is_upstreams(code, &text), "{code} {text} for {asked:?}");
    code
}

/// Whether upstream answers the same 5xx.
fn is_upstreams(code: u16, body: &str) -> bool {
    match code {
        // Its fieldmanager returns plain errors, which become 500.
        500 => {
            body.contains("failed to create typed patch object")
                || body.contains("failed to decode managed fields")
        }
        503 => body.contains("no endpoints available for service") || body.contains("aggregat"),
        504 => body.contains("Too large resource version"),
        _ => false,
    }
}
