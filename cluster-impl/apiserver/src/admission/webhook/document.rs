//! AdmissionReview, both ways.

use machinery::{Kind, Status};
use serde_json::{Value, json};

use super::super::{Review, attributes};
use super::Hook;

const GROUP: &str = "admission.k8s.io";

/// What is wrong with a webhook's answer.
pub(super) enum Wrong {
    /// There is none.
    Call(String),
    /// It does not answer what was asked.
    Answer(String),
}

/// What a webhook answered.
#[derive(Debug, Default)]
pub(in crate::admission) struct Response {
    pub(super) is_allowed: bool,
    /// A JSON patch.
    pub(in crate::admission) patch: Option<Value>,
    status: Value,
    warnings: Vec<String>,
    annotations: Vec<(String, String)>,
}

/// The review to post: its version, and the whole document.
pub(super) async fn request(
    review: &Review<'_>,
    versions: &Value,
    kind: &'static Kind,
    uid: &str,
) -> Result<(&'static str, Value), String> {
    let listed = versions.as_array().into_iter().flatten().filter_map(Value::as_str);
    let known =
        listed.filter_map(|listed| ["v1", "v1beta1"].into_iter().find(|one| *one == listed));
    let version = known
        .into_iter()
        .next()
        .ok_or("webhook does not accept known AdmissionReview versions (v1, v1beta1)")?;
    let states = attributes::states(review, kind).await;
    let [old, new] = states.map_err(|status| status.message)?;
    let mut request = attributes::request(review, kind);
    request.insert("uid".to_owned(), uid.into());
    request.insert("object".to_owned(), new);
    request.insert("oldObject".to_owned(), old);
    let document = json!({
        "kind": "AdmissionReview", "apiVersion": format!("{GROUP}/{version}"), "request": request,
    });
    Ok((version, document))
}

/// Reads the document that came back.
pub(super) fn read(body: &[u8], version: &str) -> Result<Value, Wrong> {
    let value: Value = serde_json::from_slice(body).map_err(|error| {
        Wrong::Call(format!("couldn't get version/kind; json parse error: {error}"))
    })?;
    if !value.is_object() {
        let why = "couldn't get version/kind; json parse error: the answer is no object";
        return Err(Wrong::Call(why.to_owned()));
    }
    let text = |part: &str| value[part].as_str().unwrap_or_default();
    let expected = format!("{GROUP}/{version}");
    let is_named = text("apiVersion") == expected && text("kind") == "AdmissionReview";
    // The older version need not say what it is.
    let is_silent =
        version == "v1beta1" && text("apiVersion").is_empty() && text("kind").is_empty();
    if !is_named && !is_silent {
        let (group, version) =
            text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
        return Err(Wrong::Answer(format!(
            "expected webhook response of {expected}, Kind=AdmissionReview, got {group}/{version}, \
             Kind={}",
            text("kind")
        )));
    }
    Ok(value)
}

impl Response {
    /// Reads the answer to the review of this uid.
    pub(super) fn read(
        document: &Value,
        version: &str,
        uid: &str,
        is_mutating: bool,
    ) -> Result<Self, String> {
        let response = &document["response"];
        if !response.is_object() {
            return Err("webhook response was absent".to_owned());
        }
        let text = |part: &str| response[part].as_str().unwrap_or_default();
        if version == "v1" && text("uid") != uid {
            return Err(format!("expected response.uid={uid:?}, got {:?}", text("uid")));
        }
        let (patch, form) = (text("patch"), text("patchType"));
        if !is_mutating {
            for (part, value) in [("patch", patch), ("patchType", form)] {
                if !value.is_empty() {
                    return Err(format!("validating webhook may not return response.{part}"));
                }
            }
        }
        match (patch.is_empty(), form) {
            (true, "") | (false, "JSONPatch") => {}
            (false, "") if version == "v1beta1" => {}
            (false, "") => {
                let why = "webhook returned response.patch but not response.patchType";
                return Err(why.to_owned());
            }
            (true, "JSONPatch") => {
                let why = "webhook returned response.patchType but not response.patch";
                return Err(why.to_owned());
            }
            (_, other) => {
                return Err(format!("webhook returned invalid response.patchType of {other:?}"));
            }
        }
        let is_allowed = match &response["allowed"] {
            Value::Null => false,
            value => value.as_bool().ok_or("response.allowed must be a boolean")?,
        };
        let strings = |list: &Value| -> Vec<String> {
            let list = list.as_array().into_iter().flatten();
            list.filter_map(|one| one.as_str().map(str::to_owned)).collect()
        };
        let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
        let annotations = annotations
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect();
        Ok(Self {
            is_allowed,
            patch: (!patch.is_empty()).then(|| decode(patch)).transpose()?,
            warnings: strings(&response["warnings"]),
            annotations,
            status: response["status"].clone(),
        })
    }

    /// Tells the client and the audit what the webhook wants them to know.
    pub(super) fn pass_on(&self, review: &Review<'_>, hook: &Hook) {
        review.request.warn(self.warnings.clone());
        for (key, value) in &self.annotations {
            review.request.annotate(format!("{}/{key}", hook.name), value.clone());
        }
    }

    /// The refusal that the client gets.
    pub(super) fn refusal(&self, webhook: &str) -> Status {
        let text = |part: &str| self.status[part].as_str().unwrap_or_default();
        let denied = format!("admission webhook {webhook:?} denied the request");
        let message = match (text("message"), text("reason")) {
            ("", "") => format!("{denied} without explanation"),
            ("", why) | (why, _) => format!("{denied}: {why}"),
        };
        let code = self.status["code"].as_u64().and_then(|code| u16::try_from(code).ok());
        // Whatever it says, a refusal is no success.
        let code = code.filter(|code| (400..=599).contains(code)).unwrap_or(400);
        let mut status = Status::new(code, text("reason"), message);
        if self.status["details"].is_object() {
            status.details = self.status["details"].clone();
        }
        status
    }
}

fn decode(patch: &str) -> Result<Value, String> {
    use base64::Engine;
    let patch = base64::engine::general_purpose::STANDARD
        .decode(patch)
        .map_err(|error| format!("response.patch is no base64: {error}"))?;
    serde_json::from_slice(&patch).map_err(|error| format!("response.patch is no JSON: {error}"))
}
