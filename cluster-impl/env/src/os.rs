//! The machine that the operating system gives: the only file that reads a real clock or real randomness.

use rand::TryRngCore;

use crate::{Machine, Timestamp};

/// The real machine.
#[derive(Debug, Clone, Copy)]
pub struct OsMachine;

impl Machine for OsMachine {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn seed(&self, _label: &str) -> [u8; 32] {
        let mut seed = [0; 32];
        rand::rngs::OsRng
            .try_fill_bytes(&mut seed)
            .expect("a machine without a random source cannot make identities");
        seed
    }
}
