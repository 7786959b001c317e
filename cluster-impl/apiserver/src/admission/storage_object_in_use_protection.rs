//! StorageObjectInUseProtection: claims and volumes are not deleted while somebody uses them.
//!
//! The controllers `pvc-protection` and `pv-protection` take the finalizers off again.

use machinery::Status;
use machinery::kinds::{PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM};
use serde_json::Value;

use super::{Operation, Plugin, Review, Step};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "StorageObjectInUseProtection",
    stage: 19,
    admit: Step::Now(admit),
    validate: Step::Nothing,
};

fn admit(review: &mut Review<'_>) -> Result<(), Status> {
    let finalizer = match review.kind.id {
        id if id == PERSISTENT_VOLUME_CLAIM.id => "kubernetes.io/pvc-protection",
        id if id == PERSISTENT_VOLUME.id => "kubernetes.io/pv-protection",
        _ => return Ok(()),
    };
    let id = review.kind.id;
    let Some(object) = review.written(id, &[Operation::Create]) else { return Ok(()) };
    let mut finalizers = object.list("/metadata/finalizers").to_vec();
    if !finalizers.iter().any(|known| known == finalizer) {
        finalizers.push(Value::from(finalizer));
        object.set("/metadata/finalizers", finalizers);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use machinery::Object;
    use machinery::kinds::CONFIG_MAP;
    use serde_json::json;

    use super::super::tests::created;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn storage_is_held() {
        for (kind, before, expected) in [
            (&PERSISTENT_VOLUME_CLAIM, json!([]), json!(["kubernetes.io/pvc-protection"])),
            (&PERSISTENT_VOLUME, json!(["a/b"]), json!(["a/b", "kubernetes.io/pv-protection"])),
            (
                &PERSISTENT_VOLUME,
                json!(["kubernetes.io/pv-protection"]),
                json!(["kubernetes.io/pv-protection"]),
            ),
            (&CONFIG_MAP, json!(["a/b"]), json!(["a/b"])),
        ] {
            let mut object = Object(json!({"metadata": {"name": "a", "finalizers": before}}));
            created(&PLUGIN, kind, &mut object).await.unwrap();
            assert_eq!(object.0["metadata"]["finalizers"], expected);
        }
    }
}
