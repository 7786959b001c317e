//! The server's own endpoints: what it serves, in which schema, how it fares.

mod discovery;
mod health;
mod openapi;
mod review;
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
                "/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2",
                "/openapi/v3",
                "/readyz", "/version",
            ]})))
        }
        Endpoint::Api | Endpoint::Apis | Endpoint::Group(_) | Endpoint::GroupVersion(..) => {
            discovery::answer(endpoint, accept, if_none_match)
        }
        Endpoint::OpenApiV2 => openapi::second(accept, if_none_match),
        Endpoint::OpenApiIndex => openapi::index(if_none_match),
        Endpoint::OpenApi(path) => openapi::document(path, accept, if_none_match),
        Endpoint::Version => Ok(Answer::value(version::version())),
        Endpoint::Health(probe, check) => {
            let is_verbose = request.uri().query().is_some_and(|query| query.contains("verbose"));
            Ok(health::answer(server, probe, check, is_verbose).await)
        }
        Endpoint::Metrics => {
            let text = Bytes::from(server.metrics.text());
            Ok(Answer::new(200, Content::Raw("text/plain; version=0.0.4".to_owned(), text)))
        }
        Endpoint::Review(..) => Err(status::no_such_path()),
    }
}
