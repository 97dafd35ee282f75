//! [`Runtime`] for one simulated machine: its clock, its processes, its disk, its way to the network.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_core::Stream as _;
use oz_worker_core::time::Instant;
use oz_worker_runtime::{Address, Command, Host, Lane, Owner, Runtime, StopSignals};

use crate::cluster;
use crate::disk::Disk;
use crate::executor::{self, Executor, Machine};
use crate::journal::Journal;
use crate::lanes::Lanes;
use crate::network::{ADDRESS, Network, Stream};
use crate::process::{Process, Processes, Tree};
use crate::watch::Watch;

/// How late a timer may be noticed that was due while the machine slept: what the runtimes promise.
pub const LATE: Duration = Duration::from_secs(5);

/// One machine as the worker sees it. A clone is another handle to the same.
#[derive(Clone)]
pub struct Simulated {
    pub executor: Executor,
    pub machine: Machine,
    pub clock: Clock,
    /// The way to the server.
    pub network: Network,
    /// The way to the engine, or the cluster.
    pub engine: Network,
    pub watch: Watch,
    pub processes: Processes,
    pub disk: Disk,
    /// Its threads for work that may block.
    pub lanes: Lanes,
    pub signals: (Sender<&'static str>, Receiver<&'static str>),
    journal: Journal,
    started: Arc<AtomicI32>,
}

impl Simulated {
    /// A machine on which nothing ever ran, with its clock and its way to the server. That is its way to an engine too, until
    /// it gets one.
    pub fn new(machine: Machine, clock: Clock, network: &Network, watch: &Watch, journal: &Journal) -> Self {
        let executor = network.executor().clone();
        Self {
            processes: Processes::new(&executor, journal, watch, machine),
            lanes: Lanes::new(&executor, journal, watch, machine),
            disk: Disk::new(&executor, journal),
            executor,
            machine,
            clock,
            network: network.clone(),
            engine: network.clone(),
            watch: watch.clone(),
            signals: async_channel::unbounded(),
            journal: journal.clone(),
            started: Arc::default(),
        }
    }

    /// Another process of the worker on the same host: it sees the same files and processes, and has its own way everywhere.
    #[must_use]
    pub fn beside(&self, machine: Machine, network: &Network, watch: &Watch, journal: &Journal) -> Self {
        Self {
            disk: self.disk.clone(),
            started: Arc::clone(&self.started),
            ..Self::new(machine, self.clock, network, watch, journal)
        }
    }

    /// The number of the worker's next process.
    pub fn next_process(&self) -> i32 {
        self.started.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn note(&self, line: impl FnOnce() -> String) {
        self.journal.note(line);
    }
}

/// A clock that does not start at zero and is not quite right.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// What it shows at true time zero.
    pub start: Duration,
    /// How much too fast it is, in millionths.
    pub drift: i32,
}

impl Clock {
    /// What it shows at a true time.
    pub fn shows(self, at: Duration) -> Instant {
        let (nanos, drift) = (i128::try_from(at.as_nanos()).unwrap_or(i128::MAX), i128::from(self.drift));
        let shown = nanos + nanos * drift / 1_000_000;
        Instant::new(self.start + Duration::from_nanos(u64::try_from(shown).unwrap_or(0)))
    }

    /// The first true time at which it shows `shown` or more.
    pub fn true_time(self, shown: Instant) -> Duration {
        let nanos = shown.since_start().saturating_sub(self.start).as_nanos();
        let at = nanos.saturating_mul(1_000_000) / u128::from(1_000_000_i32.saturating_add(self.drift).unsigned_abs());
        let mut at = Duration::from_nanos(u64::try_from(at).unwrap_or(u64::MAX));
        while self.shows(at) < shown {
            at += Duration::from_nanos(1);
        }
        at
    }
}

impl Runtime for Simulated {
    type Stream = Stream;
    type StopSignals = Signals;

    fn now(&self) -> Instant {
        self.clock.shows(self.executor.now())
    }

    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send + Unpin + 'static {
        let at = self.clock.true_time(at);
        let waits = self.executor.sleep_until(at);
        Sleep { executor: self.executor.clone(), machine: self.machine, at, waits, late: false }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.executor.spawn(self.machine, task);
    }

    fn unblock<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static {
        self.lanes.run(lane, work)
    }

    async fn resolve(&self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.watch.dials(self.executor.now(), self.executor.last_woken(self.machine));
        self.network.resolve(port).await
    }

    async fn connect(&self, address: &Address) -> io::Result<Stream> {
        match address {
            Address::Tcp(address) if address.port() == cluster::PORT => self.engine.connect(ADDRESS).await,
            Address::Tcp(address) => self.network.connect(address.ip()).await,
            Address::Unix(_) => self.engine.connect(ADDRESS).await,
        }
    }

    fn stop_signals(&self) -> io::Result<Signals> {
        Ok(Signals(Box::pin(self.signals.1.clone())))
    }
}

impl Host for Simulated {
    type Machine = Local;

    fn on<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce(&Local) -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static {
        let local = Local { processes: self.processes.clone(), disk: self.disk.clone() };
        self.lanes.run(lane, move || work(&local))
    }
}

#[derive(Clone)]
pub struct Local {
    processes: Processes,
    disk: Disk,
}

impl oz_worker_runtime::Machine for Local {
    type Files = Disk;
    type Process = Process;
    type Tree = Tree;

    fn adopt(&self, _: &Owner) -> io::Result<usize> {
        Ok(0)
    }

    fn reap(&self) {}

    fn release(&self) {}

    fn files(&self) -> &Disk {
        &self.disk
    }

    fn tree(&self) -> Tree {
        self.processes.tree()
    }

    fn start(&self, command: &Command, tree: Option<&Tree>) -> io::Result<Process> {
        self.processes.start(command, tree)
    }

    fn group_is_alive(&self, leader: u32) -> bool {
        self.processes.group_is_alive(leader.into())
    }
}

/// A timer of the machine: late when the machine slept over it.
struct Sleep {
    executor: Executor,
    machine: Machine,
    at: Duration,
    waits: executor::Sleep,
    late: bool,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if Pin::new(&mut self.waits).poll(cx).is_pending() {
                return Poll::Pending;
            }
            match self.executor.slept_over(self.machine, self.at) {
                Some(woke) if !self.late => {
                    self.late = true;
                    let late = self.executor.random(|random| LATE.mul_f64(random.f64()));
                    self.waits = self.executor.sleep_until(woke + late);
                }
                _ => return Poll::Ready(()),
            }
        }
    }
}

/// The signals that the director sends.
pub struct Signals(Pin<Box<Receiver<&'static str>>>);

impl StopSignals for Signals {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<&'static str> {
        match self.0.as_mut().poll_next(cx) {
            Poll::Ready(Some(signal)) => Poll::Ready(signal),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}
