//! The kubectl commands that the documents show, given to kubectl itself and a cluster of one process.
//!
//! Where there is no kubectl this test says so and checks nothing.

#![expect(clippy::unwrap_used, reason = "a test ends where one of its helpers fails")]

mod common;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::start;

/// A terminal in which kubectl is typed.
struct Shell {
    home: PathBuf,
    kubeconfig: PathBuf,
}

impl Shell {
    /// What a command prints, and whether it succeeds.
    fn try_run(&self, line: &str, input: &str) -> (bool, String) {
        let mut child = Command::new("sh")
            .args(["-c", &format!("exec 2>&1; {line}")])
            .current_dir(&self.home)
            .env("HOME", &self.home)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let mut told = String::new();
        child.stdout.take().unwrap().read_to_string(&mut told).unwrap();
        (child.wait().unwrap().success(), told)
    }

    /// What a command prints; it must succeed.
    fn run(&self, line: &str) -> String {
        let (is_good, told) = self.try_run(line, "");
        assert!(is_good, "{line}\n{told}");
        told
    }

    /// A command must print each of these.
    fn shows(&self, line: &str, expected: &[&str]) {
        let told = self.run(line);
        for expected in expected {
            assert!(told.contains(expected), "{line}\nshould print {expected}\n{told}");
        }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.home.join(name), text).unwrap();
    }
}

fn shell(dir: &Path, kubeconfig: &Path) -> Shell {
    Shell { home: dir.to_owned(), kubeconfig: kubeconfig.to_owned() }
}

const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: myapp-pod, labels: {app: myapp}}
spec: {containers: [{name: nginx-container, image: nginx}]}
";
const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: back-end}
spec: {type: ClusterIP, selector: {app: myapp}, ports: [{port: 80, targetPort: 80}]}
";

#[test]
fn the_documented_commands_do_what_the_documents_say() {
    if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
        eprintln!("kubectl is not on PATH: not tested with it");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    let cluster = start(&kubeconfig, &["--nodes", "2"]);
    eprintln!("ready after {} ms", cluster.ready_ms);
    let shell = shell(dir.path(), &kubeconfig);
    imperative(&shell);
    declarative(&shell);
    looking(&shell);
    nodes_and_secrets(&shell);
}

/// cli/run-dry-run-yaml, create-deployment-dry-run, imperative-vs-declarative, imperative-faster-in-exam
fn imperative(shell: &Shell) {
    shell.shows(
        "kubectl run nginx --image=nginx --dry-run=client -o yaml",
        &["kind: Pod", "image: nginx", "name: nginx"],
    );
    assert_eq!(shell.run("kubectl get pods"), "No resources found in default namespace.\n");
    shell.shows(
        "kubectl create deployment --image=nginx nginx --replicas=4 --dry-run=client -o yaml",
        &["kind: Deployment", "replicas: 4"],
    );
    shell.shows("kubectl run nginx --image=nginx", &["pod/nginx created"]);
    shell.shows("kubectl expose pod nginx --port=80 --name=web", &["service/web exposed"]);
    shell.shows("kubectl create deployment web --image=nginx", &["deployment.apps/web created"]);
    shell.shows("kubectl scale deployment web --replicas=2", &["deployment.apps/web scaled"]);
    shell.shows("kubectl set image deployment web nginx=nginx:1.27", &["image updated"]);
    shell
        .shows("kubectl rollout status deployment web --timeout=60s", &["successfully rolled out"]);
    shell.shows("kubectl rollout undo deployment web", &["rolled back"]);
}

/// cli/create-existing-fails, apply-creates-or-updates, apply-directory, replace, create-from-stdin, edit, apply-any-kind
fn declarative(shell: &Shell) {
    shell.write("pod.yaml", POD);
    shell.shows("kubectl create -f pod.yaml", &["pod/myapp-pod created"]);
    let (is_good, told) = shell.try_run("kubectl create -f pod.yaml", "");
    assert!(!is_good && told.contains("pods \"myapp-pod\" already exists"), "{told}");
    shell.write("pod.yaml", &POD.replace("app: myapp}", "app: myapp, tier: front}"));
    shell.shows("kubectl apply -f pod.yaml", &["pod/myapp-pod configured"]);
    shell.shows("kubectl apply -f pod.yaml", &["pod/myapp-pod unchanged"]);
    shell.shows("kubectl get pod myapp-pod --show-labels", &["app=myapp,tier=front"]);
    std::fs::create_dir(shell.home.join("all")).unwrap();
    shell.write("all/service.yaml", SERVICE);
    shell.write("all/pod.yaml", &POD.replace("myapp-pod", "second-pod"));
    shell.shows("kubectl apply -f all", &["service/back-end created", "pod/second-pod created"]);
    shell.write("pod.yaml", &POD.replace("app: myapp}", "app: myapp, tier: back}"));
    shell.shows("kubectl replace --force -f pod.yaml", &["pod/myapp-pod replaced"]);
    let (is_good, told) = shell.try_run("kubectl create -f -", &POD.replace("myapp-pod", "third"));
    assert!(is_good && told.contains("pod/third created"), "{told}");
    shell.shows(
        "EDITOR=\"sed -i s/myapp/edited/\" kubectl edit service back-end",
        &["service/back-end edited"],
    );
    shell.shows("kubectl get service back-end -o wide", &["app=edited"]);
}

/// cli/describe, get-wide, get-lists, events-watch, describe-endpoints, delete-pod
fn looking(shell: &Shell) {
    shell.run("kubectl wait --for=condition=Ready pod/second-pod --timeout=60s");
    shell.shows(
        "kubectl describe pod second-pod",
        &["Conditions:", "Ready             True", "Events:", "Scheduled", "Started"],
    );
    shell.shows("kubectl get pods -o wide", &["IP", "NODE", "node-"]);
    shell.shows("kubectl get pods", &["READY   STATUS    RESTARTS   AGE", "second-pod"]);
    shell.shows("kubectl get replicaset", &["DESIRED   CURRENT   READY   AGE", "web-"]);
    shell.shows("kubectl get deployments", &["UP-TO-DATE   AVAILABLE", "web"]);
    shell.shows("kubectl get all", &["pod/second-pod", "service/back-end", "deployment.apps/web"]);
    // The stream goes on until somebody ends it.
    let (_, told) = shell.try_run("timeout 3 kubectl get events -w", "");
    assert!(told.contains("LAST SEEN") && told.contains("Scheduled"), "{told}");
    shell.shows("kubectl delete pod second-pod -n default --now", &["pod \"second-pod\" deleted"]);
    shell.shows("kubectl get pods --field-selector metadata.name=second-pod", &["No resources"]);
}

/// cli/label-nodes, taint-command, secret-tls
fn nodes_and_secrets(shell: &Shell) {
    shell.shows("kubectl label nodes node-1 kr=az-1", &["node/node-1 labeled"]);
    shell.shows("kubectl get nodes -l kr=az-1", &["node-1"]);
    shell.shows("kubectl taint nodes node-1 app=blue:NoSchedule", &["node/node-1 tainted"]);
    shell.shows("kubectl describe node node-1", &["app=blue:NoSchedule", "kr=az-1"]);
    shell.shows("kubectl taint nodes node-1 app=blue:NoSchedule-", &["node/node-1 untainted"]);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["example.com".to_owned()]).unwrap();
    shell.write("tls.crt", &params.self_signed(&key).unwrap().pem());
    shell.write("tls.key", &key.serialize_pem());
    shell.shows(
        "kubectl create secret tls tls --key tls.key --cert tls.crt",
        &["secret/tls created"],
    );
    shell.shows("kubectl describe secret tls", &["kubernetes.io/tls", "tls.crt:", "tls.key:"]);
}
