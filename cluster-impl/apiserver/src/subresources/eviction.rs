//! pods/eviction (policy/v1): a delete that asks nobody for permission yet.
//!
//! Limit: PodDisruptionBudgets do not exist, so an eviction is never refused for one.

use machinery::{ObjectKey, Status};
use serde_json::Value;

use crate::answer::Answer;
use crate::decode;
use crate::request::Request;
use crate::server::ApiServer;
use crate::verbs::delete::{self, Options};

/// Evicts a pod.
pub(crate) async fn create(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let body = decode::object_of(&server.config, request, "policy/v1", "Eviction")?;
    if !body.name().is_empty() && body.name() != request.key.name {
        return Err(Status::bad_request(format!(
            "name in URL does not match name in Eviction object: {}, {}",
            request.key.name,
            body.name()
        )));
    }
    let options = Options::from_value(body.get("/deleteOptions").unwrap_or(&Value::Null))?;
    if options.dry_run {
        request.set_dry_run();
    }
    let key = ObjectKey::new(request.key.namespace.clone(), request.key.name.clone());
    delete::delete_object(server, request, &key, &options).await?;
    Ok(Answer::success(201, Value::Null))
}
