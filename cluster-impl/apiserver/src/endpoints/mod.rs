//! The server's own endpoints: what it serves, in which schema, how it fares.

mod discovery;
mod health;
mod openapi;
mod review;
mod token_review;
mod usage;
pub(crate) mod version;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, header};
use machinery::Status;
use machinery::exposition::MEDIA_TYPE;
use serde_json::json;

use crate::accept::Accept;
use crate::answer::{Answer, Content};
use crate::authorization::{self, Attributes};
use crate::config::User;
use crate::query::Query;
use crate::route::Endpoint;
use crate::server::ApiServer;
use crate::{metrics, status};

pub(crate) use discovery::EXTRA;
pub(crate) use review::user_info;
pub(crate) use usage::{GROUP as USAGE_GROUP, Samples};

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
    if let Endpoint::Usage(asked) = endpoint {
        return usage::answer(server, user, asked, request).await;
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
            let query = Query::parse(request.uri().query().unwrap_or_default());
            Ok(health::answer(server, probe, check, &query).await)
        }
        Endpoint::Metrics => {
            let text = Bytes::from(metrics::text(server).await);
            Ok(Answer::new(200, Content::Raw(MEDIA_TYPE.to_owned(), text)))
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
        Endpoint::Review(..) | Endpoint::Usage(_) => Err(status::no_such_path()),
    }
}
