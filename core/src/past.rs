//! What the records of an earlier process say about its tasks.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::outbox::Entry;
use crate::record::Record;

/// What is known of an earlier process, each list in the order in which things happened.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// The tasks that were claimed and have no end.
    pub(crate) unended: Vec<Unended>,
    /// The ends that the server is not known to have.
    pub(crate) ends: VecDeque<Ended>,
    /// The ends that the server has.
    pub(crate) told: Vec<Entry>,
    /// The tasks that a remote runtime has, and their executions.
    pub(crate) dispatched: Vec<(String, Option<String>)>,
}

/// A task that was claimed and has no end.
#[derive(Debug)]
pub(crate) struct Unended {
    pub(crate) task_id: String,
    pub(crate) execution_id: Option<String>,
    /// How long ago it was claimed.
    pub(crate) age: Duration,
    pub(crate) is_cancelled: bool,
    pub(crate) is_dispatching: bool,
}

/// A task that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// How long ago.
    pub(crate) age: Duration,
    /// Whether it was claimed: what could not be understood was answered without.
    pub(crate) is_claimed: bool,
    pub(crate) end: Entry,
}

impl Past {
    /// Reads records in the order in which they were written, each with its age. A record that does not fit to those before
    /// it is no reason to stop: the file may have lost its beginning.
    pub(crate) fn read(records: impl IntoIterator<Item = (Duration, Record)>) -> Self {
        let mut past = Self::default();
        for (age, record) in records {
            past.add(age, record);
        }
        past
    }

    fn add(&mut self, age: Duration, record: Record) {
        match record {
            Record::Claimed { task_id, execution_id } => {
                self.take_unended(&task_id);
                let (is_cancelled, is_dispatching) = (false, false);
                self.unended.push(Unended { task_id, execution_id, age, is_cancelled, is_dispatching });
            }
            Record::Dispatching { task_id } => {
                self.with_unended(&task_id, |task| task.is_dispatching = true);
            }
            Record::CancelAsked { task_id } => self.with_unended(&task_id, |task| task.is_cancelled = true),
            Record::Finished { task_id, execution_id, message } => {
                let is_claimed = self.take_unended(&task_id);
                let end = Entry::end(task_id, execution_id, message);
                self.ends.push_back(Ended { age, is_claimed, end });
            }
            Record::Dispatched { task_id, execution_id } => {
                self.take_unended(&task_id);
                self.dispatched.push((task_id, execution_id));
            }
            Record::Told { task_id, execution_id } => {
                let is_it = |ended: &Ended| ended.end.task_id == task_id && ended.end.execution_id == execution_id;
                let told = self.ends.iter().position(is_it).and_then(|place| self.ends.remove(place));
                self.told.extend(told.map(|ended| ended.end));
            }
            Record::Forgotten { task_id } => self.ends.retain(|ended| ended.end.task_id != task_id),
        }
    }

    fn with_unended(&mut self, task_id: &str, change: impl FnOnce(&mut Unended)) {
        if let Some(task) = self.unended.iter_mut().find(|task| task.task_id == task_id) {
            change(task);
        }
    }

    /// Lets a task go; gives whether there was one.
    fn take_unended(&mut self, task_id: &str) -> bool {
        let place = self.unended.iter().position(|task| task.task_id == task_id);
        place.map(|place| self.unended.remove(place)).is_some()
    }
}
