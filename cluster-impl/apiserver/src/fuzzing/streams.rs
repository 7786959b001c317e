//! Frames of connections that have left HTTP.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::arbitrary::Source;
use super::request::in_virtual_time;
use crate::connect::fuzzing::carry;
use crate::spdy::frame::{CONTROL_BYTES_MAX, Frame, Reader, Writer};

/// A peer's bytes as frames, at once and byte by byte; and what is written is read again.
pub(super) fn spdy(data: &[u8]) {
    let whole = frames(std::iter::once(data));
    let pieces = frames(data.chunks(1));
    assert_eq!(joined(&whole.0), joined(&pieces.0), "how the bytes come in does not matter");
    assert_eq!(whole.1, pieces.1);
    let (mut writer, mut bytes) = (Writer::new(), BytesMut::new());
    let (mut written, mut length) = (Vec::new(), 0);
    for frame in joined(&whole.0) {
        if let Frame::Open { headers, .. } | Frame::Reply { headers, .. } = &frame {
            length +=
                headers.iter().map(|(name, value)| name.len() + value.len() + 8).sum::<usize>();
        }
        if !matches!(frame, Frame::Headers { .. } | Frame::Other) && length < CONTROL_BYTES_MAX {
            writer.write(&frame, &mut bytes);
            written.push(frame);
        }
    }
    let (read, is_wrong) = frames(std::iter::once(&bytes[..]));
    assert!(!is_wrong, "what is written can be read");
    assert_eq!(joined(&read), joined(&written));
}

/// What a reader makes of bytes, and whether it gave up.
fn frames<'d>(pieces: impl Iterator<Item = &'d [u8]>) -> (Vec<Frame>, bool) {
    let (mut reader, mut buffer, mut found) = (Reader::new(), BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match reader.next(&mut buffer) {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => break,
                Err(_) => return (found, true),
            }
            assert!(buffer.len() <= piece.len() + CONTROL_BYTES_MAX + 8);
        }
    }
    (found, false)
}

/// The same frames, with the pieces of one data frame put together.
fn joined(frames: &[Frame]) -> Vec<Frame> {
    let mut all: Vec<Frame> = Vec::new();
    for frame in frames {
        match (all.last_mut(), frame) {
            (
                Some(Frame::Data { stream, bytes, is_last }),
                Frame::Data { stream: same, bytes: more, is_last: ends },
            ) if stream == same && !*is_last => {
                *bytes = Bytes::from([&bytes[..], &more[..]].concat());
                *is_last = *ends;
            }
            _ => all.push(frame.clone()),
        }
    }
    // An empty piece that ends nothing says nothing.
    all.retain(
        |frame| !matches!(frame, Frame::Data { bytes, is_last: false, .. } if bytes.is_empty()),
    );
    all
}

/// A client's WebSocket and a kubelet's SPDY, both of which say what they like. Afterwards both have gone.
pub(super) fn websocket(data: &[u8]) {
    let mut source = Source::new(data);
    let [is_tty, is_answered] = [0, 1].map(|_| source.once_in(2));
    let split = source.below(256);
    let from_kubelet = source.bytes(split).to_vec();
    let from_client = source.rest().to_vec();
    in_virtual_time(async move {
        let (client, server_side) = tokio::io::duplex(1 << 16);
        let (kubelet, backend) = tokio::io::duplex(1 << 16);
        let backend = match is_answered {
            true => Ok(Box::pin(backend) as _),
            false => Err("no kubelet".to_owned()),
        };
        let served = carry(Box::pin(server_side), backend, is_tty);
        let ends = async {
            let speaks = |mut wire: tokio::io::DuplexStream, bytes: Vec<u8>| async move {
                // The other side may have hung up.
                let _ = wire.write_all(&bytes).await;
                let _ = wire.flush().await;
                let mut answer = vec![0; 4096];
                let until = tokio::time::timeout(Duration::from_secs(1), async {
                    while let Ok(1..) = wire.read(&mut answer).await {}
                });
                let _ = until.await;
            };
            tokio::join!(speaks(client, from_client), speaks(kubelet, from_kubelet));
        };
        let both = async { tokio::join!(served, ends) };
        let done = tokio::time::timeout(Duration::from_secs(120), both).await;
        assert!(done.is_ok(), "the server goes on although both sides have gone");
    });
}
