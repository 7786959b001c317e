//! Namespace.

use serde_json::{Value, json};

use super::{AGE, Kind, NAME, Subresource, age, column, keep_status};
use crate::defaulting::{absent, part};
use crate::validation::{Causes, items, metadata, names, text};
use crate::{Cause, Object};

/// Namespace.
pub static NAMESPACE: Kind = Kind {
    id: "namespaces",
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    short_names: &["ns"],
    categories: &[],
    namespaced: false,
    has_status: true,
    has_scale: false,
    subresources: &[Subresource { name: "finalize", kind: "Namespace", group: "", verbs: &["update"] }],
    has_generation: false,
    selectable: &[("status.phase", "/status/phase")],
    default,
    prepare_create,
    prepare_update,
    validate,
    columns: &[NAME, column("Status", "string", 0), AGE],
    cells,
    custom: None,
};

fn default(object: &mut Object) {
    let name = object.name().to_owned();
    if !name.is_empty() {
        object.set("/metadata/labels/kubernetes.io~1metadata.name", name);
    }
    if let Some(status) = part(&mut object.0, "status") {
        absent(status, "phase", "Active");
    }
}

/// The finalizer holds a namespace until its content is gone.
fn prepare_create(object: &mut Object) {
    object.set("/status", json!({"phase": "Active"}));
    let has = object.list("/spec/finalizers").iter().any(|one| one == "kubernetes");
    if !has {
        let mut finalizers = object.list("/spec/finalizers").to_vec();
        finalizers.push("kubernetes".into());
        object.set("/spec/finalizers", finalizers);
    }
}

/// Finalizers of the spec change only through `/finalize`.
fn prepare_update(object: &mut Object, old: &Object) {
    keep_status(object, old);
    match old.get("/spec/finalizers") {
        Some(finalizers) => object.set("/spec/finalizers", finalizers.clone()),
        None => drop(object.remove("/spec/finalizers")),
    }
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, names::dns_label);
    for (index, finalizer) in items(&object.0["spec"]["finalizers"]) {
        let field = format!("spec.finalizers[{index}]");
        causes.name(&field, text(finalizer), names::qualified_name);
    }
    causes.into_list()
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    vec![object.name().into(), object.text("/status/phase").into(), age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    #[test]
    fn a_new_namespace_is_active_labelled_and_held() {
        let mut object = Object::new("v1", "Namespace", "", "dev");
        object.set("/status/phase", "Terminating");
        (NAMESPACE.prepare_create)(&mut object);
        (NAMESPACE.default)(&mut object);
        assert_eq!(object.text("/status/phase"), "Active");
        assert_eq!(object.label("kubernetes.io/metadata.name"), Some("dev"));
        assert_eq!(object.0["spec"]["finalizers"], json!(["kubernetes"]));
        assert_eq!(found(&NAMESPACE, &object, None), [""; 0]);
    }

    #[test]
    fn a_client_can_not_release_a_namespace() {
        let mut old = Object::new("v1", "Namespace", "", "dev");
        (NAMESPACE.prepare_create)(&mut old);
        let mut new = Object::new("v1", "Namespace", "", "dev");
        (NAMESPACE.prepare_update)(&mut new, &old);
        assert_eq!(new.0, old.0);
    }

    #[test]
    fn names_are_labels() {
        let object = Object::new("v1", "Namespace", "", "a.b");
        assert_eq!(found(&NAMESPACE, &object, None).len(), 1);
    }
}
