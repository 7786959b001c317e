//! serviceaccounts/token: a token for an account, bound to whom it is shown, to a time, and perhaps to a
//! pod, a Secret or a node. Nothing is stored.

use std::sync::Arc;

use env::Timestamp;
use machinery::conditions::seconds;
use machinery::kinds::{NODE, POD, SECRET, SERVICE_ACCOUNT};
use machinery::{Cause, Kind, Object, ObjectKey, Status};
use serde_json::{Value, json};

use crate::admission::node_restriction;
use crate::answer::{Answer, Content};
use crate::authentication::{ServiceAccounts, read};
use crate::request::Request;
use crate::server::ApiServer;
use crate::{decode, status};

const GROUP: &str = "authentication.k8s.io";
const DEFAULT_S: i64 = 3600;
const SHORTEST_S: i64 = 600;
const LONGEST_S: i64 = 1 << 32;
/// What kubelets ask for on behalf of pods that may not know that tokens expire; such a token lives on
/// for a year, and is frowned upon after this time.
const WARN_AFTER_S: i64 = 3607;
const EXTENDED_S: i64 = 365 * 24 * 3600;

/// Makes a token.
pub(crate) async fn create(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let accounts = server.config.service_accounts.as_ref().filter(|own| own.signing.is_some());
    let Some(accounts) = accounts else { return Err(status::no_such_path()) };
    let api_version = format!("{GROUP}/v1");
    let mut body = decode::object_of(&server.config, request, &api_version, "TokenRequest")?;
    let key = &request.key;
    name(&mut body, key)?;
    let wanted_s = check(&body)?;
    let bound = Bound::read(&body)?;
    let mut keys = vec![(&SERVICE_ACCOUNT, key.clone())];
    keys.extend(bound.as_ref().map(|bound| bound.key(&key.namespace)));
    let mut found = read(server, &keys).await?.into_iter();
    let account = found.next().flatten().ok_or_else(|| status::not_found(&SERVICE_ACCOUNT, key))?;
    let object = match &bound {
        None => None,
        Some(bound) => Some(bound.check(&account, found.next().flatten())?),
    };
    let tie = bound.as_ref().zip(object.as_deref());
    let pod = tie.filter(|(bound, _)| bound.kind.id == POD.id).map(|(_, pod)| pod);
    let pod_uid = bound.as_ref().map(|bound| bound.uid.as_str()).unwrap_or_default();
    node_restriction::check_token(&request.user, key, pod, pod_uid)?;
    let node = match pod.map(|pod| pod.text("/spec/nodeName")) {
        None | Some("") => None,
        Some(node) => Some(read(server, &[(&NODE, ObjectKey::new("", node))]).await?.pop())
            .flatten()
            .flatten(),
    };
    let audiences = body.list("/spec/audiences").to_vec();
    let audiences = if audiences.is_empty() {
        accounts.api_audiences.iter().map(|one| one.as_str().into()).collect()
    } else {
        audiences
    };
    let limit = accounts.expiration_max.map(|limit| limit.as_secs() as i64);
    let life_s = limit.map_or(wanted_s, |limit| wanted_s.min(limit));
    let now = server.env.now();
    let is_own = audiences
        .iter()
        .all(|one| accounts.api_audiences.iter().any(|own| one.as_str() == Some(own)));
    let is_extended = accounts.is_extended && pod.is_some() && wanted_s == WARN_AFTER_S && is_own;
    let spoken_of = Claims {
        accounts,
        account: &account,
        tie,
        node: node.as_deref(),
        now,
        life_s: if is_extended { EXTENDED_S } else { life_s },
        warn_after_s: is_extended.then_some(life_s),
    };
    let claims = spoken_of.claims(&audiences, &server.env.uid());
    body.set("/spec/audiences", audiences);
    body.set("/spec/expirationSeconds", life_s);
    let token = accounts.signing.as_ref().map(|key| key.token(&claims)).unwrap_or_default();
    let end = Timestamp::from_second(now.as_second() + life_s).unwrap_or(now);
    body.set("/status", json!({"token": token, "expirationTimestamp": seconds(end)}));
    Ok(Answer::new(201, Content::Value(body.0)))
}

/// The name and namespace of the path, written into the body; refused if it names another account.
fn name(body: &mut Object, key: &ObjectKey) -> Result<(), Status> {
    for (member, of_path) in [("name", &key.name), ("namespace", &key.namespace)] {
        let pointer = format!("/metadata/{member}");
        match body.text(&pointer) {
            "" => body.set(&pointer, of_path.as_str()),
            same if same == of_path => {}
            other => {
                return Err(Status::bad_request(format!(
                    "the {member} of the object ({other}) does not match the {member} on the URL \
                     ({of_path})"
                )));
            }
        }
    }
    Ok(())
}

/// How long the token is to live.
fn check(body: &Object) -> Result<i64, Status> {
    let wrong = |field: &str, message: String| {
        let cause = Cause { reason: "FieldValueInvalid".into(), message, field: field.into() };
        Err(Status::invalid(GROUP, "TokenRequest", body.name(), &[cause]))
    };
    const FIELD: &str = "spec.expirationSeconds";
    let audiences = body.list("/spec/audiences");
    if let Some(other) = audiences.iter().find(|one| !one.is_string()) {
        return wrong("spec.audiences", format!("Invalid value: {other}: must be text"));
    }
    let wanted_s = match body.get("/spec/expirationSeconds") {
        None | Some(Value::Null) => DEFAULT_S,
        Some(value) => match value.as_i64() {
            Some(wanted_s) => wanted_s,
            None => return wrong(FIELD, format!("Invalid value: {value}: must be an integer")),
        },
    };
    match wanted_s {
        short if short < SHORTEST_S => {
            let why = "may not specify a duration less than 10 minutes";
            wrong(FIELD, format!("Invalid value: {short}: {why}"))
        }
        long if long > LONGEST_S => {
            let why = "may not specify a duration larger than 2^32 seconds";
            wrong(FIELD, format!("Invalid value: {long}: {why}"))
        }
        right => Ok(right),
    }
}

/// The object that a token is to end with.
struct Bound {
    kind: &'static Kind,
    word: &'static str,
    name: String,
    uid: String,
}

impl Bound {
    fn read(body: &Object) -> Result<Option<Self>, Status> {
        if body.map("/spec/boundObjectRef").is_none() {
            return Ok(None);
        }
        let part = |member: &str| body.text(&format!("/spec/boundObjectRef/{member}")).to_owned();
        let (kind, word) = match (part("apiVersion").as_str(), part("kind").as_str()) {
            ("v1", "Pod") => (&POD, "pod"),
            ("v1", "Secret") => (&SECRET, "secret"),
            ("v1", "Node") => (&NODE, "node"),
            (version, kind) => {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount to object of type {version}, Kind={kind}"
                )));
            }
        };
        Ok(Some(Self { kind, word, name: part("name"), uid: part("uid") }))
    }

    fn key(&self, namespace: &str) -> (&'static Kind, ObjectKey) {
        let namespace = if self.kind.namespaced { namespace } else { "" };
        (self.kind, ObjectKey::new(namespace, self.name.as_str()))
    }

    fn check(&self, account: &Object, found: Option<Arc<Object>>) -> Result<Arc<Object>, Status> {
        let Self { kind, name, uid, .. } = self;
        let key = ObjectKey::new(account.namespace(), name.as_str());
        let object = found.ok_or_else(|| status::not_found(kind, &key))?;
        let own = object.text("/spec/serviceAccountName");
        if kind.id == POD.id && own != account.name() {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different \
                 serviceaccount name.",
                account.name()
            )));
        }
        if !uid.is_empty() && uid != object.uid() {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. \
                 The object might have been deleted and then recreated"
            );
            return Err(status::conflict(kind, &key, &why));
        }
        Ok(object)
    }
}

/// What a token says.
struct Claims<'a> {
    accounts: &'a ServiceAccounts,
    account: &'a Object,
    tie: Option<(&'a Bound, &'a Object)>,
    /// The node of the pod that the token is bound to.
    node: Option<&'a Object>,
    now: Timestamp,
    life_s: i64,
    warn_after_s: Option<i64>,
}

impl Claims<'_> {
    fn claims(&self, audiences: &[Value], id: &str) -> Value {
        let told = |object: &Object| json!({"name": object.name(), "uid": object.uid()});
        let (namespace, now_s) = (self.account.namespace(), self.now.as_second());
        let mut of_cluster = json!({"namespace": namespace, "serviceaccount": told(self.account)});
        if let Some((bound, object)) = self.tie {
            of_cluster[bound.word] = told(object);
        }
        if let Some(node) = self.node {
            of_cluster["node"] = told(node);
        }
        if let Some(after_s) = self.warn_after_s {
            of_cluster["warnafter"] = (now_s + after_s).into();
        }
        json!({
            "aud": audiences, "exp": now_s + self.life_s, "iat": now_s, "nbf": now_s, "jti": id,
            "iss": self.accounts.issuer(), "kubernetes.io": of_cluster,
            "sub": format!("system:serviceaccount:{namespace}:{}", self.account.name()),
        })
    }
}
