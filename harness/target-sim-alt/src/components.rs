//! The programs of a simulated node: each is the component that also runs in containers.

use std::sync::{Arc, Weak};
use std::time::Duration;

use apiclient::{ApiClient, ElectorConfig};
use apiserver::{ApiServer, User};
use env::Env;
use kubelet::MachineFacts;
use kubelet::runtimes::staged::Answers;
use shakedown_core::lever::Component;
use shakedown_core::target::Parameters;

use crate::link::Link;
use crate::machine::Machine;
use crate::process::Program;
use crate::world::World;

/// A process needs so long before it takes connections or asks for work.
const START: Duration = Duration::from_millis(300);

/// Undoes something when the life that it belongs to ends, however it ends.
struct AtEnd<F: FnMut()>(F);

impl<F: FnMut()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// The etcd member of a control plane.
pub(crate) fn etcd(world: &Weak<World>, index: usize) -> Program {
    let world = world.clone();
    Arc::new(move |env: Env| {
        let world = world.clone();
        Box::pin(async move {
            env.sleep(START).await;
            let Some(up) = world.upgrade() else { return };
            up.etcd.set_up(index, true);
            drop(up);
            let _down = AtEnd(move || {
                if let Some(world) = world.upgrade() {
                    world.etcd.set_up(index, false);
                }
            });
            std::future::pending::<()>().await;
        })
    })
}

/// kube-apiserver.
pub(crate) fn apiserver(world: &Weak<World>, machine: &Arc<Machine>, index: usize) -> Program {
    let world = world.clone();
    let machine = Arc::downgrade(machine);
    Arc::new(move |env: Env| {
        let (world, machine) = (world.clone(), machine.clone());
        Box::pin(async move {
            env.sleep(START).await;
            let (Some(up), Some(here)) = (world.upgrade(), machine.upgrade()) else { return };
            let mut config = apiserver::Config::new(&here.name);
            let toleration = i64::try_from(up.parameters.toleration.as_secs())
                .expect("a toleration is shorter than the age of the universe");
            config.not_ready_toleration_s = toleration;
            config.unreachable_toleration_s = toleration;
            config.audit = Some(up.audit_sink(&here.name));
            let server = ApiServer::new(env, up.etcd.member(index), config);
            here.set_apiserver(Some(server.clone()));
            drop((up, here));
            let _gone = AtEnd(move || {
                if let Some(machine) = machine.upgrade() {
                    machine.set_apiserver(None);
                }
            });
            server.run().await;
            std::future::pending::<()>().await;
        })
    })
}

fn elector(lock: &str, name: &str, env: &Env, parameters: &Parameters) -> ElectorConfig {
    ElectorConfig {
        lock: lock.to_owned(),
        identity: format!("{name}_{}", env.uid()),
        lease_duration: parameters.lease,
        renew_deadline: parameters.renew,
        retry_period: parameters.retry,
    }
}

/// kube-controller-manager.
pub(crate) fn controller_manager(world: &Weak<World>, name: &str) -> Program {
    let (world, name) = (world.clone(), name.to_owned());
    Arc::new(move |env: Env| {
        let (world, name) = (world.clone(), name.clone());
        Box::pin(async move {
            env.sleep(START).await;
            let Some(up) = world.upgrade() else { return };
            let component = Component::KubeControllerManager;
            let client = up.client(&name, &User::new("system:kube-controller-manager", &[]));
            let elector = elector(component.name(), &name, &env, &up.parameters);
            let mut config = controllers::Config::new(&elector.identity);
            config.elector = elector;
            config.node_monitor_period = up.parameters.monitor;
            config.node_monitor_grace_period = up.parameters.grace;
            drop(up);
            controllers::run(env, client, config).await;
        })
    })
}

/// kube-scheduler.
pub(crate) fn scheduler(world: &Weak<World>, name: &str) -> Program {
    let (world, name) = (world.clone(), name.to_owned());
    Arc::new(move |env: Env| {
        let (world, name) = (world.clone(), name.clone());
        Box::pin(async move {
            env.sleep(START).await;
            let Some(up) = world.upgrade() else { return };
            let client = up.client(&name, &User::new("system:kube-scheduler", &[]));
            let elector = elector(Component::KubeScheduler.name(), &name, &env, &up.parameters);
            let mut config = scheduler::Config::new(&elector.identity);
            config.elector = elector;
            drop(up);
            scheduler::run(env, client, config).await;
        })
    })
}

/// The kubelet of a worker.
pub(crate) fn kubelet(world: &Weak<World>, machine: &Arc<Machine>) -> Program {
    let world = world.clone();
    let machine = Arc::downgrade(machine);
    Arc::new(move |env: Env| {
        let (world, machine) = (world.clone(), machine.clone());
        Box::pin(async move {
            env.sleep(START).await;
            let (Some(up), Some(here)) = (world.upgrade(), machine.upgrade()) else { return };
            let user = User::new(&format!("system:node:{}", here.name), &["system:nodes"]);
            let client = up.client(&here.name, &user);
            let facts = MachineFacts::simulated(&here.name, here.boots());
            let mut config = kubelet::Config::new(&here.name, &here.address, facts);
            config.heartbeat = up.parameters.heartbeat;
            let Some(runtime) = here.runtime.clone() else { return };
            drop((up, here));
            kubelet::run(env, client, runtime, config).await;
        })
    })
}

/// The container runtime of a worker: its process answers calls, its containers live beside it.
pub(crate) fn containerd(machine: &Arc<Machine>) -> Program {
    let machine = Arc::downgrade(machine);
    Arc::new(move |env: Env| {
        let machine = machine.clone();
        Box::pin(async move {
            env.sleep(START).await;
            let answer = move |answers| {
                if let Some(runtime) = machine.upgrade().and_then(|here| here.runtime.clone()) {
                    runtime.set_answers(answers);
                }
            };
            answer(Answers::Normally);
            let _refuse = AtEnd(move || answer(Answers::Refused));
            std::future::pending::<()>().await;
        })
    })
}

/// A way from a node to every API server: its own first, if it has one, then the others in order.
pub(crate) fn client(world: &World, from: &str, user: &User) -> ApiClient {
    let mut servers: Vec<&Arc<Machine>> = world.control_planes().collect();
    servers.sort_by_key(|machine| (machine.name != from, machine.name.clone()));
    let links = servers.into_iter().map(|to| {
        let link = Link {
            from: from.to_owned(),
            to: to.clone(),
            user: user.clone(),
            network: world.network.clone(),
            meter: world.meter.clone(),
        };
        link.client()
    });
    ApiClient::new(links.collect())
}
