//! The undo log: what takes a run's faults back, on disk before anything is done.
//!
//! One JSON line for each undo, fsynced; another once it was done. A SIGKILL at any time leaves a log
//! from which everything can be taken back: an undo that was never needed does no harm.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shakedown_core::lever::Undo;
use shakedown_core::target::{Endpoint, Target};

use crate::api::api_undo;

/// An undo in the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logged {
    /// Its number, from 1.
    pub seq: u64,
    /// The scenario.
    pub scenario: String,
    /// The fault step's name.
    pub fault: String,
    /// What takes it back.
    pub undo: Undo,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Logged(Logged),
    Done { done: u64 },
}

/// Why the log cannot be used. Nothing may be done to a cluster then.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// It cannot be written.
    #[error("cannot write the undo log {path}: {why}; hint: nothing was broken; is the disk full?")]
    Write {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// It cannot be read.
    #[error("cannot read the undo log {path}, line {line}: {why}")]
    Read {
        /// The file.
        path: String,
        /// The line, from 1; 0 for the file itself.
        line: usize,
        /// Why.
        why: String,
    },
}

/// The undo log of a run.
#[derive(Debug)]
pub struct UndoLog {
    file: Option<(PathBuf, File)>,
    next: u64,
    pending: BTreeMap<u64, Logged>,
}

impl UndoLog {
    /// Appends to `undo.ndjson` in this directory.
    pub fn create(dir: &Path) -> Result<Self, UndoError> {
        let path = dir.join("undo.ndjson");
        let pending: BTreeMap<u64, Logged> = match path.exists() {
            true => read_undo_log(&path)?.into_iter().map(|logged| (logged.seq, logged)).collect(),
            false => BTreeMap::new(),
        };
        let next = pending.keys().max().copied().unwrap_or(0) + 1;
        let open = File::options().create(true).append(true).open(&path);
        let file = open.map_err(|error| UndoError::Write {
            path: path.display().to_string(),
            why: error.to_string(),
        })?;
        Ok(Self { file: Some((path, file)), next, pending })
    }

    /// Keeps the log in memory: for a cluster that ends with this process.
    pub fn memory() -> Self {
        Self { file: None, next: 1, pending: BTreeMap::new() }
    }

    /// Logs what takes something back. On disk when it returns.
    pub fn log(&mut self, scenario: &str, fault: &str, undo: &Undo) -> Result<u64, UndoError> {
        let logged = Logged {
            seq: self.next,
            scenario: scenario.to_string(),
            fault: fault.to_string(),
            undo: undo.clone(),
        };
        self.append(&Line::Logged(logged.clone()))?;
        self.next += 1;
        self.pending.insert(logged.seq, logged);
        Ok(self.next - 1)
    }

    /// Notes that an undo was done.
    pub fn done(&mut self, seq: u64) -> Result<(), UndoError> {
        if self.pending.remove(&seq).is_some() {
            self.append(&Line::Done { done: seq })?;
        }
        Ok(())
    }

    /// What the log holds under these numbers, and is not done yet.
    pub fn logged(&self, seqs: &[u64]) -> Vec<Undo> {
        seqs.iter().filter_map(|seq| Some(self.pending.get(seq)?.undo.clone())).collect()
    }

    /// What is still to be done, the newest first.
    pub fn pending(&self) -> Vec<Logged> {
        self.pending.values().rev().cloned().collect()
    }

    fn append(&mut self, line: &Line) -> Result<(), UndoError> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        let mut text = serde_json::to_string(line).expect("undos are plain data");
        text.push('\n');
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| {
            UndoError::Write { path: path.display().to_string(), why: error.to_string() }
        })
    }
}

/// What a log says is still to be done, the newest first. A last line that was cut off by a crash is
/// left out: what it would have taken back was not done yet.
pub fn read_undo_log(path: &Path) -> Result<Vec<Logged>, UndoError> {
    let wrong =
        |line: usize, why: String| UndoError::Read { path: path.display().to_string(), line, why };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(0, error.to_string()))?;
    let mut pending: BTreeMap<u64, Logged> = BTreeMap::new();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        match serde_json::from_str(line) {
            Ok(Line::Logged(logged)) => {
                pending.insert(logged.seq, logged);
            }
            Ok(Line::Done { done }) => {
                pending.remove(&done);
            }
            // Only the last line can lack its end.
            Err(_) if !line.ends_with('\n') => break,
            Err(error) => return Err(wrong(index + 1, error.to_string())),
        }
    }
    Ok(pending.into_values().rev().collect())
}

/// Takes back everything that is still in the log. Tries every entry, whatever becomes of the others;
/// tells what could not be taken back.
pub async fn undo_all(
    target: &mut dyn Target,
    endpoints: &[Endpoint],
    log: &mut UndoLog,
) -> Vec<(Logged, String)> {
    let mut failed = Vec::new();
    for logged in log.pending() {
        let outcome = match logged.undo.is_api() {
            true => api_undo(endpoints, &logged.undo).await.map_err(|error| error.to_string()),
            false => target.undo(&logged.undo).await.map_err(|error| error.to_string()),
        };
        let outcome =
            outcome.and_then(|()| log.done(logged.seq).map_err(|error| error.to_string()));
        if let Err(why) = outcome {
            failed.push((logged, why));
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(node: &str) -> Undo {
        Undo::StartNode { node: node.into() }
    }

    #[test]
    fn a_crash_at_any_byte_loses_no_undo_that_was_acknowledged() {
        let dir = std::env::temp_dir().join(format!("shakedown-undo-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("undo.ndjson");
        let mut log = UndoLog::create(&dir).unwrap();
        let mut sizes = Vec::new();
        for node in ["a", "b"] {
            log.log("s", "kill", &start(node)).unwrap();
            sizes.push(std::fs::metadata(&path).unwrap().len() as usize);
        }
        log.done(1).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let pending: Vec<u64> = read_undo_log(&path).unwrap().iter().map(|l| l.seq).collect();
            // The last line counts once its text is there, with or without its newline.
            let expected: &[u64] = match cut {
                cut if cut + 1 >= whole.len() => &[2],
                cut if cut + 1 >= sizes[1] => &[2, 1],
                cut if cut + 1 >= sizes[0] => &[1],
                _ => &[],
            };
            assert_eq!(pending, expected, "cut at {cut} of {}", whole.len());
        }
        std::fs::write(&path, &whole).unwrap();
        let mut again = UndoLog::create(&dir).unwrap();
        assert_eq!(again.log("s", "kill", &start("c")).unwrap(), 3);
        assert_eq!(read_undo_log(&path).unwrap().len(), 2);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_broken_line_in_the_middle_is_an_error() {
        let path =
            std::env::temp_dir().join(format!("shakedown-undo-{}.ndjson", std::process::id()));
        std::fs::write(&path, "{\"seq\":1,\n{\"done\":1}\n").unwrap();
        let error = read_undo_log(&path).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
        std::fs::remove_file(&path).unwrap();
    }
}
