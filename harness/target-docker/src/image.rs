//! The node image: Debian packages in one layer, built on this machine when it is missing.
//!
//! No registry is needed: `mmdebstrap` makes the root file system, Docker imports it. The tag is the
//! hash of the recipe, so a changed recipe makes a new image. The project's binaries are not in it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::CreateImageOptions;
use futures::TryStreamExt;
use sha2::{Digest, Sha256};
use shakedown_core::target::{Progress, TargetError};
use tokio_util::io::ReaderStream;

use crate::docker::{failed, is_missing};

/// How the root file system is built; run with `sh`, with the path of the tar file to write.
const RECIPE: &str = include_str!("../../../ci/node-image/build");
/// What Docker adds to it.
const CHANGE: &str = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The repository of the image.
pub const REPOSITORY: &str = "shakedown-node";
/// How long it takes on a small machine; said to the user.
const USUALLY: &str = "about half a minute, once";
/// Another process may be building the same image; it is looked for so often.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The tag of the image that this build of shakedown uses.
pub fn tag() -> String {
    let hash = Sha256::new().chain_update(RECIPE).chain_update(CHANGE).finalize();
    hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the image is there.
pub async fn is_built(docker: &Docker) -> Result<bool, TargetError> {
    match docker.inspect_image(&format!("{REPOSITORY}:{}", tag())).await {
        Ok(_) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(failed("looking for the node image", error, "")),
    }
}

/// Builds the image if it is missing. Answers its tag.
pub async fn ensure(docker: &Docker, progress: Progress<'_>) -> Result<String, TargetError> {
    let tag = tag();
    if is_built(docker).await? {
        return Ok(tag);
    }
    let dir = std::env::temp_dir();
    let _lock = lock(&dir.join("shakedown-node-image.lock"), progress).await?;
    if is_built(docker).await? {
        return Ok(tag);
    }
    progress(&format!("building the node image {REPOSITORY}:{tag} ({USUALLY})"));
    let scratch = tempfile::tempdir_in(&dir)
        .map_err(|error| failed("making a directory to build the node image in", error, ""))?;
    let tar = scratch.path().join("node.tar");
    build(&tar).await?;
    progress("importing the node image into Docker");
    import(docker, &tar, &tag).await?;
    Ok(tag)
}

/// Waits until no other process builds.
async fn lock(path: &Path, progress: Progress<'_>) -> Result<std::fs::File, TargetError> {
    let what = "locking the build of the node image";
    let file = std::fs::File::options().create(true).append(true).open(path);
    let file = file.map_err(|error| failed(what, error, ""))?;
    let mut said = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => {}
            Err(std::fs::TryLockError::Error(error)) => return Err(failed(what, error, "")),
        }
        if !said {
            progress("waiting for another process that builds the node image");
            said = true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn build(tar: &Path) -> Result<(), TargetError> {
    let what = "building the node image";
    let output = tokio::process::Command::new("sh")
        .args(["-c", RECIPE, "build"])
        .arg(tar)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| failed(what, error, "a shell is needed"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(failed(what, last_lines(&said), advice(&said)))
}

/// What a failed build most likely lacks.
fn advice(said: &str) -> &'static str {
    let said = said.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&["mmdebstrap: not found", "mmdebstrap: command not found"]) {
        "install mmdebstrap: ci/setup does it on Debian and Ubuntu"
    } else if says(&["debian-archive-keyring"]) {
        "install debian-archive-keyring: ci/setup does it on Debian and Ubuntu"
    } else if says(&["no space left"]) {
        "free 1 GB in the directory for temporary files, or set TMPDIR to another one"
    } else if says(&["could not resolve", "temporary failure", "could not connect", "timed out"]) {
        "a Debian mirror must be reachable: set SHAKEDOWN_MIRROR, or http_proxy"
    } else if says(&["unshare", "newuidmap", "subuid", "operation not permitted"]) {
        "run once as root, or allow user namespaces: see `man mmdebstrap`, MODES"
    } else {
        "try by hand: sh ci/node-image/build /tmp/node.tar"
    }
}

fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}

async fn import(docker: &Docker, tar: &Path, tag: &str) -> Result<(), TargetError> {
    let what = "importing the node image";
    let file = tokio::fs::File::open(tar).await.map_err(|error| failed(what, error, ""))?;
    let options = CreateImageOptions {
        from_src: Some("-".to_owned()),
        repo: Some(REPOSITORY.to_owned()),
        tag: Some(tag.to_owned()),
        changes: vec![CHANGE.to_owned()],
        ..Default::default()
    };
    let body = bollard::body_try_stream(ReaderStream::with_capacity(file, 1 << 20));
    let outcome: Result<Vec<_>, _> =
        docker.create_image(Some(options), Some(body), None).try_collect().await;
    outcome.map(drop).map_err(|error| {
        failed(what, error, "Docker's disk may be full: docker system df, docker image prune")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_of_a_failed_build_has_its_advice() {
        for (said, word) in [
            ("build: 20: mmdebstrap: not found", "install mmdebstrap"),
            ("E: write: No space left on device", "TMPDIR"),
            ("Temporary failure resolving 'deb.debian.org'", "SHAKEDOWN_MIRROR"),
            ("missing /usr/share/keyrings/debian-archive-keyring.gpg: install", "keyring"),
            ("E: something else", "by hand"),
        ] {
            assert!(advice(said).contains(word), "{said}: {}", advice(said));
        }
    }

    #[test]
    fn the_tag_is_a_short_hash() {
        assert_eq!(tag().len(), 12);
        assert_eq!(tag(), tag());
    }

    #[test]
    fn only_the_end_of_a_long_complaint_is_shown() {
        assert_eq!(last_lines("a\nb\n\nc\nd\ne\n"), "b; c; d; e");
        assert_eq!(last_lines(""), "");
    }
}
