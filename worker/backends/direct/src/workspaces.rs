//! One private directory per task, which the worker knows again after a crash and only then removes.
//!
//! A workspace is marked with an extended attribute, because that costs no file and lives and dies with the directory. It
//! is made under a hidden name that holds the mark too, and only gets the task's name once it is marked: at no moment
//! can a crash leave a directory that the next worker would not know for its own.
//!
//! The mark says who made a directory, and never whether that worker lives. That says the [`Hold`] which a worker has on each
//! of its directories, and which the kernel takes back when the worker dies.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oz_worker_runtime::{Files, Hold, Mark, Owner, PathKind, split_numbered};

/// What the names of directories begin with that have no task's name (yet); mark and number follow.
const HIDDEN: &str = ".oz-agent-worker.";

/// The longest name of a file on Linux (`NAME_MAX`).
const LONGEST_NAME: usize = 255;

/// Makes workspaces in one root directory. All methods block on the file system that they are given; [`Workspace::remove`]
/// and [`clean_leftovers`](Self::clean_leftovers) may take long even where it answers.
#[derive(Debug, Clone)]
pub struct Workspaces {
    root: PathBuf,
    owner: Owner,
    /// How many hidden names there have been.
    hidden: Arc<AtomicU64>,
    taken: Taken,
}

/// The tasks that have a workspace now. What was given up while the file system did not answer still has its own.
#[derive(Debug, Clone, Default)]
struct Taken(Arc<Mutex<BTreeSet<String>>>);

/// A task's name among them, until dropped.
#[derive(Debug)]
struct Name {
    taken: Taken,
    task_id: String,
}

impl Taken {
    fn take(&self, task_id: &str) -> Option<Name> {
        let is_new = self.lock().insert(task_id.to_owned());
        is_new.then(|| Name { taken: self.clone(), task_id: task_id.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.taken.lock().remove(&self.task_id);
    }
}

/// Why there is no workspace for a task.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The task id cannot be the name of a directory.
    #[error("the task id cannot name a directory: {0}")]
    TaskId(&'static str),
    /// An earlier run of the task still has the directory.
    #[error("{} is still held by an earlier run of this task: the file system does not answer", .0.display())]
    Taken(PathBuf),
    /// Another worker runs a task in it.
    #[error("{} is in use by another worker that still runs", .0.display())]
    InUse(PathBuf),
    /// A worker on another machine may run a task in it.
    #[error(
        "{} was made by a worker on another machine, or before the last boot, and may be in use; remove it if it is not",
        .0.display()
    )]
    MayBeInUse(PathBuf),
    /// The operating system refused to make anything in the root.
    #[error("cannot create a directory in {}: {source}", root.display())]
    Root { root: PathBuf, source: io::Error },
    /// The operating system refused.
    #[error("cannot create {}: {source}", path.display())]
    Create {
        /// What could not be created.
        path: PathBuf,
        source: io::Error,
    },
    /// Something that is no directory is in the way.
    #[error("{} exists and is not a directory; remove it, or choose another workspace root", .0.display())]
    NotADirectory(PathBuf),
    /// The directory belongs to another user.
    #[error(
        "{} exists and belongs to another user (uid {uid}); remove it, or choose another workspace root",
        path.display()
    )]
    OtherUser { path: PathBuf, uid: u32 },
}

/// Where a workspace comes from, which decides whether it is ever removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was made for this task.
    New,
    /// It was there already, and a worker had made it that is dead, or that was we.
    Reused,
    /// It was there already, and is not ours: it is used, but never removed.
    Foreign,
}

/// A task's directory. Dropping it leaves it where it is.
#[derive(Debug)]
pub struct Workspace {
    path: PathBuf,
    origin: Origin,
    key: String,
    name: Option<Name>,
    /// For as long as the workspace is ours.
    _hold: Hold,
}

/// What [`Workspaces::clean_leftovers`] did.
#[derive(Debug, Default)]
pub struct Cleaned {
    /// The names of the directories that were removed.
    pub removed: Vec<OsString>,
    /// The names of those that could not be removed, and why.
    pub failed: Vec<(OsString, io::Error)>,
}

impl Workspaces {
    /// Workspaces of `owner` in the directory `root`, which is made when it is first needed.
    pub fn new(root: impl Into<PathBuf>, owner: Owner) -> Self {
        Self { root: root.into(), owner, hidden: Arc::default(), taken: Taken::default() }
    }

    /// The directory that holds the workspaces.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the file system of the root can hold marks. Without them workspaces work, but what a crash leaves behind
    /// is not known again.
    ///
    /// # Errors
    /// When no directory can be made in the root.
    pub fn supports_marks(&self, files: &impl Files) -> Result<bool, WorkspaceError> {
        let (path, marked, _hold) = self.create_hidden(files)?;
        // An empty directory of ours that is not removed is removed by the next start.
        let _ = files.remove_empty(&path);
        Ok(marked)
    }

    /// The directory of the task `task_id`, with mode 0700 when it is ours.
    ///
    /// # Errors
    /// When the task id is not one plain path component, when something else has the name, or when the operating system
    /// refuses.
    pub fn create(&self, files: &impl Files, task_id: &str) -> Result<Workspace, WorkspaceError> {
        check_name(task_id)?;
        let path = self.root.join(task_id);
        let name = self.taken.take(task_id).ok_or_else(|| WorkspaceError::Taken(path.clone()))?;
        let (hidden, marked, hold) = self.create_hidden(files)?;
        let renamed = match files.rename_new(&hidden, &path) {
            // A file system that cannot rename without replacing (NFS, some of FUSE): mkdir replaces nothing either.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                let _ = files.remove_empty(&hidden);
                let made = files.make_private(&path).and_then(|()| take(files, &path));
                made.and_then(|hold| if marked { self.mark(files, &path).map(|()| hold) } else { Ok(hold) })
            }
            other => other.map(|()| hold),
        };
        match renamed {
            Ok(hold) => Ok(self.workspace(path, Origin::New, Some(name), hold)),
            Err(error) => {
                let _ = files.remove_empty(&hidden);
                if error.kind() == io::ErrorKind::AlreadyExists {
                    self.take_existing(files, path, name)
                } else {
                    Err(WorkspaceError::Create { path, source: error })
                }
            }
        }
    }

    /// A directory that belongs to no task by name, with mode 0700, for use beside a workspace that is shared.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn create_private(&self, files: &impl Files) -> Result<Workspace, WorkspaceError> {
        let (path, _, hold) = self.create_hidden(files)?;
        Ok(self.workspace(path, Origin::New, None, hold))
    }

    /// Removes what dead workers with our key left in the root. Only directories directly in it, which belong to our user, bear
    /// a mark with our key, and are held by nobody; nothing else is touched.
    pub fn clean_leftovers(&self, files: &impl Files) -> Cleaned {
        let mut cleaned = Cleaned::default();
        for name in files.names(&self.root).unwrap_or_default() {
            let path = self.root.join(&name);
            // Held until it is removed: nobody else takes it meanwhile. Without locks nobody's life can be seen.
            let Some(_hold) = self.is_ours(files, &path, &name).then(|| hold_unreadable(files, &path).ok()).flatten()
            else {
                continue;
            };
            match files.remove(&path) {
                Ok(()) => cleaned.removed.push(name),
                Err(error) => cleaned.failed.push((name, error)),
            }
        }
        cleaned
    }

    /// Whether it was made by a worker with our key, of which we can see whether it lives.
    fn is_ours(&self, files: &impl Files, path: &Path, name: &OsStr) -> bool {
        if !matches!(files.kind(path), Ok(PathKind::OurDirectory)) {
            return false;
        }
        let is_ours = |mark: &str| {
            Mark::parse(mark)
                .is_some_and(|mark| mark.key == self.owner.key() && self.sees_the_life_of(files, path, &mark))
        };
        let hidden = name.to_str().and_then(|name| split_numbered(name.strip_prefix(HIDDEN)?));
        match hidden {
            Some((mark, _)) => is_ours(mark),
            None => files.mark(path).is_some_and(|mark| is_ours(&mark)),
        }
    }

    /// Whether nobody has the directory at `path` if nobody on this machine has: a worker under another boot is dead where no
    /// other machine can have the file system.
    fn sees_the_life_of(&self, files: &impl Files, path: &Path, mark: &Mark<'_>) -> bool {
        self.owner.is_of_this_boot(mark) || files.is_local(path)
    }

    /// Makes a directory with a hidden name and takes it, and says whether it could be marked. Makes the root too if need be.
    fn create_hidden(&self, files: &impl Files) -> Result<(PathBuf, bool, Hold), WorkspaceError> {
        loop {
            let path = self.hidden_path();
            let made = match files.make_private(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    files
                        .make_all(&self.root)
                        .map_err(|source| WorkspaceError::Create { path: self.root.clone(), source })?;
                    files.make_private(&path)
                }
                other => other,
            };
            match made {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(source) => return Err(WorkspaceError::Root { root: self.root.clone(), source }),
            }
            let hold = match take(files, &path) {
                // A worker with our key that starts has taken it for a leftover: it was nobody's for a moment.
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy) => continue,
                other => other,
            };
            let marked = hold.and_then(|hold| match self.mark(files, &path) {
                Ok(()) => Ok((true, hold)),
                Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok((false, hold)),
                Err(error) => Err(error),
            });
            return match marked {
                Ok((marked, hold)) => Ok((path, marked, hold)),
                Err(source) => {
                    let _ = files.remove_empty(&path);
                    Err(WorkspaceError::Root { root: self.root.clone(), source })
                }
            };
        }
    }

    /// Uses the directory that has the task's name already.
    fn take_existing(&self, files: &impl Files, path: PathBuf, name: Name) -> Result<Workspace, WorkspaceError> {
        match files.kind(&path) {
            Ok(PathKind::OurDirectory) => {}
            Ok(PathKind::OthersDirectory(uid)) => return Err(WorkspaceError::OtherUser { path, uid }),
            Ok(PathKind::Other) => return Err(WorkspaceError::NotADirectory(path)),
            Err(source) => return Err(WorkspaceError::Create { path, source }),
        }
        // From here on nobody else takes it; and who has it is not asked to share.
        let hold = match take(files, &path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return Err(WorkspaceError::InUse(path)),
            other => other.map_err(|source| WorkspaceError::Create { path: path.clone(), source })?,
        };
        let mark = files.mark(&path);
        let made_by = mark.as_deref().and_then(Mark::parse);
        if made_by.is_some_and(|mark| !self.sees_the_life_of(files, &path, &mark)) {
            return Err(WorkspaceError::MayBeInUse(path));
        }
        let is_a_workers = hold.is_disputed() && made_by.is_some()
            || mark.is_some_and(|mark| mark == self.owner.mark() || mark == kept(self.owner.key()));
        if !is_a_workers {
            return Ok(self.workspace(path, Origin::Foreign, Some(name), hold));
        }
        let taken = files.set_private(&path).and_then(|()| self.mark(files, &path));
        match taken {
            Ok(()) => Ok(self.workspace(path, Origin::Reused, Some(name), hold)),
            Err(source) => Err(WorkspaceError::Create { path, source }),
        }
    }

    fn mark(&self, files: &impl Files, path: &Path) -> io::Result<()> {
        files.set_mark(path, self.owner.mark())
    }

    /// A path for a directory without a task's name.
    fn hidden_path(&self) -> PathBuf {
        let number = self.hidden.fetch_add(1, Ordering::Relaxed);
        self.root.join(format!("{HIDDEN}{}.{number}", self.owner.mark()))
    }

    fn workspace(&self, path: PathBuf, origin: Origin, name: Option<Name>, hold: Hold) -> Workspace {
        Workspace { path, origin, key: self.owner.key().to_owned(), name, _hold: hold }
    }
}

impl Workspace {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Removes the directory and what is in it, unless it is [foreign](Origin::Foreign). Fast when it is empty.
    ///
    /// # Errors
    /// The first thing that could not be removed.
    pub fn remove(self, files: &impl Files) -> io::Result<()> {
        if self.origin == Origin::Foreign { Ok(()) } else { files.remove(&self.path) }
    }

    /// Takes its task's name from the directory, unless it is [foreign](Origin::Foreign): however long its removal takes, the
    /// task can run again. Where that cannot be done the name stays taken.
    pub fn set_aside(&mut self, files: &impl Files, workspaces: &Workspaces) {
        if self.origin == Origin::Foreign || self.name.is_none() {
            return;
        }
        let path = workspaces.hidden_path();
        if files.rename_new(&self.path, &path).is_ok() {
            self.path = path;
            self.name = None;
        }
    }

    /// Removes the directory if it is empty and not [foreign](Origin::Foreign), and says whether it did; never takes long.
    pub fn remove_if_empty(&self, files: &impl Files) -> bool {
        self.origin != Origin::Foreign && files.remove_empty(&self.path).is_ok()
    }

    /// Leaves the directory to the operator, so that no later start takes it for what a crash left behind.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn keep(self, files: &impl Files) -> io::Result<()> {
        if self.origin == Origin::Foreign || files.mark(&self.path).is_none() {
            return Ok(());
        }
        files.set_mark(&self.path, &kept(&self.key))
    }
}

/// Takes the directory at `path`; where there are no locks, nobody disputes it.
fn take(files: &impl Files, path: &Path) -> io::Result<Hold> {
    match files.hold(path) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(Hold::undisputed()),
        other => other,
    }
}

/// Takes one of our own directories, also when a task has left it unreadable.
fn hold_unreadable(files: &impl Files, path: &Path) -> io::Result<Hold> {
    match files.hold(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            files.set_private(path).and_then(|()| files.hold(path))
        }
        other => other,
    }
}

/// The mark of a directory that a worker made and the operator wanted kept: ours, but never stale.
fn kept(key: &str) -> String {
    format!("{key}.kept")
}

fn check_name(task_id: &str) -> Result<(), WorkspaceError> {
    let bytes = OsStr::new(task_id).as_bytes();
    Err(WorkspaceError::TaskId(match bytes {
        b"" => "it is empty",
        b"." | b".." => "it is `.` or `..`",
        _ if bytes.contains(&b'/') => "it contains `/`",
        _ if bytes.contains(&0) => "it contains a NUL byte",
        _ if bytes.len() > LONGEST_NAME => "it is longer than 255 bytes",
        _ => return Ok(()),
    }))
}

#[cfg(test)]
mod tests;
