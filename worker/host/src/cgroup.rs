//! A cgroup per task (version 2), where this worker may make one: it holds every process of the task, however they
//! detach themselves, and can end all of them at once.
//!
//! Making one takes longer than starting a process, so they are used again from task to task: but never after they were
//! killed. In Linux 6.18, and as its code reads in others since 5.14, whatever `clone3` puts into a cgroup that was ever
//! killed is killed at birth.

use std::ffi::OsString;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use oz_worker_runtime::{Mark, Owner, split_numbered};

use super::hold;

/// What the names of our cgroups begin with; mark and number follow.
const PREFIX: &str = "oz-agent-worker.";

/// More empty ones than this are not kept for later tasks.
const MOST_KEPT: usize = 64;

/// How long to wait until the processes of a killed cgroup are gone. They are killed already, so only a process that is
/// stuck in the kernel takes longer.
const WAIT_AFTER_KILL: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Cgroups {
    base: PathBuf,
    mark: String,
    next: AtomicU64,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    /// Without processes, ready to be used.
    ready: Vec<Arc<Cgroup>>,
    /// Killed when their task ended, but not empty yet, and so not removed.
    ending: Vec<Arc<Cgroup>>,
    /// No more are to be kept.
    closed: bool,
}

/// One cgroup, open.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
    directory: OwnedFd,
    /// `cgroup.events`. Kept open: opening it takes several times as long as reading it, and each task is asked twice.
    events: OwnedFd,
    killed: AtomicBool,
}

/// A cgroup in use by one task. It goes back when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    cgroup: Arc<Cgroup>,
    pool: Arc<Cgroups>,
}

/// What `cgroup.events` says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Events {
    populated: bool,
    frozen: bool,
}

impl Cgroups {
    /// The cgroups of `owner` below the one that this process is in.
    ///
    /// # Errors
    /// When there is no cgroup version 2, it may not be written, or it cannot be killed (Linux before 5.14).
    pub fn open(owner: &Owner) -> io::Result<Arc<Self>> {
        let pool = Self {
            base: own_cgroup()?,
            mark: owner.mark().to_owned(),
            next: AtomicU64::new(1),
            idle: Mutex::default(),
        };
        let first = pool.create()?;
        pool.idle().ready.push(first);
        Ok(Arc::new(pool))
    }

    /// An empty cgroup for one task.
    ///
    /// # Errors
    /// What the operating system says about making one.
    pub fn lease(self: &Arc<Self>) -> io::Result<Lease> {
        let ready = self.idle().ready.pop();
        let cgroup = ready.map_or_else(|| self.create(), Ok)?;
        Ok(Lease { cgroup, pool: self.clone() })
    }

    /// Removes all that are not in use, and from now on each when it goes out of use.
    pub fn close(&self) {
        let idle = std::mem::replace(&mut *self.idle(), Idle { closed: true, ..Idle::default() });
        for cgroup in idle.ready.into_iter().chain(idle.ending) {
            cgroup.end();
        }
    }

    fn create(&self) -> io::Result<Arc<Cgroup>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.base.join(format!("{PREFIX}{}.{number}", self.mark));
        fs::create_dir(&path)?;
        let cgroup = Cgroup::open(path.clone());
        let usable = cgroup.and_then(|cgroup| {
            hold::take(&cgroup.directory)?;
            rustix::fs::accessat(&cgroup.directory, "cgroup.kill", rustix::fs::Access::WRITE_OK, AtFlags::empty())?;
            Ok(Arc::new(cgroup))
        });
        if usable.is_err() {
            let _ = fs::remove_dir(&path);
        }
        usable
    }

    fn put_back(&self, cgroup: Arc<Cgroup>) {
        let reusable = cgroup.is_reusable();
        let mut idle = self.idle();
        // What was killed for a task before is gone by now, or a later task will see to it.
        idle.ending.retain(|ending| remove(&ending.path).is_err());
        if reusable && !idle.closed && idle.ready.len() < MOST_KEPT {
            idle.ready.push(cgroup);
        } else if idle.closed {
            drop(idle);
            cgroup.end();
        } else {
            cgroup.kill();
            if remove(&cgroup.path).is_err() {
                idle.ending.push(cgroup);
            }
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        self.close();
    }
}

impl Cgroup {
    fn open(path: PathBuf) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Mode::empty())?;
        let events = open_file(&directory, "cgroup.events", OFlags::RDONLY)?;
        Ok(Self { path, directory, events, killed: AtomicBool::new(false) })
    }

    /// Whether a living process is in it or below it. What cannot be read counts as alive.
    pub fn is_populated(&self) -> bool {
        self.events().populated
    }

    /// Whether a process may be put into it. (One that was killed takes none.)
    pub fn is_open(&self) -> bool {
        !self.killed.load(Ordering::SeqCst)
    }

    /// Kills every process in it and below it, those included that are being started right now.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        // An error means that it is gone, and with it what was in it.
        let file = open_file(&self.directory, "cgroup.kill", OFlags::WRONLY);
        let _ = file.and_then(|file| rustix::io::write(file, b"1"));
    }

    /// The processes directly in it.
    fn processes(&self) -> Vec<i32> {
        let content = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        content.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Whether the next task finds it as a new one: a task with the right to may have frozen it or made cgroups in it.
    fn is_reusable(&self) -> bool {
        self.is_open()
            && self.events() == Events::default()
            && rustix::fs::fstat(&self.directory).is_ok_and(|stat| stat.st_nlink <= 2)
    }

    fn events(&self) -> Events {
        let mut content = [0; 128];
        match rustix::io::pread(&self.events, &mut content[..], 0) {
            Ok(length) => Events::parse(content.get(..length).unwrap_or_default()),
            // It is gone (another worker that starts may clean up at the same time), and nothing is in it.
            Err(Errno::NOENT | Errno::NODEV) => Events::default(),
            Err(_) => Events { populated: true, frozen: true },
        }
    }

    /// Ends what is left in it, and removes it and the cgroups that tasks made in it.
    fn end(&self) {
        if self.is_populated() {
            self.kill();
            self.wait_until_empty();
        }
        // When this fails a process is stuck in the kernel; the next start tries again.
        let _ = remove(&self.path);
    }

    fn wait_until_empty(&self) {
        let limit = Instant::now() + WAIT_AFTER_KILL;
        // Reading the file arms the next announcement of a change.
        while self.is_populated() {
            let left = Timespec::try_from(limit.saturating_duration_since(Instant::now()))
                .unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
            // The kernel announces every change of the file as an exceptional condition.
            let mut watched = [PollFd::new(&self.events, PollFlags::PRI)];
            if rustix::event::poll(&mut watched, Some(&left)).unwrap_or(0) == 0 {
                return;
            }
        }
    }
}

fn open_file(directory: &OwnedFd, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(directory, name, flags | OFlags::CLOEXEC, Mode::empty())
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Lease {
    /// The cgroup itself, as long as somebody needs it open.
    pub fn cgroup(&self) -> Arc<Cgroup> {
        self.cgroup.clone()
    }
}

impl Deref for Lease {
    type Target = Cgroup;

    fn deref(&self) -> &Cgroup {
        &self.cgroup
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.put_back(self.cgroup.clone());
    }
}

impl Events {
    fn parse(content: &[u8]) -> Self {
        let is_set = |line: &[u8]| content.split(|byte| *byte == b'\n').any(|found| found == line);
        Self { populated: is_set(b"populated 1"), frozen: is_set(b"frozen 1") }
    }
}

/// Ends what is left in the cgroups of dead workers with the same key. Gives the processes that were in them.
pub(super) fn end_leftovers(owner: &Owner) -> Vec<i32> {
    let mut ended = Vec::new();
    let Ok(base) = own_cgroup() else { return ended };
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let mark = name.to_str().and_then(|name| Mark::parse(split_numbered(name.strip_prefix(PREFIX)?)?.0));
        if mark.is_some_and(|mark| mark.key == owner.key())
            && let Ok(cgroup) = Cgroup::open(entry.path())
            // A living worker holds its own, wherever it runs.
            && hold::take(&cgroup.directory).is_ok()
        {
            ended.extend(cgroup.processes());
            cgroup.end();
        }
    }
    ended
}

/// Removes a cgroup and those below it.
fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// The directory of the cgroup version 2 that this process is in.
fn own_cgroup() -> io::Result<PathBuf> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "no cgroup version 2 is mounted here");
    directory_of(&fs::read("/proc/self/cgroup")?, &fs::read("/proc/self/mountinfo")?).ok_or_else(missing)
}

/// Finds it in the content of `/proc/self/cgroup` (cgroups(7)) and `/proc/self/mountinfo` (proc(5)). Version 2 may be
/// mounted anywhere, also beside version 1.
fn directory_of(cgroup: &[u8], mountinfo: &[u8]) -> Option<PathBuf> {
    let own = cgroup.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    mountinfo.split(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let separator = fields.iter().position(|field| *field == b"-")?;
        if *fields.get(separator + 1)? != b"cgroup2" {
            return None;
        }
        let (root, mount) = (unescape(fields.get(3)?), unescape(fields.get(4)?));
        // A mount may show only a part of the hierarchy, which must be the part we are in.
        let below =
            PathBuf::from(OsString::from_vec(own.to_vec())).strip_prefix(OsString::from_vec(root)).ok()?.to_owned();
        let directory = PathBuf::from(OsString::from_vec(mount)).join(below);
        // `/..` stands for a cgroup outside of our namespace.
        (!directory.components().any(|part| part == std::path::Component::ParentDir)).then_some(directory)
    })
}

/// mountinfo writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) if *first == b'\\' => {
                plain.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &[u8] = b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn finds_version_2_beside_version_1() {
        let own = b"9:name=systemd:/x\n4:memory:/y\n0::/\n";
        assert_eq!(directory_of(own, V2), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let own = b"0::/system.slice/oz worker.service\n";
        assert_eq!(directory_of(own, V2), Some(PathBuf::from("/sys/fs/cgroup/unified/system.slice/oz worker.service")));
    }

    #[test]
    fn a_mount_of_a_part_is_followed_into_that_part() {
        let mount = b"41 31 0:38 /docker/abc /sys/fs/c\\040group ro - cgroup2 cgroup rw\n";
        assert_eq!(directory_of(b"0::/docker/abc/x\n", mount), Some(PathBuf::from("/sys/fs/c group/x")));
        assert_eq!(directory_of(b"0::/docker/abcd\n", mount), None);
        assert_eq!(directory_of(b"0::/\n", mount), None);
        assert_eq!(directory_of(b"0::/../up\n", V2), None);
    }

    #[test]
    fn no_version_2_is_no_directory() {
        assert_eq!(directory_of(b"4:memory:/y\n", V2), None);
        assert_eq!(directory_of(b"0::/\n", b"32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"), None);
        assert_eq!(directory_of(b"", b""), None);
    }

    #[test]
    fn reads_the_events_of_a_cgroup() {
        assert_eq!(Events::parse(b"populated 1\nfrozen 0\n"), Events { populated: true, frozen: false });
        assert_eq!(Events::parse(b"populated 0\nfrozen 1\n"), Events { populated: false, frozen: true });
        assert_eq!(Events::parse(b"populated 0\n"), Events::default());
    }
}
