//! What the world itself sees, as it happens, for whoever observes.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use shakedown_core::lever::ContainerFact;
use shakedown_core::target::Observation;
use shakedown_core::timeline::What;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The observers. What is seen while there are none is not kept.
#[derive(Default)]
pub(crate) struct Observers {
    to: Mutex<Vec<mpsc::UnboundedSender<Observation>>>,
}

impl Observers {
    /// A new observer, who is first told these things.
    pub(crate) fn open(&self, first: Vec<What>) -> mpsc::UnboundedReceiver<Observation> {
        // Unbounded, because whoever tells is in the middle of something and cannot wait; the run's
        // limits bound what can be seen.
        let (to, from) = mpsc::unbounded_channel();
        for what in first {
            let _ = to.send(now(what));
        }
        self.lock().push(to);
        from
    }

    /// Tells every observer.
    pub(crate) fn tell(&self, what: What) {
        self.lock().retain(|to| to.send(now(what.clone())).is_ok());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<mpsc::UnboundedSender<Observation>>> {
        self.to.lock().expect("no code panics while it holds the observers")
    }
}

/// The simulation sees everything at the very instant.
fn now(what: What) -> Observation {
    Observation { at: Instant::now(), error: Duration::ZERO, what }
}

/// A container, in the timeline's words.
pub(crate) fn fact(change: &kubelet::runtimes::staged::ContainerChange) -> ContainerFact {
    ContainerFact {
        id: change.id.clone(),
        pod_uid: change.pod.uid.clone(),
        namespace: change.pod.namespace.clone(),
        pod: change.pod.name.clone(),
        container: change.container.clone(),
    }
}

/// A line of an API server's audit, in the timeline's words.
pub(crate) fn audit(node: &str, line: apiserver::AuditLine) -> What {
    let mut key = line.key.to_string();
    if !line.subresource.is_empty() {
        key = format!("{key}/{}", line.subresource);
    }
    What::Audit {
        node: node.to_owned(),
        user: line.user,
        verb: line.verb.to_owned(),
        kind: line.kind,
        key,
        code: line.code,
        revision: line.revision,
        fence: line.fence.unwrap_or_default(),
    }
}

/// Tells the same thing about an etcd member only once: who leads, in which term.
#[derive(Default)]
pub(crate) struct MembersSeen {
    seen: BTreeMap<String, (u64, u64)>,
}

impl MembersSeen {
    /// What is new about a member; nothing while it does not answer.
    pub(crate) fn news(
        &mut self,
        node: &str,
        status: Option<storage::MemberStatus>,
    ) -> Option<What> {
        let Some(status) = status else {
            self.seen.remove(node);
            return None;
        };
        let fact = (status.leader, status.term);
        if self.seen.insert(node.to_owned(), fact) == Some(fact) {
            return None;
        }
        Some(member(node, &status))
    }
}

/// What an etcd member says of itself, in the timeline's words.
pub(crate) fn member(node: &str, status: &storage::MemberStatus) -> What {
    What::EtcdMember {
        node: node.to_owned(),
        member: status.member,
        leader: status.leader,
        term: status.term,
        revision: status.revision,
    }
}
