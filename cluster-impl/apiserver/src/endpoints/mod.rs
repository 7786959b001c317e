//! The server's own endpoints: what it serves, in which schema, how it fares.

mod access_review;
mod discovery;
mod health;
mod openapi;
mod version;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, header};
use machinery::Status;
use serde_json::json;

use crate::accept::Accept;
use crate::answer::{Answer, Content};
use crate::route::Endpoint;
use crate::server::ApiServer;
use crate::status;

/// Answers a request to an endpoint.
pub(crate) async fn answer(
    server: &Arc<ApiServer>,
    endpoint: &Endpoint,
    request: &http::Request<Bytes>,
) -> Result<Answer, Status> {
    let is_review = matches!(endpoint, Endpoint::AccessReview(_));
    if (request.method() == Method::POST) != is_review
        || !is_review && request.method() != Method::GET && request.method() != Method::HEAD
    {
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
                "/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v3",
                "/readyz", "/version",
            ]})))
        }
        Endpoint::Api | Endpoint::Apis | Endpoint::Group(_) | Endpoint::GroupVersion(..) => {
            discovery::answer(endpoint, accept, if_none_match)
        }
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
        Endpoint::AccessReview(review) => access_review::answer(review),
    }
}
