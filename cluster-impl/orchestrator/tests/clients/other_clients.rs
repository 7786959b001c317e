//! Clients that are not kubectl: Python's client, an operator of the framework kopf, Helm.
//!
//! `ci/client-tools` fetches them.

use crate::terminal::{self, Terminal};
use crate::{Entry, Needs};

pub const TRIALS: &[Entry] = &[
    ("an_operator_of_kopf_reconciles", Needs::Python, kopf),
    ("helm_installs_upgrades_and_rolls_back", Needs::Helm, helm),
    ("python_custom_objects", Needs::Python, |terminal| python(terminal, "custom_objects")),
    ("python_dynamic", Needs::Python, |terminal| python(terminal, "dynamic")),
    ("python_leader_election", Needs::Python, |terminal| python(terminal, "leader_election")),
    ("python_objects", Needs::Python, |terminal| python(terminal, "objects")),
    ("python_patches", Needs::Python, |terminal| python(terminal, "patches")),
    ("python_streams", Needs::Python, python_streams),
    ("python_watch", Needs::Python, |terminal| python(terminal, "watch")),
];

/// Where the scripts are.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

fn python(terminal: &Terminal, part: &str) {
    let program = terminal::python();
    let line = format!("'{}' {SCRIPTS}/python_client.py {part}", program.display());
    let told = terminal.ok(&line);
    assert!(told.ends_with(&format!("{part}: done\n")), "{told}");
}

fn python_streams(terminal: &Terminal) {
    // Where containers are played the script must be told so.
    let part = if terminal.is_dev { "no_streams" } else { "streams" };
    python(terminal, part);
}

fn kopf(terminal: &Terminal) {
    let group = format!("{}.example.com", terminal.ns);
    let definition = format!(
        "{{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {{name: fleets.{group}}},
          spec: {{group: {group}, scope: Namespaced, names: {{plural: fleets, kind: Fleet, singular: fleet}},
            versions: [{{name: v1, served: true, storage: true, subresources: {{status: {{}}}}, schema: {{openAPIV3Schema:
              {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}}}]}}}}"
    );
    terminal.ok_with("kubectl create -f -", &definition);
    terminal
        .ok(&format!("kubectl wait --for=condition=established crd/fleets.{group} --timeout=60s"));
    let program = terminal::python();
    let line = format!(
        "exec '{}' -m kopf run --namespace=$NS {SCRIPTS}/kopf_operator.py > operator.log",
        program.display()
    );
    let mut operator = Running(terminal.command(&line).spawn().expect("there is a shell"));
    let fleet = |ships: u32| {
        format!(
            "{{apiVersion: {group}/v1, kind: Fleet, metadata: {{name: first}}, spec: {{ships: {ships}}}}}"
        )
    };
    let reaches = |line: &str| {
        let (code, told) = terminal.run(line, "");
        let log = std::fs::read_to_string(terminal.home().join("operator.log"));
        assert_eq!(code, 0, "{line}: {told}\n{}", log.unwrap_or_default());
    };
    terminal.ok_with("kubectl apply -f -", &fleet(2));
    let made = "/apis/apps/v1/namespaces/{ns}/deployments/first";
    terminal.wire.until(made, |told| told.code == 200);
    reaches("kubectl rollout status deployment/first --timeout=60s");
    let status = format!(
        "kubectl wait fleets.{group}/first --timeout=60s --for=jsonpath='{{.status.made.ships}}'=2"
    );
    reaches(&status);
    terminal.ok_with("kubectl apply -f -", &fleet(3));
    reaches("kubectl wait deployment/first --for=jsonpath='{.spec.replicas}'=3 --timeout=60s");
    // The operator's finalizer holds the object until the operator has done its part.
    let fleet = terminal.object(&format!("fleets.{group} first"));
    assert_eq!(fleet["metadata"]["finalizers"][0], "kopf.zalando.org/KopfFinalizerMarker");
    reaches(&format!("kubectl delete fleets.{group} first --timeout=60s"));
    reaches("kubectl get configmap sunk -o name");
    reaches("kubectl wait --for=delete deployment/first --timeout=60s");
    operator.end();
    terminal.ok(&format!("kubectl delete crd fleets.{group}"));
}

/// A process that ends with its trial.
struct Running(std::process::Child);

impl Running {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn helm(terminal: &Terminal) {
    let helm = format!("'{}' --namespace $NS", terminal::helm().display());
    terminal.ok(&format!("{helm} create web"));
    terminal.shows(&format!("{helm} lint web"), &["0 chart(s) failed"]);
    let line = format!("{helm} install web ./web --set image.tag=1.27 --wait --timeout 90s");
    terminal.shows(&line, &["STATUS: deployed", "REVISION: 1"]);
    terminal.shows("kubectl get deployment web -o wide", &["1/1", "nginx"]);
    terminal.shows(
        "kubectl get secrets --field-selector type=helm.sh/release.v1",
        &["sh.helm.release.v1.web.v1"],
    );
    let line = format!(
        "{helm} upgrade web ./web --reuse-values --set replicaCount=2 --wait --timeout 90s"
    );
    terminal.shows(&line, &["REVISION: 2"]);
    terminal.shows("kubectl get deployment web", &["2/2"]);
    terminal.shows(&format!("{helm} list"), &["web", "deployed", "web-0.1.0"]);
    terminal.shows(&format!("{helm} history web"), &["superseded", "Upgrade complete"]);
    terminal
        .shows(&format!("{helm} rollback web 1 --wait --timeout 90s"), &["Rollback was a success"]);
    assert_eq!(terminal.object("deployment web")["spec"]["replicas"], 1);
    terminal
        .shows(&format!("{helm} get manifest web"), &["kind: Deployment", "kind: ServiceAccount"]);
    // What somebody else made is not taken over.
    terminal.ok("kubectl create serviceaccount taken");
    let line = format!("{helm} install taken ./web --set fullnameOverride=taken");
    terminal.refuses(&line, &["exists and cannot be imported into the current release"]);
    terminal.shows(&format!("{helm} uninstall web --wait"), &["release \"web\" uninstalled"]);
    terminal.refuses("kubectl get deployment web", &["NotFound"]);
}
