//! The file system of this host as [`Files`].

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Access, CWD, RenameFlags, XattrFlags, access};
use rustix::io::Errno;

use super::{hold, owner, removal};
use oz_worker_runtime::{Files, Hold, Named, Owner, PathKind};

/// The extended attribute whose value is the mark of the worker that made the directory.
const ATTRIBUTE: &str = "user.oz-agent-worker";

#[derive(Debug, Clone, Copy)]
pub struct HostFiles;

impl Files for HostFiles {
    fn make_private(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(path)?;
        if fs::symlink_metadata(path)?.mode() & 0o777 != 0o700 {
            self.set_private(path)?;
        }
        Ok(())
    }

    fn make_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn set_private(&self, path: &Path) -> io::Result<()> {
        fs::set_permissions(path, Permissions::from_mode(0o700))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS) => Err(io::ErrorKind::Unsupported.into()),
            other => Ok(other?),
        }
    }

    fn kind(&self, path: &Path) -> io::Result<PathKind> {
        Ok(match removal::owner_of_directory(path)? {
            Some(uid) if uid == rustix::process::geteuid().as_raw() => PathKind::OurDirectory,
            Some(uid) => PathKind::OthersDirectory(uid),
            None => PathKind::Other,
        })
    }

    fn named(&self, path: &Path) -> io::Result<Named> {
        let metadata = fs::metadata(path)?;
        let may = |what: Access| access(path, what).is_ok();
        Ok(if metadata.is_file() {
            Named::File { executable: may(Access::EXEC_OK) }
        } else if metadata.is_dir() {
            Named::Directory { enterable: may(Access::EXEC_OK), writable: may(Access::WRITE_OK | Access::EXEC_OK) }
        } else {
            Named::Other
        })
    }

    fn names(&self, path: &Path) -> io::Result<Vec<OsString>> {
        Ok(fs::read_dir(path)?.flatten().map(|entry| entry.file_name()).collect())
    }

    fn mark(&self, path: &Path) -> Option<String> {
        // No mark of ours is longer; a longer one is somebody else's.
        let mut value = [0; 128];
        let length = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut value[..]).ok()?;
        String::from_utf8(value.get(..length)?.to_vec()).ok()
    }

    fn set_mark(&self, path: &Path, mark: &str) -> io::Result<()> {
        Ok(rustix::fs::lsetxattr(path, ATTRIBUTE, mark.as_bytes(), XattrFlags::empty())?)
    }

    fn is_stale(&self, owner: &Owner, mark: &str) -> bool {
        owner::is_stale(owner, mark)
    }

    fn hold(&self, path: &Path) -> io::Result<Hold> {
        hold::hold(path).map(Hold::by)
    }

    fn is_local(&self, path: &Path) -> bool {
        hold::is_local(path)
    }

    fn make_empty(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
    }

    fn remove_empty(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        removal::remove_directory(path)
    }

    fn read(&self, path: &Path, largest: u64) -> io::Result<Option<Vec<u8>>> {
        // Looked at before it is opened: opening a pipe would wait for its writer.
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(file) if file.is_file() && file.len() <= largest => {}
            Ok(_) => {
                let problem = format!("it is not a regular file of at most {largest} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
            }
            Err(error) => return Err(error),
        }
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(largest).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }
}
