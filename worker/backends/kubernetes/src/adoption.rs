//! Taking up Jobs of this worker's id whose own worker is gone: one that is known to live keeps its Jobs, and of two workers
//! that try, one gets them.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oz_worker_contract::Earlier;
use oz_worker_contract::earlier::{Left, is_dead, newest};
use oz_worker_contract::ends::Key;
use oz_worker_contract::query::escaped;
use oz_worker_runtime::{Host, Mark};
use serde_json::json;
use tracing::{info, warn};

use super::Shared;
use super::begin::no_patch;
use super::cluster::Call;
use super::error::ApiError;
use super::held::Created;
use super::instance::{Instance, OwnPod};
use super::names::{EXECUTION_ID, INSTANCE, TASK_ID};
use super::objects::{Items, Job, Pod};

/// How often Jobs are looked for whose worker is gone.
const INTERVAL: Duration = Duration::from_secs(30);
/// How long ago a Job may have ended whose end is told although it cannot be marked as told.
const UNMARKED_LIMIT: Duration = Duration::from_secs(5 * 60);
/// How often a Job is asked for that was changed meanwhile.
const TRIES: u32 = 5;

impl<R: Host> Shared<R> {
    /// Looks for Jobs again and again.
    pub(super) async fn find(&self, found: impl Fn(Earlier) + Send) {
        let runtime = self.cluster.runtime();
        loop {
            runtime.sleep_until(runtime.now().plus(INTERVAL)).await;
            self.take_up().await.into_iter().for_each(&found);
        }
    }

    /// Takes up every Job whose worker is gone and whose end was not told: gives their tasks, from the oldest on.
    pub(super) async fn take_up(&self) -> Vec<Earlier> {
        let mut gone = BTreeMap::new();
        let mut left = Vec::new();
        for job in self.followers.unfollowed(|job| self.is_candidate(job)) {
            let instance = job.annotation(INSTANCE).to_owned();
            if !gone.contains_key(&instance) {
                let is_gone = self.is_gone(&instance).await;
                gone.insert(instance.clone(), is_gone);
            }
            if gone.get(&instance) == Some(&true) {
                left.push(Left { task: task_of(&job), thing: job });
            }
        }
        let (newest, others) = newest(left);
        for Left { task, thing: job } in others {
            warn!(task_id = task.task_id, "ending the Job of an earlier execution, whose worker is gone");
            self.discard(&Created::of(&job), job.is_finished()).await;
        }
        let mut taken = Vec::new();
        for Left { task, thing: job } in newest {
            let claimed = self.claim(&job).await;
            if claimed.is_ok() {
                self.held.doubt_no_more(&job.metadata.uid);
            }
            match claimed {
                Ok(Some(created)) => {
                    self.held.take_up(Key::new(&task.task_id, task.execution_id.as_deref()), created);
                    taken.push(task);
                }
                Ok(None) => info!(task_id = task.task_id, "another worker took up the Job {}", job.metadata.name),
                Err(error) => {
                    self.held.doubt(&job.metadata.uid);
                    warn!(task_id = task.task_id, "cannot take up the Job {}: {error}", job.metadata.name);
                }
            }
        }
        taken
    }

    /// Whether a Job that nobody here follows may be to be taken up.
    fn is_candidate(&self, job: &Job) -> bool {
        let instance = job.annotation(INSTANCE);
        let is_ours = instance == self.instance && !self.held.is_unsure(&job.metadata.uid);
        let is_anothers = !job.annotation(TASK_ID).is_empty() && !instance.is_empty() && !is_ours;
        let is_of_now = self.can_patch() || !ended_long_ago(job);
        is_anothers && is_of_now && !job.is_told() && !self.held.is_taken_up(&job.metadata.uid)
    }

    /// Whether this process is known to be gone.
    async fn is_gone(&self, instance: &str) -> bool {
        if instance == self.instance {
            // What this very process may have taken up, and does not follow.
            return true;
        }
        let (runtime, owner) = (self.cluster.runtime(), &self.common.owner);
        match Instance::parse(instance) {
            None => false,
            Some(Instance::OnHost { mark }) => is_dead(runtime, owner, mark).await,
            Some(Instance::InPod { namespace, name, uid, mark }) => {
                let is_here = |pod: &OwnPod| pod.namespace == namespace && pod.uid == uid;
                if self.pod.as_ref().is_some_and(is_here) {
                    // A container of this very Pod that was started again has processes of its own.
                    let is_seen = Mark::parse(mark).is_some_and(|mark| owner.sees_the_processes_of(&mark));
                    return !is_seen || is_dead(runtime, owner, mark).await;
                }
                self.is_pod_gone(namespace, name, uid).await
            }
        }
    }

    /// Whether there is no such Pod, or nothing of it will ever run again.
    async fn is_pod_gone(&self, namespace: &str, name: &str, uid: &str) -> bool {
        let selector = escaped(&format!("metadata.name={name}"));
        let path = format!("/api/v1/namespaces/{}/pods?fieldSelector={selector}", escaped(namespace));
        match self.cluster.ask::<Items<Pod>>(&Call::get(path)).await {
            Ok(Items { items }) => !items.iter().any(|pod| pod.metadata.uid == uid && !has_ended(pod)),
            Err(error) => {
                let hint = if error.is_forbidden() { ": the Role lacks the verb list on pods there" } else { "" };
                if !self.is_blind_to_workers.swap(true, Ordering::Relaxed) {
                    warn!("cannot see in namespace {namespace} whether the worker {name} is gone: {error}{hint}");
                }
                false
            }
        }
    }

    /// Makes a Job ours, unless another worker was faster. Where the Role does not let us, it is ours all the same.
    pub(super) async fn claim(&self, job: &Job) -> Result<Option<Created>, ApiError> {
        let before = job.annotation(INSTANCE).to_owned();
        let created = Created { before: Some(before.clone()), ..Created::of(job) };
        let path = self.cluster.job(&job.metadata.name);
        let mut version = job.metadata.resource_version.clone();
        for _ in 0..TRIES {
            if !self.can_patch() {
                return Ok(Some(created));
            }
            let metadata = json!({
                "uid": job.metadata.uid, "resourceVersion": version, "annotations": {INSTANCE: self.instance},
            });
            match self.cluster.ask::<Job>(&Call::patch(&path, &json!({"metadata": metadata}))).await {
                Ok(_) => return Ok(Some(created)),
                Err(error) if error.is_forbidden() => self.cannot_patch(),
                Err(error) if error.is_missing() => return Ok(None),
                Err(error) if error.is_conflict() => {
                    // Whatever changed it: it matters whose it is.
                    let there: Job = match self.cluster.ask(&Call::get(&path)).await {
                        Err(error) if error.is_missing() => return Ok(None),
                        there => there?,
                    };
                    let holder = there.annotation(INSTANCE);
                    if there.metadata.uid != job.metadata.uid || there.is_told() {
                        return Ok(None);
                    } else if holder == self.instance {
                        // An answer was lost.
                        return Ok(Some(created));
                    } else if holder != before {
                        return Ok(None);
                    }
                    version = there.metadata.resource_version;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Lets go a Job whose end nobody is told.
    pub(super) async fn discard(&self, created: &Created, is_finished: bool) {
        if is_finished {
            self.mark_as_told(created, None).await;
        } else {
            for failure in self.delete(created).await {
                warn!("{}", failure.message);
            }
        }
    }

    pub(super) fn can_patch(&self) -> bool {
        self.can_patch.load(Ordering::Relaxed)
    }

    pub(super) fn cannot_patch(&self) {
        if self.can_patch.swap(false, Ordering::Relaxed) {
            warn!("{}", no_patch(&self.settings.namespace));
        }
    }
}

fn task_of(job: &Job) -> Earlier {
    let created = job.metadata.creation_timestamp.as_deref().and_then(|text| humantime::parse_rfc3339(text).ok());
    Earlier {
        task_id: job.annotation(TASK_ID).to_owned(),
        execution_id: Some(job.annotation(EXECUTION_ID)).filter(|id| !id.is_empty()).map(str::to_owned),
        started: created.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default(),
    }
}

/// Whether a Pod's containers have all ended for good.
fn has_ended(pod: &Pod) -> bool {
    matches!(pod.status.phase.as_str(), "Succeeded" | "Failed")
}

/// Whether a Job ended so long ago that its end was probably told.
fn ended_long_ago(job: &Job) -> bool {
    let ended = job.condition("Complete").or_else(|| job.condition("Failed"));
    ended.is_some_and(|condition| {
        let at = condition.last_transition_time.as_deref().and_then(|text| humantime::parse_rfc3339(text).ok());
        at.is_none_or(|at| SystemTime::now().duration_since(at).is_ok_and(|ago| ago > UNMARKED_LIMIT))
    })
}
