//! Boot: from nothing to a cluster whose nodes are all Ready.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use shakedown_core::lever::{NodeState, Reading};
use shakedown_core::target::{ClusterSpec, Endpoint, NodeFact, Progress, Role, TargetError};
use tokio::time::Instant;

use crate::docker::{exec, failed};
use crate::etcd::Outside;
use crate::launch::Launch;
use crate::link::{Link, To};
use crate::network;
use crate::node_files::{Files, KUBELET_CLIENT};
use crate::record::{ClusterDir, NodeRecord, Record};
use crate::target::{DockerTarget, Options};
use crate::{doctor, image, labels};

/// The control plane's stores answer within this, or the boot has failed.
const STORE_WITHIN: Duration = Duration::from_secs(30);
/// All nodes are Ready within this, or the boot has failed.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// A server that accepts but does not answer is given up after this.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// It is looked so often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl DockerTarget {
    /// Launches the nodes; answers when every etcd member is well. The other components need longer:
    /// `boot` does this, and waits for them.
    pub async fn launch(
        &mut self,
        spec: &ClusterSpec,
        progress: Progress<'_>,
    ) -> Result<(), TargetError> {
        let Some(options) = self.options.clone() else {
            return Err(failed("booting", "this target was attached to a cluster", ""));
        };
        if spec.control_planes == 0 {
            return Err(failed("booting", "a cluster needs a control plane", "controlPlanes: 1"));
        }
        doctor::check_inotify(spec.control_planes + spec.workers)?;
        let image_tag = image::ensure(&self.docker, progress).await?;
        ClusterDir::make(self.dir.path())?;
        self.refuse_a_second(&options).await?;
        progress("making the network, certificates and settings");
        copy_binaries(&options, &self.dir).await?;
        let state = options.state.to_string_lossy().into_owned();
        let labels = labels::labels(&options.run, &options.cluster, options.keep, &state);
        let subnet = network::create(&self.docker, &self.record.network, &labels).await?;
        self.record = self.plan(spec, &options, subnet)?;
        let facts: Vec<NodeFact> = self.record.nodes.iter().map(|node| node.fact.clone()).collect();
        Files { dir: &self.dir, cluster: &options.cluster, spec, nodes: &facts }.write()?;
        self.dir.write(&self.record)?;

        progress(&format!("starting {} nodes", facts.len()));
        let launches: Vec<Launch<'_>> = self
            .record
            .nodes
            .iter()
            .map(|node| {
                Ok(Launch {
                    docker: &self.docker,
                    dir: &self.dir,
                    labels: &labels,
                    network: &self.record.network,
                    image_tag: &image_tag,
                    container: node.container.clone(),
                    node: node.fact.name.clone(),
                    role: node.fact.role,
                    address: node
                        .fact
                        .address
                        .parse()
                        .map_err(|error| failed("planning", error, ""))?,
                })
            })
            .collect::<Result<_, TargetError>>()?;
        try_join_all(launches.iter().map(Launch::run)).await?;
        self.connect_agents().await?;
        self.connect_from_outside().await?;
        progress("waiting for etcd");
        self.wait_for_stores().await
    }

    /// A cluster of this name may be up already.
    async fn refuse_a_second(&self, options: &Options) -> Result<(), TargetError> {
        let label = format!("{}={}", labels::CLUSTER, options.cluster);
        let found = crate::docker::containers(&self.docker, &[label]).await;
        let found = found.map_err(|error| failed("listing containers", error, ""))?;
        if found.is_empty() {
            return Ok(());
        }
        let why = format!("there is one already, with {} nodes", found.len());
        let hint = format!("remove it: shakedown down {}", options.cluster);
        Err(failed(format!("making cluster `{}`", options.cluster), why, &hint))
    }

    fn plan(
        &self,
        spec: &ClusterSpec,
        options: &Options,
        subnet: network::Subnet,
    ) -> Result<Record, TargetError> {
        let network = &self.record.network;
        let mut record = Record::new(&options.run, &options.cluster, network, spec.parameters);
        for (role, count, prefix) in [
            (Role::ControlPlane, spec.control_planes, "cp"),
            (Role::Worker, spec.workers, "worker"),
        ] {
            for index in 0..count {
                let name = format!("{prefix}-{}", index + 1);
                let address = subnet.address(role, index)?.to_string();
                record.nodes.push(NodeRecord {
                    container: format!("shakedown-{}-{name}", options.cluster),
                    fact: NodeFact { name, role, address },
                    pod_cidr: String::new(),
                });
            }
        }
        Ok(record)
    }

    async fn connect_agents(&mut self) -> Result<(), TargetError> {
        let open = |node: NodeRecord| {
            let (docker, eyes) = (self.docker.clone(), Arc::clone(&self.eyes));
            async move {
                let to = To { node: node.fact.name.clone(), container: node.container };
                Link::open(&docker, to, eyes).await.map(|link| (node.fact.name, link))
            }
        };
        let links = try_join_all(self.record.nodes.clone().into_iter().map(open)).await?;
        self.links.extend(links);
        Ok(())
    }

    /// Makes the clients that this process itself speaks to the cluster with.
    pub(crate) async fn connect_from_outside(&mut self) -> Result<(), TargetError> {
        self.outside = Some(Arc::new(Outside::new(&self.dir.pki())?));
        self.endpoints = endpoints(&self.dir.kubeconfig(), &self.record).await?;
        Ok(())
    }

    async fn wait_for_stores(&self) -> Result<(), TargetError> {
        let Some(outside) = &self.outside else { return Ok(()) };
        let deadline = Instant::now() + STORE_WITHIN;
        for name in self.record.fact().names(Role::ControlPlane) {
            let url = format!("https://{}:2379/health", self.node(&name)?.fact.address);
            loop {
                let Reading::Answer { ok, detail } = outside.health(&url).await else { continue };
                if ok {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(failed(format!("waiting for etcd on {name}"), detail, ""));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Waits until every API server is ready and every worker's Node is Ready; learns the pods' addresses.
    pub(crate) async fn wait_until_ready(
        &mut self,
        progress: Progress<'_>,
    ) -> Result<(), TargetError> {
        progress("waiting for the control plane");
        let deadline = Instant::now() + READY_WITHIN;
        let workers = self.record.fact().names(Role::Worker);
        let mut told = BTreeSet::new();
        let mut may_route = false;
        loop {
            let (nodes, mut why) = self.list_nodes().await;
            if why.is_empty() && !may_route {
                match self.give_rights().await {
                    Ok(()) => may_route = true,
                    Err(error) => why = error,
                }
            }
            for node in nodes.iter().filter(|node| is_ready(node)) {
                let name = node.metadata.name.clone().unwrap_or_default();
                if told.insert(name.clone()) {
                    progress(&format!("{name} is Ready ({} of {})", told.len(), workers.len()));
                }
            }
            let all =
                nodes.iter().filter(|node| is_ready(node) && !pod_cidr(node).is_empty()).count();
            if why.is_empty() && all == workers.len() {
                self.learn_pod_cidrs(&nodes);
                self.route_to_pods().await?;
                return self.dir.write(&self.record);
            }
            if Instant::now() > deadline {
                let missing: Vec<&String> =
                    workers.iter().filter(|name| !told.contains(*name)).collect();
                let why = if why.is_empty() { format!("not Ready: {missing:?}") } else { why };
                return Err(failed("waiting for the nodes to be Ready", why, ""));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Lets every kubelet follow all nodes: it sets the routes to them, as a network plugin does elsewhere
    /// under a service account of its own. Lets API servers ask kubelets for logs and streams. Why not, if
    /// that is refused.
    async fn give_rights(&self) -> Result<(), String> {
        let Some(endpoint) = self.endpoints.first() else { return Ok(()) };
        for (plural, object) in rights() {
            let request =
                http::Request::post(format!("/apis/rbac.authorization.k8s.io/v1/{plural}"))
                    .header("content-type", "application/json")
                    .body(object.to_string().into_bytes())
                    .map_err(|error| error.to_string())?;
            let answer = endpoint.client.request::<serde_json::Value>(request);
            match tokio::time::timeout(REQUEST_WITHIN, answer).await {
                Ok(Ok(_)) => {}
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
                Ok(Err(error)) => return Err(format!("{plural}: {error}")),
                Err(_) => return Err(format!("{plural}: no answer")),
            }
        }
        Ok(())
    }

    /// The Node objects, asked of every API server: all must answer. Why not, if one does not.
    async fn list_nodes(&self) -> (Vec<Node>, String) {
        let ask = |endpoint: &Endpoint| {
            let api: Api<Node> = Api::all(endpoint.client.clone());
            let node = endpoint.node.clone();
            async move {
                let everything = ListParams::default();
                match tokio::time::timeout(REQUEST_WITHIN, api.list(&everything)).await {
                    Ok(Ok(nodes)) => Ok(nodes.items),
                    Ok(Err(error)) => Err(format!("the API server on {node}: {error}")),
                    Err(_) => Err(format!("the API server on {node} does not answer")),
                }
            }
        };
        let mut nodes = Vec::new();
        let mut why = String::new();
        for answer in join_all(self.endpoints.iter().map(ask)).await {
            match answer {
                Ok(found) => nodes = found,
                Err(error) => why = error,
            }
        }
        (nodes, why)
    }

    /// Lets control planes reach pods, for the API servers' proxies: no kubelet sets routes there. A
    /// control plane that is started anew has lost them.
    async fn route_to_pods(&self) -> Result<(), TargetError> {
        let is_plane = |node: &&NodeRecord| node.fact.role == Role::ControlPlane;
        for plane in self.record.nodes.iter().filter(is_plane) {
            for node in self.record.nodes.iter().filter(|node| !node.pod_cidr.is_empty()) {
                let route = ["ip", "route", "replace", &node.pod_cidr, "via", &node.fact.address];
                let what = format!("routing from {} to pods", plane.fact.name);
                let (code, said) = exec(&self.docker, &plane.container, &route)
                    .await
                    .map_err(|error| failed(what.clone(), error, ""))?;
                if code != 0 {
                    return Err(failed(what, said, ""));
                }
            }
        }
        Ok(())
    }

    fn learn_pod_cidrs(&mut self, nodes: &[Node]) {
        for record in &mut self.record.nodes {
            let name = Some(&record.fact.name);
            if let Some(node) = nodes.iter().find(|node| node.metadata.name.as_ref() == name) {
                record.pod_cidr = pod_cidr(node);
            }
        }
    }

    /// An error of the boot, with the last lines of what the components said.
    pub(crate) async fn with_logs(&self, error: TargetError) -> TargetError {
        let TargetError::Failed { what, why, hint } = error else { return error };
        let mut said = Vec::new();
        for node in &self.record.nodes {
            let script = "for log in /var/log/*.log; do [ -s $log ] && case $log in \
                */etcd.log|*/containerd.log|*/kube-*.log|*/kubelet.log|*/images.log) \
                echo \"$log: $(tail -n 2 $log | cut -c1-300)\";; esac; done; true";
            if let Ok((_, text)) = exec(&self.docker, &node.container, &["sh", "-c", script]).await
            {
                let lines = text.lines().filter(|line| !line.trim().is_empty());
                said.extend(lines.map(|line| format!("{}: {line}", node.fact.name)));
            } else if let Ok((state @ (NodeState::Dead | NodeState::Paused), _)) =
                self.node_state(node).await
            {
                said.push(format!("{}: {state:?}; docker logs {}", node.fact.name, node.container));
            }
        }
        let why = if said.is_empty() { why } else { format!("{why}\n{}", said.join("\n")) };
        TargetError::Failed { what, why, hint }
    }
}

/// The permission to follow all nodes and that to ask kubelets, and to whom they are given.
fn rights() -> [(&'static str, serde_json::Value); 3] {
    let group = "rbac.authorization.k8s.io";
    let name = "shakedown:node-routes";
    let role = serde_json::json!({
        "metadata": {"name": name},
        "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]}],
    });
    let binding = serde_json::json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": group, "kind": "Group", "name": "system:nodes"}],
    });
    let kubelets = serde_json::json!({
        "metadata": {"name": KUBELET_CLIENT},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "system:kubelet-api-admin"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": KUBELET_CLIENT}],
    });
    let bindings = "clusterrolebindings";
    [("clusterroles", role), (bindings, binding), (bindings, kubelets)]
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

fn pod_cidr(node: &Node) -> String {
    node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone()).unwrap_or_default()
}

/// One client for each API server; none retries by itself.
async fn endpoints(kubeconfig: &Path, record: &Record) -> Result<Vec<Endpoint>, TargetError> {
    let what = format!("reading {}", kubeconfig.display());
    let broken = |error: &dyn std::fmt::Display| failed(what.clone(), error, "");
    let file = Kubeconfig::read_from(kubeconfig).map_err(|error| broken(&error))?;
    let mut endpoints = Vec::new();
    for node in record.fact().names(Role::ControlPlane) {
        let context = Some(format!("{}-{node}", record.cluster));
        let options = KubeConfigOptions { context, ..Default::default() };
        let config = kube::Config::from_custom_kubeconfig(file.clone(), &options).await;
        let mut config = config.map_err(|error| broken(&error))?;
        config.default_retry = false;
        config.connect_timeout = Some(REQUEST_WITHIN);
        let client = kube::Client::try_from(config).map_err(|error| broken(&error))?;
        endpoints.push(Endpoint { node, client });
    }
    Ok(endpoints)
}

/// Copies what the nodes run, and lets the workload's binary write the images that hold it.
async fn copy_binaries(options: &Options, dir: &ClusterDir) -> Result<(), TargetError> {
    let bin = dir.bin();
    ClusterDir::make(&bin)?;
    let binaries = &options.binaries;
    for (from, name) in
        [(&binaries.orchestrator, "orchestrator"), (&binaries.agent, "shakedown-agent")]
    {
        let copied = tokio::fs::copy(from, bin.join(name)).await;
        copied.map_err(|error| {
            failed(format!("copying {}", from.display()), error, "is the disk full?")
        })?;
    }
    let what = "writing the images of the workloads";
    let images = bin.join("images.tar");
    let output = tokio::process::Command::new(&binaries.testapp)
        .args(["image", "--out"])
        .arg(&images)
        .output()
        .await
        .map_err(|error| failed(what, error, ""))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(what, String::from_utf8_lossy(&output.stderr).trim(), "build testapp anew"))
}
