//! See `TARGETS` in cluster-impl/apiserver/src/fuzzing/mod.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| apiserver::fuzzing::run("secrets", data));
