//! The files of a report: `verdicts.json` and `junit.xml` in the run's folder, and reading them again.

use std::path::{Path, PathBuf};

use shakedown_core::verdict::RunVerdict;

use crate::junit::junit;

/// The file for programs; `report` and later tools read it again.
pub const VERDICTS: &str = "verdicts.json";
/// The file for CI.
pub const JUNIT: &str = "junit.xml";
/// The shape of `verdicts.json` that this program writes and reads.
const FORMAT: u32 = 1;

/// Why a report could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file could not be written.
    #[error("failed to write {}: {why}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        why: std::io::Error,
    },
    /// A file could not be read.
    #[error("failed to read {}: {why}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        why: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is not a verdict of a run: {why}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Why.
        why: serde_json::Error,
    },
    /// A file has a format from another time.
    #[error("{} has format {found}; this program reads {FORMAT}", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// What it has.
        found: u32,
    },
}

/// Writes `verdicts.json` and `junit.xml` into an existing folder.
pub fn write(folder: &Path, run: &RunVerdict) -> Result<(), ReportError> {
    let path = folder.join(VERDICTS);
    let json = serde_json::to_string_pretty(run)
        .map_err(|why| ReportError::Malformed { path: path.clone(), why })?;
    for (path, text) in [(path, json + "\n"), (folder.join(JUNIT), junit(run))] {
        std::fs::write(&path, text).map_err(|why| ReportError::Write { path, why })?;
    }
    Ok(())
}

/// Reads `verdicts.json` of a folder, or of the file itself.
pub fn read(place: &Path) -> Result<RunVerdict, ReportError> {
    let path = if place.is_dir() { place.join(VERDICTS) } else { place.to_owned() };
    let text = std::fs::read_to_string(&path)
        .map_err(|why| ReportError::Read { path: path.clone(), why })?;
    let run: RunVerdict = serde_json::from_str(&text)
        .map_err(|why| ReportError::Malformed { path: path.clone(), why })?;
    if run.format != FORMAT {
        return Err(ReportError::Format { path, found: run.format });
    }
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::run;

    #[test]
    fn what_is_written_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &run()).unwrap();
        assert_eq!(read(folder.path()).unwrap(), run());
        assert_eq!(read(&folder.path().join(VERDICTS)).unwrap(), run());
        assert!(folder.path().join(JUNIT).exists());
    }

    #[test]
    fn the_shape_of_verdicts_json_is_fixed() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&run()).unwrap());
    }

    #[test]
    fn another_format_and_another_file_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(read(folder.path()), Err(ReportError::Read { .. })));
        std::fs::write(folder.path().join(VERDICTS), "{}").unwrap();
        assert!(matches!(read(folder.path()), Err(ReportError::Malformed { .. })));
        let mut future = run();
        future.format = 2;
        write(folder.path(), &future).unwrap();
        assert!(matches!(read(folder.path()), Err(ReportError::Format { found: 2, .. })));
    }
}
