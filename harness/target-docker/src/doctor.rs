//! What this machine needs to run clusters of containers, and what to do about what is missing.

use std::fs;
use std::path::Path;

use shakedown_core::target::TargetError;

use crate::docker::{self, failed};
use crate::image;

/// How a finding came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is there.
    Ok,
    /// It is not there; something works less well.
    Weak,
    /// It is not there; the docker target cannot work.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// How it came out.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do; empty if nothing.
    pub advice: String,
}

fn ok(name: &'static str, found: impl Into<String>) -> Finding {
    Finding { name, state: State::Ok, found: found.into(), advice: String::new() }
}

fn lacks(name: &'static str, state: State, found: impl Into<String>, advice: &str) -> Finding {
    Finding { name, state, found: found.into(), advice: advice.to_owned() }
}

/// inotify instances that the processes of one node take, with room to spare.
const INOTIFY_PER_NODE: u64 = 4;
/// A cluster with its image needs about so much.
const DISK_BYTES_MIN: u64 = 4 << 30;
/// A node takes about so much.
const MEMORY_BYTES_PER_NODE: u64 = 300 << 20;
/// The nodes of an ordinary cluster.
const NODES: u64 = 6;

/// Looks at everything.
pub async fn doctor() -> Vec<Finding> {
    let mut findings = docker_findings().await;
    findings.push(inotify());
    findings.push(program("mmdebstrap", "builds the node image", "install mmdebstrap: ci/setup"));
    findings.push(memory());
    findings.push(disk(&std::env::temp_dir()));
    findings.push(netem());
    findings
}

async fn docker_findings() -> Vec<Finding> {
    let docker = match docker::connect().await {
        Ok(docker) => docker,
        Err(error) => {
            let advice =
                "start it: systemctl start docker, or service docker start; or set DOCKER_HOST";
            return vec![lacks("docker", State::Missing, error.to_string(), advice)];
        }
    };
    let mut findings = Vec::new();
    let version = docker.version().await.unwrap_or_default();
    let api = version.api_version.unwrap_or_default();
    let shown = format!("{}, API {api}", version.version.unwrap_or_default());
    findings.push(if at_least(&api, (1, 41)) {
        ok("docker", shown)
    } else {
        lacks("docker", State::Missing, shown, "Docker 20.10 or later is needed")
    });
    let info = docker.info().await.unwrap_or_default();
    let cgroup = info.cgroup_version.map(|version| version.to_string()).unwrap_or_default();
    findings.push(ok("cgroup version", cgroup));
    findings.push(match image::is_built(&docker).await {
        Ok(true) => ok("node image", format!("{}:{}", image::REPOSITORY, image::tag())),
        Ok(false) => lacks(
            "node image",
            State::Weak,
            "not built yet",
            "nothing to do: the first cluster builds it, in half a minute",
        ),
        Err(error) => lacks("node image", State::Missing, error.to_string(), ""),
    });
    if matches!(image::is_built(&docker).await, Ok(true)) {
        findings.extend(crate::trial::run(&docker).await);
    }
    findings
}

fn at_least(version: &str, least: (u32, u32)) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= least
}

fn number_in(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

const INOTIFY_INSTANCES: &str = "/proc/sys/fs/inotify/max_user_instances";
const INOTIFY_ADVICE: &str =
    "raise it: sysctl -w fs.inotify.max_user_instances=512 fs.inotify.max_user_watches=524288";

fn inotify() -> Finding {
    let name = "inotify instances";
    let Some(max) = number_in(INOTIFY_INSTANCES) else {
        return lacks(name, State::Weak, "unknown", "");
    };
    let used = inotify_used();
    let found = format!(
        "{used} of {max} in use; a cluster of {NODES} nodes takes {}",
        NODES * INOTIFY_PER_NODE
    );
    if used + NODES * INOTIFY_PER_NODE <= max {
        ok(name, found)
    } else {
        lacks(name, State::Missing, found, INOTIFY_ADVICE)
    }
}

/// inotify instances of this machine's processes, as far as they may be seen.
fn inotify_used() -> u64 {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let open = processes.flat_map(|process| {
        fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten()
    });
    let is_inotify = |path: &Path| {
        fs::read_link(path).is_ok_and(|link| link.to_string_lossy().contains("inotify"))
    };
    open.filter(|file| is_inotify(&file.path())).count() as u64
}

/// Refuses to launch so many nodes if the kernel would refuse their watches: containerd would then
/// fail in ways that do not say why.
pub(crate) fn check_inotify(nodes: u32) -> Result<(), TargetError> {
    let Some(max) = number_in(INOTIFY_INSTANCES) else { return Ok(()) };
    let (used, needed) = (inotify_used(), u64::from(nodes) * INOTIFY_PER_NODE);
    if used + needed <= max {
        return Ok(());
    }
    let why = format!(
        "they need {needed} inotify instances; {used} of fs.inotify.max_user_instances={max} are in use"
    );
    Err(failed(format!("launching {nodes} nodes"), why, INOTIFY_ADVICE))
}

fn program(name: &'static str, purpose: &str, advice: &str) -> Finding {
    let path = std::env::var_os("PATH").unwrap_or_default();
    match std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file()) {
        Some(path) => ok(name, path.display().to_string()),
        None => lacks(name, State::Weak, format!("not found; it {purpose}"), advice),
    }
}

fn memory() -> Finding {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let Some(kib) = kib else { return lacks("memory", State::Weak, "unknown", "") };
    let found = format!("{} MiB available", kib >> 10);
    if kib << 10 >= NODES * MEMORY_BYTES_PER_NODE {
        ok("memory", found)
    } else {
        lacks("memory", State::Weak, found, "a cluster of six nodes takes about 2 GiB")
    }
}

fn disk(path: &Path) -> Finding {
    let Ok(stat) = nix::sys::statvfs::statvfs(path) else {
        return lacks("disk space", State::Weak, "unknown", "");
    };
    let free = stat.blocks_available() * stat.fragment_size();
    let found = format!("{} MiB free in {}", free >> 20, path.display());
    if free >= DISK_BYTES_MIN {
        ok("disk space", found)
    } else {
        lacks("disk space", State::Weak, found, "free some, or set TMPDIR")
    }
}

fn netem() -> Finding {
    let name = "netem";
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let modules = format!("/lib/modules/{}", release.trim());
    let listed = ["modules.builtin", "modules.dep"].iter().any(|file| {
        fs::read_to_string(format!("{modules}/{file}")).is_ok_and(|text| text.contains("sch_netem"))
    });
    if listed {
        ok(name, "in the kernel")
    } else {
        lacks(
            name,
            State::Weak,
            "not seen in the kernel",
            "nothing to do: no fault of today needs it",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        for (version, enough) in
            [("1.41", true), ("1.5", false), ("1.100", true), ("2.0", true), ("", false)]
        {
            assert_eq!(at_least(version, (1, 41)), enough, "{version}");
        }
    }

    #[test]
    fn too_many_nodes_are_refused_with_the_sysctl_to_set() {
        let error = check_inotify(u32::MAX).unwrap_err();
        let TargetError::Failed { why, hint, .. } = error else { panic!("{error:?}") };
        assert!(why.contains("max_user_instances") && hint.contains("sysctl -w"), "{why} {hint}");
        assert!(check_inotify(0).is_ok());
    }

    #[test]
    fn a_missing_program_comes_with_advice() {
        let finding = program("no-such-program", "does nothing", "install it");
        assert_eq!((finding.state, finding.advice.as_str()), (State::Weak, "install it"));
        assert_eq!(program("sh", "", "").state, State::Ok);
    }
}
