//! Reviews: who am I, may I, may they? They are posted and answered at once; nothing is stored.

use bytes::Bytes;
use http::{Method, header};
use machinery::{Cause, Object, Status};
use serde_json::{Value, json};

use crate::accept::{Accept, Form};
use crate::answer::{Answer, Content};
use crate::authorization::{self, Attributes};
use crate::config::{AuthorizationMode, User};
use crate::endpoints::discovery::EXTRA;
use crate::endpoints::token_review;
use crate::server::ApiServer;
use crate::{decode, status};

/// Answers a review at its group, namespace and plural.
pub(super) async fn answer(
    server: &ApiServer,
    user: &User,
    (group, namespace, plural): (&str, &str, &str),
    request: &http::Request<Bytes>,
) -> Result<Answer, Status> {
    let known = EXTRA.iter().find(|one| {
        one.group == group && one.plural == plural && one.namespaced != namespace.is_empty()
    });
    let known = known.ok_or_else(status::no_such_path)?;
    if request.method() != Method::POST {
        return Err(status::method_not_allowed());
    }
    let asked = Attributes { namespace, ..Attributes::resource("create", group, plural) };
    authorization::authorize(server, user, &asked).await?;
    let text = |name: header::HeaderName| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    };
    // A review is no resource: it has no columns.
    if let Form::Table(_) = Accept::read(text(header::ACCEPT), "")?.form {
        return Err(status::not_acceptable());
    }
    let content_type = text(header::CONTENT_TYPE);
    let body = decode::value(&server.config, content_type, request.body())?;
    let api_version = format!("{group}/v1");
    let mut review = decode::name_kind(body, &api_version, known.kind)?;
    let answer = match plural {
        "selfsubjectreviews" => json!({"userInfo": user_info(user)}),
        "tokenreviews" => token_review::answer(server, &mut review).await?,
        "selfsubjectrulesreviews" => rules(server, user, &review).await?,
        "selfsubjectaccessreviews" => {
            check_attributes(known.kind, &review)?;
            access(server, user, &review).await?
        }
        _ => {
            check_attributes(known.kind, &review)?;
            let meant = subject(known.kind, &review, namespace)?;
            access(server, &meant, &review).await?
        }
    };
    review.set("/status", answer);
    if !namespace.is_empty() {
        review.set("/metadata/namespace", namespace);
    }
    if review.get("/metadata").is_none() {
        review.set("/metadata", json!({}));
    }
    Ok(Answer::new(201, Content::Value(review.0)))
}

pub(crate) fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn invalid(kind: &str, field: &str, value: &str, why: &str) -> Status {
    let message = format!("Invalid value: {value}: {why}");
    let cause = Cause { reason: "FieldValueInvalid".into(), message, field: field.into() };
    Status::invalid("authorization.k8s.io", kind, "", &[cause])
}

/// Exactly one of the two kinds of question must be asked.
fn check_attributes(kind: &str, review: &Object) -> Result<(), Status> {
    let has = |field: &str| review.map(&format!("/spec/{field}")).is_some();
    match (has("resourceAttributes"), has("nonResourceAttributes")) {
        (true, true) => {
            let value = review.0["spec"]["nonResourceAttributes"].to_string();
            let why = "cannot be specified in combination with resourceAttributes";
            Err(invalid(kind, "spec.nonResourceAttributes", &value, why))
        }
        (false, false) => {
            let why =
                "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            Err(invalid(kind, "spec.resourceAttributes", "null", why))
        }
        _ => Ok(()),
    }
}

/// Whom a review asks about.
fn subject(kind: &str, review: &Object, namespace: &str) -> Result<User, Status> {
    let groups = review.list("/spec/groups").iter();
    let groups: Vec<String> = groups.filter_map(|one| one.as_str().map(str::to_owned)).collect();
    let name = review.text("/spec/user");
    if name.is_empty() && groups.is_empty() {
        let why = "at least one of user or group must be specified";
        return Err(invalid(kind, "spec.user", "\"\"", why));
    }
    if !namespace.is_empty() {
        let asked = review.text("/spec/resourceAttributes/namespace");
        if asked != namespace {
            let why = "must match metadata.namespace";
            let field = "spec.resourceAttributes.namespace";
            return Err(invalid(kind, field, &format!("{asked:?}"), why));
        }
    }
    // The groups are those that the asker names, and no others.
    let mut user = User::new(User::ANONYMOUS, &[]);
    (user.name, user.groups) = (name.to_owned(), groups);
    Ok(user)
}

async fn access(server: &ApiServer, user: &User, review: &Object) -> Result<Value, Status> {
    let part = |field: &str| review.text(&format!("/spec/resourceAttributes/{field}"));
    let requirements = review.list("/spec/resourceAttributes/fieldSelector/requirements").iter();
    let mut of_node = requirements.filter_map(|one| match one["values"].as_array()?.as_slice() {
        [node] if one["key"] == "spec.nodeName" && one["operator"] == "In" => node.as_str(),
        _ => None,
    });
    let asked = match review.map("/spec/nonResourceAttributes") {
        Some(_) => Attributes {
            verb: review.text("/spec/nonResourceAttributes/verb"),
            path: review.text("/spec/nonResourceAttributes/path"),
            ..Attributes::default()
        },
        None => Attributes {
            subresource: part("subresource"),
            namespace: part("namespace"),
            name: part("name"),
            of_node: of_node.next().unwrap_or_default(),
            ..Attributes::resource(part("verb"), part("group"), part("resource"))
        },
    };
    let verdict = authorization::decide(server, user, &asked).await?;
    let mut status = json!({"allowed": verdict.is_allowed});
    if !verdict.reason.is_empty() {
        status["reason"] = verdict.reason.into();
    }
    Ok(status)
}

async fn rules(server: &ApiServer, user: &User, review: &Object) -> Result<Value, Status> {
    let namespace = review.text("/spec/namespace");
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    let modes = &server.config.authorization_modes;
    if modes.contains(&AuthorizationMode::AlwaysAllow) {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    if modes.contains(&AuthorizationMode::Rbac) {
        let policy = authorization::policy(server).await?;
        for rule in policy.rules(user, namespace) {
            if rule.urls.is_empty() { &mut resources } else { &mut paths }.push(rule.to_value());
        }
    }
    let mut status =
        json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false});
    if modes.contains(&AuthorizationMode::Node) {
        status["evaluationError"] = "node authorizer does not support user rule resolution".into();
    }
    Ok(status)
}
