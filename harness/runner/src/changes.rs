//! A client that scales and rolls the given Deployments, at a slow pace.
//!
//! It asks for between one and twice as many replicas as were given. What it asks for is told by a
//! note; what comes of it, the witness sees. When the workload ends, the last spec stays, and the
//! scenario waits until the Deployments have come to rest, so that the judge can tell whether they do.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use shakedown_core::kinds::Kind;
use shakedown_core::scenario::CHANGES;
use shakedown_core::timeline::What;
use shakedown_core::world::World;
use tokio::time::Instant;

use crate::api::{Answer, Call, ask};
use crate::run::{Session, Stop};
use crate::workload::{ANSWER_LIMIT, Client};

/// Between two changes, at least and at most, in milliseconds.
const PACE_MS: (u64, u64) = (5_000, 15_000);
/// How long Deployments may take to come to rest. That they do not is the judge's business.
const REST_LIMIT: Duration = Duration::from_secs(240);
/// For so long nothing changes before what is seen counts as rest: longer than the judge asks for.
const QUIET: Duration = Duration::from_secs(15);

/// A Deployment that may be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    namespace: String,
    name: String,
    /// How many replicas were given.
    given: u64,
}

impl Session<'_> {
    /// The Deployments that the workload changes: none if it changes none.
    pub(crate) fn deployments(&self) -> Vec<Target> {
        let Some(workload) = &self.plan.workload else { return Vec::new() };
        let shares = CHANGES.iter().filter_map(|verb| workload.mix.get(*verb));
        if shares.sum::<u32>() == 0 {
            return Vec::new();
        }
        let given = self.plan.given.iter().map(|given| &given.object);
        given
            .filter(|object| object["kind"] == "Deployment")
            .map(|object| {
                let text = |field: &str| object["metadata"][field].as_str();
                Target {
                    namespace: text("namespace").unwrap_or(&self.namespace).to_string(),
                    name: text("name").unwrap_or_default().to_string(),
                    given: object["spec"]["replicas"].as_u64().unwrap_or(1).max(1),
                }
            })
            .collect()
    }

    /// Waits until what the workload changed has come to rest, or long enough to tell that it does not.
    pub(crate) async fn come_to_rest(&mut self) -> Result<(), Stop> {
        let targets = self.deployments();
        if targets.is_empty() {
            return Ok(());
        }
        let are_done = |world: &World| {
            targets.iter().all(|target| is_done(world, &target.namespace, &target.name))
        };
        let time = Instant::now() + REST_LIMIT;
        self.wait(time, |events| are_done(events.world())).await?;
        self.wait(Instant::now() + QUIET, |_| false).await?;
        Ok(())
    }
}

/// Whether a Deployment has all that it asks for.
fn is_done(world: &World, namespace: &str, name: &str) -> bool {
    let Some(object) = world.object("deployments.apps", namespace, name) else { return false };
    let whole = |pointer: &str| object.pointer(pointer)?.as_i64();
    let number = |pointer: &str| whole(pointer).unwrap_or(0);
    let replicas = whole("/spec/replicas").unwrap_or(1);
    let counts = ["/status/replicas", "/status/updatedReplicas", "/status/readyReplicas"];
    number("/status/observedGeneration") >= number("/metadata/generation")
        && counts.iter().all(|count| number(count) == replicas)
}

/// Scales and rolls until the workload ends.
pub(crate) async fn change(mut client: Client, mix: BTreeMap<String, u32>, targets: Vec<Target>) {
    let share = |verb: &str| u64::from(mix.get(verb).copied().unwrap_or(0));
    let (rolls, shares) = (share("roll"), share("roll") + share("scale"));
    let kind = Kind::of_word("deployment").expect("deployments are a kind");
    let mut round = 0;
    loop {
        let (least, most) = PACE_MS;
        let pause = Duration::from_millis(least + client.below(most - least));
        if client.rest(pause).await.is_err() {
            return;
        }
        let target = &targets[client.below(targets.len() as u64) as usize];
        round += 1;
        let (does, fields) = if client.below(shares) < rolls {
            let annotations = json!({"shakedown.dev/round": round.to_string()});
            let template = json!({"metadata": {"annotations": annotations}});
            ("rolls it".to_string(), json!({"spec": {"template": template}}))
        } else {
            let replicas = 1 + client.below(2 * target.given);
            (format!("scales it to {replicas}"), json!({"spec": {"replicas": replicas}}))
        };
        let call = Call::patch(kind.path(&target.namespace, &target.name), fields);
        let answer = ask(client.endpoint(), &call, ANSWER_LIMIT).await;
        let came = match answer {
            Answer::Ok(_) => "done".to_string(),
            Answer::Refused { code, reason, .. } => format!("refused: {code} {reason}"),
            Answer::Unknown(why) => {
                client.move_on();
                format!("nobody knows: {why}")
            }
        };
        let text = format!("deployment {}: client {} {does}: {came}", target.name, client.id);
        if client.tell(What::Note { text }).await.is_err() {
            return;
        }
    }
}
