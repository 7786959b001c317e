//! WebSocket `v5.channel.k8s.io` towards the client, SPDY with `v4.channel.k8s.io` towards the kubelet.
//!
//! A message's first byte is its channel: 0 to 2 are the standard streams, 3 how it ended, 4 the size
//! of the terminal; 255 says that the channel in the next byte is closed, which is how the end of
//! standard input arrives. How it ended is the kubelet's word, passed on as it is.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use env::Env;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use machinery::Status;
use tokio::sync::Mutex;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::exec::Wanted;
use super::upgrade::Wire;
use super::websocket::{goodbye, messages};
use crate::spdy::session::Sender;
use crate::spdy::{Session, Side, SpdyError, Stream};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// A client gets its status and the goodbye within this time, or is gone.
const GOODBYE_WITHIN: Duration = Duration::from_secs(10);
/// How a process ended is told in less than this.
const STATUS_BYTES_MAX: usize = 64 * 1024;

type ToClient = SplitSink<WebSocketStream<Wire>, Message>;
type FromClient = SplitStream<WebSocketStream<Wire>>;

/// Carries the streams of one process until it ends or the client goes.
pub(super) async fn run(env: &Env, client: Wire, backend: Result<Wire, String>, wanted: Wanted) {
    let (to_client, mut from_client) = messages(client).await.split();
    let to_client = Mutex::new(to_client);
    let status = match backend {
        Err(why) => Some(failure(&why)),
        Ok(backend) => {
            let session = Session::new(env, backend, Side::Client);
            let outcome = match Process::open(&session, wanted).await {
                Err(error) => Some(failure(&error.to_string())),
                Ok(process) => process.carry(&mut from_client, &to_client).await,
            };
            session.close().await;
            outcome
        }
    };
    // Without a status the client has gone, and hears nothing any more.
    let Some(status) = status else { return };
    let _ = tokio::time::timeout(GOODBYE_WITHIN, async {
        if say(&to_client, ERROR, &status).await {
            goodbye(&mut *to_client.lock().await).await;
            while let Some(Ok(_)) = from_client.next().await {}
        }
    })
    .await;
}

fn failure(why: &str) -> Bytes {
    Bytes::from(Status::internal(why).to_value().to_string())
}

/// The streams of a process.
struct Process {
    error: Stream,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Process {
    /// Opens the wanted streams, in the order in which kubectl does.
    async fn open(session: &Session, wanted: Wanted) -> Result<Self, SpdyError> {
        let open = async |name: &str, is_wanted: bool| match is_wanted {
            true => session.open(vec![("streamtype".to_owned(), name.to_owned())]).await.map(Some),
            false => Ok(None),
        };
        let error = open("error", true).await?.ok_or(SpdyError::Closed)?;
        Ok(Self {
            error,
            stdin: open("stdin", wanted.stdin).await?,
            stdout: open("stdout", wanted.stdout).await?,
            // A terminal has one output.
            stderr: open("stderr", wanted.stderr && !wanted.tty).await?,
            resize: open("resize", wanted.tty).await?,
        })
    }

    /// Passes everything on; answers how it ended, or `None` if the client has gone.
    async fn carry(
        self,
        from_client: &mut FromClient,
        to_client: &Mutex<ToClient>,
    ) -> Option<Bytes> {
        let Self { error, stdin, stdout, stderr, resize } = self;
        let (stdin_sender, resize_sender) =
            (stdin.as_ref().map(Stream::sender), resize.as_ref().map(Stream::sender));
        let outwards = async {
            let (status, ..) = tokio::join!(
                how_it_ended(error),
                pass(stdout, STDOUT, to_client),
                pass(stderr, STDERR, to_client),
            );
            status
        };
        let gone = listen(from_client, stdin_sender, resize_sender);
        tokio::select! {
            biased;
            status = outwards => Some(status),
            () = gone => None,
        }
    }
}

/// What the kubelet says of the end.
async fn how_it_ended(mut error: Stream) -> Bytes {
    let mut said = BytesMut::new();
    while let Some(piece) = error.read().await {
        if said.len() + piece.len() <= STATUS_BYTES_MAX {
            said.extend_from_slice(&piece);
        }
    }
    if said.is_empty() {
        return failure("the connection to the container broke off");
    }
    said.freeze()
}

async fn pass(stream: Option<Stream>, channel: u8, to_client: &Mutex<ToClient>) {
    let Some(mut stream) = stream else { return };
    while let Some(piece) = stream.read().await {
        if !say(to_client, channel, &piece).await {
            return;
        }
    }
}

/// Sends a message; false if the client has gone.
async fn say(to_client: &Mutex<ToClient>, channel: u8, bytes: &Bytes) -> bool {
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.put_u8(channel);
    message.put_slice(bytes);
    to_client.lock().await.send(Message::Binary(message.freeze())).await.is_ok()
}

/// Takes what the client sends, until it goes.
async fn listen(from_client: &mut FromClient, stdin: Option<Sender>, resize: Option<Sender>) {
    while let Some(Ok(message)) = from_client.next().await {
        let mut bytes = match message {
            Message::Binary(bytes) => bytes,
            // Python's client sends what it writes to standard input as text.
            Message::Text(text) => text.into(),
            Message::Close(_) => return,
            _ => continue,
        };
        if bytes.is_empty() {
            continue;
        }
        let channel = bytes.split_to(1)[0];
        // A process that has closed its standard input still has its outputs and its end.
        let _ = match (channel, &stdin, &resize) {
            (STDIN, Some(stdin), _) => stdin.write(bytes).await,
            (RESIZE, _, Some(resize)) => resize.write(line(&bytes)).await,
            (CLOSE, Some(stdin), _) if bytes.first() == Some(&STDIN) => stdin.finish().await,
            _ => Ok(()),
        };
    }
}

/// Sizes are lines of JSON on the other side.
fn line(bytes: &Bytes) -> Bytes {
    let mut line = BytesMut::from(&bytes[..]);
    line.put_u8(b'\n');
    line.freeze()
}
