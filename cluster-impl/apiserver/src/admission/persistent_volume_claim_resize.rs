//! PersistentVolumeClaimResize: a claim grows only if it is bound and its class can make it grow.

use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::kinds::{PERSISTENT_VOLUME_CLAIM, STORAGE_CLASS};
use machinery::{Object, ObjectKey, Quantity, Status};

use super::{Operation, Plugin, Review, Step, find, nothing_to_do};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "PersistentVolumeClaimResize",
    stage: 21,
    admit: Step::Nothing,
    validate: Step::Waits(validate),
};

fn validate<'a>(review: &'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>> {
    let old = review.old.and_then(size);
    let new =
        review.written(PERSISTENT_VOLUME_CLAIM.id, &[Operation::Update]).and_then(|new| size(new));
    if new > old && old.is_some() { check(review).boxed() } else { nothing_to_do() }
}

fn size(claim: &Object) -> Option<Quantity> {
    claim.get("/spec/resources/requests/storage").and_then(Quantity::from_value)
}

async fn check(review: &mut Review<'_>) -> Result<(), Status> {
    let Some(old) = review.old else { return Ok(()) };
    if old.text("/status/phase") != "Bound" {
        return Err(review.refusal("Only bound persistent volume claims can be expanded"));
    }
    let name = match old.annotation("volume.beta.kubernetes.io/storage-class") {
        Some(name) => name,
        None => old.text("/spec/storageClassName"),
    };
    let class = match name {
        "" => None,
        name => find(review.server, &STORAGE_CLASS, &ObjectKey::new("", name)).await?,
    };
    if class.is_some_and(|class| class.flag("/allowVolumeExpansion")) {
        return Ok(());
    }
    Err(review.refusal(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the \
         pvc must support resize",
    ))
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::{Value, json};

    use super::super::default_storage_class::tests::{CLAIMS, CLASSES, claim, class};
    use crate::testing::{World, text};

    #[tokio::test(start_paused = true)]
    async fn a_claim_grows_if_its_class_lets_it() {
        let world = World::new().await;
        let mut growing = class("growing", json!({}));
        growing["allowVolumeExpansion"] = true.into();
        world.create(CLASSES, growing).await;
        world.create(CLASSES, class("fixed", json!({}))).await;
        for (name, class, is_bound, why) in [
            ("a", json!("growing"), true, ""),
            ("b", json!("growing"), false, "spec is immutable after creation"),
            ("c", json!("fixed"), true, "only dynamically provisioned pvc can be resized"),
            ("d", Value::Null, true, "only dynamically provisioned pvc can be resized"),
        ] {
            let mut body = claim(name, class);
            body["spec"]["volumeName"] = "v".into();
            world.create(CLAIMS, body).await;
            let path = format!("{CLAIMS}/{name}");
            if is_bound {
                let status = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"},
                    "accessModes": ["ReadWriteOnce"]}});
                world.patch(&format!("{path}/status"), status).await;
            }
            let grow = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
            let (code, answer) = world.call(Method::PATCH, &path, &grow).await;
            assert_eq!(code == 200, why.is_empty(), "{name}: {answer}");
            assert!(text(&answer["message"]).contains(why), "{name}: {answer}");
        }
    }
}
