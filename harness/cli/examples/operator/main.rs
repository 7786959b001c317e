//! Explores a controller with a bug that is typical of controllers, and the same without it.
//!
//!     cargo run -p shakedown --example operator
//!
//! A copy of this folder is where a test of your own controller begins.

mod exploration;
mod operator;

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use shakedown::sim::{Operator, SimError, Simulation, Verdict, explore};

const SEEDS: u64 = 40;

fn main() -> Result<(), SimError> {
    println!("start to first object: {:?}\n", first_object()?);
    for (name, controller) in [
        ("forgetful", Operator::new(operator::forgetful)),
        ("careful", Operator::new(operator::careful)),
    ] {
        let began = now();
        let summary = explore(&exploration::exploration(SEEDS), &controller)?;
        let took = began.elapsed();
        println!(
            "{name}: {} storms, {} passed, {} in which a fault came to nothing, {took:?} with shrinking",
            summary.runs,
            summary.count(Verdict::Pass),
            summary.count(Verdict::Invalid),
        );
        let Some(found) = summary.found else {
            println!("no promise was broken\n");
            continue;
        };
        let (before, after) = found.steps;
        println!("seed {}: {}", found.seed, found.message);
        println!("shrunk from {before} steps to {after}:\n\n{}", found.scenario);
    }
    Ok(())
}

/// How long it takes from nothing to an object that is in etcd, in real time.
fn first_object() -> Result<Duration, SimError> {
    let began = now();
    Simulation::new(1).workers(2).operator(operator::careful).run(async |cluster| {
        let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), "default");
        let mut map = ConfigMap::default();
        map.metadata.name = Some("first".to_owned());
        let made = maps.create(&PostParams::default(), &map).await;
        made.expect("nothing is broken here");
        began.elapsed()
    })
}

#[expect(clippy::disallowed_methods, reason = "what is measured here is the machine's own time")]
fn now() -> Instant {
    Instant::now()
}
