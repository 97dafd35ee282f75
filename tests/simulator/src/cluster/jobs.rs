//! The Job controller, the one that removes what a Job leaves behind, and the one for Jobs that have finished for long.

use std::time::Duration;

use futures_lite::FutureExt;
use serde_json::{Value, json};

use super::plan::Plan;
use super::store::{Kind, has_condition, set_condition};
use super::{Cluster, Life};
use crate::executor::OUTSIDE;

/// How soon it tries again when it could not make a Pod.
const RETRY: Duration = Duration::from_secs(5);

/// How long a Pod may be there and not be seen, since it is gone before its Job was.
const BRIEF: Duration = Duration::from_secs(1);

/// What the controller does next.
enum Next {
    /// The Job is gone.
    Gone,
    MakePod,
    DeletePod,
    /// Its Pod is over.
    Finish(Result<(), [&'static str; 2]>),
    /// Its last state was seen, and the Pod may go.
    Release,
    TooLate,
    Wait(Option<Duration>),
}

impl Cluster {
    /// A Job was made: from now on it is looked after.
    pub(super) fn begin(&self, uid: &str, life: Life) {
        self.state().lives.insert(uid.to_owned(), life);
        let (own, uid) = (self.clone(), uid.to_owned());
        self.executor.spawn(OUTSIDE, async move { own.control(&uid).await });
    }

    pub(super) fn life(name: &str, of: Option<(String, String)>, is_foreign: bool, plan: Plan) -> Life {
        let (name, changed) = (name.to_owned(), async_channel::bounded(1));
        Life { name, pod: String::new(), of, is_foreign, plan, pods: 0, made: Duration::ZERO, changed }
    }

    async fn control(&self, uid: &str) {
        let begun = self.executor.now();
        let mut finished = None;
        loop {
            let changed = self.state().changed(uid);
            let until = match self.due(uid, begun, finished) {
                Next::Gone => break,
                Next::MakePod if self.make_pod(uid) => None,
                Next::MakePod => Some(self.executor.now() + RETRY),
                Next::DeletePod => {
                    self.delete_pod(uid, None);
                    None
                }
                Next::Finish(result) => {
                    finished = Some(self.executor.now());
                    self.finish(uid, result);
                    None
                }
                Next::Release => {
                    self.remove_pod(uid);
                    None
                }
                Next::TooLate => {
                    self.fail_at_deadline(uid);
                    None
                }
                Next::Wait(until) => until,
            };
            let late = async {
                match until {
                    Some(until) => self.executor.sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            changed.or(late).await;
            self.lag().await;
        }
        // What it made goes with it.
        self.delete_pod(uid, None);
        while self.state().pod(uid).is_some() {
            let changed = self.state().changed(uid);
            if self.is_over(uid) {
                self.remove_pod(uid);
            } else {
                changed.await;
            }
        }
        let mut state = self.state();
        state.events.remove(uid);
        state.lives.remove(uid);
    }

    fn is_over(&self, uid: &str) -> bool {
        let state = self.state();
        state.pod(uid).is_some_and(|pod| pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed")
    }

    fn due(&self, uid: &str, begun: Duration, finished: Option<Duration>) -> Next {
        let now = self.executor.now();
        let state = self.state();
        let Some(job) = state.job(uid) else { return Next::Gone };
        let pod = state.pod(uid);
        let phase = pod.map(|pod| pod["status"]["phase"].as_str().unwrap_or_default());
        let is_over = matches!(phase, Some("Succeeded" | "Failed"));
        let is_leaving = pod.is_some_and(|pod| !pod["metadata"]["deletionTimestamp"].is_null());
        if is_over && is_leaving && (finished.is_some() || job["spec"]["suspend"] == true) {
            return Next::Release;
        }
        if let Some(finished) = finished {
            let Some(ttl) = job["spec"]["ttlSecondsAfterFinished"].as_u64() else { return Next::Wait(None) };
            let until = finished + Duration::from_secs(ttl);
            if until > now {
                return Next::Wait(Some(until));
            }
            drop(state);
            self.note(uid, |truth| truth.is_expired = true);
            self.remove_job(uid);
            return Next::Gone;
        }
        let deadline =
            job["spec"]["activeDeadlineSeconds"].as_u64().map(|seconds| begun + Duration::from_secs(seconds));
        let is_late = has_condition(job, "FailureTarget");
        if deadline.is_some_and(|deadline| deadline <= now) && !is_late {
            return Next::TooLate;
        }
        match phase {
            _ if is_late && (is_over || pod.is_none()) => {
                Next::Finish(Err(["DeadlineExceeded", "Job was active longer than specified deadline"]))
            }
            _ if is_late => Next::Wait(None),
            Some("Succeeded") => Next::Finish(Ok(())),
            _ if job["spec"]["suspend"] == true && pod.is_some() && !is_leaving => Next::DeletePod,
            _ if job["spec"]["suspend"] == true => Next::Wait(deadline),
            Some("Failed") => {
                Next::Finish(Err(["BackoffLimitExceeded", "Job has reached the specified backoff limit"]))
            }
            Some(_) => Next::Wait(deadline),
            None if state.lives.get(uid).is_some_and(|life| life.pods > 0 && life.pod.is_empty()) => {
                Next::Finish(Err(["BackoffLimitExceeded", "Job has reached the specified backoff limit"]))
            }
            None => Next::MakePod,
        }
    }

    /// False: the namespace may have no more.
    fn make_pod(&self, uid: &str) -> bool {
        let (suffix, moment) = (self.executor.random(|random| random.u32(..)), self.moment());
        let mut state = self.state();
        let Some(job) = state.job(uid).cloned() else { return true };
        if state.store.all(Kind::Pod).count() >= state.quota {
            drop(state);
            self.note(uid, |truth| truth.is_unplaced = true);
            let message = "pods is forbidden: exceeded quota: pods, requested: pods=1, used: pods=2, limited: pods=2";
            self.say(uid, "Warning", ["FailedCreate", message]);
            return false;
        }
        let Some(life) = state.lives.get_mut(uid) else { return true };
        life.pods += 1;
        life.made = self.executor.now();
        life.pod = format!("{}-{suffix:08x}", life.name);
        let name = life.pod.clone();
        let mut pod = job["spec"]["template"].clone();
        pod["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] = uid.into();
        pod["metadata"]["labels"]["controller-uid"] = uid.into();
        pod["metadata"]["labels"]["job-name"] = job["metadata"]["name"].clone();
        pod["metadata"]["finalizers"] = json!(["batch.kubernetes.io/job-tracking"]);
        pod["status"] = json!({"phase": "Pending"});
        state.store.create(Kind::Pod, &name, pod, &moment);
        drop(state);
        let (own, uid) = (self.clone(), uid.to_owned());
        self.executor.spawn(OUTSIDE, async move { own.place(&uid, &name).await });
        true
    }

    /// Whoever deletes a Pod: it is to be gone after its grace period. Without a node it is at once.
    pub(super) fn delete_pod(&self, uid: &str, grace: Option<u64>) {
        let moment = self.moment();
        let is_bound = {
            let state = self.state();
            let Some(pod) = state.pod(uid) else { return };
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                return;
            }
            !pod["spec"]["nodeName"].is_null()
        };
        self.update(uid, Kind::Pod, |pod| {
            pod["metadata"]["deletionTimestamp"] = moment.into();
            pod["metadata"]["deletionGracePeriodSeconds"] = grace.unwrap_or(30).into();
        });
        if !is_bound {
            self.remove_pod(uid);
        }
    }

    /// A Pod is gone for good.
    pub(super) fn remove_pod(&self, uid: &str) {
        let mut state = self.state();
        let Some(life) = state.lives.get_mut(uid) else { return };
        let (name, is_brief) = (std::mem::take(&mut life.pod), self.executor.now() < life.made + BRIEF);
        state.store.remove(Kind::Pod, &name);
        state.nudge(uid);
        state.make_room();
        drop(state);
        self.note(uid, |truth| truth.is_brief |= is_brief);
    }

    /// Whoever deletes a Job: it is gone at once, and its Pod soon after.
    pub(super) fn remove_job(&self, uid: &str) {
        let mut state = self.state();
        let Some(name) = state.lives.get(uid).map(|life| life.name.clone()) else { return };
        if state.job(uid).is_some() {
            state.store.remove(Kind::Job, &name);
            state.nudge(uid);
        }
    }

    fn finish(&self, uid: &str, result: Result<(), [&'static str; 2]>) {
        let moment = self.moment();
        self.note(uid, |truth| truth.has_failed = result.is_err());
        self.update(uid, Kind::Job, |job| match result {
            Ok(()) => {
                set_condition(job, "SuccessCriteriaMet", "True", ["CompletionsReached", ""], &moment);
                set_condition(job, "Complete", "True", ["CompletionsReached", ""], &moment);
            }
            Err(said) => {
                set_condition(job, "FailureTarget", "True", said, &moment);
                set_condition(job, "Failed", "True", said, &moment);
            }
        });
    }

    fn fail_at_deadline(&self, uid: &str) {
        let (now, moment) = (self.executor.now(), self.moment());
        self.note(uid, |truth| truth.deadline = Some(now));
        self.update(uid, Kind::Job, |job: &mut Value| {
            set_condition(job, "FailureTarget", "True", ["DeadlineExceeded", "Job was active too long"], &moment);
        });
        self.delete_pod(uid, None);
    }
}
