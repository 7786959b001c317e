//! Volumes of a pod on a real containerd, as its processes see them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use shakedown_kubelet::access::Access;

use super::*;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn spec() -> Value {
    let fields = |path: &str, field: &str| json!({"path": path, "fieldRef": {"fieldPath": field}});
    let memory = json!({"path": "memory", "resourceFieldRef":
        {"containerName": "app", "resource": "limits.memory", "divisor": "1Mi"}});
    json!({
        "nodeName": "worker-1", "serviceAccountName": "default",
        "volumes": [
            {"name": "paint", "configMap": {"name": "paint", "defaultMode": 420}},
            {"name": "key", "secret": {"secretName": "key", "defaultMode": 256}},
            {"name": "me", "downwardAPI": {"items": [fields("labels", "metadata.labels"), memory]}},
            {"name": "access", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"configMap": {"name": "kube-root-ca.crt",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [fields("namespace", "metadata.namespace")]}},
            ]}},
            {"name": "fast", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "shared", "emptyDir": {}},
        ],
        "containers": [{
            "name": "app", "image": "kubetm/app:v1", "resources": {"limits": {"memory": "64Mi"}},
            "env": [
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "COLOUR", "valueFrom":
                    {"configMapKeyRef": {"name": "paint", "key": "colour"}}},
            ],
            "volumeMounts": [
                {"name": "paint", "mountPath": "/etc/paint"},
                {"name": "paint", "mountPath": "/etc/colour", "subPath": "colour"},
                {"name": "key", "mountPath": "/etc/key"},
                {"name": "me", "mountPath": "/etc/me"},
                {"name": "access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
                {"name": "fast", "mountPath": "/fast"},
                {"name": "shared", "mountPath": "/shared", "subPathExpr": "of/$(POD)"},
            ],
        }],
    })
}

async fn shown(runtime: &CriRuntime, path: &str) -> String {
    let containers = runtime.containers("uid-3").await.expect("a list");
    let Some(app) = containers.last() else { return "no container".to_owned() };
    let command = ["cat", path].map(str::to_owned);
    match runtime.exec_and_wait(&app.id, &command).await {
        Ok(outcome) if outcome.exit_code == 0 => String::from_utf8(outcome.stdout).unwrap(),
        Ok(outcome) => String::from_utf8(outcome.stderr).unwrap(),
        Err(error) => error.to_string(),
    }
}

fn mounts_below(dir: &Path) -> usize {
    let all = std::fs::read_to_string("/proc/self/mounts").expect("Linux tells its mounts");
    let below = format!("{}/", dir.display());
    all.lines()
        .filter(|line| line.split(' ').nth(1).is_some_and(|at| at.starts_with(&below)))
        .count()
}

async fn files_are_there(runtime: &CriRuntime) {
    let access = "/var/run/secrets/kubernetes.io/serviceaccount";
    for (path, content) in [
        ("/etc/paint/colour", "red"),
        ("/etc/colour", "red"),
        ("/etc/key/password", "s3cret"),
        ("/etc/me/labels", "app=\"web\""),
        ("/etc/me/memory", "64"),
        (&format!("{access}/token"), "token-1"),
        (&format!("{access}/ca.crt"), "the authority"),
        (&format!("{access}/namespace"), "default"),
    ] {
        assert_eq!(shown(runtime, path).await, content, "{path}");
    }
}

pub async fn files_change_at_once() {
    let containerd = Containerd::start().await;
    lay_network(&containerd);
    let api = FakeApi::at(env::Timestamp::now());
    api.put(NODE, json!({"metadata": {"name": "worker-1"}, "spec": {"podCIDR": "10.244.1.0/24"}}));
    let map = |name: &str, data: Value| {
        api.put(&format!("{MAPS}/{name}"), json!({"kind": "ConfigMap", "data": data}));
    };
    map("paint", json!({"colour": "red"}));
    map("kube-root-ca.crt", json!({"ca.crt": "the authority"}));
    let secret = json!({"kind": "Secret", "data": {"password": "czNjcmV0"}});
    api.put("/api/v1/namespaces/default/secrets/key", secret);
    let runtime = Arc::new(CriRuntime::new(Env::os(), containerd.config()));
    let left_behind = containerd.folder("kubelet/pods/uid-of-nobody/volumes");
    std::fs::create_dir_all(&left_behind).expect("a folder for the test");
    let run = || {
        let config = Config::new("worker-1", "10.0.0.1", MachineFacts::read());
        let env = Env::os();
        env.spawn(shakedown_kubelet::run(env.clone(), api.client(), runtime.clone(), config))
    };
    let kubelet = run();
    let labels = json!({"app": "web"});
    let metadata = json!({"name": "web", "namespace": "default", "uid": "uid-3", "labels": labels});
    api.put(
        POD,
        json!({"apiVersion": "v1", "kind": "Pod", "status": {"phase": "Pending"},
            "metadata": metadata, "spec": spec()}),
    );
    let pod = || api.get(POD).unwrap_or_default();
    eventually("the pod runs", || async { pod()["status"]["phase"] == "Running" }).await;
    eventually("what nobody owns is removed", || async { !left_behind.exists() }).await;
    files_are_there(&runtime).await;
    let volumes = containerd.folder("kubelet/pods/uid-3/volumes");
    let mode = |path: &str| {
        let found = std::fs::metadata(volumes.join(path)).expect("it is there");
        found.permissions().mode() & 0o777
    };
    assert_eq!(mode("kubernetes.io~secret/key/password"), 0o400);
    assert_eq!(mode("kubernetes.io~empty-dir/shared"), 0o777);
    assert!(volumes.join("kubernetes.io~empty-dir/shared/of/web").is_dir());
    // Secret, downward API, projected, and the folder in memory; what is in memory has its bound.
    assert_eq!(mounts_below(&volumes), 4);
    let too_much = vec![0_u8; 2 << 20];
    let fast = volumes.join("kubernetes.io~empty-dir/fast/file");
    assert!(std::fs::write(fast, too_much).is_err(), "one MiB is the limit");

    // A kubelet that starts anew brings files up to date, and changes nothing else.
    let before = pod()["status"]["containerStatuses"][0].clone();
    drop(kubelet);
    map("paint", json!({"colour": "blue", "shape": "round"}));
    let kubelet = run();
    eventually("the change arrives", || async {
        shown(&runtime, "/etc/paint/colour").await == "blue"
    })
    .await;
    assert_eq!(shown(&runtime, "/etc/paint/shape").await, "round");
    assert_eq!(shown(&runtime, "/etc/colour").await, "red", "a part stays as it was");
    assert_eq!(pod()["status"]["containerStatuses"][0], before, "the container runs on");

    api.merge(
        POD,
        &json!({"metadata": {
        "deletionTimestamp": "2030-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}}),
    );
    eventually("the object is gone", || async { api.get(POD).is_none() }).await;
    let folder = containerd.folder("kubelet/pods/uid-3");
    eventually("the volumes are gone", || async { !folder.exists() }).await;
    assert_eq!(mounts_below(&containerd.folder("kubelet")), 0);
    drop(kubelet);
}
