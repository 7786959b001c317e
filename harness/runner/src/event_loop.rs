//! The event loop: everything that is seen comes through one channel and is recorded by one writer.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use shakedown_core::condition::Compiled;
use shakedown_core::seal::{Seal, sort};
use shakedown_core::target::Observation;
use shakedown_core::timeline::What;
use shakedown_core::world::World;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::goal::Goal;
use crate::recorder::{RecordError, Recorder};

/// How many messages may wait for the writer; who sends more waits.
const QUEUE: usize = 4096;

/// What tasks tell the loop.
pub(crate) enum Message {
    /// Something was seen, or was done by a workload client.
    Saw { at: Instant, error: Duration, what: Box<What> },
    /// The witness has listed one kind.
    Listed,
}

/// Where tasks tell it. Counts what they tell, so that what is lost on the way is missed.
#[derive(Clone)]
pub(crate) struct Sender {
    channel: mpsc::Sender<Message>,
    told: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl Sender {
    /// Tells, and waits while the loop is behind. Fails when the loop is gone.
    pub async fn send(&self, message: Message) -> Result<(), mpsc::error::SendError<()>> {
        // Who is cancelled while it waits has told nothing.
        let place = self.channel.reserve().await?;
        if let Message::Saw { what, .. } = &message {
            let mut told = self.told.lock().expect("no code panics while it holds the counts");
            *told.entry(sort(what)).or_default() += 1;
        }
        place.send(message);
        Ok(())
    }
}

/// Why the loop ends before the scenario.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoopError {
    /// Nothing more can be recorded.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The scenario takes too long.
    #[error("the scenario has reached its limit of {limit:?}")]
    TooLong { limit: Duration },
}

/// Records what comes in, and looks at what the scenario waits for.
pub(crate) struct EventLoop<'a> {
    pub recorder: &'a mut Recorder,
    receiver: mpsc::Receiver<Message>,
    /// Kept, so that the channel never closes while the loop lives.
    sender: Sender,
    /// What the scenario waits for.
    pub goal: Option<Goal>,
    /// The conditions that end faults, by the fault's name, and whether they have become true.
    pub untils: Vec<Until>,
    /// What ends the wait of the step that is done now.
    pub awaited: Option<Awaited>,
    /// How many kinds the witness has listed.
    pub listed: usize,
    /// When the scenario has to end.
    pub deadline: Instant,
    limit: Duration,
    /// What was handed to the recorder, and what the loop noted itself.
    seal: Seal,
    /// The time of the last event, as the recorder must have it.
    last_us: u64,
}

/// A condition that ends a fault.
pub(crate) struct Until {
    pub fault: String,
    pub condition: Compiled,
    pub is_true: bool,
}

/// A condition that ends a wait.
pub(crate) struct Awaited {
    pub condition: Compiled,
    /// When it was first seen true, in microseconds since the run began, and by how much earlier
    /// that may have been.
    pub met_us: Option<(u64, u64)>,
    /// Why there was no answer, if last there was none.
    pub trouble: Option<String>,
}

impl Awaited {
    pub fn new(condition: Compiled) -> Self {
        Self { condition, met_us: None, trouble: None }
    }

    /// Looks at the world once more.
    pub fn see(&mut self, world: &World, at_us: u64, error_us: u64) {
        if self.met_us.is_some() {
            return;
        }
        self.trouble = None;
        match self.condition.holds(world) {
            Ok(true) => self.met_us = Some((at_us, error_us)),
            Ok(false) => {}
            Err(error) => self.trouble = Some(error.to_string()),
        }
    }
}

impl<'a> EventLoop<'a> {
    pub fn new(recorder: &'a mut Recorder) -> Self {
        let (channel, receiver) = mpsc::channel(QUEUE);
        let sender = Sender { channel, told: Arc::default() };
        let last_us = recorder.events().last().map_or(0, |event| event.at_us);
        let limit = recorder.limits().scenario;
        Self {
            recorder,
            receiver,
            sender,
            goal: None,
            untils: Vec::new(),
            awaited: None,
            listed: 0,
            deadline: Instant::now() + limit,
            limit,
            seal: Seal::default(),
            last_us,
        }
    }

    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    pub fn world(&self) -> &World {
        self.recorder.world()
    }

    pub fn now_us(&self) -> u64 {
        self.recorder.micros(Instant::now())
    }

    /// Records what happens now.
    pub fn note(&mut self, what: What) -> Result<(), RecordError> {
        self.note_at(Instant::now(), Duration::ZERO, what)
    }

    /// Records what the loop's owner did or saw.
    pub fn note_at(&mut self, at: Instant, error: Duration, what: What) -> Result<(), RecordError> {
        self.seal.count(&what);
        self.put(at, error, what)
    }

    /// Notes how much there was to record, and of what: the last event but one of a scenario.
    pub fn seal(&mut self) -> Result<(), RecordError> {
        let mut seal = self.seal.clone();
        let told = self.sender.told.lock().expect("no code panics while it holds the counts");
        for (sort, count) in told.iter() {
            seal.count_many(sort, *count);
        }
        drop(told);
        let digest = seal.digest();
        self.recorder.now(What::Sealed { counts: seal.counts, digest })
    }

    /// Records, and looks at what the scenario waits for.
    fn put(&mut self, at: Instant, error: Duration, what: What) -> Result<(), RecordError> {
        let seen_us = self.recorder.micros(at);
        self.last_us = self.last_us.max(seen_us);
        let error_us = error.as_micros() as u64 + (self.last_us - seen_us);
        self.seal.chain(self.last_us, error_us, &what);
        let recorded = self.recorder.record(at, error, what);
        let (at_us, error_us) =
            self.recorder.events().last().map_or((0, 0), |event| (event.at_us, event.error_us));
        let world = self.recorder.world();
        if let Some(goal) = &mut self.goal {
            goal.see(world, at_us, error_us);
        }
        if let Some(awaited) = &mut self.awaited {
            awaited.see(world, at_us, error_us);
        }
        for until in self.untils.iter_mut().filter(|until| !until.is_true) {
            until.is_true = until.condition.holds(world) == Ok(true);
        }
        recorded
    }

    fn take(&mut self, message: Message) -> Result<(), RecordError> {
        match message {
            Message::Saw { at, error, what } => self.put(at, error, *what),
            Message::Listed => {
                self.listed += 1;
                Ok(())
            }
        }
    }

    /// Takes in what comes until a time, or until something is true; tells whether it became true.
    pub async fn until_or(
        &mut self,
        time: Instant,
        is_met: impl Fn(&Self) -> bool,
    ) -> Result<bool, LoopError> {
        loop {
            if is_met(self) {
                return Ok(true);
            }
            self.check_limit()?;
            let now = Instant::now();
            if now >= time {
                return Ok(false);
            }
            tokio::select! {
                biased;
                message = self.receiver.recv() => {
                    self.take(message.expect("the loop holds a sender"))?;
                }
                () = sleep_until(time.min(self.deadline)) => {}
            }
        }
    }

    /// Does something while taking in what comes. `None` if it took longer than its limit.
    pub async fn drive<F: Future>(
        &mut self,
        limit: Duration,
        work: F,
    ) -> Result<Option<F::Output>, RecordError> {
        let mut work = pin!(timeout(limit, work));
        loop {
            tokio::select! {
                biased;
                message = self.receiver.recv() => {
                    self.take(message.expect("the loop holds a sender"))?;
                }
                output = &mut work => return Ok(output.ok()),
            }
        }
    }

    /// Takes in what waits in the channel already.
    pub fn drain(&mut self) -> Result<(), RecordError> {
        while let Ok(message) = self.receiver.try_recv() {
            self.take(message)?;
        }
        Ok(())
    }

    fn check_limit(&self) -> Result<(), LoopError> {
        if Instant::now() >= self.deadline {
            return Err(LoopError::TooLong { limit: self.limit });
        }
        Ok(())
    }
}

/// Passes on what the target sees.
pub(crate) async fn pump(mut seen: BoxStream<'static, Observation>, sender: Sender) {
    while let Some(Observation { at, error, what }) = seen.next().await {
        if sender.send(Message::Saw { at, error, what: Box::new(what) }).await.is_err() {
            return;
        }
    }
}
