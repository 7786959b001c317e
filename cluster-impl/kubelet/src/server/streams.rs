//! Passing an upgraded connection on to the runtime's own server.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use env::Env;
use futures::StreamExt;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyStream, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Body, Refusal};

/// The runtime's server answers within this time.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// What is copied at a time.
const COPY_BYTES: usize = 32 * 1024;

/// In an answer with code 101: what goes on with the connection. It must be run by who sends the answer.
#[derive(Clone)]
pub struct Relay(Arc<Mutex<Option<BoxFuture<'static, ()>>>>);

impl Relay {
    fn new(relay: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::pin(relay)))))
    }

    /// Runs to the end of the connection.
    pub async fn run(self) {
        let relay = self.0.lock().expect("nobody panics while taking it").take();
        if let Some(relay) = relay {
            relay.await;
        }
    }
}

/// Passes a request on to `address`, and then all bytes.
pub(super) async fn pass(
    env: &Env,
    address: &str,
    mut request: Request<Bytes>,
) -> Result<Response<Body>, Refusal> {
    let failed = |why: String| Refusal(500, format!("error dialing backend: {why}"));
    if !request.headers().contains_key(header::UPGRADE) {
        let why = "unable to upgrade: missing upgrade headers in request";
        return Err(Refusal::bad_request(why));
    }
    let address: Uri = address.parse().map_err(|error| failed(format!("{address:?}: {error}")))?;
    let (Some(authority), Some(path)) = (address.authority(), address.path_and_query()) else {
        return Err(failed(format!("{address} is no address of a runtime")));
    };
    let client = hyper::upgrade::on(&mut request);
    let (head, _) = request.into_parts();
    let mut asked = Request::new(Full::<Bytes>::default());
    *asked.method_mut() = head.method;
    *asked.uri_mut() = path.as_str().parse().expect("a path is a URI");
    *asked.headers_mut() = head.headers;
    asked.headers_mut().remove(header::AUTHORIZATION);
    let host = authority.as_str().parse().map_err(|error| failed(format!("{error}")))?;
    asked.headers_mut().insert(header::HOST, host);
    let exchange = async {
        let socket =
            TcpStream::connect(authority.as_str()).await.map_err(|error| error.to_string())?;
        socket.set_nodelay(true).map_err(|error| error.to_string())?;
        let handshake = http1::handshake(TokioIo::new(socket)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        let task = env.spawn(connection.with_upgrades());
        let answer = sender.send_request(asked).await.map_err(|error| error.to_string())?;
        Ok::<_, String>((answer, sender, task))
    };
    let exchange = tokio::time::timeout(ANSWER_WITHIN, exchange).await;
    let exchange = exchange.map_err(|_| failed("no answer in time".to_owned()))?;
    let (mut answer, sender, task) = exchange.map_err(failed)?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let held = (sender, task);
        return Ok(answer.map(|body| {
            let pieces = BodyStream::new(body).filter_map(move |piece| {
                let _ = &held;
                let piece = piece.ok().and_then(|frame| frame.into_data().ok());
                async { piece }
            });
            Body::stream(pieces.boxed())
        }));
    }
    let runtime = hyper::upgrade::on(&mut answer);
    let mut response = answer.map(|_| Body::whole(""));
    response.extensions_mut().insert(Relay::new(async move {
        let (client, runtime) = match tokio::try_join!(client, runtime) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "no connection to go on with");
                return;
            }
        };
        drop((sender, task));
        let (from_client, to_client) = tokio::io::split(TokioIo::new(client));
        let (from_runtime, to_runtime) = tokio::io::split(TokioIo::new(runtime));
        tokio::select! {
            biased;
            () = copy(from_client, to_runtime) => {}
            () = copy(from_runtime, to_client) => {}
        }
    }));
    Ok(response)
}

/// Copies until there is no more, or nobody takes it.
async fn copy<R: AsyncReadExt + Unpin, W: AsyncWriteExt + Unpin>(mut from: R, mut to: W) {
    let mut buffer = vec![0; COPY_BYTES];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..read]).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
