//! What the fuzzer runs, and what a test replays: functions that take any bytes and must come back.
//!
//! Only for `cargo fuzz` (`cluster-impl/fuzz/`, `ci/fuzz`) and for tests. A target panics where a promise
//! is broken: a panic of the code it calls, an answer of 5xx that upstream does not give, or a property
//! that does not hold. Everything is a function of the bytes.

mod apply;
mod arbitrary;
mod body;
mod cel;
mod custom_schema;
mod kinds;
mod managed_fields;
mod patches;
mod protobuf;
mod request;
mod samples;
mod secrets;
mod selectors;
mod streams;
mod texts;
mod url;

pub(crate) use request::surroundings;

/// A target: what it is called and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, in order of name.
pub const TARGETS: &[Target] = &[
    ("apply", apply::run),
    ("body", body::run),
    ("cel", cel::run),
    ("custom_schema", custom_schema::run),
    ("kinds", kinds::run),
    ("managed_fields", managed_fields::run),
    ("patches", patches::run),
    ("protobuf_bytes", protobuf::bytes),
    ("protobuf_values", protobuf::values),
    ("request", request::run),
    ("secrets", secrets::run),
    ("selectors", selectors::run),
    ("spdy", streams::spdy),
    ("texts", texts::run),
    ("url", url::run),
    ("websocket", streams::websocket),
];

/// Runs a target.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a known target");
    target(data);
}

/// A time that never changes.
pub(crate) fn now() -> env::Timestamp {
    env::Timestamp::from_second(1_767_225_600).expect("a time of this century")
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    fn files(name: &str) -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    #[test]
    fn targets_are_in_order_and_each_has_its_program() {
        assert!(TARGETS.is_sorted_by_key(|(name, _)| *name));
        for (name, _) in TARGETS {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(format!("../fuzz/fuzz_targets/{name}.rs"));
            assert!(path.is_file(), "{}", path.display());
        }
    }

    /// What the fuzzer once found worth keeping goes through the same functions on every build.
    #[test]
    fn the_stored_corpus_is_taken() {
        for (name, target) in TARGETS {
            let files = files(name);
            assert!(files.len() > 3, "{name} has no corpus");
            for file in files {
                let data = std::fs::read(&file).unwrap();
                let taken = std::panic::catch_unwind(|| target(&data));
                assert!(taken.is_ok(), "{}", file.display());
            }
        }
    }

    /// Other bytes than those that a coverage-guided search prefers.
    #[test]
    fn bytes_by_chance_are_taken() {
        use rand::{RngCore, SeedableRng};
        let mut chance = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        for (name, target) in TARGETS {
            for length in [0, 1, 2, 8, 30, 100, 300] {
                for round in 0..3 {
                    let mut data = vec![0; length];
                    chance.fill_bytes(&mut data);
                    let taken = std::panic::catch_unwind(|| target(&data));
                    assert!(taken.is_ok(), "{name}, round {round} of {length}: {data:?}");
                }
            }
        }
    }
}
