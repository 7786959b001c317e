//! VolumeAttachment.

use serde_json::Value;

use super::{AGE, Kind, NAME, PLAIN, age, column, create_without_status, csi_driver, keep_status};
use crate::defaulting::{absent, part};
use crate::validation::{Causes, metadata, names, text};
use crate::{Cause, Object};

const METADATA_BYTES_MAX: usize = 256 * 1024;
const MESSAGE_BYTES_MAX: usize = 1024;

/// VolumeAttachment.
pub static VOLUME_ATTACHMENT: Kind = Kind {
    id: "volumeattachments.storage.k8s.io",
    group: "storage.k8s.io",
    kind: "VolumeAttachment",
    plural: "volumeattachments",
    namespaced: false,
    has_status: true,
    default: |object| {
        if let Some(status) = part(&mut object.0, "status") {
            absent(status, "attached", false);
        }
    },
    prepare_create: |object| {
        create_without_status(object);
        object.set("/status/attached", false);
    },
    prepare_update: keep_status,
    validate,
    columns: &[
        NAME,
        column("Attacher", "string", 0),
        column("PV", "string", 0),
        column("Node", "string", 0),
        column("Attached", "boolean", 0),
        AGE,
    ],
    cells,
    ..PLAIN
};

fn validate(object: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Causes::new();
    metadata::validate(&mut causes, object, old, false, names::dns_subdomain);
    let spec = &object.0["spec"];
    if text(&spec["attacher"]).is_empty() {
        causes.required("spec.attacher", "");
    }
    source(&mut causes, &spec["source"]);
    causes.name("spec.nodeName", text(&spec["nodeName"]), names::dns_subdomain);
    let status = &object.0["status"];
    let attached = status["attachmentMetadata"].as_object().into_iter().flatten();
    if attached.map(|(key, value)| key.len() + text(value).len()).sum::<usize>()
        > METADATA_BYTES_MAX
    {
        causes.too_long("status.attachmentMetadata", METADATA_BYTES_MAX);
    }
    for which in ["attachError", "detachError"] {
        if text(&status[which]["message"]).len() > MESSAGE_BYTES_MAX {
            causes.too_long(&format!("status.{which}.message"), METADATA_BYTES_MAX);
        }
        if let Some(code) = status[which]["errorCode"].as_i64().filter(|code| *code < 0) {
            let field = format!("status.{which}.errorCode");
            causes.invalid(&field, code, "must be between 0 and 2147483647, inclusive");
        }
    }
    csi_driver::name(&mut causes, "spec.attacher", text(&spec["attacher"]));
    if let Some(volume) = spec["source"]["persistentVolumeName"].as_str() {
        causes.name("spec.source.persistentVolumeName", volume, names::dns_subdomain);
    }
    if let Some(old) = old {
        causes.immutable("spec", spec, &old.0["spec"]);
    }
    causes.into_list()
}

fn source(causes: &mut Causes, source: &Value) {
    const WHY: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (source["inlineVolumeSpec"].is_null(), source["persistentVolumeName"].as_str()) {
        (true, None) => causes.required("spec.source", WHY),
        (false, Some(_)) => causes.forbidden("spec.source", WHY),
        (true, Some("")) => {
            let why = "must specify non empty persistentVolumeName";
            causes.required("spec.source.persistentVolumeName", why);
        }
        _ => {}
    }
}

fn cells(object: &Object, now: jiff::Timestamp) -> Vec<Value> {
    vec![
        object.name().into(),
        object.text("/spec/attacher").into(),
        object.text("/spec/source/persistentVolumeName").into(),
        object.text("/spec/nodeName").into(),
        object.flag("/status/attached").into(),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{at, found, row};
    use super::*;

    fn attachment(source: Value) -> Object {
        let mut object = Object(json!({
            "metadata": {"name": "a", "creationTimestamp": at(0).to_string()},
            "spec": {"attacher": "disk.example.com", "nodeName": "n-1", "source": source},
            "status": {"attached": true},
        }));
        (VOLUME_ATTACHMENT.prepare_create)(&mut object);
        object
    }

    #[test]
    fn attachments_are_checked_and_printed() {
        let good = attachment(json!({"persistentVolumeName": "pv-1"}));
        assert_eq!(found(&VOLUME_ATTACHMENT, &good, None), [""; 0]);
        assert_eq!(row(&VOLUME_ATTACHMENT, &good, 5), "a|disk.example.com|pv-1|n-1|false|5s");
        assert_eq!(
            found(&VOLUME_ATTACHMENT, &attachment(json!({})), None),
            [
                "Required spec.source: Required value: must specify exactly one of \
                 inlineVolumeSpec and persistentVolumeName"
            ]
        );
        let other = attachment(json!({"persistentVolumeName": "pv-2"}));
        let changed = found(&VOLUME_ATTACHMENT, &other, Some(&good));
        assert!(changed[0].starts_with("Invalid spec: ") && changed[0].ends_with("is immutable"));
    }
}
