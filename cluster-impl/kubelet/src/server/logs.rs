//! `/containerLogs`: what a container wrote, from where and for how long the client wants.
//!
//! Invariant: at most one record is held; a client that does not read holds the file, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use env::Timestamp;
use futures::StreamExt;
use http::{HeaderValue, Request, Response, header};
use machinery::Object;
use serde_json::Value;

use super::{Body, KubeletServer, Refusal, access};
use crate::access::{ContainerLog, LogRecord};
use crate::pod_spec::{all_containers, pod_id};
use crate::runtime::{ContainerState, ContainerStatus};

/// So often a followed log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After so many looks at which nothing was new the container is looked at.
const LOOKS_PER_STATE: u32 = 10;

/// What a client wants to see.
#[derive(Debug, Clone, Default)]
struct Options {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail: Option<u64>,
    since: Option<Timestamp>,
    bytes_max: Option<u64>,
}

impl Options {
    fn read(query: &[(String, String)], now: Timestamp) -> Result<Self, Refusal> {
        let invalid = || Refusal::bad_request("{\"message\": \"Invalid request.\"}");
        let text = |name: &str| {
            let found = query.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
        };
        let number = |name: &str| text(name).map(str::parse::<u64>).transpose();
        let flag = |name: &str| {
            query.iter().any(|(key, value)| {
                key == name && matches!(value.as_str(), "" | "1" | "t" | "true" | "True" | "TRUE")
            })
        };
        let tail = match text("tailLines") {
            Some("all") => None,
            _ => number("tailLines").map_err(|_| invalid())?,
        };
        let since = match number("sinceSeconds").map_err(|_| invalid())? {
            Some(seconds) => {
                let seconds = i64::try_from(seconds).map_err(|_| invalid())?;
                Some(
                    now.checked_sub(jiff::SignedDuration::from_secs(seconds))
                        .map_err(|_| invalid())?,
                )
            }
            None => text("sinceTime").map(str::parse).transpose().map_err(|_| invalid())?,
        };
        Ok(Self {
            follow: flag("follow"),
            previous: flag("previous"),
            timestamps: flag("timestamps"),
            tail,
            since,
            bytes_max: number("limitBytes").map_err(|_| invalid())?,
        })
    }
}

pub(super) async fn answer(
    server: &Arc<KubeletServer>,
    pod: &Arc<Object>,
    name: &str,
    request: &Request<Bytes>,
) -> Result<Response<Body>, Refusal> {
    let options = Options::read(&access::query(request), server.env.now())?;
    if !has_container(pod, name) {
        let why = format!("container {name:?} not found in pod {:?}\n", pod.name());
        return Err(Refusal::not_found(why));
    }
    let all = server.containers(pod, name).await?;
    let container = choose(pod, name, all, options.previous)?;
    let log = server.runtime.open_log(&pod_id(pod), &container, options.tail).await?;
    let reading = Reading {
        server: server.clone(),
        pod: pod.clone(),
        container,
        log,
        writer: Writer::new(&options),
        follow: options.follow && !options.previous,
    };
    let pieces = futures::stream::unfold(reading, |mut reading| async {
        reading.piece().await.map(|piece| (piece, reading))
    });
    let mut response = Response::new(Body::stream(pieces.boxed()));
    let media_type = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    Ok(response)
}

fn has_container(pod: &Object, name: &str) -> bool {
    all_containers(pod).any(|container| container["name"] == name)
}

/// The container whose log is meant, of all of the name, the newest first.
fn choose(
    pod: &Object,
    name: &str,
    all: Vec<ContainerStatus>,
    is_previous: bool,
) -> Result<ContainerStatus, Refusal> {
    let pod_name = pod.name();
    let mut started = all.into_iter().filter(|one| one.state != ContainerState::Created);
    if is_previous {
        // Of one that waits for its next life, the last life is the previous one.
        let latest = started.next();
        let waits = is_waiting(pod, name);
        let previous =
            latest.filter(|one| waits && one.state == ContainerState::Exited).or(started.next());
        return previous.ok_or_else(|| {
            Refusal::bad_request(format!(
                "previous terminated container {name:?} in pod {pod_name:?} not found"
            ))
        });
    }
    started.next().ok_or_else(|| {
        let why = match waiting_reason(pod, name) {
            "" => format!("container {name:?} in pod {pod_name:?} is not available"),
            "ErrImagePull" => format!(
                "container {name:?} in pod {pod_name:?} is waiting to start: image can't be pulled"
            ),
            "ImagePullBackOff" => format!(
                "container {name:?} in pod {pod_name:?} is waiting to start: trying and failing to \
                 pull image"
            ),
            reason => {
                format!("container {name:?} in pod {pod_name:?} is waiting to start: {reason}")
            }
        };
        Refusal::bad_request(why)
    })
}

fn state<'p>(pod: &'p Object, name: &str) -> &'p Value {
    crate::status::reported(pod, name).map_or(&Value::Null, |status| &status["state"])
}

fn is_waiting(pod: &Object, name: &str) -> bool {
    state(pod, name)["waiting"].is_object()
}

fn waiting_reason<'p>(pod: &'p Object, name: &str) -> &'p str {
    let state = state(pod, name);
    match state["waiting"]["reason"].as_str() {
        Some(reason) => reason,
        // The status has not been told yet.
        None if state.is_null() => "ContainerCreating",
        None => "",
    }
}

/// A log that somebody reads.
struct Reading {
    server: Arc<KubeletServer>,
    pod: Arc<Object>,
    container: ContainerStatus,
    log: Box<dyn ContainerLog>,
    writer: Writer,
    follow: bool,
}

impl Reading {
    /// The next piece of text; `None` at the end.
    async fn piece(&mut self) -> Option<Bytes> {
        let (mut looks, mut has_ended) = (0, false);
        loop {
            match self.log.next().await {
                Ok(Some(record)) => {
                    if let Some(piece) = self.writer.write(&record) {
                        return Some(piece);
                    }
                    if self.writer.is_full() {
                        return None;
                    }
                    continue;
                }
                Ok(None) if !self.follow || has_ended => return None,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, pod = %self.pod.key(), "a log breaks off");
                    return None;
                }
            }
            looks += 1;
            if looks % LOOKS_PER_STATE == 0 {
                // What it wrote last is still read before the end.
                has_ended = !self.is_running().await;
                continue;
            }
            self.server.env.sleep(LOOK_EVERY).await;
        }
    }

    async fn is_running(&self) -> bool {
        match self.server.runtime.containers(self.pod.uid()).await {
            Ok(all) => all
                .iter()
                .any(|one| one.id == self.container.id && one.state == ContainerState::Running),
            // A runtime that is silent for a while ends no log.
            Err(error) => !matches!(error, crate::runtime::RuntimeError::NotFound(_)),
        }
    }
}

/// What a client is told of these records, if its query can be read.
#[cfg(any(test, fuzzing))]
pub(crate) fn told(
    query: &str,
    records: &[LogRecord],
    now: Timestamp,
) -> Option<(Option<u64>, Vec<Bytes>)> {
    let request = http::Request::builder().uri(format!("/?{query}")).body(Bytes::new()).ok()?;
    let options = Options::read(&super::access::query(&request), now).ok()?;
    let mut writer = Writer::new(&options);
    let told = records.iter().filter_map(|record| writer.write(record)).collect();
    Some((options.bytes_max, told))
}

/// Turns records into the text that the client wants.
struct Writer {
    timestamps: bool,
    since: Option<Timestamp>,
    left: Option<u64>,
    /// The next record begins a line.
    is_new_line: bool,
}

impl Writer {
    fn new(options: &Options) -> Self {
        let Options { timestamps, since, bytes_max: left, .. } = *options;
        Self { timestamps, since, left, is_new_line: true }
    }

    /// Nothing more may be written.
    fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    fn write(&mut self, record: &LogRecord) -> Option<Bytes> {
        if self.since.is_some_and(|since| record.at < since) || self.is_full() {
            return None;
        }
        let mut text = BytesMut::with_capacity(record.text.len() + 36);
        if self.timestamps && self.is_new_line {
            text.extend_from_slice(format!("{:.9} ", record.at).as_bytes());
        }
        text.extend_from_slice(&record.text);
        self.is_new_line = !record.is_partial;
        if let Some(left) = &mut self.left {
            text.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= text.len() as u64;
        }
        (!text.is_empty()).then(|| text.freeze())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().unwrap()
    }

    fn options(query: &[(&str, &str)]) -> Result<Options, Refusal> {
        let query: Vec<_> =
            query.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Options::read(&query, now())
    }

    fn written(query: &[(&str, &str)]) -> String {
        let record = |at: &str, is_partial: bool, text: &'static str| LogRecord {
            at: format!("2026-01-01T00:00:{at}Z").parse().unwrap(),
            is_stderr: false,
            is_partial,
            text: Bytes::from_static(text.as_bytes()),
        };
        let mut writer = Writer::new(&options(query).unwrap());
        let records =
            [record("10", false, "one\n"), record("20.5", true, "tw"), record("30", false, "o\n")];
        let pieces = records.iter().filter_map(|record| writer.write(record));
        String::from_utf8(pieces.flat_map(|piece| piece.to_vec()).collect()).unwrap()
    }

    #[test]
    fn records_become_the_text_that_is_wanted() {
        assert_eq!(written(&[]), "one\ntwo\n");
        assert_eq!(
            written(&[("timestamps", "true")]),
            "2026-01-01T00:00:10.000000000Z one\n2026-01-01T00:00:20.500000000Z two\n"
        );
        assert_eq!(written(&[("sinceSeconds", "45")]), "two\n");
        assert_eq!(written(&[("sinceTime", "2026-01-01T01:00:25+01:00")]), "o\n");
        assert_eq!(written(&[("limitBytes", "5")]), "one\nt");
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        for (name, value) in [
            ("tailLines", "x"),
            ("tailLines", "-1"),
            ("limitBytes", "x"),
            ("sinceSeconds", "1e3"),
            ("sinceSeconds", "9223372036854775807"),
            ("sinceTime", "yesterday"),
        ] {
            assert_eq!(options(&[(name, value)]).unwrap_err().0, 400, "{name}={value}");
        }
        assert_eq!(options(&[("tailLines", "all")]).unwrap().tail, None);
    }

    fn container(attempt: u32, state: ContainerState) -> ContainerStatus {
        ContainerStatus {
            id: attempt.to_string(),
            sandbox_id: String::new(),
            pod_uid: String::new(),
            name: "app".to_owned(),
            attempt,
            hash: String::new(),
            image: String::new(),
            image_id: String::new(),
            state,
            created: now(),
            started: None,
            finished: None,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
        }
    }

    #[test]
    fn the_container_is_the_latest_or_the_one_before() {
        use ContainerState::{Created, Exited, Running};
        let mut pod = Object::new("v1", "Pod", "default", "web");
        let told = |pod: &Object, states: &[ContainerState], is_previous| {
            let all = states.iter().zip(0_u32..).map(|(state, attempt)| container(attempt, *state));
            let mut all: Vec<_> = all.collect();
            all.reverse();
            match choose(pod, "app", all, is_previous) {
                Ok(container) => container.id,
                Err(Refusal(code, why)) => format!("{code} {why}"),
            }
        };
        assert_eq!(told(&pod, &[Exited, Running], false), "1");
        assert_eq!(told(&pod, &[Exited, Running], true), "0");
        assert_eq!(told(&pod, &[Exited, Created], false), "0");
        let missing = "400 previous terminated container \"app\" in pod \"web\" not found";
        assert_eq!(told(&pod, &[Running], true), missing);
        let waiting = "400 container \"app\" in pod \"web\" is waiting to start: ContainerCreating";
        assert_eq!(told(&pod, &[], false), waiting);
        let waits = json!([{"name": "app", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]);
        pod.set("/status/containerStatuses", waits);
        assert!(told(&pod, &[], false).ends_with("trying and failing to pull image"));
        let waits = json!([{"name": "app", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]);
        pod.set("/status/containerStatuses", waits);
        assert_eq!(told(&pod, &[Exited, Exited], true), "1");
        assert_eq!(told(&pod, &[Exited, Exited], false), "1");
    }
}
