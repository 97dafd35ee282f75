//! What the worker asks of a runtime: byte streams, timers, tasks, processes, files, signals, blocking work.
//!
//! It is as low as it can be. TLS, WebSocket, HTTP, the run loop and the backends are written once above it, so that two
//! runtimes share them and a simulator can carry the same bytes.

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use futures_io::{AsyncRead, AsyncWrite};
use oz_worker_core::time::Instant;

use crate::host::Owner;

/// Everything the worker needs from outside. A clone is another handle to the same runtime.
pub trait Runtime: Clone + Send + Sync + 'static {
    /// A TCP connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// A child process.
    type Process: Process;
    /// All processes of one task.
    type Tree: Tree;
    /// The file system in which tasks run.
    type Files: Files;
    /// The signals that ask the worker to stop.
    type StopSignals: StopSignals;

    /// The present moment, on a clock that goes on while the machine is suspended.
    fn now(&self) -> Instant;

    /// Ends at `at`, or as soon afterwards as the machine is awake.
    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send + Unpin + 'static;

    /// Runs `task` on its own, beside the caller.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);

    /// Runs work that may block (a large removal, a name look-up) where it holds up nobody. The number of threads for
    /// it is small and fixed; further work waits.
    fn unblock<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static;

    /// The addresses of a host name, in the order in which to try them.
    ///
    /// # Errors
    /// What the resolver says.
    fn resolve(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// Opens a TCP connection, without delay of small writes (`TCP_NODELAY`).
    ///
    /// # Errors
    /// What the operating system says.
    fn connect(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// SIGTERM and SIGINT from now on.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    fn stop_signals(&self) -> io::Result<Self::StopSignals>;

    /// Makes this machine ready for tasks of `owner`: adopts orphans from now on, and ends what tasks of a crashed
    /// worker with the same key left running. Gives the number of processes that were ended.
    ///
    /// # Errors
    /// What the operating system says; the worker can go on, but descendants may survive their task.
    fn adopt(&self, owner: &Owner) -> io::Result<usize>;

    /// Gives back to this machine what [`adopt`](Self::adopt) took from it. Called once, when all tasks have ended.
    fn release(&self);

    /// The file system in which tasks run.
    fn files(&self) -> Self::Files;

    /// A place for the processes of one task, empty.
    fn tree(&self) -> Self::Tree;

    /// Starts a process as the leader of a process group of its own, inside `tree` when one is given.
    ///
    /// # Errors
    /// What the operating system says about starting it (no such file, not executable, out of processes), or
    /// [`io::ErrorKind::InvalidInput`] for an argument or variable with a NUL byte or a name with `=`.
    fn start(&self, command: &Command, tree: Option<&Self::Tree>) -> io::Result<Self::Process>;
}

/// A process to start.
#[derive(Debug, Clone)]
pub struct Command {
    /// The program's path; no `PATH` search.
    pub program: PathBuf,
    /// The arguments after the program's name.
    pub args: Vec<OsString>,
    /// The whole environment; a later entry with the same name wins.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory.
    pub cwd: PathBuf,
    /// Whether standard input is a pipe that [`Process::input`] gives (else it is empty).
    pub input: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// A signal of this number killed it.
    Signal(i32),
}

impl Exit {
    /// The exit code as a shell has it: a death by signal is 128 + its number.
    pub const fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// A signal that the worker sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: please end.
    Terminate,
    /// SIGKILL: end now.
    Kill,
}

/// A child process, leader of its own process group. Dropping it reaps it once it has ended; it does not end it.
pub trait Process: Send + Sync + 'static {
    /// The pipe to its standard input.
    type Input: AsyncWrite + Unpin + Send + 'static;
    /// The pipe that carries both its standard output and standard error, in the order of the writes.
    type Output: AsyncRead + Unpin + Send + 'static;

    /// Its standard input, once, when [`Command::input`] asked for it.
    fn input(&mut self) -> Option<Self::Input>;

    /// Its output, once.
    fn output(&mut self) -> Option<Self::Output>;

    /// Ends when the process has. It stays a zombie until dropped, so that [`signal_group`](Self::signal_group) goes to
    /// this group and no other for as long as `self` lives. May be awaited again, and the future may be dropped.
    ///
    /// # Errors
    /// What the operating system says.
    fn wait(&mut self) -> impl Future<Output = io::Result<Exit>> + Send;

    /// Whether any process in its group is alive. Reads through all processes: not for the usual case.
    fn group_is_alive(&self) -> bool;

    /// Sends `signal` to every process in its group. That nobody is left to receive it is not an error.
    fn signal_group(&self, signal: Signal);
}

/// All processes of one task: what was started in it, what those started, and so on, however they detached themselves.
/// Dropping it makes its resources available to the next task.
pub trait Tree: Send + Sync + 'static {
    /// Whether nothing in it is alive. Processes that have been started but whose [`Process`] was not dropped yet do
    /// not count once they ended.
    fn is_empty(&self) -> bool;

    /// Sends SIGKILL to everything in it, once. To be repeated until [`is_empty`](Self::is_empty).
    fn kill(&self);
}

/// A file system, as far as the worker needs one for its tasks. Every call waits for the disk; only
/// [`remove`](Self::remove) may take long.
///
/// Each method's error is what the operating system says.
#[allow(clippy::missing_errors_doc)]
pub trait Files: Clone + Send + Sync + 'static {
    /// Makes a directory with mode 0700, whatever the umask is.
    fn make_private(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory and those above it, as far as they are not there.
    fn make_all(&self, path: &Path) -> io::Result<()>;

    /// Gives an existing directory mode 0700.
    fn set_private(&self, path: &Path) -> io::Result<()>;

    /// Renames, and replaces nothing: [`io::ErrorKind::AlreadyExists`]. [`io::ErrorKind::Unsupported`] on a file system
    /// that cannot do so in one step.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// What is at `path`; no link is followed.
    fn kind(&self, path: &Path) -> io::Result<PathKind>;

    /// The names in a directory.
    fn names(&self, path: &Path) -> io::Result<Vec<OsString>>;

    /// What [`set_mark`](Self::set_mark) wrote; none when there is none or it cannot be read.
    fn mark(&self, path: &Path) -> Option<String>;

    /// Marks a directory as a worker's. [`io::ErrorKind::Unsupported`] on a file system that cannot.
    fn set_mark(&self, path: &Path, mark: &str) -> io::Result<()>;

    /// Removes a directory that is empty.
    fn remove_empty(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory with all that is in it. That there is none is not an error.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The bytes of a file, or none when there is no such file. An error when it is no regular file, or larger than
    /// `largest` bytes.
    fn read(&self, path: &Path, largest: u64) -> io::Result<Option<Vec<u8>>>;
}

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// A directory of our own user.
    OurDirectory,
    /// A directory of the user with this number.
    OthersDirectory(u32),
    /// Anything else.
    Other,
}

/// The stream of signals that ask the worker to stop.
pub trait StopSignals: Send + 'static {
    /// Ends when the next one has arrived, with its name (`SIGTERM`, `SIGINT`).
    fn next(&mut self) -> impl Future<Output = &'static str> + Send;
}
