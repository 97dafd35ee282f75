//! Who follows which Job, and what was seen of Jobs that nobody follows yet: a watch may know of a Job before whoever
//! created it has the answer.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};

use super::names::OWN;
use super::objects::{Job, Pod};
use crate::contract::Latch;

/// What was seen of a Job.
#[derive(Debug, Clone)]
pub enum Sighting {
    Job(Box<Job>),
    JobGone(Option<Box<Job>>),
    Pod(Box<Pod>),
    PodGone(String, Option<Box<Pod>>),
    /// Nothing can be seen any more, for this reason.
    Blind(String),
}

/// The Jobs of a worker, by UID.
#[derive(Default)]
pub struct Followers {
    all: Mutex<BTreeMap<String, Entry>>,
    /// Set once all Jobs were listed, and once all Pods were.
    listed: [Latch; 2],
}

#[derive(Debug, Default)]
struct Entry {
    follower: Option<UnboundedSender<Sighting>>,
    /// What was seen and nobody was told.
    job: Option<Box<Job>>,
    pod: Option<Box<Pod>>,
    /// A Pod that was there and is gone: its UID, and its last state.
    gone: Option<(String, Option<Box<Pod>>)>,
    /// Whether whoever followed it is done with it: nothing of it is kept any more.
    is_done: bool,
    /// Whether it was seen at all, and how many lists since it is followed did not have it.
    is_seen: bool,
    missed: u8,
}

impl Followers {
    /// Follows a Job; what is known of it is told at once.
    pub fn follow(&self, uid: &str) -> UnboundedReceiver<Sighting> {
        let (sender, receiver) = unbounded();
        let mut all = self.all();
        let entry = all.entry(uid.to_owned()).or_default();
        if let Some(job) = entry.job.take() {
            let _ = sender.unbounded_send(Sighting::Job(job));
        }
        if let Some(pod) = entry.pod.take() {
            let _ = sender.unbounded_send(Sighting::Pod(pod));
        }
        if let Some((uid, last)) = entry.gone.take() {
            let _ = sender.unbounded_send(Sighting::PodGone(uid, last));
        }
        (entry.follower, entry.is_done) = (Some(sender), false);
        receiver
    }

    /// Whoever followed a Job is done with it.
    pub fn leave(&self, uid: &str) {
        let mut all = self.all();
        match all.get_mut(uid) {
            Some(entry) if entry.is_seen => *entry = Entry { is_done: true, is_seen: true, ..Entry::default() },
            Some(_) => drop(all.remove(uid)),
            None => {}
        }
    }

    /// Whoever followed a Job is done with it, and it has not ended.
    pub fn let_go(&self, job: Box<Job>, pod: Option<Pod>) {
        let uid = job.metadata.uid.clone();
        if let Some(entry) = self.all().get_mut(&uid) {
            *entry = Entry { job: Some(job), pod: pod.map(Box::new), is_seen: true, ..Entry::default() };
        }
    }

    /// Whether somebody followed this Job to its end.
    pub fn is_done(&self, uid: &str) -> bool {
        self.all().get(uid).is_some_and(|entry| entry.is_done)
    }

    /// The Jobs that nobody follows or has followed, of this kind.
    pub fn unfollowed(&self, is_it: impl Fn(&Job) -> bool) -> Vec<Job> {
        self.all().values().filter_map(|entry| entry.job.as_deref()).filter(|job| is_it(job)).cloned().collect()
    }

    pub fn job_seen(&self, mut job: Job) {
        job.metadata.annotations.retain(|name, _| name.starts_with(OWN));
        job.metadata.labels.clear();
        let job = Box::new(job);
        let mut all = self.all();
        let entry = all.entry(job.metadata.uid.clone()).or_default();
        entry.is_seen = true;
        if let Some(follower) = &entry.follower {
            let _ = follower.unbounded_send(Sighting::Job(job));
        } else if !entry.is_done {
            entry.job = Some(job).filter(|job| !job.is_told());
        }
    }

    pub fn job_gone(&self, uid: &str, last: Option<Job>) {
        let mut all = self.all();
        match all.get(uid).and_then(|entry| entry.follower.as_ref()) {
            Some(follower) => drop(follower.unbounded_send(Sighting::JobGone(last.map(Box::new)))),
            None => drop(all.remove(uid)),
        }
    }

    pub fn pod_seen(&self, of: &str, mut pod: Pod) {
        pod.metadata.annotations.clear();
        pod.metadata.labels.clear();
        let pod = Box::new(pod);
        let mut all = self.all();
        // A Pod may be seen before its Job.
        let entry = all.entry(of.to_owned()).or_default();
        if let Some(follower) = &entry.follower {
            let _ = follower.unbounded_send(Sighting::Pod(pod));
        } else if !entry.is_done {
            (entry.pod, entry.gone) = (Some(pod), None);
        }
    }

    pub fn pod_gone(&self, of: &str, uid: &str, last: Option<Pod>) {
        let mut all = self.all();
        let Some(entry) = all.get_mut(of) else { return };
        match &entry.follower {
            Some(follower) => drop(follower.unbounded_send(Sighting::PodGone(uid.to_owned(), last.map(Box::new)))),
            // How it was last may be how the task ended: whoever has made its Job may not know of that yet.
            None if entry.is_seen && !entry.is_done => entry.gone = Some((uid.to_owned(), last.map(Box::new))),
            None if entry.is_seen => {}
            None => drop(all.remove(of)),
        }
    }

    /// All Jobs were listed. One that was missing twice since it is followed is gone, though it was never seen: the first
    /// list may have begun before it was created.
    pub fn jobs_listed(&self) {
        for entry in self.all().values_mut().filter(|entry| !entry.is_seen) {
            entry.missed += 1;
            if let Some(follower) = entry.follower.as_ref().filter(|_| entry.missed == 2) {
                let _ = follower.unbounded_send(Sighting::JobGone(None));
            }
        }
        self.listed[0].set();
    }

    pub fn pods_listed(&self) {
        self.listed[1].set();
    }

    /// Ends when everything that there was has been seen.
    pub async fn listed(&self) {
        for listed in &self.listed {
            listed.wait().await;
        }
    }

    /// Tells everybody that nothing can be seen any more.
    pub fn blind(&self, why: &str) {
        for follower in self.all().values().filter_map(|entry| entry.follower.as_ref()) {
            let _ = follower.unbounded_send(Sighting::Blind(why.to_owned()));
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::objects::Metadata;

    fn job(uid: &str) -> Job {
        Job { metadata: Metadata { uid: uid.into(), ..Metadata::default() }, ..Job::default() }
    }

    fn told(receiver: &mut UnboundedReceiver<Sighting>) -> String {
        let next = || receiver.try_recv().ok();
        let name = |sighting| match sighting {
            Sighting::Job(_) => "job ",
            Sighting::JobGone(_) => "job-gone ",
            Sighting::Pod(_) => "pod ",
            Sighting::PodGone(..) => "pod-gone ",
            Sighting::Blind(_) => "blind ",
        };
        std::iter::from_fn(next).map(name).collect()
    }

    #[test]
    fn what_was_seen_before_is_told_and_nothing_is_kept_of_what_is_done() {
        let followers = Followers::default();
        followers.pod_seen("j", Pod::default());
        followers.job_seen(job("j"));
        let mut receiver = followers.follow("j");
        followers.pod_gone("j", "p", None);
        assert_eq!(told(&mut receiver), "job pod pod-gone ");
        assert!(!followers.is_done("j"));
        followers.leave("j");
        assert!(followers.is_done("j"));
        followers.job_seen(job("j"));
        followers.pod_seen("j", Pod::default());
        assert!(followers.all().values().all(|entry| entry.job.is_none() && entry.pod.is_none()));
        followers.job_gone("j", None);
        assert!(followers.all().is_empty());
    }

    #[test]
    fn what_is_let_go_can_be_followed_again() {
        let followers = Followers::default();
        followers.job_seen(job("j"));
        drop(followers.follow("j"));
        followers.leave("j");
        assert!(followers.unfollowed(|_| true).is_empty());
        followers.let_go(Box::new(job("j")), Some(Pod::default()));
        assert_eq!(followers.unfollowed(|_| true).len(), 1);
        assert_eq!(told(&mut followers.follow("j")), "job pod ");
    }

    #[test]
    fn a_pod_that_came_and_went_before_anybody_followed_its_job_is_told() {
        let followers = Followers::default();
        followers.job_seen(job("j"));
        followers.pod_seen("j", Pod::default());
        followers.pod_gone("j", "p", Some(Pod::default()));
        assert_eq!(told(&mut followers.follow("j")), "job pod pod-gone ");
    }

    #[test]
    fn a_job_that_no_list_has_is_gone() {
        let followers = Followers::default();
        let mut receiver = followers.follow("j");
        followers.jobs_listed();
        assert_eq!(told(&mut receiver), "");
        followers.jobs_listed();
        followers.jobs_listed();
        assert_eq!(told(&mut receiver), "job-gone ");
    }
}
