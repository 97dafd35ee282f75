//! A server for scrapers on one thread: a poll loop in which nothing blocks, so no client can hold up another.
//!
//! Every connection has a deadline, and there is a bound on how many there are: past it the oldest is closed. Threads and
//! memory stay the same whatever clients do.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{debug, error};

use crate::http::{self, Head, Method, Request, Response};

/// The most connections at once; beyond it the oldest is closed.
const MAX_CONNECTIONS: usize = 64;

/// From accepting a connection to its close: as long as Prometheus waits for a scrape by default.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long nothing is accepted after `accept` failed and there was no connection to close instead.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// A running server. Dropping it ends the thread soon; `stop` waits for that.
#[derive(Debug)]
pub(crate) struct Server {
    /// Its other end is polled by the thread; closing this one ends it.
    wake: UnixStream,
    thread: JoinHandle<()>,
}

/// Listens on `host`:`port`, on the first IPv4 address that the name has, else on its first address. Trying the next one
/// after a failure would hide that the port is taken.
///
/// # Errors
/// The name has no address, or the operating system refuses the port.
pub(crate) fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    let name = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let addresses: Vec<SocketAddr> = (name, port).to_socket_addrs()?.collect();
    let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    let listener = TcpListener::bind(address.ok_or_else(|| io::Error::other("the host has no address"))?)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Server {
    /// Starts the thread. `answer` runs on it.
    ///
    /// # Errors
    /// The operating system gives no thread or no file descriptor.
    pub(crate) fn start(
        listener: TcpListener,
        answer: impl Fn(&Request) -> Response + Send + 'static,
    ) -> io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        let run = move || {
            if let Err(error) = serve(&listener, &woken, &answer) {
                error!(%error, "the metrics endpoint has stopped");
            }
        };
        let thread = thread::Builder::new().name("metrics-http".to_owned()).spawn(run)?;
        Ok(Self { wake, thread })
    }

    /// Closes the listener and every connection.
    pub(crate) fn stop(self) {
        drop(self.wake);
        // A panic on that thread has been reported by the panic hook; there is nothing to add.
        let _ = self.thread.join();
    }
}

/// Accepts and answers until the other end of `woken` is closed.
fn serve(
    listener: &TcpListener,
    woken: &UnixStream,
    answer: &dyn Fn(&Request) -> Response,
) -> Result<(), rustix::io::Errno> {
    let mut connections: VecDeque<Connection> = VecDeque::new();
    let mut accept_after: Option<Instant> = None;
    loop {
        let now = Instant::now();
        connections.retain(|connection| connection.deadline > now);
        accept_after = accept_after.filter(|after| *after > now);
        let next = connections.iter().map(|connection| connection.deadline).chain(accept_after).min();
        let timeout = next.and_then(|next| Timespec::try_from(next - now).ok());

        let accept = if accept_after.is_none() { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = vec![PollFd::new(woken, PollFlags::IN), PollFd::new(listener, accept)];
        fds.extend(connections.iter().map(|connection| PollFd::new(&connection.stream, connection.interest())));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut ready = ready.into_iter();
        if ready.next() == Some(true) {
            return Ok(());
        }
        let incoming = ready.next() == Some(true);
        connections.retain_mut(|connection| ready.next() != Some(true) || connection.advance(answer));
        if incoming && let Err(error) = accept_into(&mut connections, listener) {
            debug!(%error, "the metrics endpoint cannot accept a connection");
            // Most likely the process has no file descriptor left; the oldest connection has had its chance with one.
            if connections.pop_front().is_none() {
                accept_after = Some(Instant::now() + ACCEPT_PAUSE);
            }
        }
    }
}

/// Takes the connections that wait, but no more at a time than are kept.
fn accept_into(connections: &mut VecDeque<Connection>, listener: &TcpListener) -> io::Result<()> {
    for _ in 0..MAX_CONNECTIONS {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                if connections.len() >= MAX_CONNECTIONS {
                    connections.pop_front();
                }
                let deadline = Instant::now() + DEADLINE;
                connections.push_back(Connection { stream, deadline, state: State::Reading(Vec::new()) });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

struct Connection {
    stream: TcpStream,
    deadline: Instant,
    state: State,
}

enum State {
    /// The head, as far as it has arrived.
    Reading(Vec<u8>),
    /// The answer, and how much of it is sent.
    Writing(Vec<u8>, usize),
    /// All is sent. Closing before the client does could take the answer's end from it, by a reset.
    Draining,
}

impl Connection {
    const fn interest(&self) -> PollFlags {
        match self.state {
            State::Reading(_) | State::Draining => PollFlags::IN,
            State::Writing(..) => PollFlags::OUT,
        }
    }

    /// Reads and writes what is possible now. False: the connection is done.
    fn advance(&mut self, answer: &dyn Fn(&Request) -> Response) -> bool {
        loop {
            match self.step(answer) {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }

    /// One read or write. `Ok(false)`: the client has closed.
    fn step(&mut self, answer: &dyn Fn(&Request) -> Response) -> io::Result<bool> {
        let mut chunk = [0; 1024];
        match &mut self.state {
            State::Reading(head) => {
                let read = self.stream.read(&mut chunk)?;
                head.extend_from_slice(chunk.get(..read).unwrap_or_default());
                match http::parse(head) {
                    Head::Incomplete => return Ok(read > 0),
                    Head::Complete(request) => {
                        let head_only = request.method == Method::Head;
                        self.state = State::Writing(answer(&request).encode(request.accepts_gzip, head_only), 0);
                    }
                    Head::Refused(response) => self.state = State::Writing(response.encode(false, false), 0),
                }
                Ok(true)
            }
            State::Writing(bytes, sent) => {
                *sent += self.stream.write(bytes.get(*sent..).unwrap_or_default())?;
                if *sent >= bytes.len() {
                    self.stream.shutdown(Shutdown::Write)?;
                    self.state = State::Draining;
                }
                Ok(true)
            }
            State::Draining => Ok(self.stream.read(&mut chunk)? > 0),
        }
    }
}
