//! The machine on which the worker runs: its processes and its files.

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::{Command, Lane, Owner, Process, Runtime, Tree};

/// A runtime with a machine of its own. A backend asks for it only when its tasks run here.
pub trait Host: Runtime {
    type Machine: Machine;

    /// Does something with the machine on `lane`, where it may block; see [`Runtime::unblock`]. There is no other way to
    /// the machine, so that nobody else waits for it.
    fn on<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce(&Self::Machine) -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static;
}

/// Processes and files of one machine. Every call may block. A clone is another handle to the same.
pub trait Machine: Clone + Send + Sync + 'static {
    type Files: Files;
    type Process: Process;
    /// All processes of one task.
    type Tree: Tree;

    /// Makes this machine ready for tasks of `owner`: adopts orphans from now on, and ends what tasks of a crashed
    /// worker with the same key left running. Gives the number of processes that were ended.
    ///
    /// # Errors
    /// What the operating system says; the worker can go on, but descendants may survive their task.
    fn adopt(&self, owner: &Owner) -> io::Result<usize>;

    /// Reaps orphans that have ended. This happens by itself whenever a task ends; to be called from time to time, for those
    /// that end while no task does.
    fn reap(&self);

    /// Gives back to this machine what [`adopt`](Self::adopt) took from it. Called once, when all tasks have ended.
    fn release(&self);

    fn files(&self) -> &Self::Files;

    /// A place for the processes of one task, empty.
    fn tree(&self) -> Self::Tree;

    /// Starts a process as the leader of a session of its own, without a terminal, inside `tree` when one is given.
    ///
    /// # Errors
    /// What the operating system says about starting it (no such file, not executable, out of processes), or
    /// [`io::ErrorKind::InvalidInput`] for an argument or variable with a NUL byte or a name with `=`.
    fn start(&self, command: &Command, tree: Option<&Self::Tree>) -> io::Result<Self::Process>;

    /// Whether any process in the group that the process with this number leads is alive. Reads through all processes: not
    /// for the usual case.
    fn group_is_alive(&self, leader: u32) -> bool;
}

/// The file system of a machine, as far as the worker needs one for its tasks. Every call waits for the disk.
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

    /// What `path` names in the end, and what may be done with it; links are followed.
    fn named(&self, path: &Path) -> io::Result<Named>;

    /// The names in a directory.
    fn names(&self, path: &Path) -> io::Result<Vec<OsString>>;

    /// What [`set_mark`](Self::set_mark) wrote; none when there is none or it cannot be read.
    fn mark(&self, path: &Path) -> Option<String>;

    /// Marks a directory as a worker's. [`io::ErrorKind::Unsupported`] on a file system that cannot.
    fn set_mark(&self, path: &Path, mark: &str) -> io::Result<()>;

    /// Whether `mark` was made by a worker with the key of `owner` that is known to be dead. What cannot be known is not so: a
    /// worker in another namespace of processes, or on a host of another name. For what cannot be [held](Self::hold).
    fn is_stale(&self, owner: &Owner, mark: &str) -> bool;

    /// Takes a directory for this worker, until what is given is dropped or this process ends, however it ends. No link is
    /// followed. [`io::ErrorKind::ResourceBusy`] when somebody has it: another process, in whatever container, or this one.
    /// [`io::ErrorKind::Unsupported`] on a file system that cannot.
    fn hold(&self, path: &Path) -> io::Result<Hold>;

    /// Whether only this machine can have the file system at `path`, so that nobody on another one holds anything there. What
    /// cannot be known is not so.
    fn is_local(&self, path: &Path) -> bool;

    /// Makes an empty file that only our user may read and write, in place of any file or link that is there.
    fn make_empty(&self, path: &Path) -> io::Result<()>;

    fn remove_empty(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory with all that is in it, which may take long. That there is none is not an error.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The bytes of a file, or none when there is no such file. An error when it is no regular file, or larger than
    /// `largest` bytes.
    fn read(&self, path: &Path, largest: u64) -> io::Result<Option<Vec<u8>>>;
}

/// A directory that is [held](Files::hold).
#[derive(Debug)]
pub struct Hold(Option<OwnedFd>);

impl Hold {
    /// One that lives as long as this descriptor is open.
    pub const fn by(descriptor: OwnedFd) -> Self {
        Self(Some(descriptor))
    }

    /// One that nobody could dispute.
    pub const fn undisputed() -> Self {
        Self(None)
    }

    /// Whether a descriptor keeps it.
    pub const fn is_disputed(&self) -> bool {
        self.0.is_some()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// A directory of our own user.
    OurDirectory,
    /// A directory of the user with this number.
    OthersDirectory(u32),
    /// Anything else.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    File {
        /// Whether we may execute it.
        executable: bool,
    },
    Directory {
        /// Whether a process may run in it.
        enterable: bool,
        /// Whether we may make something in it.
        writable: bool,
    },
    /// Anything else.
    Other,
}
