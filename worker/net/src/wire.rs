//! A connection as it was dialled: plain or inside TLS. It knows how many bytes went each way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_io::{AsyncRead, AsyncWrite};
use futures_rustls::client::TlsStream;

/// A byte stream to wherever was dialled. An enum, not a box: every frame goes through it.
#[derive(Debug)]
pub struct Wire<S>(Layer<S>);

#[derive(Debug)]
enum Layer<S> {
    Plain(Metered<S>),
    Tls(Box<TlsStream<Metered<S>>>),
}

/// How many bytes a connection has moved since it was opened: those of TLS, where that is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    pub received: u64,
    pub sent: u64,
}

/// A stream whose bytes are counted.
#[derive(Debug)]
pub(crate) struct Metered<S> {
    stream: S,
    moved: Moved,
}

impl<S> Metered<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, moved: Moved::default() }
    }
}

impl<S> Wire<S> {
    /// A connection without TLS.
    pub fn plain(stream: S) -> Self {
        Self(Layer::Plain(Metered::new(stream)))
    }

    pub(crate) fn tls(stream: TlsStream<Metered<S>>) -> Self {
        Self(Layer::Tls(Box::new(stream)))
    }

    /// How many bytes it has moved so far.
    pub fn moved(&self) -> Moved {
        match &self.0 {
            Layer::Plain(stream) => stream.moved,
            Layer::Tls(stream) => stream.get_ref().0.moved,
        }
    }
}

macro_rules! forward {
    ($self:ident, $method:ident $(, $argument:expr)*) => {
        match &mut $self.get_mut().0 {
            Layer::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Layer::Tls(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
        forward!(self, poll_read, cx, to)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        forward!(self, poll_write, cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_flush, cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_close, cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
        let metered = self.get_mut();
        let length = ready!(Pin::new(&mut metered.stream).poll_read(cx, to))?;
        metered.moved.received += length as u64;
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let metered = self.get_mut();
        let length = ready!(Pin::new(&mut metered.stream).poll_write(cx, bytes))?;
        metered.moved.sent += length as u64;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}
