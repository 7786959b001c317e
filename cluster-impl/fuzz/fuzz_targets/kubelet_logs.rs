//! See `TARGETS` in cluster-impl/kubelet/src/fuzzing.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kubelet::fuzzing::TARGETS[0].1(data));
