//! One established WebSocket as the server sees it: read and written frame by frame, with a transcript of all of it.
//!
//! Built on frames and not on messages, because tests need what a well-behaved peer would hide: Pings that stay
//! unanswered, fragments, frames that break the rules.
// Looking into one's own JSON by name gives null, never a panic.
#![allow(clippy::indexing_slicing)]

use std::{
    collections::VecDeque,
    fmt::Write as _,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustls::{ServerConnection, StreamOwned};
use serde_json::Value;
use tungstenite::{
    Error,
    protocol::frame::{
        CloseFrame, Frame, FrameHeader, FrameSocket,
        coding::{CloseCode, Control, Data, OpCode},
    },
};

use crate::BOUND;

/// The byte stream below a connection.
#[derive(Debug)]
pub enum Stream {
    /// `ws://`.
    Plain(TcpStream),
    /// `wss://`.
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
    /// Closed by the test.
    Gone,
}

impl Stream {
    /// The TCP socket at the bottom.
    ///
    /// # Errors
    /// `NotConnected` when it was closed here.
    pub fn tcp(&self) -> io::Result<&TcpStream> {
        match self {
            Self::Plain(tcp) => Ok(tcp),
            Self::Tls(tls) => Ok(&tls.sock),
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Closes the socket with a TCP reset: what is unread on either side is lost.
    pub fn reset(self) {
        if let Ok(tcp) = self.tcp() {
            rustix::net::sockopt::set_socket_linger(tcp, Some(Duration::ZERO)).expect("SO_LINGER is settable");
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buf),
            Self::Tls(tls) => tls.read(buf),
            Self::Gone => Ok(0),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(buf),
            Self::Tls(tls) => tls.write(buf),
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.flush(),
            Self::Gone => Ok(()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    Text(String),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// A Close frame: code (none: an empty frame) and reason.
    Close(Option<u16>, String),
    /// The connection is gone without a Close frame: FIN or reset.
    End,
    /// The worker broke the WebSocket protocol (RFC 6455): how.
    Broken(String),
}

/// The server's end of one session.
pub struct Connection {
    socket: FrameSocket<Stream>,
    // Shared with every `Sender`: the bytes of two frames must not interleave.
    write_lock: Arc<Mutex<()>>,
    answers_pings: bool,
    /// The text frames that [`answer`](Self::answer) read.
    unread: VecDeque<String>,
    ended: bool,
    opened: Instant,
    transcript: VecDeque<String>,
}

impl Connection {
    /// Takes over a stream whose upgrade is done. `already_read` came after the HTTP head.
    pub(crate) fn new(stream: Stream, already_read: Vec<u8>) -> Self {
        Self {
            socket: FrameSocket::from_partially_read(stream, already_read),
            write_lock: Arc::default(),
            answers_pings: true,
            unread: VecDeque::new(),
            ended: false,
            opened: Instant::now(),
            transcript: VecDeque::new(),
        }
    }

    /// Leaves the worker's Pings unanswered from here on (or answers them again).
    pub fn answer_pings(&mut self, on: bool) {
        self.answers_pings = on;
    }

    /// Lets the operating system keep no more than a little of what is not read yet: left to itself it takes megabytes.
    pub fn keep_little(&self) {
        let set = self.socket.get_ref().tcp().and_then(|tcp| Ok(set_socket_recv_buffer_size(tcp, 16 << 10)?));
        set.unwrap_or_else(|error| self.fail(&format!("cannot set the buffer: {error}")));
    }

    // ---- reading ----

    /// The next text frame as JSON. Pings are answered on the way. Panics after [`BOUND`], and when the connection ends.
    pub fn recv(&mut self) -> Value {
        self.recv_within(BOUND).unwrap_or_else(|| self.fail("no text frame came"))
    }

    /// The next text frame as JSON, or `None` when none came in time. Panics when the connection ends.
    pub fn recv_within(&mut self, bound: Duration) -> Option<Value> {
        let deadline = Instant::now() + bound;
        loop {
            match self.next_until(deadline)? {
                Received::Text(text) => {
                    return Some(
                        serde_json::from_str(&text)
                            .unwrap_or_else(|error| self.fail(&format!("the worker sent {text:?}: {error}"))),
                    );
                }
                Received::Ping(_) | Received::Pong(_) => {}
                other => self.fail(&format!("awaited a text frame, but: {other:?}")),
            }
        }
    }

    /// The next text frame, which must be of this type; gives its `data`.
    pub fn expect(&mut self, kind: &str) -> Value {
        let mut frame = self.recv();
        if frame["type"] != kind {
            self.fail(&format!("expected {kind}, came {frame}"));
        }
        frame["data"].take()
    }

    pub fn expect_pong(&mut self, payload: &[u8]) {
        let deadline = Instant::now() + BOUND;
        loop {
            match self.next_until(deadline) {
                Some(Received::Pong(got)) if got == payload => return,
                Some(Received::Ping(_) | Received::Pong(_) | Received::Text(_)) => {}
                other => self.fail(&format!("no Pong {payload:?} came, but {other:?}")),
            }
        }
    }

    /// Answers whatever the worker has asked for up to now: the proof that its messages arrived, too. Text frames that come
    /// meanwhile are read later.
    pub fn answer(&mut self) {
        self.answer_within(BOUND);
    }

    /// The same of a worker that may take so long.
    pub fn answer_within(&mut self, bound: Duration) {
        self.ping(b"answered");
        let deadline = Instant::now() + bound;
        let mut texts = VecDeque::new();
        loop {
            match self.next_until(deadline) {
                Some(Received::Text(text)) => texts.push_back(text),
                Some(Received::Ping(_)) => {}
                Some(Received::Pong(_)) => break,
                other => self.fail(&format!("no Pong came, but {other:?}")),
            }
        }
        self.unread = texts;
    }

    /// Whether text frames that came meanwhile are still to be read.
    pub fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Waits for a Ping within `bound`; gives its payload.
    pub fn expect_ping_within(&mut self, bound: Duration) -> Vec<u8> {
        let deadline = Instant::now() + bound;
        loop {
            match self.next_until(deadline) {
                Some(Received::Ping(payload)) => return payload,
                Some(Received::Pong(_) | Received::Text(_)) => {}
                other => self.fail(&format!("no Ping came, but {other:?}")),
            }
        }
    }

    /// Reads until the connection ends, by Close frame or without, within `bound`.
    pub fn expect_end_within(&mut self, bound: Duration) -> Received {
        let deadline = Instant::now() + bound;
        loop {
            match self.next_until(deadline) {
                Some(end @ (Received::Close(..) | Received::End)) => return end,
                Some(Received::Text(_) | Received::Ping(_) | Received::Pong(_)) => {}
                other => self.fail(&format!("the connection did not end within {bound:?}, but: {other:?}")),
            }
        }
    }

    /// Reads until a Close frame; gives its code.
    pub fn expect_close(&mut self) -> Option<u16> {
        match self.expect_end_within(BOUND) {
            Received::Close(code, _) => code,
            other => self.fail(&format!("expected a Close frame, came {other:?}")),
        }
    }

    /// Whatever comes next until `deadline`; `None` when nothing did.
    pub fn next_until(&mut self, deadline: Instant) -> Option<Received> {
        if let Some(text) = self.unread.pop_front() {
            return Some(Received::Text(text));
        }
        if self.ended {
            return Some(Received::End);
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Zero would mean "for ever" to the socket; one last look costs a millisecond.
            let timeout = left.max(Duration::from_millis(1));
            if let Err(error) = self.socket.get_ref().tcp().and_then(|tcp| tcp.set_read_timeout(Some(timeout))) {
                return Some(self.end(&format!("the connection is gone: {error}")));
            }
            match self.socket.read(None) {
                Ok(Some(frame)) => return Some(self.received(&frame)),
                Ok(None) => return Some(self.end("the worker closed the TCP connection")),
                Err(Error::Io(error)) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut if left.is_zero() => return None,
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                    _ => return Some(self.end(&format!("the connection broke: {error}"))),
                },
                Err(error) => return Some(Received::Broken(error.to_string())),
            }
        }
    }

    fn end(&mut self, why: &str) -> Received {
        self.ended = true;
        self.note(why);
        Received::End
    }

    fn received(&mut self, frame: &Frame) -> Received {
        let header = frame.header();
        let Some(mask) = header.mask else { return Received::Broken("a frame without a mask (5.1)".to_owned()) };
        let payload: Vec<u8> =
            frame.payload().iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        if !header.is_final {
            return Received::Broken("a fragment, which no worker sends".to_owned());
        }
        match header.opcode {
            OpCode::Data(Data::Text) => {
                let Ok(text) = String::from_utf8(payload) else {
                    return Received::Broken("a text frame that is not UTF-8 (5.6)".to_owned());
                };
                self.note(&format!("<- {text}"));
                Received::Text(text)
            }
            OpCode::Control(Control::Ping) => {
                self.note(&format!("<- Ping {}", payload.escape_ascii()));
                if self.answers_pings {
                    // A worker that is gone by now shows at the next read.
                    let _ = self.try_write(Frame::pong(payload.clone()));
                    self.note("-> Pong");
                }
                Received::Ping(payload)
            }
            OpCode::Control(Control::Pong) => {
                self.note(&format!("<- Pong {}", payload.escape_ascii()));
                Received::Pong(payload)
            }
            OpCode::Control(Control::Close) => {
                let (code, reason) = match payload.split_at_checked(2) {
                    Some((code, reason)) => (code.try_into().ok().map(u16::from_be_bytes), reason),
                    None => (None, &[][..]),
                };
                let reason = String::from_utf8_lossy(reason).into_owned();
                self.note(&format!("<- Close {code:?} {reason}"));
                Received::Close(code, reason)
            }
            other => Received::Broken(format!("a {other} frame, which no worker sends")),
        }
    }

    // ---- writing ----

    /// Sends a message as a text frame.
    pub fn send(&mut self, message: impl AsRef<Value>) {
        self.text(&message.as_ref().to_string());
    }

    /// Sends a text frame, JSON or not.
    pub fn text(&mut self, text: &str) {
        self.frame(text.as_bytes().to_vec(), OpCode::Data(Data::Text), true);
    }

    pub fn binary(&mut self, payload: &[u8]) {
        self.frame(payload.to_vec(), OpCode::Data(Data::Binary), true);
    }

    /// Sends a text message in as many fragments as there are parts.
    pub fn fragments(&mut self, parts: &[&[u8]]) {
        for (index, part) in parts.iter().enumerate() {
            let kind = if index == 0 { Data::Text } else { Data::Continue };
            self.frame(part.to_vec(), OpCode::Data(kind), index + 1 == parts.len());
        }
    }

    /// Sends one frame as given, sensible or not.
    pub fn frame(&mut self, payload: Vec<u8>, opcode: OpCode, is_final: bool) {
        self.note(&format!("-> {opcode} {}", preview(&payload)));
        let header = FrameHeader { is_final, opcode, ..FrameHeader::default() };
        let frame = Frame::from_payload(header, payload.into());
        self.try_write(frame).unwrap_or_else(|error| self.fail(&format!("could not write: {error}")));
    }

    pub fn ping(&mut self, payload: &[u8]) {
        self.frame(payload.to_vec(), OpCode::Control(Control::Ping), true);
    }

    /// Sends bytes as they are, below WebSocket. That the worker may hang up meanwhile is no error here.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.note(&format!("-> {} raw bytes", bytes.len()));
        let _guard = self.write_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = self.socket.get_mut();
        let _ = stream.write_all(bytes).and_then(|()| stream.flush());
    }

    /// Sends a Close frame with this code, as the start of a closing handshake.
    pub fn close(&mut self, code: u16, reason: &str) {
        self.note(&format!("-> Close {code}"));
        let frame = Frame::close(Some(CloseFrame { code: CloseCode::from(code), reason: reason.into() }));
        self.try_write(frame).unwrap_or_else(|error| self.fail(&format!("could not write: {error}")));
    }

    /// Ends the connection with a FIN, without a Close frame. What the worker sent and nobody read is lost, but, unlike
    /// after [`Connection::reset`], nothing tells the worker so as long as this connection is not dropped.
    pub fn hang_up(&mut self) {
        self.note("hung up");
        if let Ok(tcp) = self.socket.get_ref().tcp() {
            let _ = tcp.shutdown(Shutdown::Write);
        }
    }

    /// Ends the connection with a TCP reset: what the worker sent and nobody read is lost.
    pub fn reset(&mut self) {
        self.note("reset");
        self.ended = true;
        std::mem::replace(self.socket.get_mut(), Stream::Gone).reset();
    }

    /// A handle that sends from other threads.
    ///
    /// # Errors
    /// When the socket cannot be duplicated, or is a TLS one, whose two directions share their state.
    pub fn sender(&self) -> io::Result<Sender> {
        match self.socket.get_ref() {
            Stream::Plain(tcp) => Ok(Sender { tcp: tcp.try_clone()?, write_lock: Arc::clone(&self.write_lock) }),
            Stream::Tls(_) | Stream::Gone => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn try_write(&mut self, frame: Frame) -> io::Result<()> {
        let bytes = encode(frame)?;
        let _guard = self.write_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = self.socket.get_mut();
        stream.write_all(&bytes)?;
        stream.flush()
    }

    // ---- explaining ----

    fn note(&mut self, what: &str) {
        let line = format!("{:>8.3}s {}", self.opened.elapsed().as_secs_f64(), preview(what.as_bytes()));
        // The last lines explain; the first thousand of a long session only hide them.
        if self.transcript.len() == 60 {
            self.transcript.pop_front();
        }
        self.transcript.push_back(line);
    }

    /// Panics with the transcript.
    pub fn fail(&self, what: &str) -> ! {
        let mut text = format!("{what}\n--- this session so far ---\n");
        for line in &self.transcript {
            let _ = writeln!(text, "{line}");
        }
        panic!("{text}");
    }
}

/// Sends frames into a [`Connection`] from another thread than the one that reads it.
#[derive(Debug)]
pub struct Sender {
    tcp: TcpStream,
    write_lock: Arc<Mutex<()>>,
}

impl Sender {
    /// Sends a text frame.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn text(&self, text: &str) -> io::Result<()> {
        let bytes = encode(Frame::message(text.as_bytes().to_vec(), OpCode::Data(Data::Text), true))?;
        let _guard = self.write_lock.lock().unwrap_or_else(PoisonError::into_inner);
        (&self.tcp).write_all(&bytes)
    }

    /// Drops the connection without a Close frame, as a network that fails does.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn cut(&self) -> io::Result<()> {
        self.tcp.shutdown(Shutdown::Both)
    }
}

fn encode(frame: Frame) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(frame.len());
    frame.format(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// At most 400 bytes of something, readable.
fn preview(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match text.char_indices().nth(400) {
        Some((end, _)) => format!("{}… ({} bytes)", text.get(..end).unwrap_or_default(), bytes.len()),
        None => text.into_owned(),
    }
}
