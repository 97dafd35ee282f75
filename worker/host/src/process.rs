//! The child processes of this worker: started, awaited, signalled and reaped, without ever mixing up two of them.
//!
//! A process number may be given to another process as soon as its owner has been reaped. So a child stays a zombie
//! until its [`Child`] is dropped: until then its number, and that of its process group, mean it and nothing else. The
//! orphans that the kernel gives us (see [`Processes::adopt`]) are reaped by their number too, and so whoever reaps them
//! must know which numbers belong to a [`Child`].

use std::collections::BTreeMap;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Resource, WaitId, WaitIdOptions};

use super::cgroup::{Cgroup, Cgroups, Lease};
use super::leftovers;
use super::proc::{self, Stat};
use super::spawn::{self, Attempt, Prepared, Setting, StartError};
use super::tree::{TOKEN_VARIABLE, Tree};
use oz_worker_runtime::{Command, Exit, Output, Owner, Signal};

/// Starts and knows the processes of this worker. A clone is another handle to the same.
///
/// One per program, and no other child processes beside it when `/proc/<pid>/task/<tid>/children` is missing: their end
/// would be taken for that of an orphan.
#[derive(Debug, Clone)]
pub struct Processes {
    shared: Arc<Shared>,
}

/// Which of the operating system's means are used where they are to be had. Without one of them another way is gone;
/// turning one off shows that it is.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Options {
    /// A cgroup per tree.
    pub cgroups: bool,
    /// `clone3`; else std's way to start a process.
    pub clone3: bool,
    /// The list of our children in `/proc`; else a search through all processes.
    pub children_file: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { cgroups: true, clone3: true, children_file: true }
    }
}

/// What all handles, trees and children share.
#[derive(Debug)]
pub(super) struct Shared {
    options: Options,
    owner: OnceLock<Owner>,
    cgroups: OnceLock<Arc<Cgroups>>,
    clone3_is_missing: AtomicBool,
    next_tree: AtomicU64,
    /// The kernel's list of the children of our main thread: it is the one that adopts orphans.
    main_children: Option<OwnedFd>,
    null: OnceLock<OwnedFd>,
    /// The limit of open files that we were started with, once we have raised it.
    open_files: OnceLock<libc::rlimit>,
    /// Held for reading while a process is being started, and for writing while orphans are reaped: so that no child is
    /// taken for an orphan because it ended before it was noted.
    starting: RwLock<()>,
    children: Mutex<BTreeMap<i32, Entry>>,
}

/// A child that has not been reaped.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The number of the tree it was started in.
    tree: Option<u64>,
    /// Its [`Child`] was dropped before it ended: nobody else reaps it.
    abandoned: bool,
}

/// A child process, leader of its own process group.
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
        let list = format!("/proc/self/task/{}/children", rustix::process::getpid().as_raw_nonzero());
        let main_children = rustix::fs::open(list, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .ok()
            .filter(|_| options.children_file);
        Self {
            shared: Arc::new(Shared {
                options,
                owner: OnceLock::new(),
                cgroups: OnceLock::new(),
                clone3_is_missing: AtomicBool::new(!options.clone3),
                next_tree: AtomicU64::new(1),
                main_children,
                null: OnceLock::new(),
                open_files: OnceLock::new(),
                starting: RwLock::new(()),
                children: Mutex::default(),
            }),
        }
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
        let mark = self.shared.owner.get().map_or("unowned", Owner::mark);
        Tree::new(number, format!("{mark}.{number}"), self.shared.clone())
    }

    /// Starts a process as the leader of a process group of its own, inside `tree` when one is given.
    ///
    /// Blocks until the program is executed, some hundred microseconds.
    ///
    /// # Errors
    /// A [`StartError`] inside an [`io::Error`] of the kind that the operating system gave, or
    /// [`io::ErrorKind::InvalidInput`] for what cannot be passed on.
    pub fn start(&self, command: &Command, tree: Option<&Tree>) -> io::Result<Child> {
        let token = tree.map(|tree| (TOKEN_VARIABLE, tree.token()));
        let prepared = Prepared::new(command, token.as_slice())?;
        let (output, output_end) = pipe_from_child()?;
        let (errors, errors_end) = match command.output {
            Output::Merged => (None, None),
            Output::Apart => pipe_from_child().map(|(errors, end)| (Some(errors), Some(end)))?,
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

    /// The pipe from its standard output, once; with [`Output::Merged`] from its standard error too. Does not block.
    pub fn output(&mut self) -> Option<PipeReader> {
        self.output.take()
    }

    /// The pipe from its standard error, once, when that is [`Output::Apart`]. Does not block.
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

impl Shared {
    /// A cgroup for one task, where there can be one. Where not, the tree has its other nets.
    pub fn lease(&self) -> Option<Lease> {
        self.cgroups.get()?.lease().ok()
    }

    /// The orphans that were given to us and live. Those that have ended are reaped, and so are abandoned children.
    pub fn orphans(&self) -> Vec<i32> {
        let mut orphans = self.listed();
        let known = self.children();
        if orphans.is_empty() && known.values().all(|entry| !entry.abandoned) {
            return orphans;
        }
        drop(known);
        let _starting = self.starting.write().unwrap_or_else(PoisonError::into_inner);
        let mut children = self.children();
        children.retain(|pid, entry| {
            !entry.abandoned || Pid::from_raw(*pid).is_some_and(|pid| matches!(try_reap(pid), Ok(false)))
        });
        orphans.retain(|pid| {
            !children.contains_key(pid) && Pid::from_raw(*pid).is_some_and(|pid| matches!(try_reap(pid), Ok(false)))
        });
        orphans
    }

    /// The children of a tree that have not been reaped, and whether they live.
    pub fn children_of(&self, tree: u64) -> Vec<(Pid, bool)> {
        let children = self.children();
        let of_tree = children.iter().filter(|(_, entry)| entry.tree == Some(tree));
        of_tree.filter_map(|(pid, _)| Pid::from_raw(*pid)).map(|pid| (pid, is_running(pid))).collect()
    }

    /// Sends SIGKILL to the groups of the children of a tree.
    pub fn kill_groups_of(&self, tree: u64) {
        // While this is locked no child is reaped, so the numbers are theirs.
        let children = self.children();
        for pid in
            children.iter().filter(|(_, entry)| entry.tree == Some(tree)).filter_map(|(pid, _)| Pid::from_raw(*pid))
        {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }

    fn children(&self) -> MutexGuard<'_, BTreeMap<i32, Entry>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Our children, as far as they may be orphans.
    fn listed(&self) -> Vec<i32> {
        let Some(list) = &self.main_children else {
            let own = rustix::process::getpid().as_raw_nonzero().get();
            return proc::all().filter(|pid| Stat::of(*pid).is_some_and(|stat| stat.parent == own)).collect();
        };
        // Reading from the start makes the kernel write the list anew. It is one page at most; when there are more
        // orphans than that, the next look finds the rest.
        let mut content = [0; 4096];
        let length = rustix::io::pread(list, &mut content[..], 0).unwrap_or(0);
        let text = content.get(..length).and_then(|content| str::from_utf8(content).ok()).unwrap_or_default();
        text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    fn null(&self) -> io::Result<BorrowedFd<'_>> {
        if let Some(null) = self.null.get() {
            return Ok(null.as_fd());
        }
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(self.null.get_or_init(|| null).as_fd())
    }

    fn spawn(&self, prepared: &Prepared, mut setting: Setting<'_>) -> io::Result<(Pid, OwnedFd)> {
        while !self.clone3_is_missing.load(Ordering::Relaxed) {
            match spawn::spawn(prepared, setting) {
                Attempt::Started(pid, pidfd) => return Ok((pid, pidfd)),
                Attempt::Failed(error) => return Err(error.into()),
                // The tree still knows its processes by their token.
                Attempt::BadCgroup => setting.cgroup = None,
                Attempt::Unsupported => self.clone3_is_missing.store(true, Ordering::Relaxed),
            }
        }
        spawn_with_std(prepared, setting)
    }

    /// A task takes a few descriptors, and the usual limit of 1,024 is only there for programs that use `select`.
    fn raise_open_files(&self) {
        let limit = rustix::process::getrlimit(Resource::Nofile);
        let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
        if limit.current != limit.maximum && rustix::process::setrlimit(Resource::Nofile, raised).is_ok() {
            let raw = |value: Option<u64>| value.unwrap_or(libc::RLIM_INFINITY);
            let _ = self.open_files.set(libc::rlimit { rlim_cur: raw(limit.current), rlim_max: raw(limit.maximum) });
        }
    }
}

/// The way for systems without `clone3`.
fn spawn_with_std(prepared: &Prepared, setting: Setting<'_>) -> io::Result<(Pid, OwnedFd)> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::process::CommandExt;

    let text = |bytes| OsStr::from_bytes(bytes);
    let variables = prepared.env.iter().filter_map(|entry| {
        let entry = entry.as_bytes();
        let equals = entry.iter().position(|byte| *byte == b'=')?;
        Some((text(entry.get(..equals)?), text(entry.get(equals + 1..)?)))
    });
    let (program, cwd) = (spawn::to_path(&prepared.program), spawn::to_path(&prepared.cwd));
    let child = std::process::Command::new(&program)
        .args(prepared.args.iter().skip(1).map(|arg| text(arg.as_bytes())))
        .env_clear()
        .envs(variables)
        .current_dir(&cwd)
        .process_group(0)
        .stdin(setting.input.try_clone_to_owned()?)
        .stdout(setting.output.try_clone_to_owned()?)
        .stderr(setting.errors.try_clone_to_owned()?)
        .spawn()
        .map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => StartError::Process(source),
            _ if !cwd.is_dir() => StartError::Directory { path: cwd, source },
            _ => StartError::Program { path: program, source },
        })?;
    let pid = Pid::from_child(&child);
    // It is not reaped before we do it, so the number is its.
    Ok((pid, rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?))
}

/// A pipe whose reading end does not block.
fn pipe_from_child() -> io::Result<(PipeReader, PipeWriter)> {
    let (output, end) = io::pipe()?;
    rustix::io::ioctl_fionbio(&output, true)?;
    Ok((output, end))
}

/// Reaps a child that has ended; says whether that was so. An error says that it is none of ours.
fn try_reap(pid: Pid) -> rustix::io::Result<bool> {
    Ok(rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?.is_some())
}

/// Whether a child that has not been reaped lives.
fn is_running(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(rustix::process::waitid(WaitId::Pid(pid), options), Ok(None))
}

fn number(signal: Signal) -> rustix::process::Signal {
    match signal {
        Signal::Terminate => rustix::process::Signal::TERM,
        Signal::Kill => rustix::process::Signal::KILL,
    }
}
