//! The one driver: elects, informs itself, asks the controllers, executes what they decide.
//!
//! Everything runs in one task and in one order: what was seen comes before what was answered, and
//! that before what is due. A key is never decided twice at once, and never on a view that is behind
//! the key's own writes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::time::Duration;

use apiclient::{ApiClient, Elector, EventRecorder, Informed, Informer, Watched};
use env::{Backoff, Env, Sabotage};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use machinery::{View, kinds};

use crate::controller::{Controller, DecideCx};
use crate::execute::{Outcome, execute};
use crate::expectations::Expectations;
use crate::queue::{Queue, Turn};
use crate::{Config, Index, Note, loops};

/// A failed key is tried again after this long at first.
const RETRY_FIRST: Duration = Duration::from_millis(20);
/// A key that fails again and again is tried again after this long.
const RETRY_MOST: Duration = Duration::from_secs(15);
/// A guard that did not hold, or a namespace that is not empty yet, is looked at again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Stands for election, then runs all controllers until leadership is lost; the process must then
/// end and be started anew.
pub async fn run(env: Env, client: ApiClient, config: Config) {
    let mut elector = Elector::new(client.clone(), env.clone(), config.elector.clone());
    let fence = elector.acquire().await;
    tracing::info!(%fence, "leading");
    let mut hold = pin!(elector.hold());
    let client = client.fenced(fence);
    tokio::select! {
        biased;
        () = &mut hold => {}
        () = lead(env, client, config) => {}
    }
    tracing::warn!("leadership lost");
}

/// Runs all controllers for ever.
async fn lead(env: Env, client: ApiClient, config: Config) {
    let controllers = loops::all(&config);
    let watched: BTreeMap<_, _> = controllers
        .iter()
        .flat_map(|controller| controller.watches())
        .map(|kind| (kind.id, Watched::all(kind)))
        .collect();
    let mut informer =
        Informer::new(client.clone(), env.clone(), watched.into_values().collect());
    informer.sync().await;
    let mut driver = Driver::new(env, client, config, controllers);
    driver.begin(informer.view());
    loop {
        let until_due = driver.until_due();
        tokio::select! {
            biased;
            change = informer.next() => driver.changed(informer.view(), &change, false),
            Some((turn, outcome)) = driver.in_flight.next() => driver.done(turn, outcome),
            () = &mut driver.recording => driver.record_next(),
            () = until_due => driver.turn(informer.view()),
        }
    }
}

struct Driver {
    env: Env,
    client: ApiClient,
    config: Config,
    began: tokio::time::Instant,
    sabotages: Vec<Sabotage>,
    controllers: Vec<Box<dyn Controller>>,
    recorders: Vec<EventRecorder>,
    index: Index,
    queue: Queue,
    expectations: Expectations,
    /// Keys that wait for the view to catch up.
    blocked: BTreeSet<Turn>,
    /// Keys whose writes are under way; true if they must be looked at again afterwards.
    busy: BTreeMap<Turn, bool>,
    backoffs: BTreeMap<Turn, Backoff>,
    in_flight: FuturesUnordered<BoxFuture<'static, (Turn, Outcome)>>,
    /// Events yet to be recorded, with the controller that tells them.
    notes: VecDeque<(usize, Note)>,
    /// The event that is being recorded; events keep their order and hold nothing up.
    recording: BoxFuture<'static, ()>,
    is_recording: bool,
    next_resync: Duration,
}

impl Driver {
    fn new(
        env: Env,
        client: ApiClient,
        config: Config,
        controllers: Vec<Box<dyn Controller>>,
    ) -> Self {
        let host = config.elector.identity.split('_').next().unwrap_or_default().to_owned();
        let recorders = controllers
            .iter()
            .map(|known| EventRecorder::new(client.clone(), env.clone(), known.name(), &host))
            .collect();
        let is_on = |sabotage: &Sabotage| env.sabotaged(*sabotage);
        let next_resync = config.min_resync_period;
        Self {
            began: env.instant(),
            sabotages: Sabotage::ALL.iter().copied().filter(is_on).collect(),
            env,
            client,
            config,
            controllers,
            recorders,
            index: Index::default(),
            queue: Queue::default(),
            expectations: Expectations::default(),
            blocked: BTreeSet::new(),
            busy: BTreeMap::new(),
            backoffs: BTreeMap::new(),
            in_flight: FuturesUnordered::new(),
            notes: VecDeque::new(),
            recording: Box::pin(std::future::pending()),
            is_recording: false,
            next_resync,
        }
    }

    fn elapsed(&self) -> Duration {
        self.env.instant() - self.began
    }

    /// Shows the controllers everything that was listed. All of it is indexed before they see any.
    fn begin(&mut self, view: &View) {
        let changes: Vec<_> = kinds::ALL
            .iter()
            .copied()
            .flat_map(|kind| view.all(kind).map(move |object| (kind, object)))
            .map(|(kind, object)| Informed {
                kind,
                key: object.key(),
                old: None,
                new: Some(object.clone()),
            })
            .collect();
        for change in &changes {
            self.index.apply(change);
        }
        for change in &changes {
            self.changed(view, change, true);
        }
        let now = self.elapsed();
        for (at, controller) in self.controllers.iter_mut().enumerate() {
            for key in controller.start() {
                self.queue.add((at, key), now);
            }
        }
    }

    fn changed(&mut self, view: &View, change: &Informed, first_sight: bool) {
        self.index.apply(change);
        if let Some(new) = &change.new {
            self.expectations.saw(change.kind.id, new);
        }
        let elapsed = self.elapsed();
        let cx = DecideCx {
            now: self.env.now(),
            elapsed,
            index: &self.index,
            config: &self.config,
            sabotages: &self.sabotages,
            first_sight,
        };
        let mut turns = Vec::new();
        for (at, controller) in self.controllers.iter_mut().enumerate() {
            turns.extend(controller.changed(view, change, &cx).into_iter().map(|key| (at, key)));
        }
        let freed = self.blocked.iter().filter(|turn| self.expectations.awaits(turn, change.kind.id));
        turns.extend(freed.cloned());
        for turn in turns {
            self.queue.add(turn, elapsed);
        }
    }

    /// Ends when the next key is due.
    fn until_due(&self) -> BoxFuture<'static, ()> {
        match self.queue.next_due().map(|due| due.min(self.next_resync)) {
            Some(due) if due <= self.elapsed() => Box::pin(std::future::ready(())),
            due => {
                let at = self.began + due.unwrap_or(self.next_resync);
                Box::pin(tokio::time::sleep_until(at))
            }
        }
    }

    /// Asks about the first key that is due.
    fn turn(&mut self, view: &View) {
        let elapsed = self.elapsed();
        if elapsed >= self.next_resync {
            self.next_resync = elapsed + self.config.min_resync_period;
            self.begin_again(view);
        }
        let Some(turn) = self.queue.pop(elapsed) else { return };
        if let Some(look_again) = self.busy.get_mut(&turn) {
            *look_again = true;
            return;
        }
        if let Err(until) = self.expectations.met(&turn, view, elapsed) {
            self.queue.add(turn.clone(), until);
            self.blocked.insert(turn);
            return;
        }
        self.blocked.remove(&turn);
        let cx = DecideCx {
            now: self.env.now(),
            elapsed,
            index: &self.index,
            config: &self.config,
            sabotages: &self.sabotages,
            first_sight: false,
        };
        let decision = self.controllers[turn.0].decide(view, &turn.1, &cx);
        for key in decision.wake {
            self.queue.add((turn.0, key), elapsed);
        }
        if let Some(after) = decision.again_after {
            self.queue.add(turn.clone(), elapsed + after);
        }
        if decision.writes.is_empty() {
            self.backoffs.remove(&turn);
            return;
        }
        tracing::debug!(key = %turn.1, writes = ?decision.writes, "decided");
        self.busy.insert(turn.clone(), false);
        let client = self.client.clone();
        self.in_flight.push(Box::pin(async move {
            let outcome = execute(client, decision.writes).await;
            (turn, outcome)
        }));
    }

    /// Shows the controllers everything again, in case something was missed.
    fn begin_again(&mut self, view: &View) {
        for kind in kinds::ALL.iter().copied() {
            for object in view.all(kind) {
                let (old, new) = (Some(object.clone()), Some(object.clone()));
                self.changed(view, &Informed { kind, key: object.key(), old, new }, false);
            }
        }
    }

    fn done(&mut self, turn: Turn, outcome: Outcome) {
        let elapsed = self.elapsed();
        let look_again = self.busy.remove(&turn).unwrap_or_default();
        for expected in outcome.expected {
            self.expectations.expect(&turn, expected, elapsed);
        }
        self.notes.extend(outcome.notes.into_iter().map(|note| (turn.0, note)));
        if !self.is_recording {
            self.record_next();
        }
        if let Some(error) = outcome.error {
            tracing::debug!(key = %turn.1, %error, "failed, will look again");
            let env = &self.env;
            let backoff = self
                .backoffs
                .entry(turn.clone())
                .or_insert_with(|| env.backoff("controllers", RETRY_FIRST, RETRY_MOST));
            let wait = backoff.next();
            self.queue.add(turn, elapsed + wait);
            return;
        }
        self.backoffs.remove(&turn);
        if outcome.again {
            self.queue.add(turn.clone(), elapsed + LOOK_AGAIN);
        }
        if look_again {
            self.queue.add(turn, elapsed);
        }
    }

    fn record_next(&mut self) {
        let next = self.notes.pop_front();
        self.is_recording = next.is_some();
        self.recording = match next {
            Some((at, note)) => {
                let recorder = self.recorders[at].clone();
                Box::pin(async move {
                    recorder.record(&note.about, note.kind, note.reason, &note.message).await;
                })
            }
            None => Box::pin(std::future::pending()),
        };
    }
}
