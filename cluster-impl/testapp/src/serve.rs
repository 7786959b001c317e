//! The HTTP server: says who it is, and fails on request.
//!
//! | path | answer |
//! |---|---|
//! | `/`, `/hostname` | `Hostname : <name of the pod>` |
//! | `/version` | `[App Version] : <version>` |
//! | `/clientip` | the peer's address, as the server sees it |
//! | `/health`, `/healthz`, `/ready` | 200, 503 before `--ready-after`, or what was switched on |
//! | `/status-500`, `/status-200` ... | switches the health answers |
//! | `/crash`, `/exit?code=3` | ends the process |
//! | `/load?seconds=10` | burns one CPU |
//! | `/files?path=/etc/hosts` | what a file holds, or the names in a folder |
//! | `/whoami` | what the API server says of the pod, asked with the pod's own token |
//! | `/lookup?name=web.default.svc.cluster.local` | addresses from the pod's DNS |

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::applets::{asked_to_end, hostname};
use crate::command::Serve;
use crate::{lookup, whoami};

/// Longer than this nobody burns a CPU by one request.
const LOAD_MAX_S: u64 = 600;

struct App {
    version: String,
    ready_at: Instant,
    /// What the health paths answer once the app is ready.
    health: AtomicU16,
}

/// Serves until asked to end; answers the exit code.
pub async fn run(options: Serve) -> anyhow::Result<u8> {
    let mut term = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, options.port));
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let app = Arc::new(App {
        version: options.version.clone(),
        ready_at: Instant::now() + options.ready_after,
        health: AtomicU16::new(200),
    });
    let bound = listener.local_addr().context("a bound socket has an address")?;
    println!("{} {} serves on {bound}", hostname(), options.version);
    let end = async {
        match options.exit_after {
            Some(after) => tokio::time::sleep(after).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = asked_to_end(&mut term, options.ignore_term) => {}
        () = end => return Ok(options.code),
        error = accept(&listener, &app) => return Err(error).context("cannot accept connections"),
    }
    println!("SIGTERM: ending in {:?}", options.term_delay);
    // Requests are still answered until then.
    tokio::select! {
        biased;
        () = tokio::time::sleep(options.term_delay) => Ok(0),
        error = accept(&listener, &app) => Err(error).context("cannot accept connections"),
    }
}

async fn accept(listener: &TcpListener, app: &Arc<App>) -> std::io::Error {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => return error,
        };
        let app = app.clone();
        let service = service_fn(move |request| {
            let app = app.clone();
            async move { Ok::<_, Infallible>(answer(&app, peer, &request).await) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        #[expect(clippy::disallowed_methods, reason = "a workload has no simulated process")]
        tokio::spawn(async move {
            // A client that goes away is none of our business.
            let _ = connection.await;
        });
    }
}

async fn answer(app: &App, peer: SocketAddr, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    let parameter =
        |name: &str| query.split('&').filter_map(|p| p.split_once('=')).find(|(n, _)| *n == name);
    let number = |name: &str| parameter(name).and_then(|(_, value)| value.parse::<u64>().ok());
    match path {
        "/" | "/hostname" => say(200, format!("Hostname : {}\n", hostname())),
        "/version" => say(200, format!("[App Version] : {}\n", app.version)),
        "/clientip" => say(200, format!("{}\n", peer.ip())),
        "/health" | "/healthz" | "/ready" => health(app),
        "/crash" => exit(1),
        "/exit" => exit(number("code").and_then(|code| i32::try_from(code).ok()).unwrap_or(0)),
        "/load" => {
            let seconds = number("seconds").unwrap_or(1).min(LOAD_MAX_S);
            burn(Duration::from_secs(seconds)).await;
            say(200, format!("burnt {seconds} s\n"))
        }
        "/files" => match parameter("path") {
            Some((_, path)) => match files(path) {
                Ok(text) => say(200, text),
                Err(error) => say(404, format!("{path}: {error}\n")),
            },
            None => say(400, "say which: /files?path=...\n".to_owned()),
        },
        "/whoami" => match whoami::ask().await {
            Ok(told) => say(200, format!("{told}\n")),
            Err(error) => say(502, format!("{error:#}\n")),
        },
        "/lookup" => match parameter("name") {
            Some((_, name)) => match lookup::addresses(name).await {
                Ok(addresses) => say(200, format!("{}\n", addresses.join("\n"))),
                Err(error) => say(502, format!("{error:#}\n")),
            },
            None => say(400, "say which: /lookup?name=...\n".to_owned()),
        },
        _ => match path.strip_prefix("/status-").and_then(|code| code.parse::<u16>().ok()) {
            Some(code @ 200..=599) => {
                app.health.store(code, Ordering::Relaxed);
                say(200, format!("health is {code} from now on\n"))
            }
            _ => say(404, format!("nothing at {path}\n")),
        },
    }
}

/// What a file holds, or the names in a folder, sorted.
fn files(path: &str) -> std::io::Result<String> {
    if !std::fs::metadata(path)?.is_dir() {
        return Ok(String::from_utf8_lossy(&std::fs::read(path)?).into_owned());
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        names.push(format!("{}\n", entry?.file_name().to_string_lossy()));
    }
    names.sort();
    Ok(names.concat())
}

fn health(app: &App) -> Response<Full<Bytes>> {
    if Instant::now() < app.ready_at {
        return say(503, "not ready yet\n".to_owned());
    }
    let code = app.health.load(Ordering::Relaxed);
    say(code, format!("{code}\n"))
}

fn say(code: u16, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

fn exit(code: i32) -> ! {
    println!("asked to exit with {code}");
    std::process::exit(code)
}

/// Keeps one CPU busy, beside the server's own thread.
#[expect(
    clippy::disallowed_methods,
    reason = "a busy CPU needs a thread; nobody simulates this one"
)]
async fn burn(time: Duration) {
    let end = Instant::now() + time;
    let work = tokio::task::spawn_blocking(move || {
        let mut sum = 0_u64;
        while Instant::now() < end {
            for step in 0..10_000_u64 {
                sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(step));
            }
        }
    });
    let _ = work.await;
}
