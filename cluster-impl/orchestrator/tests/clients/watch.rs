//! Watches: what kubectl asks for, what it is told, and what happens to who comes too late.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::terminal::Terminal;
use crate::wire::JSON;
use crate::{Entry, Needs};

const MAPS: &str = "/api/v1/namespaces/{ns}/configmaps";
const OWN: &str = "fieldSelector=metadata.name%3Da";

pub const TRIALS: &[Entry] = &[
    ("bookmarks_end_initial_events", Needs::Nothing, initial_events),
    ("events_are_told_in_order", Needs::Nothing, events),
    ("kubectl_watches_after_a_list", Needs::Nothing, kubectl_watches),
    ("too_late_is_gone", Needs::Dev, too_late),
];

fn kubectl_watches(terminal: &Terminal) {
    let watches = |spoken: &crate::terminal::Spoken, path: &str| {
        let found =
            spoken.requests().find(|line| line.contains(path) && line.contains("watch=true"));
        let line = found.unwrap_or_else(|| panic!("no watch of {path} in\n{}", spoken.text));
        for part in ["resourceVersion=", "allowWatchBookmarks=true", "timeoutSeconds="] {
            assert!(line.contains(part), "{part}: {line}");
        }
    };
    terminal.ok("kubectl create deployment web --image=nginx --replicas=2");
    let spoken = terminal.spoken("rollout status deployment web --timeout=60s");
    spoken.sent("GET", "/deployments?");
    watches(&spoken, "/deployments?");
    spoken.has("successfully rolled out");
    let spoken = terminal.spoken("wait --for=condition=Available deployment/web --timeout=60s");
    spoken.has("deployment.apps/web condition met");
    let spoken = terminal.spoken("delete deployment web --timeout=60s");
    spoken.has("deployment.apps \"web\" deleted");
    terminal.ok("kubectl run web --image=nginx");
    let spoken = terminal.spoken("wait --for=condition=Ready pod/web --timeout=60s");
    spoken.has("pod/web condition met");
    let spoken = terminal.spoken("delete pod web --grace-period=1 --timeout=60s");
    spoken.has("pod \"web\" deleted");
    watches(&spoken, "/pods?");
    // A watch that ends at once would be complained about.
    assert!(!spoken.text.contains("very short watch"), "{}", spoken.text);
    terminal.refuses(
        "kubectl wait --for=condition=Ready pod/none --timeout=1s",
        &["pods \"none\" not found"],
    );
    terminal.ok(
        "kubectl run slow --image=nginx --overrides='{\"spec\":{\"schedulerName\":\"nobody\"}}'",
    );
    terminal.refuses(
        "kubectl wait --for=condition=Ready pod/slow --timeout=1s",
        &["timed out waiting for the condition on pods/slow"],
    );
}

fn events(terminal: &Terminal) {
    let wire = &terminal.wire;
    let made = wire.made(MAPS, &json!({"metadata": {"name": "a"}, "data": {"key": "1"}}));
    let first = made["metadata"]["resourceVersion"].as_str().expect("it has one").to_owned();
    let path = format!("{MAPS}/a");
    wire.patch(&path, "merge-patch+json", &json!({"data": {"key": "2"}}));
    wire.patch(&path, "merge-patch+json", &json!({"metadata": {"labels": {"own": "yes"}}}));
    wire.delete(&path, &json!({}));
    let watch = |query: &str| {
        let told = wire.get(&format!("{MAPS}?watch=true&timeoutSeconds=1&{query}"), JSON);
        let events = told.events();
        let kinds = events.iter().map(|event| event["type"].as_str().expect("a type").to_owned());
        (kinds.collect::<Vec<_>>().join(" "), events)
    };
    let (kinds, events) = watch(&format!("{OWN}&resourceVersion={first}"));
    assert_eq!(kinds, "MODIFIED MODIFIED DELETED");
    assert_eq!(events[0]["object"]["data"]["key"], "2");
    let versions = events.iter().map(|event| {
        let version = event["object"]["metadata"]["resourceVersion"].as_str().expect("it has one");
        version.parse::<u64>().expect("it is a number here")
    });
    assert!(versions.collect::<Vec<_>>().is_sorted());
    // What comes into a selection is added to it, what leaves it is deleted from it.
    let (kinds, _) = watch(&format!("labelSelector=own%3Dyes&resourceVersion={first}"));
    assert_eq!(kinds, "ADDED DELETED");
    let (kinds, _) = watch(&format!("{OWN}&resourceVersion={first}&allowWatchBookmarks=true"));
    assert!(kinds.starts_with("MODIFIED MODIFIED DELETED"), "{kinds}");
    let told = wire
        .get(&format!("{MAPS}?watch=true&resourceVersion={first}&limit=1&timeoutSeconds=1"), JSON);
    assert_eq!(told.code, 200, "{}", told.text());
}

fn initial_events(terminal: &Terminal) {
    terminal.wire.made(MAPS, &json!({"metadata": {"name": "a"}}));
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                 &allowWatchBookmarks=true&timeoutSeconds=1";
    let told = terminal.wire.get(&format!("{MAPS}?{OWN}&{query}"), JSON).events();
    assert_eq!(told[0]["type"], "ADDED");
    assert_eq!(told[1]["type"], "BOOKMARK");
    let bookmark = &told[1]["object"];
    assert_eq!(bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert!(bookmark["metadata"]["resourceVersion"].is_string());
    let told = terminal.wire.get(&format!("{MAPS}?watch=true&sendInitialEvents=true"), JSON);
    assert_eq!(told.reason(), (422, "Invalid".to_owned()));
}

/// Asks until what was known then has been forgotten.
fn when_gone(ask: impl Fn() -> Value) -> Value {
    // The history is a second long; far above that, as the machine may be busy.
    let began = tokio::time::Instant::now();
    loop {
        let told = ask();
        if told["code"] == 410 || began.elapsed() > Duration::from_secs(60) {
            return told;
        }
    }
}

fn too_late(terminal: &Terminal) {
    let short = terminal.with_short_history();
    let wire = &short.terminal().wire;
    wire.made(MAPS, &json!({"metadata": {"name": "a"}}));
    let gone = when_gone(|| {
        // Each write makes the history longer, so that there is something to forget.
        wire.patch(&format!("{MAPS}/a"), "merge-patch+json", &json!({"data": {"a": "b"}}));
        wire.patch(&format!("{MAPS}/a"), "merge-patch+json", &json!({"data": {"a": "c"}}));
        wire.get(&format!("{MAPS}?resourceVersion=2&resourceVersionMatch=Exact"), JSON).json()
    });
    assert_eq!((&gone["code"], &gone["reason"]), (&json!(410), &json!("Expired")), "{gone}");
    let told = wire.get(&format!("{MAPS}?watch=true&resourceVersion=2&timeoutSeconds=1"), JSON);
    // Either at once, or as the first event.
    let told = told.events().remove(0);
    let status = if told["type"] == "ERROR" { &told["object"] } else { &told };
    assert_eq!((&status["code"], &status["reason"]), (&json!(410), &json!("Expired")), "{told}");
}

pub fn expired_tokens(terminal: &Terminal) {
    let short = terminal.with_short_history();
    let wire = &short.terminal().wire;
    for name in ["a", "b", "c", "d"] {
        wire.made(MAPS, &json!({"metadata": {"name": name}}));
    }
    let first = wire.get(&format!("{MAPS}?limit=2"), JSON).json();
    let token = first["metadata"]["continue"].as_str().expect("there is more").to_owned();
    let next = format!("{MAPS}?limit=2&continue={token}");
    let gone = when_gone(|| {
        wire.patch(&format!("{MAPS}/a"), "merge-patch+json", &json!({"data": {"a": "b"}}));
        wire.patch(&format!("{MAPS}/a"), "merge-patch+json", &json!({"data": {"a": "c"}}));
        wire.ask(Method::GET, &next, &[("accept", JSON)], b"").json()
    });
    assert_eq!((&gone["code"], &gone["reason"]), (&json!(410), &json!("Expired")), "{gone}");
    // With the new token one goes on where one was, at another resource version.
    let fresh = gone["metadata"]["continue"].as_str().expect("there is a new one");
    let rest = wire.get(&format!("{MAPS}?limit=2&continue={fresh}"), JSON);
    assert_eq!(rest.code, 200, "{}", rest.text());
    let names: Vec<Value> = rest.json()["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|map| map["metadata"]["name"].clone())
        .collect();
    assert_eq!(names, ["c", "d"]);
    assert_ne!(rest.json()["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
}
