//! What a collector says over TLS before it goes: `h2` passes on that the connection broke, and not why.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use oz_worker_net::tls::TlsFault;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::otlp::tls::is_gone;

/// A stream that keeps the fault of TLS that ended it.
pub(super) struct LastWord<S> {
    stream: S,
    /// Nobody reads any more what is written. Until all is read that was said before, nobody is told.
    gone: Option<io::Error>,
    said: Said,
}

/// What was said, once there is anything.
#[derive(Clone, Default)]
pub(super) struct Said(Arc<Mutex<Option<TlsFault>>>);

impl Said {
    pub(super) fn take(&self) -> Option<TlsFault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps the first fault.
    fn note(&self, error: &io::Error) {
        let fault = TlsFault::from(error);
        if !matches!(fault, TlsFault::Io(_)) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
        }
    }
}

impl<S: AsyncRead + Unpin> LastWord<S> {
    pub(super) fn listen(stream: S) -> (Self, Said) {
        let said = Said::default();
        (Self { stream, gone: None, said: said.clone() }, said)
    }

    /// Reads what is left, and then fails as the write failed.
    fn poll_gone(&mut self, cx: &mut Context<'_>, gone: io::Error) -> Poll<io::Error> {
        loop {
            let mut rest = [0; 1024];
            let mut rest = ReadBuf::new(&mut rest);
            match Pin::new(&mut self.stream).poll_read(cx, &mut rest) {
                Poll::Pending => {
                    self.gone = Some(gone);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) if !rest.filled().is_empty() => {}
                Poll::Ready(Ok(())) => return Poll::Ready(gone),
                Poll::Ready(Err(error)) => {
                    self.said.note(&error);
                    return Poll::Ready(gone);
                }
            }
        }
    }

    fn after_write<T>(&mut self, cx: &mut Context<'_>, written: io::Result<T>) -> Poll<io::Result<T>> {
        match written {
            Err(error) if is_gone(&error) => Poll::Ready(Err(ready!(self.poll_gone(cx, error)))),
            other => {
                if let Err(error) = &other {
                    self.said.note(error);
                }
                Poll::Ready(other)
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LastWord<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        if let Err(error) = &read {
            self.said.note(error);
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LastWord<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(gone) = self.gone.take() {
            return Poll::Ready(Err(ready!(self.poll_gone(cx, gone))));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.after_write(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(gone) = self.gone.take() {
            return Poll::Ready(Err(ready!(self.poll_gone(cx, gone))));
        }
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        self.after_write(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
