//! The server's own endpoints: what it serves, in which schema, how it fares.

mod discovery;
mod health;
mod openapi;
mod review;
mod token_review;
mod version;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, header};
use machinery::Status;
use serde_json::json;

use crate::accept::Accept;
use crate::answer::{Answer, Content};
use crate::authorization::{self, Attributes};
use crate::config::User;
use crate::route::Endpoint;
use crate::server::ApiServer;
use crate::status;

pub(crate) use review::user_info;
/// Whether something of a group and version is served without stored objects.
pub(crate) fn is_extra(group: &str, version: &str) -> bool {
    discovery::EXTRA.iter().any(|one| (one.group, one.version) == (group, version))
}

/// Answers a request to an endpoint.
pub(crate) async fn answer(
    server: &Arc<ApiServer>,
    user: &User,
    endpoint: &Endpoint,
    request: &http::Request<Bytes>,
) -> Result<Answer, Status> {
    if let Endpoint::Review(group, namespace, plural) = endpoint {
        return review::answer(server, user, (group, namespace, plural), request).await;
    }
    if !endpoint.is_open() {
        let verb = request.method().as_str().to_lowercase();
        let path = request.uri().path();
        let asked = Attributes { verb: &verb, path, ..Attributes::default() };
        authorization::authorize(server, user, &asked).await?;
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(status::method_not_allowed());
    }
    let headers = request.headers();
    let text = |name: header::HeaderName| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    };
    let (accept, if_none_match) = (text(header::ACCEPT), text(header::IF_NONE_MATCH));
    match endpoint {
        Endpoint::Index => {
            Accept::read(accept, "")?;
            Ok(Answer::value(json!({"paths": [
                "/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2",
                "/openapi/v3", "/openid/v1/jwks",
                "/readyz", "/version",
            ]})))
        }
        Endpoint::Api | Endpoint::Apis | Endpoint::Group(_) | Endpoint::GroupVersion(..) => {
            server.customs.ready(server).await?;
            discovery::answer(server, endpoint, accept, if_none_match)
        }
        Endpoint::OpenApiV2 => {
            server.customs.ready(server).await?;
            openapi::second(server, accept, if_none_match)
        }
        Endpoint::OpenApiIndex => {
            server.customs.ready(server).await?;
            openapi::index(server, if_none_match)
        }
        Endpoint::OpenApi(path) => {
            server.customs.ready(server).await?;
            openapi::document(server, path, accept, if_none_match)
        }
        Endpoint::Version => Ok(Answer::value(version::version())),
        Endpoint::Health(probe, check) => {
            let is_verbose = request.uri().query().is_some_and(|query| query.contains("verbose"));
            Ok(health::answer(server, probe, check, is_verbose).await)
        }
        Endpoint::Metrics => {
            let text = Bytes::from(server.metrics.text());
            Ok(Answer::new(200, Content::Raw("text/plain; version=0.0.4".to_owned(), text)))
        }
        Endpoint::OpenIdConfiguration | Endpoint::OpenIdKeys => {
            let accounts = server.config.service_accounts.as_ref();
            let accounts = accounts.ok_or_else(status::no_such_path)?;
            let (media_type, value) = match endpoint {
                Endpoint::OpenIdKeys => ("application/jwk-set+json", accounts.key_set()),
                _ => ("application/json", accounts.configuration()),
            };
            let text = Bytes::from(value.to_string());
            let mut answer = Answer::new(200, Content::Raw(media_type.to_owned(), text));
            answer.headers.push((header::CACHE_CONTROL, "public, max-age=3600".to_owned()));
            Ok(answer)
        }
        Endpoint::Review(..) => Err(status::no_such_path()),
    }
}
