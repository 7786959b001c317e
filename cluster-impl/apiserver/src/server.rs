//! The server: from a request to an answer, with metrics and audit around every one.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use env::{Env, Sabotage};
use http::{Method, Response, header};
use machinery::kinds::ENDPOINTS;
use machinery::table::IncludeObject;
use machinery::{Cause, ObjectKey, Status, managed_fields};
use storage::Store;

use crate::accept::Accept;
use crate::admission::Turns;
use crate::aggregation::{self, Aggregation};
use crate::answer::{Answer, Style, refuse, render};
use crate::audit::{self, Noted};
use crate::authentication::{self, Shown};
use crate::authorization::{self, Authorizer, impersonation};
use crate::body::Body;
use crate::cache::{Decoded, Namespaces};
use crate::commit::Written;
use crate::config::{AuditLine, AuthorizationMode, Config, User};
use crate::custom::Customs;
use crate::encryption::Encrypted;
use crate::fence::{self, Fence};
use crate::hub::Hubs;
use crate::inflight::Inflight;
use crate::metrics::{Counted, Measured, Metrics};
use crate::picture::Picture;
use crate::query::Query;
use crate::request::{Request, Trace, Verb};
use crate::route::{Endpoint, Resource, Route, route, route_among};
use crate::verbs::event_cache::EventCache;
use crate::{connect, endpoints, protobuf, status, verbs};

/// What upstream says of Endpoints, to readers and writers, from this version on.
const ENDPOINTS_ARE_OLD: &str =
    "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";

/// One API server over one store.
pub struct ApiServer {
    pub(crate) env: Env,
    pub(crate) store: Arc<dyn Store>,
    /// The same store, if what lies in it is encrypted.
    encrypted: Option<Arc<Encrypted>>,
    pub(crate) config: Config,
    pub(crate) decoded: Arc<Decoded>,
    pub(crate) namespaces: Namespaces,
    pub(crate) hubs: Hubs,
    /// What watches were told lately.
    pub(crate) events: EventCache,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) inflight: Inflight,
    pub(crate) closing: tokio::sync::watch::Sender<bool>,
    pub(crate) is_bootstrapped: AtomicBool,
    pub(crate) authorizer: Authorizer,
    pub(crate) picture: Picture,
    pub(crate) turns: Turns,
    pub(crate) customs: Customs,
    pub(crate) aggregation: Aggregation,
    /// What containers had used when they were last looked at.
    pub(crate) usage: endpoints::Samples,
    /// Itself, for work that goes on in the background.
    pub(crate) myself: Weak<ApiServer>,
}

impl ApiServer {
    /// A server; [`ApiServer::run`] does its background work.
    pub fn new(env: Env, store: Arc<dyn Store>, mut config: Config) -> Arc<Self> {
        if env.sabotaged(Sabotage::DefaultTolerationCut) {
            config.unreachable_toleration_s /= 10;
        }
        let metrics = Arc::new(Metrics::default());
        let store: Arc<dyn Store> = Arc::new(Measured::new(env.clone(), store, metrics.clone()));
        let encrypted = config
            .encryption
            .clone()
            .map(|settings| Arc::new(Encrypted::new(env.clone(), store.clone(), settings)));
        let store = encrypted.clone().map_or(store, |encrypted| encrypted as Arc<dyn Store>);
        let inflight =
            Inflight::new(config.max_requests_inflight, config.max_mutating_requests_inflight);
        Arc::new_cyclic(|myself| Self {
            env,
            store,
            encrypted,
            decoded: config.decoded.clone(),
            config,
            namespaces: Namespaces::default(),
            hubs: Hubs::default(),
            events: EventCache::default(),
            metrics,
            inflight,
            closing: tokio::sync::watch::Sender::new(false),
            is_bootstrapped: AtomicBool::new(false),
            authorizer: Authorizer::default(),
            picture: Picture::default(),
            turns: Turns::default(),
            customs: Customs::default(),
            aggregation: Aggregation::default(),
            usage: endpoints::Samples::default(),
            myself: myself.clone(),
        })
    }

    /// Answers one request. A watch's answer goes on for as long as its body is polled.
    pub fn handle(
        self: &Arc<Self>,
        user: User,
        request: http::Request<Bytes>,
    ) -> impl Future<Output = Response<Body>> + Send + use<> {
        self.handle_shown(user.into(), request)
    }

    /// Answers one request of whoever has shown this.
    pub(crate) fn handle_shown(
        self: &Arc<Self>,
        shown: Shown,
        request: http::Request<Bytes>,
    ) -> impl Future<Output = Response<Body>> + Send + use<> {
        let server = self.clone();
        // It is large: whoever runs it in a task of its own would move it about again and again.
        Box::pin(async move { server.answer(shown, request).await })
    }

    /// Whether a value should be written again although it stays the same: with another key.
    pub(crate) async fn is_stale(&self, key: &[u8]) -> Result<bool, Status> {
        match &self.encrypted {
            Some(encrypted) => encrypted.is_stale(key).await,
            None => Ok(false),
        }
    }

    /// Background work, for ever: follows roles and bindings, makes what every cluster has, then forgets
    /// old revisions.
    pub async fn run(self: Arc<Self>) {
        self.customs.start(&self);
        let has_roles = self.config.authorization_modes.contains(&AuthorizationMode::Rbac);
        let _roles = has_roles.then(|| self.env.spawn(authorization::run(self.clone())));
        crate::bootstrap::run(&self).await;
        self.is_bootstrapped.store(true, Ordering::Relaxed);
        self.aggregation.start(&self);
        crate::compaction::run(&self).await;
    }

    /// Ends all watches and, behind sockets, takes no further connections.
    pub fn shut_down(&self) {
        self.closing.send_replace(true);
    }

    async fn answer(
        self: &Arc<Self>,
        shown: Shown,
        request: http::Request<Bytes>,
    ) -> Response<Body> {
        let began = self.env.instant();
        let user = authentication::asker(self, shown, request.headers()).await;
        let user = user.and_then(|user| match user.is_anonymous() {
            true if !self.config.anonymous_auth && !is_open(&request) => {
                Err(status::unauthorized())
            }
            _ => Ok(user),
        });
        self.metrics.authenticated(user.as_ref().map_err(|status| status.code), began);
        if let Some(trail) = &self.config.audit_trail {
            return audit::around(self, trail, user, request).await;
        }
        match user {
            Ok(user) => self.answer_as(user, request, &Noted::default()).await,
            Err(status) => refuse(&status),
        }
    }

    /// Answers one request of a user whom somebody vouches for.
    pub(crate) async fn answer_as(
        self: &Arc<Self>,
        user: User,
        request: http::Request<Bytes>,
        noted: &Noted,
    ) -> Response<Body> {
        let began = self.env.instant();
        let found = self.find(request.uri().path()).await;
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let route = found.as_ref().unwrap_or(&Route::Unknown);
        let counted = Counted::begin(self, (route, &query), &request, began);
        let response = self.answer_found(user, (found, query), request, noted).await;
        match counted {
            Some(counted) => counted.end(response),
            None => response,
        }
    }

    /// Answers one request for what its path was found to name.
    async fn answer_found(
        self: &Arc<Self>,
        user: User,
        (found, query): (Result<Route, Status>, Query),
        request: http::Request<Bytes>,
        noted: &Noted,
    ) -> Response<Body> {
        let headers = request.headers();
        let text = |name: header::HeaderName| {
            headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
        };
        let user = match impersonation::acting(self, user, headers).await {
            Ok(user) => user,
            Err(status) => return refuse(&status),
        };
        if headers.contains_key(impersonation::USER) {
            noted.impersonated(&user);
        }
        let found = match found {
            Ok(found) => found,
            Err(status) => return refuse(&status),
        };
        if let Some(remote) = self.remote(&found, request.uri().path()) {
            let answer = aggregation::answer(self, &user, &remote, request).await;
            return answer.unwrap_or_else(|status| refuse(&status));
        }
        match found {
            Route::Unknown => refuse(&status::no_such_path()),
            // Each endpoint of the server itself decides by its own media types.
            Route::Endpoint(endpoint) => {
                let is_write = request.method() == Method::POST;
                let slot = (!endpoint.is_open())
                    .then(|| self.inflight.enter_as(&user, is_write))
                    .transpose();
                let _slot = match slot {
                    Ok(slot) => slot,
                    Err(status) => return refuse(&status),
                };
                let is_gzip = text(header::ACCEPT_ENCODING).contains("gzip");
                let accept = Accept { is_gzip, ..Accept::JSON };
                let style = self.style(accept, IncludeObject::default());
                render(endpoints::answer(self, &user, &endpoint, &request).await, style)
            }
            Route::Resource(resource) if connect::is_meant(&resource) => {
                connect::answer(self, user, resource, query, request).await
            }
            Route::Resource(resource) => {
                let accept = Accept::read(text(header::ACCEPT), text(header::ACCEPT_ENCODING));
                match accept.and_then(|accept| read(user, accept, resource, query, request)) {
                    Ok(request) => self.answer_resource(request, noted).await,
                    Err(status) => refuse(&status),
                }
            }
        }
    }

    /// What a path names here: what no server has by itself may be a custom resource.
    async fn find(self: &Arc<Self>, path: &str) -> Result<Route, Status> {
        let found = route(path);
        if !matches!(found, Route::Unknown) || !path.starts_with("/apis/") {
            return Ok(found);
        }
        self.customs.ready(self).await?;
        let custom =
            |group: &str, version: &str, plural: &str| self.customs.served(group, version, plural);
        Ok(route_among(path, &custom))
    }

    /// Who else serves a path that this server does not.
    fn remote(&self, found: &Route, path: &str) -> Option<aggregation::Remote> {
        let is_elsewhere = match found {
            Route::Unknown => true,
            Route::Endpoint(Endpoint::GroupVersion(group, version)) => {
                // Whoever registers a metrics server of their own is asked instead of this one.
                let is_replaceable = group == endpoints::USAGE_GROUP;
                !group.is_empty() && (is_replaceable || !self.serves(group, version))
            }
            Route::Endpoint(Endpoint::Usage(_)) => true,
            _ => false,
        };
        let (group, version, _) = aggregation::split(path).filter(|_| is_elsewhere)?;
        self.aggregation.remote(group, version)
    }

    /// Whether the server itself serves a group and version.
    pub(crate) fn serves(&self, group: &str, version: &str) -> bool {
        let is_it = |kind: &machinery::Kind| kind.group == group && kind.version == version;
        machinery::versions::served().any(is_it)
            || endpoints::is_extra(group, version)
            || self.customs.all().into_iter().any(is_it)
    }

    async fn answer_resource(self: &Arc<Self>, request: Request, noted: &Noted) -> Response<Body> {
        let include = include(&request.query);
        let limit = self.config.request_timeout;
        let slot = self.inflight.enter(&request);
        let answer = match (&include, &slot) {
            (Err(status), _) | (_, Err(status)) => Err(status.clone()),
            // A watch may wait for its first event for as long as it likes, but not for its start.
            (Ok(_), Ok(_)) => tokio::time::timeout(limit, self.dispatch(&request))
                .await
                .unwrap_or_else(|_| Err(status::timed_out())),
        };
        self.note(&request, &answer);
        if self.config.audit_trail.is_some() {
            noted.wrote(&request);
        }
        let answer = answer.map(|mut answer| {
            answer.headers.extend(request.warnings());
            answer
        });
        render(answer, self.style(request.accept, include.unwrap_or_default()))
    }

    async fn dispatch(self: &Arc<Self>, request: &Request) -> Result<Answer, Status> {
        authorization::authorize_request(self, request).await?;
        let deprecation = match request.kind.custom {
            Some(custom) => custom.deprecation.as_deref(),
            None if request.kind.id == ENDPOINTS.id => Some(ENDPOINTS_ARE_OLD),
            None => None,
        };
        request.warn(deprecation.into_iter().map(str::to_owned).collect());
        verbs::dispatch(self, request).await
    }

    fn style(&self, accept: Accept, include: IncludeObject) -> Style {
        Style { accept, include, now: self.env.now(), has_headings: true }
    }

    fn note(&self, request: &Request, answer: &Result<Answer, Status>) {
        let code = match answer {
            Ok(answer) => answer.code,
            Err(status) => status.code,
        };
        if !request.verb.is_write() || request.verb == Verb::DeleteCollection && answer.is_ok() {
            return;
        }
        let trace = request.trace.lock().expect("no code panics while it holds the trace").clone();
        self.audit(request, trace, code);
    }

    /// Tells the audit of a write by the server itself, if it came to something.
    pub(crate) fn audit_own(&self, request: &Request, written: &Result<Written, Status>) {
        let trace = request.trace.lock().expect("no code panics while it holds the trace").clone();
        if written.is_ok() && trace.revision > 0 {
            self.audit(request, trace, 200);
        }
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
            annotations: trace.annotations,
        });
    }
}

/// Whether somebody of whom nothing is known may ask for this.
fn is_open(request: &http::Request<Bytes>) -> bool {
    matches!(route(request.uri().path()), Route::Endpoint(endpoint) if endpoint.is_open())
}

/// How much of each object the rows of a table are to hold.
pub(crate) fn include(query: &Query) -> Result<IncludeObject, Status> {
    let text = query.text("includeObject");
    IncludeObject::from_query(text).ok_or_else(|| {
        Status::bad_request(format!("includeObject must be None, Metadata or Object, not {text}"))
    })
}

fn read(
    user: User,
    accept: Accept,
    resource: Resource,
    query: Query,
    request: http::Request<Bytes>,
) -> Result<Request, Status> {
    let Resource { kind, key, subresource } = resource;
    check_segment("Namespace", &key.namespace)?;
    check_segment("Name", &key.name)?;
    let accept = if protobuf::is_writable(kind) { accept } else { accept.without_protobuf()? };
    let verb = verb(request.method(), &key, &subresource, &query)?;
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let fence = text(fence::HEADER).map(Fence::parse).transpose()?;
    let manager = manager(verb, &query, text("user-agent").unwrap_or_default())?;
    check_options(verb, &query)?;
    let dry_run = query.all("dryRun").next().is_some();
    let dry_run = AtomicBool::new(dry_run);
    let content_type = text("content-type").unwrap_or_default().to_owned();
    let trace = std::sync::Mutex::default();
    let body = request.into_body();
    Ok(Request {
        user,
        verb,
        kind,
        key,
        subresource,
        query,
        accept,
        content_type,
        body,
        fence,
        manager,
        dry_run,
        trace,
        taken: std::sync::OnceLock::new(),
    })
}

/// The options of a write, as far as they are words from a list.
fn check_options(verb: Verb, query: &Query) -> Result<(), Status> {
    let Some(options) = options(verb) else { return Ok(()) };
    let refused = |field: &str, found: &str, known: &str| {
        let message = format!("Unsupported value: {found:?}: supported values: {known}");
        let reason = "FieldValueNotSupported".into();
        let cause = Cause { reason, message, field: field.into() };
        Err(Status::invalid("meta.k8s.io", options, "", &[cause]))
    };
    if let Some(other) = query.all("dryRun").find(|mode| *mode != "All") {
        return refused("dryRun", other, "\"All\"");
    }
    let known = ["", "Ignore", "Warn", "Strict"];
    match query.text("fieldValidation") {
        mode if known.contains(&mode) || verb == Verb::Delete => Ok(()),
        other => refused("fieldValidation", other, "\"Ignore\", \"Warn\", \"Strict\""),
    }
}

/// What the options of a verb are called; nothing for those that change nothing.
fn options(verb: Verb) -> Option<&'static str> {
    match verb {
        Verb::Create => Some("CreateOptions"),
        Verb::Update => Some("UpdateOptions"),
        Verb::Patch => Some("PatchOptions"),
        Verb::Delete | Verb::DeleteCollection => Some("DeleteOptions"),
        _ => None,
    }
}

/// A name stands in a key of the store, so it must be one segment of a path.
fn check_segment(what: &str, name: &str) -> Result<(), Status> {
    let why = match name {
        "." | ".." => format!("may not be '{name}'"),
        name => {
            match name.chars().find(|letter| matches!(letter, '/' | '%') || letter.is_control()) {
                Some(letter) => format!("may not contain {letter:?}"),
                None => return Ok(()),
            }
        }
    };
    Err(Status::bad_request(format!("{what} parameter invalid: {name:?}: {why}")))
}

/// The name under which a writer owns what it writes.
fn manager(verb: Verb, query: &Query, agent: &str) -> Result<String, Status> {
    let options = match options(verb) {
        None | Some("DeleteOptions") => return Ok(String::new()),
        Some(options) => options,
    };
    let named = query.text("fieldManager");
    if let Some(message) = managed_fields::check_manager(named) {
        let reason =
            if message.starts_with("Too long") { "FieldValueTooLong" } else { "FieldValueInvalid" };
        let cause = Cause { reason: reason.into(), message, field: "fieldManager".into() };
        return Err(Status::invalid("meta.k8s.io", options, "", &[cause]));
    }
    Ok(managed_fields::manager(named, agent))
}

/// What a request asks for.
pub(crate) fn verb(
    method: &Method,
    key: &ObjectKey,
    subresource: &str,
    query: &Query,
) -> Result<Verb, Status> {
    let is_collection = key.name.is_empty();
    Ok(match *method {
        Method::GET if query.flag("watch") => Verb::Watch,
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

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{DEPLOYMENTS, MAPS, PODS, World, config_map, deployment, pod, text};

    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

    #[tokio::test(start_paused = true)]
    async fn who_shows_no_certificate_may_only_ask_for_health() {
        let world = World::new().await;
        for (path, code) in [
            ("/livez/ping", 200),
            ("/readyz", 500),
            ("/version", 200),
            ("/api", 401),
            (MAPS, 401),
            ("/metrics", 401),
            ("/nowhere", 401),
        ] {
            let request = http::Request::get(path).body(Bytes::new()).unwrap();
            let response = world.server.handle(User::anonymous(), request).await;
            assert_eq!(response.status(), code, "{path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_served_is_refused_as_a_status() {
        let world = World::with(&[], Config { body_bytes_max: 1000, ..Config::default() }).await;
        let large = config_map("a", &"x".repeat(2000));
        for (method, path, body, code) in [
            (Method::POST, "/api/v1/namespaces/default/configmaps/a", Value::Null, 405),
            (Method::PUT, MAPS, Value::Null, 405),
            (Method::OPTIONS, MAPS, Value::Null, 405),
            (Method::GET, "/api/v1/namespaces/default/widgets", Value::Null, 404),
            (Method::POST, "/version", Value::Null, 405),
            (Method::POST, MAPS, large, 413),
        ] {
            let (found, answer) = world.call(method, path, &body).await;
            assert_eq!((found, text(&answer["kind"])), (code, "Status"), "{path}");
        }
        for (headers, code) in [
            (vec![("accept", "text/html")], 406),
            (vec![("accept", "application/vnd.kubernetes.protobuf, application/json")], 200),
        ] {
            let (found, _) = world.call_with(Method::GET, MAPS, &headers, &Value::Null).await;
            assert_eq!(found, code, "{headers:?}");
        }
        let headers = [("content-type", "text/plain")];
        let (code, _) = world.call_with(Method::POST, MAPS, &headers, &config_map("a", "1")).await;
        assert_eq!(code, 415);
    }

    #[tokio::test(start_paused = true)]
    async fn every_write_is_audited_and_reads_are_not() {
        let world = World::new().await;
        world.create(MAPS, config_map("a", "1")).await;
        world.get(MAPS).await;
        world.call(Method::POST, MAPS, &config_map("a", "1")).await;
        world.patch(&format!("{MAPS}/a"), json!({"data": {"key": "2"}})).await;
        world.delete(&format!("{MAPS}/a")).await;
        let lines = world.audit();
        let told: Vec<_> = lines
            .iter()
            .map(|line| format!("{} {} {} {}", line.verb, line.kind, line.key, line.code))
            .collect();
        assert_eq!(
            told,
            [
                "create configmaps default/a 201",
                "create configmaps default/a 409",
                "patch configmaps default/a 200",
                "delete configmaps default/a 200",
            ]
        );
        assert!(lines.iter().all(|line| line.user == "kubernetes-admin"));
        let revisions: Vec<_> = lines.iter().map(|line| line.revision).collect();
        assert_eq!(revisions[1], 0, "a refused write has no revision");
        assert!(0 < revisions[0] && revisions[0] < revisions[2] && revisions[2] < revisions[3]);
        let metrics = world.send(Method::GET, "/metrics", &[], Bytes::new()).await;
        let text = metrics.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap();
        let line = "apiserver_request_total{code=\"409\",component=\"apiserver\",dry_run=\"\",group=\"\",\
                    resource=\"configmaps\",scope=\"resource\",subresource=\"\",verb=\"POST\",\
                    version=\"v1\"} 1";
        assert!(text.lines().any(|one| one == line), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn tables_metadata_and_yaml_are_forms_of_one_thing() {
        let world = World::new().await;
        world.create(PODS, pod("web")).await;
        let path = format!("{PODS}?limit=500");
        let (_, table) =
            world.call_with(Method::GET, &path, &[("accept", TABLE)], &Value::Null).await;
        assert_eq!((text(&table["kind"]), text(&table["apiVersion"])), ("Table", "meta.k8s.io/v1"));
        assert_eq!(table["rows"][0]["cells"][0], "web");
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert!(table["metadata"]["resourceVersion"].is_string());
        let whole = format!("{PODS}/web?includeObject=Object");
        let (_, table) =
            world.call_with(Method::GET, &whole, &[("accept", TABLE)], &Value::Null).await;
        assert_eq!(table["rows"][0]["object"]["kind"], "Pod");
        let odd = format!("{PODS}?includeObject=Some");
        assert_eq!(world.call(Method::GET, &odd, &Value::Null).await.0, 400);
        let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        let (_, list) =
            world.call_with(Method::GET, PODS, &[("accept", partial)], &Value::Null).await;
        assert_eq!(list["kind"], "PartialObjectMetadataList");
        assert_eq!(list["items"][0].get("spec"), None);
        let yaml = [("accept", "application/yaml")];
        let response = world.send(Method::GET, &format!("{PODS}/web"), &yaml, Bytes::new()).await;
        assert_eq!(response.headers()["content-type"], "application/yaml");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let value: Value = serde_yaml::from_slice(&body).unwrap();
        assert_eq!(value, world.get(&format!("{PODS}/web")).await);
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_and_duplicate_fields_are_warned_of_or_refused() {
        let world = World::new().await;
        let mut body = deployment("web");
        body["spec"]["replica"] = 3.into();
        let response =
            world.send(Method::POST, DEPLOYMENTS, &[], Bytes::from(body.to_string())).await;
        assert_eq!(response.status(), 201);
        assert_eq!(response.headers()["warning"], "299 - \"unknown field \\\"spec.replica\\\"\"");
        let strict = format!("{DEPLOYMENTS}?fieldValidation=Strict");
        let (code, answer) = world.call(Method::POST, &strict, &body).await;
        assert_eq!(code, 400);
        assert!(text(&answer["message"]).contains("unknown field \"spec.replica\""), "{answer}");
        let twice = Bytes::from_static(br#"{"metadata":{"name":"a"},"data":{"x":"1"},"data":{}}"#);
        let strict = format!("{MAPS}?fieldValidation=Strict");
        let response = world.send(Method::POST, &strict, &[], twice.clone()).await;
        assert_eq!(response.status(), 400);
        let ignore = format!("{MAPS}?fieldValidation=Ignore");
        let response = world.send(Method::POST, &ignore, &[], twice).await;
        assert_eq!(response.status(), 201);
        assert!(!response.headers().contains_key("warning"));
    }

    #[tokio::test(start_paused = true)]
    async fn large_answers_are_compressed_for_who_asks() {
        let world = World::new().await;
        world.create(MAPS, config_map("a", &"x".repeat(200_000))).await;
        for (encoding, path, expected) in
            [("gzip", MAPS, Some("gzip")), ("br", MAPS, None), ("gzip", PODS, None)]
        {
            let headers = [("accept-encoding", encoding)];
            let response = world.send(Method::GET, path, &headers, Bytes::new()).await;
            let found = response.headers().get("content-encoding");
            assert_eq!(found.map(|value| value.to_str().unwrap()), expected, "{encoding} {path}");
            if found.is_some() {
                let body = response.into_body().collect().await.unwrap().to_bytes();
                let mut plain = Vec::new();
                let mut decoder = flate2::read::GzDecoder::new(&body[..]);
                std::io::Read::read_to_end(&mut decoder, &mut plain).unwrap();
                let list: Value = serde_json::from_slice(&plain).unwrap();
                assert_eq!(list["items"][0]["metadata"]["name"], "a");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_started_server_has_its_namespaces_and_is_ready() {
        let world = World::new().await;
        let running = world.env.spawn(world.server.clone().run());
        world.env.sleep(std::time::Duration::from_secs(5)).await;
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            world.get(&format!("/api/v1/namespaces/{name}")).await;
        }
        world.get("/api/v1/namespaces/default/services/kubernetes").await;
        let ready = world.send(Method::GET, "/readyz?verbose", &[], Bytes::new()).await;
        assert_eq!(ready.status(), 200);
        let body = ready.into_body().collect().await.unwrap().to_bytes();
        assert!(body.starts_with(b"[+]ping ok\n[+]log ok\n[+]etcd ok\n"), "{body:?}");
        world.cluster.set_up(0, false);
        for (path, code) in [("/livez/ping", 200), ("/livez/etcd", 500), ("/livez/frob", 404)] {
            let response = world.send(Method::GET, path, &[], Bytes::new()).await;
            assert_eq!(response.status(), code, "{path}");
        }
        drop(running);
    }

    #[tokio::test(start_paused = true)]
    async fn history_is_kept_for_one_period_and_then_forgotten() {
        let world = World::new().await;
        let running = world.env.spawn(world.server.clone().run());
        let old = world.create(MAPS, config_map("a", "1")).await;
        let revision = text(&old["metadata"]["resourceVersion"]).to_owned();
        world.patch(&format!("{MAPS}/a"), json!({"data": {"key": "2"}})).await;
        let exact = format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact");
        world.env.sleep(std::time::Duration::from_secs(310)).await;
        assert_eq!(world.call(Method::GET, &exact, &Value::Null).await.0, 200);
        world.env.sleep(std::time::Duration::from_secs(300)).await;
        assert_eq!(world.call(Method::GET, &exact, &Value::Null).await.0, 410);
        drop(running);
    }
}
