//! `pod-delete`: pods are deleted through the API, with the grace period that the pod asks for, with
//! `grace`, or by `force: true` at once and without asking the kubelet.
//!
//! ```yaml
//! fault: pod-delete
//! on: any pod of deployment/web
//! grace: 5s
//! ```
//!
//! Proven: the API has no such pod any more, or another one of that name, or it is being deleted;
//! another API server, where there is one, says so too; other pods of the namespace are as before.
//! It is over by itself: nothing is healed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultKind, FaultSpec, Proof, SpecError};
use shakedown_core::lever::{LeverKind, Undo};
use shakedown_core::target::Endpoint;
use shakedown_core::timeline::Evidence;

use crate::api::{self, Written};
use crate::evidence::{behaviour, control, counter, proof};
use crate::spec::{self, Fields};

/// The fault in the registry.
pub(crate) const KIND: FaultKind = FaultKind {
    name: "pod-delete",
    summary: "pods are deleted through the API",
    fields: &["force", "grace"],
    needs: &[LeverKind::Api],
    sample: "fault: pod-delete\non: any pod of deployment/web\ngrace: 5s\n",
    build,
};

struct PodDelete {
    /// `namespace/name` of each.
    pods: Vec<String>,
    grace: Option<Duration>,
    /// Each pod's uid before.
    before: Vec<String>,
    /// Other pods of the same namespaces, and their uids.
    others: BTreeMap<String, String>,
}

fn build(spec: &FaultSpec) -> Result<Box<dyn Fault>, SpecError> {
    let fields = Fields::of(spec, KIND.fields)?;
    let grace = match (fields.flag("force")?.unwrap_or(false), fields.duration("grace")?) {
        (true, Some(grace)) if !grace.is_zero() => {
            return Err(SpecError {
                field: "grace".to_owned(),
                message: "a pod that is deleted by force gets no grace period".to_owned(),
                hint: "leave out `grace` or `force`".to_owned(),
            });
        }
        (true, _) => Some(Duration::ZERO),
        (false, Some(grace)) if grace.subsec_nanos() != 0 || grace.is_zero() => {
            return Err(SpecError {
                field: "grace".to_owned(),
                message: "a grace period is a whole number of seconds, at least 1".to_owned(),
                hint: "for no grace period say `force: true`".to_owned(),
            });
        }
        (false, grace) => grace,
    };
    let pods = spec::on(spec, "pods")?;
    Ok(Box::new(PodDelete { pods, grace, before: Vec::new(), others: BTreeMap::new() }))
}

impl PodDelete {
    fn namespaces(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .pods
            .iter()
            .map(|pod| pod.split_once('/').map_or("default", |(ns, _)| ns).to_owned())
            .collect();
        names.dedup();
        names
    }

    async fn control(&self, endpoints: &[Endpoint]) -> Result<Evidence, FaultError> {
        if self.others.is_empty() {
            // Without another pod to compare with, at least the namespace must be as before.
            let namespace = &self.namespaces()[0];
            let path = format!("/api/v1/namespaces/{namespace}");
            let found = api::get(endpoints, &path).await?.1.unwrap_or_default();
            let lives = !found.is_null() && found["metadata"]["deletionTimestamp"].is_null();
            let word = if lives { "is there" } else { "is gone or going" };
            return Ok(control(format!("namespace {namespace} {word}"), lives, None));
        }
        let mut same = 0;
        for (pod, uid) in &self.others {
            let now = api::get(endpoints, &api::pod_path(pod)).await?.1.unwrap_or_default();
            same += usize::from(fate(&now, uid).is_none());
        }
        let text = format!("{same} of {} other pods are as before", self.others.len());
        Ok(control(text, same > 0, None))
    }
}

#[async_trait::async_trait]
impl Fault for PodDelete {
    fn needs(&self) -> Vec<LeverKind> {
        KIND.needs.to_vec()
    }

    fn targets(&self) -> Vec<String> {
        self.pods.clone()
    }

    fn undos(&self) -> Vec<Undo> {
        Vec::new()
    }

    async fn baseline(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        self.before.clear();
        for pod in &self.pods {
            match api::get(cx.endpoints, &api::pod_path(pod)).await?.1 {
                Some(found) => self.before.push(uid(&found)),
                None => return Err(absent(pod)),
            }
        }
        self.others.clear();
        for namespace in self.namespaces() {
            for found in
                api::list(cx.endpoints, &format!("/api/v1/namespaces/{namespace}/pods")).await?
            {
                let name = found["metadata"]["name"].as_str().unwrap_or_default();
                let key = format!("{namespace}/{name}");
                let lives = found["metadata"]["deletionTimestamp"].is_null();
                if lives && !self.pods.contains(&key) {
                    self.others.insert(key, uid(&found));
                }
            }
        }
        Ok(())
    }

    async fn inject(&mut self, cx: &mut FaultCx<'_>) -> Result<(), FaultError> {
        for (pod, uid) in self.pods.iter().zip(&self.before) {
            // The uid as a precondition: never a pod that has taken the name since.
            let mut options = json!({
                "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid},
            });
            if let Some(grace) = self.grace {
                options["gracePeriodSeconds"] = json!(grace.as_secs());
            }
            match api::delete(cx.endpoints, &api::pod_path(pod), &options).await? {
                Written::Done(_) => {}
                Written::Absent => return Err(absent(pod)),
                Written::Conflict(why) => {
                    return Err(FaultError::Api {
                        doing: format!("failed to delete pod {pod}"),
                        why,
                    });
                }
            }
        }
        Ok(())
    }

    async fn prove(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        let mut evidence = Vec::new();
        for (pod, uid) in self.pods.iter().zip(&self.before) {
            let path = api::pod_path(pod);
            let now = api::get(cx.endpoints, &path).await?.1.unwrap_or_default();
            let found = fate(&now, uid);
            let text = format!("pod {pod} {}", found.unwrap_or("is as before"));
            evidence.push(counter(text, found.is_some(), None));
            let (by, seen) = api::get_elsewhere(cx.endpoints, &path).await?;
            let found = fate(&seen.unwrap_or_default(), uid);
            let word = found.unwrap_or("is as before");
            let text = format!("the API server on {by} says that pod {pod} {word}");
            evidence.push(behaviour(text, found.is_some(), None));
        }
        evidence.push(self.control(cx.endpoints).await?);
        Ok(proof(evidence))
    }

    fn is_momentary(&self) -> bool {
        true
    }

    async fn remove(&mut self, _: &mut FaultCx<'_>) -> Result<(), FaultError> {
        Ok(())
    }

    /// The pods are gone for good: what is shown is that the API still answers for them.
    async fn prove_healed(&mut self, cx: &mut FaultCx<'_>) -> Result<Proof, FaultError> {
        self.prove(cx).await
    }
}

/// What became of a pod; `None` if it is the one that it was, and nobody deletes it.
fn fate(now: &Value, before: &str) -> Option<&'static str> {
    if now.is_null() {
        Some("is gone")
    } else if uid(now) != before {
        Some("is another one")
    } else if !now["metadata"]["deletionTimestamp"].is_null() {
        Some("is being deleted")
    } else {
        None
    }
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

fn absent(pod: &str) -> FaultError {
    FaultError::Api {
        doing: format!("failed to delete pod {pod}"),
        why: "there is no such pod".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{World, life, life_of, spec};

    #[tokio::test(start_paused = true)]
    async fn it_is_proven() {
        let world = World::working();
        let life = life("pod-delete", &["shop/web-a"], world.clone()).await;
        assert!(life.momentary);
        life.proven_and_healed();
        let asked = world.object("/api/v1/namespaces/shop/pods/web-a");
        assert_eq!(asked["metadata"]["deletionGracePeriodSeconds"], 30);
    }

    #[tokio::test(start_paused = true)]
    async fn by_force_it_is_gone_at_once() {
        let mut step = spec("pod-delete", &["shop/web-a"]);
        step.fields.insert("force".to_owned(), json!(true));
        let world = World::working();
        life_of(&step, world.clone()).await.proven_and_healed();
        assert!(world.object("/api/v1/namespaces/shop/pods/web-a").is_null());
    }

    #[tokio::test(start_paused = true)]
    async fn when_it_does_nothing_it_is_not_proven() {
        life("pod-delete", &["shop/web-a"], World::inert()).await.not_proven();
    }

    #[tokio::test(start_paused = true)]
    async fn when_every_pod_goes_it_is_not_proven() {
        let world = World::working().that_deletes_every_pod();
        life("pod-delete", &["shop/web-a"], world).await.not_proven();
    }

    #[test]
    fn force_and_grace_exclude_each_other() {
        let mut step = spec("pod-delete", &["shop/web-a"]);
        step.fields.insert("force".to_owned(), json!(true));
        step.fields.insert("grace".to_owned(), json!("5s"));
        assert_eq!(build(&step).err().map(|error| error.field), Some("grace".to_owned()));
    }
}
