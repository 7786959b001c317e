//! Which notifications a write may follow from, and of those which are worth a run of their own.
//!
//! The idea is Sieve's (Sun et al., OSDI 2022): a state of a controller matters where something was
//! seen and something was then written about it. Pure; each step says how many pairs it left.

use std::collections::BTreeMap;

use serde::Serialize;

use super::trace::{About, Notification, Subject, Trace, Write};

/// Kinds that live by time or only tell what happened.
const IDLE: &[&str] = &["events", "leases.coordination.k8s.io"];

/// What the object of a notification is to the object of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It is the same.
    Same,
    /// It owns it.
    Owner,
    /// It is owned by it.
    Owned,
    /// It has an owner in common with it.
    Sibling,
    /// It is the node of the pod, or one on which the pod could be put.
    Node,
    /// It is the namespace that it is in.
    Namespace,
    /// It is in the namespace that is written to.
    Content,
}

/// What one object is to another; `None` if nothing.
pub fn role(write: &Write, seen: &About) -> Option<Role> {
    let about = &write.about;
    let is_in_namespace = seen.kind == "namespaces" && seen.name == about.namespace;
    if seen.kind == about.kind && seen.name == about.name && seen.namespace == about.namespace {
        Some(Role::Same)
    } else if about.owners.contains(&seen.uid) {
        Some(Role::Owner)
    } else if !about.uid.is_empty() && seen.owners.contains(&about.uid) {
        Some(Role::Owned)
    } else if seen.kind == about.kind && seen.owners.iter().any(|uid| about.owners.contains(uid)) {
        Some(Role::Sibling)
    } else if seen.kind == "nodes" && about.kind == "pods" {
        (write.controller == "scheduler" || seen.name == about.node).then_some(Role::Node)
    } else if is_in_namespace && write.controller == "namespace-controller" {
        Some(Role::Namespace)
    } else if about.kind == "namespaces" && seen.namespace == about.name {
        Some(Role::Content)
    } else {
        None
    }
}

/// A notification and a write after it, by their places in the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// What was seen.
    pub notification: usize,
    /// What was then written.
    pub write: usize,
    /// What the one is to the other.
    pub role: Role,
}

/// How many there were, and how many each step left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Notifications that the component was told.
    pub notifications: usize,
    /// Its writes.
    pub writes: usize,
    /// Pairs of a notification and a later write.
    pub pairs: usize,
    /// Of these, without events and leases.
    pub timeless: usize,
    /// Of these, with a write that changed something.
    pub changing: usize,
    /// Of these, about objects that belong together.
    pub related: usize,
    /// Of these, with the last notification of its sort before the write.
    pub latest: usize,
    /// Of these, not alike: the first and the last of each sort.
    pub unlike: usize,
    /// Writes that are not alike: the first and the last of each sort.
    pub unlike_writes: usize,
}

/// What is worth a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Pairs of what was seen and what was then written.
    pub pairs: Vec<Pair>,
    /// Writes, by their places in the trace.
    pub writes: Vec<usize>,
    /// How it came to these.
    pub counts: Counts,
}

/// Pairs what a component was told with what it wrote, and leaves out what cannot matter.
pub fn prune(trace: &Trace, subject: &Subject) -> Pruned {
    let notifications: Vec<(usize, &Notification)> = trace
        .notifications
        .iter()
        .enumerate()
        .filter(|(_, seen)| subject.watches(&seen.about.kind))
        .collect();
    let writes: Vec<(usize, &Write)> =
        trace.writes.iter().enumerate().filter(|(_, write)| write.user == subject.user).collect();
    let mut counts =
        Counts { notifications: notifications.len(), writes: writes.len(), ..Counts::default() };
    let is_idle = |kind: &str| IDLE.contains(&kind);
    let mut latest: Vec<Pair> = Vec::new();
    for (at, write) in &writes {
        let mut last: BTreeMap<(Role, &str), usize> = BTreeMap::new();
        for (place, seen) in notifications.iter().filter(|(_, seen)| is_before(seen, write)) {
            counts.pairs += 1;
            if is_idle(&write.about.kind) || is_idle(&seen.about.kind) {
                continue;
            }
            counts.timeless += 1;
            if write.shape.is_empty() {
                continue;
            }
            counts.changing += 1;
            if let Some(role) = role(write, &seen.about) {
                counts.related += 1;
                last.insert((role, &seen.about.kind), *place);
            }
        }
        let pairs = last.into_iter().map(|((role, _), place)| Pair {
            notification: place,
            write: *at,
            role,
        });
        latest.extend(pairs);
    }
    counts.latest = latest.len();
    let pairs = ends(latest, |pair| {
        let (seen, write) = (&trace.notifications[pair.notification], &trace.writes[pair.write]);
        (sort(write), pair.role, (seen.about.kind.clone(), seen.shape.clone()))
    });
    counts.unlike = pairs.len();
    let meant = writes
        .iter()
        .filter(|(_, write)| !write.shape.is_empty() && !is_idle(&write.about.kind))
        .map(|(at, _)| *at)
        .collect();
    let writes = ends(meant, |at| sort(&trace.writes[*at]));
    counts.unlike_writes = writes.len();
    Pruned { pairs, writes, counts }
}

fn is_before(seen: &Notification, write: &Write) -> bool {
    seen.seq < write.seq && (write.revision == 0 || seen.revision < write.revision)
}

/// Writes of the same sort are alike.
fn sort(write: &Write) -> (&'static str, String, String, String) {
    (write.controller, write.about.kind.clone(), write.verb.clone(), write.shape.clone())
}

/// The first and the last of each sort, in their order.
fn ends<T: Clone, K: Ord>(all: Vec<T>, sort: impl Fn(&T) -> K) -> Vec<T> {
    let mut sorts: BTreeMap<K, (usize, usize)> = BTreeMap::new();
    for (at, one) in all.iter().enumerate() {
        sorts.entry(sort(one)).and_modify(|(_, last)| *last = at).or_insert((at, at));
    }
    let mut kept: Vec<usize> = sorts.into_values().flat_map(|(one, other)| [one, other]).collect();
    kept.sort_unstable();
    kept.dedup();
    kept.into_iter().map(|at| all[at].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::trace::SUBJECTS;
    use super::*;

    const KCM: &Subject = &SUBJECTS[0];
    const SCHEDULER: &Subject = &SUBJECTS[1];

    fn about(kind: &str, name: &str, owner: &str) -> About {
        About {
            kind: kind.to_owned(),
            namespace: "ns".to_owned(),
            name: name.to_owned(),
            uid: format!("u-{name}"),
            owners: if owner.is_empty() { vec![] } else { vec![format!("u-{owner}")] },
            node: "n".to_owned(),
        }
    }

    fn seen(seq: u64, about: About, shape: &str) -> Notification {
        let revision = i64::try_from(seq).expect("a small number");
        Notification { seq, at_us: seq, revision, about, shape: shape.to_owned() }
    }

    fn wrote(seq: u64, about: About, shape: &str) -> Write {
        Write {
            seq,
            at_us: seq,
            user: KCM.user.to_owned(),
            controller: "replicaset-controller",
            verb: "create".to_owned(),
            about,
            revision: i64::try_from(seq).expect("a small number"),
            shape: shape.to_owned(),
        }
    }

    fn trace(notifications: Vec<Notification>, writes: Vec<Write>) -> Trace {
        Trace { anchors: vec![], notifications, writes }
    }

    #[test]
    fn what_belongs_together_is_paired_and_nothing_else() {
        let cluster =
            |kind: &str, name: &str| About { namespace: String::new(), ..about(kind, name, "") };
        let namespaces = |mut write: Write| {
            write.controller = "namespace-controller";
            write
        };
        let pod = wrote(9, about("pods", "p", "rs"), "added");
        let set = wrote(9, about("replicasets.apps", "rs", "web"), "added");
        for (write, other, expected) in [
            (&pod, about("pods", "p", "rs"), Some(Role::Same)),
            (&pod, about("replicasets.apps", "rs", "web"), Some(Role::Owner)),
            (&pod, about("pods", "q", "rs"), Some(Role::Sibling)),
            (&pod, about("pods", "q", "other"), None),
            (&pod, about("deployments.apps", "web", ""), None),
            (&pod, cluster("nodes", "n"), Some(Role::Node)),
            (&pod, cluster("nodes", "m"), None),
            (&pod, cluster("namespaces", "ns"), None),
            (&set, about("pods", "p", "rs"), Some(Role::Owned)),
            (&set, about("deployments.apps", "web", ""), Some(Role::Owner)),
            (&namespaces(pod.clone()), cluster("namespaces", "ns"), Some(Role::Namespace)),
            (
                &wrote(9, cluster("namespaces", "ns"), "x"),
                about("pods", "p", ""),
                Some(Role::Content),
            ),
        ] {
            assert_eq!(role(write, &other), expected, "{write:?} {other:?}");
        }
    }

    #[test]
    fn each_step_leaves_less() {
        let set = || about("replicasets.apps", "rs", "");
        let pod = |name: &str| about("pods", name, "rs");
        let notifications = vec![
            seen(1, set(), "added"),
            seen(2, about("leases.coordination.k8s.io", "l", ""), "/spec"),
            seen(3, about("configmaps", "c", ""), "added"),
            seen(4, set(), "/spec/replicas+"),
            seen(6, pod("a"), "added"),
            seen(8, pod("b"), "added"),
            // Nothing is written after it.
            seen(99, set(), "/metadata/labels"),
        ];
        let writes = vec![
            wrote(5, pod("a"), "added"),
            wrote(7, pod("b"), "added"),
            wrote(9, pod("c"), "added"),
            // It changes nothing.
            wrote(10, pod("c"), ""),
            wrote(11, about("leases.coordination.k8s.io", "l", ""), "/spec"),
        ];
        let pruned = prune(&trace(notifications, writes), KCM);
        let counts = Counts {
            notifications: 7,
            writes: 5,
            pairs: 4 + 5 + 6 + 6 + 6,
            timeless: 3 + 4 + 5 + 5,
            changing: 3 + 4 + 5,
            // The set twice before each; the own pods before the second and the third.
            related: 2 + 3 + 4,
            latest: 1 + 2 + 2,
            // The set before the first and the last; siblings before the second and the last.
            unlike: 4,
            unlike_writes: 2,
        };
        assert_eq!(pruned.counts, counts);
        let pairs: Vec<_> =
            pruned.pairs.iter().map(|pair| (pair.notification, pair.write, pair.role)).collect();
        let expected = [
            (3, 0, Role::Owner),
            (4, 1, Role::Sibling),
            (3, 2, Role::Owner),
            (5, 2, Role::Sibling),
        ];
        assert_eq!(pairs, expected, "{pairs:?}");
        assert_eq!(pruned.writes, [0, 2]);
    }

    #[test]
    fn a_view_holds_nothing_that_came_with_the_write_or_later() {
        let write = wrote(5, about("pods", "a", "rs"), "added");
        let own = Notification { seq: 4, ..seen(5, about("pods", "a", "rs"), "added") };
        let later = seen(6, about("pods", "b", "rs"), "added");
        let pruned = prune(&trace(vec![own, later], vec![write]), KCM);
        assert_eq!((pruned.counts.pairs, pruned.pairs.len()), (0, 0));
        assert_eq!(pruned.writes.len(), 1, "it can crash there all the same");
    }

    #[test]
    fn a_component_is_told_only_of_what_it_watches_and_writes_as_itself() {
        let mut write = wrote(5, about("pods", "a", "rs"), "/spec/nodeName");
        (write.user, write.controller) = (SCHEDULER.user.to_owned(), "scheduler");
        let node = About { namespace: String::new(), ..about("nodes", "m", "") };
        let notifications =
            vec![seen(1, about("replicasets.apps", "rs", ""), "added"), seen(2, node, "added")];
        let trace = trace(notifications, vec![write]);
        let pruned = prune(&trace, SCHEDULER);
        assert_eq!(pruned.counts.notifications, 1);
        assert_eq!(pruned.pairs, [Pair { notification: 1, write: 0, role: Role::Node }]);
        assert_eq!(prune(&trace, KCM).counts.writes, 0);
    }
}
