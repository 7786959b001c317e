//! The components' processes, from the supervisor's pid files and `/proc`; and signals to them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shakedown_core::lever::{Component, ProcessState, Reading};

/// Where the supervisor keeps its pid files and looks for hold files.
pub const RUN_DIR: &str = "/run/orchestrator";

/// A process as `/proc/<pid>/stat` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// R, S, D, T, Z ...
    pub state: char,
    /// User and system CPU time.
    pub ticks: u64,
    /// Ticks since boot.
    pub start: u64,
}

/// Reads a line of `/proc/<pid>/stat`. The name in it may hold anything, so fields count from its end.
pub fn parse_stat(line: &str) -> Option<Stat> {
    let fields: Vec<&str> = line.get(line.rfind(')')? + 1..)?.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        ticks: number(11)? + number(12)?,
        start: number(19)?,
    })
}

/// A process, if it lives.
pub fn stat(pid: i32) -> Option<Stat> {
    let stat = parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    (!matches!(stat.state, 'Z' | 'X')).then_some(stat)
}

/// Whether every thread of a process has been stopped by a signal.
fn all_stopped(pid: i32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().all(|thread| {
        fs::read_to_string(thread.path().join("stat"))
            .ok()
            .and_then(|line| parse_stat(&line))
            // A thread that has just ended stands still too.
            .is_none_or(|stat| stat.state == 'T')
    })
}

fn pid_of(component: Component) -> Option<i32> {
    let path = Path::new(RUN_DIR).join(format!("{component}.pid"));
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// What a component's process is doing.
pub fn reading(component: Component) -> Reading {
    let absent =
        Reading::Process { state: ProcessState::Absent, identity: String::new(), ticks: 0 };
    let Some(pid) = pid_of(component) else { return absent };
    let Some(stat) = stat(pid) else { return absent };
    // The main thread is asked first: the others matter only if it stands still.
    let stopped = stat.state == 'T' && all_stopped(pid);
    let state = if stopped { ProcessState::Stopped } else { ProcessState::Running };
    Reading::Process { state, identity: format!("{pid}/{}", stat.start), ticks: stat.ticks }
}

/// Sends a signal to a component.
pub fn signal(component: Component, signal: Signal) -> anyhow::Result<()> {
    let pid = pid_of(component).with_context(|| format!("{component} does not run"))?;
    kill(Pid::from_raw(pid), signal)
        .with_context(|| format!("failed to send {signal} to {component}, process {pid}"))
}

/// Lets a component that was stopped go on. No harm if it does not run.
pub fn resume(component: Component) -> anyhow::Result<()> {
    match pid_of(component) {
        Some(_) => signal(component, Signal::SIGCONT),
        None => Ok(()),
    }
}

fn hold_path(component: Component) -> PathBuf {
    Path::new(RUN_DIR).join("hold").join(component.name())
}

/// Tells the supervisor to leave a component down once it has died.
pub fn hold(component: Component) -> anyhow::Result<()> {
    fs::write(hold_path(component), "").with_context(|| format!("failed to hold {component}"))
}

/// Lets the supervisor start a component again.
pub fn release(component: Component) -> anyhow::Result<()> {
    match fs::remove_file(hold_path(component)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to release {component}"))
        }
        _ => Ok(()),
    }
}

/// Whether a component is held down.
pub fn is_held(component: Component) -> bool {
    hold_path(component).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_are_read_from_the_end_of_the_name() {
        let line = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 150 25 0 0 20 0 7 0 98765 1 2 3";
        assert_eq!(parse_stat(line), Some(Stat { state: 'S', ticks: 175, start: 98765 }));
        for bad in ["", "42 (x", "42 (x) S 1 2"] {
            assert_eq!(parse_stat(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_stopped_child_is_seen_as_stopped_and_a_killed_one_as_gone() {
        use nix::sys::wait::{WaitPidFlag, waitpid};
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let before = stat(pid).unwrap();
        assert!(!all_stopped(pid));
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert!(all_stopped(pid));
        assert_eq!(stat(pid).unwrap().start, before.start);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(stat(pid), None);
        assert!(!all_stopped(pid));
    }
}
