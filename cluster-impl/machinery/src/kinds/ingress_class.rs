//! IngressClass.

use serde_json::Value;

use super::{AGE, Kind, NAME, PLAIN, age, column, ingress};
use crate::defaulting::{absent, empty, inside};
use crate::validation::{Causes, metadata, names, network, text};
use crate::{Cause, Object};

const CONTROLLER_BYTES_MAX: usize = 250;

/// IngressClass.
pub static INGRESS_CLASS: Kind = Kind {
    id: "ingressclasses.networking.k8s.io",
    group: "networking.k8s.io",
    kind: "IngressClass",
    plural: "ingressclasses",
    namespaced: false,
    has_generation: true,
    default,
    validate,
    columns: &[NAME, column("Controller", "string", 0), column("Parameters", "string", 0), AGE],
    cells,
    ..PLAIN
};

fn default(object: &mut Object) {
    absent(&mut object.0, "spec", empty());
    let parameters = inside(&mut object.0, "spec").and_then(|spec| inside(spec, "parameters"));
    if let Some(parameters) = parameters {
        absent(parameters, "scope", "Cluster");
    }
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, names::dns_subdomain);
    let spec = &object.0["spec"];
    let controller = text(&spec["controller"]);
    if controller.len() > CONTROLLER_BYTES_MAX {
        causes.too_long("spec.controller", CONTROLLER_BYTES_MAX);
    }
    network::domain_prefixed_path(&mut causes, "spec.controller", controller);
    if !spec["parameters"].is_null() {
        validate_parameters(&mut causes, &spec["parameters"]);
    }
    if let Some(old) = old {
        causes.immutable("spec.controller", &spec["controller"], &old.0["spec"]["controller"]);
    }
    causes.into_list()
}

fn validate_parameters(causes: &mut Causes, parameters: &Value) {
    const FIELD: &str = "spec.parameters.namespace";
    ingress::typed_reference(causes, parameters, "spec.parameters");
    let namespace = parameters["namespace"].as_str();
    match (parameters["scope"].as_str(), namespace) {
        (None, _) => causes.required("spec.parameters.scope", ""),
        (Some("Namespace"), None) => {
            causes.required(FIELD, "`parameters.scope` is set to 'Namespace'");
        }
        (Some("Namespace"), Some(namespace)) => causes.name(FIELD, namespace, names::dns_label),
        (Some("Cluster"), None) => {}
        (Some("Cluster"), Some(_)) => {
            causes.forbidden(FIELD, "`parameters.scope` is set to 'Cluster'");
        }
        (Some(other), _) => {
            causes.not_supported("spec.parameters.scope", other, &["Cluster", "Namespace"]);
        }
    }
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    let parameters = match object.map("/spec/parameters") {
        None => "<none>".to_owned(),
        Some(_) => {
            let part = |name: &str| object.text(&format!("/spec/parameters/{name}"));
            let group = object.get("/spec/parameters/apiGroup").and_then(Value::as_str);
            let group = group.map(|group| format!(".{group}")).unwrap_or_default();
            format!("{}{group}/{}", part("kind"), part("name"))
        }
    };
    vec![
        object.name().into(),
        object.text("/spec/controller").into(),
        parameters.into(),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    fn class(spec: Value) -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "nginx", "creationTimestamp": at(0).to_string()}, "spec": spec,
        }));
        (INGRESS_CLASS.default)(&mut object);
        object
    }

    #[test]
    fn classes_are_defaulted_checked_and_printed() {
        let object = class(json!({"controller": "example.com/ingress",
            "parameters": {"apiGroup": "a.b", "kind": "P", "name": "x"}}));
        assert_eq!(object.text("/spec/parameters/scope"), "Cluster");
        assert_eq!(found(&INGRESS_CLASS, &object, None), [""; 0]);
        assert_eq!(row(&INGRESS_CLASS, &object, 5), "nginx|example.com/ingress|P.a.b/x|5s");
        let parameters = |rest: Value| {
            let mut all = json!({"kind": "P", "name": "x"});
            all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            class(json!({"controller": "a.b/c", "parameters": all}))
        };
        for (object, line) in [
            (class(json!({})), "Required spec.controller: Required value"),
            (class(json!({"controller": "x"})), "Invalid spec.controller: Invalid value: \"x\": \
                must be a domain-prefixed path (such as \"acme.io/foo\")"),
            (parameters(json!({"scope": "Namespace"})), "Required spec.parameters.namespace: \
                Required value: `parameters.scope` is set to 'Namespace'"),
            (parameters(json!({"namespace": "a"})), "Forbidden spec.parameters.namespace: \
                Forbidden: `parameters.scope` is set to 'Cluster'"),
            (parameters(json!({"scope": "Node"})), "NotSupported spec.parameters.scope: \
                Unsupported value: \"Node\": supported values: \"Cluster\", \"Namespace\""),
        ] {
            assert_eq!(found(&INGRESS_CLASS, &object, None), [line]);
        }
    }

    #[test]
    fn the_controller_stays() {
        let (old, new) = (class(json!({"controller": "a.b/c"})), class(json!({"controller": "a.b/d"})));
        assert_eq!(
            found(&INGRESS_CLASS, &new, Some(&old)),
            ["Invalid spec.controller: Invalid value: \"a.b/d\": field is immutable"]
        );
    }
}
