//! WebSocket towards clients: the handshake, and bytes as messages.
//!
//! Limits: [`MESSAGE_BYTES_MAX`] for a message of a client.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream::{BoxStream, SplitSink};
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, header};
use machinery::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::upgrade::{Wire, upgrade_headers, wanted};

/// The longest message; clients of streams send a few ten kilobytes at a time.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// One message of ours.
const PIECE_BYTES: usize = 32 * 1024;

/// The subprotocols that a client offers, in its order; `None` if it wants no WebSocket.
pub(crate) fn offered(headers: &HeaderMap) -> Option<Vec<&str>> {
    if wanted(headers).as_deref() != Some("websocket") {
        return None;
    }
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    let values = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    Some(values.map(str::trim).filter(|value| !value.is_empty()).collect())
}

/// The headers that accept a client's handshake with this subprotocol, or none if that is empty.
pub(crate) fn accept(headers: &HeaderMap, protocol: &'static str) -> Result<HeaderMap, Status> {
    let version = headers.get(header::SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version != "13") {
        return Err(Status::bad_request("the WebSocket version must be 13"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let key = key.ok_or_else(|| Status::bad_request("Sec-WebSocket-Key is missing"))?;
    let mut answer = upgrade_headers("websocket");
    let accepted = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
    let accepted = accepted.expect("base64 can stand in a header");
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
    if !protocol.is_empty() {
        let protocol = HeaderValue::from_static(protocol);
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(answer)
}

/// Messages over a connection whose handshake is done.
pub(crate) async fn messages(wire: Wire) -> WebSocketStream<Wire> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketStream::from_raw_socket(wire, Role::Server, Some(config)).await
}

/// Says that all is over and well. Without this code clients take the end for a failure.
pub(crate) async fn goodbye(to_client: &mut SplitSink<WebSocketStream<Wire>, Message>) {
    let (code, reason) = (CloseCode::Normal, Utf8Bytes::default());
    // The client may have gone before.
    let _ = to_client.send(Message::Close(Some(CloseFrame { code, reason }))).await;
}

/// Carries another protocol's bytes: each message is a piece of them.
pub(crate) async fn tunnel(client: Wire, backend: Wire) {
    let (mut to_client, mut from_client) = messages(client).await.split();
    let (mut from_backend, mut to_backend) = tokio::io::split(backend);
    let inwards = async {
        while let Some(Ok(message)) = from_client.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Close(_) => break,
                // Pings are answered below this level.
                _ => continue,
            };
            if to_backend.write_all(&bytes).await.is_err() || to_backend.flush().await.is_err() {
                break;
            }
        }
    };
    let outwards = async {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(read @ 1..) = from_backend.read(&mut buffer).await {
            let piece = Bytes::copy_from_slice(&buffer[..read]);
            if to_client.send(Message::Binary(piece)).await.is_err() {
                return;
            }
        }
        goodbye(&mut to_client).await;
    };
    tokio::select! {
        biased;
        () = inwards => {}
        () = outwards => {}
    }
}

/// How a stream of bytes is written into messages, as `binary.k8s.io` and its kin say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Binary,
    Base64,
}

/// Which of the offered subprotocols carries a stream of bytes; a client may offer none.
pub(crate) fn coding(offered: &[&str]) -> Option<(&'static str, Coding)> {
    if offered.is_empty() {
        return Some(("", Coding::Binary));
    }
    offered.iter().find_map(|one| match *one {
        "binary.k8s.io" => Some(("binary.k8s.io", Coding::Binary)),
        "base64.binary.k8s.io" => Some(("base64.binary.k8s.io", Coding::Base64)),
        _ => None,
    })
}

/// Sends a stream of bytes as messages, until it ends or the client goes.
pub(crate) async fn send(client: Wire, mut pieces: BoxStream<'static, Bytes>, coding: Coding) {
    let (mut to_client, mut from_client) = messages(client).await.split();
    let outwards = async {
        while let Some(piece) = pieces.next().await {
            let message = match coding {
                Coding::Binary => Message::Binary(piece),
                Coding::Base64 => Message::text(STANDARD.encode(piece)),
            };
            if to_client.send(message).await.is_err() {
                return;
            }
        }
        goodbye(&mut to_client).await;
    };
    // What the client says is of no interest, but that it has gone is.
    let gone = async { while let Some(Ok(_)) = from_client.next().await {} };
    tokio::select! {
        biased;
        () = outwards => {}
        () = gone => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(protocols: &'static str) -> HeaderMap {
        let mut headers = upgrade_headers("websocket");
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        headers.insert(header::SEC_WEBSOCKET_KEY, key);
        let protocols = HeaderValue::from_static(protocols);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocols);
        headers
    }

    #[test]
    fn a_handshake_is_accepted_as_the_standard_says() {
        let headers = asked("v5.channel.k8s.io, v4.channel.k8s.io");
        let all = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
        assert_eq!(offered(&headers), Some(all.to_vec()));
        let answer = accept(&headers, "v5.channel.k8s.io").unwrap();
        // The example of RFC 6455.
        assert_eq!(answer[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let mut old = headers.clone();
        old.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        assert_eq!(accept(&old, "").unwrap_err().code, 400);
        let mut keyless = headers;
        keyless.remove(header::SEC_WEBSOCKET_KEY);
        assert_eq!(accept(&keyless, "").unwrap_err().code, 400);
        assert_eq!(offered(&upgrade_headers("SPDY/3.1")), None);
    }

    #[test]
    fn logs_come_in_the_coding_that_the_client_offers() {
        assert_eq!(coding(&[]), Some(("", Coding::Binary)));
        assert_eq!(coding(&["binary.k8s.io"]), Some(("binary.k8s.io", Coding::Binary)));
        assert_eq!(coding(&["x", "base64.binary.k8s.io"]).unwrap().1, Coding::Base64);
        assert_eq!(coding(&["x"]), None);
    }
}
