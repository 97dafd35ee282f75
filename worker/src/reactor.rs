//! [`Runtime`] for whatever runs its tasks beside the reactor of `async-io`, as smol and async-std both do.
//!
//! Waiting for the clock, a signal or a process is waiting for this reactor, and is written here for both. What they
//! differ in is [`Tasks`]; a binary is that and [`main`](crate::main). Nothing else in this crate knows of a reactor.

mod process;
mod signals;
mod sleep;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};
use oz_worker_core::time::Instant;

use crate::host::{HostFiles, Owner, Processes, Tree};
use crate::runtime::{Command, Runtime};
pub use process::Process;
pub use signals::Signals;
use sleep::Sleep;

/// How often orphans that ended while no task did are reaped.
const REAP_INTERVAL: Duration = Duration::from_secs(15);

/// How tasks are run, and what they read and write. A clone is another handle to the same.
pub trait Tasks: Clone + Send + Sync + 'static {
    /// A TCP connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Runs `future` on the calling thread until it ends; tasks run meanwhile.
    fn drive<T>(&self, future: impl Future<Output = T>) -> T;

    /// As [`Runtime::spawn`].
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);

    /// As [`Runtime::unblock`].
    fn unblock<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static;

    /// As [`Runtime::connect`].
    ///
    /// # Errors
    /// What the operating system says.
    fn connect(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// The runtime that these tasks and the reactor make together.
#[derive(Debug, Clone)]
pub struct OnReactor<T> {
    tasks: T,
    processes: Processes,
}

impl<T: Tasks> OnReactor<T> {
    /// A runtime that runs its tasks in this way.
    pub fn new(tasks: T) -> Self {
        Self { tasks, processes: Processes::default() }
    }

    /// Runs `future` on the calling thread until it ends; tasks run meanwhile.
    pub fn drive<O>(&self, future: impl Future<Output = O>) -> O {
        self.tasks.drive(future)
    }
}

impl<T: Tasks> Runtime for OnReactor<T> {
    type Stream = T::Stream;
    type Process = Process;
    type Tree = Tree;
    type Files = HostFiles;
    type StopSignals = Signals;

    fn now(&self) -> Instant {
        sleep::now()
    }

    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send + Unpin + 'static {
        Sleep::until(at)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    fn unblock<O: Send + 'static>(
        &self,
        work: impl FnOnce() -> O + Send + 'static,
    ) -> impl Future<Output = O> + Send + 'static {
        self.tasks.unblock(work)
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let name = (host.to_owned(), port);
        self.unblock(move || name.to_socket_addrs().map(Iterator::collect)).await
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Self::Stream> {
        self.tasks.connect(address).await
    }

    fn stop_signals(&self) -> io::Result<Signals> {
        Signals::new()
    }

    fn adopt(&self, owner: &Owner) -> io::Result<usize> {
        let processes = self.processes.clone();
        self.spawn(async move {
            loop {
                Sleep::until(sleep::now().plus(REAP_INTERVAL)).await;
                processes.reap();
            }
        });
        self.processes.adopt(owner)
    }

    fn release(&self) {
        self.processes.close();
    }

    fn files(&self) -> HostFiles {
        HostFiles
    }

    fn tree(&self) -> Tree {
        self.processes.tree()
    }

    fn start(&self, command: &Command, tree: Option<&Tree>) -> io::Result<Process> {
        Process::new(self.processes.start(command, tree)?)
    }
}
