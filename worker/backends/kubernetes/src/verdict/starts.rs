//! What keeps a task from starting: its image, a node for its Pod, what its containers need.

use std::time::Duration;

use oz_worker_core::metrics::FailureReason;
use oz_worker_core::time::Instant;
use oz_worker_text::duration;

use super::times::Wake;
use super::words::said;
use super::{Next, Occasion, Verdict};
use crate::objects::{ContainerStatus, Event, Pod};
use crate::pulls::{self, PullFault};
use crate::template::TASK;

/// How long what does not exist may still come: an image, a Secret, a claim. Kubelets try again after 7.5 and 15.5 s.
const MISSING_GRACE: Duration = Duration::from_secs(18);
/// After how long without a Pod the cluster is asked why.
const NO_POD_YET: Duration = Duration::from_secs(3);

/// What is said of a Pod once its volumes are there.
const PAST_VOLUMES: [&str; 4] = ["Pulling", "Pulled", "Created", "Started"];
/// What is said of a volume that is not there.
const OF_VOLUMES: [&str; 4] = ["FailedMount", "FailedAttachVolume", "FailedMapVolume", "VolumeBindingFailed"];
/// What an autoscaler at work says.
const OF_AUTOSCALERS: [&str; 3] = ["TriggeredScaleUp", "Nominated", "TriggeredScale"];

impl Verdict {
    /// A container waits for its image, or for what it is configured with.
    pub(super) fn image(&mut self, now: Instant, wake: &mut Wake) -> Option<Next> {
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
    pub(super) fn placement(&mut self, now: Instant, wake: &mut Wake) -> Option<Next> {
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
        // What is asked for an end that is none after all is missing at the true one.
        if let Some(look) = self.look_first() {
            return Some(look);
        }
        if !self.has_no_pod()
            && let Some(ask) = self.ask(Occasion::Ending)
        {
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
    pub(super) fn start(&mut self, now: Instant, wake: &mut Wake) -> Option<Next> {
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
        if let Some(next) = self.look_first().or_else(|| self.ask(Occasion::Ending)) {
            return Some(next);
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
}

/// The containers whose images count: all of them until the task has started, and then none, since ours came before.
fn looked_at(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let task = pod.container(TASK).map(|task| &task.state);
    let has_started = task.is_some_and(|state| state.running || state.terminated.is_some());
    let all = pod.status.init_container_statuses.iter().chain(&pod.status.container_statuses);
    all.filter(move |_| !has_started)
}

/// The worst that is said of an image; `known` is what was said before.
pub(super) fn pull_fault(pod: &Pod, known: Option<PullFault>) -> Option<PullFault> {
    let waiting = looked_at(pod).filter_map(|container| container.state.waiting.as_ref());
    waiting.filter_map(|waiting| pulls::fault(&waiting.reason, &waiting.message, known)).min_by_key(|fault| match fault
    {
        PullFault::InvalidName => 0,
        PullFault::NeverPulled => 1,
        PullFault::Refused => 2,
        PullFault::Passing => 3,
    })
}
