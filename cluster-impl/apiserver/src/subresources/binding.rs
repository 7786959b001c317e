//! pods/binding: a pod gets its node, once.
//!
//! Invariant: `spec.nodeName` goes from nothing to a name and never changes after that.

use std::sync::Arc;

use env::Sabotage;
use futures::FutureExt;
use machinery::{Cause, Condition, Object, ObjectKey, Status, conditions, pod};
use serde_json::{Map, Value};

use crate::admission::{self, Operation};
use crate::answer::Answer;
use crate::commit::{self, Along, Decision};
use crate::request::Request;
use crate::server::ApiServer;
use crate::{decode, status};

/// Binds a pod to the node that the body names.
pub(crate) async fn create(server: &ApiServer, request: &Request) -> Result<Answer, Status> {
    let body = decode::object_of(&server.config, request, "v1", "Binding")?;
    let name = match request.key.name.as_str() {
        // Posted to the collection `bindings`.
        "" => body.name(),
        name if body.name().is_empty() || body.name() == name => name,
        name => {
            return Err(Status::bad_request(format!(
                "name in URL does not match name in Binding object: {name}, {}",
                body.name()
            )));
        }
    };
    let key = ObjectKey::new(request.key.namespace.clone(), name);
    check(&body)?;
    let mut body = body;
    admission::pass(server, request, Operation::Create, &key, &mut body).await?;
    let (key, body) = (&key, &body);
    let mut decide = |old: Option<Arc<Object>>| {
        async move {
            let old = old.ok_or_else(|| status::not_found(request.kind, key))?;
            let new = bind(server, &old, body)?;
            Ok(Decision::Put(Box::new(new), Along::default()))
        }
        .boxed()
    };
    commit::change(server, request, key, &mut decide).await?;
    Ok(Answer::success(201, Value::Null))
}

fn check(body: &Object) -> Result<(), Status> {
    let wrong = |field: &str, reason: &str, message: &str| {
        let cause = Cause { reason: reason.into(), message: message.into(), field: field.into() };
        Err(Status::invalid("", "Binding", body.name(), &[cause]))
    };
    match body.text("/target/kind") {
        "" | "Node" => {}
        other => {
            let message =
                format!("Unsupported value: \"{other}\": supported values: \"Node\", \"<empty>\"");
            return wrong("target.kind", "FieldValueNotSupported", &message);
        }
    }
    if body.text("/target/name").is_empty() {
        return wrong("target.name", "FieldValueRequired", "Required value");
    }
    Ok(())
}

/// The pod with its node; the messages are upstream's.
fn bind(server: &ApiServer, old: &Object, body: &Object) -> Result<Object, Status> {
    let node = body.text("/target/name");
    let refused = |why: &str| Err(Status::conflict("", "pods/binding", old.name(), why));
    if !body.uid().is_empty() && body.uid() != old.uid() {
        return refused(&format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            body.uid(),
            old.uid()
        ));
    }
    let revision = body.resource_version();
    if !revision.is_empty() && revision != old.resource_version() {
        return refused(&format!(
            "Precondition failed: ResourceVersion in precondition: {revision}, ResourceVersion in \
             object meta: {}",
            old.resource_version()
        ));
    }
    if old.is_terminating() {
        return refused(&format!(
            "pod {} is being deleted, cannot be assigned to a host",
            old.name()
        ));
    }
    let bound = pod::node_name(old);
    if !bound.is_empty() && !server.env.sabotaged(Sabotage::DoubleBind) {
        return refused(&format!("pod {} is already assigned to node \"{bound}\"", old.name()));
    }
    if !old.list("/spec/schedulingGates").is_empty() {
        return refused(&format!("pod {} has non-empty .spec.schedulingGates", old.name()));
    }
    let mut new = old.clone();
    new.set("/spec/nodeName", node);
    for map in ["/metadata/labels", "/metadata/annotations"] {
        let Some(more) = body.map(map).filter(|more| !more.is_empty()) else { continue };
        let mut merged: Map<String, Value> = new.map(map).cloned().unwrap_or_default();
        merged.extend(more.clone());
        new.set(map, merged);
    }
    let scheduled = Condition { name: "PodScheduled", status: "True", reason: "", message: "" };
    conditions::set(&mut new, scheduled, server.env.now());
    Ok(new)
}
