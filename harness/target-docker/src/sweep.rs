//! What runs left in Docker: listing it, and removing it by label.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bollard::Docker;
use bollard::query_parameters::{ListNetworksOptions, ListVolumesOptions, RemoveVolumeOptions};
use shakedown_core::target::TargetError;

use crate::docker::{self, containers, failed, is_missing, label_filter, remove_container};
use crate::labels::{CLUSTER, KEEP, Life, Owner, RUN, STATE};
use crate::record::ClusterDir;

/// Something in Docker that belongs to a run.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Leftover {
    /// The run.
    pub run: String,
    /// The cluster.
    pub cluster: String,
    /// `container`, `network` or `volume`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Whether its run may still be going on, or it is to stay (`shakedown up`).
    pub wanted: bool,
    /// The directory with the clusters' files.
    pub state: String,
}

impl Leftover {
    fn new(kind: &'static str, name: String, labels: &BTreeMap<String, String>) -> Option<Self> {
        let text = |key: &str| labels.get(key).cloned().unwrap_or_default();
        let run = labels.get(RUN)?.clone();
        let dead = Owner::of(labels).is_none_or(|owner| owner.life() == Life::Dead);
        let wanted = text(KEEP) == "true" || !dead;
        Some(Self { run, cluster: text(CLUSTER), kind, name, wanted, state: text(STATE) })
    }
}

/// Everything in Docker that belongs to any run of shakedown, in order of kind and name.
pub async fn list_leftovers() -> Result<Vec<Leftover>, TargetError> {
    list(&docker::connect().await?).await
}

pub(crate) async fn list(docker: &Docker) -> Result<Vec<Leftover>, TargetError> {
    let broken = |error: bollard::errors::Error| failed("listing what runs left", error, "");
    let label = [RUN.to_owned()];
    let mut found = Vec::new();
    for container in containers(docker, &label).await.map_err(broken)? {
        found.extend(Leftover::new("container", container.name, &container.labels));
    }
    let options = ListNetworksOptions { filters: label_filter(&label) };
    for network in docker.list_networks(Some(options)).await.map_err(broken)? {
        let labels = network.labels.unwrap_or_default().into_iter().collect();
        found.extend(Leftover::new("network", network.name.unwrap_or_default(), &labels));
    }
    let options = ListVolumesOptions { filters: label_filter(&label) };
    let volumes = docker.list_volumes(Some(options)).await.map_err(broken)?;
    for volume in volumes.volumes.unwrap_or_default() {
        let labels = volume.labels.into_iter().collect();
        found.extend(Leftover::new("volume", volume.name, &labels));
    }
    found.sort_by(|left, right| (left.kind, &left.name).cmp(&(right.kind, &right.name)));
    Ok(found)
}

/// Which runs to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sweep {
    /// Those whose process is dead, but not what `shakedown up` keeps.
    Dead,
    /// This one.
    Run(String),
    /// The clusters of this name.
    Cluster(String),
    /// Every one.
    All,
}

/// Removes containers, networks, volumes and files of runs. Answers what was removed. Never stops at
/// the first thing that resists: the error names all that do.
pub async fn sweep(which: &Sweep) -> Result<Vec<Leftover>, TargetError> {
    let docker = docker::connect().await?;
    let mut found = list(&docker).await?;
    found.retain(|left| match which {
        Sweep::Dead => !left.wanted,
        Sweep::Run(run) => left.run == *run,
        Sweep::Cluster(cluster) => left.cluster == *cluster,
        Sweep::All => true,
    });
    remove(&docker, &found).await?;
    let dirs: BTreeSet<_> =
        found.iter().map(|left| (&left.state, &left.cluster, &left.run)).collect();
    for (state, cluster, run) in dirs {
        if !state.is_empty() && !cluster.is_empty() {
            ClusterDir::new(Path::new(state), cluster).remove(run)?;
        }
    }
    Ok(found)
}

/// Removes all of one run from Docker.
pub(crate) async fn remove_run(docker: &Docker, run: &str) -> Result<(), TargetError> {
    let mut found = list(docker).await?;
    found.retain(|left| left.run == run);
    remove(docker, &found).await
}

async fn remove(docker: &Docker, found: &[Leftover]) -> Result<(), TargetError> {
    let of = |kind: &'static str| found.iter().filter(move |left| left.kind == kind);
    let mut resisting = Vec::new();
    // Containers first: they hold the others.
    let removals = of("container").map(async |left| {
        let outcome = remove_container(docker, &left.name).await;
        outcome.map_err(|error| format!("container {}: {error}", left.name))
    });
    let outcomes = futures::future::join_all(removals).await;
    resisting.extend(outcomes.into_iter().filter_map(Result::err));
    for left in of("network") {
        match docker.remove_network(&left.name).await {
            Err(error) if !is_missing(&error) => {
                resisting.push(format!("network {}: {error}", left.name));
            }
            _ => {}
        }
    }
    for left in of("volume") {
        let options = RemoveVolumeOptions { force: true };
        match docker.remove_volume(&left.name, Some(options)).await {
            Err(error) if !is_missing(&error) => {
                resisting.push(format!("volume {}: {error}", left.name));
            }
            _ => {}
        }
    }
    if resisting.is_empty() {
        return Ok(());
    }
    Err(failed("cleaning up", resisting.join("; "), "try again: `shakedown clean`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_things_and_those_of_the_living_are_wanted() {
        let labels = crate::labels::labels("r", "c", false, "/s");
        let wanted = |labels: &BTreeMap<String, String>| {
            Leftover::new("volume", "v".to_owned(), labels).unwrap().wanted
        };
        assert!(wanted(&labels));
        let mut dead = labels.clone();
        dead.insert(crate::labels::START.to_owned(), "0/b/1".to_owned());
        assert!(!wanted(&dead));
        dead.insert(KEEP.to_owned(), "true".to_owned());
        assert!(wanted(&dead));
        assert_eq!(Leftover::new("volume", "v".to_owned(), &BTreeMap::new()), None);
    }
}
