//! What kubectl itself makes of the API server's answers: the real program, where it is installed.
//!
//! Where it is not, these tests say so and check nothing; `kubectl_wire.rs` sends what kubectl sends.

use crate::loopback::Loopback;
use serde_json::Value;

/// kubectl with a kubeconfig of its own.
struct Kubectl {
    home: std::path::PathBuf,
}

impl Kubectl {
    /// `None` where there is no kubectl: it is optional.
    async fn new(loopback: &Loopback) -> Option<Self> {
        let found = tokio::process::Command::new("kubectl").args(["version", "--client"]).output();
        if found.await.is_err() {
            eprintln!("kubectl is not on PATH: not tested with it");
            return None;
        }
        let home = std::env::temp_dir().join(format!("kubectl-wire-{}", loopback.address.port()));
        std::fs::create_dir_all(&home).unwrap();
        let config = loopback.kubeconfig("kubernetes-admin", &["system:masters"]);
        std::fs::write(home.join("config"), config).unwrap();
        let kubectl = Self { home };
        // The last namespace that every cluster has.
        kubectl.ok("wait --for=create namespace/kube-node-lease --timeout=60s").await;
        Some(kubectl)
    }

    async fn run(&self, args: &str) -> (bool, String) {
        let output = tokio::process::Command::new("kubectl")
            .args(args.split_whitespace())
            .current_dir(&self.home)
            .env("HOME", &self.home)
            .env("KUBECONFIG", self.home.join("config"))
            .output()
            .await
            .unwrap();
        let text = [output.stdout, output.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.success(), text.concat())
    }

    async fn ok(&self, args: &str) -> String {
        let (is_ok, text) = self.run(args).await;
        assert!(is_ok, "kubectl {args}: {text}");
        text
    }

    async fn fails(&self, args: &str) -> String {
        let (is_ok, text) = self.run(args).await;
        assert!(!is_ok, "kubectl {args}: {text}");
        text
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.home.join(name), text).unwrap();
    }
}

impl Drop for Kubectl {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {key: '1'}\n";

#[tokio::test]
async fn kubectl_applies_on_the_clients_and_on_the_servers_side() {
    let loopback = Loopback::start().await;
    let Some(kubectl) = Kubectl::new(&loopback).await else { return };
    kubectl.file("map.yaml", MAP);
    assert!(kubectl.ok("apply -f map.yaml").await.contains("configmap/a created"));
    assert!(kubectl.ok("apply -f map.yaml").await.contains("configmap/a unchanged"));
    let managers = async || {
        let text = kubectl.ok("get configmap a --show-managed-fields -o json").await;
        let map: Value = serde_json::from_str(&text).unwrap();
        let list = map["metadata"]["managedFields"].as_array().unwrap().clone();
        let names = list.iter().map(|one| {
            format!("{}/{}", one["manager"].as_str().unwrap(), one["operation"].as_str().unwrap())
        });
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(managers().await, "kubectl-client-side-apply/Update");
    // Hidden unless asked for.
    assert!(!kubectl.ok("get configmap a -o yaml").await.contains("managedFields"));
    // kubectl itself moves what the client's side owned to the server's.
    kubectl.file("map.yaml", &MAP.replace("'1'", "'2'"));
    assert!(kubectl.ok("apply --server-side -f map.yaml").await.contains("serverside-applied"));
    // kubectl keeps the annotation under a manager of its own.
    assert_eq!(managers().await, "kubectl/Apply kubectl-last-applied/Apply");
    let last = kubectl.ok("get configmap a -o yaml").await;
    assert!(
        last.contains("last-applied-configuration") && last.contains("\"key\":\"2\""),
        "{last}"
    );
    kubectl
        .ok("patch configmap a --type=merge --field-manager=other -p {\"data\":{\"key\":\"3\"}}")
        .await;
    let refused = kubectl.fails("apply --server-side -f map.yaml").await;
    assert!(
        refused
            .contains("Apply failed with 1 conflict: conflict with \"other\" using v1: .data.key"),
        "{refused}"
    );
    kubectl.ok("apply --server-side --force-conflicts -f map.yaml").await;
    let left = managers().await;
    assert!(left.contains("kubectl/Apply") && !left.contains("other"), "{left}");
    kubectl.file("bad.yaml", &MAP.replace("\ndata:", "\ndato:"));
    let bad = kubectl.fails("apply --server-side -f bad.yaml").await;
    assert!(bad.contains(".dato: field not declared in schema"), "{bad}");
    assert!(kubectl.fails("create -f bad.yaml").await.contains("unknown field \"dato\""));
    loopback.server.shut_down();
    loopback.serving.join().await;
}

#[tokio::test]
async fn kubectl_reads_what_it_is_answered_in_protobuf() {
    let loopback = Loopback::start().await;
    let Some(kubectl) = Kubectl::new(&loopback).await else { return };
    // Bodies of these go as protobuf.
    kubectl.ok("create deployment web --image=web:1 --replicas=2 --port=80").await;
    kubectl.ok("create configmap a --from-literal=key=1").await;
    kubectl.ok("create secret generic s --from-literal=key=1").await;
    kubectl.ok("create service clusterip web --tcp=80:8080").await;
    kubectl.ok("create serviceaccount robot").await;
    kubectl.ok("create namespace other").await;
    kubectl.ok("run one --image=web:1 --restart=Never --env=A=b --labels=app=web").await;
    let created = kubectl.ok("get deployment web --show-managed-fields -o yaml").await;
    assert!(created.contains("manager: kubectl-create"), "{created}");
    // `describe` takes protobuf first, and knows upstream's messages.
    let told = kubectl.ok("describe deployment web").await;
    for part in [
        "Selector:               app=web",
        "Replicas:               2 desired",
        "Image:         web:1",
        "Port:          80/TCP",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let told = kubectl.ok("describe pod one").await;
    for part in
        ["Labels:           app=web", "A:         b", "QoS Class:       BestEffort", "Tolerations:"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(kubectl.ok("describe configmap a").await.contains("key:\n----\n1"));
    assert!(kubectl.ok("describe secret s").await.contains("key:  1 bytes"));
    let told = kubectl.ok("describe service web").await;
    assert!(told.contains("TargetPort:               8080/TCP"), "{told}");
    assert!(kubectl.ok("describe namespace other").await.contains("Status:       Active"));
    assert!(kubectl.ok("events").await.contains("No events found"));
    assert!(kubectl.fails("describe pod none").await.contains("pods \"none\" not found"));
    loopback.server.shut_down();
    loopback.serving.join().await;
}

#[tokio::test]
async fn kubectl_explains_changes_waits_and_deletes() {
    let loopback = Loopback::start().await;
    let Some(kubectl) = Kubectl::new(&loopback).await else { return };
    for (path, part) in [
        ("deployment.spec.strategy", "rollingUpdate"),
        ("pods.spec.containers", "imagePullPolicy"),
        ("configmap", "binaryData"),
        ("service.spec.ports", "targetPort"),
        ("node.status.conditions", "lastHeartbeatTime"),
        ("lease.spec", "renewTime"),
    ] {
        let told = kubectl.ok(&format!("explain {path}")).await;
        assert!(told.contains(part), "{path}: {told}");
    }
    kubectl.ok("create deployment web --image=web:1").await;
    kubectl.ok("scale deployment web --replicas=3").await;
    kubectl.ok("set image deployment/web web=web:2").await;
    kubectl.ok("rollout restart deployment/web").await;
    kubectl.ok("label deployment web tier=front").await;
    kubectl.ok("annotate deployment web note=x").await;
    let wide = kubectl.ok("get deployments -o wide").await;
    assert!(wide.contains("CONTAINERS") && wide.contains("web:2"), "{wide}");
    assert!(
        kubectl.ok("get deployments --sort-by=.metadata.name -l tier=front").await.contains("web")
    );
    assert_eq!(kubectl.ok("auth can-i create pods").await.trim(), "yes");
    let managers = kubectl.ok("get deployment web --show-managed-fields -o yaml").await;
    for manager in
        ["kubectl-create", "kubectl-set", "kubectl-rollout", "kubectl-label", "kubectl-annotate"]
    {
        assert!(managers.contains(&format!("manager: {manager}")), "{manager}: {managers}");
    }
    assert!(kubectl.ok("delete deployment web").await.contains("deleted"));
    assert!(kubectl.fails("get deployment web").await.contains("NotFound"));
    loopback.server.shut_down();
    loopback.serving.join().await;
}

const DEFINITION: &str = "\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.acme.io}
spec:
  group: acme.io
  scope: Namespaced
  names: {plural: widgets, kind: Widget, singular: widget, shortNames: [wd], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        description: A widget for tests.
        properties:
          spec:
            type: object
            properties:
              size: {type: integer, maximum: 5, description: How large it is.}
              mode: {type: string}
          status: {type: object, properties: {size: {type: integer}}}
";

const WIDGET: &str = "apiVersion: acme.io/v1\nkind: Widget\nmetadata: {name: w, namespace: default}\nspec: {size: 2}\n";

#[tokio::test]
async fn kubectl_defines_and_uses_a_kind() {
    let loopback = Loopback::start().await;
    let Some(kubectl) = Kubectl::new(&loopback).await else { return };
    kubectl.file("crd.yaml", DEFINITION);
    kubectl.file("widget.yaml", WIDGET);
    let made = kubectl.ok("apply -f crd.yaml").await;
    assert!(made.contains("customresourcedefinition.apiextensions.k8s.io/widgets.acme.io created"));
    kubectl.ok("wait --for=condition=established crd/widgets.acme.io --timeout=30s").await;
    assert!(kubectl.ok("apply -f widget.yaml").await.contains("widget.acme.io/w created"));
    assert!(kubectl.ok("apply -f widget.yaml").await.contains("unchanged"));
    let table = kubectl.ok("get wd").await;
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((&rows[0], &rows[1][..2]), (&vec!["NAME", "SIZE"], &["w", "2"][..]));
    assert!(kubectl.ok("get all").await.contains("widget.acme.io/w"));
    let explained = kubectl.ok("explain widgets.spec").await;
    assert!(explained.contains("How large it is."), "{explained}");
    let size = kubectl.ok("explain widget.spec.size").await;
    assert!(size.contains("<integer>"), "{size}");
    kubectl.file("widget.yaml", &WIDGET.replace("size: 2", "size: 3"));
    let applied = kubectl.ok("apply --server-side -f widget.yaml").await;
    assert!(applied.contains("widget.acme.io/w serverside-applied"), "{applied}");
    kubectl.ok("patch widget w --type=merge -p {\"spec\":{\"mode\":\"x\"}}").await;
    assert_eq!(kubectl.ok("get widget w -o jsonpath={.spec}").await, "{\"mode\":\"x\",\"size\":3}");
    kubectl.ok("scale widget w --replicas=4").await;
    assert_eq!(kubectl.ok("get widget w -o jsonpath={.spec.size}").await, "4");
    kubectl.ok("label widget w a=b").await;
    assert!(kubectl.ok("get widgets -A -l a=b -o name").await.contains("widget.acme.io/w"));
    kubectl.file("bad.yaml", &WIDGET.replace("size: 2", "size: 2, odd: 1"));
    let bad = kubectl.fails("create -f bad.yaml").await;
    assert!(bad.contains("unknown field \"spec.odd\""), "{bad}");
    kubectl.file("bad.yaml", &WIDGET.replace("name: w,", "name: v,").replace("size: 2", "size: 9"));
    let bad = kubectl.fails("create -f bad.yaml").await;
    assert!(bad.contains("should be less than or equal to 5"), "{bad}");
    assert!(kubectl.ok("describe widget w").await.contains("Size:  4"));
    let local = kubectl.ok("get apiservices").await;
    assert!(local.contains("v1.apps") && local.contains("Local"), "{local}");
    assert!(kubectl.ok("delete widget w").await.contains("deleted"));
    assert!(kubectl.ok("delete -f crd.yaml").await.contains("deleted"));
    let gone = kubectl.fails("get widgets").await;
    // kubectl may still remember that there was such a kind.
    assert!(
        gone.contains("the server doesn't have a resource type")
            || gone.contains("could not find the requested resource"),
        "{gone}"
    );
    loopback.server.shut_down();
    loopback.serving.join().await;
}
