//! One client of the endpoint: what it has sent, what it is still to read, and until when. Nothing here blocks.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use tiny_http::Method;

use crate::http::{self, HttpReply, HttpRequest, ParsedHead};

/// How long a request may take to arrive, and its answer to be read: as long as Prometheus waits for a scrape by default.
const EXCHANGE: Duration = Duration::from_secs(10);

/// How long a connection is kept for the next request: a little more than a minute, Prometheus' default interval.
const IDLE: Duration = Duration::from_secs(75);

/// How long a client may take to close after its last answer.
const CLOSE: Duration = Duration::from_secs(2);

/// How long a client that has just connected may take to say something before it can be closed for another one: the way
/// there and back on most networks, and short enough that hundreds that say nothing are through in seconds.
pub(crate) const GRACE: Duration = Duration::from_millis(20);

/// How much is read at a time, in bytes: most requests whole.
const CHUNK: usize = 2048;

/// The most requests on one connection, so that none is for ever.
const MAX_REQUESTS: u32 = 1000;

#[derive(Debug)]
pub(crate) struct EndpointClient {
    stream: TcpStream,
    state: Turn,
    /// When [`GRACE`] is over.
    settled: Instant,
    /// When [`expire`](Self::expire) is due.
    deadline: Instant,
    /// What has arrived of the next requests; beyond one head and one chunk nothing is read.
    received: Vec<u8>,
    requests: u32,
}

#[derive(Debug)]
enum Turn {
    /// Nothing of the next request has arrived.
    Idle,
    /// A part of it has.
    Reading,
    /// The answer, how much of it is sent, and whether the connection is kept afterwards.
    Writing { answer: Vec<u8>, sent: usize, keep_alive: bool },
    /// All is sent. Closing before the client does could take the answer's end from it, by a reset.
    Closing,
}

/// What there is to do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Wait until the socket is ready.
    Blocked,
    /// Another request is here already. It waits for its turn: one client must not keep all others waiting.
    Ready,
    /// Drop it.
    Done,
}

impl EndpointClient {
    /// Takes over a client that has just connected.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn new(stream: TcpStream, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            state: Turn::Idle,
            settled: now + GRACE,
            deadline: now + EXCHANGE,
            received: Vec::new(),
            requests: 0,
        })
    }

    pub(crate) const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What to poll the socket for.
    pub(crate) const fn interest(&self) -> PollFlags {
        match self.state {
            Turn::Idle | Turn::Reading | Turn::Closing => PollFlags::IN,
            Turn::Writing { .. } => PollFlags::OUT,
        }
    }

    /// Whether it has had its time to send a request.
    pub(crate) fn is_settled(&self, now: Instant) -> bool {
        self.settled <= now
    }

    /// Whether an answer is on its way, which closing would cut.
    pub(crate) const fn is_answering(&self) -> bool {
        matches!(self.state, Turn::Writing { .. })
    }

    /// Reads and writes what is possible now, up to the end of one answer.
    pub(crate) fn advance(&mut self, now: Instant, answer: &dyn Fn(&HttpRequest) -> HttpReply) -> Progress {
        loop {
            match self.step(now, answer) {
                Ok(Some(progress)) => return progress,
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Blocked,
                Err(_) => return Progress::Done,
            }
        }
    }

    /// The deadline has come. True: there is still something to say, until a new one.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        let is_late = matches!(self.state, Turn::Reading);
        if is_late {
            self.answer(HttpReply::text(408, "the request took too long\n").encode(false, false, false), false);
            self.deadline = now + CLOSE;
        }
        is_late
    }

    /// One read or write. `None`: go on.
    fn step(&mut self, now: Instant, answer: &dyn Fn(&HttpRequest) -> HttpReply) -> io::Result<Option<Progress>> {
        match &mut self.state {
            Turn::Idle | Turn::Reading => {
                if !self.received.is_empty() && self.take_request(now, answer) {
                    return Ok(None);
                }
                let mut chunk = [0; CHUNK];
                let read = self.stream.read(&mut chunk)?;
                if read == 0 {
                    return Ok(Some(Progress::Done));
                }
                if matches!(self.state, Turn::Idle) {
                    self.state = Turn::Reading;
                    if self.requests > 0 {
                        self.deadline = now + EXCHANGE;
                    }
                }
                self.received.extend_from_slice(chunk.get(..read).unwrap_or_default());
                Ok(None)
            }
            Turn::Writing { answer, sent, keep_alive } => {
                *sent += self.stream.write(answer.get(*sent..).unwrap_or_default())?;
                if *sent < answer.len() {
                    return Ok(None);
                }
                if !*keep_alive {
                    self.stream.shutdown(Shutdown::Write)?;
                    self.state = Turn::Closing;
                    self.deadline = now + CLOSE;
                    return Ok(None);
                }
                self.state = if self.received.is_empty() { Turn::Idle } else { Turn::Reading };
                self.deadline = now + if self.received.is_empty() { IDLE } else { EXCHANGE };
                Ok(Some(if self.received.is_empty() { Progress::Blocked } else { Progress::Ready }))
            }
            Turn::Closing => {
                let read = self.stream.read(&mut [0; CHUNK])?;
                // Not until there is nothing left: somebody may send faster than this reads.
                Ok(Some(if read == 0 { Progress::Done } else { Progress::Blocked }))
            }
        }
    }

    /// Answers the request that has arrived, if one has.
    fn take_request(&mut self, now: Instant, answer: &dyn Fn(&HttpRequest) -> HttpReply) -> bool {
        let (bytes, keep_alive) = match http::parse(&self.received) {
            ParsedHead::Incomplete => return false,
            ParsedHead::Complete(request, length) => {
                self.received.drain(..length);
                self.requests += 1;
                let keep_alive = request.keep_alive && self.requests < MAX_REQUESTS;
                let head_only = request.method == Method::Head;
                (answer(&request).encode(request.accepts_gzip, head_only, keep_alive), keep_alive)
            }
            ParsedHead::Refused(response) => (response.encode(false, false, false), false),
        };
        if self.received.is_empty() {
            // A connection that is only kept takes no memory of its own.
            self.received = Vec::new();
        }
        self.answer(bytes, keep_alive);
        self.deadline = now + EXCHANGE;
        true
    }

    fn answer(&mut self, answer: Vec<u8>, keep_alive: bool) {
        self.state = Turn::Writing { answer, sent: 0, keep_alive };
    }
}
