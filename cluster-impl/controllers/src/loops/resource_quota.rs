//! Counts what is used of every ResourceQuota: when its spec changes, when something that it counts goes
//! or ends, and every so often.
//!
//! ```yaml
//! kind: ResourceQuota
//! spec: {hard: {pods: "10"}}
//! status: {hard: {pods: "10"}, used: {pods: "3"}}
//! ```
//!
//! What is created is counted by the API server, in the transaction that creates it.

use std::sync::Arc;
use std::time::Duration;

use apiclient::Informed;
use machinery::kinds::{CUSTOM_RESOURCE_DEFINITION, EVENT, POD, RESOURCE_QUOTA};
use machinery::{Kind, Object, ObjectKey, View, custom, kinds, pod, quota};

use crate::{Config, Controller, DecideCx, Decision, Key, Write};

/// `--resource-quota-sync-period`
const SYNC_PERIOD: Duration = Duration::from_secs(300);

/// The controller. It remembers nothing.
pub struct ResourceQuotaController;

impl ResourceQuotaController {
    /// The controller.
    pub fn new(_: &Config) -> Self {
        Self
    }
}

/// Whether a change of something that a quota may count gives something back.
fn gives_back(change: &Informed) -> bool {
    let Some(old) = &change.old else { return false };
    let Some(new) = &change.new else { return true };
    // A pod that has ended, and one that its node does not let go, no longer take anything.
    change.kind.id == POD.id
        && (pod::is_finished(new) && !pod::is_finished(old)
            || new.is_terminating() && !old.is_terminating())
}

/// The quotas that count objects of a kind.
fn counting<'v>(quotas: impl Iterator<Item = &'v Arc<Object>>, kind: &'static Kind) -> Vec<Key> {
    let counting =
        quotas.filter(|quota| quota::counted(quota, &[kind]).iter().any(|one| one.id == kind.id));
    counting.map(|quota| Key::of(&RESOURCE_QUOTA, quota.key())).collect()
}

/// When a pod is past its grace, from when on it is not counted any more.
fn past_grace(pod: &Object, cx: &DecideCx<'_>) -> Option<Duration> {
    let grace_s = pod.integer("/metadata/deletionGracePeriodSeconds")?;
    let grace = Duration::from_secs(u64::try_from(grace_s).ok()?);
    let end = pod.deletion_timestamp()?.checked_add(grace).ok()?;
    let left = end.duration_since(cx.now);
    // A moment later, for at the end itself it still counts.
    Duration::try_from(left).ok().map(|left| left + Duration::from_secs(1))
}

impl Controller for ResourceQuotaController {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    fn watches(&self) -> Vec<&'static Kind> {
        Vec::new()
    }

    fn watches_rare(&self) -> Vec<&'static Kind> {
        let is_watched = |kind: &Kind| {
            kind.namespaced && kind.id != EVENT.id || kind.id == CUSTOM_RESOURCE_DEFINITION.id
        };
        kinds::ALL.iter().copied().filter(|kind| is_watched(kind)).collect()
    }

    fn changed(&mut self, view: &View, change: &Informed, _: &DecideCx<'_>) -> Vec<Key> {
        if change.kind.id == RESOURCE_QUOTA.id {
            let Some(new) = &change.new else { return Vec::new() };
            let is_settled = change
                .old
                .as_ref()
                .is_some_and(|_| new.get("/spec/hard") == new.get("/status/hard"));
            return match is_settled {
                true => Vec::new(),
                false => vec![Key::of(&RESOURCE_QUOTA, change.key.clone())],
            };
        }
        if change.kind.id == CUSTOM_RESOURCE_DEFINITION.id {
            // What was limited before it was defined can be counted from now on.
            let came_up = change.new.as_deref().and_then(custom::preferred);
            let is_news = change.old.as_deref().and_then(custom::preferred).is_none();
            return match came_up.filter(|kind| kind.namespaced && is_news) {
                Some(kind) => counting(view.all(&RESOURCE_QUOTA), kind),
                None => Vec::new(),
            };
        }
        if !change.kind.namespaced || change.kind.id == EVENT.id || !gives_back(change) {
            return Vec::new();
        }
        counting(view.in_namespace(&RESOURCE_QUOTA, &change.key.namespace), change.kind)
    }

    fn decide(&mut self, view: &View, key: &Key, cx: &DecideCx<'_>) -> Decision {
        let Some(quota) = view.get(&RESOURCE_QUOTA, &key.object) else {
            return Decision::settled();
        };
        if quota.is_terminating() {
            return Decision::settled();
        }
        let mut decision = Decision::default();
        decision.again(SYNC_PERIOD);
        if quota::counted(quota, &[]).iter().any(|kind| kind.id == POD.id) {
            let going = view.in_namespace(&POD, &key.object.namespace);
            let going = going.filter(|pod| pod.is_terminating());
            if let Some(soonest) = going.filter_map(|pod| past_grace(pod, cx)).min() {
                decision.again(soonest);
            }
        }
        let quota = ObjectKey::clone(&key.object);
        decision.writes.push(Write::Recount { quota, now: cx.now });
        decision
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    fn world(text: &str) -> World {
        World::new(|config| Box::new(ResourceQuotaController::new(config)), text)
    }

    #[test]
    fn a_quota_is_counted_when_it_is_made_and_when_something_goes() {
        let mut world = world(
            r#"quota/q /spec/hard={"pods":"5","configmaps":"3"}; pod/a node=n; pod/b node=n; cm/c;
               cm/d ns=other"#,
        );
        assert_eq!(
            world.run_to(1).trim(),
            r#"0 count default/q {"configmaps":"1","pods":"2"}"#
        );
        world.see("pod/new node=n; cm/new");
        assert_eq!(world.run_to(5), "", "what is created is not this controller's");
        world.see("-pod/a; pod/b phase=Succeeded; -secret/unknown");
        assert_eq!(
            world.run_to(9).trim(),
            r#"5 count default/q {"configmaps":"2","pods":"1"}"#
        );
        world.see(r#"quota/q /spec/hard={"pods":"7"}"#);
        assert_eq!(world.run_to(10).trim(), r#"9 count default/q {"pods":"1"}"#);
        world.see("-cm/c");
        assert_eq!(world.run_to(11), "", "this quota does not count them any more");
        assert_eq!(world.run_to(309).trim(), "309 counted default/q", "looked at every five minutes");
    }

    #[test]
    fn a_pod_that_its_node_does_not_let_go_is_not_counted_for_ever() {
        let mut world = world(
            r#"quota/q /spec/hard={"pods":"5"};
               pod/a node=n /metadata/deletionGracePeriodSeconds=30; pod/b node=n"#,
        );
        assert_eq!(world.run_to(1).trim(), r#"0 count default/q {"pods":"2"}"#);
        world.see("pod/a deleted");
        assert_eq!(world.run_to(20).trim(), "1 counted default/q");
        assert_eq!(world.run_to(40).trim(), r#"32 count default/q {"pods":"1"}"#);
    }
}
