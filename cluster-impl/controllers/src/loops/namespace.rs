//! Empties a terminating namespace, then lets it go.
//!
//! ```yaml
//! kind: Namespace
//! metadata: {name: dev, deletionTimestamp: "2024-01-01T00:00:00Z"}
//! spec: {finalizers: [kubernetes]}     # taken away when nothing is left in it
//! status: {phase: Terminating}
//! ```

use std::time::Duration;

use apiclient::Informed;
use env::Sabotage;
use machinery::kinds::{self, EVENT, NAMESPACE};
use machinery::{Kind, Object, ObjectKey, View, custom};

use crate::{Config, Controller, DecideCx, Decision, Key, Write};

/// A namespace that is not empty yet is looked at again after this long, even if nothing is seen.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The finalizer that keeps a namespace until it is empty.
const FINALIZER: &str = "kubernetes";

/// The controller. It remembers nothing.
pub struct NamespaceController;

impl NamespaceController {
    /// The controller.
    pub fn new(_: &Config) -> Self {
        Self
    }
}

/// The kinds whose objects live in namespaces; events are left to the API server's listing.
fn contents() -> impl Iterator<Item = &'static Kind> {
    kinds::ALL.iter().copied().filter(|kind| kind.namespaced && kind.id != EVENT.id)
}

impl Controller for NamespaceController {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        vec![&NAMESPACE]
    }

    fn watches_rare(&self) -> Vec<&'static Kind> {
        contents().collect()
    }

    fn changed(&mut self, view: &View, change: &Informed, _: &DecideCx<'_>) -> Vec<Key> {
        let name = if change.kind.id == NAMESPACE.id {
            &change.key.name
        } else if change.old.is_none() || change.new.is_none() {
            &change.key.namespace
        } else {
            return Vec::new();
        };
        let key = ObjectKey::new("", name.as_str());
        let is_going = view.get(&NAMESPACE, &key).is_some_and(|namespace| namespace.is_terminating());
        // That one of many is gone is no news before the last one is.
        let is_one_of_many = change.new.is_none()
            && change.kind.id != NAMESPACE.id
            && view.in_namespace(change.kind, name).next().is_some();
        if is_going && !is_one_of_many { vec![Key::of(&NAMESPACE, key)] } else { Vec::new() }
    }

    fn decide(&mut self, view: &View, key: &Key, cx: &DecideCx<'_>) -> Decision {
        let Some(namespace) = view.get(&NAMESPACE, &key.object) else { return Decision::settled() };
        let is_kept = namespace.list("/spec/finalizers").iter().any(|known| known == FINALIZER);
        if !namespace.is_terminating() || !is_kept {
            return Decision::settled();
        }
        let mut decision = Decision::default();
        let mut is_empty = true;
        let own = custom::of_view(view).into_iter().filter(|kind| kind.namespaced);
        for kind in contents().chain(own) {
            for object in view.in_namespace(kind, namespace.name()) {
                is_empty = false;
                if !object.is_terminating() {
                    decision.writes.push(Write::Delete {
                        kind,
                        object: object.clone(),
                        grace_s: None,
                        propagation: "Background",
                        note: None,
                    });
                }
            }
        }
        if is_empty {
            let mut namespace = Object::clone(namespace);
            let mut finalizers = namespace.list("/spec/finalizers").to_vec();
            finalizers.retain(|known| known != FINALIZER);
            namespace.set("/spec/finalizers", finalizers);
            if !cx.sabotaged(Sabotage::NamespaceStuck) {
                decision.writes.push(Write::Finalize { namespace });
            }
        }
        decision.again(LOOK_AGAIN);
        decision
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    #[test]
    fn a_terminating_namespace_is_emptied_and_then_let_go() {
        let mut world = World::new(
            |config| Box::new(NamespaceController::new(config)),
            r#"ns/dev /spec/finalizers=["kubernetes"]; ns/other /spec/finalizers=["kubernetes"]; pod/p ns=dev node=a; cm/c ns=dev; cm/c ns=other"#,
        );
        assert_eq!(world.run_to(10), "");
        world.see("ns/dev deleted");
        insta::assert_snapshot!(world.run_to(10).replace(" \n", "\n"), @r"
        10 delete configmaps/c Background
        10 delete pods/p Background
        ");
        assert_eq!(world.run_to(30), "", "the pod is still ending");
        world.view.get(&kinds::POD, &ObjectKey::new("dev", "p")).unwrap();
        world.see("pod/p ns=dev finalizer=x");
        assert_eq!(world.run_to(40), "");
        let key = ObjectKey::new("dev", "p");
        world.gone(&kinds::POD, &key);
        assert_eq!(world.run_to(40).trim(), "40 finalize dev");
        assert_eq!(world.view.all(&NAMESPACE).count(), 1);
    }
}
