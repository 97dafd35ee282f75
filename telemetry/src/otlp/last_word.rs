//! What a collector says over TLS before it goes. With TLS 1.3 it misses a client certificate after the handshake, while the
//! request is being written: there may be nobody to write to before its alert is read.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures_io::{AsyncRead, AsyncWrite};
use oz_worker_net::tls::TlsFault;

/// A stream that keeps the fault of TLS that ended it: who uses it may pass on no more than that it broke.
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
            match Pin::new(&mut self.stream).poll_read(cx, &mut [0; 1024]) {
                Poll::Pending => {
                    self.gone = Some(gone);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(gone),
                Poll::Ready(Ok(_)) => {}
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
            other => Poll::Ready(other.inspect_err(|error| self.said.note(error))),
        }
    }
}

/// Whether this says no more than that there is nobody any more.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    let is_bare = matches!(TlsFault::from(error), TlsFault::Io(_));
    is_bare && matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset)
}

impl<S: AsyncRead + Unpin> AsyncRead for LastWord<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, to));
        Poll::Ready(read.inspect_err(|error| self.said.note(error)))
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

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
