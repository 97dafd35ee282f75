//! The disk of a machine: directories with marks, and calls that fail.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use oz_worker_runtime::{Files, Hold, Mark, Named, Owner, PathKind};

use crate::cluster::KUBECONFIG;
use crate::executor::{Executor, Machine};
use crate::journal::Journal;

/// Where it is said how a cluster is reached.
pub const KUBECONFIG_PATH: &str = "/kubeconfig";

/// The disk. A clone is another handle to the same.
#[derive(Clone)]
pub struct Disk {
    executor: Executor,
    journal: Journal,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    faulty: bool,
    /// Whether a call ever failed.
    failed: bool,
    /// Every directory, and its mark.
    directories: BTreeMap<PathBuf, Option<String>>,
    /// The marks of the workers that are alive, each by where it runs.
    living: BTreeMap<Machine, String>,
}

impl Disk {
    pub fn new(executor: &Executor, journal: &Journal) -> Self {
        let state = State { directories: BTreeMap::from([(PathBuf::from("/"), None)]), ..State::default() };
        Self { executor: executor.clone(), journal: journal.clone(), state: Arc::new(Mutex::new(state)) }
    }

    /// Whether calls fail by chance from now on.
    pub fn set_faulty(&self, faulty: bool) {
        self.lock().faulty = faulty;
    }

    /// Makes a directory that is not the worker's.
    pub fn put(&self, path: &str) {
        self.lock().directories.insert(path.into(), None);
    }

    /// Of all workers that ran there, this one is alive now.
    pub fn lives(&self, machine: Machine, owner: &Owner) {
        self.lock().living.insert(machine, owner.mark().to_owned());
    }

    /// No worker is alive there any more.
    pub fn dies(&self, machine: Machine) {
        self.lock().living.remove(&machine);
    }

    /// The worker's own directories below `root`; none that counts when a call ever failed.
    pub fn own_below(&self, root: &str) -> Vec<PathBuf> {
        let state = self.lock();
        let own = state.directories.iter().filter(|(path, mark)| path.starts_with(root) && mark.is_some());
        own.filter(|_| !state.failed).map(|(path, _)| path.clone()).collect()
    }

    /// The state, unless this call fails.
    fn call(&self, what: &str) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        if state.faulty && self.executor.chance(4) {
            state.failed = true;
            let kind = self.executor.random(|random| {
                random.choice([ErrorKind::StorageFull, ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem])
            });
            self.journal.note(|| format!("disk: {what} fails"));
            return Err(kind.unwrap_or(ErrorKind::Other).into());
        }
        Ok(state)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn is_empty(&self, path: &Path) -> bool {
        !self.directories.keys().any(|other| other != path && other.starts_with(path))
    }
}

impl Files for Disk {
    fn make_private(&self, path: &Path) -> io::Result<()> {
        let mut state = self.call("mkdir")?;
        if state.directories.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|parent| state.directories.contains_key(parent)) {
            return Err(ErrorKind::NotFound.into());
        }
        state.directories.insert(path.to_owned(), None);
        Ok(())
    }

    fn make_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.call("mkdir -p")?;
        for path in path.ancestors() {
            state.directories.entry(path.to_owned()).or_default();
        }
        Ok(())
    }

    fn set_private(&self, _: &Path) -> io::Result<()> {
        self.call("chmod").map(drop)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.call("rename")?;
        if state.directories.contains_key(to) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let mark = state.directories.remove(from).ok_or(ErrorKind::NotFound)?;
        state.directories.insert(to.to_owned(), mark);
        Ok(())
    }

    fn kind(&self, path: &Path) -> io::Result<PathKind> {
        let state = self.call("stat")?;
        if state.directories.contains_key(path) { Ok(PathKind::OurDirectory) } else { Err(ErrorKind::NotFound.into()) }
    }

    fn named(&self, path: &Path) -> io::Result<Named> {
        self.kind(path).map(|_| Named::Directory { enterable: true, writable: true })
    }

    fn is_stale(&self, owner: &Owner, mark: &str) -> bool {
        let is_ours = Mark::parse(mark).is_some_and(|mark| mark.key == owner.key());
        is_ours && !self.lock().living.values().any(|living| living == mark)
    }

    fn hold(&self, _: &Path) -> io::Result<Hold> {
        self.call("lock").map(|_| Hold::undisputed())
    }

    fn is_local(&self, _: &Path) -> bool {
        true
    }

    fn names(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let state = self.call("ls")?;
        let inside = state.directories.keys().filter(|inner| inner.parent() == Some(path));
        Ok(inside.filter_map(|inner| inner.file_name().map(Into::into)).collect())
    }

    fn mark(&self, path: &Path) -> Option<String> {
        self.call("getxattr").ok()?.directories.get(path).cloned().flatten()
    }

    fn set_mark(&self, path: &Path, mark: &str) -> io::Result<()> {
        let mut state = self.call("setxattr")?;
        *state.directories.get_mut(path).ok_or(ErrorKind::NotFound)? = Some(mark.to_owned());
        Ok(())
    }

    fn make_empty(&self, _: &Path) -> io::Result<()> {
        self.call("create").map(drop)
    }

    fn remove_empty(&self, path: &Path) -> io::Result<()> {
        let mut state = self.call("rmdir")?;
        if !state.is_empty(path) {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        state.directories.remove(path).map(drop).ok_or(ErrorKind::NotFound.into())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.call("rm -r")?;
        state.directories.retain(|other, _| !other.starts_with(path));
        Ok(())
    }

    fn read(&self, path: &Path, _: u64) -> io::Result<Option<Vec<u8>>> {
        let _state = self.call("read")?;
        if path == Path::new(KUBECONFIG_PATH) {
            return Ok(Some(KUBECONFIG.as_bytes().to_vec()));
        }
        Ok(match self.executor.random(|random| random.u32(..20)) {
            0 => Some(b"this is not a variable".to_vec()),
            1..10 => Some(b"FROM_SETUP=yes\n".to_vec()),
            _ => None,
        })
    }
}
