//! The ConfigMaps and Secrets that the pods of this node use: which they are, and how they are now.
//!
//! Each is followed by a watch of its own, as upstream's kubelet does by default: a node is told of
//! nothing that it may not read, and an object that does not change costs nothing.
//! Limit: the pull secrets of images are not among them, as this kubelet pulls without any.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use apiclient::Informer;
use env::Signal;
use machinery::kinds::{CONFIG_MAP, SECRET};
use machinery::{Kind, Object, ObjectKey};
use serde_json::Value;

use crate::pod_spec::all_containers;

/// So long a pod waits for the first word about an object.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// An object that a pod refers to: the kind's id, and its name.
pub(crate) type Reference = (&'static str, ObjectKey);

/// What a pod refers to.
pub(crate) fn of(pod: &Object) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    let mut note = |kind: &Kind, name: &Value| {
        if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
            found.insert((kind.id, ObjectKey::new(pod.namespace(), name)));
        }
    };
    for volume in pod.list("/spec/volumes") {
        note(&CONFIG_MAP, &volume["configMap"]["name"]);
        note(&SECRET, &volume["secret"]["secretName"]);
        for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
            note(&CONFIG_MAP, &source["configMap"]["name"]);
            note(&SECRET, &source["secret"]["name"]);
        }
    }
    for container in all_containers(pod) {
        for from in container["envFrom"].as_array().into_iter().flatten() {
            note(&CONFIG_MAP, &from["configMapRef"]["name"]);
            note(&SECRET, &from["secretRef"]["name"]);
        }
        for variable in container["env"].as_array().into_iter().flatten() {
            note(&CONFIG_MAP, &variable["valueFrom"]["configMapKeyRef"]["name"]);
            note(&SECRET, &variable["valueFrom"]["secretKeyRef"]["name"]);
        }
    }
    found
}

fn kind_of(id: &str) -> &'static Kind {
    if id == SECRET.id { &SECRET } else { &CONFIG_MAP }
}

/// What is known of an object.
enum Known {
    /// It was asked for.
    NotYet,
    Absent,
    There(Arc<Object>),
}

/// The objects that pods of this node use, as last heard of.
#[derive(Default)]
pub(crate) struct Objects {
    known: Mutex<BTreeMap<Reference, Known>>,
    changes: Signal,
}

impl Objects {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Reference, Known>> {
        self.known.lock().expect("no code panics while it holds the objects")
    }

    /// The object, or that it does not exist. An object that nothing was heard of yet is waited for.
    pub(crate) async fn get(
        &self,
        kind: &'static Kind,
        key: &ObjectKey,
    ) -> Result<Option<Arc<Object>>, String> {
        let heard = async {
            loop {
                let seen = self.changes.count();
                match self.lock().get(&(kind.id, key.clone())) {
                    None => {
                        let ObjectKey { namespace, name } = key;
                        return Err(format!("object {namespace:?}/{name:?} not registered"));
                    }
                    Some(Known::Absent) => return Ok(None),
                    Some(Known::There(object)) => return Ok(Some(object.clone())),
                    Some(Known::NotYet) => {}
                }
                self.changes.after(seen).await;
            }
        };
        let noun = kind.kind.to_lowercase();
        tokio::time::timeout(FIRST_WORD, heard).await.unwrap_or_else(|_| {
            Err(format!("failed to sync {noun} cache: timed out waiting for the condition"))
        })
    }

    /// Waits for the first word about each of these objects, as long as for one.
    pub(crate) async fn heard_of(&self, references: &BTreeSet<Reference>) {
        let heard = async {
            loop {
                let seen = self.changes.count();
                let known = |reference: &Reference| {
                    !matches!(self.lock().get(reference), Some(Known::NotYet))
                };
                if references.iter().all(known) {
                    return;
                }
                self.changes.after(seen).await;
            }
        };
        // Which of them is missing is told by whoever needs it.
        let _ = tokio::time::timeout(FIRST_WORD, heard).await;
    }

    /// Something that changes whenever one of these objects does.
    pub(crate) fn versions(&self, references: &BTreeSet<Reference>) -> Vec<String> {
        let known = self.lock();
        let version = |reference: &Reference| match known.get(reference) {
            None | Some(Known::NotYet) => String::new(),
            Some(Known::Absent) => "absent".to_owned(),
            Some(Known::There(object)) => format!("{}/{}", object.uid(), object.resource_version()),
        };
        references.iter().map(version).collect()
    }

    /// Notes what was heard of an object; false if nobody uses it.
    pub(crate) fn tell(
        &self,
        kind: &'static Kind,
        key: &ObjectKey,
        object: Option<Arc<Object>>,
    ) -> bool {
        let mut known = self.lock();
        let Some(entry) = known.get_mut(&(kind.id, key.clone())) else { return false };
        *entry = object.map_or(Known::Absent, Known::There);
        drop(known);
        self.changes.raise();
        true
    }
}

/// Who uses which objects: what is used by nobody any more is followed no more.
#[derive(Default)]
pub(crate) struct Users {
    by_pod: BTreeMap<String, BTreeSet<Reference>>,
}

impl Users {
    /// From now on the pod of this uid uses these objects.
    pub(crate) fn set(
        &mut self,
        (objects, informer): (&Objects, &mut Informer),
        uid: &str,
        wanted: BTreeSet<Reference>,
    ) {
        let before = match wanted.is_empty() {
            true => self.by_pod.remove(uid),
            false => self.by_pod.insert(uid.to_owned(), wanted.clone()),
        };
        let before = before.unwrap_or_default();
        for (id, key) in wanted.difference(&before) {
            objects.lock().entry((*id, key.clone())).or_insert(Known::NotYet);
            informer.follow_one(kind_of(id), key);
        }
        for reference in before.difference(&wanted) {
            if !self.by_pod.values().any(|used| used.contains(reference)) {
                let (id, key) = reference;
                objects.lock().remove(reference);
                informer.leave_one(kind_of(id), key);
            }
        }
    }

    /// The pods that use an object, by uid.
    pub(crate) fn of(&self, kind: &'static Kind, key: &ObjectKey) -> Vec<String> {
        let reference = (kind.id, key.clone());
        let users = self.by_pod.iter().filter(|(_, used)| used.contains(&reference));
        users.map(|(uid, _)| uid.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_leads_to_what_it_uses() {
        let mut pod = Object::new("v1", "Pod", "default", "web");
        pod.set(
            "/spec",
            json!({
                "imagePullSecrets": [{"name": "pull"}],
                "volumes": [
                    {"name": "a", "secret": {"secretName": "s-volume"}},
                    {"name": "b", "configMap": {"name": "c-volume"}},
                    {"name": "c", "projected": {"sources": [
                        {"secret": {"name": "s-projected"}}, {"configMap": {"name": "c-projected"}}]}},
                ],
                "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s-from"}}]}],
                "containers": [{"name": "main", "envFrom": [{"configMapRef": {"name": "c-from"}}],
                    "env": [{"name": "x", "valueFrom": {"secretKeyRef": {"name": "s-env"}}}]}],
            }),
        );
        let names: Vec<String> = of(&pod).into_iter().map(|(_, key)| key.name).collect();
        let expected =
            ["c-from", "c-projected", "c-volume", "s-env", "s-from", "s-projected", "s-volume"];
        assert_eq!(names, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nothing_was_heard_of_is_waited_for() {
        let objects = Objects::default();
        let key = ObjectKey::new("default", "paint");
        let unknown = objects.get(&CONFIG_MAP, &key).await.unwrap_err();
        assert_eq!(unknown, "object \"default\"/\"paint\" not registered");
        assert!(!objects.tell(&CONFIG_MAP, &key, None));
        objects.lock().insert((CONFIG_MAP.id, key.clone()), Known::NotYet);
        let late = objects.get(&CONFIG_MAP, &key).await.unwrap_err();
        assert_eq!(late, "failed to sync configmap cache: timed out waiting for the condition");
        let object = Arc::new(Object::new("v1", "ConfigMap", "default", "paint"));
        let tell = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(objects.tell(&CONFIG_MAP, &key, Some(object.clone())));
        };
        let (found, ()) = tokio::join!(objects.get(&CONFIG_MAP, &key), tell);
        assert_eq!(found.unwrap().map(|found| found.name().to_owned()), Some("paint".to_owned()));
        objects.tell(&CONFIG_MAP, &key, None);
        assert_eq!(objects.get(&CONFIG_MAP, &key).await, Ok(None));
    }
}
