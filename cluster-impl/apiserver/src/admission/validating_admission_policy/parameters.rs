//! The objects that parametrise a policy.

use std::sync::Arc;

use machinery::{LabelSelector, Object, ObjectKey, Status};

use super::super::{Review, attributes};
use crate::picture::Picture;

/// The parameters for a write, one evaluation each; `None` stands for a policy without parameters.
/// The inner error is one of the policy or its binding.
pub(super) async fn find(
    review: &Review<'_>,
    policy: &Object,
    binding: &Object,
) -> Result<Result<Vec<Option<Arc<Object>>>, String>, Status> {
    let (of, reference) = (&policy.0["spec"]["paramKind"], &binding.0["spec"]["paramRef"]);
    if of.is_null() || reference.is_null() {
        return Ok(Ok(vec![None]));
    }
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let (version, name) = (text(&of["apiVersion"]), text(&of["kind"]));
    let Some(kind) = attributes::kind_named(review.server, &version, &name).await? else {
        let why =
            format!("failed to find resource referenced by paramKind: '{version}, Kind={name}'");
        return Ok(Err(why));
    };
    let mut namespace = text(&reference["namespace"]);
    if !kind.namespaced && !namespace.is_empty() {
        let why = "paramRef.namespace must not be provided for a cluster-scoped `paramKind`";
        return Ok(Err(why.to_owned()));
    }
    if kind.namespaced && namespace.is_empty() {
        namespace = review.key.namespace.clone();
        if namespace.is_empty() {
            let why = "cannot use namespaced paramRef in policy binding that matches \
                       cluster-scoped resources";
            return Ok(Err(why.to_owned()));
        }
    }
    let mut found: Vec<Option<Arc<Object>>> = Vec::new();
    match reference["name"].as_str().filter(|name| !name.is_empty()) {
        Some(name) => {
            let key = ObjectKey::new(namespace, name);
            found.extend(Picture::get(review.server, kind, &key).await?.map(Some));
        }
        None => {
            let selector = match LabelSelector::from_value(reference.get("selector")) {
                Ok(selector) => selector,
                Err(why) => return Ok(Err(why.to_string())),
            };
            let all = Picture::all(review.server, kind, &namespace).await?;
            found.extend(all.into_iter().filter(|one| selector.matches_object(one)).map(Some));
        }
    }
    // The picture holds custom resources as they are stored.
    for one in found.iter_mut().flatten().filter(|_| kind.custom.is_some()) {
        *one = Arc::new(attributes::in_version(review.server, kind, one).await?);
    }
    if found.is_empty() && reference["parameterNotFoundAction"] == "Deny" {
        let why = "no params found for policy binding with `Deny` parameterNotFoundAction";
        return Ok(Err(why.to_owned()));
    }
    Ok(Ok(found))
}
