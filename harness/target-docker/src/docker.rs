//! The way to the Docker daemon, and what its errors mean to a user.

use std::collections::BTreeMap;
use std::fmt::Display;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::query_parameters::{
    KillContainerOptions, ListContainersOptions, RemoveContainerOptions,
};
use futures::StreamExt;
use shakedown_core::target::TargetError;

/// An act that failed, why, and what the user can do about it.
pub(crate) fn failed(what: impl Into<String>, why: impl Display, hint: &str) -> TargetError {
    TargetError::Failed { what: what.into(), why: why.to_string(), hint: hint.to_owned() }
}

/// Connects to the daemon that `DOCKER_HOST` names, else to the local one, and agrees on a version.
pub async fn connect() -> Result<Docker, TargetError> {
    let hint = "start Docker, or say where it is in DOCKER_HOST; `shakedown doctor` tells more";
    let docker = Docker::connect_with_defaults()
        .map_err(|error| failed("connecting to Docker", error, hint))?;
    docker.negotiate_version().await.map_err(|error| failed("connecting to Docker", error, hint))
}

/// Whether the daemon says that there is no such thing.
pub(crate) fn is_missing(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 404, .. })
}

/// Whether the daemon says that things are so already.
pub(crate) fn is_already_so(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 304 | 409, .. })
}

/// A filter on labels, each `key` or `key=value`.
pub(crate) fn label_filter<M>(labels: &[String]) -> Option<M>
where
    M: FromIterator<(String, Vec<String>)>,
{
    Some([("label".to_owned(), labels.to_vec())].into_iter().collect())
}

/// A container, as far as this crate cares.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub name: String,
    pub state: String,
    pub labels: BTreeMap<String, String>,
}

/// The containers with these labels, running or not, in order of name.
pub(crate) async fn containers(docker: &Docker, labels: &[String]) -> Result<Vec<Found>, Error> {
    let options =
        ListContainersOptions { all: true, filters: label_filter(labels), ..Default::default() };
    let listed = docker.list_containers(Some(options)).await?;
    let mut found: Vec<Found> = listed
        .into_iter()
        .map(|summary| {
            let name = summary.names.unwrap_or_default().into_iter().next().unwrap_or_default();
            Found {
                name: name.trim_start_matches('/').to_owned(),
                state: summary.state.map(|state| state.to_string()).unwrap_or_default(),
                labels: summary.labels.unwrap_or_default().into_iter().collect(),
            }
        })
        .collect();
    found.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(found)
}

/// Removes a container with its anonymous volumes, whatever it is doing. No harm if it is gone.
pub(crate) async fn remove_container(docker: &Docker, id: &str) -> Result<(), Error> {
    // Frozen processes do not die: the freezer holds even SIGKILL back.
    docker.unpause_container(id).await.ok();
    docker.kill_container(id, None::<KillContainerOptions>).await.ok();
    let options = RemoveContainerOptions { v: true, force: true, link: false };
    match docker.remove_container(id, Some(options)).await {
        Err(error) if !is_missing(&error) && !is_already_so(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Runs a command in a container; answers its exit code and all that it wrote.
pub(crate) async fn exec(
    docker: &Docker,
    container: &str,
    command: &[&str],
) -> Result<(i64, String), Error> {
    let options = CreateExecOptions {
        cmd: Some(command.to_vec()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..Default::default()
    };
    let exec = docker.create_exec(container, options).await?;
    let mut text = String::new();
    if let StartExecResults::Attached { mut output, .. } = docker.start_exec(&exec.id, None).await?
    {
        while let Some(part) = output.next().await {
            if let LogOutput::StdOut { message } | LogOutput::StdErr { message } = part? {
                text.push_str(&String::from_utf8_lossy(&message));
            }
        }
    }
    let code = docker.inspect_exec(&exec.id).await?.exit_code.unwrap_or(-1);
    Ok((code, text))
}
