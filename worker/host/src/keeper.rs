//! A second process that outlives the worker by a moment: whatever kills the worker leaves no task behind.
//!
//! No means of the kernel ends the descendants of a process that was killed. So one process waits for nothing but the worker's
//! end, and then does what the next worker would do: it kills what bears the mark of a dead one. It is a copy of the worker,
//! made before that has threads, tasks or connections, shares its memory, and holds nothing open.

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
    // SAFETY: there is one thread, so the copy may do whatever this process may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: as above.
            if unsafe { libc::fork() } == 0 {
                keep(&worker, owner);
            }
            // SAFETY: nothing of the worker's is to run in the copy: no destructor, no `atexit`.
            unsafe { libc::_exit(0) }
        }
        child => {
            if let Some(child) = Pid::from_raw(child) {
                let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
            }
            Ok(())
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
        libc::syscall(libc::SYS_close_range, kept + 1, libc::c_int::MAX, 0);
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
