//! Requests to one of several API servers, as JSON objects.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt};
use http::{Method, Request};
use machinery::{Kind, Object, ObjectKey, Status};
use serde_json::Value;

use crate::Fence;
use crate::heard::{Event, Heard};
use crate::trimmed::Trimmed;

/// A request that has no answer after this long is given up; the outcome of a write is then unknown.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApiError {
    /// The API server refused it.
    #[error("{0}")]
    Status(Status),
    /// No answer came; a write may have happened or not.
    #[error("no answer from the API server: {0}")]
    NoAnswer(String),
}

impl ApiError {
    /// Whether the user may not do it.
    pub fn is_forbidden(&self) -> bool {
        self.has_reason("Forbidden")
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.has_reason("NotFound")
    }

    /// Whether the object is not what the writer thought.
    pub fn is_conflict(&self) -> bool {
        self.has_reason("Conflict")
    }

    /// Whether the name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.has_reason("AlreadyExists")
    }

    /// Whether a watch or list asked for a revision that is gone.
    pub fn is_expired(&self) -> bool {
        matches!(self, ApiError::Status(status) if status.code == 410)
    }

    fn has_reason(&self, reason: &str) -> bool {
        matches!(self, ApiError::Status(status) if status.reason == reason)
    }
}

/// Which objects.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Empty for all namespaces, or for a cluster-scoped kind.
    pub namespace: String,
    /// As in `labelSelector=`.
    pub labels: String,
    /// As in `fieldSelector=`.
    pub fields: String,
}

/// How to delete.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`; the kind's or object's default if absent.
    pub grace_s: Option<i64>,
    /// `preconditions.uid`; none if empty.
    pub uid: String,
    /// `propagationPolicy`: Background, Foreground or Orphan; the default if empty.
    pub propagation: &'static str,
}

/// How the body of a patch is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 7386.
    Merge,
    /// Kubernetes' own.
    Strategic,
    /// RFC 6902.
    Json,
}

impl PatchKind {
    fn content_type(self) -> &'static str {
        match self {
            PatchKind::Merge => "application/merge-patch+json",
            PatchKind::Strategic => "application/strategic-merge-patch+json",
            PatchKind::Json => "application/json-patch+json",
        }
    }
}

/// A client of a set of API servers: it stays with one until that one does not answer, then moves on.
#[derive(Clone)]
pub struct ApiClient {
    servers: Arc<[kube::Client]>,
    current: Arc<AtomicUsize>,
    fence: Option<Fence>,
    agent: Option<Arc<str>>,
    heard: Option<Arc<Heard>>,
}

impl ApiClient {
    /// A client of these servers; the first is asked first.
    pub fn new(servers: Vec<kube::Client>) -> Self {
        assert!(!servers.is_empty(), "a client needs a server");
        let (servers, current) = (servers.into(), Arc::default());
        Self { servers, current, fence: None, agent: None, heard: None }
    }

    /// The same client, whose watches need not read an event that another client has read.
    #[must_use]
    pub fn sharing(mut self, heard: Arc<Heard>) -> Self {
        self.heard = Some(heard);
        self
    }

    /// The same client under a name: what it writes is owned under this name.
    #[must_use]
    pub fn named(mut self, agent: &str) -> Self {
        self.agent = Some(agent.into());
        self
    }

    /// The same client, whose writes are refused once the fence's lease has changed hands.
    #[must_use]
    pub fn fenced(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }

    /// Reads one object.
    pub async fn get(&self, kind: &Kind, key: &ObjectKey) -> Result<Object, ApiError> {
        self.send(Method::GET, &kind.path(&key.namespace, &key.name), "", None).await.map(Object)
    }

    /// Reads all objects; answers the list's revision with them.
    pub async fn list(
        &self,
        kind: &Kind,
        options: &ListOptions,
    ) -> Result<(String, Vec<Object>), ApiError> {
        let path = format!("{}?{}", kind.path(&options.namespace, ""), query(options));
        let mut list = self.send(Method::GET, &path, "", None).await?;
        let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
        let Value::Array(items) = list["items"].take() else {
            return Err(ApiError::NoAnswer(format!("the list of {} has no items", kind.id)));
        };
        let api_version = kind.api_version();
        let items = items
            .into_iter()
            .map(|mut item| {
                item["apiVersion"] = api_version.as_str().into();
                item["kind"] = kind.kind.into();
                Object(item)
            })
            .collect();
        Ok((revision, items))
    }

    /// Follows all changes after `revision`. With bookmarks, an idle watch gets a sign of life now and then.
    pub(crate) async fn watch(
        &self,
        kind: &Kind,
        options: &ListOptions,
        revision: &str,
        with_bookmarks: bool,
    ) -> Result<BoxStream<'static, Result<Event, ApiError>>, ApiError> {
        let path = format!(
            "{}?watch=true&allowWatchBookmarks={with_bookmarks}&resourceVersion={revision}&{}",
            kind.path(&options.namespace, ""),
            query(options),
        );
        let at = self.current.load(Ordering::Relaxed);
        let request = request(Method::GET, &path, "", None, (None, self.agent.as_deref()))?;
        let server = self.servers[at % self.servers.len()].clone();
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, server.request_stream(request)).await;
        let lines = match answer {
            Ok(Ok(reader)) => reader,
            Ok(Err(error)) => return Err(self.failed(at, error)),
            Err(_) => return Err(self.silent(at)),
        };
        Ok(crate::informer::split_events(lines, self.heard.clone()).boxed())
    }

    /// Stores a new object.
    pub async fn create(&self, kind: &Kind, object: &Object) -> Result<Object, ApiError> {
        let path = kind.path(object.namespace(), "");
        self.send(Method::POST, &path, "application/json", Some(&object.0)).await.map(Object)
    }

    /// Replaces an object; refused if its resourceVersion is stale.
    pub async fn update(&self, kind: &Kind, object: &Object) -> Result<Object, ApiError> {
        let path = kind.path(object.namespace(), object.name());
        self.send(Method::PUT, &path, "application/json", Some(&object.0)).await.map(Object)
    }

    /// Replaces an object's status.
    pub async fn update_status(&self, kind: &Kind, object: &Object) -> Result<Object, ApiError> {
        self.update_subresource(kind, object, "status").await
    }

    /// Replaces an object through a subresource such as `status` or a namespace's `finalize`.
    pub async fn update_subresource(
        &self,
        kind: &Kind,
        object: &Object,
        subresource: &str,
    ) -> Result<Object, ApiError> {
        let path = format!("{}/{subresource}", kind.path(object.namespace(), object.name()));
        self.send(Method::PUT, &path, "application/json", Some(&object.0)).await.map(Object)
    }

    /// Changes part of an object, or of a subresource such as `status`.
    pub async fn patch(
        &self,
        kind: &Kind,
        key: &ObjectKey,
        subresource: &str,
        patch: (PatchKind, &Value),
    ) -> Result<Object, ApiError> {
        let mut path = kind.path(&key.namespace, &key.name);
        if !subresource.is_empty() {
            path = format!("{path}/{subresource}");
        }
        self.send(Method::PATCH, &path, patch.0.content_type(), Some(patch.1)).await.map(Object)
    }

    /// Posts to a subresource such as `binding`.
    pub async fn post(
        &self,
        kind: &Kind,
        key: &ObjectKey,
        subresource: &str,
        body: &Value,
    ) -> Result<Value, ApiError> {
        let path = format!("{}/{subresource}", kind.path(&key.namespace, &key.name));
        self.send(Method::POST, &path, "application/json", Some(body)).await
    }

    /// Whether somebody may do something; `question` is the `spec` of a SubjectAccessReview.
    pub async fn is_allowed(&self, question: &Value) -> Result<bool, ApiError> {
        const PATH: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let review = serde_json::json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": question,
        });
        let answer = self.send(Method::POST, PATH, "application/json", Some(&review)).await?;
        Ok(answer["status"]["allowed"] == true)
    }

    /// Posts a review, such as a TokenReview: it is answered at once and never stored.
    pub async fn review(&self, group: &str, plural: &str, body: &Value) -> Result<Value, ApiError> {
        let path = format!("/apis/{group}/v1/{plural}");
        self.send(Method::POST, &path, "application/json", Some(body)).await
    }

    /// Asks for an object's deletion.
    pub async fn delete(
        &self,
        kind: &Kind,
        key: &ObjectKey,
        options: &DeleteOptions,
    ) -> Result<(), ApiError> {
        let mut body = serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(grace_s) = options.grace_s {
            body["gracePeriodSeconds"] = grace_s.into();
        }
        if !options.uid.is_empty() {
            body["preconditions"] = serde_json::json!({"uid": options.uid});
        }
        if !options.propagation.is_empty() {
            body["propagationPolicy"] = options.propagation.into();
        }
        let path = kind.path(&key.namespace, &key.name);
        self.send(Method::DELETE, &path, "application/json", Some(&body)).await.map(|_| ())
    }

    /// Sends one request to the current server; moves on to the next one if it does not answer.
    async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<Value, ApiError> {
        let fence = self.fence.as_ref().filter(|_| method != Method::GET);
        let agent = self.agent.as_deref();
        let request = request(method, path, content_type, body, (fence, agent))?;
        let at = self.current.load(Ordering::Relaxed);
        let server = &self.servers[at % self.servers.len()];
        match tokio::time::timeout(REQUEST_TIMEOUT, server.request::<Trimmed>(request)).await {
            Ok(Ok(Trimmed(value))) => Ok(value),
            Ok(Err(error)) => Err(self.failed(at, error)),
            Err(_) => Err(self.silent(at)),
        }
    }

    fn silent(&self, at: usize) -> ApiError {
        self.move_on(at);
        ApiError::NoAnswer(format!("none within {} s", REQUEST_TIMEOUT.as_secs()))
    }

    fn failed(&self, at: usize, error: kube::Error) -> ApiError {
        if let kube::Error::Api(status) = &error {
            let value = serde_json::to_value(status).unwrap_or_default();
            let status = Status::from_value(&value);
            // A server without its store cannot serve: another one may.
            if status.code >= 500 {
                self.move_on(at);
            }
            return ApiError::Status(status);
        }
        self.move_on(at);
        ApiError::NoAnswer(error.to_string())
    }

    /// Moves on from the server asked last, because it has been silent for too long.
    pub(crate) fn give_up_current(&self) {
        self.move_on(self.current.load(Ordering::Relaxed));
    }

    /// Moves to the next server, unless another request has done so already.
    fn move_on(&self, at: usize) {
        let _ = self.current.compare_exchange(at, at + 1, Ordering::Relaxed, Ordering::Relaxed);
    }
}

fn query(options: &ListOptions) -> String {
    let mut query = String::new();
    for (name, value) in [("labelSelector", &options.labels), ("fieldSelector", &options.fields)] {
        if !value.is_empty() {
            query.push_str(&format!("{name}={}&", encode(value)));
        }
    }
    query
}

/// Percent-encodes what may not stand in a query's value.
fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn request(
    method: Method,
    path: &str,
    content_type: &str,
    body: Option<&Value>,
    (fence, agent): (Option<&Fence>, Option<&str>),
) -> Result<Request<Vec<u8>>, ApiError> {
    let mut request = Request::builder().method(method).uri(path);
    if !content_type.is_empty() {
        request = request.header(http::header::CONTENT_TYPE, content_type);
    }
    if let Some(agent) = agent {
        request = request.header(http::header::USER_AGENT, agent);
    }
    if let Some(fence) = fence {
        request = request.header(Fence::HEADER, fence.to_string());
    }
    let bad = |error: &dyn std::fmt::Display| ApiError::NoAnswer(format!("bad request: {error}"));
    let body = body.map(serde_json::to_vec).transpose().map_err(|error| bad(&error))?;
    request.body(body.unwrap_or_default()).map_err(|error| bad(&error))
}
