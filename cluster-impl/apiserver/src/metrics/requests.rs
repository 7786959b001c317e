//! Counts around every request that somebody made whom the server knows.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Method, Response};
use tokio::time::Instant;

use super::Metrics;
use crate::body::Body;
use crate::connect;
use crate::query::Query;
use crate::request::Verb;
use crate::route::{Endpoint, Resource, Route};
use crate::server::{ApiServer, verb};

const COMPONENT: &str = "apiserver";

/// What a request is counted under.
#[derive(Clone)]
struct Call {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: String,
    scope: &'static str,
    dry_run: &'static str,
    is_write: bool,
}

impl Call {
    /// `None` if it is not for this server.
    fn read(route: &Route, query: &Query, request: &http::Request<Bytes>) -> Option<Self> {
        let method = request.method();
        match route {
            Route::Resource(resource) => Some(Self::about(resource, query, request)),
            Route::Unknown => None,
            Route::Endpoint(endpoint) => Some(Self {
                verb: own_verb(method),
                group: "",
                version: "",
                resource: "",
                subresource: match endpoint {
                    Endpoint::Health(..) | Endpoint::Metrics | Endpoint::Version => {
                        request.uri().path().trim_end_matches('/').to_owned()
                    }
                    _ => String::new(),
                },
                scope: "",
                dry_run: "",
                is_write: *method == Method::POST,
            }),
        }
    }

    fn about(resource: &Resource, query: &Query, request: &http::Request<Bytes>) -> Self {
        let is_connection = connect::is_meant(resource) && resource.subresource != "log";
        let Resource { kind, key, subresource } = resource;
        let asked = verb(request.method(), key, subresource, query);
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let is_apply = || {
            let form = header(http::header::CONTENT_TYPE).unwrap_or_default();
            form.starts_with("application/apply-patch")
        };
        let name = match asked {
            _ if is_connection => "CONNECT",
            Ok(Verb::Patch) if is_apply() => "APPLY",
            Ok(verb) => counted_as(verb),
            Err(_) => own_verb(request.method()),
        };
        let is_one = !key.name.is_empty() || matches!(asked, Ok(Verb::Create));
        Self {
            verb: name,
            group: kind.group,
            version: kind.version,
            resource: kind.plural,
            subresource: subresource.clone(),
            scope: match (is_one, key.namespace.is_empty()) {
                (true, _) => "resource",
                (false, false) => "namespace",
                (false, true) => "cluster",
            },
            dry_run: if query.text("dryRun") == "All" { "All" } else { "" },
            is_write: asked.is_ok_and(Verb::is_write),
        }
    }

    fn seven(&self) -> [&str; 7] {
        let Self { verb, group, version, resource, subresource, scope, .. } = self;
        [COMPONENT, group, resource, scope, subresource, verb, version]
    }

    fn count(&self, metrics: &Metrics, code: u16, began: Instant) {
        let Self { verb, group, version, resource, subresource, scope, dry_run, .. } = self;
        let code = code.to_string();
        let labels =
            [&code, COMPONENT, dry_run, group, resource, scope, subresource, verb, version];
        metrics.requests.add(&labels, 1.0);
        metrics.request_seconds.observe(&labels[1..], began.elapsed().as_secs_f64());
    }
}

fn counted_as(verb: Verb) -> &'static str {
    match verb {
        Verb::Create => "POST",
        Verb::Update => "PUT",
        Verb::DeleteCollection => "DELETECOLLECTION",
        Verb::Get => "GET",
        Verb::List => "LIST",
        Verb::Watch => "WATCH",
        Verb::Patch => "PATCH",
        Verb::Delete => "DELETE",
    }
}

fn own_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET | Method::HEAD => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// A request that is worked on.
pub(crate) struct Counted {
    server: Arc<ApiServer>,
    call: Call,
    began: Instant,
}

impl Counted {
    /// Begins to count a request that came at a time; `None` if it is not for this server.
    pub(crate) fn begin(
        server: &Arc<ApiServer>,
        (route, query): (&Route, &Query),
        request: &http::Request<Bytes>,
        began: Instant,
    ) -> Option<Self> {
        let call = Call::read(route, query, request)?;
        server.metrics.pool(call.is_write).fetch_add(1, Ordering::Relaxed);
        Some(Self { server: server.clone(), call, began })
    }

    /// Counts how the request ended, how long its answer took, and how large that is. A stream is
    /// counted at its end.
    pub(crate) fn end(self, response: Response<Body>) -> Response<Body> {
        let metrics = self.server.metrics.clone();
        let code = response.status().as_u16();
        if let Some(whole) = response.body().peek() {
            metrics.response_bytes.observe(&self.call.seven(), whole.len() as f64);
            self.call.count(&metrics, code, self.began);
            return response;
        }
        metrics.longrunning.add(&self.call.seven(), 1.0);
        let lasting = Lasting { call: self.call.clone(), code, began: self.began, metrics };
        response.map(|body| body.then(move || drop(lasting)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Also when its client has gone before there was an answer.
        self.server.metrics.pool(self.call.is_write).fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer that goes on.
struct Lasting {
    call: Call,
    code: u16,
    began: Instant,
    metrics: Arc<Metrics>,
}

impl Drop for Lasting {
    fn drop(&mut self) {
        self.metrics.longrunning.add(&self.call.seven(), -1.0);
        self.call.count(&self.metrics, self.code, self.began);
    }
}
