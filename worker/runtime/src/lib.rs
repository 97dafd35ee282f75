//! What the worker asks of a runtime and of the machine it runs on: traits and plain types, and no code that acts.
//!
//! [`Runtime`] is time, tasks and network, as low as it can be: TLS, WebSocket, HTTP and the run loop are written once above
//! it, so that two runtimes share them and a simulator can carry the same bytes. [`Host`] is what lies beside that: the
//! processes and files of this machine. Only what needs a machine asks for it.
//!
//! **Nothing that may block runs where others wait.** Whatever can be held up by a disk, a name server or the kernel runs on
//! a [`Lane`], and a [`Machine`] is only to be had there.

#![forbid(unsafe_code)]

mod host;
mod owner;
mod process;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::task::{Context, Poll};

use futures_io::{AsyncRead, AsyncWrite};
use oz_worker_core::time::Instant;

pub use host::{Files, Hold, Host, Machine, Named, PathKind};
pub use owner::{Mark, Owner, split_numbered};
pub use process::{Command, Environment, Exit, Pipes, Process, Signal, Tree};

/// Time, tasks and network. A clone is another handle to the same runtime.
pub trait Runtime: Clone + Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The signals that ask the worker to stop.
    type StopSignals: StopSignals;

    /// The present moment, on a clock that goes on while the machine is suspended.
    fn now(&self) -> Instant;

    /// Ends at `at`, or as soon afterwards as the machine is awake.
    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send + Unpin + 'static;

    /// Runs `task` on its own, beside the caller. It must not block.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);

    /// Runs work that may block on a thread of `lane`. Each lane has few threads and a queue of its own; further work of
    /// the lane waits, and no other lane does. When the future is dropped before the work was begun it is left undone; once
    /// begun it goes on, and its result is dropped on that thread.
    fn unblock<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static;

    /// The addresses of a host name, in the order in which to try them. Waits on [`Lane::Dial`].
    ///
    /// # Errors
    /// What the resolver says.
    fn resolve(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// Opens a connection; over TCP without delay of small writes (`TCP_NODELAY`), and with a send buffer so small that what
    /// is taken to be written is soon on its way.
    ///
    /// # Errors
    /// What the operating system says.
    fn connect(&self, address: &Address) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// The signals that ask the worker to stop, from now on.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    fn stop_signals(&self) -> io::Result<Self::StopSignals>;
}

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    /// To a socket in the file system.
    Unix(PathBuf),
}

/// A queue for work that may block, with few threads of its own. Work shares a lane only with its like: what holds up one
/// piece of it would hold up the others all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// What a dial needs first: names, the API key, certificates.
    Dial,
    /// Making a task's place and starting its processes.
    Start,
    /// Seeing what a task left running, and giving back its place.
    Finish,
    /// Removing directories that may hold anything.
    Remove,
}

impl Lane {
    /// Every lane, in declaration order: `ALL[lane as usize] == lane`.
    pub const ALL: [Self; 4] = [Self::Dial, Self::Start, Self::Finish, Self::Remove];

    /// As threads are named after it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dial => "dial",
            Self::Start => "start",
            Self::Finish => "finish",
            Self::Remove => "remove",
        }
    }
}

/// The stream of signals that ask the worker to stop. Whoever has it polls it: it needs no task that might not run.
pub trait StopSignals: Send + 'static {
    /// Ready with the name of the next one (`SIGTERM`, `SIGINT`, `SIGHUP`, `SIGQUIT`) when it has arrived.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<&'static str>;
}
