//! SPDY/3.1, as far as Kubernetes' streams use it: what containerd and older clients speak.
//!
//! `frame` reads and writes frames, `headers` packs their names and values, `session` carries many
//! streams over one connection. What a peer sends is bounded everywhere: frames, header blocks after
//! unpacking, streams, and what waits to be read.
//! There is no flow control: the other implementation that matters (moby/spdystream, in containerd
//! and in client-go) neither sends nor heeds WINDOW_UPDATE, so whoever waited for one would stop
//! after 64 KiB. A reader that is slow holds up the connection, as it does there.

pub(crate) mod frame;
pub(crate) mod headers;
pub(crate) mod session;

pub(crate) use session::{Session, Side, Stream};

/// Why a connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpdyError {
    /// The peer does not keep to the protocol, or to this server's limits.
    #[error("the peer's frames are not to be understood: {0}")]
    Protocol(&'static str),
    /// The peer refused a stream, with this status.
    #[error("the peer reset the stream (status {0})")]
    Reset(u32),
    /// The connection is over.
    #[error("the connection is closed")]
    Closed,
    /// The peer did not answer in time.
    #[error("the peer did not accept the stream in time")]
    Late,
}
