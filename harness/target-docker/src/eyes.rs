//! What the agents see, gathered: duplicates removed, and the end of a node turned into the end of all on it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use shakedown_core::lever::{Component, ContainerFact, ProcessState};
use shakedown_core::target::Observation;
use shakedown_core::timeline::What;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Observations that wait for the runner. More are dropped, which is said once there is room.
const OBSERVATIONS_MAX: usize = 1 << 16;

/// Gathers observations of all nodes.
#[derive(Default)]
pub(crate) struct Eyes {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    to: Option<mpsc::Sender<Observation>>,
    lost: u64,
    nodes: BTreeMap<String, NodeSeen>,
}

#[derive(Default)]
struct NodeSeen {
    containers: BTreeMap<String, ContainerFact>,
    processes: BTreeMap<Component, (ProcessState, String)>,
}

impl Eyes {
    /// Sends what is seen from now on, to the last who asked.
    pub fn open(&self) -> mpsc::Receiver<Observation> {
        let (to, from) = mpsc::channel(OBSERVATIONS_MAX);
        let mut seen = self.lock();
        *seen = Seen { to: Some(to), ..Default::default() };
        from
    }

    /// Whether anybody asked.
    pub fn is_open(&self) -> bool {
        self.lock().to.as_ref().is_some_and(|to| !to.is_closed())
    }

    /// Takes what an agent or a poll saw.
    pub fn saw(&self, observation: Observation) {
        let mut seen = self.lock();
        if seen.is_news(&observation.what) {
            seen.send(observation);
        }
    }

    /// The node lost its power at `at`, or up to `error` before: all that ran on it ended.
    pub fn node_died(&self, node: &str, at: Instant, error: Duration) {
        let mut seen = self.lock();
        let Some(gone) = seen.nodes.remove(node) else { return };
        let ended = gone.containers.into_values().map(|container| What::Container {
            node: node.to_owned(),
            running: false,
            container,
        });
        let running =
            gone.processes.into_iter().filter(|(_, (state, _))| *state != ProcessState::Absent);
        let stopped = running.map(|(component, _)| What::Process {
            node: node.to_owned(),
            component,
            state: ProcessState::Absent,
            identity: String::new(),
        });
        for what in ended.chain(stopped) {
            seen.send(Observation { at, error, what });
        }
    }

    /// These containers run on the node, and no others: said by an agent that took over.
    pub fn running(&self, node: &str, running: &[ContainerFact], at: Instant, error: Duration) {
        let mut seen = self.lock();
        let known = seen.nodes.entry(node.to_owned()).or_default();
        let runs = |id: &String| running.iter().any(|fact| fact.id == *id);
        let ended: Vec<ContainerFact> = known
            .containers
            .iter()
            .filter(|(id, _)| !runs(id))
            .map(|(_, fact)| fact.clone())
            .collect();
        known.containers.retain(|id, _| runs(id));
        for container in ended {
            let what = What::Container { node: node.to_owned(), running: false, container };
            seen.send(Observation { at, error, what });
        }
    }

    /// The containers that the node was last seen to run: a paused node cannot be asked.
    pub fn containers(&self, node: &str) -> Vec<ContainerFact> {
        let seen = self.lock();
        seen.nodes
            .get(node)
            .map(|node| node.containers.values().cloned().collect())
            .unwrap_or_default()
    }

    /// The identity that a process was last seen to have.
    pub fn identity(&self, node: &str, component: Component) -> String {
        let seen = self.lock();
        let process = seen.nodes.get(node).and_then(|node| node.processes.get(&component));
        process.map(|(_, identity)| identity.clone()).unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("nothing panics while it holds what was seen")
    }
}

impl Seen {
    fn is_news(&mut self, what: &What) -> bool {
        match what {
            What::Container { node, running, container } => {
                let known = &mut self.nodes.entry(node.clone()).or_default().containers;
                if *running {
                    known.insert(container.id.clone(), container.clone()).is_none()
                } else {
                    known.remove(&container.id).is_some()
                }
            }
            What::Process { node, component, state, identity } => {
                let known = &mut self.nodes.entry(node.clone()).or_default().processes;
                let now = (state.clone(), identity.clone());
                known.insert(*component, now.clone()) != Some(now)
            }
            _ => true,
        }
    }

    fn send(&mut self, observation: Observation) {
        let Some(to) = &self.to else { return };
        if self.lost > 0 {
            let what = What::Trouble {
                doing: "gathering observations".to_owned(),
                why: format!("{} were lost: nobody took them", self.lost),
            };
            if to.try_send(Observation { what, ..observation.clone() }).is_ok() {
                self.lost = 0;
            }
        }
        if let Err(mpsc::error::TrySendError::Full(_)) = to.try_send(observation) {
            self.lost += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, running: bool) -> Observation {
        let container = ContainerFact {
            id: id.to_owned(),
            pod_uid: "u".to_owned(),
            namespace: "default".to_owned(),
            pod: "p".to_owned(),
            container: "c".to_owned(),
        };
        let what = What::Container { node: "worker-1".to_owned(), running, container };
        Observation { at: Instant::now(), error: Duration::ZERO, what }
    }

    fn drain(from: &mut mpsc::Receiver<Observation>) -> Vec<String> {
        let text = |what: What| match what {
            What::Container { running, container, .. } => format!("{} {running}", container.id),
            What::Process { component, state, .. } => format!("{component} {state:?}"),
            other => format!("{other:?}"),
        };
        std::iter::from_fn(|| from.try_recv().ok()).map(|seen| text(seen.what)).collect()
    }

    #[tokio::test]
    async fn what_is_known_is_not_told_again() {
        let eyes = Eyes::default();
        eyes.saw(container("lost", true));
        let mut from = eyes.open();
        for (id, running) in [("a", true), ("a", true), ("b", false), ("a", false), ("a", false)] {
            eyes.saw(container(id, running));
        }
        assert_eq!(drain(&mut from), ["a true", "a false"]);
    }

    #[tokio::test]
    async fn all_ends_with_its_node() {
        let eyes = Eyes::default();
        let mut from = eyes.open();
        eyes.saw(container("a", true));
        let what = What::Process {
            node: "worker-1".to_owned(),
            component: Component::Kubelet,
            state: ProcessState::Running,
            identity: "7/9".to_owned(),
        };
        eyes.saw(Observation { at: Instant::now(), error: Duration::ZERO, what });
        assert_eq!(eyes.identity("worker-1", Component::Kubelet), "7/9");
        drain(&mut from);
        eyes.node_died("worker-1", Instant::now(), Duration::ZERO);
        assert_eq!(drain(&mut from), ["a false", "kubelet Absent"]);
        eyes.node_died("worker-1", Instant::now(), Duration::ZERO);
        assert!(drain(&mut from).is_empty());
    }

    #[tokio::test]
    async fn a_new_agent_tells_what_ended_while_there_was_none() {
        let eyes = Eyes::default();
        let mut from = eyes.open();
        eyes.saw(container("a", true));
        eyes.saw(container("b", true));
        drain(&mut from);
        let b = eyes.containers("worker-1").pop().unwrap();
        eyes.running("worker-1", &[b], Instant::now(), Duration::ZERO);
        assert_eq!(drain(&mut from), ["a false"]);
    }
}
