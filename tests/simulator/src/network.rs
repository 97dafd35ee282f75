//! The network between workers and the server: latency, full buffers, and every way in which a connection can break.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use fastrand::Rng;
use futures_io::{AsyncRead, AsyncWrite};

use crate::executor::Executor;
use crate::journal::Journal;

/// Where somebody answers unless [`Network::set_addresses`] says otherwise.
pub const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

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

/// What a dial may meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Connects,
    Refused,
    Unreachable,
    Hangs,
}

/// The network. A clone is another handle to the same.
#[derive(Clone)]
pub struct Network {
    executor: Executor,
    journal: Journal,
    state: Arc<Mutex<State>>,
    accept: Sender<Stream>,
}

#[allow(clippy::struct_excessive_bools)] // each is a switch of its own
struct State {
    faulty: bool,
    outage: bool,
    silent: bool,
    /// Whether most connections stay whole also while there are faults.
    sturdy: bool,
    /// Closed when the faults are over: a dial that hangs goes on then.
    healed: (Sender<()>, Receiver<()>),
    /// The addresses of every name, and those of them at which nobody ever answers.
    addresses: Vec<IpAddr>,
    dead: BTreeSet<IpAddr>,
    /// How many bytes a second the connections that are opened from now on carry in each direction; `None` for all at once.
    rate: Option<u32>,
    connections: Vec<Weak<Mutex<Connection>>>,
    dials: Vec<Duration>,
}

impl Network {
    /// A network without faults, and where the server takes what is dialled.
    pub fn new(executor: &Executor, journal: &Journal) -> (Self, Receiver<Stream>) {
        let (accept, accepted) = async_channel::unbounded();
        let state = State {
            faulty: false,
            outage: false,
            silent: false,
            sturdy: false,
            healed: async_channel::bounded(1),
            addresses: vec![ADDRESS],
            dead: BTreeSet::new(),
            rate: None,
            connections: Vec::new(),
            dials: Vec::new(),
        };
        let (executor, journal) = (executor.clone(), journal.clone());
        (Self { executor, journal, state: Arc::new(Mutex::new(state)), accept }, accepted)
    }

    pub const fn executor(&self) -> &Executor {
        &self.executor
    }

    /// Whether dials fail and connections break by chance from now on.
    pub fn set_faulty(&self, faulty: bool) {
        self.lock().faulty = faulty;
    }

    /// Whether no dial succeeds from now on.
    pub fn set_outage(&self, outage: bool) {
        self.lock().outage = outage;
    }

    /// Whether nothing arrives on the connections that are opened from now on.
    pub fn set_silent(&self, silent: bool) {
        self.lock().silent = silent;
    }

    /// Every name has these many addresses of both families from now on, and at as many of them somebody answers.
    pub fn set_addresses(&self, all: u16, alive: u16) {
        let mut state = self.lock();
        state.addresses = (1..=all)
            .map(|n| match n % 2 {
                0 => Ipv4Addr::from(0x0a00_0000 + u32::from(n)).into(),
                _ => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n).into(),
            })
            .collect();
        // The last: what is tried last must come in time too.
        let dead = usize::from(all.saturating_sub(alive));
        state.dead = state.addresses.iter().copied().take(dead).collect();
    }

    /// How many bytes a second go each way on every connection from now on; `None` for all at once.
    pub fn set_rate(&self, rate: Option<u32>) {
        let mut state = self.lock();
        state.rate = rate;
        for connection in state.connections.iter().filter_map(Weak::upgrade) {
            connection.lock().unwrap().rate = rate;
        }
    }

    /// Most connections stay whole from now on, also while there are faults: each carries one call only.
    pub fn set_sturdy(&self) {
        self.lock().sturdy = true;
    }

    /// All faults are over: dials that hang go on, and who writes to a connection that only he believes in is told so.
    pub fn heal(&self) {
        let mut state = self.lock();
        (state.faulty, state.outage, state.rate) = (false, false, None);
        state.healed.0.close();
        state.healed = async_channel::bounded(1);
        let connections: Vec<_> = state.connections.iter().filter_map(Weak::upgrade).collect();
        drop(state);
        for connection in connections {
            connection.lock().unwrap().heal();
        }
    }

    pub fn dials(&self) -> Vec<Duration> {
        self.lock().dials.clone()
    }

    /// The addresses of the server's name: what a dial begins with.
    ///
    /// # Errors
    /// By chance.
    pub async fn resolve(&self, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.lock().dials.push(self.executor.now());
        self.executor.sleep(self.latency()).await;
        let faulty = self.lock().faulty;
        if faulty && self.executor.chance(3) {
            return Err(io::Error::other("temporary failure in name resolution"));
        }
        let addresses = self.lock().addresses.clone();
        Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
    }

    /// A connection to the server at this address.
    ///
    /// # Errors
    /// By chance, and during an outage.
    pub async fn connect(&self, address: IpAddr) -> io::Result<Stream> {
        let fate = self.fate();
        // Of now: the faults may be over while the dial is on its way.
        let healed = self.lock().healed.1.clone();
        if self.lock().dead.contains(&address) {
            // What began while there were faults is not to outlast them.
            let _ = healed.recv().await;
            return Err(ErrorKind::HostUnreachable.into());
        }
        self.executor.sleep(self.latency()).await;
        match fate {
            Fate::Connects => {}
            Fate::Refused => return Err(ErrorKind::ConnectionRefused.into()),
            Fate::Unreachable => return Err(ErrorKind::HostUnreachable.into()),
            Fate::Hangs => drop(healed.recv().await),
        }
        let state = self.lock();
        let (faulty, sturdy) = (state.faulty, state.sturdy);
        drop(state);
        let breaks = faulty && !(sturdy && self.executor.chance(80));
        let cut = breaks.then(|| self.executor.random(draw_cut)).flatten();
        let mut connection = Connection::new(&self.executor, cut);
        connection.rate = self.rate();
        if self.lock().silent {
            connection.cut(Cut::Silence, self.executor.now());
        }
        let connection = Arc::new(Mutex::new(connection));
        self.lock().connections.push(Arc::downgrade(&connection));
        let end = |side| Stream {
            executor: self.executor.clone(),
            journal: self.journal.clone(),
            connection: Arc::clone(&connection),
            side,
        };
        let _ = self.accept.try_send(end(Side::Server));
        Ok(end(Side::Worker))
    }

    /// How fast a new connection is: while there are faults, some are slow.
    fn rate(&self) -> Option<u32> {
        let state = self.lock();
        let draw = || self.executor.random(|random| random.u32(300..20_000));
        state.rate.or_else(|| (state.faulty && self.executor.chance(10)).then(draw))
    }

    fn fate(&self) -> Fate {
        let state = self.lock();
        let drawn = self.executor.random(|random| random.u32(..100));
        match (state.outage, state.faulty, drawn) {
            _ if state.sturdy && !state.outage && drawn >= 4 && drawn != 20 => Fate::Connects,
            (true, _, ..60) | (false, true, ..12) => Fate::Refused,
            (true, _, ..90) | (false, true, ..18) => Fate::Unreachable,
            (true, ..) | (false, true, ..24) => Fate::Hangs,
            _ => Fate::Connects,
        }
    }

    fn latency(&self) -> Duration {
        self.executor.duration(Duration::from_micros(100), Duration::from_millis(300))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// Where a connection will break by itself, if it will: after how many bytes in which direction, and how.
fn draw_cut(random: &mut Rng) -> Option<(Side, u64, Cut)> {
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
enum Side {
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

struct Connection {
    /// What the worker sends, and what the server sends.
    pipes: [Pipe; 2],
    cut: Option<(Side, u64, Cut)>,
    reset: bool,
    /// Whether whoever writes next is told that there is no connection.
    forgotten: bool,
    capacity: usize,
    latency: Duration,
    /// How many bytes a second go each way, when not all at once.
    rate: Option<u32>,
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
    fn new(executor: &Executor, cut: Option<(Side, u64, Cut)>) -> Self {
        let capacity = 1 << executor.random(|random| random.u32(9..17));
        let latency = executor.duration(Duration::from_micros(50), Duration::from_millis(200));
        Self { pipes: Default::default(), cut, reset: false, forgotten: false, capacity, latency, rate: None }
    }

    fn pipe(&mut self, from: Side) -> &mut Pipe {
        &mut self.pipes[from as usize]
    }

    fn cut(&mut self, cut: Cut, now: Duration) {
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

    fn heal(&mut self) {
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
    executor: Executor,
    journal: Journal,
    connection: Arc<Mutex<Connection>>,
    side: Side,
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
