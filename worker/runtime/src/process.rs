//! Processes: what is started, how it is signalled, how it ends.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;

use futures_io::{AsyncRead, AsyncWrite};

/// A process to start. `Debug` shows neither an argument nor a value: both may hold secrets.
#[derive(Clone)]
pub struct Command {
    /// The program's path; no `PATH` search.
    pub program: PathBuf,
    /// The arguments after the program's name.
    pub args: Vec<OsString>,
    /// The whole environment.
    pub env: Environment,
    /// Its working directory; ours when none, whatever has become of that.
    pub cwd: Option<PathBuf>,
    /// Whether standard input is a pipe that [`Process::input`] gives (else it is empty).
    pub input: bool,
    /// Where its standard output and standard error go.
    pub output: Pipes,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("program", &self.program)
            .field("args", &format_args!("{} not shown", self.args.len()))
            .field("env", &self.env)
            .field("cwd", &self.cwd)
            .field("input", &self.input)
            .field("output", &self.output)
            .finish()
    }
}

/// Where a process' standard output and standard error go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pipes {
    /// Both into one pipe, in the order of the writes: [`Process::output`].
    Merged,
    /// Each into a pipe of its own: [`Process::output`] and [`Process::errors`].
    Apart,
}

/// The environment of a process: names and values, of which a later one wins over an earlier one of the same name. `Debug`
/// shows the names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(Vec<(OsString, OsString)>);

impl Environment {
    /// Sets a variable for whatever it was before.
    pub fn set(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.0.push((name.into(), value.into()));
    }

    pub fn get(&self, name: impl AsRef<OsStr>) -> Option<&OsStr> {
        let name = name.as_ref();
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
    }

    /// Names and values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }
}

impl<N: Into<OsString>, V: Into<OsString>> Extend<(N, V)> for Environment {
    fn extend<I: IntoIterator<Item = (N, V)>>(&mut self, variables: I) {
        self.0.extend(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
    }
}

impl<N: Into<OsString>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let mut environment = Self::default();
        environment.extend(variables);
        environment
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

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

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

/// A signal that the worker sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: please end. Who was stopped goes on, so that it hears it.
    Terminate,
    /// SIGKILL: end now.
    Kill,
}

/// A child process, leader of its own session and process group. Dropping it reaps it once it has ended; it does not end it.
pub trait Process: Send + Sync + 'static {
    /// The pipe to its standard input.
    type Input: AsyncWrite + Unpin + Send + 'static;
    /// A pipe from it.
    type Output: AsyncRead + Unpin + Send + 'static;

    /// Its number, which is that of its group too. It means this process and no other for as long as `self` lives.
    fn id(&self) -> u32;

    /// Its standard input, once, when [`Command::input`] asked for it.
    fn input(&mut self) -> Option<Self::Input>;

    /// Its standard output, once; with [`Pipes::Merged`] its standard error too.
    fn output(&mut self) -> Option<Self::Output>;

    /// Its standard error, once, when it is [`Pipes::Apart`].
    fn errors(&mut self) -> Option<Self::Output>;

    /// Ends when the process has. It stays a zombie until dropped, so that [`signal_group`](Self::signal_group) goes to
    /// this group and no other. May be awaited again, and the future may be dropped.
    ///
    /// # Errors
    /// What the operating system says.
    fn wait(&mut self) -> impl Future<Output = io::Result<Exit>> + Send;

    /// Sends `signal` to every process in its group. That nobody is left to receive it is not an error.
    fn signal_group(&self, signal: Signal);
}

/// All processes of one task: what was started in it, what those started, and so on, however they detached themselves.
/// Dropping it makes its resources available to the next task.
///
/// Asking may read through all processes of the machine: on a [`Lane`](crate::Lane) only, see
/// [`Machine`](crate::Machine).
pub trait Tree: Send + Sync + 'static {
    /// Whether nothing in it is alive. Processes that have been started but whose [`Process`] was not dropped yet do
    /// not count once they ended.
    fn is_empty(&self) -> bool;

    /// Sends SIGKILL to everything in it, once. To be repeated until [`is_empty`](Self::is_empty).
    fn kill(&self);
}
