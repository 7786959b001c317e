//! A write as webhooks and policies see it: which rules it falls under, in which version, with which
//! labels, and what expressions are told of it.
//!
//! Limits: a write of a subresource that the server turns into a write of its object (`scale`) is shown
//! as that object. Requests about the objects that configure admission are never shown.

use std::borrow::Cow;

use machinery::kinds::NAMESPACE;
use machinery::{Kind, LabelSelector, Object, ObjectKey, Status, versions};
use serde_json::{Map, Value, json};

use super::{Operation, Review};
use crate::cel::{self, Variables};
use crate::codec::Stored;
use crate::custom;
use crate::picture::Picture;
use crate::request::Verb;
use crate::server::ApiServer;
use crate::verbs::create::read_namespace;

/// Kinds about which nothing else is asked, or a wrong one could never be taken away.
const EXEMPT: [&str; 4] = [
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "validatingadmissionpolicies.admissionregistration.k8s.io",
    "validatingadmissionpolicybindings.admissionregistration.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
];

impl Operation {
    /// As rules and reviews write it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Create => "CREATE",
            Self::Delete => "DELETE",
            Self::Update => "UPDATE",
        }
    }
}

/// Whether webhooks and policies are asked about this write at all.
pub(super) fn is_exempt(review: &Review<'_>) -> bool {
    EXEMPT.contains(&review.kind.id)
}

/// The version of its kind in which a write falls under one of these rules.
pub(super) fn matched(
    review: &Review<'_>,
    rules: &Value,
    match_policy: &str,
) -> Option<&'static Kind> {
    let rules = rules.as_array().map(Vec::as_slice).unwrap_or_default();
    let falls_under = |kind: &Kind| rules.iter().any(|rule| is_matched(review, rule, kind));
    if falls_under(review.kind) {
        return Some(review.kind);
    }
    if match_policy == "Exact" {
        return None;
    }
    let is_other = |other: &&'static Kind| {
        other.id == review.kind.id && !std::ptr::eq(*other, review.kind) && falls_under(other)
    };
    match review.kind.custom {
        None => versions::served().find(is_other),
        Some(_) => review.server.customs.versions(review.kind.id).into_iter().find(is_other),
    }
}

fn is_matched(review: &Review<'_>, rule: &Value, kind: &Kind) -> bool {
    let texts = |part: &str| rule[part].as_array().into_iter().flatten().filter_map(Value::as_str);
    let has = |part: &str, wanted: &str| texts(part).any(|one| one == "*" || one == wanted);
    let is_meant = |resource: &str| {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        [kind.plural, "*"].contains(&resource) && [review.subresource, "*"].contains(&subresource)
    };
    let is_in_scope = match rule["scope"].as_str() {
        Some("Namespaced") => kind.namespaced,
        Some("Cluster") => !kind.namespaced,
        _ => true,
    };
    let mut names = texts("resourceNames").peekable();
    is_in_scope
        && has("operations", review.operation.name())
        && has("apiGroups", kind.group)
        && has("apiVersions", kind.version)
        && texts("resources").any(is_meant)
        && (names.peek().is_none() || names.any(|name| name == review.key.name))
}

/// Whether a selector chooses the object, as it was or as it is to be.
pub(super) fn is_selected(review: &Review<'_>, selector: &Value) -> Result<bool, Status> {
    let selector = read_selector(selector)?;
    let fits = |object: Option<&Object>| object.is_some_and(|one| selector.matches_object(one));
    Ok(selector.is_everything() || fits(review.object.as_deref()) || fits(review.old))
}

/// Whether a selector chooses the namespace; what is in no namespace is always chosen.
pub(super) async fn is_namespace_selected(
    review: &Review<'_>,
    selector: &Value,
) -> Result<bool, Status> {
    let selector = read_selector(selector)?;
    if selector.is_everything() || !review.kind.namespaced && review.kind.id != NAMESPACE.id {
        return Ok(true);
    }
    let namespace = namespace(review).await?;
    Ok(namespace.is_some_and(|namespace| selector.matches_object(&namespace)))
}

fn read_selector(selector: &Value) -> Result<LabelSelector, Status> {
    match selector {
        Value::Null => Ok(LabelSelector::everything()),
        selector => LabelSelector::from_value(Some(selector)).map_err(Status::internal),
    }
}

/// The namespace that a write is about: of a Namespace itself its latest form.
pub(super) async fn namespace<'r>(
    review: &'r Review<'_>,
) -> Result<Option<Cow<'r, Object>>, Status> {
    if review.kind.id == NAMESPACE.id {
        return Ok(review.object.as_deref().or(review.old).map(Cow::Borrowed));
    }
    let name = &review.key.namespace;
    if name.is_empty() {
        return Ok(None);
    }
    let key = ObjectKey::new("", name.as_str());
    if let Some(found) = Picture::get(review.server, &NAMESPACE, &key).await? {
        return Ok(Some(Cow::Owned((*found).clone())));
    }
    // The picture may be behind a namespace that was made just now.
    let found = read_namespace(review.server, name).await?;
    Ok(found.map(|kv| Stored::from(&kv).object()).transpose()?.map(Cow::Owned))
}

/// An object in a version of its kind; one of another kind, such as an Eviction, as it is.
pub(super) async fn in_version(
    server: &ApiServer,
    kind: &'static Kind,
    object: &Object,
) -> Result<Object, Status> {
    if kind.custom.is_some() && kind.kind == object.kind() {
        return custom::in_version(server, kind, object).await;
    }
    let mut object = object.clone();
    if versions::stored(kind).kind == object.kind() {
        versions::from_stored(kind, &mut object);
    }
    Ok(object)
}

/// What was there and what is to be there, in a version of their kind; null for nothing.
pub(super) async fn states(review: &Review<'_>, kind: &'static Kind) -> Result<[Value; 2], Status> {
    let mut states = [Value::Null, Value::Null];
    for (state, object) in states.iter_mut().zip([review.old, review.object.as_deref()]) {
        if let Some(object) = object {
            *state = in_version(review.server, kind, object).await?.0;
        }
    }
    Ok(states)
}

/// What is asked, as the `request` of a review has it, without the objects.
pub(super) fn request(review: &Review<'_>, kind: &'static Kind) -> Map<String, Value> {
    let user = review.user;
    let mut user_info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        user_info["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        user_info["extra"] = json!(user.extra);
    }
    let mut all = Map::new();
    for (kind_name, resource_name, part_name, kind) in [
        ("kind", "resource", "subResource", kind),
        ("requestKind", "requestResource", "requestSubResource", review.kind),
    ] {
        all.insert(kind_name.to_owned(), group_version_kind(review, kind));
        let resource =
            json!({"group": kind.group, "version": kind.version, "resource": kind.plural});
        all.insert(resource_name.to_owned(), resource);
        if !review.subresource.is_empty() {
            all.insert(part_name.to_owned(), review.subresource.into());
        }
    }
    if !review.key.name.is_empty() {
        all.insert("name".to_owned(), review.key.name.as_str().into());
    }
    let namespace = match review.kind.id == NAMESPACE.id {
        true => &review.key.name,
        false => &review.key.namespace,
    };
    if !namespace.is_empty() {
        all.insert("namespace".to_owned(), namespace.as_str().into());
    }
    all.insert("operation".to_owned(), review.operation.name().into());
    all.insert("userInfo".to_owned(), user_info);
    all.insert("dryRun".to_owned(), review.request.is_dry_run().into());
    all.insert("options".to_owned(), options(review));
    all
}

/// The kind of what is written: a subresource may have one of its own.
fn group_version_kind(review: &Review<'_>, kind: &Kind) -> Value {
    let of_its_own = review
        .object
        .as_deref()
        .filter(|object| !review.subresource.is_empty() && object.kind() != review.kind.kind);
    let Some(object) = of_its_own.filter(|object| !object.kind().is_empty()) else {
        return json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    };
    let (group, version) =
        object.api_version().split_once('/').unwrap_or(("", object.api_version()));
    json!({"group": group, "version": version, "kind": object.kind()})
}

fn options(review: &Review<'_>) -> Value {
    let kind = match (review.operation, review.request.verb) {
        (Operation::Connect, _) => return Value::Null,
        (Operation::Create, Verb::Patch) => "PatchOptions",
        (Operation::Create, _) => "CreateOptions",
        (Operation::Delete, _) => "DeleteOptions",
        (Operation::Update, Verb::Patch) => "PatchOptions",
        (Operation::Update, _) => "UpdateOptions",
    };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if review.request.is_dry_run() {
        options["dryRun"] = json!(["All"]);
    }
    for field in ["fieldManager", "fieldValidation", "propagationPolicy"] {
        let value = review.request.query.text(field);
        if !value.is_empty() {
            options[field] = value.into();
        }
    }
    options
}

/// What expressions may speak of in conditions of webhooks.
pub(super) const NAMES: [&str; 4] = ["authorizer", "object", "oldObject", "request"];

/// The variables of expressions about this write.
pub(super) async fn variables(
    review: &Review<'_>,
    kind: &'static Kind,
    is_authorizer_wanted: bool,
) -> Result<Variables, Status> {
    let [old, new] = states(review, kind).await?;
    let mut variables = Variables::new();
    variables.set("object", cel::from_json(&new));
    variables.set("oldObject", cel::from_json(&old));
    let mut request = request(review, kind);
    // Absent members are empty to expressions.
    for part in ["name", "namespace", "subResource", "requestSubResource"] {
        request.entry(part).or_insert_with(|| "".into());
    }
    for (part, empty) in [("uid", json!("")), ("extra", json!({}))] {
        request["userInfo"]
            .as_object_mut()
            .expect("it was made above")
            .entry(part)
            .or_insert(empty);
    }
    variables.set("request", cel::from_json(&Value::Object(request)));
    if is_authorizer_wanted {
        variables.set("authorizer", super::authorizer::value(review).await?);
    }
    Ok(variables)
}

/// What came of conditions.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Met {
    Yes,
    No,
    /// None is false, and one cannot be worked out.
    Unknown(String),
}

/// Whether all conditions of a webhook or policy are met.
pub(super) async fn conditions(
    review: &Review<'_>,
    kind: &'static Kind,
    conditions: &Value,
) -> Result<Met, Status> {
    let list = conditions.as_array().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return Ok(Met::Yes);
    }
    let mut programs = Vec::new();
    let mut wrong = Vec::new();
    for condition in list {
        let expression = condition["expression"].as_str().unwrap_or_default();
        match cel::Program::compile(expression) {
            Ok(program) => programs.push((expression, program)),
            Err(why) => wrong.push(format!("compilation failed: {why}")),
        }
    }
    let is_authorizer_wanted = programs.iter().any(|(_, one)| one.has_name("authorizer"));
    let variables = variables(review, kind, is_authorizer_wanted).await?;
    for (expression, program) in programs {
        variables.allow(cel::COST_MAX);
        match program.decide(&variables) {
            Ok(true) => {}
            Ok(false) => return Ok(Met::No),
            Err(why) => {
                wrong.push(format!("expression '{expression}' resulted in error: {why}"));
            }
        }
    }
    Ok(match wrong.as_slice() {
        [] => Met::Yes,
        [one] => Met::Unknown(one.clone()),
        all => Met::Unknown(format!("[{}]", all.join(", "))),
    })
}

/// The kind of this version and name, if it is served.
pub(super) async fn kind_named(
    server: &ApiServer,
    api_version: &str,
    kind: &str,
) -> Result<Option<&'static Kind>, Status> {
    let is_it = |one: &&'static Kind| one.kind == kind && one.api_version() == api_version;
    if let Some(found) = versions::served().find(is_it) {
        return Ok(Some(found));
    }
    server.customs.ready(server).await?;
    Ok(server.customs.named(api_version, kind))
}
