//! The line to the agent of one node: a `docker exec` whose input and output are held open.
//!
//! When the link is dropped, or this process dies, the agent's input ends, the agent with it, and with
//! it every cut. Its clock is measured at the beginning: both are monotonic clocks that run alike.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use futures::{Stream, StreamExt};
use shakedown_core::agent::{Answer, Ask, Request, Say};
use shakedown_core::lever::Reading;
use shakedown_core::target::{Observation, TargetError};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::docker::failed;
use crate::eyes::Eyes;
use crate::node_files::AGENT;

/// An agent answers within this, but for questions that carry a limit of their own.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The agent hears of us so often; see its `SILENCE_MAX`.
const BEAT_EVERY: Duration = Duration::from_secs(5);
/// So many questions measure the agent's clock; the fastest counts.
const CLOCK_SAMPLES: u32 = 5;
/// How long it may take Docker to tell that a node died.
const DEATH_KNOWN_WITHIN: Duration = Duration::from_millis(500);

type Input = Pin<Box<dyn AsyncWrite + Send>>;
type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;

/// Which node a link leads to.
#[derive(Debug, Clone)]
pub(crate) struct To {
    /// The node's name.
    pub node: String,
    /// Its container.
    pub container: String,
}

/// A line to an agent.
pub(crate) struct Link {
    to: To,
    input: AsyncMutex<Input>,
    shared: Arc<Shared>,
    next: AtomicU64,
    _tasks: JoinSet<()>,
}

/// By request: where the answer goes, with the agent's time.
type Waiting = BTreeMap<u64, oneshot::Sender<(u64, Answer)>>;

#[derive(Default)]
struct Shared {
    /// Who waits for which answer; nothing once the agent's output has ended.
    waiting: Mutex<Option<Waiting>>,
    clock: OnceLock<Clock>,
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
struct Clock {
    here: Instant,
    there_us: u64,
    error: Duration,
}

impl Clock {
    /// The agent's time on our clock.
    fn to_here(self, there_us: u64) -> Instant {
        if there_us >= self.there_us {
            self.here + Duration::from_micros(there_us - self.there_us)
        } else {
            let before = Duration::from_micros(self.there_us - there_us);
            self.here.checked_sub(before).unwrap_or(self.here)
        }
    }
}

impl Link {
    /// Starts the agent and measures its clock.
    pub async fn open(docker: &Docker, to: To, eyes: Arc<Eyes>) -> Result<Arc<Self>, TargetError> {
        let what = format!("starting the agent on {}", to.node);
        let broken = |error: bollard::errors::Error| failed(what.clone(), error, "");
        let options = CreateExecOptions {
            cmd: Some(vec![AGENT.to_owned(), to.node.clone()]),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let exec = docker.create_exec(&to.container, options).await.map_err(broken)?;
        let started = docker.start_exec(&exec.id, None).await.map_err(broken)?;
        let StartExecResults::Attached { output, input } = started else {
            return Err(failed(what, "Docker did not attach to it", ""));
        };
        let shared = Arc::new(Shared::default());
        *lock(&shared.waiting) = Some(BTreeMap::new());
        let mut tasks = JoinSet::new();
        let reader =
            Reader { to: to.clone(), docker: docker.clone(), shared: Arc::clone(&shared), eyes };
        tasks.spawn(reader.run(output));
        let link = Arc::new_cyclic(|weak: &Weak<Self>| {
            tasks.spawn(beat(weak.clone()));
            Self {
                to,
                input: AsyncMutex::new(input),
                shared,
                next: AtomicU64::new(0),
                _tasks: tasks,
            }
        });
        link.measure_clock().await?;
        Ok(link)
    }

    /// Whether the agent may still answer.
    pub fn is_open(&self) -> bool {
        lock(&self.shared.waiting).is_some()
    }

    /// How far the two clocks are known to each other.
    pub fn clock_error(&self) -> Duration {
        self.shared.clock.get().map_or(Duration::ZERO, |clock| clock.error)
    }

    async fn measure_clock(&self) -> Result<(), TargetError> {
        let mut best: Option<Clock> = None;
        for _ in 0..CLOCK_SAMPLES {
            let asked = Instant::now();
            let (there_us, _) = self.exchange(Ask::Now, ANSWER_WITHIN).await?;
            let error = asked.elapsed() / 2;
            if best.is_none_or(|best| error < best.error) {
                best = Some(Clock { here: asked + error, there_us, error });
            }
        }
        if let Some(clock) = best {
            self.shared.clock.get_or_init(|| clock);
        }
        Ok(())
    }

    /// Has something done.
    pub async fn order(&self, ask: Ask) -> Result<(), TargetError> {
        self.exchange(ask, ANSWER_WITHIN).await.map(drop)
    }

    /// Asks something that is answered with a reading.
    pub async fn reading(&self, ask: Ask) -> Result<Reading, TargetError> {
        let what = describe(&ask);
        match self.exchange(ask, ANSWER_WITHIN).await?.1 {
            Answer::Reading { reading } => Ok(reading),
            other => Err(self.odd(&what, &other)),
        }
    }

    /// What a run may leave behind on the node.
    pub async fn things(&self) -> Result<BTreeMap<String, String>, TargetError> {
        match self.exchange(Ask::Fingerprint, ANSWER_WITHIN).await?.1 {
            Answer::Things { things } => Ok(things),
            other => Err(self.odd("its fingerprint", &other)),
        }
    }

    fn odd(&self, what: &str, answer: &Answer) -> TargetError {
        failed(
            format!("asking the agent on {} for {what}", self.to.node),
            format!("it answered {answer:?}"),
            "",
        )
    }

    async fn exchange(&self, ask: Ask, within: Duration) -> Result<(u64, Answer), TargetError> {
        let what = format!("asking the agent on {} for {}", self.to.node, describe(&ask));
        let gone = || failed(what.clone(), "the agent is gone", "is the node running?");
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        lock(&self.shared.waiting).as_mut().ok_or_else(gone)?.insert(id, tell);
        let mut line =
            serde_json::to_vec(&Request { id, ask }).expect("plain data can be written as JSON");
        line.push(b'\n');
        {
            let mut input = self.input.lock().await;
            input.write_all(&line).await.map_err(|error| failed(what.clone(), error, ""))?;
            input.flush().await.map_err(|error| failed(what.clone(), error, ""))?;
        }
        let answered = tokio::time::timeout(within, told).await;
        if answered.is_err()
            && let Some(waiting) = lock(&self.shared.waiting).as_mut()
        {
            waiting.remove(&id);
        }
        match answered {
            Ok(Ok((_, Answer::Failed { why }))) => Err(failed(what, why, "")),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(failed(what, format!("no answer in {within:?}"), "is the node paused?")),
        }
    }
}

/// What is asked, in few words.
fn describe(ask: &Ask) -> String {
    let value = serde_json::to_value(ask).unwrap_or_default();
    value["ask"].as_str().unwrap_or_default().to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this")
}

/// Shows the agent that we live.
async fn beat(link: Weak<Link>) {
    loop {
        tokio::time::sleep(BEAT_EVERY).await;
        let Some(link) = link.upgrade() else { return };
        if !link.is_open() {
            return;
        }
        // A paused node does not answer, and need not.
        link.exchange(Ask::Now, BEAT_EVERY).await.ok();
    }
}

struct Reader {
    to: To,
    docker: Docker,
    shared: Arc<Shared>,
    eyes: Arc<Eyes>,
}

impl Reader {
    async fn run(self, mut output: Output) {
        let mut text = Vec::new();
        while let Some(Ok(part)) = output.next().await {
            match part {
                LogOutput::StdOut { message } => text.extend_from_slice(&message),
                other => tracing::warn!(node = %self.to.node, "agent: {other}"),
            }
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                self.take(&line);
            }
        }
        let ended = Instant::now();
        // Those who wait learn that nothing comes.
        lock(&self.shared.waiting).take();
        let inspected = self.docker.inspect_container(&self.to.container, None).await;
        let running = inspected
            .is_ok_and(|found| found.state.and_then(|state| state.running).unwrap_or(false));
        if !running {
            self.eyes.node_died(&self.to.node, ended, DEATH_KNOWN_WITHIN);
        }
    }

    fn take(&self, line: &[u8]) {
        match serde_json::from_slice::<Say>(line) {
            Ok(Say::Reply { id, at_us, answer }) => {
                let waiting = lock(&self.shared.waiting).as_mut().and_then(|all| all.remove(&id));
                if let Some(waiting) = waiting {
                    // Whoever asked may have given up.
                    waiting.send((at_us, answer)).ok();
                }
            }
            Ok(Say::Seen { at_us, error_us, what }) => {
                let Some(clock) = self.shared.clock.get() else { return };
                let error = Duration::from_micros(error_us) + clock.error * 2;
                let at = clock.to_here(at_us) + clock.error;
                self.eyes.saw(Observation { at, error, what: *what });
            }
            Err(error) => {
                tracing::warn!(node = %self.to.node, "unreadable line of the agent: {error}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn times_are_moved_by_what_the_clocks_differ() {
        tokio::time::advance(Duration::from_secs(100)).await;
        let here = Instant::now();
        let clock = Clock { here, there_us: 5_000_000, error: Duration::ZERO };
        assert_eq!(clock.to_here(6_500_000), here + Duration::from_millis(1500));
        assert_eq!(clock.to_here(4_000_000), here - Duration::from_secs(1));
    }

    #[test]
    fn questions_are_named_by_their_kind() {
        assert_eq!(describe(&Ask::Mend { id: "x".to_owned() }), "mend");
    }
}
