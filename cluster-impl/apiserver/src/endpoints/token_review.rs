//! TokenReview: whose is this token, and is it meant for one of these audiences?

use machinery::{Object, Status};
use serde_json::{Value, json};

use super::review::user_info;
use crate::authentication::{Refusal, by_token};
use crate::server::ApiServer;

/// The status of a review. The token itself is not told again.
pub(super) async fn answer(server: &ApiServer, review: &mut Object) -> Result<Value, Status> {
    let token = review.text("/spec/token").to_owned();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences = review.list("/spec/audiences").iter();
    let audiences: Vec<String> =
        audiences.filter_map(|one| one.as_str().map(str::to_owned)).collect();
    match by_token(server, &token, &audiences).await {
        Ok(identity) => Ok(json!({
            "authenticated": true, "user": user_info(&identity.user),
            "audiences": identity.audiences,
        })),
        Err(Refusal::Unknown) => Ok(json!({"user": {}, "error": "[invalid bearer token]"})),
        Err(Refusal::Wrong(why)) => {
            Ok(json!({"user": {}, "error": format!("[invalid bearer token, {why}]")}))
        }
        Err(Refusal::Failed(status)) => Err(status),
    }
}
