//! The runtime of a simulation, and the limits that end one which would never end by itself.
//!
//! Under a paused clock a lost wake-up does not hang: time keeps jumping to the next timer, for ever.
//! So every run is bounded in virtual time, in wall time, in requests, and in requests at one instant.
//! A panic in any task of the simulation ends the run too: it would otherwise go unnoticed.

use std::cell::RefCell;
use std::future::Future;
use std::panic;
use std::sync::{Arc, Mutex, MutexGuard, Once};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How often, in virtual time, the clocks are compared with their limits.
const WATCH_PERIOD: Duration = Duration::from_secs(60);

/// What a node may ask at one instant, if it comes to more than the limit of the run.
const AT_ONCE_PER_NODE: u64 = 200;

/// The bounds of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunLimits {
    /// Virtual time.
    pub virtual_time: Duration,
    /// Time of the machine.
    pub wall_time: Duration,
    /// Requests to API servers.
    pub requests: u64,
    /// Requests to API servers while virtual time stands still.
    pub requests_at_once: u64,
}

impl Default for RunLimits {
    /// Bounds that no honest run comes near: a week, an hour, and requests to match.
    fn default() -> Self {
        Self {
            virtual_time: Duration::from_secs(7 * 24 * 3600),
            wall_time: Duration::from_secs(3600),
            requests: 200_000_000,
            requests_at_once: 20_000,
        }
    }
}

/// Why a run was ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitReached {
    /// Virtual time ran out.
    #[error(
        "the simulation of seed {seed} has reached its limit of {limit:?} of virtual time: \
         something waits for what never comes"
    )]
    VirtualTime {
        /// The seed.
        seed: u64,
        /// The limit.
        limit: Duration,
    },
    /// The machine's time ran out.
    #[error("the simulation of seed {seed} has run for its limit of {limit:?}")]
    WallTime {
        /// The seed.
        seed: u64,
        /// The limit.
        limit: Duration,
    },
    /// Too many requests.
    #[error("the simulation of seed {seed} has made its limit of {limit} requests")]
    Requests {
        /// The seed.
        seed: u64,
        /// The limit.
        limit: u64,
    },
    /// Too many requests while the clock stood still.
    #[error(
        "the simulation of seed {seed} has made {limit} requests at one instant, the last from \
         {from} for {what}: something asks again without waiting"
    )]
    RequestsAtOnce {
        /// The seed.
        seed: u64,
        /// The limit.
        limit: u64,
        /// Who asked.
        from: String,
        /// Method and path.
        what: String,
    },
    /// A task panicked.
    #[error("a task of the simulation of seed {seed} panicked: {why}")]
    Panicked {
        /// The seed.
        seed: u64,
        /// The message and its place.
        why: String,
    },
}

/// What was used up of the limits.
pub(crate) struct Meter {
    seed: u64,
    limits: RunLimits,
    used: Mutex<Used>,
    reached: Notify,
}

struct Used {
    requests: u64,
    at: Instant,
    at_once: u64,
    /// The limit on them: that of the run, or more in a large cluster.
    at_once_max: u64,
    reached: Option<LimitReached>,
}

impl Meter {
    fn new(seed: u64, limits: RunLimits) -> Arc<Self> {
        let used = Used {
            requests: 0,
            at: Instant::now(),
            at_once: 0,
            at_once_max: limits.requests_at_once,
            reached: None,
        };
        Arc::new(Self { seed, limits, used: Mutex::new(used), reached: Notify::new() })
    }

    /// The meter of the run that this is called in, or one that nobody reads.
    pub(crate) fn current() -> Arc<Self> {
        let current = METER.with_borrow(Clone::clone);
        current.unwrap_or_else(|| Self::new(0, RunLimits::default()))
    }

    /// Counts a request; false if the run is over.
    pub(crate) fn count(&self, from: &str, what: impl FnOnce() -> String) -> bool {
        let now = Instant::now();
        let (seed, limits) = (self.seed, self.limits);
        let mut used = self.lock();
        if used.at != now {
            (used.at, used.at_once) = (now, 0);
        }
        used.requests += 1;
        used.at_once += 1;
        let reached = if used.at_once > used.at_once_max {
            let (limit, from) = (used.at_once_max, from.to_owned());
            Some(LimitReached::RequestsAtOnce { seed, limit, from, what: what() })
        } else if used.requests > limits.requests {
            Some(LimitReached::Requests { seed, limit: limits.requests })
        } else {
            None
        };
        drop(used);
        match reached {
            Some(reached) => {
                self.end(reached);
                false
            }
            None => true,
        }
    }

    /// Allows for a cluster of so many nodes, which may all ask at one instant.
    pub(crate) fn allow_for(&self, nodes: u64) {
        let mut used = self.lock();
        used.at_once_max = used.at_once_max.max(nodes * AT_ONCE_PER_NODE);
    }

    /// How many requests there were.
    pub(crate) fn requests(&self) -> u64 {
        self.lock().requests
    }

    fn end(&self, reached: LimitReached) {
        self.lock().reached.get_or_insert(reached);
        self.reached.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().expect("no code panics while it holds the meter")
    }

    /// Waits until a limit is reached.
    async fn over(&self) -> LimitReached {
        let (seed, limits) = (self.seed, self.limits);
        let began = Instant::now();
        #[expect(clippy::disallowed_methods, reason = "the limit on the machine's own time")]
        let wall = std::time::Instant::now();
        loop {
            if let Some(reached) = self.lock().reached.clone() {
                return reached;
            }
            if began.elapsed() > limits.virtual_time {
                return LimitReached::VirtualTime { seed, limit: limits.virtual_time };
            }
            if wall.elapsed() > limits.wall_time {
                return LimitReached::WallTime { seed, limit: limits.wall_time };
            }
            tokio::select! {
                biased;
                () = self.reached.notified() => {}
                () = tokio::time::sleep(WATCH_PERIOD) => {}
            }
        }
    }
}

/// How many requests the run on this thread has made to API servers so far.
pub fn requests() -> u64 {
    Meter::current().requests()
}

thread_local! {
    /// The meter of the run on this thread: a simulation has one thread to itself.
    static METER: RefCell<Option<Arc<Meter>>> = const { RefCell::new(None) };
}

/// Takes the thread's meter away again, however the run ends.
struct Metered;

impl Drop for Metered {
    fn drop(&mut self) {
        METER.set(None);
    }
}

/// Lets panics of tasks end the run that they happen in.
fn watch_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if let Some(meter) = METER.with_borrow(Clone::clone) {
                let why = info.to_string();
                meter.end(LimitReached::Panicked { seed: meter.seed, why });
            }
            before(info);
        }));
    });
}

/// Runs a future on a clock that jumps to the next timer whenever nothing is left to do.
///
/// # Panics
///
/// If a limit is reached; [`run_within`] answers that instead.
pub fn run<F: Future>(seed: u64, future: F) -> F::Output {
    match run_within(seed, RunLimits::default(), future) {
        Ok(output) => output,
        Err(reached) => panic!("{reached}"),
    }
}

/// Runs a future as [`run`] does, within these limits.
pub fn run_within<F: Future>(
    seed: u64,
    limits: RunLimits,
    future: F,
) -> Result<F::Output, LimitReached> {
    watch_for_panics();
    // Without I/O: a socket inside panics at once, which guards against hidden I/O.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing of the machine");
    runtime.block_on(async {
        let meter = Meter::new(seed, limits);
        METER.set(Some(meter.clone()));
        let _metered = Metered;
        tokio::select! {
            biased;
            reached = meter.over() => Err(reached),
            output = future => Ok(output),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: RunLimits = RunLimits {
        virtual_time: Duration::from_secs(3600),
        wall_time: Duration::from_secs(60),
        requests: 50,
        requests_at_once: 10,
    };

    #[test]
    fn a_future_that_ends_gives_its_output() {
        let slept = run_within(1, SMALL, async {
            let began = Instant::now();
            tokio::time::sleep(Duration::from_secs(1800)).await;
            began.elapsed().as_secs()
        });
        assert_eq!(slept, Ok(1800));
    }

    #[test]
    fn what_waits_for_ever_is_ended() {
        let ended = run_within(7, SMALL, async {
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            loop {
                ticks.tick().await;
            }
        });
        let ended: Result<(), _> = ended;
        assert_eq!(ended, Err(LimitReached::VirtualTime { seed: 7, limit: SMALL.virtual_time }));
    }

    #[test]
    fn who_asks_again_without_waiting_is_named() {
        let ended: Result<(), _> = run_within(7, SMALL, async {
            let meter = Meter::current();
            while meter.count("cp-1", || "GET /api".to_owned()) {}
            std::future::pending().await
        });
        let text = ended.expect_err("the limit is 10").to_string();
        assert!(
            text.contains("10 requests at one instant, the last from cp-1 for GET /api"),
            "{text}"
        );
    }

    #[test]
    fn requests_are_bounded_in_all() {
        let ended: Result<(), _> = run_within(7, SMALL, async {
            let meter = Meter::current();
            while meter.count("cp-1", String::new) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            std::future::pending().await
        });
        assert_eq!(ended, Err(LimitReached::Requests { seed: 7, limit: 50 }));
    }

    #[test]
    fn a_panic_in_a_task_ends_the_run() {
        let ended: Result<(), _> = run_within(7, SMALL, async {
            let machine = env::SimMachine::new(1, "x", env::Timestamp::UNIX_EPOCH);
            let env = env::Env::new(Arc::new(machine), None);
            let _task = env.spawn(async { panic!("on purpose") });
            std::future::pending().await
        });
        let text = ended.expect_err("the task panics").to_string();
        assert!(text.contains("on purpose"), "{text}");
    }
}
