//! Clock, entropy, task ownership and sabotage switches: what a component may know of its machine.
//!
//! A component gets one [`Env`] and nothing else that could tell a real machine from a simulated one.
//! `os.rs` answers from the machine, `sim.rs` from a seed and from tokio's paused clock.
//! Invariant: outside `os.rs` nothing in the simulated crates reads a clock or draws randomness.

mod backoff;
mod gate;
mod os;
mod sabotage;
mod signal;
mod sim;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use backoff::Backoff;
pub use gate::{Gate, Gated};
pub use jiff::Timestamp;
pub use os::OsMachine;
pub use sabotage::Sabotage;
pub use signal::Signal;
pub use sim::SimMachine;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The letters that Kubernetes uses in generated names: no vowels, no look-alikes.
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// What a machine offers: a wall clock and seeds. Two bodies: [`OsMachine`] and [`SimMachine`].
pub trait Machine: Send + Sync + 'static {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// A seed for the stream of this label. A simulated machine answers the same for the same label
    /// and the same number of earlier calls with it.
    fn seed(&self, label: &str) -> [u8; 32];
}

/// The surroundings of one process. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    machine: Arc<dyn Machine>,
    gate: Option<Gate>,
    sabotages: Arc<[Sabotage]>,
}

impl Env {
    /// The surroundings that the operating system gives.
    pub fn os() -> Self {
        Self { machine: Arc::new(OsMachine), gate: None, sabotages: Arc::new([]) }
    }

    /// Surroundings on a given machine; tasks live behind `gate`, so that whoever holds it can
    /// freeze or kill the process.
    pub fn new(machine: Arc<dyn Machine>, gate: Option<Gate>) -> Self {
        Self { machine, gate, sabotages: Arc::new([]) }
    }

    /// The same surroundings with these sabotages switched on.
    #[must_use]
    pub fn with_sabotages(mut self, sabotages: &[Sabotage]) -> Self {
        self.sabotages = sabotages.into();
        self
    }

    /// Whether this planted defect is switched on. Always false in a build without the feature `sabotage`.
    pub fn sabotaged(&self, sabotage: Sabotage) -> bool {
        cfg!(feature = "sabotage") && self.sabotages.contains(&sabotage)
    }

    /// The wall clock.
    pub fn now(&self) -> Timestamp {
        self.machine.now()
    }

    /// The monotonic clock: tokio's, which virtual time moves.
    pub fn instant(&self) -> tokio::time::Instant {
        tokio::time::Instant::now()
    }

    /// Waits on the monotonic clock.
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// A random stream of its own for this label.
    pub fn entropy(&self, label: &str) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(self.machine.seed(label))
    }

    /// A random UUID, version 4.
    pub fn uid(&self) -> String {
        let mut bytes = [0u8; 16];
        self.entropy("uid").fill(&mut bytes[..]);
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let mut text = String::with_capacity(36);
        for (at, byte) in bytes.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }

    /// A random suffix as in generated names: `length` letters that cannot spell a word.
    pub fn suffix(&self, length: usize) -> String {
        let mut stream = self.entropy("suffix");
        (0..length)
            .map(|_| char::from(NAME_LETTERS[stream.random_range(0..NAME_LETTERS.len())]))
            .collect()
    }

    /// Waits that grow from `first` to `most` by doubling, each spread by up to a tenth from the
    /// stream of `label`.
    pub fn backoff(&self, label: &str, first: Duration, most: Duration) -> Backoff {
        Backoff::new(self.entropy(label), first, most)
    }

    /// Runs a task that dies with the returned [`Task`], and freezes and dies with its process.
    pub fn spawn<F>(&self, future: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        #[expect(clippy::disallowed_methods, reason = "the one place where tasks are started")]
        let handle = match &self.gate {
            Some(gate) => tokio::spawn(gate.guard(future)),
            None => tokio::spawn(async move { Some(future.await) }),
        };
        Task { handle }
    }
}

/// A running task; dropping it ends it.
pub struct Task<T> {
    handle: tokio::task::JoinHandle<Option<T>>,
}

impl<T> Task<T> {
    /// Waits for the result; `None` if the task was killed. A panic inside goes on here.
    pub async fn join(mut self) -> Option<T> {
        match (&mut self.handle).await {
            Ok(output) => output,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => None,
        }
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(seed: u64) -> Env {
        Env::new(Arc::new(SimMachine::new(seed, "node", Timestamp::UNIX_EPOCH)), None)
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn one_seed_gives_one_history_and_another_seed_another() {
        let history = |seed| {
            let env = env(seed);
            (env.uid(), env.uid(), env.suffix(5))
        };
        assert_eq!(history(1), history(1));
        assert_ne!(history(1), history(2));
        let (first, second, _) = history(1);
        assert_ne!(first, second, "a label's stream moves on");
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn the_simulated_wall_clock_follows_virtual_time() {
        let env = env(1);
        let before = env.now();
        env.sleep(Duration::from_secs(300)).await;
        assert_eq!(env.now().duration_since(before).as_secs(), 300);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_frozen_process_stands_still_and_a_killed_one_ends() {
        let gate = Gate::default();
        let env = Env::new(
            Arc::new(SimMachine::new(1, "node", Timestamp::UNIX_EPOCH)),
            Some(gate.clone()),
        );
        let (send, mut ticks) = tokio::sync::mpsc::unbounded_channel();
        let inner = env.clone();
        let task = env.spawn(async move {
            loop {
                inner.sleep(Duration::from_secs(1)).await;
                let _ = send.send(());
            }
        });
        let count = |ticks: &mut tokio::sync::mpsc::UnboundedReceiver<()>| {
            std::iter::from_fn(|| ticks.try_recv().ok()).count()
        };
        env.sleep(Duration::from_millis(3500)).await;
        assert_eq!(count(&mut ticks), 3);
        gate.freeze();
        env.sleep(Duration::from_secs(10)).await;
        assert_eq!(count(&mut ticks), 0);
        gate.thaw();
        env.sleep(Duration::from_millis(100)).await;
        assert_eq!(count(&mut ticks), 1, "the timer had run out while the process stood still");
        gate.kill();
        env.sleep(Duration::from_millis(1)).await;
        assert!(task.is_finished());
    }
}
