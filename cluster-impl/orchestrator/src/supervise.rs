//! `orchestrator supervise`: process 1 of a node container; it starts the node's components and keeps them up.
//!
//! A dead process is started again [`RESTART_AFTER`] later, unless `/run/orchestrator/hold/<name>` exists.
//! Its process id stands in `/run/orchestrator/<name>.pid`, its output in `/var/log/<name>.log`, which
//! is moved to `<name>.log.1` when it grows past its limit. A process that is to run once leaves
//! `/run/orchestrator/done/<name>` when it succeeded. SIGTERM is passed on; what has not ended
//! [`STOP_WITHIN`] later is killed. Nothing starts before the node has its address.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::time::Instant;

/// A dead process is started again so much later.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// Hold files, paths that are waited for and the sizes of logs are looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After SIGTERM a process has so long to end.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// What to run on this node: JSON, which is YAML too.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Config {
    /// The node's address: nothing starts before some interface has it.
    address: Option<Ipv4Addr>,
    /// Kernel settings, such as `net.ipv4.ip_forward`.
    #[serde(default)]
    sysctls: BTreeMap<String, String>,
    /// A log that is longer than this is moved aside.
    log_bytes_max: u64,
    /// In the order in which they are started.
    processes: Vec<Process>,
}

/// One process to keep up.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Process {
    /// The component's name.
    name: String,
    /// The program and its arguments.
    command: Vec<String>,
    /// Added to the environment.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// It is not started before this path exists.
    after: Option<PathBuf>,
    /// It is not started again once it has succeeded.
    #[serde(default)]
    once: bool,
}

/// Runs the node until it is asked to end (SIGTERM, SIGINT).
pub fn run(config_path: &Path) -> anyhow::Result<()> {
    let shown = config_path.display();
    let text = fs::read(config_path).with_context(|| format!("failed to read {shown}"))?;
    let config: Config =
        serde_json::from_slice(&text).with_context(|| format!("failed to parse {shown}"))?;
    prepare_machine(&config);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let node = Node::new(config, PathBuf::from("/run/orchestrator"), PathBuf::from("/var/log"))?;
    runtime.block_on(keep_up(node))
}

async fn keep_up(mut node: Node) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let mut child = signal(SignalKind::child()).context("failed to listen for SIGCHLD")?;
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut ending: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = child.recv() => {
                node.reap(Instant::now());
                continue;
            }
            _ = look.tick() => {
                node.reap(Instant::now());
                match ending {
                    None => node.look(Instant::now()),
                    Some(by) if node.is_idle() || Instant::now() >= by => {
                        node.kill_rest();
                        return Ok(());
                    }
                    Some(_) => {}
                }
                continue;
            }
        }
        node.terminate();
        ending.get_or_insert(Instant::now() + STOP_WITHIN);
    }
}

/// The state of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It runs, with this process id.
    Up(Pid),
    /// It does not run, and is not started before this.
    DownUntil(Instant),
    /// It ran once and succeeded.
    Done,
}

struct Node {
    config: Config,
    states: Vec<State>,
    run_dir: PathBuf,
    log_dir: PathBuf,
}

impl Node {
    fn new(config: Config, run_dir: PathBuf, log_dir: PathBuf) -> anyhow::Result<Self> {
        for dir in [&run_dir.join("hold"), &run_dir.join("done"), &log_dir] {
            fs::create_dir_all(dir).with_context(|| format!("failed to make {}", dir.display()))?;
        }
        let states = vec![State::DownUntil(Instant::now()); config.processes.len()];
        Ok(Self { config, states, run_dir, log_dir })
    }

    /// Starts what is due and moves long logs aside.
    fn look(&mut self, now: Instant) {
        if let Some(address) = self.config.address
            && !has_address(address)
        {
            return;
        }
        for index in 0..self.states.len() {
            let process = &self.config.processes[index];
            if let State::DownUntil(at) = self.states[index]
                && now >= at
                && !self.run_dir.join("hold").join(&process.name).exists()
                && process.after.as_ref().is_none_or(|path| path.exists())
            {
                self.states[index] = self.start(process).unwrap_or_else(|error| {
                    tracing::error!("failed to start {}: {error:#}", process.name);
                    State::DownUntil(now + RESTART_AFTER)
                });
            }
            let log = self.log_path(&self.config.processes[index]);
            if let Err(error) = move_aside(&log, self.config.log_bytes_max) {
                tracing::warn!("failed to move {} aside: {error}", log.display());
            }
        }
    }

    fn start(&self, process: &Process) -> anyhow::Result<State> {
        let (program, args) = process.command.split_first().context("its command is empty")?;
        let log = fs::File::options().create(true).append(true).open(self.log_path(process))?;
        let child = Command::new(program)
            .args(args)
            .envs(&process.env)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        tracing::info!("started {} as process {pid}", process.name);
        let path = self.pid_path(process);
        // Written beside and renamed: a reader never sees half a number.
        fs::write(path.with_extension("new"), format!("{pid}\n"))?;
        fs::rename(path.with_extension("new"), path)?;
        Ok(State::Up(pid))
    }

    /// Takes the exit status of every process that has ended, adopted orphans included.
    fn reap(&mut self, now: Instant) {
        loop {
            let ended = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code == 0, format!("status {code}")),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, false, signal.to_string()),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            self.ended(ended, now);
        }
    }

    fn ended(&mut self, (pid, succeeded, how): (Pid, bool, String), now: Instant) {
        let Some(index) = self.states.iter().position(|state| *state == State::Up(pid)) else {
            return;
        };
        let process = &self.config.processes[index];
        tracing::info!("{} (process {pid}) ended with {how}", process.name);
        fs::remove_file(self.pid_path(process)).ok();
        self.states[index] = State::DownUntil(now + RESTART_AFTER);
        if process.once && succeeded {
            let done = self.run_dir.join("done").join(&process.name);
            match fs::write(&done, "") {
                Ok(()) => self.states[index] = State::Done,
                Err(error) => tracing::error!("failed to write {}: {error}", done.display()),
            }
        }
    }

    fn is_idle(&self) -> bool {
        !self.states.iter().any(|state| matches!(state, State::Up(_)))
    }

    fn terminate(&self) {
        for state in &self.states {
            if let State::Up(pid) = state {
                kill(*pid, Signal::SIGTERM).ok();
                // A stopped process would not see it.
                kill(*pid, Signal::SIGCONT).ok();
            }
        }
    }

    fn kill_rest(&self) {
        for state in &self.states {
            if let State::Up(pid) = state {
                kill(*pid, Signal::SIGKILL).ok();
            }
        }
        // As process 1 everything that is left on the node is ours: shims and containers.
        if Pid::this() == Pid::from_raw(1) {
            kill(Pid::from_raw(-1), Signal::SIGKILL).ok();
        }
    }

    fn pid_path(&self, process: &Process) -> PathBuf {
        self.run_dir.join(format!("{}.pid", process.name))
    }

    fn log_path(&self, process: &Process) -> PathBuf {
        self.log_dir.join(format!("{}.log", process.name))
    }
}

/// Copies and empties a log that is too long: its writer keeps its handle, which appends.
fn move_aside(log: &Path, bytes_max: u64) -> io::Result<()> {
    match fs::metadata(log) {
        Ok(meta) if meta.len() > bytes_max => {
            fs::copy(log, log.with_extension("log.1"))?;
            fs::File::options().write(true).open(log)?.set_len(0)
        }
        _ => Ok(()),
    }
}

fn has_address(address: Ipv4Addr) -> bool {
    nix::ifaddrs::getifaddrs().is_ok_and(|mut interfaces| {
        interfaces.any(|interface| {
            interface
                .address
                .as_ref()
                .and_then(|socket| socket.as_sockaddr_in())
                .is_some_and(|socket| socket.ip() == address)
        })
    })
}

/// Makes the container's machine fit for a container runtime. What fails is said, and tried without.
fn prepare_machine(config: &Config) {
    let warn = |what: &str, outcome: io::Result<()>| {
        if let Err(error) = outcome {
            tracing::warn!("failed to {what}: {error}");
        }
    };
    // Volumes that are mounted later must be seen by containers that ask for that.
    let shared =
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>);
    warn("share the mounts", shared.map_err(io::Error::from));
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    for (target, version) in cgroup_mounts(&mounts) {
        let flags = MsFlags::MS_REMOUNT
            | MsFlags::MS_BIND
            | MsFlags::MS_NOSUID
            | MsFlags::MS_NODEV
            | MsFlags::MS_NOEXEC;
        let writable = mount(None::<&str>, target, None::<&str>, flags, None::<&str>);
        warn(&format!("make {target} writable"), writable.map_err(io::Error::from));
        if version == 2 && target == "/sys/fs/cgroup" {
            warn("delegate the cgroup controllers", delegate_controllers(Path::new(target)));
        }
    }
    for (key, value) in &config.sysctls {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        warn(&format!("set {key}"), fs::write(path, value));
    }
}

/// The cgroup mounts among the lines of `/proc/mounts`, each with its version.
fn cgroup_mounts(mounts: &str) -> Vec<(&str, u8)> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (_source, target, kind) = (words.next()?, words.next()?, words.next()?);
            match kind {
                "cgroup" => Some((target, 1)),
                "cgroup2" => Some((target, 2)),
                _ => None,
            }
        })
        .collect()
}

/// On cgroup v2 a group that has processes cannot hand controllers to its children: the processes
/// move to a group of their own.
fn delegate_controllers(root: &Path) -> io::Result<()> {
    let own = root.join("init");
    fs::create_dir_all(&own)?;
    for pid in fs::read_to_string(root.join("cgroup.procs"))?.lines() {
        fs::write(own.join("cgroup.procs"), pid)?;
    }
    for controller in fs::read_to_string(root.join("cgroup.controllers"))?.split_whitespace() {
        fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("supervise-{name}-{}", std::process::id()));
        fs::remove_dir_all(&dir).ok();
        dir
    }

    fn node(dir: &Path, processes: &str) -> Node {
        let text = format!(r#"{{"logBytesMax": 10, "processes": {processes}}}"#);
        let config = serde_json::from_str(&text).unwrap();
        Node::new(config, dir.join("run"), dir.join("log")).unwrap()
    }

    /// Waits, without reaping, until some child has ended.
    fn wait_for_an_end() {
        use nix::sys::wait::{Id, waitid};
        waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
    }

    #[test]
    fn a_killed_process_comes_back_after_a_second_unless_held() {
        let dir = scratch("restart");
        let mut node = node(&dir, r#"[{"name": "idle", "command": ["sleep", "1000"]}]"#);
        let start = Instant::now();
        node.look(start);
        let State::Up(first) = node.states[0] else { panic!("{:?}", node.states) };
        let written = fs::read_to_string(dir.join("run/idle.pid")).unwrap();
        assert_eq!(written.trim(), first.to_string());

        kill(first, Signal::SIGKILL).unwrap();
        wait_for_an_end();
        node.reap(start);
        assert!(!dir.join("run/idle.pid").exists());
        node.look(start + RESTART_AFTER - Duration::from_millis(1));
        assert!(node.is_idle());
        fs::write(dir.join("run/hold/idle"), "").unwrap();
        node.look(start + RESTART_AFTER);
        assert!(node.is_idle());
        fs::remove_file(dir.join("run/hold/idle")).unwrap();
        node.look(start + RESTART_AFTER);
        let State::Up(second) = node.states[0] else { panic!("{:?}", node.states) };
        assert_ne!(first, second);

        kill(second, Signal::SIGSTOP).unwrap();
        node.terminate();
        wait_for_an_end();
        node.reap(start);
        assert!(node.is_idle());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_process_that_runs_once_releases_what_waits_for_it() {
        let dir = scratch("once");
        let after = dir.join("run/done/load");
        let mut node = node(
            &dir,
            &format!(
                r#"[{{"name": "load", "command": ["true"], "once": true}},
                    {{"name": "use", "command": ["sleep", "1000"], "after": "{}"}}]"#,
                after.display()
            ),
        );
        let now = Instant::now();
        node.look(now);
        assert!(matches!(node.states[..], [State::Up(_), State::DownUntil(_)]));
        wait_for_an_end();
        node.reap(now);
        node.look(now + RESTART_AFTER);
        assert!(matches!(node.states[..], [State::Done, State::Up(_)]), "{:?}", node.states);
        node.kill_rest();
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_program_that_is_missing_is_tried_again() {
        let dir = scratch("missing");
        let mut node = node(&dir, r#"[{"name": "gone", "command": ["/no/such/program"]}]"#);
        let now = Instant::now();
        node.look(now);
        assert_eq!(node.states, [State::DownUntil(now + RESTART_AFTER)]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_log_is_moved_aside_only_when_it_is_too_long() {
        let dir = scratch("log");
        fs::create_dir_all(&dir).unwrap();
        let log = dir.join("etcd.log");
        fs::write(&log, "0123456789").unwrap();
        move_aside(&log, 10).unwrap();
        assert_eq!(fs::metadata(&log).unwrap().len(), 10);
        move_aside(&log, 9).unwrap();
        assert_eq!(fs::metadata(&log).unwrap().len(), 0);
        assert_eq!(fs::read_to_string(dir.join("etcd.log.1")).unwrap(), "0123456789");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn cgroup_mounts_are_found_among_others() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup ro,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 ro 0 0\nproc /proc proc rw 0 0\n";
        assert_eq!(
            cgroup_mounts(mounts),
            [("/sys/fs/cgroup/cpu", 1), ("/sys/fs/cgroup/unified", 2)]
        );
    }

    #[test]
    fn an_address_that_the_machine_has_is_found() {
        assert!(has_address(Ipv4Addr::LOCALHOST));
        assert!(!has_address(Ipv4Addr::new(203, 0, 113, 7)));
    }

    #[test]
    fn unknown_words_in_the_configuration_are_refused() {
        let text = r#"{"logBytesMax": 1, "processes": [], "sysctl": {}}"#;
        let error = serde_json::from_str::<Config>(text).unwrap_err().to_string();
        assert!(error.contains("sysctl"), "{error}");
    }
}
