//! Choices that follow from a seed. Each part of a storm has a stream of its own, split off by a label,
//! so that a new choice in one part changes nothing in the others.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A stream of choices.
#[derive(Debug, Clone)]
pub struct Draw {
    random: ChaCha8Rng,
}

impl Draw {
    /// The stream of this label.
    pub fn new(seed: u64, label: &str) -> Self {
        // FNV-1a, as it is stable between releases, which the standard hasher is not.
        let start = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xcbf2_9ce4_8422_2325;
        let mixed = label
            .bytes()
            .fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self { random: ChaCha8Rng::seed_from_u64(mixed) }
    }

    /// A number below the bound; 0 if the bound is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.random.next_u64() % (bound.max(1) as u64)) as usize
    }

    /// A number from the first to the last, both included.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.random.next_u64() % (last.saturating_sub(first) + 1)
    }

    /// Whether something happens that happens so many times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.random.next_u64() % 100 < percent
    }

    /// One of several.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub fn one<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.below(of.len())]
    }

    /// Each with this chance, in their order; at least one, unless there are none.
    pub fn some<T: Clone>(&mut self, of: &[T], percent: u64) -> Vec<T> {
        let mut chosen: Vec<T> = of.iter().filter(|_| self.chance(percent)).cloned().collect();
        if chosen.is_empty() && !of.is_empty() {
            chosen.push(self.one(of).clone());
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_follows_from_seed_and_label() {
        let drawn = |seed, label| {
            let mut draw = Draw::new(seed, label);
            (0..8).map(|_| draw.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(drawn(1, "a"), drawn(1, "a"));
        assert_ne!(drawn(1, "a"), drawn(1, "b"));
        assert_ne!(drawn(1, "a"), drawn(2, "a"));
    }

    #[test]
    fn some_is_never_none() {
        let mut draw = Draw::new(7, "some");
        for _ in 0..100 {
            let chosen = draw.some(&[1, 2, 3], 5);
            assert!(!chosen.is_empty() && chosen.is_sorted());
        }
        assert!(draw.some::<u8>(&[], 50).is_empty());
    }
}
