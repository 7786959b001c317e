//! What the fuzzer runs of the kubelet, and what a test replays: log files, and queries for them.
//!
//! A target panics where a promise is broken. Everything is a function of the bytes.

use bytes::Bytes;
use env::Timestamp;

use crate::runtimes::cri_log::parse;
use crate::server::logs::told;

/// A target: what it is called and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, in order of name.
pub const TARGETS: &[Target] = &[("kubelet_logs", logs)];

/// The first line is a query, the others are a log.
fn logs(data: &[u8]) {
    let (query, log) = match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[][..]),
    };
    let records: Vec<_> = log
        .split_inclusive(|byte| *byte == b'\n')
        .filter_map(|line| parse(Bytes::copy_from_slice(line)))
        .collect();
    for record in &records {
        let stream = if record.is_stderr { "stderr" } else { "stdout" };
        let (tag, end) = if record.is_partial { ("P", "\n") } else { ("F", "") };
        let mut line = format!("{} {stream} {tag} ", record.at).into_bytes();
        line.extend_from_slice(&record.text);
        line.extend_from_slice(end.as_bytes());
        let again = parse(line.into()).expect("what is written can be read");
        assert_eq!(
            (again.at, again.is_stderr, again.is_partial, &again.text),
            (record.at, record.is_stderr, record.is_partial, &record.text)
        );
    }
    let now = Timestamp::from_second(1_767_225_600).expect("a time of this century");
    if let Some((most, told)) = told(&String::from_utf8_lossy(query), &records, now) {
        let length: usize = told.iter().map(Bytes::len).sum();
        assert!(most.is_none_or(|most| length as u64 <= most), "{length} bytes, not {most:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What the fuzzer once found worth keeping goes through the same functions on every build.
    #[test]
    fn the_stored_corpus_is_taken() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        for (name, target) in TARGETS {
            assert!(root.join(format!("fuzz_targets/{name}.rs")).is_file(), "{name}");
            let mut count = 0;
            for entry in std::fs::read_dir(root.join("corpus").join(name)).unwrap() {
                target(&std::fs::read(entry.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 3, "{name} has no corpus");
        }
    }
}
