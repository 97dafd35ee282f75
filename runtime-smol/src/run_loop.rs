//! The thread of the run loop waits for its own socket itself, and the reactor runs elsewhere.
//!
//! A frame from the server is answered before anything else happens, and the reactor is a long way round: each of its waits
//! takes five system calls, each new wait for a socket one more, and while it serves the tasks' processes the run loop
//! would be woken for those too. So this thread asks `poll(2)` for the connection and for whoever wakes it, and nothing more.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker, ready};

use futures_lite::future::poll_fn;
use futures_lite::{AsyncRead, AsyncWrite};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use smol::Async;

thread_local! {
    /// On the thread of the run loop: the sockets that it waits for, as its last poll left them.
    static AWAITED: RefCell<Option<Vec<Awaited>>> = const { RefCell::new(None) };
}

/// A socket that took or gave no more. Weak, because the run loop may drop its connection after it has waited for it.
struct Awaited {
    socket: Weak<Async<TcpStream>>,
    until: PollFlags,
}

/// Wakes the run loop.
#[derive(Debug)]
pub(crate) struct LoopThread {
    /// Whether its future is to be polled once more.
    woken: AtomicBool,
    /// Whether it waits, or is about to, so that it must be told through `bell`.
    waits: AtomicBool,
    bell: OwnedFd,
}

impl LoopThread {
    pub(crate) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { woken: AtomicBool::new(false), waits: AtomicBool::new(false), bell })
    }

    /// Runs `future` to its end on this thread. It must poll its sockets each time it is polled itself.
    pub(crate) fn block_on<T>(self: &Arc<Self>, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let waker = Waker::from(Arc::clone(self));
        loop {
            self.woken.store(false, Ordering::SeqCst);
            AWAITED.with_borrow_mut(|awaited| awaited.get_or_insert_default().clear());
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                AWAITED.set(None);
                return output;
            }
            self.waits.store(true, Ordering::SeqCst);
            if !self.woken.load(Ordering::SeqCst) {
                self.wait();
            }
            self.waits.store(false, Ordering::SeqCst);
        }
    }

    fn wait(&self) {
        let awaited: Vec<_> = AWAITED.with_borrow(|awaited| {
            let upgraded = |awaited: &Awaited| Some((awaited.socket.upgrade()?, awaited.until));
            awaited.iter().flatten().filter_map(upgraded).collect()
        });
        let bell = PollFd::new(&self.bell, PollFlags::IN);
        let sockets = awaited.iter().map(|(socket, until)| PollFd::new(socket.as_ref(), *until));
        let mut watched: Vec<PollFd<'_>> = [bell].into_iter().chain(sockets).collect();
        // Whatever it says, the future finds out what happened. A signal is as good a reason to ask it as any.
        let _ = poll(&mut watched, None);
        if watched.first().is_some_and(|bell| !bell.revents().is_empty()) {
            let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        }
    }
}

impl Wake for LoopThread {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Either it sees that it is woken before it waits, or it is seen here to wait.
        if !self.woken.swap(true, Ordering::SeqCst) && self.waits.load(Ordering::SeqCst) {
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }
}

/// A connection over TCP: awaited by the run loop on its own thread, and through the reactor on any other.
#[derive(Debug)]
pub struct LoopSocket(Arc<Async<TcpStream>>);

impl LoopSocket {
    /// A connection to `address`. Begun here and not by smol, which would wait for it on the reactor.
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
        match net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let stream = Self(Arc::new(Async::new_nonblocking(TcpStream::from(socket))?));
        poll_fn(|cx| stream.poll_connected(cx)).await?;
        Ok(stream)
    }

    fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connected = |socket: &TcpStream| match (socket.take_error()?, socket.peer_addr()) {
            (Some(error), _) => Err(error),
            (None, Err(error)) if error.kind() == io::ErrorKind::NotConnected => Err(io::ErrorKind::WouldBlock.into()),
            (None, peer) => peer.map(drop),
        };
        self.attempt(PollFlags::OUT, connected).unwrap_or_else(|| {
            ready!(self.0.poll_writable(cx))?;
            Poll::Ready(connected(self.get_ref()))
        })
    }

    pub fn get_ref(&self) -> &TcpStream {
        (*self.0).as_ref()
    }

    /// Makes `attempt` on the thread of the run loop, which waits for `until` when the socket is not ready; elsewhere, none.
    fn attempt<T>(
        &self,
        until: PollFlags,
        mut attempt: impl FnMut(&TcpStream) -> io::Result<T>,
    ) -> Option<Poll<io::Result<T>>> {
        AWAITED.with_borrow_mut(|awaited| {
            let awaited = awaited.as_mut()?;
            loop {
                return Some(match attempt(self.get_ref()) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        // Who reads until there is no more asks twice.
                        let known =
                            |known: &Awaited| known.until == until && known.socket.as_ptr() == Arc::as_ptr(&self.0);
                        if !awaited.iter().any(known) {
                            awaited.push(Awaited { socket: Arc::downgrade(&self.0), until });
                        }
                        Poll::Pending
                    }
                    done => Poll::Ready(done),
                });
            }
        })
    }
}

impl AsyncRead for LoopSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        self.attempt(PollFlags::IN, |mut socket| socket.read(bytes))
            .unwrap_or_else(|| Pin::new(&mut &*self.0).poll_read(cx, bytes))
    }
}

impl AsyncWrite for LoopSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.attempt(PollFlags::OUT, |mut socket| socket.write(bytes))
            .unwrap_or_else(|| Pin::new(&mut &*self.0).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self.0).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self.0).poll_close(cx)
    }
}
