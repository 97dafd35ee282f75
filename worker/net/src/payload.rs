//! What a request carries: a body that is there already or comes from a stream, and secrets in headers.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_io::AsyncRead;
use http::HeaderValue;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use oz_worker_core::secret::Secret;

/// How much of a stream is read at once.
const CHUNK: usize = 32 << 10;

/// The body of a request.
#[derive(Debug, Default)]
pub struct Payload(Content);

#[derive(Default)]
enum Content {
    #[default]
    Nothing,
    Whole(Bytes),
    Stream(Box<dyn AsyncRead + Send + Unpin>),
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Whole(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Stream(_) => f.write_str("a stream"),
        }
    }
}

impl Payload {
    /// A body that is read while it is sent. Its length is not known before, so it goes in chunks (RFC 9112, section 7.1). A
    /// stream that fails breaks the request off: the other side sees that it is not whole.
    pub fn stream(stream: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self(Content::Stream(Box::new(stream)))
    }
}

impl<B: Into<Bytes>> From<B> for Payload {
    fn from(bytes: B) -> Self {
        let bytes = bytes.into();
        Self(if bytes.is_empty() { Content::Nothing } else { Content::Whole(bytes) })
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let content = &mut self.get_mut().0;
        let Content::Stream(stream) = content else {
            return Poll::Ready(match std::mem::take(content) {
                Content::Whole(bytes) => Some(Ok(Frame::data(bytes))),
                _ => None,
            });
        };
        let mut chunk = vec![0; CHUNK];
        match ready!(Pin::new(stream).poll_read(cx, &mut chunk)) {
            Ok(0) => {
                *content = Content::Nothing;
                Poll::Ready(None)
            }
            Ok(length) => {
                chunk.truncate(length);
                Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Content::Nothing)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Nothing => SizeHint::with_exact(0),
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

/// A secret as the value of a header, which no `Debug` shows. `None` when it cannot stand in one.
pub fn secret_value(secret: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(secret.expose()).ok()?;
    value.set_sensitive(true);
    Some(value)
}
