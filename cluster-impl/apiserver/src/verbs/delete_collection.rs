//! deletecollection: everything that a selector selects, one object after the other.
//!
//! Each object is deleted in a transaction of its own; what appears meanwhile stays.

use machinery::{ObjectKey, Status};

use crate::answer::{Answer, Content, List};
use crate::request::{Request, Trace};
use crate::selection::Selection;
use crate::server::ApiServer;
use crate::status;
use crate::verbs::delete::{self, Options};
use crate::verbs::list;

/// Deletes a selection; answers with what was deleted.
pub(crate) async fn delete_collection(
    server: &ApiServer,
    request: &Request,
) -> Result<Answer, Status> {
    // Nobody takes all namespaces away with one word: discovery does not offer it, as upstream.
    if !machinery::discovery::verbs(request.kind).contains(&"deletecollection") {
        return Err(status::method_not_allowed());
    }
    let selection = Selection::read(request.kind, &request.key, &request.query)?;
    let mut options = Options::read(&server.config, request)?;
    let found = list::everything(server, &selection, None).await?;
    let mut items = Vec::new();
    for kv in &found.kvs {
        let object = server.decoded.of(request.kind, kv)?;
        let key = ObjectKey::new(object.namespace(), object.name());
        options.uid = Some(object.uid().to_owned());
        *request.trace.lock().expect("no code panics while it holds the trace") = Trace::default();
        let result = delete::delete_object(server, request, &key, &options).await;
        let code = result.as_ref().map_or_else(|status| status.code, |_| 200);
        let trace = request.trace.lock().expect("no code panics while it holds the trace").clone();
        server.audit(request, Trace { key: Some(key), ..trace }, code);
        match result {
            Ok(written) => items.push(written.stored),
            // Somebody else was faster, or it is another object of that name by now.
            Err(status) if status.code == 404 || status.code == 409 && request.fence.is_none() => {}
            Err(status) => return Err(status),
        }
    }
    Ok(Answer::new(
        200,
        Content::List(List {
            kind: request.kind,
            items,
            revision: found.revision,
            continue_token: String::new(),
            remaining: None,
        }),
    ))
}
