//! Discovery: which groups, versions and resources there are, in the old form and the aggregated one.

use bytes::Bytes;
use http::header;
use machinery::Status;
use machinery::discovery::{
    Beside, Extra, aggregated, api_group, api_group_list, api_resource_list, api_versions,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::accept::{media_type, parameter};
use crate::answer::{Answer, Content};
use crate::route::Endpoint;
use crate::server::ApiServer;
use crate::status;

/// What is served beside the stored kinds.
pub(crate) const EXTRA: &[Extra] = &[
    Extra {
        group: "",
        version: "v1",
        plural: "bindings",
        kind: "Binding",
        namespaced: true,
        verbs: &["create"],
    },
    Extra {
        group: "authentication.k8s.io",
        version: "v1",
        plural: "selfsubjectreviews",
        kind: "SelfSubjectReview",
        namespaced: false,
        verbs: &["create"],
    },
    Extra {
        group: "authentication.k8s.io",
        version: "v1",
        plural: "tokenreviews",
        kind: "TokenReview",
        namespaced: false,
        verbs: &["create"],
    },
    Extra {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "localsubjectaccessreviews",
        kind: "LocalSubjectAccessReview",
        namespaced: true,
        verbs: &["create"],
    },
    Extra {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "selfsubjectaccessreviews",
        kind: "SelfSubjectAccessReview",
        namespaced: false,
        verbs: &["create"],
    },
    Extra {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "selfsubjectrulesreviews",
        kind: "SelfSubjectRulesReview",
        namespaced: false,
        verbs: &["create"],
    },
    Extra {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "subjectaccessreviews",
        kind: "SubjectAccessReview",
        namespaced: false,
        verbs: &["create"],
    },
    Extra {
        group: "metrics.k8s.io",
        version: "v1beta1",
        plural: "nodes",
        kind: "NodeMetrics",
        namespaced: false,
        verbs: &["get", "list"],
    },
    Extra {
        group: "metrics.k8s.io",
        version: "v1beta1",
        plural: "pods",
        kind: "PodMetrics",
        namespaced: true,
        verbs: &["get", "list"],
    },
];

/// What a group or version answers; `accept` decides between the two forms of the roots.
pub(crate) fn answer(
    server: &ApiServer,
    endpoint: &Endpoint,
    accept: &str,
    if_none_match: &str,
) -> Result<Answer, Status> {
    let is_core = *endpoint == Endpoint::Api;
    let custom = server.customs.all();
    let beside = Beside { extra: EXTRA, custom: &custom };
    match endpoint {
        Endpoint::Api | Endpoint::Apis => match form(accept)? {
            Form::Aggregated(version) => {
                let media_type = format!(
                    "application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
                );
                let mut value = aggregated(is_core, version, beside);
                if !is_core {
                    server.aggregation.join_aggregated(&mut value);
                }
                Ok(tagged(&media_type, &value, if_none_match))
            }
            Form::Plain if is_core => Ok(Answer::value(api_versions(""))),
            Form::Plain => {
                let mut value = api_group_list(beside);
                server.aggregation.join_groups(&mut value);
                Ok(Answer::value(value))
            }
        },
        Endpoint::Group(group) => {
            let found = api_group(group, beside).or_else(|| server.aggregation.group(group));
            found.map(Answer::value).ok_or_else(status::no_such_path)
        }
        Endpoint::GroupVersion(group, version) => api_resource_list(group, version, beside)
            .map(Answer::value)
            .ok_or_else(status::no_such_path),
        _ => Err(status::no_such_path()),
    }
}

enum Form {
    Aggregated(&'static str),
    Plain,
}

/// The first form in the client's list that is served.
fn form(accept: &str) -> Result<Form, Status> {
    if accept.trim().is_empty() {
        return Ok(Form::Plain);
    }
    accept
        .split(',')
        .map(str::trim)
        .find_map(|clause| match (media_type(clause), parameter(clause, "as")) {
            ("application/json" | "application/*" | "*/*", None) => Some(Form::Plain),
            ("application/json", Some("APIGroupDiscoveryList"))
                if parameter(clause, "g") == Some("apidiscovery.k8s.io") =>
            {
                match parameter(clause, "v") {
                    Some("v2") => Some(Form::Aggregated("v2")),
                    Some("v2beta1") => Some(Form::Aggregated("v2beta1")),
                    _ => None,
                }
            }
            _ => None,
        })
        .ok_or_else(status::not_acceptable)
}

/// A value with a tag by which the client need not fetch it again.
pub(crate) fn tagged(media_type: &str, value: &Value, if_none_match: &str) -> Answer {
    let body = Bytes::from(value.to_string());
    let hash: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02X}")).collect();
    tagged_bytes(media_type, body, &hash, if_none_match)
}

/// Bytes with a tag by which the client need not fetch them again.
pub(crate) fn tagged_bytes(
    media_type: &str,
    body: Bytes,
    hash: &str,
    if_none_match: &str,
) -> Answer {
    let tag = format!("\"{hash}\"");
    let is_known = if_none_match.split(',').any(|known| known.trim() == tag);
    let (code, body) = if is_known { (304, Bytes::new()) } else { (200, body) };
    let mut answer = Answer::new(code, Content::Raw(media_type.to_owned(), body));
    answer.headers.push((header::ETAG, tag));
    answer.headers.push((header::VARY, "Accept".to_owned()));
    answer
}

#[cfg(test)]
mod tests {
    use http::Method;
    use http_body_util::BodyExt;

    use super::*;
    use crate::testing::{World, text};

    const KUBECTL: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
        application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

    async fn ask(
        world: &World,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (u16, String, String, Value) {
        let response = world.send(Method::GET, path, headers, Bytes::new()).await;
        let header = |name: header::HeaderName| {
            let value = response.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let (media, tag) = (header(header::CONTENT_TYPE), header(header::ETAG));
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, media, tag, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    #[tokio::test(start_paused = true)]
    async fn the_aggregated_form_has_its_exact_type_and_a_tag() {
        let world = World::new().await;
        for path in ["/api", "/apis"] {
            let (code, media, tag, value) = ask(&world, path, &[("accept", KUBECTL)]).await;
            assert_eq!(code, 200);
            assert_eq!(
                media,
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
            );
            assert_eq!(value["kind"], "APIGroupDiscoveryList");
            let again = [("accept", KUBECTL), ("if-none-match", tag.as_str())];
            let (code, _, same, value) = ask(&world, path, &again).await;
            assert_eq!((code, same, value), (304, tag, Value::Null));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_old_form_is_served_too() {
        let world = World::new().await;
        for (path, kind) in [
            ("/api", "APIVersions"),
            ("/apis", "APIGroupList"),
            ("/apis/apps", "APIGroup"),
            ("/api/v1", "APIResourceList"),
            ("/apis/apps/v1", "APIResourceList"),
            ("/apis/authorization.k8s.io/v1", "APIResourceList"),
        ] {
            let (code, media, _, value) = ask(&world, path, &[]).await;
            assert_eq!(
                (code, media.as_str(), text(&value["kind"])),
                (200, "application/json", kind)
            );
        }
        for (path, accept, expected) in [
            ("/apis/none", "", 404),
            ("/apis/apps/v9", "", 404),
            ("/apis", "text/html", 406),
            ("/openapi/v2", "text/html", 406),
            ("/nowhere", "", 404),
        ] {
            let (code, _, _, value) = ask(&world, path, &[("accept", accept)]).await;
            assert_eq!((code, text(&value["kind"])), (expected, "Status"), "{path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn drain_finds_eviction_and_every_subresource_is_served() {
        let world = World::new().await;
        let core = ask(&world, "/api/v1", &[]).await.3;
        let resources = core["resources"].as_array().unwrap();
        let eviction = resources.iter().find(|one| one["name"] == "pods/eviction").unwrap();
        assert_eq!((text(&eviction["group"]), text(&eviction["version"])), ("policy", "v1"));
        // What discovery promises is not answered with "no such path".
        for resource in resources.iter().filter(|one| text(&one["name"]).contains('/')) {
            let (plural, subresource) = text(&resource["name"]).split_once('/').unwrap();
            let namespace = if resource["namespaced"] == true { "/namespaces/default" } else { "" };
            let path = format!("/api/v1{namespace}/{plural}/none/{subresource}");
            let (_, answer) = world.call(Method::DELETE, &path, &Value::Null).await;
            match subresource {
                // A proxy takes any method, and misses the object.
                "proxy" => assert_eq!(answer["details"]["name"], "none", "{path}"),
                _ => assert_eq!(text(&answer["reason"]), "MethodNotAllowed", "{path}"),
            }
        }
    }
}
