//! Publishes in every namespace the authority by which pods can tell the API server from others, if
//! `--root-ca-file` names one.
//!
//! ```yaml
//! kind: ConfigMap
//! metadata: {name: kube-root-ca.crt, namespace: dev}
//! data: {ca.crt: "-----BEGIN CERTIFICATE-----..."}
//! ```

use apiclient::Informed;
use machinery::kinds::{CONFIG_MAP, NAMESPACE};
use machinery::{Kind, Object, ObjectKey, View};

use crate::{Config, Controller, DecideCx, Decision, Key, Write};

const NAME: &str = "kube-root-ca.crt";
/// Upstream's words, as clients may look for them.
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when \
    using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage \
    is guaranteed across distributions of Kubernetes clusters.";

/// The controller. It remembers only whether there is an authority to publish.
pub struct RootCaCertPublisher {
    is_on: bool,
}

impl RootCaCertPublisher {
    /// The controller.
    pub fn new(config: &Config) -> Self {
        Self { is_on: config.root_ca.is_some() }
    }
}

impl Controller for RootCaCertPublisher {
    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher-controller"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        if self.is_on { vec![&CONFIG_MAP, &NAMESPACE] } else { Vec::new() }
    }

    fn changed(&mut self, _: &View, change: &Informed, _: &DecideCx<'_>) -> Vec<Key> {
        if !self.is_on {
            return Vec::new();
        }
        let namespace = match change.kind.id {
            id if id == NAMESPACE.id && change.new.is_some() => &change.key.name,
            id if id == CONFIG_MAP.id && change.key.name == NAME => &change.key.namespace,
            _ => return Vec::new(),
        };
        vec![Key::of(&NAMESPACE, ObjectKey::new("", namespace.as_str()))]
    }

    fn decide(&mut self, view: &View, key: &Key, cx: &DecideCx<'_>) -> Decision {
        let namespace = view.get(&NAMESPACE, &key.object);
        let Some(authority) = &cx.config.root_ca else { return Decision::settled() };
        if namespace.is_none_or(|namespace| namespace.is_terminating()) {
            return Decision::settled();
        }
        let name = key.object.name.as_str();
        let known = view.get(&CONFIG_MAP, &ObjectKey::new(name, NAME));
        let fill = |mut object: Object| {
            object.set("/data", serde_json::json!({"ca.crt": authority}));
            object.set("/metadata/annotations/kubernetes.io~1description", DESCRIPTION);
            object
        };
        let kind = &CONFIG_MAP;
        let write = match known {
            None => {
                let object = fill(Object::new("v1", "ConfigMap", name, NAME));
                Write::Create { kind, object, note: None }
            }
            Some(known) if known.map("/data").is_some_and(|data| {
                data.len() == 1 && data.get("ca.crt").is_some_and(|value| value == authority.as_str())
            }) => return Decision::settled(),
            Some(known) => Write::Update { kind, object: fill(Object::clone(known)) },
        };
        Decision { writes: vec![write], ..Decision::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    fn world(authority: Option<&str>, text: &str) -> World {
        let authority = authority.map(str::to_owned);
        let known = authority.clone();
        let make = move |config: &Config| -> Box<dyn Controller> {
            let config = Config { root_ca: known, ..config.clone() };
            Box::new(RootCaCertPublisher::new(&config))
        };
        let mut world = World::new(make, text);
        world.config.root_ca = authority;
        world
    }

    #[test]
    fn every_living_namespace_knows_the_authority() {
        let mut world = world(Some("pem"), "ns/a; ns/b deleted; ns/default; cm/kube-root-ca.crt");
        assert_eq!(
            world.run_to(1).trim(),
            "0 create configmaps/kube-root-ca.crt \n0 update configmaps/kube-root-ca.crt"
        );
        world.see("-cm/kube-root-ca.crt");
        assert_eq!(world.run_to(5).trim(), "1 create configmaps/kube-root-ca.crt");
        world.see("cm/other");
        assert_eq!(world.run_to(9), "");
    }

    #[test]
    fn without_an_authority_there_is_nothing_to_publish() {
        assert_eq!(world(None, "ns/a; ns/default").run_to(9), "");
    }
}
