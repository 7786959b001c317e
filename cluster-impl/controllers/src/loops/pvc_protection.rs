//! Keeps a PersistentVolumeClaim that is deleted until no pod on any node uses it.
//!
//! ```yaml
//! kind: PersistentVolumeClaim
//! metadata: {name: data, finalizers: [kubernetes.io/pvc-protection]}
//! ```

use apiclient::Informed;
use machinery::kinds::{PERSISTENT_VOLUME_CLAIM, POD};
use machinery::{Kind, Object, ObjectKey, View, pod};

use super::pv_protection::protect;
use crate::{Config, Controller, DecideCx, Decision, Key};

const FINALIZER: &str = "kubernetes.io/pvc-protection";

/// The controller. It remembers nothing.
pub struct PvcProtection;

impl PvcProtection {
    /// The controller.
    pub fn new(_: &Config) -> Self {
        Self
    }
}

/// The names of the claims that a pod uses. An ephemeral volume's claim is named after pod and volume.
fn claims(pod: &Object) -> impl Iterator<Item = String> {
    pod.list("/spec/volumes").iter().filter_map(|volume| {
        if volume["ephemeral"].is_object() {
            let name = volume["name"].as_str().unwrap_or_default();
            return Some(format!("{}-{name}", pod.name()));
        }
        volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned)
    })
}

/// Whether a pod uses the claim: no node starts a pod whose claim is going, so only those count that a
/// node knows.
fn uses(pod: &Object, claim: &Object) -> bool {
    !pod::node_name(pod).is_empty() && claims(pod).any(|name| name == claim.name())
}

impl Controller for PvcProtection {
    fn name(&self) -> &'static str {
        "pvc-protection-controller"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        vec![&POD]
    }

    fn watches_rare(&self) -> Vec<&'static Kind> {
        vec![&PERSISTENT_VOLUME_CLAIM]
    }

    fn changed(&mut self, _: &View, change: &Informed, _: &DecideCx<'_>) -> Vec<Key> {
        let key = |name: &str| {
            let key = ObjectKey::new(change.key.namespace.as_str(), name);
            Key::of(&PERSISTENT_VOLUME_CLAIM, key)
        };
        if change.kind.id == PERSISTENT_VOLUME_CLAIM.id && change.new.is_some() {
            return vec![key(&change.key.name)];
        }
        // Only when a pod is gone can a claim be let go.
        match (change.kind.id == POD.id, &change.old, &change.new) {
            (true, Some(old), None) => claims(old).map(|name| key(&name)).collect(),
            _ => Vec::new(),
        }
    }

    fn decide(&mut self, view: &View, key: &Key, _: &DecideCx<'_>) -> Decision {
        let kind = &PERSISTENT_VOLUME_CLAIM;
        let Some(claim) = view.get(kind, &key.object) else { return Decision::settled() };
        let mut pods = view.in_namespace(&POD, claim.namespace());
        protect(kind, claim, FINALIZER, || pods.any(|pod| uses(pod, claim)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    #[test]
    fn a_claim_stays_until_the_last_pod_is_gone() {
        let mut world = World::new(
            |config| Box::new(PvcProtection::new(config)),
            r#"pvc/data finalizer=kubernetes.io/pvc-protection
               pvc/free finalizer=kubernetes.io/pvc-protection
               pvc/web-tmp finalizer=kubernetes.io/pvc-protection
               pvc/new
               pod/web node=a /spec/volumes=[{"name":"d","persistentVolumeClaim":{"claimName":"data"}},{"name":"tmp","ephemeral":{}}]
               pod/waits /spec/volumes=[{"name":"d","persistentVolumeClaim":{"claimName":"free"}}]"#,
        );
        assert_eq!(world.run_to(1).trim(), "0 update persistentvolumeclaims/new");
        world.see("pvc/data deleted; pvc/free deleted; pvc/web-tmp deleted");
        assert_eq!(
            world.run_to(5).trim(),
            "1 update persistentvolumeclaims/free",
            "no node knows the pod that waits"
        );
        world.see("-pod/web");
        let mut gone: Vec<_> = world.run_to(9).lines().map(|line| line.trim().to_owned()).collect();
        gone.sort();
        assert_eq!(
            gone,
            ["5 update persistentvolumeclaims/data", "5 update persistentvolumeclaims/web-tmp"]
        );
        assert_eq!(world.view.all(&PERSISTENT_VOLUME_CLAIM).count(), 1);
    }
}
