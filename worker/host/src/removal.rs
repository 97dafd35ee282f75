//! Removes a directory and all that is in it, whatever a task made of it: unreadable, nested thousands deep, full of links.
//!
//! Never leaves the directory: no symbolic link is followed and no mount point crossed. A nested directory that is not
//! empty is moved up to the top before it is emptied, so that neither file descriptors nor stack grow with the depth
//! (which would let a task make a directory that nobody can remove).

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

/// How long a removal may take as long as it gets on. Somebody who makes files as fast as they are removed must not keep a thread
/// for ever; what is left then is removed by the next start.
const LIMIT: Duration = Duration::from_secs(3600);

/// Removes the directory at `path`. That there is none is not an error.
///
/// # Errors
/// The first thing that could not be removed; everything else is gone. [`io::ErrorKind::TimedOut`] when it took too long.
pub(super) fn remove_directory(path: &Path) -> io::Result<()> {
    remove_until(path, Instant::now() + LIMIT)
}

fn remove_until(path: &Path, latest: Instant) -> io::Result<()> {
    match rustix::fs::rmdir(path) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let top = open_directory(CWD, path)?;
    empty(&top, latest)?;
    Ok(rustix::fs::rmdir(path)?)
}

fn empty(top: &OwnedFd, latest: Instant) -> io::Result<()> {
    let mut names = Names { next: 0 };
    loop {
        let (mut any, mut progress, mut failure) = (false, false, None);
        for entry in Dir::read_from(top)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_dot(name) {
                continue;
            }
            any = true;
            let removed = match remove_entry(top, name, entry.file_type()) {
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ACCESS) => flatten(top, name, &mut names),
                other => other,
            };
            match removed {
                Ok(()) => progress = true,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        // What was moved up may or may not have been seen by this pass: look again until nothing is there.
        match (any, progress, failure) {
            (false, ..) => return Ok(()),
            (true, false, Some(error)) => return Err(error.into()),
            _ if Instant::now() >= latest => return Err(io::ErrorKind::TimedOut.into()),
            _ => {}
        }
    }
}

/// Removes the directory `name` in `top`, after moving what is not empty in it up to `top`.
fn flatten(top: &OwnedFd, name: &CStr, names: &mut Names) -> rustix::io::Result<()> {
    let directory = open_directory(top, name)?;
    let mut failure = None;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let inner = entry.file_name();
        if is_dot(inner) {
            continue;
        }
        let removed = match remove_entry(&directory, inner, entry.file_type()) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => names.move_up(&directory, inner, top),
            other => other,
        };
        failure = failure.or(removed.err());
    }
    failure.map_or_else(|| rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR), Err)
}

/// Removes what is no directory, or an empty one.
fn remove_entry(parent: impl AsFd, name: &CStr, kind: FileType) -> rustix::io::Result<()> {
    let parent = parent.as_fd();
    if kind != FileType::Directory {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            // A file system that does not say what an entry is.
            Err(Errno::ISDIR | Errno::PERM) if kind == FileType::Unknown => {}
            other => return other,
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Opens a directory to read and empty it, and gives us the permission to do so if it lacks.
fn open_directory(parent: impl AsFd, name: impl rustix::path::Arg + Copy) -> rustix::io::Result<OwnedFd> {
    let parent = parent.as_fd();
    let directory = match open_here(parent, name, OFlags::RDONLY) {
        Err(Errno::ACCESS) => {
            permit(open_here(parent, name, OFlags::PATH)?.as_fd())?;
            open_here(parent, name, OFlags::RDONLY)?
        }
        other => other?,
    };
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&directory)?.st_mode);
    if !mode.contains(Mode::RWXU) {
        permit(directory.as_fd())?;
    }
    Ok(directory)
}

/// Opens a directory that is neither a link nor another mount. (`O_NOFOLLOW` alone on a kernel before 5.6, or in a
/// sandbox that does not know `openat2`.)
fn open_here(parent: BorrowedFd<'_>, name: impl rustix::path::Arg + Copy, how: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = how | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // The top is named by a path that the operator chose, links and mounts included; only what is below it is confined.
    let top = parent.as_raw_fd() == CWD.as_raw_fd();
    let resolve = if top { ResolveFlags::empty() } else { ResolveFlags::NO_XDEV | ResolveFlags::BENEATH };
    match rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(parent, name, flags, Mode::empty()),
        other => other,
    }
}

/// Gives the owner every permission on an open directory. Through `/proc`, because a descriptor that was opened without
/// permission to read takes no `fchmod`, and a path could be a link by now.
fn permit(directory: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::fs::chmod(format!("/proc/self/fd/{}", directory.as_raw_fd()), Mode::RWXU)
}

fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// Names at the top for directories that are moved up.
struct Names {
    next: u64,
}

impl Names {
    fn move_up(&mut self, from: &OwnedFd, name: &CStr, top: &OwnedFd) -> rustix::io::Result<()> {
        let mut permitted = false;
        loop {
            let target = format!(".{}", self.next);
            match rustix::fs::renameat_with(from, name, top, target.as_str(), RenameFlags::empty()) {
                // The name is taken. (An empty directory of that name is replaced, which is as good as removed.)
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => self.next += 1,
                // A directory that may not be written cannot move either: it holds the entry `..`.
                Err(Errno::ACCESS) if !permitted => {
                    permitted = true;
                    open_directory(from, name)?;
                }
                other => {
                    self.next += 1;
                    return other;
                }
            }
        }
    }
}

/// Whether `path` is a real directory, and whose.
pub(super) fn owner_of_directory(path: &Path) -> io::Result<Option<u32>> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::symlink_metadata(path)?;
    Ok(metadata.is_dir().then(|| metadata.uid()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("oz-worker-removal-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn removes_an_empty_directory_and_none() {
        let top = scratch("empty");
        remove_directory(&top).unwrap();
        assert!(!top.exists());
        remove_directory(&top).unwrap();
    }

    #[test]
    fn removes_a_wide_and_bushy_tree() {
        let top = scratch("bushy");
        for a in 0..20 {
            for b in 0..20 {
                let directory = top.join(format!("{a}/.{b}/x"));
                fs::create_dir_all(&directory).unwrap();
                fs::write(directory.join("file"), "content").unwrap();
                fs::write(top.join(format!("{a}/{b}")), "").unwrap();
            }
            fs::write(top.join(format!(".{}", a + 3)), "a name that is in the way").unwrap();
        }
        remove_directory(&top).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn removes_a_tree_deeper_than_any_path_or_stack() {
        let top = scratch("deep");
        let mut here = open_directory(CWD, top.as_path()).unwrap();
        for _ in 0..5_000 {
            rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
            here = open_directory(&here, "d").unwrap();
        }
        remove_directory(&top).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn a_removal_that_takes_too_long_is_given_up_though_it_gets_on() {
        let top = scratch("endless");
        fs::write(top.join("file"), "").unwrap();
        let ended = remove_until(&top, Instant::now()).unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        remove_until(&top, Instant::now()).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn follows_no_link() {
        let (top, outside) = (scratch("links"), scratch("outside"));
        fs::write(outside.join("precious"), "kept").unwrap();
        fs::create_dir(top.join("inner")).unwrap();
        symlink(&outside, top.join("link")).unwrap();
        symlink(&outside, top.join("inner/link")).unwrap();
        symlink("/nowhere", top.join("inner/dangling")).unwrap();
        remove_directory(&top).unwrap();
        assert!(!top.exists());
        assert_eq!(fs::read(outside.join("precious")).unwrap(), b"kept");
        remove_directory(&outside).unwrap();
    }

    #[test]
    fn a_link_in_place_of_the_directory_is_an_error() {
        let (top, outside) = (scratch("place"), scratch("elsewhere"));
        fs::write(outside.join("precious"), "kept").unwrap();
        symlink(&outside, top.join("link")).unwrap();
        assert!(remove_directory(&top.join("link")).is_err());
        assert!(outside.join("precious").exists());
        remove_directory(&top).unwrap();
        remove_directory(&outside).unwrap();
    }

    /// Makes this thread somebody who may not do everything, as long as it lives. (The bare system call: libc's is for all
    /// threads.)
    struct NotRoot;

    impl NotRoot {
        fn now() -> Self {
            Self::become_user(65534);
            Self
        }

        fn become_user(user: libc::c_long) {
            if rustix::process::getuid().is_root() {
                let keep: libc::c_long = -1;
                // SAFETY: no pointer is passed, and only this thread is changed.
                assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, keep, user, keep) }, 0);
            }
        }
    }

    impl Drop for NotRoot {
        fn drop(&mut self) {
            Self::become_user(0);
        }
    }

    #[test]
    fn removes_what_the_task_made_unreadable() {
        let _user = NotRoot::now();
        let top = scratch("modes");
        for mode in [0o000, 0o400, 0o500, 0o100, 0o200, 0o600] {
            let directory = top.join(format!("{mode:o}/inner/{mode:o}"));
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("file"), "").unwrap();
            for path in [directory.as_path(), directory.parent().unwrap(), &top.join(format!("{mode:o}"))] {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
        fs::set_permissions(&top, fs::Permissions::from_mode(0o500)).unwrap();
        assert!(fs::remove_dir_all(&top).is_err(), "modes mean nothing to who runs this");
        remove_directory(&top).unwrap();
        assert!(!top.exists());
    }
}
