//! Which Jobs this worker has: what identifies one, and what is kept of those that were taken up or whose end is not proven.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use oz_worker_contract::Report;
use oz_worker_contract::ends::Key;

use super::objects::Job;

/// A Job that was created, or taken for one that was, or taken up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    pub name: String,
    pub uid: String,
    /// Which process followed it before this one did.
    pub before: Option<String>,
}

impl Created {
    pub fn of(job: &Job) -> Self {
        Self { name: job.metadata.name.clone(), uid: job.metadata.uid.clone(), before: None }
    }
}

/// A Job whose task has ended, and what becomes of it once the server has heard that.
pub struct Ended {
    pub created: Created,
    /// Whether it is deleted then; otherwise it is marked.
    pub goes: bool,
    /// How long a Job that is marked may take as a whole, in seconds. None: it ends by itself.
    pub deadline: Option<u64>,
    /// Who hears when that fails.
    pub report: Option<Report>,
}

/// What is kept of Jobs that nobody follows at the moment.
#[derive(Default)]
pub struct Held {
    /// Those that were taken up and are to be resumed.
    taken: Mutex<BTreeMap<Key, Created>>,
    /// The UIDs of those that may have been taken up, since an answer was lost: nobody follows them.
    unsure: Mutex<BTreeSet<String>>,
    ended: Mutex<BTreeMap<Key, Ended>>,
}

impl Held {
    pub fn take_up(&self, key: Key, created: Created) {
        lock(&self.taken).insert(key, created);
    }

    /// An answer was lost that would have said whether it was taken up.
    pub fn doubt(&self, uid: &str) {
        lock(&self.unsure).insert(uid.to_owned());
    }

    pub fn is_unsure(&self, uid: &str) -> bool {
        lock(&self.unsure).contains(uid)
    }

    /// It is known now.
    pub fn doubt_no_more(&self, uid: &str) {
        lock(&self.unsure).remove(uid);
    }

    pub fn is_taken_up(&self, uid: &str) -> bool {
        lock(&self.taken).values().any(|created| created.uid == uid)
    }

    pub fn resumed(&self, key: &Key) -> Option<Created> {
        lock(&self.taken).remove(key)
    }

    pub fn end(&self, key: Key, ended: Ended) {
        lock(&self.ended).insert(key, ended);
    }

    pub fn settled(&self, key: &Key) -> Option<Ended> {
        lock(&self.ended).remove(key)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
