//! Keeps a ServiceAccount named `default` in every namespace.
//!
//! ```yaml
//! kind: ServiceAccount
//! metadata: {name: default, namespace: dev}
//! ```

use apiclient::Informed;
use machinery::kinds::{NAMESPACE, SERVICE_ACCOUNT};
use machinery::{Kind, Object, ObjectKey, View};

use crate::{Config, Controller, DecideCx, Decision, Key, Write};

/// The name of the account that pods get if they name none.
const DEFAULT: &str = "default";

/// The controller. It remembers nothing.
pub struct ServiceAccountController;

impl ServiceAccountController {
    /// The controller.
    pub fn new(_: &Config) -> Self {
        Self
    }
}

impl Controller for ServiceAccountController {
    fn name(&self) -> &'static str {
        "service-account-controller"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        vec![&NAMESPACE, &SERVICE_ACCOUNT]
    }

    fn changed(&mut self, _: &View, change: &Informed, _: &DecideCx<'_>) -> Vec<Key> {
        if change.kind.id == NAMESPACE.id && change.new.is_some() {
            return vec![Key::of(&NAMESPACE, change.key.clone())];
        }
        let is_lost = change.kind.id == SERVICE_ACCOUNT.id
            && change.new.is_none()
            && change.key.name == DEFAULT;
        if is_lost {
            return vec![Key::of(&NAMESPACE, ObjectKey::new("", &*change.key.namespace))];
        }
        Vec::new()
    }

    fn decide(&mut self, view: &View, key: &Key, _: &DecideCx<'_>) -> Decision {
        let namespace = view.get(&NAMESPACE, &key.object);
        let name = &*key.object.name;
        if namespace.is_none_or(|namespace| namespace.is_terminating())
            || view.get(&SERVICE_ACCOUNT, &ObjectKey::new(name, DEFAULT)).is_some()
        {
            return Decision::settled();
        }
        let object = Object::new("v1", "ServiceAccount", name, DEFAULT);
        let write = Write::Create { kind: &SERVICE_ACCOUNT, object, note: None };
        Decision { writes: vec![write], ..Decision::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    #[test]
    fn every_living_namespace_has_a_default_account() {
        let mut world = World::new(
            |config| Box::new(ServiceAccountController::new(config)),
            "ns/a; ns/b deleted; sa/default; ns/default",
        );
        assert_eq!(world.run_to(0).trim(), "0 create serviceaccounts/default");
        world.see("-sa/default");
        assert_eq!(world.run_to(5).trim(), "0 create serviceaccounts/default");
        assert_eq!(world.view.all(&SERVICE_ACCOUNT).count(), 2);
    }
}
