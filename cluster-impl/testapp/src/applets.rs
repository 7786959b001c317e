//! What each command does, as the first process of a container or not.
//!
//! The first process of a container has no default signal actions: without a handler SIGTERM would be
//! ignored. Hence every command that lasts has one.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::command::{Command, Span};
use crate::{archive, serve, whoami};

/// The exit code after SIGTERM, as shells count it.
const TERMINATED: u8 = 143;

/// Does it; answers the exit code.
pub async fn run(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Serve(options) => serve::run(options).await,
        Command::Crash { after, code } => {
            println!("crashing with code {code} in {after:?}");
            wait(Some(after), code, false).await
        }
        Command::Sleep { span, ignore_term } => {
            let time = match span {
                Span::For(time) => Some(time),
                Span::Ever => None,
            };
            wait(time, 0, ignore_term).await
        }
        Command::Pause => pause().await,
        Command::Image { out, binary } => {
            let binary = match binary {
                Some(binary) => binary,
                None => std::env::current_exe().context("cannot find this binary")?,
            };
            archive::write(&binary, &out)?;
            Ok(0)
        }
        Command::Cat { files } => {
            let mut code = 0;
            for file in files {
                match std::fs::read(&file) {
                    Ok(content) => std::io::stdout().write_all(&content)?,
                    Err(error) => {
                        eprintln!("cat: {}: {error}", file.display());
                        code = 1;
                    }
                }
            }
            Ok(code)
        }
        Command::Echo { words } => {
            println!("{}", words.join(" "));
            Ok(0)
        }
        Command::Hostname => {
            println!("{}", hostname());
            Ok(0)
        }
        Command::True => Ok(0),
        Command::False => Ok(1),
        Command::Until { path, text } => until(&path, &text).await,
        Command::Whoami => {
            println!("{}", whoami::ask().await?);
            Ok(0)
        }
    }
}

/// The host's name; in a pod the pod's.
pub fn hostname() -> String {
    let name = nix::unistd::gethostname().ok();
    name.map_or_else(|| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}

async fn wait(time: Option<Duration>, code: u8, ignore_term: bool) -> anyhow::Result<u8> {
    let mut term = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let end = async {
        match time {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = end => Ok(code),
        () = asked_to_end(&mut term, ignore_term) => Ok(TERMINATED),
    }
}

/// Returns on SIGTERM, or never if that is to be ignored.
pub async fn asked_to_end(term: &mut Signal, ignore_term: bool) {
    loop {
        if term.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        if !ignore_term {
            return;
        }
        println!("SIGTERM ignored");
    }
}

/// So often a file is looked at.
const LOOK: Duration = Duration::from_millis(200);

async fn until(path: &Path, text: &str) -> anyhow::Result<u8> {
    let mut term = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let seen = async {
        while !std::fs::read(path)
            .is_ok_and(|content| String::from_utf8_lossy(&content).contains(text))
        {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        biased;
        () = seen => {
            println!("{} holds {text}", path.display());
            Ok(0)
        }
        () = asked_to_end(&mut term, false) => Ok(TERMINATED),
    }
}

async fn pause() -> anyhow::Result<u8> {
    let mut term = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut child = signal(SignalKind::child()).context("cannot handle SIGCHLD")?;
    loop {
        tokio::select! {
            biased;
            _ = term.recv() => return Ok(0),
            _ = interrupt.recv() => return Ok(0),
            _ = child.recv() => reap(),
        }
    }
}

/// Takes the exit codes of all orphans that have ended.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
