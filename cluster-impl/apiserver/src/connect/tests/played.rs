//! The kubelet that the tests play.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use env::{Env, SimMachine, Task, Timestamp};
use futures::StreamExt;
use http::{Request, Response};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::Body;
use crate::outbound::{Outbound, OutboundError, Peer, Trust, Upgraded};
use crate::spdy::headers::header;
use crate::spdy::{Session, Side, Stream};

/// What the kubelet does with a container's standard streams.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::connect) enum Plays {
    /// Says what it hears, and at its end ends with 7.
    Cat,
    /// Breaks the connection off.
    Dies,
    /// Says this many bytes and ends well.
    Says(usize),
    /// Says how it ended before all that it has to say on its outputs.
    EndsEarly,
    /// Passes bytes back that are no SPDY.
    Echo,
    /// Passes back what comes to each port.
    Ports,
}

pub(in crate::connect) struct Kubelet {
    env: Env,
    plays: Plays,
    asked: Mutex<Vec<String>>,
    tasks: Mutex<Vec<Task<()>>>,
}

impl Kubelet {
    pub(in crate::connect) fn new(plays: Plays) -> Arc<Self> {
        let env = Env::new(Arc::new(SimMachine::new(1, "n", Timestamp::UNIX_EPOCH)), None);
        Arc::new(Self { env, plays, asked: Mutex::default(), tasks: Mutex::default() })
    }

    fn note(&self, peer: &Peer, request: &Request<Bytes>) -> Result<(), OutboundError> {
        let (method, uri) = (request.method(), request.uri());
        let scheme = if peer.trust == Trust::Plain { "http" } else { "https" };
        let line = format!("{method} {scheme}://{}:{}{uri}", peer.host, peer.port);
        self.asked.lock().unwrap().push(line);
        assert!(!request.headers().contains_key("authorization"));
        if peer.host == "10.0.0.99" {
            let why = "connect: connection refused".to_owned();
            return Err(OutboundError::Unreachable("10.0.0.99:10250".to_owned(), why));
        }
        Ok(())
    }

    pub(in crate::connect) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

#[async_trait]
impl Outbound for Kubelet {
    async fn call(
        &self,
        peer: &Peer,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, OutboundError> {
        self.note(peer, &request)?;
        let path = request.uri().path();
        let (code, body) = match path {
            "/moved" => (302, ""),
            path if path.ends_with("/waiting") => {
                (400, "container \"waiting\" in pod \"two\" is waiting to start: ContainerCreating")
            }
            path if path.ends_with("/gone") => (404, "pod does not exist\n"),
            _ => (200, "one\ntwo\n"),
        };
        let pieces = futures::stream::iter(body.split_inclusive('\n').map(Bytes::from));
        let pieces: Vec<Bytes> = pieces.collect().await;
        let body = Body::stream(futures::stream::iter(pieces).boxed());
        let answer = Response::builder().status(code).header("connection", "x-hop");
        let answer = answer.header("x-hop", "1").header("x-body", request.body().len().to_string());
        Ok(answer.header("location", "/elsewhere").body(body).unwrap())
    }

    async fn upgrade(
        &self,
        peer: &Peer,
        request: Request<Bytes>,
    ) -> Result<Upgraded, OutboundError> {
        self.note(peer, &request)?;
        if request.uri().path().ends_with("/gone") {
            let body = Body::whole("container not found (\"gone\")");
            return Ok(Upgraded::Answer(Response::builder().status(404).body(body).unwrap()));
        }
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (env, plays) = (self.env.clone(), self.plays);
        let query = request.uri().query().unwrap_or_default().to_owned();
        self.tasks.lock().unwrap().push(self.env.spawn(play(env, plays, query, theirs)));
        let mut head = Response::new(());
        *head.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        let protocol = request.headers().get("x-stream-protocol-version");
        let protocol = protocol.map_or("", |protocol| protocol.to_str().unwrap());
        for (name, value) in [
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", protocol),
            ("x-from", "the-kubelet"),
        ] {
            head.headers_mut().insert(name, value.parse().unwrap());
        }
        Ok(Upgraded::Stream(head, Box::pin(ours)))
    }
}

async fn play(env: Env, plays: Plays, query: String, mut wire: DuplexStream) {
    if plays == Plays::Echo {
        let mut bytes = [0; 1024];
        while let Ok(read @ 1..) = wire.read(&mut bytes).await {
            wire.write_all(&bytes[..read]).await.unwrap();
        }
        return;
    }
    let mut session = Session::new(&env, wire, Side::Server);
    if plays == Plays::Ports {
        let mut echoes = Vec::new();
        let mut errors = Vec::new();
        while let Some(stream) = session.accept().await {
            if header(stream.headers(), "streamtype") == "error" {
                errors.push(stream);
            } else {
                echoes.push(env.spawn(echo(stream)));
                errors.pop().unwrap().sender().finish().await.unwrap();
            }
        }
        return;
    }
    let wanted = ["input=1", "output=1", "error=1", "tty=1"];
    let count = 1 + wanted.iter().filter(|one| query.contains(*one)).count();
    let mut streams: Vec<Stream> = Vec::new();
    while streams.len() < count {
        streams.push(session.accept().await.unwrap());
    }
    let mut take = |name: &str| {
        let at = streams.iter().position(|one| header(one.headers(), "streamtype") == name)?;
        Some(streams.remove(at))
    };
    let (error, stdin, stdout) = (take("error").unwrap(), take("stdin"), take("stdout"));
    let resize = take("resize");
    if plays == Plays::Dies {
        return;
    }
    if plays == Plays::EndsEarly {
        say_after_the_end(&env, error, [stdout.unwrap(), take("stderr").unwrap()]).await;
        session.close().await;
        return;
    }
    if let Plays::Says(count) = plays {
        let piece = Bytes::from(vec![b'x'; 32 * 1024]);
        let stdout = stdout.as_ref().unwrap().sender();
        for _ in 0..count / piece.len() {
            if stdout.write(piece.clone()).await.is_err() {
                return;
            }
        }
    } else if let (Some(mut stdin), Some(stdout)) = (stdin, &stdout) {
        if let Some(mut resize) = resize {
            let size = resize.read().await.unwrap();
            stdout.sender().write(size).await.unwrap();
        }
        while let Some(bytes) = stdin.read().await {
            stdout.sender().write(bytes).await.unwrap();
        }
    }
    let status = match plays {
        Plays::Cat => json!({"status": "Failure", "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": "7"}]}}),
        _ => json!({"status": "Success"}),
    };
    error.sender().write(status.to_string().into()).await.unwrap();
    for stream in [Some(error), stdout].into_iter().flatten() {
        stream.sender().finish().await.unwrap();
    }
    session.close().await;
}

/// Says how it ended first, then what there is on both outputs.
async fn say_after_the_end(env: &Env, error: Stream, [stdout, stderr]: [Stream; 2]) {
    let status = json!({"status": "Failure", "reason": "NonZeroExitCode"}).to_string();
    error.sender().write(status.into()).await.unwrap();
    error.sender().finish().await.unwrap();
    for (stream, said) in [(stdout, "archive"), (stderr, "No such file")] {
        env.sleep(Duration::from_secs(1)).await;
        stream.sender().write(Bytes::from(said)).await.unwrap();
        stream.sender().finish().await.unwrap();
    }
}

/// Says the port, then what it hears.
async fn echo(mut stream: Stream) {
    let port = header(stream.headers(), "port").to_owned();
    let _ = stream.sender().write(Bytes::from(format!("{port}:"))).await;
    while let Some(bytes) = stream.read().await {
        if stream.sender().write(bytes).await.is_err() {
            return;
        }
    }
    let _ = stream.sender().finish().await;
}
