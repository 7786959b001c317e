//! When what happens: groups of faults and changes one after the other, then peace.
//!
//! A group is a fault alone, faults that overlap, a fault while objects are changed, or a burst. What a
//! fault takes away decides what may overlap with it: nothing is asked of the API while nobody can
//! answer, and no two faults touch one node.

use serde_json::{Value, json};

use super::asked;
use super::faults::{Drawn, Free, Side, draw as draw_fault};
use super::ground::{Ground, shown};
use crate::draw::Draw;

/// How long the faults of a storm last together, at most, in milliseconds; a storm over the documented
/// timings may be longer.
const BUDGET: u64 = 60_000;
/// Faults that are done to a deployment's pods, or wait until there is news of them.
const POD_FAULTS: &[&str] =
    &["container-kill", "crash-at-write", "freeze-view", "hold-events", "pod-delete", "rewind"];
/// Faults after which a worker's heartbeats stop.
const SILENCING: &[&str] = &["disk-loss", "node-kill", "node-pause", "partition", "process-stop"];
/// The ConfigMap by which faults are told that the storm is over.
const CALM: &str = "calm";

/// That a Deployment `d` has all that it asks for. A count of nothing is left out of a status.
const HAS_ALL: &str = "d.status.observedGeneration == d.metadata.generation && \
    ((d.spec.replicas == 0 && d.status.replicas == 0) || \
    (d.status.readyReplicas == d.spec.replicas && \
    has(d.status.updatedReplicas) && d.status.updatedReplicas == d.spec.replicas && \
    d.status.replicas == d.spec.replicas))";

/// Draws the steps.
pub(crate) struct Schedule<'a> {
    ground: &'a mut Ground,
    random: Draw,
    kinds: Vec<&'static str>,
    steps: Vec<Value>,
    faults: usize,
    /// Virtual time so far, roughly.
    spent: u64,
    /// What of it passes whatever happens.
    sure: u64,
    rounds: u32,
    needs_marker: bool,
    /// How often a container was killed: its restarts are backed off.
    kills: u64,
    /// Whether a member of etcd lost its disk: it takes time until another can be lost.
    has_lost_disk: bool,
    /// Whether the leader of a component may have died a moment ago.
    is_unsettled: bool,
}

impl<'a> Schedule<'a> {
    /// Over this ground, with faults of these kinds.
    pub fn new(seed: u64, ground: &'a mut Ground, kinds: &[&'static str]) -> Self {
        let mut random = Draw::new(seed, "schedule");
        let share = random.between(20, 80);
        let kinds = random.some(kinds, share);
        Self {
            ground,
            random,
            kinds,
            steps: Vec::new(),
            faults: 0,
            spent: 0,
            sure: 0,
            rounds: 0,
            needs_marker: false,
            kills: 0,
            has_lost_disk: false,
            is_unsettled: false,
        }
    }

    /// The steps of a storm: the safety phase, then the liveness phase.
    pub fn draw(mut self) -> Vec<Value> {
        let pause = self.random.between(500, 4000);
        self.wait(pause);
        if self.random.chance(8) {
            self.theft();
        }
        let groups = self.random.between(1, 4);
        for _ in 0..groups {
            if self.spent > BUDGET {
                break;
            }
            match self.random.below(10) {
                0 | 1 => self.alone(),
                2..=5 => self.overlap(),
                6 | 7 => self.during(),
                _ => self.burst(),
            }
        }
        self.peace();
        self.steps
    }

    fn wait(&mut self, millis: u64) {
        self.spent += millis;
        self.sure += millis;
        self.steps.push(json!({"wait": shown(millis)}));
    }

    /// Waits until something is under way, so that what comes next hits it; not for ever.
    fn wait_for_moment(&mut self, most: u64) {
        let number = self.random.between(0, 2);
        let moments = [
            format!("cluster.seen['lease-changed-hands'] > {number}"),
            format!("cluster.seen['leader-changed'] > {number}"),
            format!("cluster.seen['pod-evicted'] > {number}"),
            format!("cluster.seen['pod-replaced'] > {}", 2 * number),
            "cluster.seen['quorum-lost'] > cluster.seen['quorum-regained']".to_owned(),
            "cluster.seen['eviction-started'] > cluster.seen['pod-evicted']".to_owned(),
            "cluster.seen['node-went-unknown'] > cluster.seen['node-came-back']".to_owned(),
            "cluster.etcd.leader == ''".to_owned(),
            "objects.pods.exists(p, has(p.metadata.deletionTimestamp))".to_owned(),
        ];
        let moment = self.random.one(&moments).clone();
        self.spent += most;
        self.steps.push(json!({"wait": shown(most), "until": {"cel": moment}}));
    }

    /// How long a fault lasts: a blink, until it is noticed, or until pods were evicted.
    fn lasts(&mut self) -> u64 {
        let (noticed, evicted) = (self.ground.noticed_after, self.ground.evicted_after);
        let millis = match self.random.below(6) {
            0 => self.random.between(500, 3000),
            1 | 2 => self.random.between(1000, self.ground.lease + 3000),
            3 => self.random.between(noticed / 2, noticed + 2000),
            4 => noticed + self.random.between(0, 4000),
            _ => evicted + self.random.between(0, 6000),
        };
        // Whole tenths of a second are read more easily.
        millis.min(400_000) / 100 * 100
    }

    fn fault(&mut self, sides: &[Side]) -> Option<(Drawn, String)> {
        let taken: Vec<u64> = sides
            .iter()
            .filter_map(|side| match side {
                Side::Worker(number)
                | Side::Link(number)
                | Side::Cut(number)
                | Side::Node(number) => Some(*number),
                _ => None,
            })
            .collect();
        let everybody = sides.contains(&Side::Workers);
        let mut workers: Vec<u64> = (1..=self.ground.workers)
            .filter(|number| !everybody && !taken.contains(number))
            .collect();
        // One control plane alone has nobody to reach: a worker must stay to bear witness.
        if self.ground.control_planes == 1 && !sides.is_empty() && workers.len() < 2 {
            workers.clear();
        }
        let kinds = self.kinds.clone();
        for _ in 0..4 {
            let kind = *self.random.one(&kinds);
            let may_lose_disk = !self.has_lost_disk;
            let free = Free { ground: self.ground, workers: &workers, may_lose_disk };
            let Some(drawn) = draw_fault(kind, &mut self.random, &free) else { continue };
            if goes_with(drawn.side, sides) {
                self.faults += 1;
                self.has_lost_disk |= kind == "disk-loss" && drawn.side == Side::Fall;
                if drawn.side == Side::Container {
                    self.kills += 1;
                }
                let name = format!("f{}", self.faults);
                return Some((drawn, name));
            }
        }
        None
    }

    fn inject(&mut self, drawn: Drawn, name: &str, end: Option<(&str, Value)>) {
        if drawn.side == Side::Container {
            // Changes just made would touch the containers beside it, which bear witness.
            self.wait(3000);
        }
        let on = drawn.fields.get("on").and_then(Value::as_str).unwrap_or_default();
        if drawn.least > 0 && on.starts_with("leader") && self.is_unsettled {
            // What is armed for a leader that has just died is never met: somebody must follow it.
            self.wait(self.ground.lease + 3000);
            self.is_unsettled = false;
        }
        self.is_unsettled |= matches!(drawn.side, Side::Plane | Side::Fall | Side::Quorum);
        let restarts =
            !drawn.holds && matches!(drawn.side, Side::Plane | Side::Fall | Side::Quorum);
        let needs_change = drawn.needs_change;
        let mut step = drawn.fields;
        if let Some((key, value)) = end.filter(|_| drawn.holds) {
            step.insert(key.to_owned(), value);
        }
        step.insert("as".to_owned(), name.into());
        self.steps.push(Value::Object(step));
        if needs_change {
            self.roll();
        }
        if restarts {
            // What has just been killed cannot be killed again before it was started.
            self.wait(3000);
        }
    }

    /// One fault that ends by itself.
    fn alone(&mut self) {
        let Some((drawn, name)) = self.fault(&[]) else { return };
        let (lasts, rest) = (self.lasts().max(drawn.least), self.random.between(500, 6000));
        let holds = drawn.holds;
        let watched = self.watched(&drawn);
        match watched.filter(|_| self.random.chance(30)) {
            Some(until) => {
                self.needs_marker = true;
                self.inject(drawn, &name, Some(("until", until)));
                self.wait(self.ground.noticed_after + rest);
            }
            None => {
                self.inject(drawn, &name, Some(("for", shown(lasts).into())));
                self.wait(if holds { lasts + rest } else { rest });
            }
        }
    }

    /// For a fault of one worker: that it was noticed, or that the storm is over.
    fn watched(&self, drawn: &Drawn) -> Option<Value> {
        let (Side::Worker(number) | Side::Cut(number)) = drawn.side else { return None };
        let kind = drawn.fields.get("fault")?.as_str()?;
        if !SILENCING.contains(&kind) {
            return None;
        }
        let over = format!("objects.configmaps.exists(c, c.metadata.name == '{CALM}')");
        let lost = format!(
            "objects.nodes.exists(n, n.metadata.name == 'worker-{number}' && \
             n.status.conditions.exists(c, c.type == 'Ready' && c.status == 'Unknown'))"
        );
        drawn.holds.then(|| json!({"cel": format!("{lost} || {over}")}))
    }

    /// Faults of which each begins while the ones before last.
    fn overlap(&mut self) {
        let mut sides = Vec::new();
        let (mut now, mut ends) = (0, 0);
        for _ in 0..self.random.between(2, 3) {
            let Some((drawn, name)) = self.fault(&sides) else { break };
            let lasts = self.lasts().max(drawn.least);
            if drawn.holds {
                sides.push(drawn.side);
                ends = ends.max(now + lasts);
            }
            self.inject(drawn, &name, Some(("for", shown(lasts).into())));
            let pause = if self.random.chance(30) {
                let most = (lasts / 2).max(3000) / 100 * 100;
                self.wait_for_moment(most);
                // It may be over at once.
                0
            } else {
                let pause = self.random.between(0, 5000) / 100 * 100;
                self.wait(pause);
                pause
            };
            now += pause;
        }
        let rest = self.random.between(500, 4000);
        self.wait(ends.saturating_sub(now) + rest);
    }

    /// A fault while objects are changed. It ends by a `heal:` or at the moment after the changes.
    fn during(&mut self) {
        let Some((drawn, name)) = self.fault(&[]) else { return };
        let (side, holds, least) = (drawn.side, drawn.holds, drawn.least);
        let began = self.sure;
        let heals = holds && self.random.chance(50);
        let moment = format!("after-{name}");
        let end = (!heals).then(|| ("until", Value::from(moment.clone())));
        self.inject(drawn, &name, end);
        for _ in 0..self.random.between(1, 3) {
            if self.random.chance(25) {
                self.wait_for_moment(self.ground.lease + 2000);
            } else {
                let pause = self.random.between(200, 4000);
                self.wait(pause);
            }
            if side != Side::Quorum {
                self.change();
            }
        }
        if self.random.chance(50) {
            let more = self.lasts();
            self.wait(more);
        }
        if self.sure < began + least {
            self.wait(began + least - self.sure);
        }
        if heals {
            self.steps.push(json!({"heal": name}));
        } else if holds {
            let pause = self.random.between(500, 3000);
            self.spent += pause;
            self.steps.push(json!({"wait": shown(pause), "as": moment}));
        } else {
            self.steps.push(json!({"wait": "1s", "as": moment}));
        }
        let rest = self.random.between(500, 4000);
        self.wait(rest);
    }

    /// Changes and momentary faults, one upon the other.
    fn burst(&mut self) {
        for _ in 0..self.random.between(2, 5) {
            let drawn = if self.random.chance(50) { self.fault(&[]) } else { None };
            match drawn {
                Some((drawn, name)) => {
                    let lasts = (self.random.between(500, 2500) / 100 * 100).max(drawn.least);
                    let holds = drawn.holds;
                    self.inject(drawn, &name, Some(("for", shown(lasts).into())));
                    if holds {
                        self.wait(lasts + 500);
                    }
                }
                None => self.change(),
            }
            let pause = self.random.between(0, 1500) / 100 * 100;
            if pause > 0 {
                self.wait(pause);
            }
        }
        let rest = self.random.between(1000, 6000);
        self.wait(rest);
    }

    /// A change of what is wanted.
    fn change(&mut self) {
        let at = self.random.below(self.ground.deployments.len());
        let name = self.ground.deployments[at].0.clone();
        if self.random.chance(55) {
            // A deployment of nothing has no pod that a later fault could be done to.
            let fewest = u64::from(self.kinds.iter().any(|kind| POD_FAULTS.contains(kind)));
            let replicas = self.random.between(fewest, self.ground.workers + 4);
            self.ground.deployments[at].1 = replicas;
            self.steps.push(json!({"scale": {"deployment": name, "replicas": replicas}}));
        } else {
            self.roll_of(name);
        }
    }

    /// A rollout of a Deployment: news of it, of its ReplicaSets and of its pods.
    fn roll(&mut self) {
        let at = self.random.below(self.ground.deployments.len());
        self.roll_of(self.ground.deployments[at].0.clone());
    }

    fn roll_of(&mut self, name: String) {
        self.rounds += 1;
        // The workload rolls by an annotation of its own.
        let annotations = json!({"shakedown.dev/turn": self.rounds.to_string()});
        let spec = json!({"template": {"metadata": {"annotations": annotations}}});
        self.steps.push(json!({"patch": {"deployment": name, "spec": spec}}));
    }

    /// Somebody else takes the lease of a component's leader, and does nothing with it.
    fn theft(&mut self) {
        let component = *self.random.one(&["kube-controller-manager", "kube-scheduler"]);
        let spec = json!({"holderIdentity": "nobody", "leaseTransitions": 1000});
        self.steps
            .push(json!({"patch": {"lease": component, "namespace": "kube-system", "spec": spec}}));
        self.change();
        let rest = self.ground.lease + self.random.between(2000, 6000);
        self.wait(rest);
    }

    /// Everything is healed; what must then become true.
    fn peace(&mut self) {
        if self.needs_marker {
            let metadata = json!({"name": CALM});
            let marker = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"value": CALM}});
            self.steps.push(json!({"apply": marker}));
        }
        self.steps.push(json!({"wait": "1s", "as": CALM}));
        let backed_off = 20 + 30 * self.kills.min(6);
        let within =
            json!(["0s", format!("lease + 4 * retry + grace + 2 * monitor + T + {backed_off}s")]);
        let settles = |steps: &mut Vec<Value>, condition: String, name: String| {
            steps.push(json!({
                "settles": {"cel": condition}, "within": within, "after": CALM, "for": "2s", "as": name,
            }));
        };
        settles(&mut self.steps, "cluster.etcd.leader != ''".to_owned(), "led".to_owned());
        let ready = "objects.nodes.all(n, n.status.conditions.exists(c, c.type == 'Ready' && c.status == 'True') \
                     && n.spec.taints.size() == 0)";
        settles(&mut self.steps, ready.to_owned(), "nodes-ready".to_owned());
        for (name, replicas) in &self.ground.deployments {
            let ready =
                format!("objects.deployments.exists(d, d.metadata.name == '{name}' && {HAS_ALL})");
            if self.ground.changes() {
                // That all come to rest once the changes end is an invariant; here it is once between two.
                let rested = json!([
                    "0s",
                    format!("lease + 4 * retry + grace + 2 * monitor + T + {}s", backed_off + 60)
                ]);
                self.steps.push(json!({
                    "eventually": {"cel": ready}, "within": rested, "after": CALM, "as": asked::ready(name),
                }));
                continue;
            }
            // A check of its own, which `asked.rs` keeps true when a storm is shrunk.
            settles(&mut self.steps, asked::condition(name, *replicas), asked::check(name));
            settles(&mut self.steps, ready, asked::ready(name));
        }
        if self.ground.writes() {
            self.steps.push(json!({
                "eventually": {"cel": "cluster.writes.succeeding"},
                "within": ["0s", "4 * election + 30s"], "after": CALM, "as": "writes",
            }));
        }
    }
}

/// Whether a fault can be injected, proven and healed beside those in effect.
fn goes_with(side: Side, others: &[Side]) -> bool {
    let any = |is: fn(&Side) -> bool| others.iter().any(is);
    let plane = any(|side| matches!(side, Side::Plane | Side::Fall | Side::Quorum));
    let link = any(|side| matches!(side, Side::Link(_)));
    let cut = any(|side| matches!(side, Side::Cut(_) | Side::Workers));
    match side {
        Side::Worker(_) | Side::Cut(_) => true,
        Side::Link(_) => !plane && !others.contains(&Side::Workers),
        Side::Workers => !link && !cut && !any(|side| matches!(side, Side::Worker(_))),
        Side::Plane => !plane && !link,
        // Nobody counts the packets that it drops any more.
        Side::Fall => !plane && !link && !cut,
        Side::Quorum => others.is_empty(),
        Side::Api | Side::Node(_) => !plane,
        // The container must run, and its kubelet must be able to say so.
        Side::Container => others.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_asked_of_the_api_where_nobody_answers() {
        assert!(!goes_with(Side::Api, &[Side::Quorum]));
        assert!(!goes_with(Side::Container, &[Side::Worker(1)]));
        assert!(!goes_with(Side::Quorum, &[Side::Worker(1)]));
        assert!(goes_with(Side::Plane, &[Side::Worker(1), Side::Worker(2)]));
        assert!(!goes_with(Side::Plane, &[Side::Plane]));
        assert!(!goes_with(Side::Plane, &[Side::Link(1)]), "the far end must stay up");
        assert!(!goes_with(Side::Link(1), &[Side::Plane]));
        assert!(!goes_with(Side::Fall, &[Side::Cut(1)]), "its rules would be gone");
        assert!(goes_with(Side::Plane, &[Side::Cut(1)]));
    }
}
