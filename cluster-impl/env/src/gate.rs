//! A gate in front of every task of a simulated process: frozen (SIGSTOP), or killed (SIGKILL).

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

#[derive(Default)]
struct State {
    frozen: bool,
    killed: bool,
    /// Who waits behind the gate, by number: a server with thousands of open watches has thousands.
    waiting: BTreeMap<u64, Waker>,
    /// How many futures have been put behind the gate.
    guarded: u64,
}

/// The handle by which a simulated process is frozen, thawed and killed. Cheap to clone.
#[derive(Clone, Default)]
pub struct Gate {
    state: Arc<Mutex<State>>,
}

impl Gate {
    /// Stops every task behind the gate where it stands. Timers run on and fire when it thaws.
    pub fn freeze(&self) {
        self.lock().frozen = true;
    }

    /// Lets the tasks go on.
    pub fn thaw(&self) {
        let waiting = {
            let mut state = self.lock();
            state.frozen = false;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_values().for_each(Waker::wake);
    }

    /// Ends every task behind the gate, frozen or not, for good.
    pub fn kill(&self) {
        let waiting = {
            let mut state = self.lock();
            state.killed = true;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_values().for_each(Waker::wake);
    }

    /// Whether the process stands still.
    pub fn is_frozen(&self) -> bool {
        self.lock().frozen
    }

    /// Whether the process is dead.
    pub fn is_killed(&self) -> bool {
        self.lock().killed
    }

    /// Puts a future behind the gate. It ends with `None` when the process is killed.
    pub fn guard<F: Future>(&self, future: F) -> Gated<F> {
        let mut state = self.lock();
        state.guarded += 1;
        let number = state.guarded;
        drop(state);
        Gated { gate: self.clone(), future: Some(Box::pin(future)), number }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the gate")
    }
}

/// A future behind a [`Gate`].
pub struct Gated<F: Future> {
    gate: Gate,
    future: Option<Pin<Box<F>>>,
    number: u64,
}

impl<F: Future> Drop for Gated<F> {
    fn drop(&mut self) {
        // Its waker must not stay behind: a gate outlives most of what is behind it.
        self.gate.lock().waiting.remove(&self.number);
    }
}

impl<F: Future> Future for Gated<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        {
            let mut state = self.gate.lock();
            if state.killed {
                drop(state);
                self.future = None;
                return Poll::Ready(None);
            }
            // Registered on every pending poll: a kill must reach a task that waits for something else.
            let known = state.waiting.get(&self.number);
            if known.is_none_or(|waker| !waker.will_wake(cx.waker())) {
                state.waiting.insert(self.number, cx.waker().clone());
            }
            if state.frozen {
                return Poll::Pending;
            }
        }
        let Some(future) = self.future.as_mut() else { return Poll::Ready(None) };
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => {
                self.future = None;
                Poll::Ready(Some(output))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
