//! The labels of everything that a run makes in Docker, and whether who made it still lives.
//!
//! A thing belongs to a run; a run belongs to a process. A process is told from a later one with the
//! same number by when it started, by the boot of its machine and by its process namespace.

use std::collections::BTreeMap;
use std::fs;

/// Which run a thing belongs to.
pub const RUN: &str = "shakedown.run";
/// Which cluster a thing belongs to.
pub const CLUSTER: &str = "shakedown.cluster";
/// Which node a container or volume is.
pub const NODE: &str = "shakedown.node";
/// The process that made it.
pub const PID: &str = "shakedown.pid";
/// When that process started, and where: see [`Owner`].
pub const START: &str = "shakedown.start";
/// `true`: it stays when its maker ends (`shakedown up`).
pub const KEEP: &str = "shakedown.keep";
/// The directory with the cluster's files.
pub const STATE: &str = "shakedown.state";

/// The process that a run belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its number.
    pub pid: String,
    /// Start time, boot and process namespace, joined by `/`.
    pub start: String,
}

/// Whether an owner lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It runs.
    Alive,
    /// It has ended.
    Dead,
    /// It is of another process namespace: it cannot be seen from here.
    Unseen,
}

fn boot() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

fn namespace() -> String {
    let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    link.to_string_lossy().chars().filter(char::is_ascii_digit).collect()
}

/// When a process started, in ticks since boot; nothing if there is none or it has ended.
fn start_of(pid: &str) -> Option<String> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = line.get(line.rfind(')')? + 1..)?.split_whitespace().collect();
    (!matches!(fields.first(), Some(&"Z" | &"X"))).then_some(())?;
    fields.get(19).map(|start| (*start).to_owned())
}

impl Owner {
    /// This process.
    pub fn this() -> Self {
        let pid = std::process::id().to_string();
        let start = start_of(&pid).unwrap_or_default();
        Self { pid, start: format!("{start}/{}/{}", boot(), namespace()) }
    }

    /// Whose a thing with these labels is.
    pub fn of(labels: &BTreeMap<String, String>) -> Option<Self> {
        Some(Self { pid: labels.get(PID)?.clone(), start: labels.get(START)?.clone() })
    }

    /// Whether it lives.
    pub fn life(&self) -> Life {
        let mut parts = self.start.split('/');
        let mut part = || parts.next().unwrap_or_default();
        let (start, its_boot, its_namespace) = (part(), part(), part());
        if its_boot != boot() {
            return Life::Dead;
        }
        if its_namespace != namespace() {
            return Life::Unseen;
        }
        if start_of(&self.pid).is_some_and(|now| now == start) { Life::Alive } else { Life::Dead }
    }
}

/// The labels of everything of one cluster.
pub fn labels(run: &str, cluster: &str, keep: bool, state: &str) -> BTreeMap<String, String> {
    let owner = Owner::this();
    let pairs = [
        (RUN, run),
        (CLUSTER, cluster),
        (PID, &owner.pid),
        (START, &owner.start),
        (KEEP, if keep { "true" } else { "false" }),
        (STATE, state),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_its_namesakes_do_not() {
        let this = Owner::this();
        assert_eq!(this.life(), Life::Alive);
        let (start, place) = this.start.split_once('/').unwrap();
        let later = Owner { start: format!("{start}1/{place}"), ..this.clone() };
        assert_eq!(later.life(), Life::Dead);
        let other_boot = Owner { start: format!("{start}/b/{}", namespace()), ..this.clone() };
        assert_eq!(other_boot.life(), Life::Dead);
        let elsewhere = Owner { start: format!("{start}/{}/1", boot()), ..this };
        assert_eq!(elsewhere.life(), Life::Unseen);
    }

    #[test]
    fn labels_name_their_owner() {
        let labels = labels("r", "c", false, "/s");
        assert_eq!(Owner::of(&labels), Some(Owner::this()));
        assert_eq!(Owner::of(&BTreeMap::new()), None);
    }
}
