//! Keeps a PersistentVolume that is deleted until no claim is bound to it.
//!
//! ```yaml
//! kind: PersistentVolume
//! metadata: {name: disk-1, finalizers: [kubernetes.io/pv-protection]}
//! status: {phase: Bound}     # while it is, the finalizer stays
//! ```

use apiclient::Informed;
use machinery::kinds::PERSISTENT_VOLUME;
use machinery::{Kind, Object, View};
use serde_json::Value;

use crate::{Config, Controller, DecideCx, Decision, Key, Write};

const FINALIZER: &str = "kubernetes.io/pv-protection";

/// The controller. It remembers nothing.
pub struct PvProtection;

impl PvProtection {
    /// The controller.
    pub fn new(_: &Config) -> Self {
        Self
    }
}

impl Controller for PvProtection {
    fn name(&self) -> &'static str {
        "pv-protection-controller"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        Vec::new()
    }

    fn watches_rare(&self) -> Vec<&'static Kind> {
        vec![&PERSISTENT_VOLUME]
    }

    fn changed(&mut self, _: &View, change: &Informed, _: &DecideCx<'_>) -> Vec<Key> {
        if change.kind.id == PERSISTENT_VOLUME.id && change.new.is_some() {
            return vec![Key::of(&PERSISTENT_VOLUME, change.key.clone())];
        }
        Vec::new()
    }

    fn decide(&mut self, view: &View, key: &Key, _: &DecideCx<'_>) -> Decision {
        let Some(volume) = view.get(&PERSISTENT_VOLUME, &key.object) else {
            return Decision::settled();
        };
        let is_used = volume.text("/status/phase") == "Bound";
        protect(&PERSISTENT_VOLUME, volume, FINALIZER, || is_used)
    }
}

/// Puts a finalizer on what stays, and takes it off what is to go once nobody uses it.
pub(super) fn protect(
    kind: &'static Kind,
    object: &Object,
    finalizer: &str,
    is_used: impl FnOnce() -> bool,
) -> Decision {
    let mut finalizers = object.list("/metadata/finalizers").to_vec();
    let is_held = finalizers.iter().any(|known| known == finalizer);
    if is_held != object.is_terminating() || is_held && is_used() {
        return Decision::settled();
    }
    if is_held {
        finalizers.retain(|known| known != finalizer);
    } else {
        finalizers.push(Value::from(finalizer));
    }
    let mut object = object.clone();
    object.set("/metadata/finalizers", finalizers);
    Decision { writes: vec![Write::Update { kind, object }], ..Decision::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    #[test]
    fn a_bound_volume_stays_until_it_is_released() {
        let mut world = World::new(
            |config| Box::new(PvProtection::new(config)),
            "pv/a finalizer=kubernetes.io/pv-protection phase=Bound; pv/b; \
             pv/c finalizer=kubernetes.io/pv-protection phase=Available",
        );
        assert_eq!(world.run_to(1).trim(), "0 update persistentvolumes/b");
        world.see("pv/a deleted; pv/c deleted");
        assert_eq!(world.run_to(5).trim(), "1 update persistentvolumes/c");
        assert_eq!(world.view.all(&PERSISTENT_VOLUME).count(), 2);
        world.see("pv/a phase=Released");
        assert_eq!(world.run_to(9).trim(), "5 update persistentvolumes/a");
        assert_eq!(world.view.all(&PERSISTENT_VOLUME).count(), 1);
    }
}
