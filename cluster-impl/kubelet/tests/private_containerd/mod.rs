//! A containerd of the test's own: root, state, socket, network, processes and mounts.
//!
//! It lives in its own mount, network and PID namespaces, so ending it ends everything in it; only
//! cgroup folders are left to remove. Docker's containerd is never touched.
//! What a kubelet mounts in the test's folder is seen in there; nothing that is mounted in there is seen
//! outside.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use shakedown_kubelet::runtimes::cri::{CriConfig, ImageSource};
use tempfile::TempDir;

/// Why the tests cannot run here; `None` if they can.
pub fn missing() -> Option<String> {
    let here = |program: &str| {
        let dirs = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&dirs).any(|dir| dir.join(program).exists())
    };
    for program in ["containerd", "ctr", "runc", "unshare"] {
        if !here(program) {
            return Some(format!(
                "no `{program}` here: apt-get install containerd runc util-linux"
            ));
        }
    }
    if !plugins().join("bridge").exists() {
        return Some("no CNI plugins here: apt-get install containernetworking-plugins".to_owned());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !status.lines().any(|line| line.starts_with("Uid:\t0\t")) {
        return Some("only root may run containers".to_owned());
    }
    testapp().is_none().then(|| "no testapp beside this test: cargo build -p testapp".to_owned())
}

fn plugins() -> PathBuf {
    let dirs = ["/usr/lib/cni", "/opt/cni/bin"].map(PathBuf::from);
    dirs.into_iter().find(|dir| dir.exists()).unwrap_or_default()
}

fn testapp() -> Option<PathBuf> {
    let deps = std::env::current_exe().ok()?;
    let path = deps.parent()?.parent()?.join("testapp");
    path.exists().then_some(path)
}

/// The running daemon.
pub struct Containerd {
    dir: TempDir,
    daemon: Child,
    cgroup: String,
}

impl Containerd {
    /// Starts it with testapp's images.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test");
        share(dir.path());
        let unique = dir.path().file_name().expect("a temporary folder has a name");
        let cgroup = format!("shakedown-test-{}", unique.to_string_lossy().trim_matches('.'));
        std::fs::create_dir(dir.path().join("net.d")).expect("a folder for the test");
        let config = dir.path().join("config.toml");
        std::fs::write(&config, settings(dir.path())).expect("a file for the test");
        let log = std::fs::File::create(dir.path().join("log")).expect("a file for the test");
        // What plugins and shims keep outside of the test's folder goes with the mount namespace.
        let covers = "for dir in /run/netns /run/containerd /var/lib/cni; do \
                      mkdir -p $dir && mount -t tmpfs tmpfs $dir; done";
        let daemon = format!("exec containerd --config {}", config.display());
        let script = format!("ip link set lo up; {covers}; {daemon}");
        let daemon = Command::new("unshare")
            .args(["--mount", "--propagation", "slave", "--net"])
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("unshare starts");
        let containerd = Self { dir, daemon, cgroup };
        containerd.wait_for_socket().await;
        containerd.import();
        containerd
    }

    async fn wait_for_socket(&self) {
        for _ in 0..200 {
            let file = std::fs::metadata(self.socket());
            if file.is_ok_and(|file| file.file_type().is_socket()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        panic!("containerd does not start:\n{log}");
    }

    fn import(&self) {
        let archive = self.dir.path().join("images.tar");
        let testapp = testapp().expect("checked before");
        let made = Command::new(testapp).arg("image").arg("--out").arg(&archive).status();
        assert!(made.expect("testapp starts").success());
        let output = Command::new("ctr")
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", "k8s.io", "images", "import"])
            .arg(&archive)
            .output()
            .expect("ctr starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("containerd.sock")
    }

    /// A process in its namespaces of mounts and network.
    pub fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// A folder of the test.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// How to reach it.
    pub fn config(&self) -> CriConfig {
        CriConfig {
            root_dir: self.folder("kubelet"),
            log_dir: self.folder("pods"),
            cgroup_root: format!("/{}", self.cgroup),
            images: ImageSource::Imported,
            ..CriConfig::new(self.socket())
        }
    }

    /// The cgroup folders of pods that are left.
    pub fn pod_cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for controller in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            collect_dirs(&controller.path().join(&self.cgroup), &mut found);
        }
        found.retain(|dir| {
            dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pod"))
        });
        found
    }
}

/// Makes a folder one whose mounts are seen by those who live in a copy of these mounts.
fn share(dir: &Path) {
    let nothing: Option<&str> = None;
    mount(Some(dir), dir, nothing, MsFlags::MS_BIND, nothing).expect("root may mount");
    mount(nothing, dir, nothing, MsFlags::MS_SHARED, nothing).expect("root may share a mount");
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        // With all that kubelets have mounted below.
        let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
        let mut left = Vec::new();
        for controller in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            collect_dirs(&controller.path().join(&self.cgroup), &mut left);
        }
        // Deepest first.
        left.sort_by_key(|dir| std::cmp::Reverse(dir.components().count()));
        for dir in left {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

fn collect_dirs(dir: &Path, found: &mut Vec<PathBuf>) {
    if !dir.is_dir() {
        return;
    }
    found.push(dir.to_owned());
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        collect_dirs(&entry.path(), found);
    }
}

fn settings(dir: &Path) -> String {
    let dir = dir.display();
    let plugins = plugins();
    let plugins = plugins.display();
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
  address = "{dir}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/kubetm/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{dir}/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
"#
    )
}
