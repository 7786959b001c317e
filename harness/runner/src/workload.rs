//! Clients that read and write ConfigMaps all the while, and watches that follow them.
//! What changes Deployments at the same time is in `changes`.
//!
//! Every value is written once only, so that what is read tells which write it saw. A client keeps to
//! one API server until that one gives no definite answer. What is answered late or by a 5xx may have
//! happened: its outcome is `Unknown`.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures::{AsyncBufReadExt, StreamExt};
use http::Request;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use shakedown_core::kinds::Kind;
use shakedown_core::plan::Workload;
use shakedown_core::sabotage::{Sabotage, Switches};
use shakedown_core::scenario::CHANGES;
use shakedown_core::target::Endpoint;
use shakedown_core::timeline::{Change, Operation, Outcome, Reads, What};
use tokio::time::{Instant, sleep, timeout};

use crate::api::{Answer, Call, ask, revision_of};
use crate::board::Reader;
use crate::changes;
use crate::event_loop::{Message, Sender};
use crate::run::{Session, Stop};

/// How long a client waits for an answer: longer than an election, shorter than a fault.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long a read that must come takes at most, after everything was healed.
const LAST_READ_LIMIT: Duration = Duration::from_secs(60);
/// How long a watch is followed before it is closed and resumed, at least and at most, in milliseconds.
const FOLLOW_MS: (u64, u64) = (3_000, 12_000);
/// After a watch ended by itself.
const RECONNECT: Duration = Duration::from_millis(200);

/// Of so many revisions that a client has seen it may ask for each again.
const REMEMBERED: usize = 8;

/// What every client has.
pub(crate) struct Client {
    pub id: u32,
    pub namespace: String,
    endpoints: Vec<Endpoint>,
    home: usize,
    began: Instant,
    random: ChaCha8Rng,
    sender: Sender,
    stop: Reader<bool>,
    switches: Switches,
}

/// The loop is gone, or the workload is to end.
pub(crate) struct Over;

/// What a writing client has seen.
#[derive(Default)]
struct Memory {
    /// The revision of each object, by its number.
    known: BTreeMap<u32, i64>,
    /// The last revisions that it was told of, the newest last.
    seen: VecDeque<i64>,
}

impl Session<'_> {
    /// Starts the workload's clients.
    pub(crate) fn start_work(&mut self) {
        let Some(workload) = &self.plan.workload else { return };
        let shares: u32 = workload
            .mix
            .iter()
            .filter(|(verb, _)| !CHANGES.contains(&verb.as_str()))
            .map(|(_, share)| share)
            .sum();
        let watching = workload.mix.get("watch").copied().unwrap_or(0);
        let watchers = match watching {
            0 => 0,
            _ => (workload.clients * watching / shares.max(1)).clamp(1, workload.clients),
        };
        let deployments = self.deployments();
        // One more, and only if it is wanted, changes the Deployments.
        let changing = u32::from(!deployments.is_empty());
        for id in 0..workload.clients + watchers + changing {
            let client = Client {
                id,
                namespace: self.namespace.clone(),
                endpoints: self.endpoints.clone(),
                home: id as usize % self.endpoints.len().max(1),
                began: self.events.recorder.began(),
                random: ChaCha8Rng::seed_from_u64(self.random.next_u64()),
                sender: self.events.sender(),
                stop: self.stop_work.reader(),
                switches: self.plan.switches(),
            };
            if id < workload.clients {
                self.workers.spawn(write(client, workload.clone()));
            } else if id < workload.clients + watchers {
                self.workers.spawn(follow(client));
            } else {
                let mix = workload.mix.clone();
                self.workers.spawn(changes::change(client, mix, deployments.clone()));
            }
        }
    }

    /// Reads every object of the workload once more, now that nothing is broken.
    pub(crate) async fn read_all(&mut self) -> Result<(), Stop> {
        let Some(workload) = self.plan.workload.clone() else { return Ok(()) };
        let client = workload.clients * 2 + 1;
        let endpoints = self.endpoints.clone();
        for number in 0..workload.keys {
            let name = key_name(number);
            let call = Call::get(path(&self.namespace, &name));
            let call_us = self.events.now_us();
            let work = async {
                let mut turn = 0;
                loop {
                    let endpoint = &endpoints[turn % endpoints.len()];
                    let answer = ask(endpoint, &call, ANSWER_LIMIT).await;
                    if !matches!(answer, Answer::Unknown(_)) {
                        return (endpoint.node.clone(), answer);
                    }
                    turn += 1;
                    sleep(RECONNECT).await;
                }
            };
            let Some((server, answer)) = self.events.drive(LAST_READ_LIMIT, work).await? else {
                return Err(Stop::failed(
                    "reading the workload's objects",
                    "no API server answers",
                ));
            };
            let operation = Operation {
                client,
                server,
                verb: "get".into(),
                key: format!("{}/{name}", self.namespace),
                value: None,
                expected: None,
                reads: Reads::Latest,
                listed: None,
                call_us,
                outcome: outcome(answer, "get"),
            };
            self.events.note(What::Operation(operation))?;
        }
        Ok(())
    }
}

fn key_name(number: u32) -> String {
    format!("work-{number:04}")
}

fn path(namespace: &str, name: &str) -> String {
    Kind::of_word("configmap").expect("configmaps are a kind").path(namespace, name)
}

fn value_of(object: &Value) -> Option<String> {
    Some(object.pointer("/data/value")?.as_str()?.to_string())
}

fn outcome(answer: Answer, verb: &str) -> Outcome {
    match answer {
        Answer::Ok(object) => {
            Outcome::Ok { revision: revision_of(&object), value: value_of(&object) }
        }
        // That there is nothing is an answer to a read.
        Answer::Refused { code: 404, .. } if verb == "get" => {
            Outcome::Ok { revision: 0, value: None }
        }
        Answer::Refused { code, reason, .. } => Outcome::Refused { code, reason },
        Answer::Unknown(why) => Outcome::Unknown { why },
    }
}

impl Client {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.random.next_u64() % bound.max(1)
    }

    fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoints[self.home]
    }

    pub fn move_on(&mut self) {
        self.home = (self.home + 1) % self.endpoints.len();
    }

    pub async fn tell(&self, what: What) -> Result<(), Over> {
        let message =
            Message::Saw { at: Instant::now(), error: Duration::ZERO, what: Box::new(what) };
        self.sender.send(message).await.map_err(|_| Over)
    }

    /// Sleeps, unless the workload ends.
    pub async fn rest(&mut self, time: Duration) -> Result<(), Over> {
        if self.stop.get() {
            return Err(Over);
        }
        tokio::select! {
            biased;
            () = self.stop.changed() => Err(Over),
            () = sleep(time) => Ok(()),
        }
    }
}

/// A client that reads and writes at its rate.
async fn write(mut client: Client, workload: Workload) {
    let is_asked = |verb: &str| verb != "watch" && !CHANGES.contains(&verb);
    let verbs: Vec<(String, u32)> =
        workload.mix.into_iter().filter(|(verb, share)| is_asked(verb) && *share > 0).collect();
    let shares: u64 = verbs.iter().map(|(_, share)| u64::from(*share)).sum();
    let pace_us = (1e6 * f64::from(workload.clients) / workload.rate).max(1.0) as u64;
    let mut memory = Memory::default();
    let mut count = 0;
    loop {
        // Between half and one and a half times the pace, so that clients do not march in step.
        let pause = pace_us / 2 + client.below(pace_us);
        if client.rest(Duration::from_micros(pause)).await.is_err() {
            return;
        }
        let mut draw = client.below(shares);
        let drawn = verbs.iter().find(|(_, share)| {
            let is_it = draw < u64::from(*share);
            draw = draw.saturating_sub(u64::from(*share));
            is_it
        });
        let Some((verb, _)) = drawn else { return };
        let number = client.below(u64::from(workload.keys)) as u32;
        count += 1;
        if client.switches.on(Sabotage::WorkloadNeverSends) {
            continue;
        }
        let value = format!("{}-{count}", client.id);
        if operate(&mut client, verb, number, value, &mut memory).await.is_err() {
            return;
        }
    }
}

impl Memory {
    /// Takes in what an answer tells.
    fn learn(&mut self, outcome: &Outcome, verb: &str, number: u32) {
        if let Outcome::Ok { revision: revision @ 1.., .. } = outcome {
            self.seen.push_back(*revision);
            if self.seen.len() > REMEMBERED {
                self.seen.pop_front();
            }
        }
        match (outcome, verb) {
            (_, "list") => {}
            (Outcome::Ok { revision, value: Some(_) }, "create" | "update" | "patch" | "get") => {
                self.known.insert(number, *revision);
            }
            // Somebody else has changed it, or nobody knows: what was seen is of no use any more.
            _ => {
                self.known.remove(&number);
            }
        }
    }
}

/// Which state a read wants: mostly the newest, at times one that may be older.
fn reads(client: &mut Client, is_list: bool, memory: &Memory) -> Reads {
    let newest = memory.seen.iter().max().copied();
    match (client.below(8), newest) {
        (5, _) => Reads::Any,
        (7, Some(_)) if is_list => {
            let at = client.below(memory.seen.len() as u64) as usize;
            Reads::Exact(memory.seen[at])
        }
        (6 | 7, Some(newest)) => Reads::NotOlderThan(newest),
        _ => Reads::Latest,
    }
}

/// What a read's path ends with. A get of a revision always means one that is not older.
fn query(reads: Reads, is_list: bool) -> String {
    let matching = |word: &str| match is_list {
        true => format!("&resourceVersionMatch={word}"),
        false => String::new(),
    };
    match reads {
        Reads::Latest => String::new(),
        Reads::Any => "?resourceVersion=0".into(),
        Reads::NotOlderThan(revision) => {
            format!("?resourceVersion={revision}{}", matching("NotOlderThan"))
        }
        Reads::Exact(revision) => format!("?resourceVersion={revision}{}", matching("Exact")),
    }
}

/// The request of an operation: the verb, the revision that the object must have, the state to be read.
fn call(
    namespace: &str,
    name: &str,
    value: &str,
    (verb, expected, reads): (&str, Option<i64>, Reads),
) -> Call {
    let object_path = path(namespace, name);
    let expected = expected.map(|revision| revision.to_string());
    let mut object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace}, "data": {"value": value},
    });
    match verb {
        "create" => Call::create(path(namespace, ""), object),
        "update" => {
            object["metadata"]["resourceVersion"] = json!(expected);
            Call::update(object_path, object)
        }
        "patch" => {
            let mut fields = json!({"data": {"value": value}});
            if let Some(expected) = expected {
                fields["metadata"] = json!({"resourceVersion": expected});
            }
            Call::patch(object_path, fields)
        }
        "delete" => {
            let condition = json!({"resourceVersion": expected});
            Call::delete(object_path, json!({"preconditions": condition}))
        }
        "list" => Call::get(path(namespace, "") + &query(reads, true)),
        _ => Call::get(object_path + &query(reads, false)),
    }
}

/// One operation; the client remembers the revision that it last saw of each object.
async fn operate(
    client: &mut Client,
    verb: &str,
    number: u32,
    value: String,
    memory: &mut Memory,
) -> Result<(), Over> {
    let name = key_name(number);
    // What was never seen cannot be updated with a precondition: it is read instead.
    let (verb, expected) = match (verb, memory.known.get(&number)) {
        ("update" | "delete", None) => ("get", None),
        ("update" | "delete", Some(revision)) => (verb, Some(*revision)),
        // Half of the patches name the version that they build on.
        ("patch", Some(revision)) if client.below(2) == 0 => (verb, Some(*revision)),
        _ => (verb, None),
    };
    let is_list = verb == "list";
    let reads = match verb {
        "get" | "list" => reads(client, is_list, memory),
        _ => Reads::Latest,
    };
    let call = call(&client.namespace, &name, &value, (verb, expected, reads));
    let call_us = client.now_us();
    let server = client.endpoint().node.clone();
    let answer = ask(client.endpoint(), &call, ANSWER_LIMIT).await;
    let listed = match &answer {
        Answer::Ok(list) if is_list => Some(listed(list)),
        _ => None,
    };
    let outcome = outcome(answer, verb);
    memory.learn(&outcome, verb, number);
    if matches!(outcome, Outcome::Unknown { .. }) {
        client.move_on();
    }
    let operation = Operation {
        client: client.id,
        server,
        verb: verb.to_string(),
        key: if is_list {
            format!("{}/", client.namespace)
        } else {
            format!("{}/{name}", client.namespace)
        },
        value: matches!(verb, "create" | "update" | "patch").then_some(value),
        expected,
        reads,
        listed,
        call_us,
        outcome,
    };
    match belied(operation, &client.switches) {
        Some(operation) => client.tell(What::Operation(operation)).await,
        None => Ok(()),
    }
}

/// What the planted defects make of an operation; without one it stays as it is.
fn belied(mut operation: Operation, switches: &Switches) -> Option<Operation> {
    let (verb, value) = (operation.verb.as_str(), operation.value.clone());
    let revision = operation.expected.unwrap_or(1) + 1;
    match &operation.outcome {
        Outcome::Refused { .. } if verb != "get" && switches.on(Sabotage::WorkloadAcksRefused) => {
            operation.outcome = Outcome::Ok { revision, value };
        }
        Outcome::Unknown { why } if switches.on(Sabotage::WorkloadDeniesUnknown) => {
            operation.outcome = Outcome::Refused { code: 409, reason: why.clone() };
        }
        // Times are as good as random.
        _ if switches.on(Sabotage::WorkloadHidesOperations)
            && operation.call_us.is_multiple_of(10) =>
        {
            return None;
        }
        _ => {}
    }
    Some(operation)
}

/// Where a watch stands.
#[derive(Default)]
struct Standing {
    stream: u32,
    revision: i64,
    /// What the list before the next watch contained.
    listed: Option<BTreeMap<String, i64>>,
}

/// A client that lists once and then watches, closes, and resumes where it was, perhaps elsewhere.
async fn follow(mut client: Client) {
    let mut standing = Standing::default();
    loop {
        // Revision 0 is never reached: it stands for nowhere.
        while standing.revision == 0 {
            match list(&mut client).await {
                Ok(Some((revision, listed))) => {
                    standing.revision = revision;
                    standing.listed = Some(listed);
                }
                Ok(None) => {}
                Err(Over) => return,
            }
        }
        standing.stream += 1;
        let began = (client.endpoint().node.clone(), standing.listed.take());
        let started = What::WatchStream {
            client: client.id,
            stream: standing.stream,
            server: began.0.clone(),
            revision: standing.revision,
            state: "began".into(),
            listed: began.1,
        };
        if client.tell(started).await.is_err() {
            return;
        }
        let Ok(end) = watch_once(&mut client, &mut standing).await else { return };
        let (is_own, is_expired) = (end == "closed", end.starts_with("410"));
        let ended = What::WatchStream {
            client: client.id,
            stream: standing.stream,
            server: began.0,
            revision: standing.revision,
            state: end,
            listed: None,
        };
        if client.tell(ended).await.is_err() {
            return;
        }
        if is_expired {
            standing.revision = 0;
        }
        // Half of the watches that it closed itself go on elsewhere.
        if !is_own || client.below(2) == 0 {
            client.move_on();
        }
        if client.rest(RECONNECT).await.is_err() {
            return;
        }
    }
}

/// Lists once; `None` if there was no answer.
async fn list(client: &mut Client) -> Result<Option<(i64, BTreeMap<String, i64>)>, Over> {
    let call = Call::get(path(&client.namespace, ""));
    let Answer::Ok(list) = ask(client.endpoint(), &call, ANSWER_LIMIT).await else {
        client.move_on();
        client.rest(RECONNECT).await?;
        return Ok(None);
    };
    Ok(Some((revision_of(&list), listed(&list))))
}

/// The revision of each object of a list, by its key.
fn listed(list: &Value) -> BTreeMap<String, i64> {
    let items = list["items"].as_array().into_iter().flatten();
    items.map(|item| (key_of(item), revision_of(item))).collect()
}

fn key_of(object: &Value) -> String {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    format!("{}/{}", text("/metadata/namespace"), text("/metadata/name"))
}

/// Follows one watch until it ends or its time is over; tells why it ended.
async fn watch_once(client: &mut Client, standing: &mut Standing) -> Result<String, Over> {
    let uri = format!(
        "{}?watch=true&allowWatchBookmarks=true&resourceVersion={}",
        path(&client.namespace, ""),
        standing.revision
    );
    let request = Request::get(uri).body(Vec::new()).expect("paths are made of checked names");
    let server = client.endpoint().client.clone();
    let reader = match timeout(ANSWER_LIMIT, server.request_stream(request)).await {
        Ok(Ok(reader)) => reader,
        Ok(Err(kube::Error::Api(status))) => {
            return Ok(format!("{} {}", status.code, status.message));
        }
        Ok(Err(error)) => return Ok(error.to_string()),
        Err(_) => return Ok("no answer".into()),
    };
    let (least, most) = FOLLOW_MS;
    let follow = Duration::from_millis(least + client.below(most - least));
    let closes = Instant::now() + follow;
    let mut lines = Box::pin(reader).lines();
    loop {
        let line = tokio::select! {
            biased;
            () = client.stop.changed() => return Ok("closed".into()),
            line = lines.next() => line,
            () = tokio::time::sleep_until(closes) => return Ok("closed".into()),
        };
        let event: Value = match line {
            None => return Ok("ended by the server".into()),
            Some(Err(error)) => return Ok(error.to_string()),
            Some(Ok(line)) => match serde_json::from_str(&line) {
                Ok(event) => event,
                Err(error) => return Ok(format!("torn: {error}")),
            },
        };
        let object = &event["object"];
        let change = match event["type"].as_str() {
            Some("ADDED") => Change::Added,
            Some("MODIFIED") => Change::Modified,
            Some("DELETED") => Change::Deleted,
            Some("BOOKMARK") => {
                standing.revision = revision_of(object).max(standing.revision);
                continue;
            }
            _ => return Ok(format!("{} {}", object["code"], object["message"])),
        };
        standing.revision = revision_of(object);
        let delivered = What::Delivered {
            client: client.id,
            stream: standing.stream,
            change,
            key: key_of(object),
            revision: standing.revision,
            value: value_of(object),
        };
        client.tell(delivered).await?;
    }
}
