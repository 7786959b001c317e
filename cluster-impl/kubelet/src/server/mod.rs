//! The kubelet's own server: health, pods, logs, streams into containers, usage.
//!
//! [`KubeletServer::handle`] answers one request of somebody who is known; [`serve`] puts it behind TLS
//! sockets, a simulation calls it in process. Who may do what is asked of the API server
//! (SubjectAccessReview on `nodes` and its subresources), as upstream does.
//! Streams are the runtime's: the server finds the container, gets an address from the runtime, and
//! passes the upgraded connection on.

mod access;
mod body;
pub(crate) mod logs;
mod metrics;
mod review;
mod serve;
mod streams;
mod usage;

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use apiclient::ApiClient;
use bytes::Bytes;
use env::Env;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use machinery::Object;
use serde_json::{Value, json};

use crate::access::Streams;
use crate::runtime::{Brief, ContainerRuntime, ContainerState, ContainerStatus, RuntimeError};
use crate::{Health, Pods};

pub use body::Body;
pub use serve::{ServeError, serve};
pub use streams::Relay;

/// The documented port.
pub const PORT: u16 = 10250;

/// Who decides whether a request is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthorizationMode {
    /// Everybody who is known may do everything.
    AlwaysAllow,
    /// The API server is asked.
    #[default]
    Webhook,
}

impl FromStr for AuthorizationMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "AlwaysAllow" => Ok(Self::AlwaysAllow),
            "Webhook" => Ok(Self::Webhook),
            other => Err(format!("{other:?} is none of AlwaysAllow and Webhook")),
        }
    }
}

/// How the server runs.
#[derive(Clone, Default)]
pub struct ServerConfig {
    /// The name of the node.
    pub node_name: String,
    /// `--anonymous-auth`
    pub allows_anonymous: bool,
    /// `--authorization-mode`
    pub authorization: AuthorizationMode,
    /// How the kubelet is.
    pub health: Health,
    /// Which pods it has.
    pub pods: Pods,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct User {
    /// The name.
    pub name: String,
    /// Empty if there is none.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// What else is known.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Somebody who said nothing of himself.
    pub fn anonymous() -> Self {
        let groups = vec!["system:unauthenticated".to_owned()];
        Self { name: "system:anonymous".to_owned(), groups, ..Self::default() }
    }

    /// Somebody with a certificate of this name and these organisations.
    pub fn certified(name: &str, mut groups: Vec<String>) -> Self {
        groups.push("system:authenticated".to_owned());
        Self { name: name.to_owned(), groups, ..Self::default() }
    }
}

/// Why there is no better answer: a code and a text, as the kubelet answers in plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) u16, pub(crate) String);

impl Refusal {
    fn bad_request(why: impl Into<String>) -> Self {
        Self(400, why.into())
    }

    fn not_found(why: impl Into<String>) -> Self {
        Self(404, why.into())
    }
}

impl From<RuntimeError> for Refusal {
    fn from(error: RuntimeError) -> Self {
        let code = if matches!(error, RuntimeError::NotFound(_)) { 404 } else { 500 };
        Self(code, error.to_string())
    }
}

/// The server of one kubelet.
pub struct KubeletServer {
    env: Env,
    client: ApiClient,
    runtime: Arc<dyn ContainerRuntime>,
    config: ServerConfig,
    reviews: review::Reviews,
    usage: usage::Samples,
}

impl KubeletServer {
    /// A server beside a kubelet that shares `config`'s health and pods.
    pub fn new(
        env: Env,
        client: ApiClient,
        runtime: Arc<dyn ContainerRuntime>,
        config: ServerConfig,
    ) -> Arc<Self> {
        let (reviews, usage) = (review::Reviews::default(), usage::Samples::default());
        Arc::new(Self { env, client, runtime, config, reviews, usage })
    }

    /// Answers one request of a user whom a certificate or token has proven.
    pub async fn handle(self: Arc<Self>, user: User, request: Request<Bytes>) -> Response<Body> {
        let answer = match access::authorize(&self, &user, &request).await {
            Ok(()) => self.answer(request).await,
            Err(refusal) => Err(refusal),
        };
        answer.unwrap_or_else(|Refusal(code, why)| text(code, why))
    }

    async fn answer(self: &Arc<Self>, request: Request<Bytes>) -> Result<Response<Body>, Refusal> {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let is_read = [Method::GET, Method::HEAD].contains(request.method());
        let is_stream = [Method::GET, Method::POST].contains(request.method());
        match parts.as_slice() {
            ["healthz"] if is_read => Ok(match self.config.health.is_healthy() {
                true => text(200, "ok"),
                false => text(500, "unhealthy"),
            }),
            ["pods"] if is_read => {
                let pods = self.config.pods.all();
                Ok(pod_list(pods.iter().map(|pod| pod.0.clone()).collect()))
            }
            ["runningpods"] if is_read => self.running_pods().await,
            ["containerLogs", namespace, pod, container] if is_read => {
                let pod = self.pod(namespace, pod)?;
                logs::answer(self, &pod, container, &request).await
            }
            [what @ ("exec" | "attach"), namespace, pod, container]
            | [what @ ("exec" | "attach"), namespace, pod, _, container]
                if is_stream =>
            {
                let pod = self.pod(namespace, pod)?;
                self.join(*what == "exec", &pod, container, request).await
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] if is_stream => {
                let pod = self.pod(namespace, pod)?;
                self.forward(&pod, request).await
            }
            ["run", namespace, pod, container] | ["run", namespace, pod, _, container]
                if *request.method() == Method::POST =>
            {
                let pod = self.pod(namespace, pod)?;
                self.run(&pod, container, &request).await
            }
            ["stats", "summary"] if is_read => usage::summary(self).await,
            ["metrics"] if is_read => metrics::own(self).await,
            ["metrics", "resource"] if is_read => metrics::resource(self).await,
            [
                "healthz" | "pods" | "runningpods" | "containerLogs" | "exec" | "attach"
                | "portForward" | "run" | "stats" | "metrics",
                ..,
            ] if !(is_read || is_stream) => Err(Refusal(405, "405: Method Not Allowed".to_owned())),
            _ => Err(Refusal::not_found("404 page not found\n")),
        }
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Object>, Refusal> {
        let pod = self.config.pods.named(namespace, name);
        pod.ok_or_else(|| Refusal::not_found("pod does not exist\n"))
    }

    /// The latest containers of this name, the newest first.
    async fn containers(
        &self,
        pod: &Object,
        name: &str,
    ) -> Result<Vec<ContainerStatus>, RuntimeError> {
        let mut all = self.runtime.containers(pod.uid()).await?;
        all.retain(|container| container.name == name);
        all.sort_by_key(|container| std::cmp::Reverse((container.attempt, container.created)));
        Ok(all)
    }

    /// The running container of this name.
    async fn running(&self, pod: &Object, name: &str) -> Result<ContainerStatus, Refusal> {
        let all = self.containers(pod, name).await?;
        let running = all.into_iter().find(|one| one.state == ContainerState::Running);
        running.ok_or_else(|| Refusal(500, format!("container not found (\"{name}\")")))
    }

    /// Joins a container: a command in it, or its own process.
    async fn join(
        self: &Arc<Self>,
        is_exec: bool,
        pod: &Object,
        container: &str,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, Refusal> {
        let query = access::query(&request);
        let flag = |name: &str| query.iter().any(|(key, value)| key == name && value == "1");
        let streams = Streams {
            stdin: flag("input"),
            stdout: flag("output"),
            stderr: flag("error"),
            tty: flag("tty"),
        };
        if !(streams.stdin || streams.stdout || streams.stderr) {
            let why = "you must specify at least 1 of stdin, stdout, stderr";
            return Err(Refusal::bad_request(why));
        }
        // A terminal has one output.
        let streams = Streams { stderr: streams.stderr && !streams.tty, ..streams };
        let found = self.running(pod, container).await?;
        let address = match is_exec {
            true => {
                let command = access::all(&query, "command");
                self.runtime.exec(&found.id, &command, streams).await
            }
            false => self.runtime.attach(&found.id, streams).await,
        };
        let address = address.map_err(|error| Refusal(500, error.to_string()))?;
        streams::pass(&self.env, &address, request).await
    }

    async fn forward(
        self: &Arc<Self>,
        pod: &Object,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, Refusal> {
        let query = access::query(&request);
        let ports: Result<Vec<u16>, Refusal> = access::all(&query, "port")
            .iter()
            .map(|port| {
                let why = || Refusal::bad_request(format!("unable to parse {port:?} as a port"));
                port.parse().map_err(|_| why())
            })
            .collect();
        let sandboxes = self.runtime.sandboxes(pod.uid()).await?;
        let ready = sandboxes.iter().rfind(|sandbox| sandbox.ready);
        let sandbox = ready.ok_or_else(|| {
            let name = format!("{}_{}", pod.name(), pod.namespace());
            Refusal(500, format!("failed to find sandbox for pod {name:?}"))
        })?;
        let address = self.runtime.port_forward(&sandbox.id, &ports?).await;
        let address = address.map_err(|error| Refusal(500, error.to_string()))?;
        streams::pass(&self.env, &address, request).await
    }

    /// Runs a command to its end; answers all that it said.
    async fn run(
        &self,
        pod: &Object,
        container: &str,
        request: &Request<Bytes>,
    ) -> Result<Response<Body>, Refusal> {
        let command = access::all(&access::query(request), "cmd");
        let command: Vec<String> =
            command.iter().flat_map(|line| line.split(' ')).map(str::to_owned).collect();
        let found = self.running(pod, container).await?;
        let outcome = self.runtime.exec_and_wait(&found.id, &command).await;
        let outcome = outcome.map_err(|error| Refusal(500, error.to_string()))?;
        let mut said = outcome.stdout;
        said.extend(outcome.stderr);
        if outcome.exit_code != 0 {
            let said = String::from_utf8_lossy(&said);
            let why = format!("command terminated with exit code {}: {said}", outcome.exit_code);
            return Err(Refusal(500, why));
        }
        Ok(text(200, said))
    }

    async fn running_pods(&self) -> Result<Response<Body>, Refusal> {
        let mut pods: BTreeMap<_, Vec<Value>> = BTreeMap::new();
        for brief in self.runtime.all().await?.into_iter().filter(Brief::is_running) {
            let containers = pods.entry(brief.pod).or_default();
            if !brief.container.is_empty() {
                containers.push(json!({"name": brief.container, "image": "", "resources": {}}));
            }
        }
        let pods = pods.into_iter().map(|(pod, containers)| {
            json!({
                "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
                "spec": {"containers": containers}, "status": {},
            })
        });
        Ok(pod_list(pods.collect()))
    }
}

fn pod_list(items: Vec<Value>) -> Response<Body> {
    json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

fn json_answer(value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::whole(value.to_string()));
    let media_type = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response
}

fn text(code: u16, said: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::whole(said));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let media_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response
}

#[cfg(test)]
mod tests;
