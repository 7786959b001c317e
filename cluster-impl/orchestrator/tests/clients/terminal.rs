//! What a trial works with: a cluster, a namespace of its own, kubectl, and a plain HTTP client.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use kube::config::Kubeconfig;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Needs;
use crate::common::{self, Cluster};
use crate::wire::Wire;

/// The cluster of this process, and which programs there are.
pub struct Ground {
    kubectl: PathBuf,
    has_kubectl: bool,
    /// The cluster that was given.
    given: Option<PathBuf>,
    dev: Mutex<Option<(Cluster, TempDir)>>,
}

/// kubectl takes what begins with a brace for JSON, also where it is YAML.
fn as_yaml(text: &str) -> String {
    let is_yaml = text.starts_with('{') && serde_json::from_str::<Value>(text).is_err();
    if is_yaml { format!("#\n{text}") } else { text.to_owned() }
}

/// Whether there is such a program. It is not run: every trial has a process of its own that asks.
fn is_there(program: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Where `ci/client-tools` puts what it fetches.
fn tools() -> PathBuf {
    let given = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let home = || Some(given("HOME")?.join(".cache"));
    given("SHAKEDOWN_CLIENT_TOOLS").unwrap_or_else(|| {
        let cache = given("XDG_CACHE_HOME").or_else(home).unwrap_or_default();
        cache.join("shakedown/client-tools")
    })
}

/// Python with the packages of `ci/client-tools`.
pub fn python() -> PathBuf {
    tools().join("python/bin/python")
}

/// Helm, of `ci/client-tools` or of this machine.
pub fn helm() -> PathBuf {
    let own = tools().join("helm");
    if own.exists() { own } else { PathBuf::from("helm") }
}

impl Ground {
    /// Looks what is there; nothing is started yet.
    pub fn new() -> Self {
        let kubectl = std::env::var_os("SHAKEDOWN_KUBECTL");
        let kubectl = kubectl.map_or_else(|| PathBuf::from("kubectl"), PathBuf::from);
        let has_kubectl = is_there(&kubectl);
        let given = std::env::var_os("SHAKEDOWN_KUBECONFIG").map(PathBuf::from);
        Self { kubectl, has_kubectl, given, dev: Mutex::default() }
    }

    /// Whether something is missing that a trial needs.
    pub fn lacks(&self, needs: Needs) -> bool {
        let is_there = match needs {
            Needs::Nothing => true,
            Needs::Dev => self.given.is_none(),
            Needs::Containers => self.given.is_some(),
            Needs::Python => python().exists(),
            Needs::Helm => is_there(&helm()),
        };
        !self.has_kubectl || !is_there
    }

    /// The kubeconfig of the cluster, which is started if need be.
    fn kubeconfig(&self) -> PathBuf {
        if let Some(given) = &self.given {
            return given.clone();
        }
        let mut dev = self.dev.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (_, dir) = dev.get_or_insert_with(|| {
            let dir = tempfile::tempdir().expect("a directory can be made");
            let cluster = common::start(&dir.path().join("kubeconfig"), &["--nodes", "2"]);
            eprintln!("`orchestrator dev` was ready after {} ms", cluster.ready_ms);
            (cluster, dir)
        });
        dir.path().join("kubeconfig")
    }

    /// Ends the cluster that was started.
    pub fn close(&self) {
        self.dev.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
    }
}

/// A home directory with a kubeconfig for one namespace.
pub struct Terminal {
    /// The namespace, which nobody else has, and which goes with the trial.
    pub ns: String,
    /// Plain HTTP.
    pub wire: Wire,
    /// Whether containers are played.
    pub is_dev: bool,
    kubectl: PathBuf,
    home: TempDir,
}

/// A cluster of one trial.
pub struct Own {
    // It goes before its cluster.
    terminal: Terminal,
    _cluster: Cluster,
    _dir: TempDir,
}

impl Own {
    /// A terminal on it.
    pub fn terminal(&self) -> &Terminal {
        &self.terminal
    }
}

/// What kubectl sent and was answered, as it logs them itself at level 9.
pub struct Spoken {
    /// All it printed and logged.
    pub text: String,
}

impl Spoken {
    /// The requests, each as a line for curl, with all headers.
    pub fn requests(&self) -> impl Iterator<Item = &str> {
        self.text.lines().filter_map(|line| Some(&line[line.find("curl -v -X")? + 10..]))
    }

    /// The first request with this method whose URL has this part.
    pub fn sent(&self, method: &str, part: &str) -> &str {
        let mut all = self.requests();
        let found = all.find(|line| {
            let (verb, rest) = line.split_once(' ').unwrap_or_default();
            verb == method && rest.rsplit(" '").next().is_some_and(|url| url.contains(part))
        });
        found.unwrap_or_else(|| {
            let all: Vec<&str> = self.requests().collect();
            panic!("no {method} of {part} among\n{}", all.join("\n"))
        })
    }

    /// Something that must be in what was printed or logged.
    pub fn has(&self, part: &str) {
        assert!(self.text.contains(part), "{part} is not in\n{}", self.text);
    }
}

impl Terminal {
    /// With a namespace that is made here.
    pub fn new(ground: &Ground) -> Self {
        Self::at(&ground.kubeconfig(), &ground.kubectl, ground.given.is_none())
    }

    /// A cluster beside this one that forgets what is older than a second or two.
    pub fn with_short_history(&self) -> Own {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let kubeconfig = dir.path().join("kubeconfig");
        let cluster = common::start(&kubeconfig, &["--compaction-interval", "1"]);
        let terminal = Self::at(&kubeconfig, &self.kubectl, true);
        Own { terminal, _cluster: cluster, _dir: dir }
    }

    fn at(kubeconfig: &Path, kubectl: &Path, is_dev: bool) -> Self {
        let mut config = Kubeconfig::read_from(kubeconfig).expect("the kubeconfig can be read");
        let mut wire = Wire::new(config.clone());
        let body = json!({"metadata": {"generateName": "clients-"}});
        let made = wire.post("/api/v1/namespaces", &body);
        assert_eq!(made.code, 201, "{}", made.text());
        let ns = made.json()["metadata"]["name"].as_str().expect("it has a name").to_owned();
        wire.ns = ns.clone();
        for context in &mut config.contexts {
            if let Some(context) = &mut context.context {
                context.namespace = Some(ns.clone());
            }
        }
        let home = tempfile::tempdir().expect("a directory can be made");
        let text = serde_json::to_vec(&config).expect("a kubeconfig is data");
        std::fs::write(home.path().join("config"), text).expect("the directory is ours");
        let kubectl = kubectl.to_owned();
        let terminal = Self { ns, wire, is_dev, kubectl, home };
        // A pod needs the account that a controller makes. Not every kubectl can wait for that.
        let account = "/api/v1/namespaces/{ns}/serviceaccounts/default";
        terminal.wire.until(account, |told| told.code == 200);
        terminal
    }

    /// What a command line prints on both its outputs, and its exit code.
    pub fn run(&self, line: &str, input: &str) -> (i32, String) {
        let input = as_yaml(input);
        let mut child = self
            .command(line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let mut stdin = child.stdin.take().expect("it is piped");
        // Whoever does not read it has ended already.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let mut told = Vec::new();
        let stdout = child.stdout.as_mut().expect("it is piped");
        stdout.read_to_end(&mut told).expect("a pipe can be read");
        let code = child.wait().expect("it was started").code().unwrap_or(-1);
        (code, String::from_utf8_lossy(&told).into_owned())
    }

    /// A command line in this home, which is not started yet.
    pub fn command(&self, line: &str) -> Command {
        // `kubectl` is whichever was asked for.
        let line = format!("kubectl() {{ command \"$KUBECTL\" \"$@\"; }}; exec 2>&1; {line}");
        let mut command = Command::new("sh");
        command
            .args(["-c", &line])
            .current_dir(self.home.path())
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("config"))
            .env("KUBECTL", &self.kubectl)
            .env("NS", &self.ns);
        command
    }

    /// What a command line prints; it must succeed.
    pub fn ok(&self, line: &str) -> String {
        let (code, told) = self.run(line, "");
        assert_eq!(code, 0, "{line}\n{told}");
        told
    }

    /// The same with something to read.
    pub fn ok_with(&self, line: &str, input: &str) -> String {
        let (code, told) = self.run(line, input);
        assert_eq!(code, 0, "{line}\n{told}");
        told
    }

    /// What a command line prints; it must fail.
    pub fn fails(&self, line: &str) -> String {
        let (code, told) = self.run(line, "");
        assert_ne!(code, 0, "{line}\n{told}");
        told
    }

    /// A command must succeed and print each of these.
    pub fn shows(&self, line: &str, expected: &[&str]) {
        let told = self.ok(line);
        for expected in expected {
            assert!(told.contains(expected), "{line}\nshould print {expected}\n{told}");
        }
    }

    /// A command must fail and print each of these.
    pub fn refuses(&self, line: &str, expected: &[&str]) {
        let told = self.fails(line);
        for expected in expected {
            assert!(told.contains(expected), "{line}\nshould print {expected}\n{told}");
        }
    }

    /// Runs kubectl so that it tells what it sends; it must succeed.
    pub fn spoken(&self, args: &str) -> Spoken {
        Spoken { text: self.ok(&format!("kubectl -v=9 {args}")) }
    }

    /// An object as the server has it.
    pub fn object(&self, what: &str) -> Value {
        let text = self.ok(&format!("kubectl get {what} -o json --show-managed-fields"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// A file in this home.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it lies in the home"))
            .and_then(|()| std::fs::write(&path, as_yaml(text)))
            .expect("the directory is ours");
    }

    /// This home.
    pub fn home(&self) -> &Path {
        self.home.path()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let path = format!("/api/v1/namespaces/{}", self.ns);
        let _ = self.wire.try_ask(http::Method::DELETE, &path, &[], b"");
    }
}
