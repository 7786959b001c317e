//! Impersonation: somebody asks as somebody else, if they have the verb `impersonate` on them.

use std::collections::BTreeMap;

use http::HeaderMap;
use machinery::Status;

use super::rules::Attributes;
use super::{authorize, service_account};
use crate::config::User;
use crate::query::decode_path;
use crate::server::ApiServer;

/// Names as whom a request is made.
pub(crate) const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Whom a request is made as: the user that was vouched for, or the one that its headers name.
pub(crate) async fn acting(
    server: &ApiServer,
    user: User,
    headers: &HeaderMap,
) -> Result<User, Status> {
    if !headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Ok(user);
    }
    let all = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter();
        values.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect()
    };
    let name = all(USER).into_iter().next().unwrap_or_default();
    let (mut groups, uid) = (all(GROUP), all(UID).into_iter().next().unwrap_or_default());
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in headers.keys() {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            extra.insert(decode_path(key), all(header.as_str()));
        }
    }
    if name.is_empty() {
        let what: Vec<_> = groups.iter().map(|group| format!("Group {group}")).collect();
        let why = format!("requested {what:?} without impersonating a user");
        return Err(Status::internal(why));
    }
    let account = service_account(&name);
    let (resource, namespace, of) = match &account {
        Some(key) => ("serviceaccounts", key.namespace.as_str(), key.name.as_str()),
        None => ("users", "", name.as_str()),
    };
    check(server, &user, ("", resource, ""), namespace, of).await?;
    for group in &groups {
        check(server, &user, ("", "groups", ""), "", group).await?;
    }
    for (key, values) in &extra {
        for value in values {
            check(server, &user, (AUTHENTICATION, "userextras", key), "", value).await?;
        }
    }
    if !uid.is_empty() {
        check(server, &user, (AUTHENTICATION, "uids", ""), "", &uid).await?;
    }
    if let Some(key) = &account
        && groups.is_empty()
    {
        groups.push("system:serviceaccounts".to_owned());
        groups.push(format!("system:serviceaccounts:{}", key.namespace));
    }
    let others = match name.as_str() {
        User::ANONYMOUS => "system:unauthenticated",
        _ => "system:authenticated",
    };
    if !groups.iter().any(|group| group == others) {
        groups.push(others.to_owned());
    }
    Ok(User { name, groups, uid, extra })
}

async fn check(
    server: &ApiServer,
    user: &User,
    (group, resource, subresource): (&str, &str, &str),
    namespace: &str,
    name: &str,
) -> Result<(), Status> {
    let asked = Attributes {
        subresource,
        namespace,
        name,
        ..Attributes::resource("impersonate", group, resource)
    };
    authorize(server, user, &asked).await
}
