//! How each component is started as a process of the simulated world.

use std::sync::Arc;

use apiclient::ApiClient;
use apiserver::{ApiServer, User};
use env::{Env, Gate};
use kubelet::MachineFacts;
use kubelet::runtimes::staged::Answers;
use kubelet::server::{KubeletServer, ServerConfig};
use shakedown_core::lever::Component;
use shakedown_core::target::{ClusterSpec, Role, ZONE_LABEL};

use crate::kubelets::Kubelets;
use crate::link::Link;
use crate::node::{Life, Node};
use crate::observe;
use crate::operator;
use crate::world::World;

/// What pods find as `ca.crt`. Nothing is encrypted in a simulation, so nothing was ever signed by it.
const ROOT_CA: &str = "-----BEGIN CERTIFICATE-----\nc2ltdWxhdGVk\n-----END CERTIFICATE-----\n";

impl World {
    /// Starts a component. What it does from then on is in its [`Life`].
    pub(crate) fn launch(
        self: &Arc<Self>,
        node: &Arc<Node>,
        component: Component,
        identity: String,
    ) -> Life {
        let gate = Gate::default();
        let env = self.env(node.name(), component, Some(gate.clone()));
        let mut life = Life::new(identity, gate, env.clone());
        match component {
            Component::Etcd => self.etcd.set_up(node.index, true),
            Component::Containerd => {
                if let Some(runtime) = &node.runtime {
                    runtime.set_answers(Answers::Normally);
                }
            }
            Component::KubeApiserver => self.launch_api_server(node, &mut life),
            Component::KubeControllerManager => self.launch_controllers(node, &mut life),
            Component::KubeScheduler => self.launch_scheduler(node, &mut life),
            Component::Kubelet => self.launch_kubelet(node, &mut life),
            Component::Operator => self.launch_operator(node, &mut life),
        }
        life
    }

    fn launch_api_server(self: &Arc<Self>, node: &Arc<Node>, life: &mut Life) {
        let mut config = apiserver::Config::new(node.name());
        let toleration_s = i64::try_from(self.parameters.toleration.as_secs()).unwrap_or(i64::MAX);
        config.not_ready_toleration_s = toleration_s;
        config.unreachable_toleration_s = toleration_s;
        config.service_accounts = Some(apiserver::ServiceAccounts::simulated());
        let (observers, name) = (self.observers.clone(), node.name().to_owned());
        config.audit = Some(Arc::new(move |line| observers.tell(observe::audit(&name, line))));
        config.outbound =
            Arc::new(Kubelets { world: Arc::downgrade(self), from: node.name().to_owned() });
        config.decoded = self.decoded.clone();
        let store = self.etcd.member(node.index);
        let server = ApiServer::new(life.env.clone(), store, config);
        life.server = Some(server.clone());
        run(life, server.run());
    }

    fn launch_controllers(self: &Arc<Self>, node: &Arc<Node>, life: &mut Life) {
        let user = User::new("system:kube-controller-manager", &[]);
        let client = self.client(node, Component::KubeControllerManager, &user);
        let identity = format!("{}_{}", node.name(), life.env.uid());
        let mut config = controllers::Config::new(&identity);
        // The documented range has room for 256 nodes.
        if self.names(Role::Worker).len() > 200 {
            config.cluster_cidr = "10.0.0.0/8".to_owned();
        }
        config.service_account_key = Some(apiserver::ServiceAccounts::simulated_key());
        config.root_ca = Some(ROOT_CA.to_owned());
        config.node_monitor_period = self.parameters.monitor;
        config.node_monitor_grace_period = self.parameters.grace;
        self.elect(&mut config.elector);
        run(life, controllers::run(life.env.clone(), client, config));
    }

    fn launch_scheduler(self: &Arc<Self>, node: &Arc<Node>, life: &mut Life) {
        let user = User::new("system:kube-scheduler", &[]);
        let client = self.client(node, Component::KubeScheduler, &user);
        let identity = format!("{}_{}", node.name(), life.env.uid());
        let mut config = scheduler::Config::new(&identity);
        self.elect(&mut config.elector);
        run(life, scheduler::run(life.env.clone(), client, config));
    }

    fn elect(&self, elector: &mut apiclient::ElectorConfig) {
        elector.lease_duration = self.parameters.lease;
        elector.renew_deadline = self.parameters.renew;
        elector.retry_period = self.parameters.retry;
    }

    fn launch_kubelet(self: &Arc<Self>, node: &Arc<Node>, life: &mut Life) {
        let Some(runtime) = node.runtime.clone() else { return };
        let user = User::new(&format!("system:node:{}", node.name()), &["system:nodes"]);
        let client = self.client(node, Component::Kubelet, &user);
        let machine = MachineFacts::simulated(node.name(), node.lock().boots);
        let mut config = kubelet::Config::new(node.name(), &node.fact.address, machine);
        config.heartbeat = self.parameters.heartbeat;
        let spread = ClusterSpec { zones: self.zones, ..ClusterSpec::default() };
        if let Some(zone) = spread.zone_of(node.index) {
            config.node_labels.insert(ZONE_LABEL.to_owned(), zone);
        }
        life.health = Some(config.health.clone());
        let server = ServerConfig {
            node_name: node.name().to_owned(),
            health: config.health.clone(),
            pods: config.pods.clone(),
            ..ServerConfig::default()
        };
        let server = KubeletServer::new(life.env.clone(), client.clone(), runtime.clone(), server);
        life.kubelet = Some(server);
        run(life, kubelet::run(life.env.clone(), client, runtime, config));
    }

    fn launch_operator(self: &Arc<Self>, node: &Arc<Node>, life: &mut Life) {
        let Some(operator) = &self.operator else { return };
        let user = operator::user();
        let links = self.in_turn(node).into_iter();
        let links = links.map(|to| self.link(node.name(), &to, Some(Component::Operator), &user));
        run(life, operator.main(operator::client(links.collect())));
    }

    /// The API servers as a component of a node asks them: that of its own node first, or of its turn.
    fn in_turn(&self, node: &Node) -> Vec<String> {
        let mut servers = self.names(Role::ControlPlane);
        let first = node.index % servers.len();
        servers.rotate_left(first);
        servers
    }

    /// A component's client: it asks the API server of its own node first, or that of its turn.
    fn client(self: &Arc<Self>, node: &Arc<Node>, component: Component, user: &User) -> ApiClient {
        let servers = self.in_turn(node).into_iter();
        let clients = servers.map(|to| self.way(node.name(), &to, Some(component), user));
        let client = ApiClient::new(clients.collect()).sharing(self.heard.clone());
        client.named(component.name())
    }

    /// A client of one API server.
    pub(crate) fn kube_client(self: &Arc<Self>, from: &str, to: &str, user: &User) -> kube::Client {
        self.way(from, to, None, user)
    }

    fn way(
        self: &Arc<Self>,
        from: &str,
        to: &str,
        component: Option<Component>,
        user: &User,
    ) -> kube::Client {
        kube::Client::new(self.link(from, to, component, user), "default")
    }

    fn link(
        self: &Arc<Self>,
        from: &str,
        to: &str,
        component: Option<Component>,
        user: &User,
    ) -> Link {
        Link {
            world: self.clone(),
            from: from.to_owned(),
            to: to.to_owned(),
            component,
            user: user.clone(),
            wire: self.wires.open(from, to),
        }
    }

    /// The surroundings of a component's process.
    pub(crate) fn env(&self, node: &str, component: Component, gate: Option<Gate>) -> Env {
        let machine = self.machines[&(node.to_owned(), component)].clone();
        Env::new(machine, gate).with_sabotages(&self.sabotages)
    }
}

/// Runs a process's main function; when it returns, the process is over.
fn run(life: &mut Life, main: impl Future<Output = ()> + Send + 'static) {
    let ended = life.ended.clone();
    life.spawn(async move {
        main.await;
        ended.notify_one();
    });
}
