//! A sign that something has changed, for any number of tasks, woken in the order they waited.
//!
//! `tokio::sync::watch` must not be waited for by more than one task in a simulation: it spreads its
//! waiters over lists that it picks at random, so the order of waking differs from run to run.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// A counter that rises with every change, and can be waited for.
#[derive(Default)]
pub struct Signal {
    count: AtomicU64,
    notify: Notify,
}

impl Signal {
    /// How many changes there have been.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Says that something has changed.
    pub fn raise(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.notify.notify_waiters();
    }

    /// Waits until there have been more changes than `seen`; answers how many. Look at what may have
    /// changed after reading the count and before waiting, and nothing is missed.
    pub async fn after(&self, seen: u64) -> u64 {
        loop {
            let mut notified = std::pin::pin!(self.notify.notified());
            notified.as_mut().enable();
            let count = self.count();
            if count != seen {
                return count;
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use crate::{Env, SimMachine, Timestamp};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_are_woken_in_order_and_a_change_before_the_wait_is_not_missed() {
        let env = Env::new(Arc::new(SimMachine::new(1, "x", Timestamp::UNIX_EPOCH)), None);
        let (signal, woken) = (Arc::new(Signal::default()), Arc::new(Mutex::new(Vec::new())));
        let tasks: Vec<_> = (0..50)
            .map(|number| {
                let (signal, woken) = (signal.clone(), woken.clone());
                env.spawn(async move {
                    let count = signal.after(0).await;
                    woken.lock().expect("no panic").push((number, count));
                })
            })
            .collect();
        tokio::task::yield_now().await;
        signal.raise();
        for task in tasks {
            task.join().await;
        }
        let expected: Vec<_> = (0..50).map(|number| (number, 1)).collect();
        assert_eq!(*woken.lock().expect("no panic"), expected);
        assert_eq!(signal.after(0).await, 1, "it has changed since");
    }
}
