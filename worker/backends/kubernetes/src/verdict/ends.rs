//! What ends a task: a container that exited, the cluster that takes its Pod away, its deadline, somebody who deletes it.

use std::time::Duration;

use oz_worker_core::metrics::FailureReason;
use oz_worker_core::time::Instant;
use oz_worker_core::{Failure, Outcome};
use oz_worker_text::line::beginning;

use super::times::Wake;
use super::words::{LONGEST_TEXT, exited, said};
use super::{Ending, Next, Verdict};
use crate::objects::{ContainerStatus, Pod, Terminated};
use crate::template::TASK;
use crate::watch::SILENCE;

/// How long the reason of an end may come after the end itself: Jobs and Pods are watched apart.
const REASON_DELAY: Duration = Duration::from_secs(2);
/// The same for the Pod's last state, which says more than the Job's.
const STATE_DELAY: Duration = Duration::from_secs(5);
/// The same of a Pod that was missing when the Pods were read, and that their watch tells nothing of: a watch that is only behind
/// tells how it ended, and one that is silent lists again, and then says itself that the Pod is gone.
const UNSEEN_DELAY: Duration = Duration::from_secs(SILENCE.as_secs() + 10);
/// How long a Pod may take beyond its grace period until its node is taken for lost.
const LOST_AFTER: Duration = Duration::from_secs(10);
/// The grace period of a Pod that names none (Kubernetes' default), and the longest that is waited for.
const GRACE: [u32; 2] = [30, 3600];
/// The exit code of what was asked to stop: 128 and SIGTERM's number.
const STOPPED: i32 = 143;

/// The reason of an end that a kubelet knows nothing of.
const UNKNOWN: &str = "ContainerStatusUnknown";

/// Why a Pod failed that its node or the cluster wanted gone, where no condition says so (`status.reason`).
const EVICTIONS: [&str; 8] =
    ["Evicted", "Preempting", "Preempted", "NodeShutdown", "Shutdown", "Terminated", "NodeLost", "NodeAffinityChanged"];

impl Verdict {
    /// A container ended that decides: the task's, or one before it that failed.
    pub(super) fn result(&mut self, now: Instant, wake: &mut Wake) -> Option<Next> {
        let pod = self.pod.last.as_ref()?;
        // Of a Pod that is deleted a kubelet calls the end of what never ran unknown.
        let is_known = |ended: &&Terminated| !self.is_leaving() || ended.reason != UNKNOWN;
        let end = |container: &'_ ContainerStatus| container.state.terminated.clone().filter(|ended| is_known(&ended));
        if let Some((task, ended)) = pod.container(TASK).and_then(|task| Some((task, end(task)?))) {
            let is_oom = is_oom(task);
            if ended.exit_code == 0 {
                let warning =
                    is_oom.then(|| "something in the task's container was killed for lack of memory".to_owned());
                return Some(completed(warning));
            }
            let reason = if is_oom { FailureReason::ContainerOom } else { FailureReason::ContainerExit };
            let message = format!("the task's container {}", exited(&ended));
            return Some(self.failed_container(now, wake, &ended, reason, &message));
        }
        if pod.status.phase == "Succeeded" {
            return Some(completed(None));
        }
        let mut init = pod.status.init_container_statuses.iter().filter(|init| !pod.is_native_sidecar(&init.name));
        let (name, ended) =
            init.find_map(|init| Some((&init.name, end(init).filter(|ended| ended.exit_code != 0)?)))?;
        let message = format!("init container {} {}", beginning(name, LONGEST_TEXT), exited(&ended));
        Some(self.failed_container(now, wake, &ended, FailureReason::InitContainer, &message))
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
                return Next::Wait(wake.at());
            }
            if !is_explained && let Some(look) = self.look_at_job_first() {
                return look;
            }
        }
        let failure = Failure { reason, exit_code: ended.exit_code, message: format!("{}: {message}", self.place()) };
        Next::End(Ending { outcome: Outcome::Failed(failure), warning: None, gives_up: false })
    }

    /// The cluster takes the Pod away.
    pub(super) fn disruption(&mut self, now: Instant, wake: &mut Wake) -> Option<Next> {
        let (why, _) = self.disrupted()?;
        let pod = self.pod.last.as_ref()?;
        if pod.status.phase == "Failed" || self.pod.gone.is_some() {
            return Some(self.evicted(&why));
        }
        // Or the watch is behind.
        self.is_lost(now, wake).then(|| self.look_first().unwrap_or_else(|| self.evicted(&why)))
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
    pub(super) fn failed_pod(&mut self) -> Option<Next> {
        // One that somebody deletes fails too, without a reason of its own.
        let is_its_own = |pod: &&Pod| !self.is_leaving() || !pod.status.reason.is_empty();
        let pod = self.pod.last.as_ref().filter(|pod| pod.status.phase == "Failed").filter(is_its_own)?;
        if pod.status.reason == "DeadlineExceeded" || self.deadline().is_some() {
            return Some(self.deadline_passed());
        }
        let message = said(&pod.status.reason, &pod.status.message);
        Some(self.fail(FailureReason::JobFailed, &message, false))
    }

    /// Somebody deleted the Job or the Pod.
    pub(super) fn deletion(&mut self, now: Instant, wake: &mut Wake) -> Option<Next> {
        if !self.is_leaving() && self.job.gone.is_none() {
            return None;
        }
        if self.deadline().is_some() {
            return self.deadline_after_all(now, wake);
        }
        let what = if self.job.gone.is_some() { "Job" } else { "Pod" };
        let is_pod_there = self.pod.last.is_some() && self.pod.gone.is_none();
        if is_pod_there {
            // It is on its way out, and its last state says how the task ended.
            if !self.is_lost(now, wake) {
                return None;
            }
        } else {
            let is_job_over = self.job.gone.is_some() || self.job_failed().is_some();
            let is_explained = self.missing.is_none() && self.pod.last.is_some() && is_job_over;
            let delay = if self.missing.is_some() { UNSEEN_DELAY } else { REASON_DELAY };
            let until = self.undecided_since(now).plus(delay);
            if !is_explained && !wake.is_due(until, now) {
                return None;
            }
        }
        if let Some(look) = self.look_at_job_first() {
            return Some(look);
        }
        if self.ran {
            if is_pod_there && let Some(look) = self.look_first() {
                return Some(look);
            }
            let message = format!("{}: somebody deleted the {what} while the task ran", self.place());
            let failure = Failure { reason: FailureReason::ContainerExit, exit_code: STOPPED, message };
            return Some(Next::End(Ending { outcome: Outcome::Failed(failure), warning: None, gives_up: true }));
        }
        Some(self.fail(FailureReason::JobWatch, &format!("somebody deleted the {what} before the task ran"), true))
    }

    /// Since when what is known could be the end, and more may come: from when a Pod was found missing, if it was.
    fn undecided_since(&mut self, now: Instant) -> Instant {
        let undecided = *self.undecided.get_or_insert(now);
        self.missing.map_or(undecided, |missing| missing.max(undecided))
    }

    /// What the Job itself says, where the Pod says nothing.
    pub(super) fn jobs_word(&mut self, now: Instant, wake: &mut Wake) -> Option<Next> {
        let job = self.job.last.as_ref()?;
        if self.deadline().is_some() {
            return self.deadline_after_all(now, wake);
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
        // That it is complete needs no Pod to prove it.
        let is_unseen = self.missing.is_some() && !is_complete;
        let until = self.undecided_since(now).plus(if is_unseen { UNSEEN_DELAY } else { STATE_DELAY });
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

    /// Whether the Job failed for what became of a Pod: only its deadline passes without one.
    pub(super) fn failed_with_a_pod(&self) -> bool {
        self.job_failed().is_some() && self.deadline().is_none()
    }

    fn deadline_passed(&mut self) -> Next {
        // The task may have ended by itself before.
        if let Some(look) = self.look_first() {
            return look;
        }
        self.fail(FailureReason::ActiveDeadline, "the task took longer than active_deadline_seconds", false)
    }

    /// The same once a Pod that is missing has had its time: its last state may still come.
    fn deadline_after_all(&mut self, now: Instant, wake: &mut Wake) -> Option<Next> {
        let is_to_come = self.missing.is_some_and(|missing| !wake.is_due(missing.plus(UNSEEN_DELAY), now));
        (!is_to_come).then(|| self.deadline_passed())
    }

    fn evicted(&mut self, why: &str) -> Next {
        self.fail(FailureReason::Evicted, why, false)
    }
}

fn is_oom(container: &ContainerStatus) -> bool {
    [&container.state, &container.last_state]
        .iter()
        .any(|state| state.terminated.as_ref().is_some_and(|ended| ended.reason == "OOMKilled"))
}

const fn completed(warning: Option<String>) -> Next {
    Next::End(Ending { outcome: Outcome::Completed, warning, gives_up: false })
}
