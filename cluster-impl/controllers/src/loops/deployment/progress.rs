//! A deployment's status: counts, and the conditions Available, Progressing and ReplicaFailure.

use std::time::Duration;

use env::{Sabotage, Timestamp};
use machinery::kinds::DEPLOYMENT;
use machinery::{Condition, Object, conditions};
use serde_json::{Value, json};

use super::{Rollout, count};
use crate::rollout::bounds;
use crate::{DecideCx, Decision, Write};

/// The reason of a rollout that is complete.
const COMPLETE: &str = "NewReplicaSetAvailable";
/// The reason of a rollout that stands still on demand.
const PAUSED: &str = "DeploymentPaused";

impl Rollout<'_> {
    /// Writes the status if it has changed; asks again when the progress deadline ends.
    pub(super) fn report(&self, cx: &DecideCx<'_>, decision: &mut Decision) {
        let mut object = Object::clone(self.deployment);
        let before = self.deployment.get("/status").cloned().unwrap_or_else(|| json!({}));
        let mut status = self.counts();
        if cx.sabotaged(Sabotage::ObservedGenerationStuck)
            && let Some(seen) = before.get("observedGeneration")
        {
            status["observedGeneration"] = seen.clone();
        }
        for kept in ["collisionCount", "conditions"] {
            if let Some(value) = before.get(kept) {
                status[kept] = value.clone();
            }
        }
        object.set("/status", status);
        self.set_available(&mut object, cx);
        self.set_progressing(&mut object, &before, cx, decision);
        self.set_failure(&mut object, cx);
        if object.get("/status") != Some(&before) {
            decision.writes.push(Write::UpdateStatus { kind: &DEPLOYMENT, object });
        }
    }

    /// What a set tells of pods that it could not make; the new set is heard first.
    fn set_failure(&self, object: &mut Object, cx: &DecideCx<'_>) {
        const NAME: &str = "ReplicaFailure";
        let mut failures = self.new.iter().chain(self.sets()).filter_map(|set| set.condition(NAME));
        let Some(failure) = failures.next() else {
            conditions::remove(object, NAME);
            return;
        };
        let text = |member: &str| failure[member].as_str().unwrap_or_default();
        let (status, reason, message) = (text("status"), text("reason"), text("message"));
        if conditions::set(object, Condition { name: NAME, status, reason, message }, cx.now) {
            stamp(object, NAME, cx);
        }
    }

    fn counts(&self) -> Value {
        let sum = |field: &str| -> i64 {
            self.sets().map(|set| set.integer(field).unwrap_or_default()).sum()
        };
        let replicas = sum("/status/replicas");
        let available = sum("/status/availableReplicas");
        let updated =
            self.new.as_ref().and_then(|new| new.integer("/status/replicas")).unwrap_or_default();
        let wanted: i64 = self.sets().map(|set| count(set).wanted).sum();
        let mut status = json!({
            "observedGeneration": self.deployment.integer("/metadata/generation").unwrap_or_default(),
        });
        for (name, count) in [
            ("replicas", replicas),
            ("updatedReplicas", updated),
            ("readyReplicas", sum("/status/readyReplicas")),
            ("availableReplicas", available),
            ("unavailableReplicas", (wanted - available).max(0)),
        ] {
            if count > 0 {
                status[name] = count.into();
            }
        }
        status
    }

    fn set_available(&self, object: &mut Object, cx: &DecideCx<'_>) {
        let (_, unavailable) = bounds(self.deployment, self.replicas);
        let available = object.integer("/status/availableReplicas").unwrap_or_default();
        let (status, reason, message) = if available >= self.replicas - unavailable {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            (
                "False",
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.",
            )
        };
        let condition = Condition { name: "Available", status, reason, message };
        if conditions::set(object, condition, cx.now) {
            stamp(object, "Available", cx);
        }
    }

    fn set_progressing(
        &self,
        object: &mut Object,
        before: &Value,
        cx: &DecideCx<'_>,
        decision: &mut Decision,
    ) {
        let field = |status: &Value, name: &str| {
            status.get(name).and_then(Value::as_i64).unwrap_or_default()
        };
        let after = object.get("/status").cloned().unwrap_or_default();
        let reason = object
            .condition("Progressing")
            .and_then(|known| known["reason"].as_str())
            .unwrap_or_default()
            .to_owned();
        let set = self.new.as_ref().map_or("", |new| new.name());
        let is_complete = self.new.is_some()
            && field(&after, "updatedReplicas") == self.replicas
            && field(&after, "replicas") == self.replicas
            && field(&after, "availableReplicas") == self.replicas;
        // A complete rollout stays complete when pods fail later; a new template begins a new one.
        let was_complete =
            reason == COMPLETE && field(&after, "replicas") == field(&after, "updatedReplicas");
        let has_moved = ["updatedReplicas", "readyReplicas", "availableReplicas"]
            .iter()
            .any(|name| field(&after, name) > field(before, name))
            || field(&after, "replicas") - field(&after, "updatedReplicas")
                < field(before, "replicas") - field(before, "updatedReplicas");
        let (status, reason, message) = if self.deployment.flag("/spec/paused") {
            ("Unknown", PAUSED, "Deployment is paused".to_owned())
        } else if is_complete {
            ("True", COMPLETE, format!("ReplicaSet \"{set}\" has successfully progressed."))
        } else if was_complete && self.new.is_some() {
            return;
        } else if self.new.is_none() {
            let message = format!("Created new replica set \"{}-{}\"", self.deployment.name(), self.hash);
            ("True", "NewReplicaSetCreated", message)
        } else if has_moved || ["", COMPLETE, PAUSED].contains(&&*reason) {
            ("True", "ReplicaSetUpdated", format!("ReplicaSet \"{set}\" is progressing."))
        } else if self.is_overdue(cx, decision) {
            let message = format!("ReplicaSet \"{set}\" has timed out progressing.");
            ("False", "ProgressDeadlineExceeded", message)
        } else {
            return;
        };
        let condition = Condition { name: "Progressing", status, reason, message: &message };
        let is_new = conditions::set(object, condition, cx.now);
        if is_new || has_moved && !is_complete {
            stamp(object, "Progressing", cx);
        }
        if !is_complete && status == "True" {
            decision.again(deadline(self.deployment) + Duration::from_secs(1));
        }
    }

    /// Whether nothing has moved for longer than `progressDeadlineSeconds`; else asks again then.
    fn is_overdue(&self, cx: &DecideCx<'_>, decision: &mut Decision) -> bool {
        let since = self.deployment.condition("Progressing").and_then(|known| {
            known["lastUpdateTime"].as_str()?.parse::<Timestamp>().ok()
        });
        let Some(since) = since else { return false };
        let passed = Duration::try_from(cx.now.duration_since(since)).unwrap_or_default();
        let deadline = deadline(self.deployment);
        if passed > deadline {
            return true;
        }
        decision.again(deadline - passed + Duration::from_secs(1));
        false
    }
}

fn deadline(deployment: &Object) -> Duration {
    let seconds = deployment.integer("/spec/progressDeadlineSeconds").unwrap_or(600);
    Duration::from_secs(seconds.unsigned_abs())
}

/// Writes `lastUpdateTime` of a condition.
fn stamp(object: &mut Object, name: &str, cx: &DecideCx<'_>) {
    let mut conditions = object.list("/status/conditions").to_vec();
    if let Some(known) = conditions.iter_mut().find(|condition| condition["type"] == name) {
        known["lastUpdateTime"] = cx.now_text().into();
    }
    object.set("/status/conditions", conditions);
}
