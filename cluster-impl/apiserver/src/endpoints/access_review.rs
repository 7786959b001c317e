//! SelfSubjectAccessReview: may I? Whoever showed a certificate may do anything so far.

use machinery::Status;
use serde_json::json;

use crate::answer::{Answer, Content};
use crate::status;

/// Answers a review; only that of the asker's own rights is served.
pub(crate) fn answer(review: &str) -> Result<Answer, Status> {
    if review != "selfsubjectaccessreviews" {
        return Err(status::no_such_path());
    }
    Ok(Answer::new(
        201,
        Content::Value(json!({
            "kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
            "metadata": {}, "spec": {},
            "status": {"allowed": true, "reason": "every authenticated user is allowed everything"},
        })),
    ))
}
