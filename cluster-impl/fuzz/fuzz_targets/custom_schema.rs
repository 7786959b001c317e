//! See `TARGETS` in cluster-impl/apiserver/src/fuzzing/mod.rs.
//!
//! The library of expressions may panic; the server takes that for an error of the rule. So a panic is
//! a crash only if nobody catches it.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: drop(std::panic::take_hook()),
    |data: &[u8]| apiserver::fuzzing::run("custom_schema", data)
);
