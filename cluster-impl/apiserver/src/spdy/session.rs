//! One connection with many streams: either side opens them, both write and read.
//!
//! Two tasks stand behind a session and die with it: one reads frames and hands data to the streams,
//! one writes what the streams send. Every queue is bounded, so a slow end slows the other down.
//! Limits: [`STREAMS_MAX`] streams at a time, [`PIECES_MAX`] unread pieces for each.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use env::{Env, Task};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::SpdyError;
use super::frame::{DATA_BYTES_MAX, Frame, Reader, Writer};
use super::headers::Headers;

/// So many streams are open at once; further ones are refused.
const STREAMS_MAX: usize = 256;
/// So many pieces of a stream wait to be read; a piece is at most one read of the socket.
const PIECES_MAX: usize = 8;
/// So many frames wait to be written.
const FRAMES_MAX: usize = 16;
/// So many streams wait to be accepted.
const ACCEPTS_MAX: usize = 16;
/// The peer accepts a stream within this time (client-go's own limit).
const REPLY_WITHIN: Duration = Duration::from_secs(30);
/// What is still to be written when a session is closed is given up after this.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// One read of the socket.
const READ_BYTES: usize = 32 * 1024;

const PROTOCOL_ERROR: u32 = 1;
const INVALID_STREAM: u32 = 2;
const REFUSED_STREAM: u32 = 3;
const CANCEL: u32 = 5;

/// Which end of a connection this is: it decides the numbers of the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    /// Only tests take this side: a server passes on what its clients say.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests play the kubelet"))]
    Server,
}

impl Side {
    /// Whether a number is one that this side gives out.
    fn gives(self, id: u32) -> bool {
        (id % 2 == 1) == (self == Side::Client)
    }
}

/// What a session knows of one of its streams.
struct Known {
    /// Where data goes; none once the peer has ended its side, or nobody reads.
    inbound: Option<mpsc::Sender<Bytes>>,
    reply: Option<oneshot::Sender<Result<(), SpdyError>>>,
    is_finished_here: bool,
}

struct Inner {
    streams: BTreeMap<u32, Known>,
    next_id: u32,
    last_of_peer: u32,
    is_going_away: bool,
}

struct Shared {
    side: Side,
    inner: Mutex<Inner>,
    is_closed: AtomicBool,
    frames: mpsc::Sender<Frame>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds the streams")
    }

    async fn send(&self, frame: Frame) -> Result<(), SpdyError> {
        self.frames.send(frame).await.map_err(|_| SpdyError::Closed)
    }
}

/// A connection.
pub(crate) struct Session {
    shared: Arc<Shared>,
    opened: mpsc::Receiver<Stream>,
    reader: Task<Result<(), SpdyError>>,
    writer: Task<()>,
}

/// One stream; dropped, it is forgotten.
pub(crate) struct Stream {
    id: u32,
    headers: Headers,
    inbound: mpsc::Receiver<Bytes>,
    sender: Sender,
}

/// The writing end of a stream.
#[derive(Clone)]
pub(crate) struct Sender {
    id: u32,
    shared: Arc<Shared>,
}

impl Session {
    /// A session over a connection on which nothing has been said yet.
    pub(crate) fn new<T>(env: &Env, io: T, side: Side) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (from, to) = tokio::io::split(io);
        let (frames, queue) = mpsc::channel(FRAMES_MAX);
        let (accepts, opened) = mpsc::channel(ACCEPTS_MAX);
        let inner = Inner {
            streams: BTreeMap::new(),
            next_id: if side == Side::Client { 1 } else { 2 },
            last_of_peer: 0,
            is_going_away: false,
        };
        let is_closed = AtomicBool::new(false);
        let shared = Arc::new(Shared { side, inner: Mutex::new(inner), is_closed, frames });
        let reading = shared.clone();
        let reader = env.spawn(async move {
            let outcome = read(&reading, from, accepts).await;
            // Whoever reads or waits for a reply learns that nothing will come.
            reading.is_closed.store(true, Ordering::Relaxed);
            reading.lock().streams.clear();
            outcome
        });
        let writer = env.spawn(write(to, queue));
        Self { shared, opened, reader, writer }
    }

    /// Opens a stream and waits until the peer has accepted it.
    pub(crate) async fn open(&self, headers: Headers) -> Result<Stream, SpdyError> {
        let (accepted, reply) = oneshot::channel();
        let (inbound, pieces) = mpsc::channel(PIECES_MAX);
        let place = self.shared.frames.reserve().await.map_err(|_| SpdyError::Closed)?;
        let id = {
            // Numbers must rise in the order of the frames: both are taken in one go.
            let mut inner = self.shared.lock();
            if inner.is_going_away || self.shared.is_closed.load(Ordering::Relaxed) {
                return Err(SpdyError::Closed);
            }
            let id = inner.next_id;
            inner.next_id += 2;
            let known =
                Known { inbound: Some(inbound), reply: Some(accepted), is_finished_here: false };
            inner.streams.insert(id, known);
            place.send(Frame::Open { stream: id, headers: headers.clone(), is_last: false });
            id
        };
        let sender = Sender { id, shared: self.shared.clone() };
        let stream = Stream { id, headers, inbound: pieces, sender };
        match tokio::time::timeout(REPLY_WITHIN, reply).await {
            Ok(Ok(Ok(()))) => Ok(stream),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) => Err(SpdyError::Closed),
            Err(_) => Err(SpdyError::Late),
        }
    }

    /// The next stream that the peer has opened; it has been accepted.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests play the kubelet"))]
    pub(crate) async fn accept(&mut self) -> Option<Stream> {
        self.opened.recv().await
    }

    /// Says goodbye once everything is written.
    pub(crate) async fn close(self) {
        let Self { shared, reader, writer, opened } = self;
        let last = shared.lock().last_of_peer;
        let _ = tokio::time::timeout(CLOSE_WITHIN, async {
            let _ = shared.send(Frame::GoAway { last, status: 0 }).await;
            drop((reader, opened, shared));
            let _ = writer.join().await;
        })
        .await;
    }
}

impl Stream {
    /// With what it was opened.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests play the kubelet"))]
    pub(crate) fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The next piece; `None` at the end, be it said or the connection's.
    pub(crate) async fn read(&mut self) -> Option<Bytes> {
        self.inbound.recv().await
    }

    /// A writing end that goes its own way.
    pub(crate) fn sender(&self) -> Sender {
        self.sender.clone()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut inner = self.sender.shared.lock();
        if let Some(known) = inner.streams.get_mut(&self.id) {
            known.inbound = None;
            if known.is_finished_here {
                inner.streams.remove(&self.id);
            }
        }
    }
}

impl Sender {
    /// Sends bytes; waits while the connection is full.
    pub(crate) async fn write(&self, mut bytes: Bytes) -> Result<(), SpdyError> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(DATA_BYTES_MAX));
            self.put(piece, false).await?;
        }
        Ok(())
    }

    /// Says that nothing more is sent; what the peer sends can still be read.
    pub(crate) async fn finish(&self) -> Result<(), SpdyError> {
        self.put(Bytes::new(), true).await
    }

    /// Ends the stream in both directions.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests play the kubelet"))]
    pub(crate) async fn reset(&self) -> Result<(), SpdyError> {
        self.shared.lock().streams.remove(&self.id);
        self.shared.send(Frame::Reset { stream: self.id, status: CANCEL }).await
    }

    async fn put(&self, bytes: Bytes, is_last: bool) -> Result<(), SpdyError> {
        {
            let mut inner = self.shared.lock();
            let known = inner.streams.get_mut(&self.id);
            let known = known.filter(|known| !known.is_finished_here).ok_or(SpdyError::Closed)?;
            known.is_finished_here = is_last;
        }
        self.shared.send(Frame::Data { stream: self.id, bytes, is_last }).await
    }
}

async fn write<T: AsyncWrite>(mut to: WriteHalf<T>, mut queue: mpsc::Receiver<Frame>) {
    let (mut writer, mut out) = (Writer::new(), BytesMut::new());
    while let Some(frame) = queue.recv().await {
        writer.write(&frame, &mut out);
        while out.len() < DATA_BYTES_MAX
            && let Ok(frame) = queue.try_recv()
        {
            writer.write(&frame, &mut out);
        }
        if to.write_all_buf(&mut out).await.is_err() || to.flush().await.is_err() {
            return;
        }
        out.clear();
    }
    let _ = to.shutdown().await;
}

async fn read<T: AsyncRead>(
    shared: &Arc<Shared>,
    mut from: ReadHalf<T>,
    accepts: mpsc::Sender<Stream>,
) -> Result<(), SpdyError> {
    let (mut reader, mut buffer) = (Reader::new(), BytesMut::new());
    loop {
        while let Some(frame) = reader.next(&mut buffer)? {
            handle(shared, &accepts, frame).await?;
        }
        buffer.reserve(READ_BYTES);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(_) => {}
        }
    }
}

async fn handle(
    shared: &Arc<Shared>,
    accepts: &mpsc::Sender<Stream>,
    frame: Frame,
) -> Result<(), SpdyError> {
    match frame {
        Frame::Open { stream, headers, is_last } => {
            accept(shared, accepts, (stream, headers, is_last)).await?;
        }
        Frame::Reply { stream, is_last, .. } => {
            let reply = shared.lock().streams.get_mut(&stream).and_then(|known| known.reply.take());
            let Some(reply) = reply else {
                shared.send(Frame::Reset { stream, status: INVALID_STREAM }).await?;
                return Ok(());
            };
            // Whoever opened it may have stopped waiting.
            let _ = reply.send(Ok(()));
            if is_last {
                end(shared, stream);
            }
        }
        Frame::Reset { stream, status } => {
            let known = shared.lock().streams.remove(&stream);
            if let Some(reply) = known.and_then(|known| known.reply) {
                let _ = reply.send(Err(SpdyError::Reset(status)));
            }
        }
        Frame::Ping(id) if !shared.side.gives(id) => shared.send(Frame::Ping(id)).await?,
        Frame::GoAway { .. } => shared.lock().is_going_away = true,
        Frame::Headers { stream, is_last: true } => end(shared, stream),
        Frame::Data { stream, bytes, is_last } => {
            let inbound = {
                let inner = shared.lock();
                inner.streams.get(&stream).and_then(|known| known.inbound.clone())
            };
            // What comes for a stream that nobody reads any more is dropped, as it was under way.
            if let Some(inbound) = inbound
                && !bytes.is_empty()
            {
                let _ = inbound.send(bytes).await;
            }
            if is_last {
                end(shared, stream);
            }
        }
        Frame::Ping(_) | Frame::Headers { .. } | Frame::Other => {}
    }
    Ok(())
}

/// The peer has ended its side.
fn end(shared: &Shared, stream: u32) {
    let mut inner = shared.lock();
    if let Some(known) = inner.streams.get_mut(&stream) {
        known.inbound = None;
        if known.is_finished_here {
            inner.streams.remove(&stream);
        }
    }
}

async fn accept(
    shared: &Arc<Shared>,
    accepts: &mpsc::Sender<Stream>,
    (id, headers, is_last): (u32, Headers, bool),
) -> Result<(), SpdyError> {
    let (inbound, pieces) = mpsc::channel(PIECES_MAX);
    let refusal = {
        let mut inner = shared.lock();
        if shared.side.gives(id) || id <= inner.last_of_peer {
            Some(PROTOCOL_ERROR)
        } else if inner.streams.len() >= STREAMS_MAX {
            inner.last_of_peer = id;
            Some(REFUSED_STREAM)
        } else {
            inner.last_of_peer = id;
            let inbound = (!is_last).then_some(inbound);
            let known = Known { inbound, reply: None, is_finished_here: false };
            inner.streams.insert(id, known);
            None
        }
    };
    if let Some(status) = refusal {
        return shared.send(Frame::Reset { stream: id, status }).await;
    }
    shared.send(Frame::Reply { stream: id, headers: Headers::new(), is_last: false }).await?;
    let sender = Sender { id, shared: shared.clone() };
    let stream = Stream { id, headers, inbound: pieces, sender };
    // A client takes no streams: its receiver is full or gone, and the stream is then dropped.
    let _ = accepts.try_send(stream);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use env::{SimMachine, Timestamp};

    use super::*;
    use crate::spdy::headers::header;

    fn env() -> Env {
        Env::new(Arc::new(SimMachine::new(1, "cp-1", Timestamp::UNIX_EPOCH)), None)
    }

    fn pair(bytes: usize) -> (Session, Session) {
        let (client, server) = tokio::io::duplex(bytes);
        let env = env();
        (Session::new(&env, client, Side::Client), Session::new(&env, server, Side::Server))
    }

    fn named(name: &str) -> Headers {
        vec![("streamtype".to_owned(), name.to_owned())]
    }

    async fn all(stream: &mut Stream) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(piece) = stream.read().await {
            bytes.extend_from_slice(&piece);
        }
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn both_sides_say_what_they_have_to_and_end_it_apart() {
        let (client, mut server) = pair(1024);
        let (stream, accepted) = tokio::join!(client.open(named("stdin")), server.accept());
        let (mut stream, mut accepted) = (stream.unwrap(), accepted.unwrap());
        assert_eq!(header(accepted.headers(), "streamtype"), "stdin");
        let question = vec![7_u8; 300_000];
        let ask = async {
            stream.sender().write(question.clone().into()).await.unwrap();
            stream.sender().finish().await.unwrap();
            all(&mut stream).await
        };
        let answer = async {
            let heard = all(&mut accepted).await;
            accepted.sender().write(Bytes::from_static(b"fine")).await.unwrap();
            accepted.sender().finish().await.unwrap();
            heard
        };
        let (answered, heard) = tokio::join!(ask, answer);
        assert_eq!((answered.as_slice(), heard == question), (&b"fine"[..], true));
        assert_eq!(stream.sender().write(Bytes::from_static(b"x")).await, Err(SpdyError::Closed));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_connection_ends_all_streams_and_waits() {
        let (client, mut server) = pair(1024);
        let (stream, accepted) = tokio::join!(client.open(named("stdin")), server.accept());
        let (mut stream, accepted) = (stream.unwrap(), accepted.unwrap());
        accepted.sender().reset().await.unwrap();
        assert_eq!(stream.read().await, None);
        let waiting = client.open(named("stdout"));
        drop((server, accepted));
        assert!(waiting.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_accepts_no_stream_is_given_up() {
        let (client, _server) = tokio::io::duplex(1 << 20);
        let session = Session::new(&env(), client, Side::Client);
        assert_eq!(session.open(named("stdin")).await.err(), Some(SpdyError::Late));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_reads_does_not_pile_up() {
        let (client, mut server) = pair(1024);
        let (stream, accepted) = tokio::join!(client.open(named("stdin")), server.accept());
        let (stream, _accepted) = (stream.unwrap(), accepted.unwrap());
        let sender = stream.sender();
        let endless = async {
            let mut written = 0_usize;
            loop {
                sender.write(Bytes::from_static(&[0; 32 * 1024])).await.unwrap();
                written += 32 * 1024;
                assert!(written < 8 << 20, "nothing holds the writer back");
            }
        };
        let stopped = tokio::time::timeout(Duration::from_secs(60), endless).await;
        assert!(stopped.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn numbers_that_are_not_the_peers_are_refused() {
        let (raw, server) = tokio::io::duplex(1 << 16);
        let mut server = Session::new(&env(), server, Side::Server);
        let (mut writer, mut out) = (Writer::new(), BytesMut::new());
        for stream in [2, 3, 1] {
            let headers = named("stdin");
            writer.write(&Frame::Open { stream, headers, is_last: false }, &mut out);
        }
        let (mut from, mut to) = tokio::io::split(raw);
        to.write_all(&out).await.unwrap();
        assert_eq!(server.accept().await.unwrap().id, 3);
        let (mut reader, mut buffer, mut resets) = (Reader::new(), BytesMut::new(), Vec::new());
        while resets.len() < 2 {
            from.read_buf(&mut buffer).await.unwrap();
            while let Some(frame) = reader.next(&mut buffer).unwrap() {
                if let Frame::Reset { stream, status } = frame {
                    resets.push((stream, status));
                }
            }
        }
        assert_eq!(resets, [(2, PROTOCOL_ERROR), (1, PROTOCOL_ERROR)]);
    }
}
