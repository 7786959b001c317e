//! NamespaceLifecycle: nothing is created where it could not live, and the cluster's own namespaces stay.
//!
//! The create that follows compares the namespace's revision, so that no object slips into a
//! namespace that is being emptied.

use machinery::Status;
use machinery::kinds::NAMESPACE;
use serde_json::json;

use super::{Operation, Plugin, Review, Step};
use crate::status;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "NamespaceLifecycle",
    stage: 2,
    admit: Step::Now(admit),
    validate: Step::Nothing,
};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

fn admit(review: &mut Review<'_>) -> Result<(), Status> {
    let name = &review.key.name;
    if review.operation == Operation::Delete
        && review.kind.id == NAMESPACE.id
        && IMMORTAL.contains(&name.as_str())
    {
        return Err(status::forbidden(review.kind, name, "this namespace may not be deleted"));
    }
    if review.operation != Operation::Create || !review.kind.namespaced {
        return Ok(());
    }
    let inside = &review.key.namespace;
    match review.namespace {
        None => Err(Status::not_found("", "namespaces", inside)),
        Some(namespace) if namespace.is_terminating => {
            let why = format!(
                "unable to create new content in namespace {inside} because it is being terminated"
            );
            let mut status = status::forbidden(review.kind, name, &why);
            status.details["causes"] = json!([{
                "reason": "NamespaceTerminating",
                "message": format!("namespace {inside} is being terminated"),
                "field": "metadata.namespace",
            }]);
            Err(status)
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use machinery::kinds::{NODE, POD};
    use machinery::{Kind, ObjectKey};

    use super::super::Namespace;
    use super::super::tests::Trial;
    use super::*;
    use crate::config::User;

    fn code(
        operation: Operation,
        kind: &'static Kind,
        key: (&str, &str),
        found: Option<bool>,
    ) -> u16 {
        let namespace =
            found.map(|is_terminating| Namespace { key: Vec::new(), revision: 1, is_terminating });
        let key = ObjectKey::new(key.0, key.1);
        let trial = Trial::new(&User::new("jane", &[]), kind, key, "");
        let review = trial.review(operation);
        let result = admit(&mut Review { namespace: namespace.as_ref(), ..review });
        result.map_or_else(|status| status.code, |()| 200)
    }

    #[tokio::test(start_paused = true)]
    async fn refuses_what_could_not_live() {
        let create = Operation::Create;
        assert_eq!(code(create, &POD, ("a", "web"), None), 404);
        assert_eq!(code(create, &POD, ("a", "web"), Some(true)), 403);
        assert_eq!(code(create, &POD, ("a", "web"), Some(false)), 200);
        assert_eq!(code(create, &NODE, ("", "n"), None), 200);
        assert_eq!(code(Operation::Update, &POD, ("a", "web"), None), 200);
        assert_eq!(code(Operation::Delete, &NAMESPACE, ("", "kube-system"), None), 403);
        assert_eq!(code(Operation::Delete, &NAMESPACE, ("", "a"), None), 200);
    }
}
