//! A simulated machine: the wall clock follows tokio's (paused) clock, every seed follows one seed.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Machine, Timestamp};

/// One simulated machine of a simulated world.
pub struct SimMachine {
    seed: u64,
    name: String,
    epoch: Timestamp,
    started: tokio::time::Instant,
    /// How far this machine's wall clock is off.
    skew_us: AtomicI64,
    /// One stream of seeds for each label.
    streams: Mutex<BTreeMap<String, ChaCha8Rng>>,
}

impl SimMachine {
    /// A machine named `name` in the world of `seed`, whose wall clock reads `epoch` now.
    pub fn new(seed: u64, name: &str, epoch: Timestamp) -> Self {
        Self {
            seed,
            name: name.to_owned(),
            epoch,
            started: tokio::time::Instant::now(),
            skew_us: AtomicI64::new(0),
            streams: Mutex::default(),
        }
    }

    /// Puts the wall clock off by this many microseconds from now on.
    pub fn set_skew_us(&self, skew_us: i64) {
        self.skew_us.store(skew_us, Ordering::Relaxed);
    }
}

impl Machine for SimMachine {
    fn now(&self) -> Timestamp {
        let elapsed_us = i64::try_from(self.started.elapsed().as_micros())
            .expect("a simulation ends before 292,000 years have passed");
        let skew_us = self.skew_us.load(Ordering::Relaxed);
        self.epoch + jiff::SignedDuration::from_micros(elapsed_us + skew_us)
    }

    fn seed(&self, label: &str) -> [u8; 32] {
        let mut streams = self.streams.lock().expect("no code panics while it holds the streams");
        let stream = streams.entry(label.to_owned()).or_insert_with(|| {
            ChaCha8Rng::from_seed(spread(self.seed, self.name.as_bytes(), label.as_bytes()))
        });
        let mut seed = [0; 32];
        stream.fill_bytes(&mut seed);
        seed
    }
}

/// Spreads a seed and two labels over 32 bytes (four FNV-1a hashes with different starts).
fn spread(seed: u64, name: &[u8], label: &[u8]) -> [u8; 32] {
    let mut spread = [0; 32];
    for (lane, chunk) in spread.chunks_mut(8).enumerate() {
        let mut hash =
            0xcbf2_9ce4_8422_2325_u64 ^ (lane as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for byte in seed.to_le_bytes().iter().chain(name).chain(&[0]).chain(label) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        chunk.copy_from_slice(&hash.to_le_bytes());
    }
    spread
}
