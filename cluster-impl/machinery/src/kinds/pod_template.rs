//! PodTemplate.

use serde_json::Value;

use super::{Kind, NAME, column, containers, labels};
use crate::defaulting::template;
use crate::validation::{Causes, metadata, names, workload};
use crate::{Cause, Object};

/// PodTemplate.
pub static POD_TEMPLATE: Kind = Kind {
    id: "podtemplates",
    group: "",
    version: "v1",
    kind: "PodTemplate",
    plural: "podtemplates",
    short_names: &[],
    categories: &[],
    namespaced: true,
    has_status: false,
    has_scale: false,
    subresources: &[],
    has_generation: false,
    selectable: &[],
    default: |object| template(&mut object.0),
    prepare_create: |object| object.set("/metadata/generation", 1),
    prepare_update,
    validate,
    columns: &[
        NAME,
        column("Containers", "string", 0),
        column("Images", "string", 0),
        column("Pod Labels", "string", 0),
    ],
    cells,
    custom: None,
};

/// It has no spec: a change of the template is what counts.
fn prepare_update(object: &mut Object, old: &Object) {
    let before = old.integer("/metadata/generation").unwrap_or_default();
    let is_changed = object.get("/template") != old.get("/template");
    object.set("/metadata/generation", before + i64::from(is_changed));
}

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, true, names::dns_subdomain);
    workload::template(&mut causes, &object.0["template"], "template");
    causes.into_list()
}

fn cells(object: &Object, _: jiff::Timestamp) -> Vec<Value> {
    let template = &object.0["template"];
    let mut cells = vec![object.name().into()];
    cells.extend(containers(template));
    cells.push(labels(&template["metadata"]["labels"]));
    cells
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{found, row};
    use super::*;

    #[test]
    fn a_template_is_a_pod_without_a_place() {
        let mut old = Object(json!({"metadata": {"name": "web", "namespace": "default"},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "a", "image": "x"}]}}}));
        (POD_TEMPLATE.default)(&mut old);
        (POD_TEMPLATE.prepare_create)(&mut old);
        assert_eq!(found(&POD_TEMPLATE, &old, None), [""; 0]);
        assert_eq!(row(&POD_TEMPLATE, &old, 0), "web|a|x|app=web");
        let mut new = old.clone();
        (POD_TEMPLATE.prepare_update)(&mut new, &old);
        assert_eq!(new, old);
        new.set("/template/spec/containers", json!([]));
        (POD_TEMPLATE.prepare_update)(&mut new, &old);
        assert_eq!(new.integer("/metadata/generation"), Some(2));
        assert_eq!(
            found(&POD_TEMPLATE, &new, Some(&old)),
            ["Required template.spec.containers: Required value"]
        );
    }
}
