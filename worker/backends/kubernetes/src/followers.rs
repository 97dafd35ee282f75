//! Who follows which Job, and what was seen of Jobs that nobody follows yet: a watch may know of a Job before whoever
//! created it has the answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};

use oz_worker_contract::Latch;

use super::names::{INSTANCE, OWN};
use super::objects::{Job, Pod};

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
    /// The names of the Jobs that are being created, with the UIDs that were seen under each. Locked after `all`.
    expected: Mutex<BTreeMap<String, Vec<String>>>,
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
    /// Whether the Job is gone, and somebody is still to hear that or heard it.
    is_gone: bool,
}

/// A Job that is being created. What becomes of it is kept until this is dropped, also when it is gone before anybody follows it:
/// the answer to its creation may be lost.
pub struct Expected {
    followers: Arc<Followers>,
    name: String,
}

impl Expected {
    /// The Job as it was seen last that this process has created, there or gone, if nobody follows it.
    pub fn seen(&self, instance: &str) -> Option<Job> {
        let all = self.followers.all();
        let expected = self.followers.expected();
        let mut jobs = expected.get(&self.name)?.iter().filter_map(|uid| all.get(uid)?.job.as_deref());
        jobs.find(|job| job.annotation(INSTANCE) == instance).cloned()
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut all = self.followers.all();
        for uid in self.followers.expected().remove(&self.name).into_iter().flatten() {
            if all.get(&uid).is_some_and(|entry| entry.is_gone && entry.follower.is_none()) {
                all.remove(&uid);
            }
        }
    }
}

impl Followers {
    /// Keeps what becomes of the Job of this name from now on.
    pub fn expect(self: &Arc<Self>, name: &str) -> Expected {
        self.expected().insert(name.to_owned(), Vec::new());
        Expected { followers: Arc::clone(self), name: name.to_owned() }
    }

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
        if entry.is_gone {
            let _ = sender.unbounded_send(Sighting::JobGone(None));
        }
        (entry.follower, entry.is_done) = (Some(sender), false);
        receiver
    }

    /// Whoever followed a Job is done with it.
    pub fn leave(&self, uid: &str) {
        let mut all = self.all();
        match all.get_mut(uid) {
            Some(entry) if entry.is_seen && !entry.is_gone => {
                *entry = Entry { is_done: true, is_seen: true, ..Entry::default() }
            }
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
        let all = self.all();
        let there = all.values().filter(|entry| !entry.is_gone).filter_map(|entry| entry.job.as_deref());
        there.filter(|job| is_it(job)).cloned().collect()
    }

    pub fn job_seen(&self, mut job: Job) {
        job.metadata.annotations.retain(|name, _| name.starts_with(OWN));
        job.metadata.labels.clear();
        let job = Box::new(job);
        let mut all = self.all();
        if let Some(uids) = self.expected().get_mut(&job.metadata.name)
            && !uids.contains(&job.metadata.uid)
        {
            uids.push(job.metadata.uid.clone());
        }
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
        let Some(entry) = all.get_mut(uid) else { return };
        let is_expected =
            |job: &Job| self.expected().get(&job.metadata.name).is_some_and(|uids| uids.contains(&job.metadata.uid));
        if let Some(follower) = &entry.follower {
            entry.is_gone = true;
            let _ = follower.unbounded_send(Sighting::JobGone(last.map(Box::new)));
        } else if entry.job.as_deref().is_some_and(is_expected) {
            entry.is_gone = true;
        } else {
            all.remove(uid);
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

    fn expected(&self) -> MutexGuard<'_, BTreeMap<String, Vec<String>>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Metadata;

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
    fn a_job_that_is_gone_before_its_creation_was_answered_is_kept_as_long_as_that_is_under_way() {
        let followers = Arc::new(Followers::default());
        let named = |uid: &str, instance: &str| {
            let annotations = [(INSTANCE.to_owned(), instance.to_owned())].into();
            let metadata = Metadata { uid: uid.into(), name: "n".into(), annotations, ..Metadata::default() };
            Job { metadata, ..Job::default() }
        };
        for is_followed in [false, true] {
            let expected = followers.expect("n");
            assert!(expected.seen("us").is_none());
            followers.job_seen(named("j", "us"));
            followers.job_seen(named("k", "others"));
            followers.pod_seen("j", Pod::default());
            followers.job_gone("j", None);
            followers.job_gone("k", None);
            assert_eq!(expected.seen("us").map(|job| job.metadata.uid), Some("j".to_owned()));
            assert!(followers.unfollowed(|_| true).is_empty(), "what is gone is not to be taken up");
            if is_followed {
                let mut receiver = followers.follow("j");
                assert_eq!(told(&mut receiver), "job pod job-gone ");
                assert!(expected.seen("us").is_none());
            }
            drop(expected);
            followers.leave("j");
            assert!(followers.all().is_empty() && followers.expected().is_empty());
        }
        followers.job_seen(named("j", "us"));
        followers.job_gone("j", None);
        assert!(followers.all().is_empty(), "nobody creates it");
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
