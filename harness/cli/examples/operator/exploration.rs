//! What is explored around the greeter: three ConfigMaps come, each under a fault of the seed's choice.

use shakedown::sim::Exploration;

/// Every ConfigMap that asks for a greeter has one, and one only.
const WANTED: &str = "objects.configmaps.filter(c, has(c.metadata.labels.app) \
     && c.metadata.labels.app == 'greeter').all(c, objects.pods.filter(p, \
     has(p.metadata.labels.greets) && p.metadata.labels.greets == c.metadata.name).size() == 1)";

/// The exploration of so many seeds.
pub fn exploration(seeds: u64) -> Exploration {
    let map = |name: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{app: greeter}}}}\n"
        )
    };
    Exploration {
        seeds,
        given: map("hello"),
        changes: ["hola", "salut", "ciao"].map(map).join("---\n"),
        reads: vec!["configmaps".to_owned()],
        wanted: WANTED.to_owned(),
        ..Exploration::default()
    }
}
