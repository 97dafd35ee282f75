//! What all handles, trees and children of this worker share: who its children are, how one more is started, and which
//! orphans were given to it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use oz_worker_runtime::Owner;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Resource, WaitId, WaitIdOptions};

use crate::cgroup::{Cgroups, Lease};
use crate::proc::{self, Stat};
use crate::spawn::{self, Attempt, Prepared, Setting, StartError};

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

/// A process number and the space behind it, in bytes: more than any takes.
const LONGEST_NUMBER: usize = 16;

/// What all handles, trees and children share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) owner: OnceLock<Owner>,
    pub(super) cgroups: OnceLock<Arc<Cgroups>>,
    pub(super) clone3_is_missing: AtomicBool,
    pub(super) next_tree: AtomicU64,
    /// The kernel's list of the children of our main thread: it is the one that adopts orphans.
    pub(super) main_children: Option<OwnedFd>,
    pub(super) null: OnceLock<OwnedFd>,
    /// The limit of open files that we were started with, once we have raised it.
    pub(super) open_files: OnceLock<libc::rlimit>,
    /// Held for reading while a process is being started, and for writing while orphans are reaped: so that no child is
    /// taken for an orphan because it ended before it was noted.
    pub(super) starting: RwLock<()>,
    pub(super) children: Mutex<BTreeMap<i32, Entry>>,
}

/// A child that has not been reaped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// The number of the tree it was started in.
    pub(super) tree: Option<u64>,
    /// Its [`Child`] was dropped before it ended: nobody else reaps it.
    pub(super) abandoned: bool,
}

impl Shared {
    /// Of a worker without children, which are to be started by these means.
    pub fn new(options: Options) -> Self {
        let list = format!("/proc/self/task/{}/children", rustix::process::getpid().as_raw_nonzero());
        let main_children = rustix::fs::open(list, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .ok()
            .filter(|_| options.children_file);
        Self {
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
        }
    }

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

    pub fn children(&self) -> MutexGuard<'_, BTreeMap<i32, Entry>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Our children, as far as they may be orphans.
    fn listed(&self) -> Vec<i32> {
        let Some(list) = &self.main_children else {
            let own = rustix::process::getpid().as_raw_nonzero().get();
            return proc::all().filter(|pid| Stat::of(*pid).is_some_and(|stat| stat.parent == own)).collect();
        };
        // Reading from the start makes the kernel write the list anew; one read gives a page of it at most, and less where
        // there is no more, or no room for one more number.
        let (mut content, mut page) = (Vec::new(), [0; 4096]);
        while let Ok(length @ 1..) = rustix::io::pread(list, &mut page[..], content.len() as u64) {
            content.extend_from_slice(page.get(..length).unwrap_or_default());
            if length < page.len() - LONGEST_NUMBER {
                break;
            }
        }
        let text = str::from_utf8(&content).unwrap_or_default();
        text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    pub fn null(&self) -> io::Result<BorrowedFd<'_>> {
        if let Some(null) = self.null.get() {
            return Ok(null.as_fd());
        }
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(self.null.get_or_init(|| null).as_fd())
    }

    pub fn spawn(&self, prepared: &Prepared, mut setting: Setting<'_>) -> io::Result<(Pid, OwnedFd)> {
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
    pub fn raise_open_files(&self) {
        let limit = rustix::process::getrlimit(Resource::Nofile);
        let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
        if limit.current != limit.maximum && rustix::process::setrlimit(Resource::Nofile, raised).is_ok() {
            let raw = |value: Option<u64>| value.unwrap_or(libc::RLIM_INFINITY);
            let _ = self.open_files.set(libc::rlimit { rlim_cur: raw(limit.current), rlim_max: raw(limit.maximum) });
        }
    }
}

/// The way for systems without `clone3`: std's, up to the last step.
fn spawn_with_std(prepared: &Prepared, setting: Setting<'_>) -> io::Result<(Pid, OwnedFd)> {
    use std::os::unix::process::CommandExt;

    let (program, cwd) = (spawn::to_path(&prepared.program), prepared.cwd.as_ref().map(spawn::to_path));
    let mut command = std::process::Command::new(&program);
    command
        .stdin(setting.input.try_clone_to_owned()?)
        .stdout(setting.output.try_clone_to_owned()?)
        .stderr(setting.errors.try_clone_to_owned()?);
    if let Some(cwd) = &cwd {
        command.current_dir(cwd);
    }
    let last_step = spawn::LastStep::new(prepared, setting);
    // SAFETY: it runs in the new process before that executes anything, while `prepared` lives in its copy of our memory.
    unsafe {
        command.pre_exec(move || Err(last_step.take()));
    }
    let child = command.spawn().map_err(|source| match (source.kind(), cwd) {
        (io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory, _) => StartError::Process(source),
        (_, Some(path)) if !path.is_dir() => StartError::Directory { path, source },
        _ => StartError::Program { path: program, source },
    })?;
    let pid = Pid::from_child(&child);
    // It is not reaped before we do it, so the number is its.
    Ok((pid, rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?))
}

/// Reaps a child that has ended; says whether that was so. An error says that it is none of ours.
pub(super) fn try_reap(pid: Pid) -> rustix::io::Result<bool> {
    Ok(rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?.is_some())
}

/// Whether a child that has not been reaped lives.
fn is_running(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(rustix::process::waitid(WaitId::Pid(pid), options), Ok(None))
}
