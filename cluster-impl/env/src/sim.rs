//! A simulated machine: the wall clock follows tokio's (paused) clock, every seed follows one seed.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Machine, Timestamp};

/// How a wall clock is off: so far at an instant, and from then on faster or slower.
#[derive(Clone, Copy)]
struct Skew {
    offset_us: i64,
    rate_ppm: i64,
    since: tokio::time::Instant,
}

impl Skew {
    fn now_us(self) -> i64 {
        if self.rate_ppm == 0 {
            return self.offset_us;
        }
        self.offset_us.saturating_add(gained_us(self.since.elapsed(), self.rate_ppm))
    }
}

/// One simulated machine of a simulated world.
pub struct SimMachine {
    seed: u64,
    name: String,
    epoch: Timestamp,
    started: tokio::time::Instant,
    skew: Mutex<Skew>,
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
            skew: Mutex::new(Skew {
                offset_us: 0,
                rate_ppm: 0,
                since: tokio::time::Instant::now(),
            }),
            streams: Mutex::default(),
        }
    }

    /// Puts the wall clock off by this many microseconds at once; from then on it gains `rate_ppm`
    /// microseconds a second (loses, if negative). Zero and zero set it right.
    pub fn set_skew(&self, offset_us: i64, rate_ppm: i64) {
        *self.skew() = Skew { offset_us, rate_ppm, since: tokio::time::Instant::now() };
    }

    /// How far the wall clock is ahead now, in microseconds; negative is behind.
    pub fn skew_us(&self) -> i64 {
        self.skew().now_us()
    }

    /// Whether the wall clock is right and will stay so.
    pub fn is_right(&self) -> bool {
        let skew = self.skew();
        skew.offset_us == 0 && skew.rate_ppm == 0
    }

    fn skew(&self) -> MutexGuard<'_, Skew> {
        self.skew.lock().expect("no code panics while it holds the skew")
    }
}

/// What a clock that runs `rate_ppm` too fast gains in a while.
fn gained_us(elapsed: std::time::Duration, rate_ppm: i64) -> i64 {
    let elapsed_us = i128::try_from(elapsed.as_micros()).unwrap_or(i128::MAX / 2_000_000_000);
    let gained = elapsed_us.saturating_mul(i128::from(rate_ppm)) / 1_000_000;
    i64::try_from(gained).unwrap_or(if rate_ppm > 0 { i64::MAX } else { i64::MIN })
}

impl Machine for SimMachine {
    fn now(&self) -> Timestamp {
        let elapsed_us = i64::try_from(self.started.elapsed().as_micros())
            .expect("a simulation ends before 292,000 years have passed");
        let off_us = elapsed_us.saturating_add(self.skew_us());
        // A clock that is off beyond all calendars stands at its end.
        self.epoch.saturating_add(jiff::SignedDuration::from_micros(off_us)).unwrap_or(self.epoch)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_jumps_at_once_drifts_from_then_on_and_is_set_right() {
        let machine = SimMachine::new(1, "x", Timestamp::UNIX_EPOCH);
        let reading = |machine: &SimMachine| machine.now().as_microsecond();
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(reading(&machine), 100_000_000);
        for (offset_us, rate_ppm, at_once, later) in [
            (5_000_000, 0, 5_000_000, 5_000_000),
            (-5_000_000, 0, -5_000_000, -5_000_000),
            (0, 1000, 0, 10_000),
            (1_000_000, -500, 1_000_000, 995_000),
            (0, 0, 0, 0),
        ] {
            machine.set_skew(offset_us, rate_ppm);
            let right = reading(&machine) - at_once;
            assert_eq!(machine.skew_us(), at_once);
            tokio::time::advance(Duration::from_secs(10)).await;
            assert_eq!(reading(&machine) - right, 10_000_000 + later, "{offset_us} {rate_ppm}");
            assert_eq!(machine.is_right(), offset_us == 0 && rate_ppm == 0);
        }
        assert_eq!(reading(&machine), 150_000_000, "nothing of it is left");
    }
}
