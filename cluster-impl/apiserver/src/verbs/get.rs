//! get: one object, as fresh as the client asks.

use env::Sabotage;
use machinery::Status;
use storage::{KeyRange, RangeRequest};

use crate::answer::{Answer, Content};
use crate::codec::Stored;
use crate::request::Request;
use crate::server::ApiServer;
use crate::verbs::list;
use crate::{custom, status, storage_key};

/// Reads one object.
pub(crate) async fn get(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let oldest = list::revision(&request.query)?;
    let range = KeyRange::key(storage_key::key(request.kind, &request.key));
    let mut asked = RangeRequest::latest(range);
    asked.serializable = oldest.is_some() || server.env.sabotaged(Sabotage::GetFromNearest);
    let mut result = list::not_older_than(server, asked, oldest.unwrap_or_default()).await?;
    custom::incoming(server, request.kind, &mut result.kvs).await?;
    let kv = result.kvs.first().ok_or_else(|| status::not_found(request.kind, &request.key))?;
    Ok(Answer::new(200, Content::Object(request.kind, Stored::from(kv))))
}
