//! A trial node: shows that this machine grants what a node needs, before a cluster is launched.

use std::collections::BTreeMap;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::CreateContainerOptions;

use crate::docker::{exec, remove_container};
use crate::doctor::{Finding, State};
use crate::{image, labels, launch};

/// Each must succeed in a node; what it shows; what to do if it does not.
const TRIALS: &[(&str, &str, &str)] = &[
    (
        "cgroups writable",
        "for m in $(awk '$3==\"cgroup\"||$3==\"cgroup2\"{print $2}' /proc/mounts); do mount -o remount,bind,rw $m || exit 1; done",
        "Docker must let a container with SYS_ADMIN remount its cgroups: is it rootless, or is a security module in the way?",
    ),
    (
        "nested mounts",
        "mkdir -p /tmp/p && mount -t tmpfs none /tmp/p && umount /tmp/p",
        "seccomp or AppArmor profiles of this machine forbid mounts in containers",
    ),
    (
        "nft owner tables",
        "printf 'add table netdev shk_trial { flags owner; }\\n' | nft -c -f -",
        "Linux 5.12 or later with nftables is needed to cut nodes off: CONFIG_NF_TABLES_NETDEV",
    ),
];

/// Runs the trials in a container that has the rights of a node. The container is removed.
pub(crate) async fn run(docker: &Docker) -> Vec<Finding> {
    let name = "trial node";
    let missing = |found: String, advice: &str| Finding {
        name,
        state: State::Missing,
        found,
        advice: advice.to_owned(),
    };
    let mut config = HostConfig::default();
    launch::restrict(&mut config, "none");
    let run = format!("doctor-{}", std::process::id());
    let labels: BTreeMap<String, String> = labels::labels(&run, "", false, "");
    let body = ContainerCreateBody {
        image: Some(format!("{}:{}", image::REPOSITORY, image::tag())),
        cmd: Some(vec!["sleep".to_owned(), "60".to_owned()]),
        labels: Some(labels.into_iter().collect()),
        host_config: Some(config),
        ..Default::default()
    };
    let created = match docker.create_container(None::<CreateContainerOptions>, body).await {
        Ok(created) => created.id,
        Err(error) => return vec![missing(error.to_string(), "")],
    };
    let mut findings = Vec::new();
    match docker.start_container(&created, None).await {
        Ok(()) => {
            for (name, script, advice) in TRIALS {
                let outcome = exec(docker, &created, &["sh", "-c", script]).await;
                let (state, found, advice) = match outcome {
                    Ok((0, _)) => (State::Ok, "yes".to_owned(), ""),
                    Ok((_, text)) => (State::Missing, text.trim().to_owned(), *advice),
                    Err(error) => (State::Missing, error.to_string(), *advice),
                };
                findings.push(Finding { name, state, found, advice: advice.to_owned() });
            }
        }
        Err(error) => findings.push(missing(
            error.to_string(),
            "Docker cannot grant a capability that a node needs: run it on a machine, not in a restricted container",
        )),
    }
    if let Err(error) = remove_container(docker, &created).await {
        findings.push(missing(error.to_string(), "`shakedown clean` removes it"));
    }
    findings
}
