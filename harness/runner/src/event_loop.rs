//! The event loop: everything that is seen comes through one channel and is recorded by one writer.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use shakedown_core::condition::Compiled;
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
    Saw { at: Instant, error: Duration, what: What },
    /// The witness has listed one kind.
    Listed,
}

/// Where tasks tell it.
pub(crate) type Sender = mpsc::Sender<Message>;

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
    /// How many kinds the witness has listed.
    pub listed: usize,
    /// When the scenario has to end.
    pub deadline: Instant,
    limit: Duration,
}

/// A condition that ends a fault.
pub(crate) struct Until {
    pub fault: String,
    pub condition: Compiled,
    pub is_true: bool,
}

impl<'a> EventLoop<'a> {
    pub fn new(recorder: &'a mut Recorder) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let limit = recorder.limits().scenario;
        Self {
            recorder,
            receiver,
            sender,
            goal: None,
            untils: Vec::new(),
            listed: 0,
            deadline: Instant::now() + limit,
            limit,
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

    /// Records, and looks at what the scenario waits for.
    pub fn note_at(&mut self, at: Instant, error: Duration, what: What) -> Result<(), RecordError> {
        let recorded = self.recorder.record(at, error, what);
        let (at_us, error_us) =
            self.recorder.events().last().map_or((0, 0), |event| (event.at_us, event.error_us));
        let world = self.recorder.world();
        if let Some(goal) = &mut self.goal {
            goal.see(world, at_us, error_us);
        }
        for until in self.untils.iter_mut().filter(|until| !until.is_true) {
            until.is_true = until.condition.holds(world) == Ok(true);
        }
        recorded
    }

    fn take(&mut self, message: Message) -> Result<(), RecordError> {
        match message {
            Message::Saw { at, error, what } => self.note_at(at, error, what),
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
        if sender.send(Message::Saw { at, error, what }).await.is_err() {
            return;
        }
    }
}
