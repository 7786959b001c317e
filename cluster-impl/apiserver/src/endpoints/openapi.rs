//! OpenAPI v2 and v3: which fields there are, for `kubectl explain` and for validation on the client's side.

use http::header;
use machinery::openapi::Document;
use machinery::{Status, openapi, openapi_v2};

use crate::accept::media_type;
use crate::answer::Answer;
use crate::endpoints::discovery::{tagged, tagged_bytes};
use crate::server::ApiServer;
use crate::status;

const JSON: &str = "application/json";
/// The protobuf form of OpenAPI v2. Clients of Kubernetes ask for it by the other name.
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const V2_PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// `/openapi/v3`: which documents there are.
pub(crate) fn index(server: &ApiServer, if_none_match: &str) -> Result<Answer, Status> {
    Ok(tagged(JSON, &openapi::index(&server.customs.documents()), if_none_match))
}

/// `/openapi/v2`: all of it.
pub(crate) fn second(
    server: &ApiServer,
    accept: &str,
    if_none_match: &str,
) -> Result<Answer, Status> {
    let custom = server.customs.second();
    let document = custom.as_deref().unwrap_or_else(|| openapi_v2::document());
    let is_protobuf = |form: &str| [V2_PROTOBUF, V2_PROTOBUF_OLD].contains(&form);
    let first = accept.split(',').map(media_type).find(|form| is_protobuf(form) || is_json(form));
    if first.is_some_and(is_protobuf) {
        // The same content under another name: the tag must differ, as it names the bytes.
        let hash = format!("{}-PB", document.json.hash);
        return Ok(tagged_bytes(V2_PROTOBUF, document.protobuf().clone(), &hash, if_none_match));
    }
    check(accept)?;
    let Document { body, hash } = &document.json;
    Ok(tagged_bytes(JSON, body.clone(), hash, if_none_match))
}

fn is_json(form: &str) -> bool {
    matches!(form, JSON | "application/*" | "*/*")
}

fn check(accept: &str) -> Result<(), Status> {
    if accept.trim().is_empty() || accept.split(',').map(media_type).any(is_json) {
        return Ok(());
    }
    Err(status::not_acceptable())
}

/// One document. The hash is part of its URL, so that a client may keep it for ever.
pub(crate) fn document(
    server: &ApiServer,
    path: &str,
    accept: &str,
    if_none_match: &str,
) -> Result<Answer, Status> {
    let custom = server.customs.documents();
    let document = openapi::document(path).or_else(|| custom.get(path));
    let document = document.ok_or_else(status::no_such_path)?;
    check(accept)?;
    let mut answer = tagged_bytes(JSON, document.body.clone(), &document.hash, if_none_match);
    answer.headers.push((header::CACHE_CONTROL, "public, immutable".to_owned()));
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::Value;

    use crate::testing::{World, text};

    #[tokio::test(start_paused = true)]
    async fn every_document_in_the_index_is_there() {
        let world = World::new().await;
        let index = world.get("/openapi/v3").await;
        let paths = index["paths"].as_object().unwrap();
        assert!(paths.contains_key("api/v1") && paths.contains_key("apis/apps/v1"));
        for (path, entry) in paths {
            let document = world.get(text(&entry["serverRelativeURL"])).await;
            assert!(text(&document["openapi"]).starts_with("3."), "{path}");
        }
        let pods = "/api/v1/namespaces/{namespace}/pods/{name}";
        let patch = &world.get("/openapi/v3/api/v1").await["paths"][pods]["patch"];
        let names: Vec<_> = patch["parameters"].as_array().unwrap().iter().collect();
        assert!(names.iter().any(|one| one["name"] == "fieldValidation"), "{patch}");
        let gone = world.call(Method::GET, "/openapi/v3/apis/none/v1", &Value::Null).await;
        assert_eq!(gone.0, 404);
    }
}
