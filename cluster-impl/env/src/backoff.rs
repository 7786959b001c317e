//! Growing waits with seeded jitter.

use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Waits that double from a first to a most, each spread by up to a tenth.
pub struct Backoff {
    stream: ChaCha8Rng,
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(stream: ChaCha8Rng, first: Duration, most: Duration) -> Self {
        Self { stream, first, most, next: first }
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.next.mul_f64(1.0 + self.stream.random_range(0.0..0.1));
        self.next = (self.next * 2).min(self.most);
        wait
    }

    /// Starts again from the first wait: call it after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}
