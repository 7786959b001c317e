//! The body of an answer: all at once, or a stream that lives as long as its watch.
//!
//! A stream is polled by whoever reads the body; no task stands behind it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt};
use http_body::{Frame, SizeHint};

/// The body of an answer.
pub struct Body(Inner);

enum Inner {
    Whole(Option<Bytes>),
    Stream(BoxStream<'static, Bytes>),
}

impl Body {
    /// A body that is known at once.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(Inner::Whole((!bytes.is_empty()).then_some(bytes)))
    }

    /// All of it, if it is known at once.
    pub(crate) fn peek(&self) -> Option<&[u8]> {
        match &self.0 {
            Inner::Whole(bytes) => Some(bytes.as_deref().unwrap_or_default()),
            Inner::Stream(_) => None,
        }
    }

    /// The same, and this is done when it has ended, or nobody reads it any more.
    pub(crate) fn then(self, done: impl FnOnce() + Send + 'static) -> Self {
        match self.0 {
            Inner::Whole(bytes) => {
                done();
                Self(Inner::Whole(bytes))
            }
            Inner::Stream(pieces) => {
                let end = AtEnd(Some(Box::new(done)));
                Self::stream(pieces.inspect(move |_| _ = &end).boxed())
            }
        }
    }

    /// A body that comes in pieces.
    pub fn stream(pieces: BoxStream<'static, Bytes>) -> Self {
        Self(Inner::Stream(pieces))
    }
}

/// Does something when it is dropped.
struct AtEnd(Option<Box<dyn FnOnce() + Send>>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done();
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Inner::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Inner::Stream(pieces) => Pin::new(pieces)
                .poll_next(cx)
                .map(|piece| piece.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Inner::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Inner::Stream(_) => SizeHint::default(),
        }
    }
}
