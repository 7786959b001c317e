//! Load on an API server: requests per second and latencies by verb, how fast watches are told, what
//! watches and stored pods cost in memory, and how much of the processor each side took for it.
//!
//!     orchestrator dev --kubeconfig /tmp/kubeconfig --api-only &
//!     cargo run --release -p orchestrator --example load -- --kubeconfig /tmp/kubeconfig --pid $!
//!
//! Works against any cluster; everything happens in the namespace `load`, which is made and deleted. A
//! store of its own, such as etcd behind `orchestrator apiserver`, is watched by `--store-pid`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use tokio::time::Instant;

const NAMESPACE: &str = "load";
/// Pods are created by so many clients at once.
const CREATORS: usize = 32;
/// So many watches share one connection.
const WATCHES_A_CLIENT: usize = 200;
/// So many changes are told to all watchers.
const CHANGES: usize = 50;

/// Loads an API server and prints what it answered.
#[derive(Parser)]
struct Args {
    /// How to reach the server.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The server's process, to read its memory.
    #[arg(long)]
    pid: Option<u32>,
    /// The process of the server's store, if that is another.
    #[arg(long)]
    store_pid: Option<u32>,
    /// How many seconds each mix of requests goes on.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How many clients at once.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// How many watchers are told of each change. Repeatable.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1000])]
    watchers: Vec<usize>,
    /// How many pods are stored before memory is read. Repeatable, rising.
    #[arg(long, value_delimiter = ',')]
    pods: Vec<usize>,
}

type Watched = BoxStream<'static, kube::Result<WatchEvent<ConfigMap>>>;
type Latencies = Arc<Mutex<BTreeMap<&'static str, Vec<Duration>>>>;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let connect = || connect(&args.kubeconfig);
    let client = connect().await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    namespaces.create(&PostParams::default(), &namespace).await.context("the namespace `load`")?;

    let processes = Processes { server: args.pid, store: args.store_pid };
    println!("| mix | verb | requests/s | p50 | p99 |\n|---|---|---|---|---|");
    let mixes = [("kubectl", Mix::Kubectl), ("controller", Mix::Controller)];
    for (name, mix) in mixes.into_iter().filter(|_| args.seconds > 0) {
        let clients = stream::iter(0..args.clients).then(|_| connect()).try_collect().await?;
        let before = processes.look();
        let latencies = run_mix(clients, mix, Duration::from_secs(args.seconds)).await;
        let took = processes.since(&before);
        let all: usize = latencies.values().map(Vec::len).sum();
        let rate = all as f64 / args.seconds as f64;
        println!("| {name} | all, {took} | {rate:.0} | | |");
        for (verb, latencies) in latencies {
            let rate = latencies.len() as f64 / args.seconds as f64;
            let [p50, p99] = percentiles(latencies);
            println!("| {name} | {verb} | {rate:.0} | {p50:.1?} | {p99:.1?} |");
        }
    }

    println!(
        "\n| watchers | changes told | p50 | p99 | processor | server |\n|---|---|---|---|---|---|"
    );
    for count in &args.watchers {
        let clients = count.div_ceil(WATCHES_A_CLIENT);
        let clients = stream::iter(0..clients).then(|_| connect()).try_collect().await?;
        let before = processes.look();
        let (told, memory) = watch_delivery(&client, clients, *count, processes).await?;
        let (number, took) = (told.len(), processes.since(&before));
        let [p50, p99] = percentiles(told);
        println!("| {count} | {number} | {p50:.1?} | {p99:.1?} | {took} | {memory} |");
    }

    if !args.pods.is_empty() {
        println!(
            "\n| pods stored | created/s | processor | list of all | processor | server |\n\
             |---|---|---|---|---|---|"
        );
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let mut stored = 0;
    for wanted in args.pods {
        let (began, before) = (Instant::now(), processes.look());
        store(&pods, stored..wanted).await?;
        let created = processes.since(&before);
        let rate = (wanted - stored) as f64 / began.elapsed().as_secs_f64();
        stored = wanted;
        let (began, before) = (Instant::now(), processes.look());
        let found = pods.list(&ListParams::default()).await?.items.len();
        anyhow::ensure!(found == wanted, "{found} pods are there, not {wanted}");
        let (listed, took) = (began.elapsed(), processes.since(&before));
        let memory = processes.memory();
        println!("| {stored} | {rate:.0} | {created} | {listed:.2?} | {took} | {memory} |");
    }
    namespaces.delete(NAMESPACE, &DeleteParams::default()).await?;
    Ok(())
}

async fn connect(path: &PathBuf) -> anyhow::Result<kube::Client> {
    let file = Kubeconfig::read_from(path).context("failed to read the kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// What a client does over and over.
#[derive(Clone, Copy)]
enum Mix {
    /// Applies, looks, lists a page, deletes.
    Kubectl,
    /// Reads one object, writes its status.
    Controller,
}

async fn run_mix(
    clients: Vec<kube::Client>,
    mix: Mix,
    time: Duration,
) -> BTreeMap<&'static str, Vec<Duration>> {
    let latencies = Latencies::default();
    let until = Instant::now() + time;
    let work = clients.into_iter().enumerate().map(|(number, client)| {
        let latencies = latencies.clone();
        async move {
            let mut turn = 0;
            while Instant::now() < until {
                let name = format!("load-{number}-{turn}");
                let done = match mix {
                    Mix::Kubectl => kubectl(&client, &name, &latencies).await,
                    Mix::Controller => controller(&client, &name, &latencies).await,
                };
                if let Err(error) = done {
                    eprintln!("{error}");
                }
                turn += 1;
            }
        }
    });
    futures::future::join_all(work).await;
    std::mem::take(&mut latencies.lock().expect("no client panics"))
}

async fn timed<T>(
    latencies: &Latencies,
    verb: &'static str,
    request: impl Future<Output = kube::Result<T>>,
) -> kube::Result<T> {
    let began = Instant::now();
    let answer = request.await?;
    let took = began.elapsed();
    latencies.lock().expect("no client panics").entry(verb).or_default().push(took);
    Ok(answer)
}

async fn kubectl(client: &kube::Client, name: &str, latencies: &Latencies) -> kube::Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let body = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"text": "x".repeat(200)},
    });
    let manager = PatchParams::apply("load");
    timed(latencies, "apply", maps.patch(name, &manager, &Patch::Apply(&body))).await?;
    timed(latencies, "get", maps.get(name)).await?;
    timed(latencies, "list (100)", maps.list(&ListParams::default().limit(100))).await?;
    let change = Patch::Merge(json!({"data": {"text": "y"}}));
    timed(latencies, "patch", maps.patch(name, &PatchParams::default(), &change)).await?;
    timed(latencies, "delete", maps.delete(name, &DeleteParams::default())).await?;
    Ok(())
}

async fn controller(client: &kube::Client, name: &str, latencies: &Latencies) -> kube::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    timed(latencies, "create", pods.create(&PostParams::default(), &pod(name))).await?;
    for phase in ["Pending", "Running", "Succeeded"] {
        timed(latencies, "get", pods.get(name)).await?;
        let change = Patch::Merge(json!({"status": {"phase": phase, "message": phase}}));
        let params = PatchParams::default();
        timed(latencies, "patch status", pods.patch_status(name, &params, &change)).await?;
    }
    timed(latencies, "delete", pods.delete(name, &DeleteParams::default())).await?;
    Ok(())
}

/// A pod as large as pods commonly are, of a scheduler that does not exist: it stays as it is.
fn pod(name: &str) -> Pod {
    let env: Vec<_> = (0..10)
        .map(|number| json!({"name": format!("SETTING_{number}"), "value": "some value or other"}))
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": "load", "tier": "back"}},
        "spec": {"schedulerName": "nobody", "containers": [{
            "name": "main", "image": "registry.example/app:1.2.3", "env": env,
            "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
        }]},
    }))
    .expect("a constant pod is a pod")
}

async fn store(pods: &Api<Pod>, numbers: std::ops::Range<usize>) -> anyhow::Result<()> {
    let creates = numbers.map(|number| async move {
        pods.create(&PostParams::default(), &pod(&format!("stored-{number}"))).await
    });
    let created = stream::iter(creates).buffer_unordered(CREATORS);
    created.try_for_each(|_| async { Ok(()) }).await.context("storing pods")
}

/// From just before a change to when each watcher has it, and the server's memory while all watch.
async fn watch_delivery(
    writer: &kube::Client,
    clients: Vec<kube::Client>,
    count: usize,
    processes: Processes,
) -> anyhow::Result<(Vec<Duration>, String)> {
    let maps: Api<ConfigMap> = Api::namespaced(writer.clone(), NAMESPACE);
    let body = serde_json::from_value(json!({"metadata": {"name": "watched"}}))?;
    let first = maps.create(&PostParams::default(), &body).await?;
    let revision = first.metadata.resource_version.context("it has a revision")?;
    let began = Instant::now();
    let watches = (0..count).map(|number| {
        let maps: Api<ConfigMap> =
            Api::namespaced(clients[number % clients.len()].clone(), NAMESPACE);
        let revision = revision.clone();
        async move {
            let params = WatchParams::default();
            let watch = maps.watch(&params, &revision).await?;
            Ok::<Watched, kube::Error>(watch.boxed())
        }
    });
    let watches: Vec<_> = stream::iter(watches).buffer_unordered(CREATORS).try_collect().await?;
    let memory = processes.memory();
    let told = watches.into_iter().map(|mut watch: Watched| async move {
        let mut told = Vec::with_capacity(CHANGES);
        while told.len() < CHANGES {
            match watch.try_next().await? {
                Some(WatchEvent::Modified(map)) => {
                    let sent = map.data.and_then(|data| data.get("sent")?.parse::<u64>().ok());
                    let sent = Duration::from_nanos(sent.context("it says when it was sent")?);
                    told.push(began.elapsed().saturating_sub(sent));
                }
                Some(_) => {}
                None => anyhow::bail!("a watch ended"),
            }
        }
        anyhow::Ok(told)
    });
    let writing = async {
        for _ in 0..CHANGES {
            let sent = u64::try_from(began.elapsed().as_nanos())?.to_string();
            let change = Patch::Merge(json!({"data": {"sent": sent}}));
            maps.patch("watched", &PatchParams::default(), &change).await?;
            // Changes of every day, not a flood: each is told before the next comes.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    let (told, written) = tokio::join!(futures::future::try_join_all(told), writing);
    written?;
    maps.delete("watched", &DeleteParams::default()).await?;
    Ok((told?.into_iter().flatten().collect(), memory))
}

/// The median, and what one in a hundred exceeds.
fn percentiles(mut all: Vec<Duration>) -> [Duration; 2] {
    all.sort_unstable();
    [50, 99].map(|percent| match all.len() {
        0 => Duration::ZERO,
        count => all[(count * percent / 100).min(count - 1)],
    })
}

/// Who works on the load, beside this process.
#[derive(Clone, Copy)]
struct Processes {
    server: Option<u32>,
    store: Option<u32>,
}

/// What processes had used of the processor: server, store, this one.
type Used = [Option<Duration>; 3];

impl Processes {
    fn look(self) -> Used {
        [self.server, self.store, Some(std::process::id())].map(|pid| processor(pid?))
    }

    fn since(self, before: &Used) -> String {
        let names = ["server", "store", "client"];
        let each = names.iter().zip(self.look()).zip(before).filter_map(|((name, now), before)| {
            let used = now?.checked_sub((*before)?)?;
            Some(format!("{name} {:.1} s", used.as_secs_f64()))
        });
        each.collect::<Vec<_>>().join(", ")
    }

    /// What the server and its store hold in memory.
    fn memory(self) -> String {
        let both = [self.server, self.store].into_iter().flatten().map(memory);
        both.collect::<Vec<_>>().join(", store ")
    }
}

/// User and system time of a process, in Linux's hundredths of a second.
fn processor(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    // What follows the name begins with field 3; the times are fields 14 and 15.
    let mut times = rest.split_whitespace().skip(11).map_while(|one| one.parse::<u64>().ok());
    Some(Duration::from_millis((times.next()? + times.next()?) * 10))
}

fn memory(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or("unknown".to_owned(), |kib| format!("{} MiB", kib / 1024))
}
