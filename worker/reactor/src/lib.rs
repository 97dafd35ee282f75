//! [`Runtime`] and [`Host`] for whatever runs its tasks beside the reactor of `async-io`, as smol and async-std both do.
//!
//! Waiting for the clock, a signal, a process or work that blocks is written here for both. What they differ in is
//! [`Tasks`]; a program is that and the worker's `main`. Nothing else knows of a reactor.

#![forbid(unsafe_code)]

mod lanes;
mod machine;
mod process;
mod signals;
mod sleep;
mod stream;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use futures_io::{AsyncRead, AsyncWrite};
use oz_worker_core::time::Instant;
use oz_worker_runtime::{Address, Host, Lane, Runtime};

use lanes::Lanes;
pub use lanes::MOST_THREADS;
pub use machine::LocalMachine;
pub use process::ChildProcess;
pub use signals::Signals;
use sleep::Sleep;
pub use stream::{Stream, set_up};

/// How tasks are run, and what they read and write. A clone is another handle to the same.
pub trait Tasks: Clone + Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Runs `future` on the calling thread until it ends; tasks run meanwhile.
    fn drive<T>(&self, future: impl Future<Output = T>) -> T;

    /// As [`Runtime::spawn`].
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);

    /// As [`Runtime::connect`].
    ///
    /// # Errors
    /// What the operating system says.
    fn connect(&self, address: &Address) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// The runtime that these tasks and the reactor make together.
#[derive(Clone)]
pub struct OnReactor<T> {
    tasks: T,
    lanes: Lanes,
    machine: LocalMachine,
}

impl<T: Tasks> OnReactor<T> {
    /// A runtime that runs its tasks in this way.
    pub fn new(tasks: T) -> Self {
        Self { tasks, lanes: Lanes::default(), machine: LocalMachine::default() }
    }

    /// Runs `future` on the calling thread until it ends; tasks run meanwhile.
    pub fn drive<O>(&self, future: impl Future<Output = O>) -> O {
        self.tasks.drive(future)
    }
}

impl<T: Tasks> Runtime for OnReactor<T> {
    type Stream = T::Stream;
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
        lane: Lane,
        work: impl FnOnce() -> O + Send + 'static,
    ) -> impl Future<Output = O> + Send + 'static {
        self.lanes.run(lane, work)
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let name = (host.to_owned(), port);
        self.unblock(Lane::Dial, move || name.to_socket_addrs().map(Iterator::collect)).await
    }

    async fn connect(&self, address: &Address) -> io::Result<Self::Stream> {
        self.tasks.connect(address).await
    }

    fn stop_signals(&self) -> io::Result<Signals> {
        Signals::new()
    }
}

impl<T: Tasks> Host for OnReactor<T> {
    type Machine = LocalMachine;

    fn on<O: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce(&LocalMachine) -> O + Send + 'static,
    ) -> impl Future<Output = O> + Send + 'static {
        let machine = self.machine.clone();
        self.lanes.run(lane, move || work(&machine))
    }
}
