//! From a path to what it names: an object, a collection, or one of the server's own endpoints.

use machinery::{Kind, ObjectKey};

use crate::query::decode_path;

/// What a path names.
#[derive(Debug, Clone)]
pub(crate) enum Route {
    /// A collection, an object or its subresource.
    Resource(Resource),
    /// An endpoint of the server itself.
    Endpoint(Endpoint),
    /// Nothing.
    Unknown,
}

/// A collection (no name), an object, or a subresource.
#[derive(Debug, Clone)]
pub(crate) struct Resource {
    pub(crate) kind: &'static Kind,
    pub(crate) key: ObjectKey,
    pub(crate) subresource: String,
}

/// An endpoint of the server itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `/`
    Index,
    /// `/api`
    Api,
    /// `/apis`
    Apis,
    /// `/apis/{group}`
    Group(String),
    /// `/api/v1`, `/apis/{group}/{version}`: group and version.
    GroupVersion(String, String),
    /// `/openapi/v2`
    OpenApiV2,
    /// `/openapi/v3`
    OpenApiIndex,
    /// `/openapi/v3/{..}`
    OpenApi(String),
    /// `/version`
    Version,
    /// `/livez`, `/readyz`, `/healthz`, and one named check.
    Health(String, String),
    /// `/metrics`
    Metrics,
    /// `/.well-known/openid-configuration`
    OpenIdConfiguration,
    /// `/openid/v1/jwks`
    OpenIdKeys,
    /// `/apis/metrics.k8s.io/v1beta1/..`: what nodes or pods use.
    Usage(Usage),
    /// `/apis/authorization.k8s.io/v1/selfsubjectaccessreviews` and its kin: group, namespace, plural.
    Review(String, String, String),
}

/// Whose use of resources is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Usage {
    /// `nodes` or `pods`.
    pub(crate) plural: &'static str,
    /// Of pods; empty for all namespaces.
    pub(crate) namespace: String,
    /// Empty for a list.
    pub(crate) name: String,
}

impl Endpoint {
    /// Whether somebody without a certificate may ask.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Endpoint::Health(..) | Endpoint::Version)
    }
}

/// Subresources of a namespace; everything else below it is a collection inside.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

/// Groups whose resources are only posted, and answered at once.
const REVIEWS: [&str; 2] = ["authentication.k8s.io", "authorization.k8s.io"];

/// Finds a kind by group, version and plural.
pub(crate) type Find<'f> = dyn Fn(&str, &str, &str) -> Option<&'static Kind> + 'f;

/// What `path` names, among the kinds that every server has.
pub(crate) fn route(path: &str) -> Route {
    route_among(path, &Kind::served)
}

/// What `path` names.
pub(crate) fn route_among(path: &str, find: &Find<'_>) -> Route {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [] => Route::Endpoint(Endpoint::Index),
        ["api"] => Route::Endpoint(Endpoint::Api),
        ["apis"] => Route::Endpoint(Endpoint::Apis),
        ["apis", group] => Route::Endpoint(Endpoint::Group((*group).to_owned())),
        ["api", version] => group_version("", version),
        ["apis", group, version] => group_version(group, version),
        ["apis", group, "v1", review] if REVIEWS.contains(group) => review_of(group, "", review),
        ["apis", group, "v1", "namespaces", namespace, review] if REVIEWS.contains(group) => {
            review_of(group, namespace, review)
        }
        ["apis", "metrics.k8s.io", "v1beta1", rest @ ..] => usage(rest),
        ["api", version, rest @ ..] => resource(("", version), rest, find),
        ["apis", group, version, rest @ ..] => resource((group, version), rest, find),
        ["openapi", "v2"] => Route::Endpoint(Endpoint::OpenApiV2),
        ["openapi", "v3"] => Route::Endpoint(Endpoint::OpenApiIndex),
        ["openapi", "v3", rest @ ..] => Route::Endpoint(Endpoint::OpenApi(rest.join("/"))),
        ["version"] => Route::Endpoint(Endpoint::Version),
        [".well-known", "openid-configuration"] => Route::Endpoint(Endpoint::OpenIdConfiguration),
        ["openid", "v1", "jwks"] => Route::Endpoint(Endpoint::OpenIdKeys),
        ["metrics"] => Route::Endpoint(Endpoint::Metrics),
        [probe @ ("livez" | "readyz" | "healthz"), check @ ..] => {
            Route::Endpoint(Endpoint::Health((*probe).to_owned(), check.join("/")))
        }
        _ => Route::Unknown,
    }
}

fn review_of(group: &str, namespace: &str, plural: &str) -> Route {
    let [group, namespace, plural] = [group, namespace, plural].map(str::to_owned);
    Route::Endpoint(Endpoint::Review(group, namespace, plural))
}

fn usage(rest: &[&str]) -> Route {
    let (plural, namespace, name) = match rest {
        ["nodes"] => ("nodes", "", ""),
        ["nodes", name] => ("nodes", "", *name),
        ["pods"] => ("pods", "", ""),
        ["namespaces", namespace, "pods"] => ("pods", *namespace, ""),
        ["namespaces", namespace, "pods", name] => ("pods", *namespace, *name),
        _ => return Route::Unknown,
    };
    let [namespace, name] = [namespace, name].map(decode_path);
    Route::Endpoint(Endpoint::Usage(Usage { plural, namespace, name }))
}

fn group_version(group: &str, version: &str) -> Route {
    Route::Endpoint(Endpoint::GroupVersion(group.to_owned(), version.to_owned()))
}

fn resource((group, version): (&str, &str), rest: &[&str], find: &Find<'_>) -> Route {
    let (namespace, rest) = match rest {
        ["namespaces", namespace, inside @ ..]
            if inside.first().is_some_and(|part| !NAMESPACE_SUBRESOURCES.contains(part)) =>
        {
            (*namespace, inside)
        }
        _ => ("", rest),
    };
    let (plural, name, subresource) = match rest {
        // A collection that exists only to be posted to: `bindings` stands for `pods/binding`.
        ["bindings"] if !namespace.is_empty() => ("pods", "", "binding"),
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, subresource] => (*plural, *name, *subresource),
        // What follows is the business of what is behind the proxy.
        [plural @ ("nodes" | "pods" | "services"), name, "proxy", ..] => (*plural, *name, "proxy"),
        _ => return Route::Unknown,
    };
    let Some(kind) = find(group, version, plural) else { return Route::Unknown };
    if kind.namespaced == namespace.is_empty() && !(kind.namespaced && name.is_empty()) {
        return Route::Unknown;
    }
    let key = ObjectKey::new(decode_path(namespace), decode_path(name));
    Route::Resource(Resource { kind, key, subresource: subresource.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &str) -> String {
        match route(path) {
            Route::Resource(found) => {
                format!("{} {} {}", found.kind.id, found.key, found.subresource)
            }
            Route::Endpoint(endpoint) => format!("{endpoint:?}"),
            Route::Unknown => "unknown".to_owned(),
        }
    }

    #[test]
    fn paths_name_things() {
        for (path, expected) in [
            ("/api/v1/pods", "pods  "),
            ("/api/v1/namespaces/a/pods", "pods a/ "),
            ("/api/v1/namespaces/a/pods/web", "pods a/web "),
            ("/api/v1/namespaces/a/pods/web/binding", "pods a/web binding"),
            ("/api/v1/namespaces/a/bindings", "pods a/ binding"),
            ("/api/v1/namespaces", "namespaces  "),
            ("/api/v1/namespaces/a", "namespaces a "),
            ("/api/v1/namespaces/a/finalize", "namespaces a finalize"),
            ("/api/v1/nodes/n%2D1/status", "nodes n-1 status"),
            ("/apis/apps/v1/namespaces/a/deployments/web/scale", "deployments.apps a/web scale"),
            ("/api/v1/nodes/a/proxy/stats/summary", "nodes a proxy"),
            ("/api/v1/namespaces/a/pods/https:web:80/proxy/", "pods a/https:web:80 proxy"),
            ("/api/v1/namespaces/a/services/web%3A80/proxy/x", "services a/web:80 proxy"),
            ("/api/v1/namespaces/a/configmaps/b/proxy/x", "unknown"),
            ("/apis/apps/v1beta1/deployments", "unknown"),
            ("/api/v1/pods/web", "unknown"),
            ("/api/v1/namespaces/a/nodes", "unknown"),
            ("/api/v1", r#"GroupVersion("", "v1")"#),
            ("/apis/apps", r#"Group("apps")"#),
            ("/readyz/etcd", r#"Health("readyz", "etcd")"#),
            ("/openapi/v3/apis/apps/v1", r#"OpenApi("apis/apps/v1")"#),
            ("/openapi/v2", "OpenApiV2"),
            (
                "/apis/metrics.k8s.io/v1beta1/namespaces/a/pods/web",
                r#"Usage(Usage { plural: "pods", namespace: "a", name: "web" })"#,
            ),
            ("/apis/metrics.k8s.io/v1beta1/pods/web", "unknown"),
            ("/apis/metrics.k8s.io/v1beta1", r#"GroupVersion("metrics.k8s.io", "v1beta1")"#),
        ] {
            assert_eq!(told(path), expected, "{path}");
        }
    }
}
