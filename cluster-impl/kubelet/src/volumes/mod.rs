//! The volumes of one pod: what they are to hold, whether they are there, and when to look again.
//!
//! The runtime puts them in place (`runtime.rs`); here is decided what they hold. As upstream's: a pod
//! starts when all of its volumes are there; one that cannot be made is told by an event and tried again
//! after a wait that doubles, or as soon as something that the pod refers to changes; what changes later
//! reaches a running pod at its next look, which comes every 60 to 90 s.
//! Limits: no claims, no CSI and no network volumes; the bound of an emptyDir on disk is not enforced,
//! as this kubelet evicts nothing; a projected clusterTrustBundle is refused.

mod files;
mod references;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use env::Timestamp;
use machinery::kinds::{CONFIG_MAP, SECRET};
use machinery::{Object, ObjectKey, Quantity};
use rand::Rng;
use serde_json::Value;

pub(crate) use files::data;
pub(crate) use references::{Objects, Users, of as references};

use crate::Shared;
use crate::pod_spec::{app_containers, init_containers, name_of, text};
use crate::runtime::{FilesOf, PodVolume, RuntimeError, VolumeContent};
use files::{Files, aggregate, bad_path, default_mode};
use tokens::Tokens;

/// The first wait after a volume that could not be made, and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(122);
/// So often a pod is looked at anew, with up to half as much on top.
const LOOK: Duration = Duration::from_secs(60);

/// A volume that could not be made: its name, and why.
type Failure = (String, String);

/// What the kubelet knows of a pod's volumes. Lost when the kubelet restarts, as upstream's.
#[derive(Default)]
pub(crate) struct Volumes {
    /// Whether this kubelet has put all of them in place.
    is_ready: bool,
    tokens: Tokens,
    /// How the objects that the pod refers to were at the last look, and what the pod says of itself.
    seen: Vec<String>,
    /// When to bring them up to date.
    due: Option<Timestamp>,
    wait: Duration,
}

impl Volumes {
    /// Looks whether something has changed. True if a pod that waits for its volumes need wait no more.
    pub(crate) fn notice(&mut self, cx: &Shared, pod: &Object, is_alive: bool) -> bool {
        let now = cx.env.now();
        let seen = sight(cx, pod);
        let has_changed = seen != self.seen;
        if !self.is_ready {
            if has_changed {
                self.due = None;
            }
            // A kubelet that starts anew finds pods that run: their files are its to keep up to date.
            if is_alive && self.due.is_none() {
                self.due = Some(now);
            }
            return has_changed;
        }
        if has_changed {
            // What the pod says of itself comes with the pod; the rest is noticed at the next look.
            let is_own = seen.last() != self.seen.last();
            let wait = if is_own { Duration::ZERO } else { next_look(cx) };
            self.due = Some(self.due.map_or(now + wait, |due| due.min(now + wait)));
            self.seen = seen;
        }
        false
    }

    /// When to call [`Volumes::refresh`].
    pub(crate) fn due(&self) -> Option<Timestamp> {
        let renewal = self.tokens.renew_at().filter(|_| self.is_ready);
        self.due.into_iter().chain(renewal).min()
    }

    /// Puts the volumes in place unless that was done before; false if some could not be made: `retry`
    /// says when to try again.
    pub(crate) async fn set_up(
        &mut self,
        cx: &Shared,
        pod: &Arc<Object>,
        retry: &mut Option<Timestamp>,
    ) -> Result<bool, RuntimeError> {
        if self.is_ready {
            return Ok(true);
        }
        // Not again for every container of a pod that waits.
        if self.due.is_none_or(|due| due <= cx.env.now()) {
            self.make(cx, pod).await?;
        }
        *retry = self.due.filter(|_| !self.is_ready);
        Ok(self.is_ready)
    }

    /// Brings them up to date. Cancel-safe: what was not done is done the next time.
    pub(crate) async fn refresh(&mut self, cx: &Shared, pod: &Arc<Object>) {
        if let Err(error) = self.make(cx, pod).await {
            tracing::debug!(pod = %pod.key(), %error, "volumes not refreshed");
            self.due = Some(cx.env.now() + RETRY_FIRST);
        }
    }

    async fn make(&mut self, cx: &Shared, pod: &Arc<Object>) -> Result<(), RuntimeError> {
        // Otherwise the first word would look like a change.
        cx.objects.heard_of(&references(pod)).await;
        let seen = sight(cx, pod);
        let mut failures: Vec<Failure> = Vec::new();
        for volume in pod.list("/spec/volumes") {
            let name = name_of(volume).to_owned();
            let made = match self.content(cx, pod, volume).await {
                Ok(content) => {
                    let group = pod.integer("/spec/securityContext/fsGroup");
                    let id = crate::pod_spec::pod_id(pod);
                    let volume = PodVolume { name: name.clone(), content, group };
                    match cx.runtime.set_up_volume(&id, &volume).await {
                        Ok(()) => Ok(()),
                        Err(RuntimeError::Unavailable(why)) => {
                            return Err(RuntimeError::Unavailable(why));
                        }
                        Err(error) => Err(error.to_string()),
                    }
                }
                Err(problem) => Err(problem),
            };
            failures.extend(made.err().map(|problem| (name, problem)));
        }
        self.seen = seen;
        if failures.is_empty() {
            (self.is_ready, self.due, self.wait) = (true, None, Duration::ZERO);
            return Ok(());
        }
        for (name, problem) in failures {
            let message = format!("MountVolume.SetUp failed for volume {name:?} : {problem}");
            cx.events.warning(pod, "FailedMount", message);
        }
        self.wait = if self.wait.is_zero() { RETRY_FIRST } else { (self.wait * 2).min(RETRY_MOST) };
        self.due = Some(cx.env.now() + self.wait);
        Ok(())
    }

    /// What a volume is to hold.
    async fn content(
        &mut self,
        cx: &Shared,
        pod: &Object,
        volume: &Value,
    ) -> Result<VolumeContent, String> {
        let kind = volume.as_object().and_then(|map| map.keys().find(|key| *key != "name"));
        let (of, files) = match kind.map_or("emptyDir", String::as_str) {
            "emptyDir" => return empty(cx.config.machine.memory, pod, &volume["emptyDir"]),
            "hostPath" => {
                let source = &volume["hostPath"];
                let (path, kind) = (text(source, "path").into(), text(source, "type").into());
                return Ok(VolumeContent::Host { path, kind });
            }
            "configMap" => {
                let source = &volume["configMap"];
                let mode = default_mode(source);
                (FilesOf::ConfigMap, object_files(cx, pod, "configmap", (source, mode)).await?)
            }
            "secret" => {
                let source = &volume["secret"];
                let mode = default_mode(source);
                (FilesOf::Secret, object_files(cx, pod, "secret", (source, mode)).await?)
            }
            "downwardAPI" => {
                let source = &volume["downwardAPI"];
                let files = files::of_pod(&cx.config.machine, pod, source, default_mode(source));
                (FilesOf::DownwardApi, files.map_err(|problems| aggregate(&problems))?)
            }
            "projected" => {
                (FilesOf::Projected, self.projected(cx, pod, &volume["projected"]).await?)
            }
            other => {
                return Err(format!("volumes of type {other} are not supported by this kubelet"));
            }
        };
        match bad_path(&files) {
            Some(problem) => Err(problem),
            None => Ok(VolumeContent::Files { of, files }),
        }
    }

    /// The files of all sources; a later one wins.
    async fn projected(
        &mut self,
        cx: &Shared,
        pod: &Object,
        volume: &Value,
    ) -> Result<Files, String> {
        let mode = default_mode(volume);
        let (mut all, mut problems) = (Files::new(), Vec::new());
        for source in volume["sources"].as_array().into_iter().flatten() {
            let kind = source.as_object().and_then(|map| map.keys().next());
            let kind = kind.map_or("", String::as_str);
            let part = &source[kind];
            let files = match kind {
                "configMap" => object_files(cx, pod, "configmap", (part, mode)).await,
                "secret" => object_files(cx, pod, "secret", (part, mode)).await,
                "downwardAPI" => files::of_pod(&cx.config.machine, pod, part, mode)
                    .map_err(|problems| aggregate(&problems)),
                "serviceAccountToken" => {
                    let token = self.tokens.get((&cx.env, &cx.client), pod, part).await;
                    token.map(|token| token_file(pod, part, (token, mode)))
                }
                other => Err(format!("a projected {other} is not supported by this kubelet")),
            };
            match files {
                Ok(files) => all.extend(files),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(all) } else { Err(aggregate(&problems)) }
    }
}

/// What the volumes' content follows from: the objects, and last what the pod says of itself.
fn sight(cx: &Shared, pod: &Object) -> Vec<String> {
    let mut sight = cx.objects.versions(&references(pod));
    let own = |pointer: &str| pod.get(pointer).map(Value::to_string).unwrap_or_default();
    sight.push(own("/metadata/labels") + &own("/metadata/annotations"));
    sight
}

/// How long it is from some moment to the pod's next look.
fn next_look(cx: &Shared) -> Duration {
    let mut entropy = cx.env.entropy("volume-look");
    let period = entropy.random_range(LOOK..LOOK + LOOK / 2);
    entropy.random_range(Duration::ZERO..period)
}

async fn object_files(
    cx: &Shared,
    pod: &Object,
    noun: &'static str,
    (source, mode): (&Value, u32),
) -> Result<Files, String> {
    let kind = if noun == "secret" { &SECRET } else { &CONFIG_MAP };
    let name = match text(source, "secretName") {
        "" => text(source, "name"),
        name => name,
    };
    let object = cx.objects.get(kind, &ObjectKey::new(pod.namespace(), name)).await?;
    files::of_object((noun, name), object.as_deref(), source, mode)
}

/// The file of a token: only its user may read it if the pod has one of its own.
fn token_file(pod: &Object, source: &Value, (token, mode): (String, u32)) -> Files {
    let user = common_user(pod);
    let is_private = user.is_some() || pod.integer("/spec/securityContext/fsGroup").is_some();
    let mode = if is_private { 0o600 } else { mode };
    let file = crate::runtime::VolumeFile { content: token.into_bytes(), mode, user };
    BTreeMap::from([(text(source, "path").to_owned(), file)])
}

/// The user of all containers, if all have the same.
fn common_user(pod: &Object) -> Option<i64> {
    let of_pod = pod.integer("/spec/securityContext/runAsUser");
    let containers = init_containers(pod).iter().chain(app_containers(pod));
    let users: BTreeSet<Option<i64>> = containers
        .map(|container| container["securityContext"]["runAsUser"].as_i64().or(of_pod))
        .collect();
    if users.len() == 1 { users.into_iter().next().flatten() } else { None }
}

/// An emptyDir; one in memory is bounded by its own limit, the pod's and the node's.
fn empty(node_memory: i64, pod: &Object, source: &Value) -> Result<VolumeContent, String> {
    let limit = Quantity::from_value(&source["sizeLimit"]).map(|limit| limit.value());
    match text(source, "medium") {
        "" => Ok(VolumeContent::Empty { memory_max: None }),
        "Memory" => {
            let limits = |container: &Value| {
                let limit = Quantity::from_value(&container["resources"]["limits"]["memory"]);
                limit.map(|limit| limit.value())
            };
            let of_pod: Option<i64> = app_containers(pod).iter().map(limits).sum();
            let bounds = [limit, of_pod, Some(node_memory)].into_iter().flatten();
            let least = bounds.filter(|bound| *bound > 0).min().unwrap_or_default();
            Ok(VolumeContent::Empty { memory_max: Some(least.try_into().unwrap_or_default()) })
        }
        medium => Err(format!("unknown storage medium {medium:?}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_empty_folder_in_memory_is_bounded_by_the_smallest_limit() {
        let mut pod = Object::new("v1", "Pod", "default", "web");
        let limited = json!({"name": "a", "resources": {"limits": {"memory": "64Mi"}}});
        pod.set("/spec/containers", json!([limited.clone()]));
        let memory = |pod: &Object, source: Value| match empty(1 << 30, pod, &source) {
            Ok(VolumeContent::Empty { memory_max }) => memory_max.map(|bytes| bytes >> 20),
            other => panic!("{other:?}"),
        };
        assert_eq!(memory(&pod, json!({})), None);
        assert_eq!(memory(&pod, json!({"medium": "Memory"})), Some(64));
        assert_eq!(memory(&pod, json!({"medium": "Memory", "sizeLimit": "8Mi"})), Some(8));
        pod.set("/spec/containers", json!([limited, {"name": "b"}]));
        assert_eq!(memory(&pod, json!({"medium": "Memory"})), Some(1024));
        assert!(empty(0, &pod, &json!({"medium": "HugePages"})).is_err());
    }

    #[test]
    fn a_token_belongs_to_the_one_user_of_a_pod() {
        let mut pod = Object::new("v1", "Pod", "default", "web");
        let token = |pod: &Object| {
            let files = token_file(pod, &json!({"path": "token"}), ("t".to_owned(), 0o644));
            (files["token"].mode, files["token"].user)
        };
        let as_user = |user: i64| json!({"name": "a", "securityContext": {"runAsUser": user}});
        pod.set("/spec/containers", json!([{"name": "a"}]));
        assert_eq!(token(&pod), (0o644, None));
        pod.set("/spec/containers", json!([as_user(7), as_user(7)]));
        assert_eq!(token(&pod), (0o600, Some(7)));
        pod.set("/spec/containers", json!([as_user(7), as_user(8)]));
        assert_eq!(token(&pod), (0o644, None));
        pod.set("/spec/securityContext/fsGroup", 5);
        assert_eq!(token(&pod), (0o600, None));
    }
}
