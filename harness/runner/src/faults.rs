//! The life of a fault: planned, undo logged, applied, proven, sustained once a second, removed,
//! proven healed. What cannot be shown ends the scenario, and everything is healed then.

use std::time::Duration;

use shakedown_core::condition::Compiled;
use shakedown_core::fault::{Fault, FaultCx, FaultError, FaultSpec, Proof};
use shakedown_core::lever::{Probe, Reading};
use shakedown_core::partial;
use shakedown_core::plan::{Ends, FaultStep, Step, end_of};
use shakedown_core::roles::Who;
use shakedown_core::sabotage::Sabotage;
use shakedown_core::target::{Endpoint, Role};
use shakedown_core::timeline::{Evidence, FaultPhase, What};
use tokio::time::{Instant, sleep};

use crate::api::best_first;
use crate::event_loop::Until;
use crate::run::{Session, Stop};
use crate::sabotaged::{other_nodes, sabotaged};

/// How long one act on a cluster may take: a node that starts, a process that will not die.
const ACT_LIMIT: Duration = Duration::from_secs(120);
/// How long a fault may take to show.
const PROOF_PATIENCE: Duration = Duration::from_secs(15);
/// How long healing may take to show: a node boots, its kubelet joins, an election.
const HEAL_PATIENCE: Duration = Duration::from_secs(180);
/// Between two proofs while patience lasts.
const AGAIN: Duration = Duration::from_millis(250);
/// Between two proofs of a fault that is sustained.
const SUSTAIN: Duration = Duration::from_secs(1);
/// How long an etcd member may take to tell who leads.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// A fault in effect.
pub(crate) struct Active {
    name: String,
    kind: String,
    targets: Vec<String>,
    fault: Box<dyn Fault>,
    undos: Vec<u64>,
    ends: Ending,
    next_proof: Instant,
    /// API servers that answered when the fault was injected, first.
    endpoints: Vec<Endpoint>,
}

/// When a fault ends.
enum Ending {
    WithScenario,
    At(Instant),
    AtMoment(String),
    /// When its condition in the event loop has become true.
    When,
}

/// What of a fault is called.
#[derive(Clone, Copy)]
enum Act {
    Baseline,
    Inject,
    Remove,
}

/// How long somebody is looked for who plays a role: longer than a lease lasts.
const ROLE_LIMIT: Duration = Duration::from_secs(45);
/// How often.
const ROLE_LOOK: Duration = Duration::from_secs(1);

impl Session<'_> {
    /// Who has a role now. Asks etcd's members first if the role depends on who leads.
    pub(crate) async fn resolve(&mut self, roles: &[Who]) -> Result<Vec<String>, Stop> {
        if roles.iter().any(Who::asks_etcd) {
            self.ask_etcd().await?;
        }
        let mut found = Vec::new();
        for who in roles {
            // Between two leaders there is nobody to be found: it is looked again for a while.
            let patience = Instant::now() + ROLE_LIMIT;
            let names = loop {
                let names = who.resolve(self.events.world(), &self.taken, &mut self.random);
                match names {
                    Ok(names) => break names,
                    Err(_) if Instant::now() < patience => {
                        self.wait(Instant::now() + ROLE_LOOK, |_| false).await?;
                        if who.asks_etcd() {
                            self.ask_etcd().await?;
                        }
                    }
                    Err(error) => {
                        return Err(Stop::failed(format!("looking for `{who}`"), error));
                    }
                }
            };
            found.extend(names);
        }
        found.dedup();
        Ok(found)
    }

    async fn ask_etcd(&mut self) -> Result<(), Stop> {
        for node in self.cluster.names(Role::ControlPlane) {
            let probe = Probe::EtcdMember { node: node.clone() };
            let target = &mut *self.target;
            let answer = self.events.drive(ASK_LIMIT, target.probe(&probe)).await?;
            if let Some(Ok(Reading::EtcdMember { member, leader, term, revision })) = answer {
                self.events.note(What::EtcdMember { node, member, leader, term, revision })?;
            }
        }
        Ok(())
    }

    /// Injects the fault of a step and waits until it is proven.
    pub(crate) async fn inject(&mut self, step: &Step, wanted: &FaultStep) -> Result<(), Stop> {
        let mut active = self.plan_fault(step, wanted).await?;
        self.phase(&active, FaultPhase::Planned, Vec::new())?;
        for undo in active.fault.undos() {
            if self.plan.sabotaged(Sabotage::UndoNotLogged) {
                continue;
            }
            active.undos.push(self.undo_log.log(&self.plan.scenario, &active.name, &undo)?);
        }
        self.phase(&active, FaultPhase::UndoLogged, Vec::new())?;
        self.act(&mut active, Act::Baseline).await?;
        let pulled = Instant::now();
        if let Err(stop) = self.act(&mut active, Act::Inject).await {
            // It may be half in effect: it is taken back with the others.
            self.active.push(active);
            return Err(stop);
        }
        let (applied, error) = (Instant::now(), pulled.elapsed());
        self.phase_at(&active, FaultPhase::Applied, Vec::new(), (applied, error))?;
        self.events.note_at(applied, error, What::Moment { name: step.moment.clone() })?;
        if let Ends::After(time) = wanted.ends
            && !self.plan.sabotaged(Sabotage::FaultNeverRemoved)
        {
            active.ends = Ending::At(applied + time);
        }
        let proof = self.prove_in_time(&mut active).await;
        let (holds, evidence) = match proof {
            Ok(proof) => (proof.holds(), proof.evidence),
            Err(stop) => {
                self.active.push(active);
                return Err(stop);
            }
        };
        let phase = if holds { FaultPhase::Proven } else { FaultPhase::Unproven };
        let noted = self.phase(&active, phase, evidence);
        let (name, is_momentary) = (active.name.clone(), active.fault.is_momentary());
        // What is over by itself has nothing to heal, whether it could be shown or not.
        if is_momentary {
            for seq in active.undos {
                self.undo_log.done(seq)?;
            }
        } else {
            active.next_proof = Instant::now() + SUSTAIN;
            self.active.push(active);
        }
        noted?;
        if holds { Ok(()) } else { Err(Stop::Unproven(name)) }
    }

    /// Binds a fault step to its targets.
    async fn plan_fault(&mut self, step: &Step, wanted: &FaultStep) -> Result<Active, Stop> {
        let doing = || format!("planning `{}`", step.moment);
        let mut on = self.resolve(&wanted.on).await?;
        if self.plan.sabotaged(Sabotage::RunnerMisbinds) {
            on = other_nodes(self.cluster, &on).unwrap_or(on);
        }
        let mut named: Vec<(String, Vec<String>)> = vec![("on".into(), on.clone())];
        let before = self.taken.clone();
        // `the other members` are those that this step does not name, whatever was named before it.
        self.taken = on.iter().cloned().collect();
        let mut sides = vec![Vec::new(); wanted.sides.len()];
        let is_rest =
            |side: &[Who]| side.iter().any(|who| matches!(who, Who::OtherMembers | Who::Others(_)));
        for rest in [false, true] {
            for (index, side) in
                wanted.sides.iter().enumerate().filter(|(_, side)| is_rest(side) == rest)
            {
                sides[index] = self.resolve(side).await?;
                self.taken.extend(sides[index].iter().cloned());
                named.push((format!("side-{index}"), sides[index].clone()));
            }
        }
        self.taken.extend(before);
        for (what, to) in named.into_iter().filter(|(_, to)| !to.is_empty()) {
            self.events.note(What::Bound { name: format!("{}.{what}", step.moment), to })?;
        }
        let fields = wanted
            .fields
            .iter()
            .map(|(name, value)| Ok((name.clone(), partial::bind(value, self.events.world())?)))
            .collect::<Result<_, shakedown_core::condition::ConditionError>>()
            .map_err(|error| Stop::failed(doing(), error))?;
        let spec =
            FaultSpec { fault: wanted.fault.clone(), name: step.moment.clone(), on, sides, fields };
        let kind = self.registry.iter().find(|kind| kind.name == wanted.fault);
        let kind = kind.ok_or_else(|| Stop::failed(doing(), "no such fault is known"))?;
        let fault = (kind.build)(&spec).map_err(|error| Stop::failed(doing(), error))?;
        let elsewhere = other_nodes(self.cluster, &spec.on)
            .and_then(|on| (kind.build)(&FaultSpec { on, ..spec.clone() }).ok());
        let fault = sabotaged(fault, elsewhere, &self.plan.switches());
        if let Ends::When(condition) = &wanted.ends {
            let condition =
                Compiled::new(condition).map_err(|error| Stop::failed(doing(), error))?;
            self.events.untils.push(Until {
                fault: step.moment.clone(),
                condition,
                is_true: false,
            });
        }
        let endpoints = best_first(&self.endpoints);
        let endpoints = self.events.drive(ASK_LIMIT, endpoints).await?.unwrap_or_default();
        Ok(Active {
            name: step.moment.clone(),
            kind: wanted.fault.clone(),
            targets: fault.targets(),
            fault,
            undos: Vec::new(),
            ends: match &wanted.ends {
                Ends::AtMoment(moment) => Ending::AtMoment(moment.clone()),
                Ends::When(_) => Ending::When,
                Ends::WithScenario | Ends::After(_) => Ending::WithScenario,
            },
            next_proof: Instant::now(),
            endpoints,
        })
    }

    fn phase(
        &mut self,
        active: &Active,
        phase: FaultPhase,
        evidence: Vec<Evidence>,
    ) -> Result<(), Stop> {
        self.phase_at(active, phase, evidence, (Instant::now(), Duration::ZERO))
    }

    fn phase_at(
        &mut self,
        active: &Active,
        phase: FaultPhase,
        evidence: Vec<Evidence>,
        (at, error): (Instant, Duration),
    ) -> Result<(), Stop> {
        if phase != FaultPhase::Sustained {
            let targets = active.targets.join(", ");
            (self.progress)(&format!("fault {} ({targets}): {phase:?}", active.name));
        }
        let what = What::Fault {
            name: active.name.clone(),
            fault: active.kind.clone(),
            phase,
            targets: active.targets.clone(),
            // First what takes it back, then what the log really holds: the judge compares them.
            undo: match phase {
                FaultPhase::Planned => active.fault.undos(),
                FaultPhase::UndoLogged => self.undo_log.logged(&active.undos),
                _ => Vec::new(),
            },
            evidence,
        };
        Ok(self.events.note_at(at, error, what)?)
    }

    /// Does something that a fault does, while the timeline goes on.
    async fn act(&mut self, active: &mut Active, act: Act) -> Result<(), Stop> {
        let (doing, name) = match act {
            Act::Baseline => ("looking before", active.name.clone()),
            Act::Inject => ("injecting", active.name.clone()),
            Act::Remove => ("removing", active.name.clone()),
        };
        let doing = format!("{doing} `{name}`");
        let target = &mut *self.target;
        let mut cx = FaultCx { target, cluster: self.cluster, endpoints: &active.endpoints };
        let fault = &mut active.fault;
        let work = async move {
            match act {
                Act::Baseline => fault.baseline(&mut cx).await,
                Act::Inject => fault.inject(&mut cx).await,
                Act::Remove => fault.remove(&mut cx).await,
            }
        };
        match self.events.drive(ACT_LIMIT, work).await? {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(Stop::failed(doing, error)),
            None => Err(Stop::failed(doing, format!("it took longer than {ACT_LIMIT:?}"))),
        }
    }

    /// One proof. A probe that fails shows nothing, and says why.
    async fn prove(&mut self, active: &mut Active, in_effect: bool) -> Result<Proof, Stop> {
        let target = &mut *self.target;
        let mut cx = FaultCx { target, cluster: self.cluster, endpoints: &active.endpoints };
        let fault = &mut active.fault;
        let work = async move {
            if in_effect { fault.prove(&mut cx).await } else { fault.prove_healed(&mut cx).await }
        };
        let outcome: Option<Result<Proof, FaultError>> = self.events.drive(ACT_LIMIT, work).await?;
        let why = match outcome {
            Some(Ok(proof)) => return Ok(proof),
            Some(Err(error)) => error.to_string(),
            None => format!("the proof took longer than {ACT_LIMIT:?}"),
        };
        let failed = Evidence { kind: "behaviour".into(), text: why, holds: false, reading: None };
        Ok(Proof { evidence: vec![failed] })
    }

    /// Proves again and again that it is in effect, until that holds or patience ends; the last proof.
    async fn prove_in_time(&mut self, active: &mut Active) -> Result<Proof, Stop> {
        let deadline = Instant::now() + PROOF_PATIENCE;
        loop {
            let proof = self.prove(active, true).await?;
            if proof.holds() || Instant::now() >= deadline {
                return Ok(proof);
            }
            self.events.drive(ACT_LIMIT, sleep(AGAIN)).await?;
        }
    }

    /// When a fault has to be looked at next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let due = |active: &Active| match active.ends {
            Ending::At(time) => time.min(active.next_proof),
            _ => active.next_proof,
        };
        self.active.iter().map(due).min()
    }

    /// Ends the faults whose time has come, and proves the others.
    pub(crate) async fn service(&mut self) -> Result<(), Stop> {
        let now = Instant::now();
        let mut index = 0;
        while index < self.active.len() {
            let active = &self.active[index];
            if self.is_over(active, now) {
                let active = self.active.remove(index);
                self.remove(active, None).await?;
                continue;
            }
            if now >= active.next_proof {
                self.sustain(index).await?;
            }
            index += 1;
        }
        // A condition whose fault is over would wake the loop for ever.
        let Session { active, events, .. } = self;
        events.untils.retain(|until| active.iter().any(|active| active.name == until.fault));
        Ok(())
    }

    /// Whether a fault's time has come.
    fn is_over(&self, active: &Active, now: Instant) -> bool {
        let name = &active.name;
        match &active.ends {
            Ending::WithScenario => false,
            Ending::At(time) => now >= *time,
            Ending::AtMoment(moment) => self.events.world().moment(moment).is_some(),
            Ending::When => {
                self.events.untils.iter().any(|until| until.is_true && until.fault == *name)
            }
        }
    }

    async fn sustain(&mut self, index: usize) -> Result<(), Stop> {
        let mut active = self.active.remove(index);
        let due = active.next_proof;
        let mut proof = self.prove(&mut active, true).await;
        if proof.as_ref().is_ok_and(|proof| !proof.holds()) {
            // One answer may be lost on the way; two in a row are not.
            proof = self.prove(&mut active, true).await;
        }
        active.next_proof = (due + SUSTAIN).max(Instant::now());
        let outcome = proof.and_then(|proof| {
            let phase = if proof.holds() { FaultPhase::Sustained } else { FaultPhase::Lost };
            self.phase(&active, phase, proof.evidence)?;
            match phase {
                FaultPhase::Lost => Err(Stop::Lost(active.name.clone())),
                _ => Ok(()),
            }
        });
        self.active.insert(index, active);
        outcome
    }

    /// Ends a fault by its step's name. One that is over by itself is nothing to do.
    pub(crate) async fn heal(&mut self, fault: &str, moment: &str) -> Result<(), Stop> {
        match self.active.iter().position(|active| active.name == fault) {
            Some(index) => {
                let active = self.active.remove(index);
                self.remove(active, Some(moment)).await
            }
            None => Ok(self.events.note(What::Moment { name: moment.into() })?),
        }
    }

    /// Takes a fault back and waits until that is proven.
    pub(crate) async fn remove(
        &mut self,
        active: Active,
        moment: Option<&str>,
    ) -> Result<(), Stop> {
        self.take_back(active, moment).await?;
        self.see_healed().await
    }

    /// Takes a fault back. That its effect is gone remains to be shown.
    async fn take_back(&mut self, mut active: Active, moment: Option<&str>) -> Result<(), Stop> {
        self.events.untils.retain(|until| until.fault != active.name);
        let pulled = Instant::now();
        let best = best_first(&self.endpoints);
        active.endpoints = self.events.drive(ASK_LIMIT, best).await?.unwrap_or_default();
        if let Err(stop) = self.act(&mut active, Act::Remove).await {
            self.is_quarantined = true;
            self.phase(&active, FaultPhase::HealUnproven, Vec::new())?;
            return Err(stop);
        }
        let (at, error) = (Instant::now(), pulled.elapsed());
        self.phase_at(&active, FaultPhase::Removed, Vec::new(), (at, error))?;
        for name in moment.map(str::to_string).into_iter().chain([end_of(&active.name)]) {
            self.events.note_at(at, error, What::Moment { name })?;
        }
        self.healing.push(active);
        Ok(())
    }

    /// Waits until it is shown that every fault that was taken back is gone. Another fault may keep that
    /// from being seen, as one that killed the node which would show it: those whose time has come end
    /// meanwhile, and what cannot be shown while others last is looked at again when they are over.
    pub(crate) async fn see_healed(&mut self) -> Result<(), Stop> {
        let mut deadline = Instant::now() + HEAL_PATIENCE;
        loop {
            let unshown = self.look_whether_healed().await?;
            if self.healing.is_empty() {
                return Ok(());
            }
            let now = Instant::now();
            if let Some(index) = self.active.iter().position(|other| self.is_over(other, now)) {
                let other = self.active.remove(index);
                self.take_back(other, None).await?;
                deadline = Instant::now() + HEAL_PATIENCE;
                continue;
            }
            if now >= deadline {
                return if self.active.is_empty() { self.unhealed(unshown) } else { Ok(()) };
            }
            self.events.drive(ACT_LIMIT, sleep(AGAIN)).await?;
        }
    }

    /// Looks once at every fault that was taken back; what is still missing for each that stays.
    async fn look_whether_healed(&mut self) -> Result<Vec<Vec<Evidence>>, Stop> {
        let mut unshown = Vec::new();
        while unshown.len() < self.healing.len() {
            let mut active = self.healing.remove(unshown.len());
            let proof = self.prove(&mut active, false).await?;
            if !proof.holds() {
                self.healing.insert(unshown.len(), active);
                unshown.push(proof.evidence);
                continue;
            }
            // Only now: what is not shown to be healed is tried once more by the log.
            for seq in std::mem::take(&mut active.undos) {
                self.undo_log.done(seq)?;
            }
            self.phase(&active, FaultPhase::HealProven, proof.evidence)?;
        }
        Ok(unshown)
    }

    /// Nothing else is in effect, and these faults cannot be shown to be gone.
    fn unhealed(&mut self, unshown: Vec<Vec<Evidence>>) -> Result<(), Stop> {
        self.is_quarantined = true;
        let left = std::mem::take(&mut self.healing);
        let names: Vec<_> = left.iter().map(|active| format!("`{}`", active.name)).collect();
        for (active, evidence) in left.iter().zip(unshown) {
            self.phase(active, FaultPhase::HealUnproven, evidence)?;
        }
        let why = format!("not shown within {HEAL_PATIENCE:?}");
        Err(Stop::failed(format!("healing {}", names.join(", ")), why))
    }

    /// The newest of the faults in effect.
    pub(crate) fn take_newest(&mut self) -> Option<Active> {
        self.active.pop()
    }
}
