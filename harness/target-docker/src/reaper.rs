//! The reaper: a process that waits for its parent's death, then heals, and removes the parent's cluster.
//!
//! It learns of the death from a pipe: the kernel closes the parent's end, however the parent died. It
//! has a session of its own, so that what kills the parent's terminal does not kill it. A parent that
//! ends in order says so first, and the reaper does nothing.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shakedown_core::lever::Undo;
use shakedown_core::target::TargetError;

use crate::docker::failed;
use crate::heal::{Healed, heal};
use crate::sweep::{Sweep, sweep};

/// Said by a parent that has cleaned up itself.
const DONE: &[u8] = b"done\n";

/// The Docker daemon finishes what a dead client asked for within this.
const STRAGGLERS_WITHIN: Duration = Duration::from_secs(2);

/// What the reaper does when its parent has died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reaping {
    /// The directory with all clusters.
    pub state: PathBuf,
    /// The cluster.
    pub cluster: String,
    /// The run.
    pub run: String,
    /// The run's undo log.
    pub undo_log: PathBuf,
    /// Whether the cluster is removed, rather than healed.
    pub remove: bool,
}

/// A reaper that waits.
pub struct Reaper {
    child: Child,
    pipe: Option<ChildStdin>,
}

/// Starts `program reap <reaping as JSON>`, which must call [`reap_main`]. Its output goes to `log`.
pub fn spawn_reaper(program: &Path, reaping: &Reaping, log: &Path) -> Result<Reaper, TargetError> {
    let broken = |error: std::io::Error| failed("starting the reaper", error, "");
    let log = std::fs::File::options().create(true).append(true).open(log).map_err(broken)?;
    let spec = serde_json::to_string(reaping).expect("plain data can be written as JSON");
    let mut child = Command::new(program)
        .args(["reap", &spec])
        .stdin(Stdio::piped())
        .stdout(log.try_clone().map_err(broken)?)
        .stderr(log)
        .spawn()
        .map_err(broken)?;
    let pipe = child.stdin.take();
    Ok(Reaper { child, pipe })
}

impl Reaper {
    /// Tells the reaper that there is nothing to reap, and waits for its end.
    pub fn dismiss(mut self) -> Result<(), TargetError> {
        let broken = |error: std::io::Error| failed("dismissing the reaper", error, "");
        if let Some(mut pipe) = self.pipe.take() {
            pipe.write_all(DONE).map_err(broken)?;
        }
        self.child.wait().map(drop).map_err(broken)
    }
}

/// Waits, on standard input, for the parent's end. Answers whether it died without cleaning up.
fn parent_died(mut pipe: impl Read) -> bool {
    let mut said = Vec::new();
    // An error of a pipe is its end.
    pipe.read_to_end(&mut said).ok();
    said != DONE
}

/// What the hidden command `reap` does. `read_undos` reads the undo log when the parent has died.
pub async fn reap_main(
    reaping: &Reaping,
    read_undos: impl FnOnce(&Path) -> Vec<Undo>,
) -> Result<Healed, TargetError> {
    // A session of its own; it fails if this process leads its group already, and then it is not needed.
    nix::unistd::setsid().ok();
    if !parent_died(std::io::stdin()) {
        return Ok(Healed::default());
    }
    let undos = read_undos(&reaping.undo_log);
    if !reaping.remove {
        return heal(&reaping.state, &reaping.cluster, &undos).await;
    }
    let which = Sweep::Run(reaping.run.clone());
    let mut removed = sweep(&which).await?;
    // The daemon may still have been making what the parent asked for when it died.
    tokio::time::sleep(STRAGGLERS_WITHIN).await;
    removed.extend(sweep(&which).await?);
    let done = removed.iter().map(|left| format!("removed {} {}", left.kind, left.name)).collect();
    Ok(Healed { done, failed: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_parent_that_says_so_has_cleaned_up() {
        assert!(!parent_died(DONE));
        assert!(parent_died(&b""[..]));
        assert!(parent_died(&b"don"[..]));
    }

    #[test]
    fn the_pipe_ends_with_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("reaper");
        // Stands in for the program: tells how its input ended.
        std::fs::write(&script, "#!/bin/sh\nread -r said; echo \"said=$said\"\n").unwrap();
        let mut permissions = std::fs::metadata(&script).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o700);
        std::fs::set_permissions(&script, permissions).unwrap();
        let reaping = Reaping {
            state: dir.path().to_path_buf(),
            cluster: "c".to_owned(),
            run: "r".to_owned(),
            undo_log: dir.path().join("undo.ndjson"),
            remove: true,
        };
        let log = dir.path().join("log");
        let reaper = spawn_reaper(&script, &reaping, &log).unwrap();
        reaper.dismiss().unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "said=done\n");
        let mut reaper = spawn_reaper(&script, &reaping, &log).unwrap();
        drop(reaper.pipe.take());
        reaper.child.wait().unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "said=done\nsaid=\n");
    }
}
