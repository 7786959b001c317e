//! The audit: what was asked, by whom, and how it ended, as a policy wants it written down.
//!
//! Beside upstream's members, an event of a write tells the store's revision (`shakedown.dev/revision`) and
//! the writer's fence. A log that cannot be written loses no request: the failure is counted.
//! Limits: bodies in protobuf or packed with gzip are not written down.

mod policy;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use env::Timestamp;
use http::{HeaderMap, HeaderValue, Response};
use machinery::{ObjectKey, Status};
use serde_json::{Value, json};

use crate::answer::refuse;
use crate::authorization::{self, Attributes};
use crate::body::Body;
use crate::config::User;
use crate::endpoints::user_info;
use crate::query::Query;
use crate::request::Request;
use crate::route::{Resource, Route, route};
use crate::server::{ApiServer, verb};

pub use policy::{AuditPolicy, PolicyError};

use policy::{Asked, Extent, Level, Stage};

const ID: &str = "audit-id";

/// Where the other end of a connection is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source(pub(crate) IpAddr);

/// What is written down, and where.
#[derive(Clone)]
pub struct AuditTrail {
    /// What is.
    pub policy: Arc<AuditPolicy>,
    /// Writes one event; answers whether it could.
    pub write: Arc<dyn Fn(&Value) -> bool + Send + Sync>,
}

/// What a request turned out to be, for its event.
#[derive(Debug, Default)]
pub(crate) struct Noted(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    impersonated: Option<User>,
    key: Option<ObjectKey>,
    revision: i64,
    fence: Option<String>,
    annotations: BTreeMap<String, String>,
}

impl Noted {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().expect("no code panics while it holds the note")
    }

    /// Notes as whom a request is made.
    pub(crate) fn impersonated(&self, user: &User) {
        self.lock().impersonated = Some(user.clone());
    }

    /// Notes what was written.
    pub(crate) fn wrote(&self, request: &Request) {
        let trace = request.trace.lock().expect("no code panics while it holds the trace").clone();
        let mut told = self.lock();
        told.key = trace.key;
        told.revision = trace.revision;
        told.annotations = trace.annotations;
        told.fence = request.fence.as_ref().map(crate::fence::Fence::text);
    }
}

/// Answers a request of whoever asks, and writes down what the policy wants.
pub(crate) async fn around(
    server: &Arc<ApiServer>,
    trail: &AuditTrail,
    user: Result<User, Status>,
    request: http::Request<Bytes>,
) -> Response<Body> {
    let asker = user.clone().unwrap_or_else(|_| User::anonymous());
    let mut event = Event::new(server, trail, &asker, &request);
    event.write(server, Stage::RequestReceived);
    let noted = Noted::default();
    let mut response = match user {
        Ok(user) => server.answer_as(user, request, &noted).await,
        Err(status) => refuse(&status),
    };
    event.told(&noted);
    if event.extent.level != Level::None {
        event.decide(server, &asker, &noted).await;
    }
    if let Ok(id) = HeaderValue::from_str(&event.id) {
        response.headers_mut().insert(ID, id);
    }
    event.answered(&response);
    let Some(whole) = response.body().peek() else {
        // A stream: it is complete when nobody reads it any more.
        event.write(server, Stage::ResponseStarted);
        let server = server.clone();
        return response
            .map(|body| body.then(move || event.write(&server, Stage::ResponseComplete)));
    };
    if event.extent.level == Level::RequestResponse && event.is_resource {
        let answer = serde_json::from_slice(whole).ok();
        event.put("responseObject", answer);
    }
    event.write(server, Stage::ResponseComplete);
    response
}

/// One event, as far as it is known.
struct Event {
    trail: AuditTrail,
    extent: Extent,
    id: String,
    is_resource: bool,
    resource: Option<Resource>,
    verb: String,
    path: String,
    value: Value,
}

impl Event {
    fn new(
        server: &ApiServer,
        trail: &AuditTrail,
        user: &User,
        request: &http::Request<Bytes>,
    ) -> Self {
        let headers = request.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let path = request.uri().path().to_owned();
        let method = request.method().as_str().to_lowercase();
        let resource = match route(&path) {
            Route::Resource(resource) => Some(resource),
            _ => None,
        };
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let verb = resource
            .as_ref()
            .and_then(|one| verb(request.method(), &one.key, &one.subresource, &query).ok())
            .map_or(method, |verb| verb.name().to_owned());
        let asked = Asked {
            user,
            verb: &verb,
            path: &path,
            resource: resource.as_ref().map(|one| one.kind.plural).unwrap_or_default(),
            group: resource.as_ref().map(|one| one.kind.group).unwrap_or_default(),
            subresource: resource.as_ref().map(|one| one.subresource.as_str()).unwrap_or_default(),
            namespace: resource.as_ref().map(|one| one.key.namespace.as_str()).unwrap_or_default(),
            name: resource.as_ref().map(|one| one.key.name.as_str()).unwrap_or_default(),
        };
        let extent = trail.policy.extent(&asked);
        server.metrics.audit_levels.add(&[extent.level.name()], 1.0);
        let id = text(ID).filter(|id| id.len() <= 64).map(str::to_owned);
        let id = id.unwrap_or_else(|| server.env.uid());
        let mut value = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": extent.level.name(),
            "auditID": id, "verb": verb, "user": user_info(user),
            "requestURI": request.uri().path_and_query().map(|uri| uri.as_str()),
            "sourceIPs": sources(headers, request.extensions().get::<Source>()),
            "requestReceivedTimestamp": micros(server.env.now()), "annotations": {},
        });
        if let Some(agent) = text("user-agent") {
            value["userAgent"] = agent.into();
        }
        if let Some(resource) = &resource {
            value["objectRef"] = object_ref(resource);
        }
        let is_resource = resource.is_some();
        let trail = trail.clone();
        let mut event = Self { trail, extent, id, is_resource, resource, verb, path, value };
        if event.extent.level >= Level::Request && event.is_resource {
            let body = serde_json::from_slice(request.body()).ok().or_else(|| {
                let content_type = text("content-type").unwrap_or_default();
                crate::decode::value(&server.config, content_type, request.body()).ok()
            });
            event.put("requestObject", body.filter(|body: &Value| !body.is_null()));
        }
        event
    }

    /// Writes a body into the event.
    fn put(&mut self, member: &str, body: Option<Value>) {
        let Some(mut body) = body else { return };
        if self.extent.omits_managed_fields {
            omit_managed_fields(&mut body);
        }
        self.value[member] = body;
    }

    fn told(&mut self, noted: &Noted) {
        let told = noted.lock();
        if let Some(user) = &told.impersonated {
            self.value["impersonatedUser"] = user_info(user);
        }
        if let (Some(key), true) = (&told.key, self.value["objectRef"].is_object()) {
            self.value["objectRef"]["name"] = key.name.as_str().into();
        }
        if told.revision != 0 {
            self.value["annotations"]["shakedown.dev/revision"] = told.revision.to_string().into();
        }
        for (key, value) in &told.annotations {
            self.value["annotations"][key] = value.as_str().into();
        }
        if let Some(fence) = &told.fence {
            self.value["annotations"]["shakedown.dev/fence"] = fence.as_str().into();
        }
    }

    /// Why the request was allowed, or that it was not.
    async fn decide(&mut self, server: &ApiServer, asker: &User, noted: &Noted) {
        let user = noted.lock().impersonated.clone().unwrap_or_else(|| asker.clone());
        if user.is_anonymous() {
            return;
        }
        let asked = match &self.resource {
            Some(Resource { kind, key, subresource }) => Attributes {
                subresource,
                namespace: &key.namespace,
                name: &key.name,
                ..Attributes::resource(&self.verb, kind.group, kind.plural)
            },
            None => Attributes { verb: &self.verb, path: &self.path, ..Attributes::default() },
        };
        if let Ok(verdict) = authorization::decide(server, &user, &asked).await {
            let decision = if verdict.is_allowed { "allow" } else { "forbid" };
            let notes = &mut self.value["annotations"];
            notes["authorization.k8s.io/decision"] = decision.into();
            notes["authorization.k8s.io/reason"] = verdict.reason.into();
        }
    }

    fn answered(&mut self, response: &Response<Body>) {
        let code = response.status().as_u16();
        self.value["responseStatus"] = json!({"metadata": {}, "code": code});
        let body = response.body().peek().filter(|_| code >= 400);
        let status: Option<Value> = body.and_then(|body| serde_json::from_slice(body).ok());
        if let Some(status) = status.filter(|status| status["kind"] == "Status") {
            for member in ["status", "reason", "message"] {
                self.value["responseStatus"][member] = status[member].clone();
            }
        }
    }

    fn write(&mut self, server: &ApiServer, stage: Stage) {
        if !self.extent.has(stage) {
            return;
        }
        self.value["stage"] = stage.name().into();
        self.value["stageTimestamp"] = micros(server.env.now()).into();
        let is_written = (self.trail.write)(&self.value);
        server.metrics.audited(is_written);
    }
}

fn object_ref(resource: &Resource) -> Value {
    let Resource { kind, key, subresource } = resource;
    let mut reference = json!({"resource": kind.plural, "apiVersion": kind.version});
    for (member, text) in [
        ("namespace", key.namespace.as_str()),
        ("name", key.name.as_str()),
        ("apiGroup", kind.group),
        ("subresource", subresource.as_str()),
    ] {
        if !text.is_empty() {
            reference[member] = text.into();
        }
    }
    reference
}

/// Those whom proxies name, and the other end of the connection.
fn sources(headers: &HeaderMap, source: Option<&Source>) -> Vec<String> {
    let forwarded = headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
    let mut all: Vec<String> = forwarded
        .unwrap_or_default()
        .split(',')
        .filter_map(|one| one.trim().parse::<IpAddr>().ok())
        .map(|one| one.to_string())
        .collect();
    if let Some(Source(address)) = source {
        let address = address.to_string();
        if all.last() != Some(&address) {
            all.push(address);
        }
    }
    all
}

/// A time as audit events carry it.
fn micros(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

fn omit_managed_fields(body: &mut Value) {
    if let Some(metadata) = body["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    for item in body["items"].as_array_mut().into_iter().flatten() {
        if let Some(metadata) = item["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::Config;
    use crate::testing::{MAPS, World, config_map, text};

    type Events = Arc<Mutex<Vec<Value>>>;

    async fn world(rules: &str) -> (World, Events) {
        let events = Events::default();
        let sink = events.clone();
        let policy = format!("{{apiVersion: audit.k8s.io/v1, kind: Policy, rules: {rules}}}");
        let trail = AuditTrail {
            policy: Arc::new(AuditPolicy::parse(&policy).unwrap()),
            write: Arc::new(move |event| {
                sink.lock().unwrap().push(event.clone());
                // A full disk.
                event["objectRef"]["name"] != "lost"
            }),
        };
        let config = Config { audit_trail: Some(trail), ..Config::default() };
        let world = World::with(&[], config).await;
        events.lock().unwrap().clear();
        (world, events)
    }

    fn taken(events: &Events) -> Vec<Value> {
        std::mem::take(&mut *events.lock().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn events_tell_what_was_asked_and_how_it_ended() {
        let (world, events) = world(
            "[{level: RequestResponse, resources: [{group: '', resources: [configmaps]}], omitManagedFields: true}, \
             {level: Metadata, omitStages: [RequestReceived]}]",
        )
        .await;
        world.create(MAPS, config_map("a", "1")).await;
        let all = taken(&events);
        let stages: Vec<_> = all.iter().map(|event| text(&event["stage"])).collect();
        assert_eq!(stages, ["RequestReceived", "ResponseComplete"]);
        assert_eq!(all[0]["auditID"], all[1]["auditID"]);
        let last = &all[1];
        assert_eq!((&last["verb"], &last["level"]), (&json!("create"), &json!("RequestResponse")));
        assert_eq!(last["requestURI"], MAPS);
        assert_eq!(last["user"]["username"], "kubernetes-admin");
        assert_eq!(
            last["objectRef"],
            json!({"resource": "configmaps", "apiVersion": "v1",
            "namespace": "default", "name": "a"})
        );
        assert_eq!(last["requestObject"]["data"]["key"], "1");
        assert_eq!(last["responseObject"]["data"]["key"], "1");
        assert_eq!(last["responseObject"]["metadata"].get("managedFields"), None);
        assert_eq!(last["responseStatus"]["code"], 201);
        let notes = &last["annotations"];
        assert_eq!(notes["authorization.k8s.io/decision"], "allow");
        assert!(text(&notes["shakedown.dev/revision"]).parse::<i64>().unwrap() > 0);
        world.call(Method::GET, "/api/v1/nodes/none", &Value::Null).await;
        let all = taken(&events);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0]["responseStatus"]["reason"], "NotFound");
        assert_eq!(all[0].get("responseObject"), None);
        let nobody = User::anonymous();
        world.call_as(&nobody, Method::GET, MAPS, &Value::Null).await;
        assert_eq!(taken(&events)[1]["responseStatus"]["code"], 401);
        let headers = [
            ("impersonate-user", "jane"),
            ("user-agent", "kubectl"),
            ("x-forwarded-for", "10.0.0.1"),
        ];
        world.call_with(Method::GET, "/version", &headers, &Value::Null).await;
        let event = &taken(&events)[0];
        assert_eq!(event["impersonatedUser"]["username"], "jane");
        assert_eq!(
            (&event["userAgent"], &event["sourceIPs"]),
            (&json!("kubectl"), &json!(["10.0.0.1"]))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_is_complete_when_it_ends_and_a_full_disk_loses_no_request() {
        let (world, events) = world("[{level: Metadata, omitStages: [RequestReceived]}]").await;
        let watch = world.watch(&format!("{MAPS}?watch=1")).await;
        assert_eq!(taken(&events)[0]["stage"], "ResponseStarted");
        drop(watch);
        assert_eq!(taken(&events)[0]["stage"], "ResponseComplete");
        world.create(MAPS, config_map("lost", "1")).await;
        let text = crate::metrics::text(&world.server).await;
        assert!(text.contains("apiserver_audit_error_total{plugin=\"log\"} 1\n"), "{text}");
    }
}
