//! Runs scenarios: one session each, and whatever happens, it is healed and cleaned up at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use shakedown_core::fault::FaultKind;
use shakedown_core::plan::{Plan, START};
use shakedown_core::sabotage::Sabotage;
use shakedown_core::target::{ClusterFact, Endpoint, Progress, Target};
use shakedown_core::timeline::What;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::ApiError;
use crate::board::Board;
use crate::event_loop::{EventLoop, LoopError, pump};
use crate::faults::Active;
use crate::recorder::{RecordError, Recorder};
use crate::undo::{UndoError, UndoLog};
use crate::witness::{Canary, Witness, watched};

/// How long the first lists may take.
const LIST_LIMIT: Duration = Duration::from_secs(60);

/// How a scenario ended. What follows from it is the judge's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Every step was done and every window has closed.
    Completed,
    /// What this check waited for did not come in time; the steps after it were not done.
    CheckMissed(String),
    /// This fault could not be shown to be in effect.
    FaultUnproven(String),
    /// This fault was in effect and then was not, before it was to end.
    FaultLost(String),
    /// The target lacks an ability.
    NotRun(String),
    /// The harness could not go on.
    Failed(String),
}

/// How a scenario was run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOutcome {
    /// Its id.
    pub scenario: String,
    /// How it ended.
    pub ending: Ending,
    /// Whether healing or clean-up failed: nothing else may be run on this cluster.
    pub is_quarantined: bool,
    /// How long it took, on tokio's clock.
    pub elapsed: Duration,
}

/// Why a session stops before its end.
#[derive(Debug)]
pub(crate) enum Stop {
    Missed(String),
    Unproven(String),
    Lost(String),
    Failed { doing: String, why: String },
}

impl Stop {
    pub fn failed(doing: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Stop::Failed { doing: doing.into(), why: why.to_string() }
    }
}

impl From<RecordError> for Stop {
    fn from(error: RecordError) -> Self {
        Stop::failed("recording", error)
    }
}

impl From<LoopError> for Stop {
    fn from(error: LoopError) -> Self {
        Stop::failed("waiting", error)
    }
}

impl From<UndoError> for Stop {
    fn from(error: UndoError) -> Self {
        Stop::failed("logging an undo", error)
    }
}

impl From<ApiError> for Stop {
    fn from(error: ApiError) -> Self {
        Stop::failed("asking the API", error)
    }
}

/// A scenario while it runs.
pub(crate) struct Session<'a> {
    pub target: &'a mut dyn Target,
    pub cluster: &'a ClusterFact,
    pub plan: &'a Plan,
    pub registry: &'a [FaultKind],
    pub undo_log: &'a mut UndoLog,
    pub progress: Progress<'a>,
    pub events: EventLoop<'a>,
    pub tasks: JoinSet<()>,
    pub endpoints: Vec<Endpoint>,
    pub witness: Witness,
    pub random: ChaCha8Rng,
    pub namespace: String,
    /// Cluster-scoped objects that were made for the scenario: kind and name.
    pub made: Vec<(String, String)>,
    /// Faults in effect.
    pub active: Vec<Active>,
    /// Faults that were taken back, and are not yet shown to be gone.
    pub healing: Vec<Active>,
    /// Everybody that was named so far, in the plan's order.
    pub taken: BTreeSet<String>,
    /// When the last window closes.
    pub open_until: Instant,
    /// Taints and cordons as they were before.
    pub nodes_before: BTreeMap<String, Value>,
    /// Stops the workload.
    pub stop_work: Board<bool>,
    /// The workload's tasks, which end after `stop_work`.
    pub workers: JoinSet<()>,
    pub is_quarantined: bool,
}

/// Runs one scenario. Everything that goes wrong is in the timeline.
#[expect(clippy::too_many_arguments, reason = "the parts of a run, each owned by the caller")]
pub async fn run_scenario<'a>(
    target: &'a mut dyn Target,
    cluster: &'a ClusterFact,
    plan: &'a Plan,
    registry: &'a [FaultKind],
    recorder: &'a mut Recorder,
    undo_log: &'a mut UndoLog,
    progress: Progress<'a>,
) -> RunOutcome {
    let began = Instant::now();
    let outcome = |ending, is_quarantined| RunOutcome {
        scenario: plan.scenario.clone(),
        ending,
        is_quarantined,
        elapsed: began.elapsed(),
    };
    if recorder.world().cluster() != Some(cluster)
        && let Err(error) = recorder.now(What::Cluster { cluster: cluster.clone() })
    {
        return outcome(Ending::Failed(error.to_string()), false);
    }
    if let Some(why) = missing(target, cluster, plan) {
        progress(&format!("{}: not run: {why}", plan.scenario));
        let noted = recorder
            .now(What::ScenarioBegan { id: plan.scenario.clone() })
            .and_then(|()| recorder.now(What::NotRun { why: why.clone() }))
            .and_then(|()| recorder.now(What::ScenarioEnded { id: plan.scenario.clone() }));
        let ending = noted.map_or_else(|e| Ending::Failed(e.to_string()), |()| Ending::NotRun(why));
        return outcome(ending, false);
    }
    recorder.sabotage(plan.switches());
    let mut session = Session::new(target, cluster, plan, registry, recorder, undo_log, progress);
    let ending = match session.run().await {
        Ok(()) => Ending::Completed,
        Err(stop) => session.stopped(stop),
    };
    session.steps_over(&ending);
    session.finish().await;
    let is_quarantined = session.is_quarantined;
    outcome(ending, is_quarantined)
}

/// Runs scenarios one after the other on one cluster. After one whose healing failed, no more are run.
#[expect(clippy::too_many_arguments, reason = "the parts of a run, each owned by the caller")]
pub async fn run_pack(
    target: &mut dyn Target,
    cluster: &ClusterFact,
    plans: &[Plan],
    registry: &[FaultKind],
    recorder: &mut Recorder,
    undo_log: &mut UndoLog,
    progress: Progress<'_>,
) -> Vec<RunOutcome> {
    let mut outcomes: Vec<RunOutcome> = Vec::new();
    for plan in plans {
        if let Some(bad) = outcomes.iter().find(|outcome| outcome.is_quarantined) {
            let why = format!("the cluster was not healed after {}", bad.scenario);
            outcomes.push(RunOutcome {
                scenario: plan.scenario.clone(),
                ending: Ending::Failed(why),
                is_quarantined: true,
                elapsed: Duration::ZERO,
            });
            continue;
        }
        let outcome =
            run_scenario(&mut *target, cluster, plan, registry, recorder, undo_log, progress).await;
        outcomes.push(outcome);
    }
    outcomes
}

/// What the target or the cluster lacks for this plan.
fn missing(target: &dyn Target, cluster: &ClusterFact, plan: &Plan) -> Option<String> {
    use shakedown_core::target::Role;
    if target.endpoints().is_empty() {
        return Some(format!("target `{}` has no API server", target.name()));
    }
    let abilities = target.abilities();
    let lacking: Vec<String> = plan
        .needs
        .iter()
        .filter(|need| !abilities.contains(need))
        .map(|need| format!("{need:?}"))
        .collect();
    if !lacking.is_empty() {
        return Some(format!("target `{}` cannot: {}", target.name(), lacking.join(", ")));
    }
    for (role, wanted, what) in [
        (Role::ControlPlane, plan.cluster.control_planes, "control planes"),
        (Role::Worker, plan.cluster.workers, "workers"),
    ] {
        let there = cluster.names(role).len();
        if there < wanted as usize {
            return Some(format!("the cluster has {there} {what}, and {wanted} are wanted"));
        }
    }
    None
}

/// A seed for one scenario: choices do not depend on which scenarios ran before.
fn seed_of(plan: &Plan) -> u64 {
    // FNV-1a, as it is stable between releases, which the standard hasher is not.
    plan.scenario.bytes().fold(plan.seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl<'a> Session<'a> {
    #[expect(
        clippy::too_many_arguments,
        reason = "the borrowed parts of one run, as its entry takes them"
    )]
    fn new(
        target: &'a mut dyn Target,
        cluster: &'a ClusterFact,
        plan: &'a Plan,
        registry: &'a [FaultKind],
        recorder: &'a mut Recorder,
        undo_log: &'a mut UndoLog,
        progress: Progress<'a>,
    ) -> Self {
        let endpoints = target.endpoints();
        let mut tasks = JoinSet::new();
        let began = recorder.began();
        let events = EventLoop::new(recorder);
        let sender = events.sender();
        let witness =
            Witness::start(&mut tasks, endpoints.clone(), began, &sender, plan.switches());
        tasks.spawn(pump(target.observe(), events.sender()));
        Self {
            target,
            cluster,
            plan,
            registry,
            undo_log,
            progress,
            events,
            tasks,
            endpoints,
            witness,
            random: ChaCha8Rng::seed_from_u64(seed_of(plan)),
            namespace: String::new(),
            made: Vec::new(),
            active: Vec::new(),
            healing: Vec::new(),
            taken: BTreeSet::new(),
            open_until: Instant::now(),
            nodes_before: BTreeMap::new(),
            stop_work: Board::new(false),
            workers: JoinSet::new(),
            is_quarantined: false,
        }
    }

    async fn run(&mut self) -> Result<(), Stop> {
        self.events.note(What::ScenarioBegan { id: self.plan.scenario.clone() })?;
        (self.progress)(&format!("{}: {}", self.plan.scenario, self.plan.title));
        self.fingerprint("before").await?;
        self.look().await?;
        self.make_namespace().await?;
        self.measure().await?;
        self.give().await?;
        self.bind().await?;
        self.start_work();
        self.events.note(What::Moment { name: START.into() })?;
        for step in &self.plan.steps {
            self.step(step).await?;
        }
        let open_until = match self.plan.sabotaged(Sabotage::RunnerEndsEarly) {
            true => Instant::now(),
            false => self.open_until,
        };
        self.wait(open_until, |_| false).await?;
        Ok(())
    }

    /// Waits until the witness sees everything.
    async fn look(&mut self) -> Result<(), Stop> {
        let time = Instant::now() + LIST_LIMIT;
        if !self.events.until_or(time, |events| events.listed >= watched()).await? {
            return Err(Stop::failed("listing what is there", "no API server answered in time"));
        }
        self.nodes_before = self.nodes_now();
        Ok(())
    }

    /// A name that is new to the cluster, but the same for the same seed on a new one.
    pub(crate) fn suffix(&mut self) -> String {
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        let letter = |random: &mut ChaCha8Rng| {
            char::from(LETTERS[(random.next_u64() % LETTERS.len() as u64) as usize])
        };
        (0..5).map(|_| letter(&mut self.random)).collect()
    }

    /// Measures how late the witness sees a change.
    async fn measure(&mut self) -> Result<(), Stop> {
        let endpoints = self.endpoints.clone();
        let namespace = self.namespace.clone();
        let canary = Canary { endpoints: &endpoints, namespace: &namespace };
        let mut delays = Vec::new();
        for round in 0..Canary::COUNT {
            let called = self.events.now_us();
            let revision =
                self.events.drive(Canary::LIMIT * 10, canary.write(round)).await?.ok_or_else(
                    || Stop::failed("measuring the witness", "a canary write hung"),
                )??;
            let seen = |events: &EventLoop<'_>| seen_at(events, revision).is_some();
            if !self.events.until_or(Instant::now() + Canary::LIMIT, seen).await? {
                return Err(Stop::failed("measuring the witness", "a canary write was never seen"));
            }
            delays.push(seen_at(&self.events, revision).unwrap_or(called).saturating_sub(called));
        }
        self.events.drive(Canary::LIMIT, canary.delete()).await?;
        delays.sort_unstable();
        // With fewer than a thousand samples the 99.9th percentile is the largest.
        let p999_us = delays.last().copied().unwrap_or(0);
        self.witness.set_error(Duration::from_micros(p999_us));
        self.events.note(What::Baseline { samples: Canary::COUNT, p999_us })?;
        Ok(())
    }

    pub(crate) async fn fingerprint(&mut self, when: &str) -> Result<(), Stop> {
        const LIMIT: Duration = Duration::from_secs(60);
        let target = &mut *self.target;
        let things = match self.events.drive(LIMIT, target.fingerprint()).await? {
            Some(Ok(things)) => things,
            Some(Err(error)) => return Err(Stop::failed("taking the fingerprint", error)),
            None => return Err(Stop::failed("taking the fingerprint", "it took too long")),
        };
        self.events.note(What::Fingerprint { when: when.into(), things })?;
        Ok(())
    }

    /// Lets time pass until something is true, while faults are sustained and end; tells whether it
    /// became true.
    pub(crate) async fn wait(
        &mut self,
        time: Instant,
        is_met: impl Fn(&EventLoop<'_>) -> bool,
    ) -> Result<bool, Stop> {
        loop {
            let due = self.next_due().map_or(time, |due| due.min(time));
            let must_look =
                |events: &EventLoop<'_>| events.untils.iter().any(|until| until.is_true);
            self.events.until_or(due, |events| is_met(events) || must_look(events)).await?;
            self.service().await?;
            if is_met(&self.events) {
                return Ok(true);
            }
            if Instant::now() >= time {
                return Ok(false);
            }
        }
    }

    /// Notes why the session stops; what follows from it.
    fn stopped(&mut self, stop: Stop) -> Ending {
        match stop {
            Stop::Missed(check) => Ending::CheckMissed(check),
            Stop::Unproven(fault) => Ending::FaultUnproven(fault),
            Stop::Lost(fault) => Ending::FaultLost(fault),
            Stop::Failed { doing, why } => {
                let text = format!("{doing}: {why}");
                (self.progress)(&text);
                // A recorder that is full says so once; the ending says it again.
                let noted = self.events.note(What::Trouble { doing, why });
                noted.map_or_else(
                    |error| Ending::Failed(error.to_string()),
                    |()| Ending::Failed(text),
                )
            }
        }
    }

    /// Notes where clean-up begins: what is seen from there on is the harness's own doing.
    fn steps_over(&mut self, ending: &Ending) {
        let why = ending.given_up();
        let noted = self.events.drain().and_then(|()| self.events.note(What::StepsOver { why }));
        if let Err(error) = noted {
            (self.progress)(&error.to_string());
        }
    }
}

impl Ending {
    /// Why the scenario was given up before its end; empty if it was not.
    fn given_up(&self) -> String {
        match self {
            Ending::Completed => String::new(),
            Ending::CheckMissed(check) => format!("what {check} waits for did not come"),
            Ending::FaultUnproven(fault) => format!("fault `{fault}` was not proven in effect"),
            Ending::FaultLost(fault) => format!("fault `{fault}` was no longer in effect"),
            Ending::NotRun(why) | Ending::Failed(why) => why.clone(),
        }
    }
}

/// When the witness saw a revision of the canary.
fn seen_at(events: &EventLoop<'_>, revision: i64) -> Option<u64> {
    let recorded = events.recorder.events().iter().rev().take(10_000);
    let mut seen = recorded.filter_map(|event| match &event.what {
        What::Object { kind, revision: found, .. }
            if kind == "configmaps" && *found == revision =>
        {
            Some(event.at_us)
        }
        _ => None,
    });
    seen.next()
}
