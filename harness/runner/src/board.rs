//! A value that many tasks read and wait for, woken in the order in which they waited.
//!
//! `tokio::sync::watch` spreads its waiters over lists that it picks at random, so that the order of
//! waking, and with it the timeline, would differ from run to run.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

struct Inner<T> {
    value: Mutex<(T, u64)>,
    changed: Notify,
}

/// The writing side.
pub(crate) struct Board<T> {
    inner: Arc<Inner<T>>,
}

impl<T: Copy> Board<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { inner: Arc::new(Inner { value: Mutex::new((value, 0)), changed: Notify::new() }) }
    }

    pub(crate) fn set(&self, value: T) {
        {
            let mut held =
                self.inner.value.lock().expect("no code panics while it holds the value");
            *held = (value, held.1 + 1);
        }
        self.inner.changed.notify_waiters();
    }

    pub(crate) fn get(&self) -> T {
        self.inner.value.lock().expect("no code panics while it holds the value").0
    }

    /// A reader that has seen everything up to now.
    pub(crate) fn reader(&self) -> Reader<T> {
        let seen = self.inner.value.lock().expect("no code panics while it holds the value").1;
        Reader { inner: self.inner.clone(), seen }
    }
}

/// A reading side.
pub(crate) struct Reader<T> {
    inner: Arc<Inner<T>>,
    seen: u64,
}

impl<T: Copy> Reader<T> {
    pub(crate) fn get(&self) -> T {
        self.inner.value.lock().expect("no code panics while it holds the value").0
    }

    /// The value, which counts as seen from now on.
    pub(crate) fn look(&mut self) -> T {
        let held = *self.inner.value.lock().expect("no code panics while it holds the value");
        self.seen = held.1;
        held.0
    }

    /// Waits for a value that this reader has not seen. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        loop {
            let mut notified = std::pin::pin!(self.inner.changed.notified());
            notified.as_mut().enable();
            let count = self.inner.value.lock().expect("no code panics while it holds the value").1;
            if count != self.seen {
                self.seen = count;
                return;
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_is_seen_once_by_each_reader() {
        let board = Board::new(1);
        let (mut early, mut late) = (board.reader(), board.reader());
        board.set(2);
        early.changed().await;
        assert_eq!(early.get(), 2);
        board.set(3);
        late.changed().await;
        assert_eq!((late.get(), board.get()), (3, 3));
        let again = tokio::time::timeout(std::time::Duration::from_secs(1), late.changed()).await;
        assert!(again.is_err(), "nothing has changed since");
    }
}
