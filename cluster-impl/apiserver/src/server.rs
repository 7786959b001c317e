//! The server: from a request to an answer, with metrics and audit around every one.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use env::Env;
use http::{Method, Response, header};
use machinery::{ObjectKey, Status, table};
use storage::Store;

use crate::accept::Accept;
use crate::answer::{Answer, Style, refuse, render};
use crate::body::Body;
use crate::cache::{Decoded, Namespaces};
use crate::config::{AuditLine, Config, User};
use crate::fence::{self, Fence};
use crate::metrics::Metrics;
use crate::query::Query;
use crate::request::{Request, Trace, Verb};
use crate::route::{Resource, Route, route};
use crate::{endpoints, status, verbs};

/// One API server over one store.
pub struct ApiServer {
    pub(crate) env: Env,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) config: Config,
    pub(crate) decoded: Decoded,
    pub(crate) namespaces: Namespaces,
    pub(crate) metrics: Metrics,
    pub(crate) closing: tokio::sync::watch::Sender<bool>,
    pub(crate) is_bootstrapped: AtomicBool,
}

impl ApiServer {
    /// A server; [`ApiServer::run`] does its background work.
    pub fn new(env: Env, store: Arc<dyn Store>, config: Config) -> Arc<Self> {
        Arc::new(Self {
            env,
            store,
            config,
            decoded: Decoded::default(),
            namespaces: Namespaces::default(),
            metrics: Metrics::default(),
            closing: tokio::sync::watch::Sender::new(false),
            is_bootstrapped: AtomicBool::new(false),
        })
    }

    /// Answers one request. A watch's answer goes on for as long as its body is polled.
    pub fn handle(
        self: &Arc<Self>,
        user: User,
        request: http::Request<Bytes>,
    ) -> impl Future<Output = Response<Body>> + Send + use<> {
        let server = self.clone();
        async move { server.answer(user, request).await }
    }

    /// Background work, for ever: makes what every cluster has, then forgets old revisions.
    pub async fn run(self: Arc<Self>) {
        crate::bootstrap::run(&self).await;
        self.is_bootstrapped.store(true, Ordering::Relaxed);
        crate::compaction::run(&self).await;
    }

    /// Ends all watches and, behind sockets, takes no further connections.
    pub fn shut_down(&self) {
        self.closing.send_replace(true);
    }

    async fn answer(self: &Arc<Self>, user: User, request: http::Request<Bytes>) -> Response<Body> {
        let headers = request.headers();
        let text = |name: header::HeaderName| {
            headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
        };
        let path = request.uri().path();
        let found = route(path);
        let is_open = matches!(&found, Route::Endpoint(endpoint) if endpoint.is_open());
        if user.is_anonymous() && !is_open {
            return refuse(&status::unauthorized());
        }
        match found {
            Route::Unknown => refuse(&status::no_such_path()),
            // Each endpoint of the server itself decides by its own media types.
            Route::Endpoint(endpoint) => {
                let is_gzip = text(header::ACCEPT_ENCODING).contains("gzip");
                let accept = Accept { is_gzip, ..Accept::JSON };
                let include = table::Include::default();
                let style = Style { accept, include, now: self.env.now() };
                render(endpoints::answer(self, &endpoint, &request).await, style)
            }
            Route::Resource(resource) => {
                let accept = Accept::read(text(header::ACCEPT), text(header::ACCEPT_ENCODING));
                match accept.and_then(|accept| read(user, accept, resource, request)) {
                    Ok(request) => self.answer_resource(request).await,
                    Err(status) => refuse(&status),
                }
            }
        }
    }

    async fn answer_resource(self: &Arc<Self>, request: Request) -> Response<Body> {
        let include = include(&request.query);
        let limit = self.config.request_timeout;
        let answer = match include {
            Err(status) => Err(status),
            // A watch may wait for its first event for as long as it likes, but not for its start.
            Ok(_) => tokio::time::timeout(limit, verbs::dispatch(self, &request))
                .await
                .unwrap_or_else(|_| Err(status::timed_out())),
        };
        self.note(&request, &answer);
        let include = include.unwrap_or_default();
        render(answer, Style { accept: request.accept, include, now: self.env.now() })
    }

    fn note(&self, request: &Request, answer: &Result<Answer, Status>) {
        let code = match answer {
            Ok(answer) => answer.code,
            Err(status) => status.code,
        };
        self.metrics.count(request, code);
        if !request.verb.is_write() || request.verb == Verb::DeleteCollection && answer.is_ok() {
            return;
        }
        let trace = request.trace.lock().expect("no code panics while it holds the trace").clone();
        self.audit(request, trace, code);
    }

    /// Tells the audit of one write.
    pub(crate) fn audit(&self, request: &Request, trace: Trace, code: u16) {
        let Some(audit) = &self.config.audit else { return };
        audit(AuditLine {
            at: self.env.now(),
            user: request.user.name.clone(),
            verb: request.verb.name(),
            kind: request.kind.id.to_owned(),
            key: trace.key.unwrap_or_else(|| request.key.clone()),
            subresource: request.subresource.clone(),
            code,
            revision: trace.revision,
            fence: request.fence.as_ref().map(Fence::text),
        });
    }
}

fn include(query: &Query) -> Result<table::Include, Status> {
    match query.text("includeObject") {
        "" => Ok(table::Include::default()),
        text => text.parse().map_err(|_| {
            Status::bad_request(format!("includeObject must be None, Metadata or Object, not {text}"))
        }),
    }
}

fn read(
    user: User,
    accept: Accept,
    resource: Resource,
    request: http::Request<Bytes>,
) -> Result<Request, Status> {
    let Resource { kind, key, subresource } = resource;
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let verb = verb(request.method(), &key, &subresource, &query)?;
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let fence = text(fence::HEADER).map(Fence::parse).transpose()?;
    let dry_run = match query.all("dryRun").collect::<Vec<_>>().as_slice() {
        [] => false,
        ["All"] => true,
        other => {
            return Err(Status::bad_request(format!(
                "dryRun: Unsupported value: {other:?}: supported values: \"All\""
            )));
        }
    };
    let dry_run = AtomicBool::new(dry_run);
    let content_type = text("content-type").unwrap_or_default().to_owned();
    let trace = std::sync::Mutex::default();
    let body = request.into_body();
    Ok(Request {
        user, verb, kind, key, subresource, query, accept, content_type, body, fence, dry_run, trace,
    })
}

fn verb(
    method: &Method,
    key: &ObjectKey,
    subresource: &str,
    query: &Query,
) -> Result<Verb, Status> {
    let is_collection = key.name.is_empty();
    Ok(match *method {
        Method::GET if query.flag("watch")? => Verb::Watch,
        Method::GET if is_collection => Verb::List,
        Method::GET => Verb::Get,
        Method::POST if is_collection || !subresource.is_empty() => Verb::Create,
        Method::PUT if !is_collection => Verb::Update,
        Method::PATCH if !is_collection => Verb::Patch,
        Method::DELETE if is_collection => Verb::DeleteCollection,
        Method::DELETE => Verb::Delete,
        _ => return Err(status::method_not_allowed()),
    })
}
