//! The suites as data: where scenarios lie, which behaviours are documented, which sabotage is caught by what.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The documented behaviours, as text.
const BEHAVIOURS: &str = include_str!("../behaviours.yaml");
/// Which scenario catches which sabotage, as text.
pub const SABOTAGES: &str = include_str!("../sabotages.yaml");

/// What notices which sabotage of the harness, as text.
pub const HARNESS_SABOTAGES: &str = include_str!("../harness-sabotages.yaml");

/// The folder of the suites in the source tree that this was built from.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The ids of the documented behaviours.
pub fn behaviours() -> BTreeSet<String> {
    BEHAVIOURS
        .lines()
        .filter_map(|line| line.strip_prefix("- id: "))
        .map(|id| id.trim().to_owned())
        .collect()
}

/// A file with scenarios.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SuiteFile {
    /// Where it lies.
    pub path: PathBuf,
    /// The name of its folder: the first part of its scenarios' ids.
    pub suite: String,
    /// What it says.
    pub text: String,
}

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct FindError {
    /// Where.
    pub path: String,
    /// Why not.
    pub why: String,
}

/// The files with scenarios at these places, in order of path. A file named outright is taken as it
/// is; of a folder only those files that hold scenarios.
pub fn find(places: &[PathBuf]) -> Result<Vec<SuiteFile>, FindError> {
    let mut found = BTreeSet::new();
    for place in places {
        if place.is_dir() {
            let before = found.len();
            walk(place, &mut found)?;
            if found.len() == before {
                return Err(failed(place, "no scenario lies in this folder"));
            }
        } else {
            found.insert(read(place)?);
        }
    }
    Ok(found.into_iter().collect())
}

fn walk(folder: &Path, found: &mut BTreeSet<SuiteFile>) -> Result<(), FindError> {
    let entries = fs::read_dir(folder).map_err(|error| failed(folder, error))?;
    for entry in entries {
        let path = entry.map_err(|error| failed(folder, error))?.path();
        if path.is_dir() {
            walk(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            let file = read(&path)?;
            if file.text.lines().any(|line| line.starts_with("apiVersion: shakedown.dev/")) {
                found.insert(file);
            }
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<SuiteFile, FindError> {
    let text = fs::read_to_string(path).map_err(|error| failed(path, error))?;
    let full = path.canonicalize().map_err(|error| failed(path, error))?;
    let suite =
        full.parent().and_then(Path::file_name).map_or("", |name| name.to_str().unwrap_or(""));
    Ok(SuiteFile { path: path.to_owned(), suite: suite.to_owned(), text })
}

fn failed(path: &Path, why: impl ToString) -> FindError {
    FindError { path: path.display().to_string(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_behaviours_are_known() {
        assert_eq!(behaviours().len(), 514);
        assert!(behaviours().contains("node-controller/evict-after-5m"));
    }

    #[test]
    fn manifests_are_no_scenarios() {
        let files = find(&[folder()]).expect("the suites can be read");
        assert!(files.iter().any(|file| file.path.ends_with("resilience/node-killed.yaml")));
        assert!(files.iter().all(|file| !file.path.to_string_lossy().contains("manifests")));
    }

    #[test]
    fn an_empty_or_missing_place_is_an_error() {
        let missing = find(&[PathBuf::from("/nowhere/at-all.yaml")]).expect_err("is not there");
        assert!(missing.to_string().starts_with("/nowhere/at-all.yaml: "), "{missing}");
        assert!(find(&[folder().join("src")]).is_err());
    }
}
