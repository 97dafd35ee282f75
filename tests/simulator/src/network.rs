//! The network between workers and the server: latency, full buffers, and every way in which a connection can break.

mod connection;

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use async_channel::{Receiver, Sender};

use crate::executor::Executor;
use crate::journal::Journal;
use connection::{Connection, Side, draw_cut};
pub use connection::{Cut, Cutter, Stream};

/// Where somebody answers unless [`Network::set_addresses`] says otherwise.
pub const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

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
