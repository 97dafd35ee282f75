//! A directory that this process has, as long as it lives: a lock that the kernel takes back with the process, and that it
//! shows to every process of the machine, whatever containers and namespaces lie between.
//!
//! Not `flock`, which tasks may use on their own directory (`flock . make`): an open file description's lock (fcntl(2), "Open
//! file description locks") is another kind, and neither sees the other. `flock` is only held for the moment of taking.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

/// The file systems that no second machine can have at the same time: `f_type` of statfs(2).
const LOCAL: [u64; 9] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x794c_7630, // overlayfs
    0xf2f5_2010, // f2fs
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
];

/// How often, and after which pauses, a directory that is busy is tried again.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(1);

/// Opens the directory at `path` and takes it.
///
/// # Errors
/// [`io::ErrorKind::ResourceBusy`] when somebody has it, [`io::ErrorKind::Unsupported`] where there are no such locks, and
/// what the operating system says about opening it.
pub(crate) fn hold(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    take(&directory)?;
    Ok(directory)
}

/// Takes a directory that is open, for as long as this descriptor of it is.
///
/// # Errors
/// As those of [`hold`].
pub(crate) fn take(directory: &OwnedFd) -> io::Result<()> {
    let busy = || io::Error::from(io::ErrorKind::ResourceBusy);
    let unsupported = |_| io::Error::from(io::ErrorKind::Unsupported);
    let take = || {
        // One at a time: looking and taking are two steps.
        match flock(directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::AGAIN) => return Err(busy()),
            other => other.map_err(unsupported)?,
        }
        let taken = is_taken(directory).and_then(|taken| if taken { Err(busy()) } else { lock(directory) });
        let _ = flock(directory, FlockOperation::Unlock);
        taken
    };
    // What was given back is still had for a moment by a child that has not executed its program yet.
    for _ in 0..TRIES {
        match take() {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    take()
}

/// Whether somebody with another descriptor of a directory has it.
pub(crate) fn is_taken(directory: &impl AsFd) -> io::Result<bool> {
    let mut lock = request(libc::F_WRLCK);
    // SAFETY: the pointer is to a whole `struct flock` that lives until the call returns.
    if unsafe { libc::fcntl(directory.as_fd().as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } != 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn lock(directory: &OwnedFd) -> io::Result<()> {
    // For reading: a directory cannot be open for anything else.
    let lock = request(libc::F_RDLCK);
    // SAFETY: as above.
    if unsafe { libc::fcntl(directory.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } != 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(())
}

/// The whole of a file; `l_pid` must be 0.
fn request(kind: libc::c_int) -> libc::flock {
    // SAFETY: a `struct flock` is numbers only.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::c_short::try_from(kind).unwrap_or_default();
    lock
}

/// Whether no other machine can have the file system at `path`.
pub(crate) fn is_local(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| {
        // Some systems have it with a sign.
        let kind = u64::try_from(found.f_type).unwrap_or_default() & 0xffff_ffff;
        LOCAL.contains(&kind)
    })
}
