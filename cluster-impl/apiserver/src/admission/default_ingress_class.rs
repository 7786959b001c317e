//! DefaultIngressClass: an Ingress that names no class gets the one that is marked as the default.

use futures::FutureExt;
use futures::future::BoxFuture;
use machinery::Status;
use machinery::kinds::{INGRESS, INGRESS_CLASS};

use super::{Operation, Plugin, Review, Step, newest_marked, nothing_to_do};
use crate::picture::Picture;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "DefaultIngressClass",
    stage: 27,
    admit: Step::Waits(admit),
    validate: Step::Nothing,
};

const MARK: [&str; 1] = ["ingressclass.kubernetes.io/is-default-class"];
/// How a class was named before there were any.
const OLD_NAME: &str = "kubernetes.io/ingress.class";

fn admit<'a>(review: &'a mut Review<'_>) -> BoxFuture<'a, Result<(), Status>> {
    let is_silent = review.written(INGRESS.id, &[Operation::Create]).is_some_and(|ingress| {
        ingress.text("/spec/ingressClassName").is_empty() && ingress.annotation(OLD_NAME).is_none()
    });
    if is_silent { fill_in(review).boxed() } else { nothing_to_do() }
}

async fn fill_in(review: &mut Review<'_>) -> Result<(), Status> {
    let classes = Picture::all(review.server, &INGRESS_CLASS, "").await?;
    if let Some(class) = newest_marked(&classes, &MARK)
        && let Some(ingress) = review.object.as_deref_mut()
    {
        ingress.set("/spec/ingressClassName", class.name());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::{World, named};

    #[tokio::test(start_paused = true)]
    async fn the_newest_default_is_filled_in() {
        let world = World::new().await;
        let ingresses = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
        let classes = "/apis/networking.k8s.io/v1/ingressclasses";
        let ingress = |name: &str, class: Value| {
            let mut ingress = named("networking.k8s.io/v1", "Ingress", name);
            ingress["spec"] =
                json!({"defaultBackend": {"service": {"name": "a", "port": {"number": 80}}}});
            if !class.is_null() {
                ingress["spec"]["ingressClassName"] = class;
            }
            ingress
        };
        let made = world.create(ingresses, ingress("a", Value::Null)).await;
        assert_eq!(made["spec"].get("ingressClassName"), None, "there is none");
        for name in ["old", "new"] {
            let mut class = named("networking.k8s.io/v1", "IngressClass", name);
            class["metadata"]["annotations"] =
                json!({"ingressclass.kubernetes.io/is-default-class": "true"});
            class["spec"] = json!({"controller": "example.com/web"});
            world.create(classes, class).await;
            world.env.sleep(std::time::Duration::from_secs(2)).await;
        }
        let made = world.create(ingresses, ingress("b", Value::Null)).await;
        assert_eq!(made["spec"]["ingressClassName"], "new");
        let made = world.create(ingresses, ingress("c", "old".into())).await;
        assert_eq!(made["spec"]["ingressClassName"], "old");
        let mut annotated = ingress("d", Value::Null);
        annotated["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "x"});
        assert_eq!(world.create(ingresses, annotated).await["spec"].get("ingressClassName"), None);
    }
}
