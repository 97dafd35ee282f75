//! The child processes of this worker: started, awaited, signalled and reaped, without ever mixing up two of them.
//!
//! A process number may be given to another process as soon as its owner has been reaped. So a child stays a zombie
//! until its [`Child`] is dropped: until then its number, and that of its process group, mean it and nothing else. The
//! orphans that the kernel gives us (see [`Processes::adopt`]) are reaped by their number too, and so whoever reaps them
//! must know which numbers belong to a [`Child`].

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use oz_worker_runtime::{Command, Exit, Owner, Pipes, Signal};
use rustix::process::{Pid, WaitId, WaitIdOptions};

use crate::cgroup::{Cgroup, Cgroups};
use crate::leftovers;
use crate::proc::{self, Stat, TOKEN_VARIABLE};
use crate::shared::{Entry, Options, Shared, try_reap};
use crate::spawn::{Prepared, Setting};
use crate::tree::Tree;

/// Starts and knows the processes of this worker. A clone is another handle to the same.
///
/// One per program, and no other child processes beside it when `/proc/<pid>/task/<tid>/children` is missing: their end
/// would be taken for that of an orphan.
#[derive(Debug, Clone)]
pub struct Processes {
    shared: Arc<Shared>,
}

/// A child process, leader of its own session and process group.
///
/// As a file descriptor it is its pidfd, which becomes readable when the process ends: await that, then call
/// [`try_wait`](Self::try_wait). Dropping it reaps the process, or leaves that to [`Processes::reap`] if it still runs.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    input: Option<PipeWriter>,
    output: Option<PipeReader>,
    errors: Option<PipeReader>,
    shared: Arc<Shared>,
}

impl Default for Processes {
    fn default() -> Self {
        Self::new(Options::default())
    }
}

impl Processes {
    /// No processes yet, to be started by these means.
    pub fn new(options: Options) -> Self {
        Self { shared: Arc::new(Shared::new(options)) }
    }

    /// Makes this process ready for tasks of `owner`: it adopts their orphans from now on, may have as many files open as
    /// the system allows it (its children get back the limit that it was started with, if `clone3` is to be had), puts each tree into a cgroup
    /// where it can, and ends what a crashed worker with the same key left running. Gives the number of processes that
    /// were ended. Reads through all processes of the machine, so it takes some milliseconds.
    ///
    /// # Errors
    /// When orphans cannot be adopted. All else is done nevertheless.
    pub fn adopt(&self, owner: &Owner) -> io::Result<usize> {
        let adopts = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        self.shared.raise_open_files();
        let ended = leftovers::end(owner);
        if self.shared.owner.set(owner.clone()).is_ok()
            && self.shared.options.cgroups
            && let Ok(cgroups) = Cgroups::open(owner)
        {
            let _ = self.shared.cgroups.set(cgroups);
        }
        adopts?;
        Ok(ended)
    }

    /// Whether trees have cgroups, so that no process of theirs can hide.
    pub fn uses_cgroups(&self) -> bool {
        self.shared.cgroups.get().is_some()
    }

    /// A place for the processes of one task, empty.
    pub fn tree(&self) -> Tree {
        let number = self.shared.next_tree.fetch_add(1, Ordering::Relaxed);
        Tree::new(number, self.shared.clone())
    }

    /// Starts a process as the leader of a session of its own, without a terminal, inside `tree` when one is given.
    ///
    /// Blocks until the program is executed, some hundred microseconds.
    ///
    /// # Errors
    /// A [`StartError`](crate::StartError) inside an [`io::Error`] of the kind that the operating system gave, or
    /// [`io::ErrorKind::InvalidInput`] for what cannot be passed on.
    pub fn start(&self, command: &Command, tree: Option<&Tree>) -> io::Result<Child> {
        let token = tree.map(|tree| (TOKEN_VARIABLE, tree.token()));
        let prepared = Prepared::new(command, token.as_slice())?;
        let (output, output_end) = pipe_from_child()?;
        let (errors, errors_end) = match command.output {
            Pipes::Merged => (None, None),
            Pipes::Apart => pipe_from_child().map(|(errors, end)| (Some(errors), Some(end)))?,
        };
        let (input_end, input) = if command.input {
            let (input_end, input) = io::pipe()?;
            rustix::io::ioctl_fionbio(&input, true)?;
            (Some(input_end), Some(input))
        } else {
            (None, None)
        };
        let input_end = input_end.as_ref().map_or_else(|| self.shared.null(), |pipe| Ok(pipe.as_fd()))?;
        let cgroup = tree.and_then(Tree::cgroup);
        let setting = Setting {
            input: input_end,
            output: output_end.as_fd(),
            errors: errors_end.as_ref().unwrap_or(&output_end).as_fd(),
            cgroup: cgroup.as_deref().map(Cgroup::as_fd),
            open_files: self.shared.open_files.get().copied(),
            tag: tree.and_then(Tree::tag),
        };
        let (pid, pidfd) = {
            let _starting = self.shared.starting.read().unwrap_or_else(PoisonError::into_inner);
            let (pid, pidfd) = self.shared.spawn(&prepared, setting)?;
            let entry = Entry { tree: tree.map(Tree::number), abandoned: false };
            self.shared.children().insert(pid.as_raw_nonzero().get(), entry);
            (pid, pidfd)
        };
        Ok(Child { pid, pidfd, input, output: Some(output), errors, shared: self.shared.clone() })
    }

    /// Whether any process in a group is alive. Reads through all processes of the machine.
    pub fn group_is_alive(&self, group: u32) -> bool {
        let is_in = |stat: Stat| u32::try_from(stat.group) == Ok(group) && !stat.has_ended();
        proc::all().filter_map(Stat::of).any(is_in)
    }

    /// Reaps the orphans that have ended. This happens by itself whenever a child is dropped; to be called from time to
    /// time, for those that end while nothing else does.
    pub fn reap(&self) {
        self.shared.orphans();
    }

    /// Gives back what was taken from the machine: the cgroups. To be called once when no more tasks will come.
    pub fn close(&self) {
        if let Some(cgroups) = self.shared.cgroups.get() {
            cgroups.close();
        }
    }
}

impl Child {
    /// Its process number, and that of its group.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The pipe to its standard input, once, if the command asked for it. Does not block.
    pub fn input(&mut self) -> Option<PipeWriter> {
        self.input.take()
    }

    /// The pipe from its standard output, once; with [`Pipes::Merged`] from its standard error too. Does not block.
    pub fn output(&mut self) -> Option<PipeReader> {
        self.output.take()
    }

    /// The pipe from its standard error, once, when that is [`Pipes::Apart`]. Does not block.
    pub fn errors(&mut self) -> Option<PipeReader> {
        self.errors.take()
    }

    /// How it ended, if it has. Leaves it a zombie.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn try_wait(&self) -> io::Result<Option<Exit>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?;
        Ok(status.and_then(|status| {
            let code = status.exit_status().map(Exit::Code);
            code.or_else(|| status.terminating_signal().map(Exit::Signal))
        }))
    }

    /// Sends `signal` to every process in its group.
    pub fn signal_group(&self, signal: Signal) {
        // By number, which is safe here: as long as `self` lives the child is not reaped, so that neither its number nor
        // that of the group it leads can have been given to anybody else. That nobody is left is no error.
        let _ = rustix::process::kill_process_group(self.pid, number(signal));
        if signal == Signal::Terminate {
            // Who was stopped (`kill -STOP`, a terminal) would not hear it before somebody makes it go on.
            let _ = rustix::process::kill_process_group(self.pid, rustix::process::Signal::CONT);
        }
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let pid = self.pid.as_raw_nonzero().get();
        {
            // Forgotten before its number is free, in one step for everybody who looks.
            let mut children = self.shared.children();
            if matches!(try_reap(self.pid), Ok(false)) {
                children.entry(pid).and_modify(|entry| entry.abandoned = true);
            } else {
                children.remove(&pid);
            }
        }
        // A search through all processes would be too much for this moment.
        if self.shared.main_children.is_some() {
            self.shared.orphans();
        }
    }
}

/// A pipe whose reading end does not block.
fn pipe_from_child() -> io::Result<(PipeReader, PipeWriter)> {
    let (output, end) = io::pipe()?;
    rustix::io::ioctl_fionbio(&output, true)?;
    Ok((output, end))
}

fn number(signal: Signal) -> rustix::process::Signal {
    match signal {
        Signal::Terminate => rustix::process::Signal::TERM,
        Signal::Kill => rustix::process::Signal::KILL,
    }
}
