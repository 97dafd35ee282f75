//! A second process that outlives the worker by a moment: whatever kills the worker leaves no task behind.
//!
//! No means of the kernel ends the descendants of a process that was killed. So one process waits for nothing but the worker's
//! end, and then does what the next worker would do: it kills what bears the mark of a dead one. It is a copy of the worker,
//! made before that has threads, tasks or connections, shares its memory, and holds nothing open.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use oz_worker_runtime::Owner;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, WaitOptions};

use crate::leftovers;

/// Starts one for `owner`, who is this process. To be called while there is one thread. The first process of a container needs
/// none: the kernel ends all others with it.
///
/// # Errors
/// What the operating system says. Tasks of a worker that is killed then wait for the next one to be ended.
pub fn start_keeper(owner: &Owner) -> io::Result<()> {
    let own = rustix::process::getpid();
    if own.is_init() {
        return Ok(());
    }
    let worker = rustix::process::pidfd_open(own, PidfdFlags::empty())?;
    // Not our child: it is no task's orphan.
    rustix::process::set_child_subreaper(None)?;
    let mut stack = Box::<[u128]>::new_uninit_slice(STACK);
    let kept = Kept { worker, owner };
    // SAFETY: the child runs `between` in our memory, on a stack of its own, while this thread, which is the only one, stands
    // still (CLONE_VFORK): `kept` and `stack` are there until it has ended.
    let child = unsafe {
        let (top, flags) = (stack.as_mut_ptr_range().end, libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD);
        libc::clone(between, top.cast(), flags, (&raw const kept).cast_mut().cast())
    };
    let child = (child > 0).then(|| Pid::from_raw(child)).flatten().ok_or_else(io::Error::last_os_error)?;
    let ended = rustix::process::waitpid(Some(child), WaitOptions::empty())?;
    match ended.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno.unwrap_or(libc::ECHILD))),
    }
}

/// More than the keeper needs, in units of 16 bytes: 256 KiB, of which only the pages that are used ever exist.
const STACK: usize = 16 << 10;

/// What the keeper has to know.
struct Kept<'a> {
    worker: OwnedFd,
    owner: &'a Owner,
}

/// The child between the worker and its keeper, by whose end the keeper becomes somebody else's child. It borrows the worker's
/// memory, so that this is copied once and not twice. Gives 0, or the number of what went wrong.
extern "C" fn between(kept: *mut c_void) -> c_int {
    // SAFETY: `start_keeper` gives this, and waits. There is one thread, so the copy may do whatever this process may; nothing
    // of the worker's runs in it, no destructor and no `atexit`, because both processes end with this function.
    unsafe {
        match libc::fork() {
            0 => {
                let kept = &*kept.cast::<Kept<'_>>();
                keep(&kept.worker, kept.owner);
                0
            }
            -1 => *libc::__errno_location(),
            _ => 0,
        }
    }
}

/// The keeper's life: waits for the worker's end, cleans up after it, and ends.
fn keep(worker: &OwnedFd, owner: &Owner) {
    hide(worker);
    // Readable once the worker is dead and its children are somebody else's.
    while poll(&mut [PollFd::new(worker, PollFlags::IN)], None).is_err() {}
    leftovers::end(owner);
}

/// Leaves everything that belongs to the worker: its terminal, its group, its signals, its descriptors, its directory, and the
/// API key in what `/proc/<pid>/environ` shows.
fn hide(worker: &OwnedFd) {
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    let _ = rustix::thread::set_name(c"oz-keeper");
    let kept = worker.as_raw_fd();
    // SAFETY: this process has one thread, which uses neither signals nor its environment nor any other descriptor again;
    // every entry of `environ` is a string that ends with a NUL byte.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0, kept - 1, 0);
        libc::syscall(libc::SYS_close_range, kept + 1, c_int::MAX, 0);
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            libc::memset((*entry).cast(), 0, libc::strlen(*entry));
            entry = entry.add(1);
        }
    }
}

unsafe extern "C" {
    static environ: *const *mut libc::c_char;
}
