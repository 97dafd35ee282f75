//! What became of a task: what was seen of its Job and its Pod, and when, comes in; its end goes out, or when to look again.
//!
//! Nothing here asks the cluster. Containers are found by their names, and an end needs proof: that something is absent never
//! means that it succeeded.

use std::collections::BTreeSet;
use std::time::Duration;

use oz_worker_core::metrics::FailureReason;
use oz_worker_core::time::Instant;
use oz_worker_core::{Failure, Outcome};
use oz_worker_text::duration;
use oz_worker_text::line::beginning;

use super::objects::{ContainerStatus, Event, Job, Pod, Terminated};
use super::pulls::{self, PullFault};
use super::template::TASK;

/// How long what does not exist may still come: an image, a Secret, a claim. Kubelets try again after 7.5 and 15.5 s.
const MISSING_GRACE: Duration = Duration::from_secs(18);
/// After how long without a Pod the cluster is asked why.
const NO_POD_YET: Duration = Duration::from_secs(3);
/// How long the reason of an end may come after the end itself: Jobs and Pods are watched apart.
const REASON_DELAY: Duration = Duration::from_secs(2);
/// The same for the Pod's last state, which says more than the Job's.
const STATE_DELAY: Duration = Duration::from_secs(5);
/// How long a Pod may take beyond its grace period until its node is taken for lost.
const LOST_AFTER: Duration = Duration::from_secs(10);
/// The grace period of a Pod that names none (Kubernetes' default), and the longest that is waited for.
const GRACE: [u32; 2] = [30, 3600];
/// The exit code of what was asked to stop: 128 and SIGTERM's number.
const STOPPED: i32 = 143;
/// How many warning events a failure repeats, and how many characters of any of the cluster's texts.
const MOST_EVENTS: usize = 3;
const LONGEST_TEXT: usize = 500;

/// Why a Pod failed that its node or the cluster wanted gone, where no condition says so (`status.reason`).
const EVICTIONS: [&str; 8] =
    ["Evicted", "Preempting", "Preempted", "NodeShutdown", "Shutdown", "Terminated", "NodeLost", "NodeAffinityChanged"];
/// What is said of a Pod once its volumes are there.
const PAST_VOLUMES: [&str; 4] = ["Pulling", "Pulled", "Created", "Started"];
/// What is said of a volume that is not there.
const OF_VOLUMES: [&str; 4] = ["FailedMount", "FailedAttachVolume", "FailedMapVolume", "VolumeBindingFailed"];
/// What an autoscaler at work says.
const OF_AUTOSCALERS: [&str; 3] = ["TriggeredScaleUp", "Nominated", "TriggeredScale"];

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
    /// Since when the Pod is being deleted.
    deleting: Option<Instant>,
    /// Since when there is an end whose reason may follow.
    undecided: Option<Instant>,
    events: Vec<Event>,
    asked: BTreeSet<Occasion>,
    /// Whether the Pods were read since anything was seen: a watch may be behind, and nobody knows.
    is_fresh: bool,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    End(Ending),
    /// Ask for the events of the object with this UID, tell them, and look again.
    Ask(String),
    /// Read the Job's Pods, tell them, and look again.
    Look,
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

/// Measures a time that stands still now and then.
#[derive(Debug, Default)]
struct Stopwatch {
    measured: Duration,
    since: Option<Instant>,
}

impl Stopwatch {
    fn run(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    fn pause(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.measured += now.since(since);
        }
    }

    /// When it will have measured `limit`, if it runs.
    fn reaches(&self, limit: Duration) -> Option<Instant> {
        self.since.map(|since| since.plus(limit.saturating_sub(self.measured)))
    }
}

/// The earliest of some moments.
struct Wake(Option<Instant>);

impl Wake {
    /// Whether `at` has come; otherwise it is waited for.
    fn is_due(&mut self, at: Instant, now: Instant) -> bool {
        if at <= now {
            return true;
        }
        self.0 = Some(self.0.map_or(at, |before| before.min(at)));
        false
    }
}

impl Verdict {
    /// Nothing is known yet of a Job that was created at `created`.
    pub const fn new(limits: Limits, created: Instant) -> Self {
        Self {
            limits,
            wanted: created,
            job: Seen::NOTHING,
            pod: Seen::NOTHING,
            unplaced: Stopwatch { measured: Duration::ZERO, since: None },
            bound: None,
            pull: None,
            deleting: None,
            undecided: None,
            events: Vec::new(),
            asked: BTreeSet::new(),
            is_fresh: false,
        }
    }

    /// The Job was seen.
    pub fn job(&mut self, now: Instant, job: Job) {
        if self.is_suspended() && !job.is_suspended() {
            self.wanted = now;
        }
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
        if self.replaces(&pod) {
            self.forget_pod();
        } else if self.pod.last.as_ref().is_some_and(|last| last.metadata.uid != pod.metadata.uid) {
            return;
        }
        self.is_fresh = false;
        self.note(now, pod);
    }

    /// The Pods were read, as far as they could be.
    pub fn looked(&mut self, now: Instant, pods: Vec<Pod>) {
        for pod in pods {
            self.pod(now, pod);
        }
        self.is_fresh = true;
    }

    /// A Pod of the Job is gone. Its last state, if it is known.
    pub fn pod_gone(&mut self, now: Instant, uid: &str, pod: Option<Pod>) {
        if self.pod.last.as_ref().is_some_and(|last| last.metadata.uid != uid) {
            return;
        }
        if let Some(pod) = pod {
            self.note(now, pod);
        }
        self.is_fresh = false;
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
        (self.bound, self.pull, self.deleting, self.undecided) = (None, None, None, None);
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

    /// What to do next, now that it is `now`.
    pub fn look(&mut self, now: Instant) -> Next {
        let mut wake = Wake(None);
        if self.is_suspended() && self.is_leaving() {
            // Its Job will make another one.
            let result = self.result(now, &mut wake);
            if self.pod.gone.is_some() {
                self.forget_pod();
            }
            return result.unwrap_or(Next::Wait(wake.0));
        }
        let next = self
            .result(now, &mut wake)
            .or_else(|| self.disruption(now, &mut wake))
            .or_else(|| self.failed_pod())
            .or_else(|| self.deletion(now, &mut wake))
            .or_else(|| self.jobs_word(now, &mut wake))
            .or_else(|| self.image(now, &mut wake))
            .or_else(|| self.placement(now, &mut wake))
            .or_else(|| self.start(now, &mut wake));
        next.unwrap_or(Next::Wait(wake.0))
    }

    /// A container ended that decides: the task's, or one before it that failed.
    fn result(&mut self, now: Instant, wake: &mut Wake) -> Option<Next> {
        let pod = self.pod.last.as_ref()?;
        if let Some((task, ended)) = pod.container(TASK).and_then(|task| Some((task, task.state.terminated.as_ref()?)))
        {
            let is_oom = is_oom(task);
            if ended.exit_code == 0 {
                let warning =
                    is_oom.then(|| "something in the task's container was killed for lack of memory".to_owned());
                return Some(completed(warning));
            }
            let reason = if is_oom { FailureReason::ContainerOom } else { FailureReason::ContainerExit };
            let message = format!("the task's container {}", exited(ended));
            return Some(self.failed_container(now, wake, &ended.clone(), reason, &message));
        }
        if pod.status.phase == "Succeeded" {
            return Some(completed(None));
        }
        let mut init = pod.status.init_container_statuses.iter().filter(|init| !pod.is_native_sidecar(&init.name));
        let (name, ended) = init.find_map(|init| {
            Some((&init.name, init.state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?))
        })?;
        let message = format!("init container {} {}", beginning(name, LONGEST_TEXT), exited(ended));
        Some(self.failed_container(now, wake, &ended.clone(), FailureReason::InitContainer, &message))
    }

    /// A container failed: by itself, or since somebody wanted it gone?
    fn failed_container(
        &mut self,
        now: Instant,
        wake: &mut Wake,
        ended: &Terminated,
        reason: FailureReason,
        message: &str,
    ) -> Next {
        let before = |moment: Option<&str>| {
            ended.finished_at.as_deref().is_some_and(|at| moment.is_some_and(|moment| at < moment))
        };
        if let Some((_, since)) = self.deadline()
            && !before(since.as_deref())
        {
            return self.deadline_passed();
        }
        if let Some((why, since)) = self.disrupted()
            && !before(since.as_deref())
        {
            return self.evicted(&why);
        }
        if self.is_leaving() {
            if self.is_suspended() {
                return Next::Wait(None);
            }
            let is_explained = self.job.gone.is_some() || self.job_failed().is_some();
            let until = self.undecided.get_or_insert(now).plus(REASON_DELAY);
            if !is_explained && !wake.is_due(until, now) {
                return Next::Wait(wake.0);
            }
        }
        let failure = Failure { reason, exit_code: ended.exit_code, message: format!("{}: {message}", self.place()) };
        Next::End(Ending { outcome: Outcome::Failed(failure), warning: None, gives_up: false })
    }

    /// The cluster takes the Pod away.
    fn disruption(&mut self, now: Instant, wake: &mut Wake) -> Option<Next> {
        let (why, _) = self.disrupted()?;
        let pod = self.pod.last.as_ref()?;
        if pod.status.phase == "Failed" || self.pod.gone.is_some() || self.is_lost(now, wake) {
            return Some(self.evicted(&why));
        }
        None
    }

    /// Whether the Pod should be gone for so long that its node must be lost.
    fn is_lost(&self, now: Instant, wake: &mut Wake) -> bool {
        let since = [self.deleting, self.job.gone].into_iter().flatten().min();
        let [usual, longest] = GRACE;
        let grace = self.pod.last.as_ref().and_then(|pod| pod.metadata.deletion_grace_period_seconds);
        let grace = Duration::from_secs(grace.unwrap_or(usual).min(longest).into());
        since.is_some_and(|since| wake.is_due(since.plus(grace + LOST_AFTER), now))
    }

    /// The Pod failed as a whole: a kubelet refused it, or ended it for a reason of its own.
    fn failed_pod(&mut self) -> Option<Next> {
        let pod = self.pod.last.as_ref().filter(|pod| pod.status.phase == "Failed")?;
        if pod.status.reason == "DeadlineExceeded" || self.deadline().is_some() {
            return Some(self.deadline_passed());
        }
        if self.is_leaving() && pod.status.reason.is_empty() {
            // So a kubelet ends one that somebody deleted before it ran.
            return None;
        }
        let message = said(&pod.status.reason, &pod.status.message);
        Some(self.fail(FailureReason::JobFailed, &message, false))
    }

    /// Somebody deleted the Job or the Pod.
    fn deletion(&mut self, now: Instant, wake: &mut Wake) -> Option<Next> {
        if !self.is_leaving() && self.job.gone.is_none() {
            return None;
        }
        if self.deadline().is_some() {
            return Some(self.deadline_passed());
        }
        let what = if self.job.gone.is_some() { "Job" } else { "Pod" };
        let is_pod_there = self.pod.last.is_some() && self.pod.gone.is_none();
        if is_pod_there {
            // It is on its way out, and its last state says how the task ended.
            if !self.is_lost(now, wake) {
                return None;
            }
        } else {
            let is_explained = self.pod.last.is_some() && (self.job.gone.is_some() || self.job_failed().is_some());
            let until = self.undecided.get_or_insert(now).plus(REASON_DELAY);
            if !is_explained && !wake.is_due(until, now) {
                return None;
            }
        }
        let pod = self.pod.last.as_ref();
        let ran = pod.and_then(|pod| pod.container(TASK)).is_some_and(|task| task.state.running);
        if ran {
            let message = format!("{}: somebody deleted the {what} while the task ran", self.place());
            let failure = Failure { reason: FailureReason::ContainerExit, exit_code: STOPPED, message };
            return Some(Next::End(Ending { outcome: Outcome::Failed(failure), warning: None, gives_up: true }));
        }
        Some(self.fail(FailureReason::JobWatch, &format!("somebody deleted the {what} before the task ran"), true))
    }

    /// What the Job itself says, where the Pod says nothing.
    fn jobs_word(&mut self, now: Instant, wake: &mut Wake) -> Option<Next> {
        let job = self.job.last.as_ref()?;
        if self.deadline().is_some() {
            return Some(self.deadline_passed());
        }
        let is_complete = job.condition("Complete").is_some();
        let failed = self.job_failed();
        if !is_complete && failed.is_none() {
            return None;
        }
        if self.deleting.is_some() && self.pod.gone.is_none() {
            // Its last state is still to come.
            return None;
        }
        let until = self.undecided.get_or_insert(now).plus(STATE_DELAY);
        if !wake.is_due(until, now) {
            return None;
        }
        match failed {
            None => Some(completed(None)),
            Some(message) => {
                Some(self.look_first().unwrap_or_else(|| self.fail(FailureReason::JobFailed, &message, false)))
            }
        }
    }

    /// A container waits for its image, or for what it is configured with.
    fn image(&mut self, now: Instant, wake: &mut Wake) -> Option<Next> {
        let pod = self.pod.last.as_ref()?;
        let (container, waiting) = looked_at(pod).find_map(|container| {
            let waiting = container.state.waiting.as_ref()?;
            let is_it = pulls::fault(&waiting.reason, &waiting.message, None).is_some()
                || waiting.reason == "CreateContainerConfigError" && pulls::names_what_is_missing(&waiting.message);
            is_it.then_some((container, waiting))
        })?;
        let message = format!("container {}: {}", container.name, said(&waiting.reason, &waiting.message));
        let missing_until = self.wanted.plus(MISSING_GRACE);
        let (until, reason) = match self.pull {
            Some((_, PullFault::InvalidName)) => (now, FailureReason::InvalidImage),
            Some((_, PullFault::NeverPulled)) => (now, FailureReason::ImagePull),
            Some((_, PullFault::Refused)) => (missing_until, FailureReason::ImagePull),
            Some((since, PullFault::Passing)) => (since.plus(self.limits.image_pull_grace), FailureReason::ImagePull),
            None => (missing_until, FailureReason::ContainerCreate),
        };
        if !wake.is_due(until, now) {
            return None;
        }
        Some(self.fail(reason, &message, reason != FailureReason::InvalidImage))
    }

    /// There is no Pod, or no node for it.
    fn placement(&mut self, now: Instant, wake: &mut Wake) -> Option<Next> {
        let (is_stuck, message) = match &self.pod.last {
            None if self.is_suspended() => (false, String::new()),
            None => {
                let failed = self.events.iter().rfind(|event| event.is_warning() && event.reason == "FailedCreate");
                let message = failed.map(|event| event.message.clone());
                (message.is_some(), message.unwrap_or_else(|| "the cluster made no Pod".into()))
            }
            Some(pod) => {
                let waits = pod.status.conditions.iter().find(|condition| {
                    condition.kind == "PodScheduled"
                        && condition.status == "False"
                        && condition.reason == "Unschedulable"
                });
                let is_stuck = waits.is_some()
                    && pod.spec.node_name.is_none()
                    && pod.status.nominated_node_name.as_ref().is_none_or(String::is_empty)
                    && !self.is_suspended();
                (is_stuck, waits.map(|condition| condition.message.clone()).unwrap_or_default())
            }
        };
        if is_stuck {
            self.unplaced.run(now);
        } else {
            self.unplaced.pause(now);
        }
        if self.pod.last.is_none() && !self.is_suspended() {
            if wake.is_due(self.wanted.plus(NO_POD_YET), now)
                && let Some(ask) = self.ask(Occasion::NoPodYet)
            {
                return Some(ask);
            }
            if wake.is_due(self.wanted.plus(MISSING_GRACE), now)
                && let Some(ask) = self.ask(Occasion::NotStarted)
            {
                return Some(ask);
            }
            if !is_stuck && wake.is_due(self.wanted.plus(self.limits.pod_start_timeout), now) {
                return Some(self.fail(FailureReason::Unschedulable, &message, true));
            }
        }
        if is_stuck
            && pulls::names_what_is_missing(&message)
            && self.pod.last.is_some()
            && wake.is_due(self.wanted.plus(MISSING_GRACE), now)
        {
            return Some(self.fail(FailureReason::VolumeMount, &message, true));
        }
        let limit = self.limits.unschedulable_timeout;
        let until = self.unplaced.reaches(limit).filter(|_| limit > Duration::ZERO)?;
        if !wake.is_due(until, now) {
            return None;
        }
        if let Some(ask) = self.ask(Occasion::Ending) {
            return Some(ask);
        }
        let scaling = self.events.iter().rfind(|event| OF_AUTOSCALERS.contains(&event.reason.as_str()));
        let hint = scaling.map_or_else(String::new, |event| {
            format!("; an autoscaler is at work ({}): a longer unschedulable_timeout would wait for it", event.reason)
        });
        let waited = duration::show(limit);
        Some(self.fail(FailureReason::Unschedulable, &format!("no node after {waited}: {message}{hint}"), true))
    }

    /// The Pod has a node, and no container of it starts.
    fn start(&mut self, now: Instant, wake: &mut Wake) -> Option<Next> {
        let (bound, pod) = (self.bound?, self.pod.last.as_ref()?);
        let has_started = |container: &ContainerStatus| container.state.running || container.state.terminated.is_some();
        let statuses = &pod.status;
        if statuses.init_container_statuses.iter().chain(&statuses.container_statuses).any(has_started) {
            return None;
        }
        let missing_until = self.wanted.plus(MISSING_GRACE).max(bound.plus(NO_POD_YET));
        if self.pull.is_none() && wake.is_due(missing_until, now) {
            if let Some(ask) = self.ask(Occasion::NotStarted) {
                return Some(ask);
            }
            let missing = self.volume_fault(|event| pulls::names_what_is_missing(&event.message));
            if let Some(message) = missing.map(|event| event.message.clone()) {
                return Some(self.fail(FailureReason::VolumeMount, &message, true));
            }
        }
        if !wake.is_due(bound.plus(self.limits.pod_start_timeout), now) {
            return None;
        }
        if let Some(ask) = self.ask(Occasion::Ending) {
            return Some(ask);
        }
        let reason = if self.volume_fault(|_| true).is_some() {
            FailureReason::VolumeMount
        } else {
            FailureReason::ContainerCreate
        };
        let waited = duration::show(self.limits.pod_start_timeout);
        Some(self.fail(reason, &format!("no container started within {waited}"), true))
    }

    /// What is said last of a volume that is not there, unless the volumes came after all.
    fn volume_fault(&self, is_it: impl Fn(&Event) -> bool) -> Option<&Event> {
        let is_fault = |event: &&Event| OF_VOLUMES.contains(&event.reason.as_str()) && is_it(event);
        let fault = self.events.iter().rfind(is_fault)?;
        let is_past = |later: &Event| PAST_VOLUMES.contains(&later.reason.as_str()) && later.moment() >= fault.moment();
        (!self.events.iter().any(is_past)).then_some(fault)
    }

    /// Why the cluster takes the Pod away, and since when: a condition alone is only an intention.
    fn disrupted(&self) -> Option<(String, Option<String>)> {
        let pod = self.pod.last.as_ref()?;
        let is_failed = pod.status.phase == "Failed";
        let is_eviction = is_failed && EVICTIONS.contains(&pod.status.reason.as_str());
        // A Pod may also fail by itself while somebody means to take it away.
        let is_leaving = is_eviction || pod.metadata.deletion_timestamp.is_some() || self.pod.gone.is_some();
        if let Some(condition) = pod.condition("DisruptionTarget").filter(|_| is_leaving) {
            let why = said(&condition.reason, &condition.message);
            return Some((why, condition.last_transition_time.clone()));
        }
        is_eviction.then(|| (said(&pod.status.reason, &pod.status.message), None))
    }

    /// That the Job took longer than it may, and since when.
    fn deadline(&self) -> Option<(String, Option<String>)> {
        let job = self.job.last.as_ref()?;
        let conditions = [job.condition("FailureTarget"), job.condition("Failed")];
        let passed = conditions.into_iter().flatten().find(|condition| condition.reason == "DeadlineExceeded")?;
        Some((passed.message.clone(), passed.last_transition_time.clone()))
    }

    /// Why the Job failed, in its own words.
    fn job_failed(&self) -> Option<String> {
        let job = self.job.last.as_ref()?;
        let failed = job.condition("Failed").or_else(|| job.condition("FailureTarget"))?;
        Some(said(&failed.reason, &failed.message))
    }

    fn deadline_passed(&mut self) -> Next {
        // The task may have ended by itself before.
        if let Some(look) = self.look_first() {
            return look;
        }
        self.fail(FailureReason::ActiveDeadline, "the task took longer than active_deadline_seconds", false)
    }

    fn evicted(&mut self, why: &str) -> Next {
        self.fail(FailureReason::Evicted, why, false)
    }

    /// A failure without an exit code, with what the cluster says about it last. Asks for that first.
    fn fail(&mut self, reason: FailureReason, message: &str, gives_up: bool) -> Next {
        if gives_up && let Some(look) = self.look_first() {
            return look;
        }
        if let Some(ask) = self.ask(Occasion::Ending) {
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

    /// To be asked for before an end that only hangs on what was not seen.
    fn look_first(&self) -> Option<Next> {
        (!self.is_fresh && self.job.gone.is_none()).then_some(Next::Look)
    }

    fn ask(&mut self, occasion: Occasion) -> Option<Next> {
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

/// The containers whose images count: all of them until the task has started, and then none, since ours came before.
fn looked_at(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let task = pod.container(TASK).map(|task| &task.state);
    let has_started = task.is_some_and(|state| state.running || state.terminated.is_some());
    let all = pod.status.init_container_statuses.iter().chain(&pod.status.container_statuses);
    all.filter(move |_| !has_started)
}

/// The worst that is said of an image; `known` is what was said before.
fn pull_fault(pod: &Pod, known: Option<PullFault>) -> Option<PullFault> {
    let waiting = looked_at(pod).filter_map(|container| container.state.waiting.as_ref());
    waiting.filter_map(|waiting| pulls::fault(&waiting.reason, &waiting.message, known)).min_by_key(|fault| match fault
    {
        PullFault::InvalidName => 0,
        PullFault::NeverPulled => 1,
        PullFault::Refused => 2,
        PullFault::Passing => 3,
    })
}

fn is_oom(container: &ContainerStatus) -> bool {
    [&container.state, &container.last_state]
        .iter()
        .any(|state| state.terminated.as_ref().is_some_and(|ended| ended.reason == "OOMKilled"))
}

const fn completed(warning: Option<String>) -> Next {
    Next::End(Ending { outcome: Outcome::Completed, warning, gives_up: false })
}

fn exited(ended: &Terminated) -> String {
    let said = match ended.reason.as_str() {
        "" | "Error" | "Completed" if ended.message.is_empty() => String::new(),
        reason => format!(" ({})", said(reason, &ended.message)),
    };
    format!("exited with {}{said}", ended.exit_code)
}

/// A reason and a message of the cluster's, as far as they are there.
fn said(reason: &str, message: &str) -> String {
    let (reason, message) = (beginning(reason.trim(), LONGEST_TEXT), beginning(message.trim(), LONGEST_TEXT));
    match (reason.is_empty(), message.is_empty()) {
        (true, _) => message,
        (_, true) => reason,
        _ => format!("{reason}: {message}"),
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::needless_pass_by_value)]
mod tests;
