//! DefaultStorageClass: a claim that says nothing of a class gets the one that is marked as the default.

use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::Status;
use machinery::kinds::{PERSISTENT_VOLUME_CLAIM, STORAGE_CLASS};

use super::{Operation, Plugin, Review, Step, newest_marked, nothing_to_do};
use crate::picture::Picture;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "DefaultStorageClass",
    stage: 18,
    admit: Step::Waits(admit),
    validate: Step::Nothing,
};

const MARKS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
/// How a class was named before the field.
const OLD_NAME: &str = "volume.beta.kubernetes.io/storage-class";

fn admit<'a>(review: &'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>> {
    let claim = review.written(PERSISTENT_VOLUME_CLAIM.id, &[Operation::Create]);
    // The class "" is an answer: none.
    let is_silent = claim.is_some_and(|claim| {
        claim.get("/spec/storageClassName").is_none_or(serde_json::Value::is_null)
            && claim.annotation(OLD_NAME).is_none()
    });
    if is_silent { fill_in(review).boxed() } else { nothing_to_do() }
}

async fn fill_in(review: &mut Review<'_>) -> Result<(), Status> {
    let classes = Picture::all(review.server, &STORAGE_CLASS, "").await?;
    if let Some(class) = newest_marked(&classes, &MARKS)
        && let Some(claim) = review.object.as_deref_mut()
    {
        claim.set("/spec/storageClassName", class.name());
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use crate::testing::{World, named};

    pub(in crate::admission) const CLAIMS: &str =
        "/api/v1/namespaces/default/persistentvolumeclaims";
    pub(in crate::admission) const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";

    pub(in crate::admission) fn claim(name: &str, class: Value) -> Value {
        let mut claim = named("v1", "PersistentVolumeClaim", name);
        claim["spec"] = json!({"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}});
        if !class.is_null() {
            claim["spec"]["storageClassName"] = class;
        }
        claim
    }

    pub(in crate::admission) fn class(name: &str, annotations: Value) -> Value {
        let mut class = named("storage.k8s.io/v1", "StorageClass", name);
        class["metadata"]["annotations"] = annotations;
        class["provisioner"] = "example.com/disks".into();
        class
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_default_is_filled_in() {
        let world = World::new().await;
        let made = world.create(CLAIMS, claim("a", Value::Null)).await;
        assert_eq!(made["spec"].get("storageClassName"), None, "there is none");
        for (name, annotations) in [
            ("older", json!({super::MARKS[0]: "true"})),
            ("newer", json!({super::MARKS[1]: "true"})),
            ("plain", json!({super::MARKS[0]: "false"})),
        ] {
            world.create(CLASSES, class(name, annotations)).await;
            world.env.sleep(std::time::Duration::from_secs(2)).await;
        }
        for (name, class, expected) in
            [("b", Value::Null, "newer"), ("c", "plain".into(), "plain"), ("d", "".into(), "")]
        {
            let made = world.create(CLAIMS, claim(name, class)).await;
            assert_eq!(made["spec"]["storageClassName"], expected, "{name}");
        }
    }
}
