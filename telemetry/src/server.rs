//! A server for scrapers, probes and browsers on one thread: a poll loop in which nothing blocks, so that no client can
//! hold up another.
//!
//! `tiny_http` has no limits of its own, so these are ours. At most [`MAX_CONNECTIONS`] are open; past that, or when the
//! process has no file descriptor left, the oldest is closed for a new one. Each has a deadline for everything it does
//! (`client.rs`), and a head has a bound (`http.rs`). In turn each gets one answer. So threads, memory and file
//! descriptors stay the same whatever clients do.

use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tracing::{debug, error};

use crate::client::{EndpointClient, GRACE, Progress};
use crate::http::{HttpReply, HttpRequest};

/// The most connections at once.
const MAX_CONNECTIONS: usize = 64;

/// The most connections that are accepted before those that are open have their turn: far fewer than are kept, so that each
/// has several turns before newer ones can push it out.
const MAX_ACCEPTS: usize = 8;

/// How long nothing is accepted after that failed and there was nothing to close instead.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// A running server. Dropping it ends the thread soon; `stop` waits for that.
#[derive(Debug)]
pub(crate) struct HttpServer {
    /// Its other end is polled by the thread; closing this one ends it.
    wake: UnixStream,
    thread: JoinHandle<()>,
}

impl HttpServer {
    /// Starts the thread. `answer` runs on it.
    ///
    /// # Errors
    /// The operating system gives no thread or no file descriptor.
    pub(crate) fn start(
        listeners: Vec<TcpListener>,
        answer: impl Fn(&HttpRequest) -> HttpReply + Send + 'static,
    ) -> io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        let mut clients =
            Clients { open: Vec::new(), spare: woken.try_clone().ok().map(OwnedFd::from), accept_after: None };
        let run = move || {
            if let Err(error) = clients.serve(&listeners, &woken, &answer) {
                error!(%error, "the metrics endpoint has stopped");
            }
        };
        let thread = thread::Builder::new().name("metrics-http".to_owned()).spawn(run)?;
        Ok(Self { wake, thread })
    }

    /// Closes the listeners and every connection.
    pub(crate) fn stop(self) {
        drop(self.wake);
        // A panic on that thread has been reported by the panic hook; there is nothing to add.
        let _ = self.thread.join();
    }
}

/// A connection, and whether its next turn waits for the socket.
type Open = (EndpointClient, Progress);

/// All clients of one server.
struct Clients {
    /// The oldest first.
    open: Vec<Open>,
    /// A file descriptor to give up when the process has none left, so that even then one client at a time is served.
    spare: Option<OwnedFd>,
    accept_after: Option<Instant>,
}

impl Clients {
    /// Accepts and answers until the other end of `woken` is closed.
    fn serve(
        &mut self,
        listeners: &[TcpListener],
        woken: &UnixStream,
        answer: &dyn Fn(&HttpRequest) -> HttpReply,
    ) -> Result<(), Errno> {
        loop {
            let now = Instant::now();
            self.open.retain_mut(|(client, _)| client.deadline() > now || client.expire(now));
            self.accept_after = self.accept_after.filter(|after| *after > now);
            if self.spare.is_none() {
                self.spare = woken.try_clone().ok().map(OwnedFd::from);
            }

            let accept = if self.accept_after.is_none() { PollFlags::IN } else { PollFlags::empty() };
            let mut fds = vec![PollFd::new(woken, PollFlags::IN)];
            fds.extend(listeners.iter().map(|listener| PollFd::new(listener, accept)));
            fds.extend(self.open.iter().map(|(client, _)| PollFd::new(client.stream(), client.interest())));
            match poll(&mut fds, self.timeout(now).as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            }
            let mut ready = fds.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>().into_iter();
            if ready.next() == Some(true) {
                return Ok(());
            }
            let incoming: Vec<_> = listeners.iter().filter(|_| ready.next() == Some(true)).collect();
            let now = Instant::now();
            self.open.retain_mut(|(client, progress)| {
                if ready.next() == Some(true) || *progress == Progress::Ready {
                    *progress = client.advance(now, answer);
                }
                *progress != Progress::Done
            });
            for listener in incoming {
                self.accept(listener, now, answer);
            }
        }
    }

    /// How long nothing happens by itself.
    fn timeout(&self, now: Instant) -> Option<Timespec> {
        if self.open.iter().any(|(_, progress)| *progress == Progress::Ready) {
            return Some(Timespec::default());
        }
        let next = self.open.iter().map(|(client, _)| client.deadline()).chain(self.accept_after).min()?;
        Timespec::try_from(next.saturating_duration_since(now)).ok()
    }

    /// Takes connections that wait. Most have sent their request by then, so they have their first turn at once.
    fn accept(&mut self, listener: &TcpListener, now: Instant, answer: &dyn Fn(&HttpRequest) -> HttpReply) {
        for _ in 0..MAX_ACCEPTS {
            match listener.accept() {
                Ok((stream, _)) => {
                    if self.open.len() >= MAX_CONNECTIONS {
                        // Where all are being answered, the oldest is cut.
                        let index = self.oldest(is_waiting).unwrap_or_default();
                        self.open.remove(index);
                    }
                    let Ok(mut client) = EndpointClient::new(stream, now) else { continue };
                    let progress = client.advance(now, answer);
                    if progress != Progress::Done {
                        self.open.push((client, progress));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) => {
                    // Most likely the process has no file descriptor left.
                    if self.spare.take().is_some() {
                        continue;
                    }
                    if let Some(index) = self.oldest(|open| is_waiting(open) && open.0.is_settled(now)) {
                        self.open.remove(index);
                        continue;
                    }
                    debug!(%error, "the metrics endpoint cannot accept a connection");
                    let soon = self.oldest(|(client, _)| !client.is_settled(now)).is_some();
                    self.accept_after = Some(now + if soon { GRACE } else { ACCEPT_PAUSE });
                    break;
                }
            }
        }
    }

    /// The place of the oldest connection that is `such`.
    fn oldest(&self, such: impl Fn(&Open) -> bool) -> Option<usize> {
        self.open.iter().position(such)
    }
}

/// Whether it is the client's turn to send or to close, and no request of it is here already.
fn is_waiting((client, progress): &Open) -> bool {
    !client.is_answering() && *progress != Progress::Ready
}
