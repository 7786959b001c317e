//! Rules for what a component and its API servers say to each other, exact to the message: a crash
//! at a write, notifications that come late or never, a view that goes back in time.
//!
//! The component notices nothing but what an honest server might say: old states are asked of the
//! server itself, at the old revision, and if that was compacted the server's refusal is handed on.
//! A rule counts from when it is put in force, over all API servers of the component, and outlives
//! its restarts. While there is no rule, nothing is looked at.
//! When a rule is lifted, the watches from which it has withheld something break: the component goes
//! on from what it has really been told, and so sees what was withheld.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use env::Signal;
use http::{Method, Request, Response, Uri};
use machinery::Status;
use serde_json::Value;
use shakedown_core::lever::{Component, Rule};

/// A rule in force.
struct Entry {
    /// No other rule has had it, nor this one when it was put in force before.
    number: u64,
    node: String,
    component: Component,
    rule: Rule,
    /// Writes, or notifications, that it has counted.
    seen: u64,
    hits: u64,
    /// The revisions of the notifications counted so far, for a rewind.
    revisions: Vec<i64>,
    /// The revision at which the view stands still.
    frozen: Option<i64>,
    /// Where the view goes back to with the next list.
    rewinding: Option<i64>,
    /// What it was to do once is done.
    is_spent: bool,
}

impl Entry {
    fn concerns(&self, node: &str, component: Component, kind: &str) -> bool {
        let wanted = match &self.rule {
            Rule::CrashAtWrite { kind, .. }
            | Rule::HoldEvents { kind, .. }
            | Rule::FreezeView { kind, .. }
            | Rule::Rewind { kind, .. } => kind,
        };
        self.node == node && self.component == component && (wanted.is_empty() || wanted == kind)
    }
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Write,
    List,
    Watch,
    Other,
}

/// What becomes of a request.
pub(crate) enum Fate {
    /// It is sent.
    Sent(Sent),
    /// This is the answer.
    Answered(Response<Bytes>),
    /// The component is killed before it is sent.
    Crash,
}

/// What is to be kept in mind about a request that was sent.
#[derive(Default)]
pub(crate) struct Sent {
    /// Of which kind it is, if it is a watch.
    pub(crate) watches: Option<String>,
    /// The rules by which the component is killed when this has been done.
    crash: Vec<String>,
}

/// What becomes of notifications.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// They come, so much later.
    Told(Bytes, Duration),
    /// One does not come, for as long as the rule of this number is in force.
    Withheld(u64),
    /// The connection breaks.
    Break,
}

/// The rules in force.
#[derive(Default)]
pub(crate) struct Meddling {
    /// Read without the lock: there is hardly ever a rule.
    count: AtomicUsize,
    rules: Mutex<BTreeMap<String, Entry>>,
    numbers: AtomicU64,
    /// Raised when a rule is lifted.
    pub(crate) lifted: Signal,
}

impl Meddling {
    /// Puts a rule in force, or puts it in force anew.
    pub(crate) fn set(&self, id: &str, node: &str, component: Component, rule: &Rule) {
        let entry = Entry {
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            node: node.to_owned(),
            component,
            rule: rule.clone(),
            seen: 0,
            hits: 0,
            revisions: Vec::new(),
            frozen: None,
            rewinding: None,
            is_spent: false,
        };
        let mut rules = self.lock();
        let before = rules.insert(id.to_owned(), entry);
        self.count.store(rules.len(), Ordering::Relaxed);
        drop(rules);
        if before.is_some() {
            self.lifted.raise();
        }
    }

    /// Lifts a rule.
    pub(crate) fn lift(&self, id: &str) {
        let mut rules = self.lock();
        let before = rules.remove(id);
        self.count.store(rules.len(), Ordering::Relaxed);
        drop(rules);
        if before.is_some() {
            self.lifted.raise();
        }
    }

    /// Whether one of the rules of these numbers is not in force any more.
    pub(crate) fn is_one_lifted(&self, numbers: &BTreeSet<u64>) -> bool {
        if numbers.is_empty() {
            return false;
        }
        let rules = self.lock();
        let in_force = |number| rules.values().any(|entry| entry.number == number);
        !numbers.iter().all(|number| in_force(*number))
    }

    /// How often a rule has done what it says; `None` if it is not in force.
    pub(crate) fn hits(&self, id: &str) -> Option<u64> {
        self.lock().get(id).map(|entry| entry.hits)
    }

    /// The rules in force, each with the component that it is about.
    pub(crate) fn in_force(&self) -> Vec<(String, String)> {
        let rules = self.lock();
        let told = rules.iter().map(|(id, entry)| {
            (id.clone(), format!("{} on {}: {:?}", entry.component, entry.node, entry.rule))
        });
        told.collect()
    }

    /// Whether there is no rule.
    pub(crate) fn is_idle(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// What becomes of a request of a component.
    pub(crate) fn request(
        &self,
        node: &str,
        component: Component,
        request: &mut Request<Bytes>,
    ) -> Fate {
        let mut sent = Sent::default();
        // A watch is remembered even then: a rule may come while it is open.
        let may_watch =
            request.method() == Method::GET && request.uri().query().is_some_and(is_watch);
        if self.is_idle() && !may_watch {
            return Fate::Sent(sent);
        }
        let Some((kind, asked)) = asked(request.method(), request.uri()) else {
            return Fate::Sent(sent);
        };
        if asked == Asked::Watch {
            sent.watches = Some(kind.clone());
        }
        let mut rules = self.lock();
        let about = rules.iter_mut().filter(|(_, rule)| rule.concerns(node, component, &kind));
        for (id, entry) in about.filter(|(_, entry)| !entry.is_spent) {
            match (&entry.rule, asked) {
                (Rule::CrashAtWrite { nth, is_done, .. }, Asked::Write) => {
                    entry.seen += 1;
                    if entry.seen < u64::from(*nth) {
                        continue;
                    }
                    if *is_done {
                        sent.crash.push(id.clone());
                    } else {
                        (entry.hits, entry.is_spent) = (entry.hits + 1, true);
                        return Fate::Crash;
                    }
                }
                (Rule::FreezeView { .. }, Asked::List) => {
                    if let Some(frozen) = entry.frozen {
                        entry.hits += 1;
                        ask_exactly(request, frozen);
                    }
                }
                (Rule::Rewind { .. }, Asked::List) => {
                    if let Some(back_to) = entry.rewinding.take() {
                        (entry.hits, entry.is_spent) = (entry.hits + 1, true);
                        ask_exactly(request, back_to);
                    }
                }
                // It must list, which is where its view goes back.
                (Rule::Rewind { .. }, Asked::Watch) if entry.rewinding.is_some() => {
                    return Fate::Answered(expired());
                }
                _ => {}
            }
        }
        Fate::Sent(sent)
    }

    /// Whether the component is killed now that a server has answered.
    pub(crate) fn crashes(&self, sent: &Sent, is_done: bool) -> bool {
        if sent.crash.is_empty() || !is_done {
            return false;
        }
        let mut rules = self.lock();
        let mut crashes = false;
        for id in &sent.crash {
            if let Some(entry) = rules.get_mut(id).filter(|entry| !entry.is_spent) {
                (entry.hits, entry.is_spent) = (entry.hits + 1, true);
                crashes = true;
            }
        }
        crashes
    }

    /// What becomes of the lines of a watch, each a notification.
    pub(crate) fn notify(
        &self,
        node: &str,
        component: Component,
        kind: &str,
        lines: Bytes,
    ) -> Vec<Notice> {
        let mut rules = self.lock();
        let mut about: Vec<&mut Entry> = rules
            .values_mut()
            .filter(|entry| !entry.is_spent && entry.concerns(node, component, kind))
            .collect();
        if about.is_empty() {
            return vec![Notice::Told(lines, Duration::ZERO)];
        }
        let mut notices: Vec<(BytesMut, Duration)> = Vec::new();
        let mut withheld = BTreeSet::new();
        let mut breaks = false;
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            match one(&mut about, line) {
                One::Told(line, later) => match notices.last_mut() {
                    Some((lines, same)) if *same == later => lines.put_slice(&line),
                    _ => notices.push((BytesMut::from(&line[..]), later)),
                },
                One::Withheld(number) => {
                    withheld.insert(number);
                }
                One::Break => {
                    breaks = true;
                    break;
                }
            }
        }
        let told = notices.into_iter().map(|(lines, later)| Notice::Told(lines.freeze(), later));
        let withheld = withheld.into_iter().map(Notice::Withheld);
        told.chain(withheld).chain(breaks.then_some(Notice::Break)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.rules.lock().expect("no code panics while it holds the rules")
    }
}

/// What becomes of one line of a watch.
enum One {
    Told(Vec<u8>, Duration),
    Withheld(u64),
    Break,
}

fn one(rules: &mut [&mut Entry], line: &[u8]) -> One {
    let mut line = line.to_vec();
    let Ok(mut event) = serde_json::from_slice::<Value>(&line) else {
        return One::Told(line, Duration::ZERO);
    };
    let is_bookmark = event["type"] == "BOOKMARK";
    let is_change = ["ADDED", "MODIFIED", "DELETED"].iter().any(|change| event["type"] == **change);
    let revision = event["object"]["metadata"]["resourceVersion"].as_str();
    let Some(revision) = revision.and_then(|text| text.parse::<i64>().ok()) else {
        return One::Told(line, Duration::ZERO);
    };
    let mut later = Duration::ZERO;
    for entry in rules {
        // What a crash counts are writes.
        let counts = !matches!(entry.rule, Rule::CrashAtWrite { .. });
        if is_change && counts && entry.frozen.is_none() {
            entry.seen += 1;
        }
        match &entry.rule {
            Rule::HoldEvents { nth, by_us, .. } => {
                if is_change && entry.seen >= u64::from(*nth) {
                    entry.hits += 1;
                    later += Duration::from_micros(*by_us);
                }
            }
            Rule::FreezeView { nth, .. } => {
                if is_change && entry.frozen.is_none() && entry.seen >= u64::from(*nth) {
                    entry.frozen = Some((revision - 1).max(1));
                }
                let Some(frozen) = entry.frozen.filter(|frozen| revision > *frozen) else {
                    continue;
                };
                if is_bookmark {
                    // A sign of life that tells of nothing new.
                    event["object"]["metadata"]["resourceVersion"] = frozen.to_string().into();
                    line = event.to_string().into_bytes();
                    line.push(b'\n');
                } else {
                    entry.hits += 1;
                    return One::Withheld(entry.number);
                }
            }
            Rule::Rewind { nth, back, .. } => {
                if is_change && entry.rewinding.is_none() {
                    entry.revisions.push(revision);
                    if entry.seen >= u64::from(*nth) {
                        let back = usize::try_from(*back).unwrap_or(usize::MAX);
                        let at = (entry.revisions.len() - 1).saturating_sub(back);
                        entry.rewinding = Some((entry.revisions[at] - 1).max(1));
                        return One::Break;
                    }
                }
            }
            Rule::CrashAtWrite { .. } => {}
        }
    }
    One::Told(line, later)
}

/// The kind that a request is about, plural and group, and what it asks for.
fn asked(method: &Method, uri: &Uri) -> Option<(String, Asked)> {
    let mut parts = uri.path().trim_matches('/').split('/');
    let group = match parts.next()? {
        "api" => "",
        "apis" => parts.next()?,
        _ => return None,
    };
    let _version = parts.next()?;
    let rest: Vec<&str> = parts.collect();
    let (plural, name) = match rest.as_slice() {
        ["namespaces", _, "status" | "finalize"] => ("namespaces", Some(())),
        ["namespaces", _, plural] => (*plural, None),
        ["namespaces", _, plural, ..] => (*plural, Some(())),
        [plural] => (*plural, None),
        [plural, ..] => (*plural, Some(())),
        [] => return None,
    };
    let kind = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    let query = uri.query().unwrap_or_default();
    let asked = match *method {
        Method::GET if is_watch(query) => Asked::Watch,
        Method::GET if name.is_none() => Asked::List,
        Method::POST | Method::PUT | Method::PATCH | Method::DELETE => Asked::Write,
        _ => Asked::Other,
    };
    Some((kind, asked))
}

fn is_watch(query: &str) -> bool {
    query.split('&').any(|part| ["watch=true", "watch=1", "watch"].contains(&part))
}

/// Makes a list one of exactly this revision. A page of a list that was begun stays as it is.
fn ask_exactly(request: &mut Request<Bytes>, revision: i64) {
    let query = request.uri().query().unwrap_or_default();
    let names = |part: &str, name: &str| {
        part.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    if query.split('&').any(|part| part.len() > "continue=".len() && names(part, "continue")) {
        return;
    }
    let kept = query.split('&').filter(|part| {
        !part.is_empty()
            && !names(part, "resourceVersion")
            && !names(part, "resourceVersionMatch")
            && !names(part, "continue")
    });
    let mut all: Vec<String> = kept.map(str::to_owned).collect();
    all.push(format!("resourceVersion={revision}"));
    all.push("resourceVersionMatch=Exact".to_owned());
    let asked = format!("{}?{}", request.uri().path(), all.join("&"));
    // What was a path and a query is one with other options.
    *request.uri_mut() = asked.parse().expect("a path and a query make an address");
}

/// A watch that ends at once with 410, as of a server that no longer has what it should go on from.
fn expired() -> Response<Bytes> {
    let status = Status::expired("too old resource version".to_owned()).to_value();
    let line = format!("{{\"type\":\"ERROR\",\"object\":{status}}}\n");
    Response::builder()
        .header("content-type", "application/json")
        .body(Bytes::from(line))
        .expect("a header makes an answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBELET: Component = Component::Kubelet;

    fn line(event: &str, revision: i64) -> String {
        format!(
            "{{\"type\":\"{event}\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"{revision}\"\
             }}}}}}\n"
        )
    }

    /// The revisions that are told, each with how much later; `-1` where the connection breaks.
    fn told(meddling: &Meddling, lines: &[(&str, i64)]) -> Vec<(i64, u64)> {
        let bytes: String = lines.iter().map(|(event, revision)| line(event, *revision)).collect();
        let notices = meddling.notify("n", KUBELET, "pods", bytes.into());
        let mut told = Vec::new();
        for notice in notices {
            match notice {
                Notice::Told(lines, later) => {
                    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                        let event: Value = serde_json::from_slice(line).expect("json");
                        let revision = event["object"]["metadata"]["resourceVersion"].as_str();
                        let revision = revision.expect("text").parse().expect("a number");
                        told.push((revision, u64::try_from(later.as_micros()).expect("short")));
                    }
                }
                Notice::Withheld(number) => {
                    assert!(!meddling.is_one_lifted(&BTreeSet::from([number])));
                }
                Notice::Break => told.push((-1, 0)),
            }
        }
        told
    }

    fn request(method: Method, path: &str) -> Request<Bytes> {
        let request = Request::builder().method(method).uri(path);
        request.body(Bytes::new()).expect("a request")
    }

    /// Where a list goes.
    fn list(meddling: &Meddling, path: &str) -> String {
        let mut request = request(Method::GET, path);
        let sent = meddling.request("n", KUBELET, &mut request);
        assert!(matches!(sent, Fate::Sent(_)));
        request.uri().to_string()
    }

    #[test]
    fn kinds_and_verbs_are_read_from_the_path() {
        for (method, path, kind, wanted) in [
            (Method::GET, "/api/v1/pods", "pods", Asked::List),
            (Method::GET, "/api/v1/pods?watch=true&x=1", "pods", Asked::Watch),
            (Method::GET, "/api/v1/namespaces/a/pods?limit=5", "pods", Asked::List),
            (Method::GET, "/api/v1/namespaces/a/pods/b", "pods", Asked::Other),
            (Method::POST, "/api/v1/namespaces/a/pods/b/binding", "pods", Asked::Write),
            (Method::GET, "/api/v1/namespaces", "namespaces", Asked::List),
            (Method::GET, "/api/v1/namespaces/a", "namespaces", Asked::Other),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "namespaces", Asked::Write),
            (Method::PATCH, "/apis/apps/v1/namespaces/a/d/x/status", "d.apps", Asked::Write),
            (Method::DELETE, "/apis/apps/v1/namespaces/a/d/x", "d.apps", Asked::Write),
        ] {
            let uri: Uri = path.parse().expect("a path");
            assert_eq!(asked(&method, &uri), Some((kind.to_owned(), wanted)), "{method} {path}");
        }
        assert_eq!(asked(&Method::GET, &"/healthz".parse().expect("a path")), None);
    }

    #[test]
    fn events_are_held_from_the_nth_on() {
        let meddling = Meddling::default();
        let rule = Rule::HoldEvents { kind: "pods".to_owned(), nth: 2, by_us: 7 };
        meddling.set("x", "n", KUBELET, &rule);
        let lines = [("ADDED", 3), ("BOOKMARK", 4), ("MODIFIED", 5), ("DELETED", 6)];
        assert_eq!(told(&meddling, &lines), [(3, 0), (4, 0), (5, 7), (6, 7)]);
        assert_eq!(meddling.hits("x"), Some(2));
        let other = meddling.notify("n", KUBELET, "nodes", line("ADDED", 9).into());
        assert_eq!(other, [Notice::Told(line("ADDED", 9).into(), Duration::ZERO)]);
        meddling.lift("x");
        assert!(meddling.is_idle() && meddling.hits("x").is_none());
    }

    #[test]
    fn a_frozen_view_is_of_one_revision_and_bookmarks_do_not_betray_the_truth() {
        let meddling = Meddling::default();
        let rule = Rule::FreezeView { kind: "pods".to_owned(), nth: 2 };
        meddling.set("x", "n", KUBELET, &rule);
        assert_eq!(list(&meddling, "/api/v1/pods?labelSelector=a"), "/api/v1/pods?labelSelector=a");
        assert_eq!(told(&meddling, &[("ADDED", 3), ("MODIFIED", 8)]), [(3, 0)]);
        assert_eq!(told(&meddling, &[("BOOKMARK", 9), ("ADDED", 10)]), [(7, 0)]);
        let path =
            "/api/v1/pods?labelSelector=a&resourceVersion=0&resourceVersionMatch=NotOlderThan";
        let exact = "/api/v1/pods?labelSelector=a&resourceVersion=7&resourceVersionMatch=Exact";
        assert_eq!(list(&meddling, path), exact);
        assert_eq!(list(&meddling, "/api/v1/pods?continue=abc"), "/api/v1/pods?continue=abc");
        assert_eq!(list(&meddling, "/api/v1/nodes"), "/api/v1/nodes");
        // A watch that begins earlier is told what came before.
        assert_eq!(told(&meddling, &[("ADDED", 6), ("ADDED", 8)]), [(6, 0)]);
        assert!(meddling.hits("x").is_some_and(|hits| hits >= 4));
        let withheld = BTreeSet::from([0]);
        assert!(!meddling.is_one_lifted(&withheld));
        meddling.set("x", "n", KUBELET, &rule);
        assert!(meddling.is_one_lifted(&withheld), "the same rule anew is another one");
    }

    #[test]
    fn a_rewind_breaks_the_watch_and_answers_the_next_list_from_the_past_once() {
        let meddling = Meddling::default();
        let rule = Rule::Rewind { kind: "pods".to_owned(), nth: 3, back: 1 };
        meddling.set("x", "n", KUBELET, &rule);
        let lines = [("ADDED", 3), ("ADDED", 5), ("ADDED", 9), ("ADDED", 11)];
        assert_eq!(told(&meddling, &lines), [(3, 0), (5, 0), (-1, 0)]);
        assert_eq!(meddling.hits("x"), Some(0), "the view has not gone back yet");
        let mut watch = request(Method::GET, "/api/v1/pods?watch=true&resourceVersion=5");
        let answer = meddling.request("n", KUBELET, &mut watch);
        let Fate::Answered(answer) = answer else { panic!("the watch was opened") };
        let event: Value = serde_json::from_slice(answer.body()).expect("one line of json");
        assert_eq!((&event["type"], &event["object"]["code"]), (&"ERROR".into(), &410.into()));
        let exact = "/api/v1/pods?resourceVersion=4&resourceVersionMatch=Exact";
        assert_eq!(list(&meddling, "/api/v1/pods"), exact);
        assert_eq!(meddling.hits("x"), Some(1));
        assert_eq!(list(&meddling, "/api/v1/pods"), "/api/v1/pods");
        assert_eq!(told(&meddling, &[("ADDED", 5), ("ADDED", 9)]), [(5, 0), (9, 0)]);
    }

    #[test]
    fn a_crash_comes_before_or_after_its_write_and_once() {
        for is_done in [false, true] {
            let meddling = Meddling::default();
            let rule = Rule::CrashAtWrite { kind: "pods".to_owned(), nth: 2, is_done };
            meddling.set("x", "n", KUBELET, &rule);
            let write = |component, path: &str| {
                meddling.request("n", component, &mut request(Method::PUT, path))
            };
            // What its watch is told of meanwhile is no write.
            assert_eq!(told(&meddling, &[("ADDED", 5), ("MODIFIED", 6)]), [(5, 0), (6, 0)]);
            let mut crashed = Vec::new();
            for (component, path) in [
                (KUBELET, "/api/v1/namespaces/a/pods/b"),
                (KUBELET, "/api/v1/nodes/b"),
                (Component::KubeScheduler, "/api/v1/namespaces/a/pods/b"),
                (KUBELET, "/api/v1/namespaces/a/pods/b"),
                (KUBELET, "/api/v1/namespaces/a/pods/b"),
                (KUBELET, "/api/v1/namespaces/a/pods/b"),
            ] {
                crashed.push(match write(component, path) {
                    Fate::Crash => "before",
                    // The fourth is refused by the server, so it is not done.
                    Fate::Sent(sent) if meddling.crashes(&sent, crashed.len() > 3) => "after",
                    _ => "",
                });
            }
            let wanted = match is_done {
                false => ["", "", "", "before", "", ""],
                true => ["", "", "", "", "after", ""],
            };
            assert_eq!(crashed, wanted);
            assert_eq!(meddling.hits("x"), Some(1));
        }
    }
}
