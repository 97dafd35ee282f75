//! What became of a task: what was seen of its Job and its Pod, and when, comes in; its end goes out, or when to look again.
//!
//! Nothing here asks the cluster. Containers are found by their names, and an end needs proof: that something is absent never
//! means that it succeeded. What ends a task is in `ends`, what keeps it from starting in `starts`.

mod ends;
mod starts;
mod times;
mod words;

mod step;

use std::collections::BTreeSet;
use std::time::Duration;

use oz_worker_core::metrics::FailureReason;
use oz_worker_core::time::Instant;
use oz_worker_core::{Failure, Outcome};
use oz_worker_text::line::beginning;

use super::objects::{ContainerStatus, Event, Job, Pod};
use super::pulls::PullFault;
use super::template::TASK;
use starts::pull_fault;
use times::{Stopwatch, Wake};
use words::{LONGEST_TEXT, said};

/// How many warning events a failure repeats.
const MOST_EVENTS: usize = 3;
/// How often the cluster may be asked about a task. With the Job's creation, and its deletion or mark, these are the six requests
/// that one may take. What only adds to a text is left out beyond that; what keeps a wrong end from being told is not.
const MOST_READS: u8 = 4;

/// How long is waited for what may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub image_pull_grace: Duration,
    pub pod_start_timeout: Duration,
    /// Zero: for ever.
    pub unschedulable_timeout: Duration,
}

/// An object as it was seen last.
#[derive(Debug, Clone)]
struct Seen<T> {
    last: Option<T>,
    /// Since when it is gone.
    gone: Option<Instant>,
}

impl<T> Seen<T> {
    const NOTHING: Self = Self { last: None, gone: None };
}

/// When the cluster is asked for the events of an object. Each happens at most once for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Occasion {
    NoPodYet,
    NotStarted,
    Ending,
}

/// What is known of one task's Job and Pod.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub struct Verdict {
    limits: Limits,
    /// Since when the Job should get a Pod: since it was created, or is no longer suspended.
    wanted: Instant,
    job: Seen<Job>,
    pod: Seen<Pod>,
    /// How long no node could take the Pod, or no Pod could be made.
    unplaced: Stopwatch,
    /// Since when the Pod has a node.
    bound: Option<Instant>,
    /// Since when an image cannot be pulled, and why.
    pull: Option<(Instant, PullFault)>,
    /// Since when the Pod is known to be gone whose last state may still come: it was missing when the Pods were read.
    missing: Option<Instant>,
    /// Whether the Job was seen before it had ended: its Pod is shown by a watch since then.
    was_open: bool,
    /// Since when the Pod is being deleted.
    deleting: Option<Instant>,
    /// Whether the task's container was seen running in this Pod.
    ran: bool,
    /// Since when there is an end whose reason may follow.
    undecided: Option<Instant>,
    events: Vec<Event>,
    asked: BTreeSet<Occasion>,
    reads: u8,
    /// Whether the Pods were read since anything was seen: a watch may be behind, and nobody knows.
    is_fresh: bool,
    /// Whether the Job was read since anything was seen of its Pod: its watch may be behind too.
    is_job_fresh: bool,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    End(Ending),
    /// Ask for the events of the object with this UID, tell them, and look again.
    Ask(String),
    /// Read the Job's Pods, tell them, and look again.
    Look,
    /// Read the Job, tell it, and look again.
    LookAtJob,
    /// Look again when something was seen, and at this moment at the latest.
    Wait(Option<Instant>),
}

/// How a task ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ending {
    pub outcome: Outcome,
    /// What the operator should know all the same.
    pub warning: Option<String>,
    /// Whether something of it could still start: then its Job is to be deleted.
    pub gives_up: bool,
}

impl Verdict {
    /// Nothing is known yet of a Job that was created at `created`.
    pub const fn new(limits: Limits, created: Instant) -> Self {
        Self {
            limits,
            wanted: created,
            job: Seen::NOTHING,
            pod: Seen::NOTHING,
            unplaced: Stopwatch::NEW,
            bound: None,
            pull: None,
            missing: None,
            was_open: false,
            deleting: None,
            ran: false,
            undecided: None,
            events: Vec::new(),
            asked: BTreeSet::new(),
            reads: 0,
            is_fresh: false,
            is_job_fresh: false,
        }
    }

    /// The Job was seen.
    pub fn job(&mut self, now: Instant, job: Job) {
        if self.is_suspended() && !job.is_suspended() {
            self.wanted = now;
        }
        self.was_open |= !job.is_finished();
        self.job = Seen { last: Some(job), gone: None };
        self.is_fresh = false;
    }

    /// The Job is gone. Its last state, if it is known.
    pub fn job_gone(&mut self, now: Instant, job: Option<Job>) {
        self.job.last = job.or(self.job.last.take());
        self.job.gone.get_or_insert(now);
        self.is_fresh = false;
    }

    /// A Pod of the Job was seen.
    pub fn pod(&mut self, now: Instant, pod: Pod) {
        if self.pod.last.as_ref().is_some_and(|last| is_before(&pod, last)) {
            return;
        }
        if self.replaces(&pod) {
            self.forget_pod();
        } else if self.pod.last.as_ref().is_some_and(|last| last.metadata.uid != pod.metadata.uid) {
            return;
        }
        (self.is_fresh, self.is_job_fresh) = (false, false);
        self.note(now, pod);
    }

    /// The Pods were read. One that is not among them is gone, and what was seen of it last is not how it ended.
    pub fn looked(&mut self, now: Instant, pods: Vec<Pod>) {
        let known = self.pod.last.as_ref().map(|pod| pod.metadata.uid.clone());
        if known.is_some_and(|known| pods.iter().all(|pod| pod.metadata.uid != known)) {
            // Of one that its watch has told to be gone nothing more comes.
            if self.pod.gone.is_none() {
                self.pod.gone = Some(now);
                self.missing = Some(now);
            }
        } else if self.pod.last.is_none() && pods.is_empty() && self.was_open && self.failed_with_a_pod() {
            self.missing.get_or_insert(now);
        }
        let is_job_fresh = self.is_job_fresh;
        for pod in pods {
            self.pod(now, pod);
        }
        (self.is_fresh, self.is_job_fresh) = (true, is_job_fresh);
    }

    /// The Job was read, or could not be: then what is known has to do.
    pub fn looked_at_job(&mut self, now: Instant, job: Option<Job>) {
        let is_fresh = self.is_fresh;
        if let Some(job) = job {
            self.job(now, job);
        }
        (self.is_fresh, self.is_job_fresh) = (is_fresh, true);
    }

    /// A Pod of the Job is gone. Its last state, if it is known.
    pub fn pod_gone(&mut self, now: Instant, uid: &str, pod: Option<Pod>) {
        if self.pod.last.as_ref().is_some_and(|last| last.metadata.uid != uid) {
            return;
        }
        if let Some(pod) = pod {
            self.note(now, pod);
        }
        (self.is_fresh, self.is_job_fresh, self.missing) = (false, false, None);
        self.pod.gone.get_or_insert(now);
    }

    /// What the cluster says about the object that was asked about.
    pub fn events(&mut self, mut events: Vec<Event>) {
        events.sort_by(|one, other| one.moment().cmp(other.moment()));
        self.events = events;
    }

    fn note(&mut self, now: Instant, pod: Pod) {
        if pod.spec.node_name.is_some() {
            self.bound.get_or_insert(now);
        }
        if pod.metadata.deletion_timestamp.is_some() {
            self.deleting.get_or_insert(now);
        }
        self.ran |= pod.container(TASK).is_some_and(|task| task.state.running);
        let fault = pull_fault(&pod, self.pull.map(|(_, fault)| fault));
        self.pull = fault.map(|fault| (self.pull.map_or(now, |(since, _)| since), fault));
        self.pod.last = Some(pod);
    }

    /// Whether this Pod comes after the one that is known: a Job that was suspended makes another.
    fn replaces(&self, pod: &Pod) -> bool {
        self.pod.last.as_ref().is_some_and(|last| {
            last.metadata.uid != pod.metadata.uid
                && (self.pod.gone.is_some() || pod.metadata.creation_timestamp > last.metadata.creation_timestamp)
        })
    }

    fn forget_pod(&mut self) {
        (self.bound, self.pull, self.missing, self.deleting, self.undecided) = (None, None, None, None, None);
        self.ran = false;
        self.pod = Seen::NOTHING;
        self.events.clear();
    }

    /// Whether the Pod is on its way out, or gone.
    fn is_leaving(&self) -> bool {
        self.pod.gone.is_some() || self.deleting.is_some()
    }

    fn is_suspended(&self) -> bool {
        self.job.gone.is_none() && self.job.last.as_ref().is_some_and(Job::is_suspended)
    }

    /// Which node the task runs on, once it does.
    pub fn node(&self) -> Option<&str> {
        let pod = self.pod.last.as_ref()?;
        let state = &pod.container(TASK)?.state;
        if state.running || state.terminated.is_some() { pod.spec.node_name.as_deref() } else { None }
    }

    /// The Pod's name, if there is one to be asked about.
    pub fn pod_name(&self) -> Option<&str> {
        self.pod.last.as_ref().filter(|_| self.pod.gone.is_none()).map(|pod| pod.metadata.name.as_str())
    }

    /// How long the Job had taken when its task ended, in seconds of the cluster's clocks, if other containers go on: then
    /// nothing says when it ends.
    pub fn outlived(&self) -> Option<u64> {
        let (pod, job) = (self.pod.last.as_ref()?, self.job.last.as_ref()?);
        let ended = pod.container(TASK)?.state.terminated.as_ref()?;
        let goes_on = |container: &ContainerStatus| container.name != TASK && container.state.terminated.is_none();
        let is_left = !self.is_leaving() && pod.status.container_statuses.iter().any(goes_on);
        let moment = |text: Option<&String>| humantime::parse_rfc3339(text?).ok();
        let began = moment(job.status.start_time.as_ref()).filter(|_| is_left)?;
        Some(moment(ended.finished_at.as_ref())?.duration_since(began).unwrap_or_default().as_secs())
    }

    /// The Pod as it was seen last, if it is there.
    pub fn into_pod(self) -> Option<Pod> {
        self.pod.last.filter(|_| self.pod.gone.is_none())
    }

    /// What to do next, now that it is `now`.
    pub fn look(&mut self, now: Instant) -> Next {
        let next = self.next(now);
        if matches!(next, Next::Ask(_) | Next::Look | Next::LookAtJob) {
            self.reads = self.reads.saturating_add(1);
        }
        next
    }

    /// Whether one more question is worth it that only adds to a text.
    pub const fn has_reads_left(&self) -> bool {
        self.reads < MOST_READS
    }

    fn next(&mut self, now: Instant) -> Next {
        let mut wake = Wake::NEVER;
        if self.is_suspended() && self.is_leaving() {
            // Its Job will make another one.
            let result = self.result(now, &mut wake);
            if self.pod.gone.is_some() {
                self.forget_pod();
            }
            return result.unwrap_or(Next::Wait(wake.at()));
        }
        let next = self
            .result(now, &mut wake)
            .or_else(|| self.disruption(now, &mut wake))
            .or_else(|| self.failed_pod())
            .or_else(|| self.deletion(now, &mut wake))
            .or_else(|| self.jobs_word(now, &mut wake))
            .or_else(|| self.beginning(now, &mut wake));
        next.unwrap_or(Next::Wait(wake.at()))
    }

    /// How the task ended by itself, if it did: its container has, and nobody was taking the Pod away. To be asked once the
    /// Pods were read for it.
    pub fn own_end(&mut self, now: Instant) -> Option<Ending> {
        self.reads = self.reads.saturating_add(1);
        if self.is_leaving() {
            return None;
        }
        let mut wake = Wake::NEVER;
        match self.result(now, &mut wake)? {
            Next::End(ending) => Some(ending),
            _ => None,
        }
    }

    /// What keeps it from beginning; nothing does once its Pod is gone, or its Job is gone or has finished.
    fn beginning(&mut self, now: Instant, wake: &mut Wake) -> Option<Next> {
        let is_over = self.job.last.as_ref().is_some_and(Job::is_finished);
        if is_over || self.pod.gone.is_some() || self.job.gone.is_some() {
            return None;
        }
        self.image(now, wake).or_else(|| self.placement(now, wake)).or_else(|| self.start(now, wake))
    }

    /// A failure without an exit code, with what the cluster says about it last. Asks for that first.
    fn fail(&mut self, reason: FailureReason, message: &str, gives_up: bool) -> Next {
        if gives_up && let Some(look) = self.look_first() {
            return look;
        }
        if gives_up && self.has_no_pod() {
            // Whether there was one and is no more only the Job says. Its events were asked for by now.
            if let Some(look) = self.look_at_job_first() {
                return look;
            }
        } else if let Some(ask) = self.ask(Occasion::Ending) {
            return ask;
        }
        let warnings = self.events.iter().filter(|event| event.is_warning() && !message.contains(&event.message));
        let mut last: Vec<String> =
            warnings.rev().take(MOST_EVENTS).map(|event| said(&event.reason, &event.message)).collect();
        last.reverse();
        let events = if last.is_empty() { String::new() } else { format!("; last events: {}", last.join(" | ")) };
        let message = format!("{}: {}{events}", self.place(), beginning(message, LONGEST_TEXT));
        Next::End(Ending { outcome: Outcome::Failed(Failure::new(reason, message)), warning: None, gives_up })
    }

    /// Whether its Job is there, and no Pod was ever seen.
    const fn has_no_pod(&self) -> bool {
        self.pod.last.is_none() && self.job.gone.is_none()
    }

    /// To be done before an end that only hangs on what was not seen.
    fn look_first(&self) -> Option<Next> {
        (!self.is_fresh && self.job.gone.is_none()).then_some(Next::Look)
    }

    /// To be done before the end of a Pod that was taken away is told without a reason: the Job may know it.
    fn look_at_job_first(&self) -> Option<Next> {
        (!self.is_job_fresh && self.job.gone.is_none()).then_some(Next::LookAtJob)
    }

    fn ask(&mut self, occasion: Occasion) -> Option<Next> {
        if occasion == Occasion::Ending && !self.has_reads_left() {
            return None;
        }
        let job = || self.job.last.as_ref().map(|job| &job.metadata.uid);
        let uid = self.pod.last.as_ref().map(|pod| &pod.metadata.uid).or_else(job)?.clone();
        self.asked.insert(occasion).then_some(Next::Ask(uid))
    }

    /// What a failure's text begins with.
    fn place(&self) -> String {
        match &self.pod.last {
            Some(pod) => format!("Pod {} ({})", pod.metadata.name, pod.status.phase),
            None => "no Pod".to_owned(),
        }
    }
}

/// Whether a watch that is behind shows a Pod as it was before it was read. Versions of one kind can be compared: they are numbers
/// that grow (KEP-5504, and all API servers before it).
fn is_before(pod: &Pod, last: &Pod) -> bool {
    let version = |pod: &Pod| pod.metadata.resource_version.parse::<u64>().ok();
    pod.metadata.uid == last.metadata.uid
        && version(pod).zip(version(last)).is_some_and(|(version, last)| version < last)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::needless_pass_by_value)]
mod tests;
