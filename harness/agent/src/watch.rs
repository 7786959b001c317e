//! What the agent sees by itself: containers and processes that come and go, and audit lines.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shakedown_core::lever::{Component, ProcessState, Reading};
use shakedown_core::timeline::What;

use crate::audit::AuditLog;
use crate::containers::Containers;
use crate::output::Output;
use crate::processes;

/// The node is looked at so often: a container that starts and ends in between is not seen. A look
/// costs a few dozen small reads.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Follows the node until a later generation takes over.
pub struct Watch {
    node: String,
    output: Output,
    containers: Containers,
    audit: Option<AuditLog>,
    processes: BTreeMap<Component, (ProcessState, String)>,
    looked_us: u64,
}

impl Watch {
    /// Begins with what there is.
    pub fn new(node: String, output: Output, audit_log: &str) -> Self {
        let audit = (!audit_log.is_empty())
            .then(|| AuditLog::from_end(PathBuf::from(audit_log), node.clone()));
        let looked_us = output.now_us();
        Self {
            node,
            output,
            containers: Containers::default(),
            audit,
            processes: BTreeMap::new(),
            looked_us,
        }
    }

    /// Looks again and again, until `generation` is no longer `mine`.
    pub fn run(mut self, generation: &AtomicU64, mine: u64) {
        self.tell_what_runs();
        while generation.load(Ordering::Relaxed) == mine {
            self.look();
            crate::pause(LOOK_EVERY);
        }
    }

    fn tell_what_runs(&mut self) {
        self.containers.look();
        let at_us = self.output.now_us();
        for running in self.containers.of_pod("") {
            let container = running.fact.clone();
            let what = What::Container { node: self.node.clone(), running: true, container };
            self.output.seen(at_us, 0, what);
        }
    }

    fn look(&mut self) {
        let at_us = self.output.now_us();
        let (started, ended) = self.containers.look();
        let mut seen = Vec::new();
        for (running, facts) in [(false, ended), (true, started)] {
            seen.extend(facts.into_iter().map(|container| What::Container {
                node: self.node.clone(),
                running,
                container,
            }));
        }
        seen.extend(self.changed_processes());
        seen.extend(self.audit.as_mut().map(AuditLog::look).unwrap_or_default());
        // Nothing is known of the time since the last look.
        let error_us = at_us.saturating_sub(self.looked_us);
        for what in seen {
            self.output.seen(at_us, error_us, what);
        }
        self.looked_us = at_us;
    }

    fn changed_processes(&mut self) -> Vec<What> {
        let mut changed = Vec::new();
        for component in Component::ALL {
            let Reading::Process { state, identity, .. } = processes::reading(*component) else {
                continue;
            };
            let now = (state, identity);
            let before = self.processes.get(component);
            let never_ran = before.is_none() && now.0 == ProcessState::Absent;
            if before != Some(&now) && !never_ran {
                self.processes.insert(*component, now.clone());
                changed.push(What::Process {
                    node: self.node.clone(),
                    component: *component,
                    state: now.0,
                    identity: now.1,
                });
            }
        }
        changed
    }
}
