//! One connection: what is under way in each direction, when it arrives, and how it breaks.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fastrand::Rng;
use futures_io::{AsyncRead, AsyncWrite};

use crate::executor::Executor;
use crate::journal::Journal;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Both ends hear of it at once; what was under way is gone.
    Reset,
    /// The server's end is closed behind what it sent.
    HangUp,
    /// Nothing arrives any more, in either direction, and nobody is told.
    Silence,
    /// Nothing that the worker sends arrives any more; it still hears the server.
    Deaf,
}

/// Where a connection will break by itself, if it will: after how many bytes in which direction, and how.
pub(super) fn draw_cut(random: &mut Rng) -> Option<(Side, u64, Cut)> {
    if random.u32(..100) < 40 {
        return None;
    }
    let side = if random.bool() { Side::Worker } else { Side::Server };
    let cut = random.choice([Cut::Reset, Cut::Reset, Cut::HangUp, Cut::Silence, Cut::Deaf])?;
    // Within the handshake, within the first messages, or much later.
    let most = random.choice([300, 1200, 20_000])?;
    Some((side, random.u64(..most), cut))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Worker,
    Server,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Worker => Self::Server,
            Self::Server => Self::Worker,
        }
    }
}

pub(super) struct Connection {
    /// What the worker sends, and what the server sends.
    pipes: [Pipe; 2],
    cut: Option<(Side, u64, Cut)>,
    reset: bool,
    /// Whether whoever writes next is told that there is no connection.
    forgotten: bool,
    capacity: usize,
    latency: Duration,
    /// How many bytes a second go each way, when not all at once.
    pub(super) rate: Option<u32>,
}

#[derive(Default)]
struct Pipe {
    /// What is under way or waits to be read, with the time of its arrival.
    chunks: VecDeque<(Duration, VecDeque<u8>)>,
    held: usize,
    written: u64,
    last_arrival: Duration,
    /// When the end of the stream arrives.
    end: Option<Duration>,
    /// Whether nothing arrives any more.
    lost: bool,
    /// Whether nobody will read it.
    unread: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Connection {
    pub(super) fn new(executor: &Executor, cut: Option<(Side, u64, Cut)>) -> Self {
        let capacity = 1 << executor.random(|random| random.u32(9..17));
        let latency = executor.duration(Duration::from_micros(50), Duration::from_millis(200));
        Self { pipes: Default::default(), cut, reset: false, forgotten: false, capacity, latency, rate: None }
    }

    fn pipe(&mut self, from: Side) -> &mut Pipe {
        &mut self.pipes[from as usize]
    }

    pub(super) fn cut(&mut self, cut: Cut, now: Duration) {
        match cut {
            Cut::Reset => {
                self.reset = true;
                self.pipes.iter_mut().for_each(Pipe::discard);
            }
            Cut::HangUp => self.pipe(Side::Server).finish(now),
            Cut::Silence => self.pipes.iter_mut().for_each(|pipe| pipe.lost = true),
            Cut::Deaf => self.pipe(Side::Worker).lost = true,
        }
        self.wake();
    }

    pub(super) fn heal(&mut self) {
        (self.cut, self.rate) = (None, None);
        self.forgotten |= self.pipes.iter().any(|pipe| pipe.lost);
        // What waits for room to write is retransmitted now, and is told.
        if self.forgotten && self.pipes.iter().any(|pipe| pipe.lost && pipe.held > 0) {
            self.cut(Cut::Reset, Duration::ZERO);
        }
    }

    fn wake(&mut self) {
        for pipe in &mut self.pipes {
            pipe.reader.take().into_iter().chain(pipe.writer.take()).for_each(Waker::wake);
        }
    }
}

impl Pipe {
    fn finish(&mut self, now: Duration) {
        let arrival = self.last_arrival.max(now);
        self.end.get_or_insert(arrival);
    }

    fn discard(&mut self) {
        self.chunks.clear();
        self.held = 0;
    }
}

/// One end of a connection. Dropping it closes that end.
pub struct Stream {
    pub(super) executor: Executor,
    pub(super) journal: Journal,
    pub(super) connection: Arc<Mutex<Connection>>,
    pub(super) side: Side,
}

impl Stream {
    /// Breaks the connection now.
    pub fn cutter(&self) -> Cutter {
        Cutter {
            executor: self.executor.clone(),
            journal: self.journal.clone(),
            connection: Arc::downgrade(&self.connection),
        }
    }
}

#[derive(Clone)]
pub struct Cutter {
    executor: Executor,
    journal: Journal,
    connection: Weak<Mutex<Connection>>,
}

impl Cutter {
    /// Breaks it now, if it still exists.
    pub fn cut(&self, cut: Cut) {
        if let Some(connection) = self.connection.upgrade() {
            self.journal.note(|| format!("network: {cut:?}"));
            connection.lock().unwrap().cut(cut, self.executor.now());
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let now = self.executor.now();
        let mut connection = self.connection.lock().unwrap();
        let reset = connection.reset;
        let pipe = connection.pipe(self.side.other());
        if reset {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        if !pipe.lost
            && let Some((arrival, chunk)) = pipe.chunks.front_mut()
        {
            if *arrival > now {
                self.executor.wake_at(*arrival, cx.waker().clone());
                pipe.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let most = buffer.len().min(chunk.len());
            // A read may end anywhere.
            let length = if self.executor.chance(30) { self.executor.random(|r| r.usize(1..=most)) } else { most };
            for (to, from) in buffer.iter_mut().zip(chunk.drain(..length)) {
                *to = from;
            }
            if chunk.is_empty() {
                pipe.chunks.pop_front();
            }
            pipe.held -= length;
            if let Some(writer) = pipe.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Ok(length));
        }
        match pipe.end {
            Some(end) if !pipe.lost && end <= now => return Poll::Ready(Ok(0)),
            Some(end) if !pipe.lost => self.executor.wake_at(end, cx.waker().clone()),
            _ => {}
        }
        pipe.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let now = self.executor.now();
        let mut connection = self.connection.lock().unwrap();
        if connection.forgotten {
            connection.cut(Cut::Reset, now);
        }
        if connection.reset {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        let Connection { capacity, latency, cut, rate, .. } = *connection;
        let pipe = connection.pipe(self.side);
        if pipe.end.is_some() {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let room = capacity.saturating_sub(pipe.held);
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = bytes.len().min(room);
        let jitter = self.executor.random(Rng::f64);
        let arrival = (now + latency.mul_f64(0.5 + jitter)).max(pipe.last_arrival);
        let breaks = cut.filter(|(side, at, _)| *side == self.side && pipe.written + length as u64 > *at);
        // A server that hangs up still gets what the worker has sent.
        let cuts_off = breaks.filter(|(_, _, cut)| *cut != Cut::HangUp);
        let delivered = cuts_off.map_or(length, |(_, at, _)| usize::try_from(at - pipe.written).unwrap_or(0));
        pipe.written += length as u64;
        if pipe.unread {
            // Nobody is there to read it: the other end answers with a reset.
            connection.cut(Cut::Reset, now);
            return Poll::Ready(Ok(length));
        }
        pipe.held += length;
        pipe.last_arrival = arrival;
        // A slow connection gives it piece by piece.
        let bytes = bytes.get(..delivered).unwrap_or_default();
        for piece in bytes.chunks(rate.map_or(usize::MAX, |rate| usize::try_from(rate / 8).unwrap_or(1).max(1))) {
            if let Some(rate) = rate {
                pipe.last_arrival += Duration::from_secs(piece.len() as u64) / rate;
            }
            pipe.chunks.push_back((pipe.last_arrival, piece.iter().copied().collect()));
        }
        if let Some(reader) = pipe.reader.take() {
            self.executor.wake_at(arrival, reader);
        }
        if let Some((_, _, kind)) = breaks {
            self.journal.note(|| format!("network: {kind:?} after {delivered} of {length} bytes"));
            connection.cut = None;
            connection.cut(kind, now);
        }
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = self.executor.now();
        let mut connection = self.connection.lock().unwrap();
        connection.pipe(self.side).finish(now);
        connection.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let now = self.executor.now();
        let mut connection = self.connection.lock().unwrap();
        let incoming = connection.pipe(self.side.other());
        incoming.unread = true;
        // Closing a socket with unread bytes resets the connection.
        if incoming.held > 0 && !incoming.lost {
            connection.cut(Cut::Reset, now);
        } else {
            connection.pipe(self.side).finish(now);
            connection.wake();
        }
    }
}
