//! A runtime's stream as hyper wants it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use futures_io::{AsyncRead, AsyncWrite};
use hyper::rt::{Read, ReadBufCursor, Write};

/// How much is read at once. hyper's own buffer may be filled by its initialized part only without `unsafe`, which is not
/// worth the copy of a head.
const CHUNK: usize = 8 << 10;

/// A stream of bytes in both directions, as a runtime opens them.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Duplex for S {}

/// A stream that hyper reads from and writes to.
pub(crate) struct Socket<S> {
    stream: S,
    /// How many bytes were read, for whoever explains an error.
    received: Arc<AtomicUsize>,
}

impl<S> Socket<S> {
    pub(crate) const fn new(stream: S, received: Arc<AtomicUsize>) -> Self {
        Self { stream, received }
    }

    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> Read for Socket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut to: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let mut chunk = [0; CHUNK];
        let most = to.remaining().min(CHUNK);
        let socket = self.get_mut();
        let room = chunk.get_mut(..most).unwrap_or_default();
        let length = ready!(Pin::new(&mut socket.stream).poll_read(cx, room))?;
        socket.received.fetch_add(length, Ordering::Relaxed);
        to.put_slice(chunk.get(..length).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Write for Socket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}
