//! The containers that really run on the node: from the runtime's bundles and `/proc`, not from its API.
//!
//! A container runs while the main process that its bundle names is alive and is the workload itself.
//! One that was seen running counts until that process is gone, even if its bundle goes first.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use shakedown_core::lever::ContainerFact;

use crate::processes::{self, Stat};

/// containerd's bundles of the namespace that Kubernetes uses.
const BUNDLES: &str = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";

/// One running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Which one.
    pub fact: ContainerFact,
    /// Its main process.
    pub pid: i32,
    start: u64,
}

/// The containers of the node, as last seen.
#[derive(Debug, Default)]
pub struct Containers {
    running: BTreeMap<String, Running>,
}

impl Containers {
    /// Looks again. Answers what started and what ended since the last look.
    pub fn look(&mut self) -> (Vec<ContainerFact>, Vec<ContainerFact>) {
        let alive = |running: &Running| {
            processes::stat(running.pid).is_some_and(|stat| stat.start == running.start)
        };
        let mut ended = Vec::new();
        self.running.retain(|_, running| {
            let stays = alive(running);
            if !stays {
                ended.push(running.fact.clone());
            }
            stays
        });
        let mut started = Vec::new();
        for bundle in fs::read_dir(BUNDLES).into_iter().flatten().flatten() {
            let id = bundle.file_name().to_string_lossy().into_owned();
            if self.running.contains_key(&id) {
                continue;
            }
            if let Some(running) = read_bundle(&id, &bundle.path()) {
                started.push(running.fact.clone());
                self.running.insert(id, running);
            }
        }
        (started, ended)
    }

    /// Those that run, as last seen; of one pod, or of all if the uid is empty.
    pub fn of_pod<'a>(&'a self, pod_uid: &'a str) -> impl Iterator<Item = &'a Running> {
        let wanted =
            move |running: &&Running| pod_uid.is_empty() || running.fact.pod_uid == pod_uid;
        self.running.values().filter(wanted)
    }
}

/// The container of a bundle, if it is one of a pod (not the pod's sandbox) and runs.
fn read_bundle(id: &str, bundle: &Path) -> Option<Running> {
    let pid: i32 = fs::read_to_string(bundle.join("init.pid")).ok()?.trim().parse().ok()?;
    let Stat { start, .. } = processes::stat(pid)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    // Until it executes the workload, the process is runc's own.
    if name.starts_with("runc:") || !cgroup.contains(id) {
        return None;
    }
    let config: Value = serde_json::from_slice(&fs::read(bundle.join("config.json")).ok()?).ok()?;
    let fact = fact(id, &config["annotations"], &cgroup)?;
    Some(Running { fact, pid, start })
}

/// Which container it is, from the annotations that containerd's CRI plugin leaves in the bundle. The
/// pod's uid is in an annotation since containerd 1.7; it always is in the cgroup that the kubelet chose.
fn fact(id: &str, annotations: &Value, cgroup: &str) -> Option<ContainerFact> {
    let text = |key: &str| {
        annotations[format!("io.kubernetes.cri.{key}")].as_str().unwrap_or_default().to_owned()
    };
    if text("container-type") != "container" {
        return None;
    }
    let annotated = text("sandbox-uid");
    let pod_uid = if annotated.is_empty() { pod_uid_of(cgroup)? } else { annotated };
    Some(ContainerFact {
        id: id.to_owned(),
        pod_uid,
        namespace: text("sandbox-namespace"),
        pod: text("sandbox-name"),
        container: text("container-name"),
    })
}

/// The pod's uid in a cgroup path: `.../pod<uid>/<container>`, or `...-pod<uid_with_underscores>.slice/...`.
fn pod_uid_of(cgroup: &str) -> Option<String> {
    let parts = cgroup.lines().flat_map(|line| line.split('/'));
    parts
        .filter_map(|part| {
            let part = part.strip_suffix(".slice").unwrap_or(part);
            let uid = part.strip_prefix("pod").or_else(|| Some(part.rsplit_once("-pod")?.1))?;
            Some(uid.replace('_', "-"))
        })
        .next()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_are_found_in_cgroup_paths() {
        for (cgroup, uid) in [
            ("8:pids:/kubepods/besteffort/pod1b-2c/abc\n1:cpu:/x", Some("1b-2c")),
            (
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1b_2c.slice/cri-abc",
                Some("1b-2c"),
            ),
            ("0::/docker/abc", None),
        ] {
            assert_eq!(pod_uid_of(cgroup).as_deref(), uid, "{cgroup}");
        }
    }

    #[test]
    fn sandboxes_are_not_containers() {
        let annotations = |kind: &str| {
            json!({
                "io.kubernetes.cri.container-type": kind,
                "io.kubernetes.cri.container-name": "app",
                "io.kubernetes.cri.sandbox-name": "web-0",
                "io.kubernetes.cri.sandbox-namespace": "default",
            })
        };
        let cgroup = "8:pids:/kubepods/pod1b-2c/abc";
        assert_eq!(fact("abc", &annotations("sandbox"), cgroup), None);
        let found = fact("abc", &annotations("container"), cgroup).unwrap();
        assert_eq!(
            (found.pod.as_str(), found.namespace.as_str(), found.container.as_str()),
            ("web-0", "default", "app")
        );
        assert_eq!(found.pod_uid, "1b-2c");
    }
}
