//! Streams: logs, exec, attach, cp, port-forward and proxies.
//!
//! Played containers have none: there kubectl must be told so. With a cluster of containers everything
//! runs; a pod there borrows the node's own programs (`sh`, `tar`), unless `SHAKEDOWN_TEST_IMAGE` names
//! an image that has them.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::terminal::Terminal;
use crate::{Entry, Needs};

pub const TRIALS: &[Entry] = &[
    ("attach_follows_and_feeds", Needs::Containers, attach),
    ("cluster_info_lists_services", Needs::Nothing, cluster_info),
    ("cp_both_ways", Needs::Containers, copy),
    ("debug_looks_into_a_container", Needs::Containers, debug),
    ("exec_has_streams_and_an_exit_code", Needs::Containers, exec),
    ("exec_over_spdy", Needs::Containers, exec_spdy),
    ("exec_speaks_websocket_first", Needs::Nothing, exec_request),
    ("logs_are_followed", Needs::Containers, follow_logs),
    ("logs_by_their_options", Needs::Containers, logs),
    ("played_containers_say_that_they_have_no_streams", Needs::Dev, refusals),
    ("port_forward", Needs::Containers, port_forward),
    ("proxies_to_pods_and_services", Needs::Containers, proxies),
    ("proxies_to_nodes", Needs::Nothing, node_proxy),
];

/// A pod that serves HTTP on port 80, with a shell where containers are real.
fn shell_pod(terminal: &Terminal) {
    let image = std::env::var("SHAKEDOWN_TEST_IMAGE").ok();
    let borrowed = ["usr", "lib", "lib64"];
    let mounts: Vec<Value> = borrowed
        .iter()
        .map(|name| json!({"name": name, "mountPath": format!("/{name}")}))
        .collect();
    let volumes: Vec<Value> = borrowed
        .iter()
        .map(|name| json!({"name": name, "hostPath": {"path": format!("/{name}")}}))
        .collect();
    let mut spec = json!({"terminationGracePeriodSeconds": 1, "containers": [{
        "name": "main", "image": image.as_deref().unwrap_or("nginx:1.27"),
        "imagePullPolicy": "IfNotPresent", "stdin": true}]});
    if image.is_none() && !terminal.is_dev {
        spec["containers"][0]["volumeMounts"] = mounts.into();
        spec["containers"][0]["env"] = json!([{"name": "PATH", "value": "/usr/bin:/bin"}]);
        spec["volumes"] = volumes.into();
    }
    let pod = json!({"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": spec});
    terminal.wire.made("/api/v1/namespaces/{ns}/pods", &pod);
    terminal.ok("kubectl wait --for=condition=Ready pod/web --timeout=120s");
}

/// A pod that runs a line of shell. One that ends soon may never be seen running.
fn script(terminal: &Terminal, name: &str, line: &str, more: &Value) {
    let mut spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": "nginx:1.27", "imagePullPolicy": "IfNotPresent",
            "command": ["/usr/bin/sh", "-c", line]}]});
    match std::env::var("SHAKEDOWN_TEST_IMAGE") {
        Ok(image) => {
            spec["containers"][0]["image"] = image.into();
            spec["containers"][0]["command"][0] = "sh".into();
        }
        Err(_) => {
            let borrowed = ["usr", "lib", "lib64"];
            let mounts =
                borrowed.map(|name| json!({"name": name, "mountPath": format!("/{name}")}));
            let volumes = borrowed
                .map(|name| json!({"name": name, "hostPath": {"path": format!("/{name}")}}));
            spec["containers"][0]["volumeMounts"] = mounts.to_vec().into();
            spec["volumes"] = volumes.to_vec().into();
        }
    }
    for (field, value) in more.as_object().into_iter().flatten() {
        spec["containers"][0][field] = value.clone();
    }
    let pod = json!({"metadata": {"name": name}, "spec": spec});
    terminal.wire.made("/api/v1/namespaces/{ns}/pods", &pod);
}

/// Waits until a pod is in this phase.
fn reaches(terminal: &Terminal, name: &str, phase: &str) {
    terminal.ok(&format!(
        "kubectl wait --for=jsonpath='{{.status.phase}}'={phase} pod/{name} --timeout=120s"
    ));
}

fn exec_request(terminal: &Terminal) {
    shell_pod(terminal);
    let (_, text) = terminal.run("kubectl -v=9 exec web -c main -i -- true", "");
    let spoken = crate::terminal::Spoken { text };
    let asked = spoken.sent("GET", "/pods/web/exec?");
    for part in ["command=true", "container=main", "stdin=true", "stdout=true", "v5.channel.k8s.io"]
    {
        assert!(asked.contains(part), "{part}: {asked}");
    }
    terminal.refuses("kubectl exec none -- true", &["pods \"none\" not found"]);
    terminal.refuses("kubectl exec web -c other -- true", &["container"]);
}

fn refusals(terminal: &Terminal) {
    shell_pod(terminal);
    for line in ["exec web -- true", "attach web", "port-forward web :80"] {
        let told = terminal.fails(&format!("timeout 20 kubectl {line}"));
        assert!(told.contains("simulated container has no"), "{line}: {told}");
    }
}

fn exec(terminal: &Terminal) {
    shell_pod(terminal);
    assert_eq!(terminal.ok("kubectl exec web -- sh -c 'echo out'"), "out\n");
    let (code, told) = terminal.run("kubectl exec web -- sh -c 'echo err >&2; exit 7'", "");
    assert_eq!(code, 7);
    assert!(told.starts_with("err\n") && told.contains("exit code 7"), "{told}");
    // The streams stay apart.
    assert_eq!(terminal.ok("kubectl exec web -- sh -c 'echo a; echo b >&2' 2>/dev/null"), "a\n");
    // The end of what is read reaches the program, or it would never end.
    let told = terminal.ok_with("kubectl exec -i web -- wc -c", &"x".repeat(100_000));
    assert_eq!(told.trim(), "100000");
    let told = terminal.ok("kubectl exec web -- sh -c 'head -c 300000 /dev/zero' | wc -c");
    assert_eq!(told.trim(), "300000");
    terminal.refuses("kubectl exec web -- nothing-such", &["executable file not found"]);
    // A terminal has a size. containerd sets it once the program runs, whoever asked: a program that
    // looks at once may see none (`process.Start`, then `handleResizing`, in its `execInternal`).
    terminal.write("look", "while [ \"$(stty size)\" = '0 0' ]; do :; done; stty size");
    let told = terminal.ok("script -qec 'stty cols 91 rows 17; timeout --foreground 60 \"$KUBECTL\" exec -it web -- sh -c \"$(cat look)\"' /dev/null");
    assert!(told.contains("17 91"), "{told}");
}

fn exec_spdy(terminal: &Terminal) {
    shell_pod(terminal);
    let line = "export KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false; kubectl -v=9 exec -i web -- sh -c 'cat; exit 3'";
    let (code, text) = terminal.run(line, "fed\n");
    let spoken = crate::terminal::Spoken { text };
    assert_eq!(code, 3);
    let asked = spoken.sent("POST", "/pods/web/exec?");
    assert!(asked.contains("X-Stream-Protocol-Version: v4.channel.k8s.io"), "{asked}");
    spoken.has("fed\n");
}

fn attach(terminal: &Terminal) {
    script(
        terminal,
        "echo",
        "while read line; do echo got $line; done",
        &json!({"stdin": true, "stdinOnce": true}),
    );
    reaches(terminal, "echo", "Running");
    let told = terminal.ok_with("kubectl attach -i echo -c main", "one\ntwo\n");
    assert!(told.contains("got one\ngot two\n"), "{told}");
    reaches(terminal, "echo", "Succeeded");
    terminal.shows("kubectl logs echo", &["got one\ngot two\n"]);
}

fn debug(terminal: &Terminal) {
    shell_pod(terminal);
    let image = std::env::var("SHAKEDOWN_TEST_IMAGE").unwrap_or_else(|_| "nginx:1.27".to_owned());
    let first_process = terminal.ok("kubectl exec web -c main -- cat /proc/1/cmdline");
    for (name, target, seen) in
        [("look", "--target=main", first_process.as_str()), ("alone", "", "cat\0/proc/1/cmdline\0")]
    {
        terminal.ok(&format!(
            "kubectl debug web --image={image} -c {name} {target} -- cat /proc/1/cmdline"
        ));
        ephemeral_is(terminal, name, "terminated");
        assert_eq!(terminal.ok(&format!("kubectl logs web -c {name}")), seen);
    }
    // One that is spoken with.
    let mut talk = json!({"name": "talk", "image": image, "stdin": true, "stdinOnce": true,
        "command": ["sh", "-c", "read line; echo heard $line; exit 3"]});
    let pod = terminal.object("pod web");
    for field in ["volumeMounts", "env"] {
        talk[field] = pod["spec"]["containers"][0][field].clone();
    }
    let path = "/api/v1/namespaces/{ns}/pods/web/ephemeralcontainers";
    let body = json!({"spec": {"ephemeralContainers": [talk]}});
    let told = terminal.wire.patch(path, "strategic-merge-patch+json", &body);
    assert_eq!(told.code, 200, "{}", told.text());
    ephemeral_is(terminal, "talk", "running");
    let told = terminal.ok_with("kubectl attach -i web -c talk", "you\n");
    assert!(told.contains("heard you"), "{told}");
    let (state, pod) = ephemeral_is(terminal, "talk", "terminated");
    assert_eq!(state["exitCode"], 3, "{state}");
    let main = &pod["status"]["containerStatuses"][0];
    assert_eq!((&main["ready"], &main["restartCount"]), (&json!(true), &json!(0)), "{main}");
}

/// Waits until an ephemeral container of `web` is in a state; answers that, and the pod.
fn ephemeral_is(terminal: &Terminal, name: &str, state: &str) -> (Value, Value) {
    let state_in = |pod: &Value| {
        let all = pod["status"]["ephemeralContainerStatuses"].as_array();
        let found = all.into_iter().flatten().find(|status| status["name"] == name);
        found.and_then(|status| status["state"].get(state)).cloned()
    };
    let path = "/api/v1/namespaces/{ns}/pods/web";
    let pod = terminal.wire.until(path, |told| state_in(&told.json()).is_some()).json();
    (state_in(&pod).unwrap_or_default(), pod)
}

fn copy(terminal: &Terminal) {
    shell_pod(terminal);
    terminal.write("dir/a", "first");
    terminal.write("dir/b/c", &"x".repeat(200_000));
    terminal.ok("kubectl cp dir web:/tmp/dir -c main || kubectl exec web -- sh -c 'mkdir -p /tmp'");
    assert_eq!(terminal.ok("kubectl exec web -- cat /tmp/dir/a"), "first");
    terminal.ok("kubectl cp web:/tmp/dir back -c main");
    terminal.ok("diff -r dir back");
    // What kubectl copies with says what is missing, each time.
    for _ in 0..5 {
        let (code, told) = terminal.run("kubectl exec web -- tar cf - /tmp/none >/dev/null", "");
        assert_eq!(code, 2, "{told}");
        assert!(told.contains("No such file") && told.contains("exit code 2"), "{told}");
    }
    // Whether kubectl's own copying prints it, and fails, is a race within kubectl: it is done when it
    // has the end of the archive (kubernetes/kubectl#980).
    terminal.run("kubectl cp web:/tmp/none back2", "");
    terminal.fails("ls back2");
}

fn logs(terminal: &Terminal) {
    script(terminal, "talk", "for i in 1 2 3 4 5; do echo line $i; done; echo last", &json!({}));
    reaches(terminal, "talk", "Succeeded");
    let spoken =
        terminal.spoken("logs talk -c main --tail=2 --timestamps --since=1h --limit-bytes=1000");
    let asked = spoken.sent("GET", "/pods/talk/log?");
    for part in
        ["container=main", "tailLines=2", "timestamps=true", "sinceSeconds=3600", "limitBytes=1000"]
    {
        assert!(asked.contains(part), "{part}: {asked}");
    }
    assert_eq!(terminal.ok("kubectl logs talk"), "line 1\nline 2\nline 3\nline 4\nline 5\nlast\n");
    assert_eq!(terminal.ok("kubectl logs talk --tail=2"), "line 5\nlast\n");
    assert_eq!(terminal.ok("kubectl logs talk --limit-bytes=9"), "line 1\nli");
    let stamped = terminal.ok("kubectl logs talk --tail=1 --timestamps");
    assert!(stamped.starts_with("20") && stamped.ends_with("Z last\n"), "{stamped}");
    assert_eq!(terminal.ok("kubectl logs talk --since-time=2100-01-01T00:00:00Z"), "");
    assert_eq!(terminal.ok("kubectl logs talk --prefix --tail=1"), "[pod/talk/main] last\n");
    terminal.refuses("kubectl logs talk --previous", &["previous terminated container"]);
    terminal.refuses("kubectl logs talk -c none", &["container none is not valid for pod talk"]);
}

fn follow_logs(terminal: &Terminal) {
    script(
        terminal,
        "talk",
        "echo begun; read line; echo heard $line",
        &json!({"stdin": true, "stdinOnce": true}),
    );
    reaches(terminal, "talk", "Running");
    let mut child = terminal
        .command("exec \"$KUBECTL\" logs -f talk")
        .stdout(Stdio::piped())
        .spawn()
        .expect("there is a shell");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut next = || lines.next().and_then(Result::ok);
    assert_eq!(next().as_deref(), Some("begun"));
    // Only now is there more to tell; it must come to who follows already.
    terminal.ok_with("kubectl attach -i talk", "you\n");
    assert_eq!(next().as_deref(), Some("heard you"));
    assert_eq!(next(), None, "the end of the container ends the stream");
    assert!(child.wait().is_ok_and(|code| code.success()));
}

/// Starts to forward; the port here. The process ends with what is returned.
fn forward(terminal: &Terminal, line: &str) -> (Forwarding, u16) {
    let mut child = terminal
        .command(&format!("{line} exec \"$KUBECTL\" port-forward pod/web :80"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("there is a shell");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let told = lines.next().and_then(Result::ok).expect("it says where it listens");
    let port = told
        .strip_prefix("Forwarding from 127.0.0.1:")
        .and_then(|rest| rest.split(' ').next())
        .and_then(|port| port.parse().ok());
    (Forwarding(child, lines), port.unwrap_or_else(|| panic!("{told}")))
}

/// What it goes on to print must be taken: without a reader it would end.
struct Forwarding(Child, #[expect(dead_code, reason = "kept open")] Lines<BufReader<ChildStdout>>);

impl Drop for Forwarding {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn port_forward(terminal: &Terminal) {
    shell_pod(terminal);
    for way in ["", "export KUBECTL_PORT_FORWARD_WEBSOCKETS=false;"] {
        let (_forwarding, port) = forward(terminal, way);
        // Several connections at once, each a pair of streams.
        let line = format!(
            "for i in 1 2 3 4; do curl -sS --max-time 20 http://127.0.0.1:{port}/ & done; wait"
        );
        let told = terminal.ok(&line);
        assert!(!told.contains("curl:"), "{way}: {told}");
    }
}

fn proxies(terminal: &Terminal) {
    shell_pod(terminal);
    // Nobody must be there who keeps addresses: the service has no selector, and its addresses are given.
    let service =
        json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 8000, "targetPort": 80}]}});
    terminal.wire.made("/api/v1/namespaces/{ns}/services", &service);
    let address = terminal.ok("kubectl get pod web -o jsonpath='{.status.podIP}'");
    let endpoints = json!({"metadata": {"name": "web"},
        "subsets": [{"addresses": [{"ip": address}], "ports": [{"port": 80}]}]});
    terminal.wire.made("/api/v1/namespaces/{ns}/endpoints", &endpoints);
    let base = format!("/api/v1/namespaces/{}", terminal.ns);
    let direct = terminal.ok(&format!("kubectl get --raw {base}/pods/web:80/proxy/version"));
    for path in [
        "pods/http:web:80/proxy/version",
        "services/web:8000/proxy/version",
        "services/http:web:8000/proxy/version",
    ] {
        assert_eq!(terminal.ok(&format!("kubectl get --raw {base}/{path}")), direct, "{path}");
    }
    for method in [http::Method::POST, http::Method::PUT, http::Method::DELETE, http::Method::PATCH]
    {
        let told =
            terminal.wire.ask(method.clone(), &format!("{base}/pods/web:80/proxy/"), &[], b"x");
        assert!(
            told.code != 405 || !told.text().contains("\"kind\":\"Status\""),
            "{method}: {}",
            told.text()
        );
    }
    terminal.refuses(
        &format!("kubectl get --raw {base}/services/web:none/proxy/"),
        &["no endpoints available for service"],
    );
}

fn node_proxy(terminal: &Terminal) {
    let node = terminal.ok("kubectl get nodes -o jsonpath='{.items[0].metadata.name}'");
    assert_eq!(terminal.ok(&format!("kubectl get --raw /api/v1/nodes/{node}/proxy/healthz")), "ok");
    terminal.shows(
        &format!("kubectl get --raw /api/v1/nodes/{node}/proxy/pods"),
        &["\"kind\":\"PodList\""],
    );
    terminal.refuses(
        "kubectl get --raw /api/v1/nodes/none/proxy/healthz",
        &["nodes \"none\" not found"],
    );
}

fn cluster_info(terminal: &Terminal) {
    let name = &terminal.ns;
    let service = json!({"metadata": {"name": name, "labels": {"kubernetes.io/cluster-service": "true",
        "kubernetes.io/name": name}}, "spec": {"ports": [{"port": 80}], "selector": {"no": "pod"}}});
    terminal.wire.made("/api/v1/namespaces/kube-system/services", &service);
    let spoken = terminal.spoken("cluster-info");
    terminal.ok(&format!("kubectl delete service -n kube-system {name}"));
    let asked = spoken.sent("GET", "/api/v1/namespaces/kube-system/services?");
    assert!(asked.contains("labelSelector=kubernetes.io%2Fcluster-service%3Dtrue"), "{asked}");
    spoken.has("is running at");
    spoken.has(&format!("/api/v1/namespaces/kube-system/services/{name}/proxy"));
}
