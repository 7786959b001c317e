//! The project's own binaries, which are mounted into the nodes.

use std::path::{Path, PathBuf};

use shakedown_core::target::TargetError;

use crate::docker::failed;

/// Overrides where the binaries are looked for.
pub const BIN_DIR_VARIABLE: &str = "SHAKEDOWN_BIN_DIR";

/// Where the static binaries are on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// `orchestrator`
    pub orchestrator: PathBuf,
    /// `shakedown-agent`
    pub agent: PathBuf,
    /// `testapp`
    pub testapp: PathBuf,
}

impl Binaries {
    /// Looks in `$SHAKEDOWN_BIN_DIR`, else beside this program and in the directory above it, which
    /// is where cargo puts binaries when this program is a test.
    pub fn find() -> Result<Self, TargetError> {
        let mut dirs: Vec<PathBuf> = Vec::new();
        if let Some(dir) = std::env::var_os(BIN_DIR_VARIABLE) {
            dirs.push(PathBuf::from(dir));
        } else if let Ok(program) = std::env::current_exe() {
            dirs.extend(program.ancestors().skip(1).take(2).map(Path::to_path_buf));
        }
        Self::in_one_of(&dirs)
    }

    fn in_one_of(dirs: &[PathBuf]) -> Result<Self, TargetError> {
        let find = |name: &str| {
            let paths = dirs.iter().map(|dir| dir.join(name));
            paths.clone().find(|path| path.is_file()).ok_or_else(|| {
                let tried: Vec<String> = paths.map(|path| path.display().to_string()).collect();
                failed(
                    format!("looking for the binary `{name}`"),
                    format!("it is not at {}", tried.join(" or ")),
                    "build it: cargo build -p orchestrator -p shakedown-agent -p testapp; \
                     or say where it is in SHAKEDOWN_BIN_DIR",
                )
            })
        };
        Ok(Self {
            orchestrator: find("orchestrator")?,
            agent: find("shakedown-agent")?,
            testapp: find("testapp")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_binary_is_named_with_where_it_was_sought() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["orchestrator", "shakedown-agent"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let dirs = [PathBuf::from("/nowhere"), dir.path().to_path_buf()];
        let error = Binaries::in_one_of(&dirs).unwrap_err().to_string();
        assert!(error.contains("`testapp`") && error.contains("/nowhere/testapp"), "{error}");
        std::fs::write(dir.path().join("testapp"), "").unwrap();
        let found = Binaries::in_one_of(&dirs).unwrap();
        assert_eq!(found.testapp, dir.path().join("testapp"));
    }
}
