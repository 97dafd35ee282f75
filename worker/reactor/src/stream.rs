//! A connection over TCP or to a socket in the file system, of whichever sockets a runtime has, and how one is set up.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};
use rustix::fd::AsFd;
use rustix::net::sockopt::{set_socket_send_buffer_size, set_tcp_nodelay};

/// How many bytes the operating system may take before they are on their way. Left to itself it takes megabytes, and then says
/// for a long time that there is no room, however steadily the other side reads: nobody could tell slow from dead. With as
/// much as this, 10 s without room are less than 5 kB/s. A connection across a continent still carries half a megabyte a second.
const SEND_BUFFER: usize = 64 << 10;

/// Sets up a TCP socket as [`Runtime::connect`](oz_worker_runtime::Runtime::connect) has it.
///
/// # Errors
/// What the operating system says.
pub fn set_up(socket: impl AsFd) -> io::Result<()> {
    set_tcp_nodelay(&socket, true)?;
    Ok(set_socket_send_buffer_size(&socket, SEND_BUFFER)?)
}

#[derive(Debug)]
pub enum Stream<T, U> {
    Tcp(T),
    /// To a socket in the file system.
    Unix(U),
}

macro_rules! forward {
    ($self:ident, $method:ident $(, $argument:expr)*) => {
        match $self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Self::Unix(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl<T: AsyncRead + Unpin, U: AsyncRead + Unpin> AsyncRead for Stream<T, U> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        forward!(self, poll_read, cx, buf)
    }
}

impl<T: AsyncWrite + Unpin, U: AsyncWrite + Unpin> AsyncWrite for Stream<T, U> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        forward!(self, poll_write, cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_flush, cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_close, cx)
    }
}
