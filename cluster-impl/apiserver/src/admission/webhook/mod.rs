//! Webhooks: which of them a write concerns, and asking one of them.
//!
//! Invariant: a webhook that does not answer, or answers nonsense, costs a write its `timeoutSeconds`
//! at most, and then its `failurePolicy` decides.

mod address;
mod document;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use http::header;
use http_body_util::BodyExt;
use machinery::{Kind, Status};
use serde_json::Value;

use super::Review;
use super::attributes::{self, Met};
use crate::picture::Picture;
use crate::status;

pub(super) use document::Response;
use document::Wrong;

/// How much larger than the largest object an answer may be: patches come in base64.
const ANSWER_FACTOR: usize = 2;
/// How much of an error page is told.
const PAGE_BYTES_MAX: usize = 2048;

/// What the mutating webhooks did to a write so far.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Those that were asked and want to be asked again if the object changes after that.
    asked: BTreeSet<String>,
    /// Those whose turn it is once more.
    again: BTreeSet<String>,
    has_changed: bool,
    is_second_turn: bool,
}

impl Progress {
    /// Begins the second turn, if there is cause for one.
    pub(super) fn begin_again(&mut self) -> bool {
        let is_due = self.has_changed && !self.is_second_turn;
        self.is_second_turn = true;
        is_due
    }

    /// Whether it is this webhook's turn.
    pub(super) fn is_due(&self, hook: &Hook) -> bool {
        !self.is_second_turn || self.again.contains(&hook.id)
    }

    /// Notes that a webhook was asked, and whether it changed the object.
    pub(super) fn note(&mut self, hook: &Hook, is_changed: bool) {
        if self.is_second_turn {
            return;
        }
        if is_changed {
            self.has_changed = true;
            self.again.append(&mut self.asked);
        }
        if hook.value["reinvocationPolicy"] == "IfNeeded" {
            self.asked.insert(hook.id.clone());
        }
    }
}

/// One webhook of a configuration.
pub(super) struct Hook {
    /// Configuration and place.
    id: String,
    pub(super) name: String,
    value: Value,
    is_mutating: bool,
}

impl Hook {
    /// Whether a failure of this webhook lets the write pass.
    fn is_ignorable(&self) -> bool {
        self.value["failurePolicy"] == "Ignore"
    }

    /// How long it may take.
    fn seconds(&self) -> u64 {
        self.value["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30)
    }
}

/// The webhooks of all configurations, in order of configuration and place.
pub(super) async fn all(
    review: &Review<'_>,
    kind: &'static Kind,
    is_mutating: bool,
) -> Result<Vec<Hook>, Status> {
    if attributes::is_exempt(review) {
        return Ok(Vec::new());
    }
    let mut hooks = Vec::new();
    for configuration in Picture::all(review.server, kind, "").await? {
        for (index, hook) in configuration.list("/webhooks").iter().enumerate() {
            hooks.push(Hook {
                id: format!("{}/{index}", configuration.name()),
                name: hook["name"].as_str().unwrap_or_default().to_owned(),
                value: hook.clone(),
                is_mutating,
            });
        }
    }
    Ok(hooks)
}

/// The version in which a webhook is asked about a write; `None` if it is not asked.
pub(super) async fn concerned(
    review: &Review<'_>,
    hook: &Hook,
) -> Result<Option<&'static Kind>, Status> {
    let value = &hook.value;
    let policy = value["matchPolicy"].as_str().unwrap_or_default();
    let Some(kind) = attributes::matched(review, &value["rules"], policy) else { return Ok(None) };
    if !attributes::is_selected(review, &value["objectSelector"])?
        || !attributes::is_namespace_selected(review, &value["namespaceSelector"]).await?
    {
        return Ok(None);
    }
    match attributes::conditions(review, kind, &value["matchConditions"]).await? {
        Met::Yes => Ok(Some(kind)),
        Met::No => Ok(None),
        Met::Unknown(why) if hook.is_ignorable() => {
            tracing::debug!(webhook = hook.name, %why, "conditions cannot be worked out");
            Ok(None)
        }
        Met::Unknown(why) => Err(status::forbidden(review.kind, &review.key.name, &why)),
    }
}

/// Asks a webhook; what it says to people is passed on. `None` if it failed and that is ignored.
pub(super) async fn ask(
    review: &Review<'_>,
    hook: &Hook,
    kind: &'static Kind,
) -> Result<Option<Response>, Status> {
    if review.request.is_dry_run()
        && !["None", "NoneOnDryRun"]
            .contains(&hook.value["sideEffects"].as_str().unwrap_or_default())
    {
        let why = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Status::bad_request(why));
    }
    let began = review.server.env.instant();
    let answer = call(review, hook, kind).await;
    measure(review, hook, &answer, began);
    let response = match answer {
        Ok(response) => response,
        Err(why) => {
            let why = format!("failed calling webhook {:?}: {why}", hook.name);
            if !hook.is_ignorable() {
                return Err(Status::internal(why));
            }
            tracing::warn!(webhook = hook.name, %why, "a failure is ignored");
            let of = if hook.is_mutating { "mutation" } else { "validation" };
            let key = format!("failed-open.{of}.webhook.admission.k8s.io/{}", hook.id);
            review.request.annotate(key, hook.name.clone());
            return Ok(None);
        }
    };
    response.pass_on(review, hook);
    if response.is_allowed { Ok(Some(response)) } else { Err(response.refusal(&hook.name)) }
}

/// Counts what came of asking a webhook.
fn measure(
    review: &Review<'_>,
    hook: &Hook,
    answer: &Result<Response, String>,
    began: tokio::time::Instant,
) {
    let metrics = &review.server.metrics;
    let of = if hook.is_mutating { "admit" } else { "validating" };
    let operation = review.operation.name();
    let is_refused = match answer {
        Ok(response) => !response.is_allowed,
        Err(_) => !hook.is_ignorable(),
    };
    let labels = [hook.name.as_str(), operation, if is_refused { "true" } else { "false" }, of];
    metrics.webhook_seconds.observe(&labels, began.elapsed().as_secs_f64());
    match answer {
        Ok(response) if is_refused => {
            let code = response.refusal(&hook.name).code.min(600).to_string();
            let labels = ["no_error", &hook.name, operation, &code, of];
            metrics.webhook_rejections.add(&labels, 1.0);
        }
        Ok(_) => {}
        Err(_) if is_refused => {
            let labels = ["calling_webhook_error", &hook.name, operation, "0", of];
            metrics.webhook_rejections.add(&labels, 1.0);
        }
        Err(_) => metrics.webhook_fail_open.add(&[&hook.name, of], 1.0),
    }
}

/// Asks a webhook within its time; the error says how it failed.
async fn call(review: &Review<'_>, hook: &Hook, kind: &'static Kind) -> Result<Response, String> {
    let limit = Duration::from_secs(hook.seconds());
    let url = address::url(&hook.value["clientConfig"], hook.seconds())
        .map_err(|why| format!("could not get REST client: {why}"))?;
    let uid = review.server.env.uid();
    let versions = &hook.value["admissionReviewVersions"];
    let (version, document) = document::request(review, versions, kind, &uid)
        .await
        .map_err(|why| format!("could not create admission objects: {why}"))?;
    let post = async {
        let config = &hook.value["clientConfig"];
        let body = post(review, config, &url, Bytes::from(document.to_string())).await?;
        document::read(&body, version)
    };
    let answer = match tokio::time::timeout(limit, post).await {
        Ok(answer) => answer,
        Err(_) => Err(Wrong::Call(url.failed("context deadline exceeded"))),
    };
    let answer = answer.and_then(|answer| {
        Response::read(&answer, version, &uid, hook.is_mutating).map_err(Wrong::Answer)
    });
    answer.map_err(|wrong| match wrong {
        Wrong::Call(why) => format!("failed to call webhook: {why}"),
        Wrong::Answer(why) => format!("received invalid webhook response: {why}"),
    })
}

/// Posts a review to whoever is there to answer it.
async fn post(
    review: &Review<'_>,
    config: &Value,
    url: &address::Url,
    body: Bytes,
) -> Result<Vec<u8>, Wrong> {
    let failed = |why: &str| Wrong::Call(url.failed(why));
    let peers = address::peers(review.server, config, url).await.map_err(|why| failed(&why))?;
    let mut last = String::new();
    for peer in peers {
        let request = http::Request::post(url.path_and_query())
            .header(header::HOST, url.authority())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "kube-apiserver-admission")
            .body(body.clone())
            .map_err(|error| failed(&error.to_string()))?;
        match review.server.config.outbound.call(&peer, request).await {
            Ok(response) => {
                let code = response.status().as_u16();
                let most = review.server.config.body_bytes_max.saturating_mul(ANSWER_FACTOR);
                let body = read(response.into_body(), most).await.map_err(|why| failed(&why))?;
                return match code {
                    200..=299 => Ok(body),
                    code => Err(Wrong::Call(rejected(code, &body))),
                };
            }
            // Another of the service's pods may be there.
            Err(error @ crate::OutboundError::Unreachable(..)) => last = error.to_string(),
            Err(error) => return Err(failed(&error.to_string())),
        }
    }
    Err(failed(&last))
}

/// Reads an answer that may be endless.
async fn read(mut body: crate::Body, bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame;
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + data.len() > bytes_max {
            return Err(format!("the answer is larger than {bytes_max} bytes"));
        }
        all.extend_from_slice(&data);
    }
    Ok(all)
}

/// What a client says of an HTTP status that is no success.
fn rejected(code: u16, body: &[u8]) -> String {
    let page = String::from_utf8_lossy(&body[..body.len().min(PAGE_BYTES_MAX)]);
    let page = page.trim();
    match code {
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => format!("forbidden: {page}"),
        404 => "the server could not find the requested resource".to_owned(),
        429 => "the server has received too many requests and has asked us to try again later"
            .to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        500..=599 => {
            let page = if page.is_empty() { "unknown" } else { page };
            format!("an error on the server ({page:?}) has prevented the request from succeeding")
        }
        _ => "the server rejected our request for an unknown reason".to_owned(),
    }
}
