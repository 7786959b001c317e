//! DefaultTolerationSeconds: a pod outlives a lost node's taint for 300 s unless it says otherwise.
//!
//! The seconds are `--default-not-ready-toleration-seconds` and
//! `--default-unreachable-toleration-seconds`.

use machinery::{Status, Toleration};
use serde_json::{Value, json};

use super::{Operation, Plugin, Review, Step};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "DefaultTolerationSeconds",
    stage: 14,
    admit: Step::Now(admit),
    validate: Step::Nothing,
};

const NO_EXECUTE: &str = "NoExecute";

fn admit(review: &mut Review<'_>) -> Result<(), Status> {
    let wanted = [
        ("node.kubernetes.io/not-ready", review.config.not_ready_toleration_s),
        ("node.kubernetes.io/unreachable", review.config.unreachable_toleration_s),
    ];
    let Some(pod) = review.pod(&[Operation::Create, Operation::Update]) else { return Ok(()) };
    let present = pod.tolerations();
    let missing: Vec<Value> = wanted
        .iter()
        .filter(|(key, _)| !present.iter().any(|toleration| speaks_of(toleration, key)))
        .map(|(key, seconds)| {
            json!({
                "key": key, "operator": "Exists", "effect": NO_EXECUTE, "tolerationSeconds": seconds,
            })
        })
        .collect();
    if !missing.is_empty() {
        let all: Vec<Value> =
            pod.list("/spec/tolerations").iter().cloned().chain(missing).collect();
        pod.set("/spec/tolerations", all);
    }
    Ok(())
}

fn speaks_of(toleration: &Toleration, key: &str) -> bool {
    (toleration.key.is_empty() || toleration.key == key)
        && (toleration.effect.is_empty() || toleration.effect == NO_EXECUTE)
}

#[cfg(test)]
mod tests {
    use machinery::Object;
    use machinery::kinds::POD;

    use super::super::tests::created;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn adds_what_the_pod_does_not_speak_of() {
        let not_ready = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists",
            "effect": "NoExecute", "tolerationSeconds": 5});
        let other_effect = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists",
            "effect": "NoSchedule"});
        for (tolerations, added) in [
            (json!([]), 2),
            (Value::Null, 2),
            (json!([{"operator": "Exists"}]), 0),
            (json!([not_ready]), 1),
            (json!([other_effect]), 2),
            (json!([{"operator": "Exists", "effect": "NoSchedule"}]), 2),
        ] {
            let before = tolerations.as_array().map_or(0, Vec::len);
            let mut pod = Object(json!({"spec": {"tolerations": tolerations}}));
            created(&PLUGIN, &POD, &mut pod).await.unwrap();
            let after = pod.list("/spec/tolerations");
            assert_eq!(after.len() - before, added, "{tolerations}");
            for toleration in &after[before..] {
                assert_eq!(toleration["tolerationSeconds"], 300);
            }
        }
    }
}
