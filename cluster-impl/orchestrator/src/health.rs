//! `/healthz` over plain HTTP on the loopback address, for whoever watches over a component.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use env::{Env, Task};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

/// Whether the component is well.
pub type Check = Arc<dyn Fn() -> bool + Send + Sync>;

/// Serves `/healthz` until the returned task is dropped.
pub async fn serve(env: &Env, address: SocketAddr, check: Check) -> anyhow::Result<Task<()>> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("failed to listen on {address}"))?;
    let inner = env.clone();
    Ok(env.spawn(async move {
        let mut connections = Vec::new();
        loop {
            let Ok((socket, _)) = listener.accept().await else { continue };
            connections.retain(|task: &Task<()>| !task.is_finished());
            let check = check.clone();
            connections.push(inner.spawn(async move {
                let service = service_fn(move |request| answer(request, check.clone()));
                let connection = hyper::server::conn::http1::Builder::new();
                let _ = connection.serve_connection(TokioIo::new(socket), service).await;
            }));
        }
    }))
}

async fn answer(
    request: Request<Incoming>,
    check: Check,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match request.uri().path() {
        "/healthz" | "/livez" | "/readyz" if check() => (StatusCode::OK, "ok"),
        "/healthz" | "/livez" | "/readyz" => (StatusCode::INTERNAL_SERVER_ERROR, "unhealthy"),
        _ => (StatusCode::NOT_FOUND, "not found"),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    Ok(response)
}
