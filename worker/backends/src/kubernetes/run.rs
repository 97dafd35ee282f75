//! One task from its Job's creation to its end.

use std::sync::Arc;
use std::time::Duration;

use futures_channel::mpsc::UnboundedReceiver;
use futures_channel::oneshot;
use futures_lite::{FutureExt, StreamExt};
use oz_worker_core::agent::TaskSpec;
use oz_worker_core::metrics::FailureReason;
use oz_worker_core::{Failure, Outcome};
use oz_worker_runtime::Host;
use oz_worker_text::line::quoted;
use serde_json::Value;
use tracing::warn;

use super::begin::{delete_options, events, pods};
use super::cluster::{ApiError, Call, Tries, tail};
use super::followers::Sighting;
use super::job::{self, Frame};
use super::names::{Identity, Standing};
use super::objects::Job;
use super::template::TASK;
use super::verdict::{Ending, Limits, Next, Verdict};
use super::{LookedAt, Shared};
use crate::contract::{Stop, Task, failed};
use crate::docker::redaction::redact;
use crate::docker::reference::Reference;
use crate::output::{TaskLog, forward};

/// How long the events may take that are asked for before a failure is told.
const EVENTS_LIMIT: Duration = Duration::from_secs(3);
/// How long the output may take that is asked for after a failure, how many lines of it are asked for, and how many bytes
/// are kept and read.
const OUTPUT_LIMIT: Duration = Duration::from_secs(10);
const OUTPUT_LINES: u32 = 10_000;
const MOST_OUTPUT: [usize; 2] = [1 << 20, 64 << 20];
/// How long a deletion may hold up the end of a task that gave up.
const DELETE_LIMIT: Duration = Duration::from_secs(5);
/// How often a deletion that failed is tried again.
const DELETE_AGAIN: Duration = Duration::from_secs(30);
/// How long an API server may work on a creation whose answer nobody waits for (`--request-timeout`), and a little.
const LATE_CREATION: Duration = Duration::from_secs(65);
/// How long a finished Job that stands in the way may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(60);

/// A Job that was created, or taken for one that was.
#[derive(Clone)]
struct Created {
    name: String,
    uid: String,
}

impl<R: Host> Shared<R> {
    pub(super) async fn run(self: &Arc<Self>, task: Task) -> Vec<Failure> {
        let Task { spec, trace, stop, report, log } = task;
        let created = match self.create(&spec, &stop).await {
            Ok(created) => created,
            Err(outcome) => {
                report.finished(outcome);
                return Vec::new();
            }
        };
        let mut verdict = Verdict::new(self.limits(), self.cluster.runtime().now());
        let mut sightings = self.followers.follow(&created.uid);
        let looked_at = LookedAt { followers: Arc::clone(&self.followers), uid: created.uid.clone() };
        // The Job is there, and goes on whatever becomes of this worker.
        report.started();
        let mut has_started = false;
        let followed = async {
            loop {
                if let Some(ending) = self.step(&mut verdict, &mut sightings).await {
                    return Some(ending);
                }
                if verdict.node().is_some() && !std::mem::replace(&mut has_started, true) {
                    trace.backend_started();
                }
            }
        };
        let stopped = async {
            stop.asked().await;
            None
        };
        let ending = Box::pin(followed).or(stopped).await;
        // Before it is told: the next assignment of this execution must know that this Job is done with.
        drop(looked_at);
        let Some(Ending { outcome, warning, gives_up }) = ending else {
            report.finished(Outcome::Stopped);
            // The worker leaves, and its Jobs run on.
            return if stop.is_abandoned() { Vec::new() } else { self.delete(&created).await };
        };
        if let Some(warning) = warning {
            warn!(task_id = spec.task_id, "{warning}");
        }
        let is_success = outcome == Outcome::Completed;
        let has_output = matches!(&outcome, Outcome::Failed(failure)
            if matches!(failure.reason, FailureReason::ContainerExit | FailureReason::ContainerOom));
        if gives_up {
            // What is told to have failed must not start afterwards.
            let late = async {
                self.cluster.runtime().sleep_until(self.cluster.runtime().now().plus(DELETE_LIMIT)).await;
            };
            let own = Arc::clone(self);
            let (done, deleted) = oneshot::channel();
            self.cluster.runtime().spawn(async move {
                let failures = own.delete(&created).await;
                let _ = done.send(failures);
            });
            let deleted = async {
                let _ = deleted.await;
            };
            deleted.or(late).await;
            report.finished(outcome);
            return Vec::new();
        }
        report.finished(outcome);
        if has_output && let Some(pod) = verdict.pod_name() {
            Box::pin(self.log_output(pod, &spec, &log)).await;
        }
        if is_success && self.common.cleanup { self.delete(&created).await } else { Vec::new() }
    }

    const fn limits(&self) -> Limits {
        Limits {
            image_pull_grace: self.settings.image_pull_grace,
            pod_start_timeout: self.settings.pod_start_timeout,
            unschedulable_timeout: self.settings.unschedulable_timeout,
        }
    }

    /// Waits for what is seen next, and looks.
    async fn step(&self, verdict: &mut Verdict, sightings: &mut UnboundedReceiver<Sighting>) -> Option<Ending> {
        let runtime = self.cluster.runtime();
        let until = match verdict.look(runtime.now()) {
            Next::End(ending) => return Some(ending),
            Next::Ask(uid) => {
                let asked = self.cluster.within(EVENTS_LIMIT, events(&self.cluster, &uid)).await;
                verdict.events(asked.unwrap_or_default());
                return None;
            }
            Next::Look(uid) => {
                match pods(&self.cluster, &uid).await {
                    Ok(pods) => verdict.looked(runtime.now(), pods),
                    // Nothing is given up for what may be over by now.
                    Err(error) => return Some(unwatched(&error.to_string())),
                }
                return None;
            }
            Next::Wait(until) => until,
        };
        let late = async {
            match until {
                Some(until) => runtime.sleep_until(until).await,
                None => std::future::pending().await,
            }
            None
        };
        let sighting = sightings.next().or(late).await;
        let now = runtime.now();
        match sighting {
            None => {}
            Some(Sighting::Job(job)) => verdict.job(now, job),
            Some(Sighting::JobGone(last)) => verdict.job_gone(now, last),
            Some(Sighting::Pod(pod)) => verdict.pod(now, pod),
            Some(Sighting::PodGone(uid, last)) => verdict.pod_gone(now, &uid, last),
            Some(Sighting::Blind(why)) => return Some(unwatched(&why)),
        }
        None
    }

    /// Creates the Job of a task. It goes on beside the task: what is there after the task was stopped is deleted.
    async fn create(self: &Arc<Self>, spec: &TaskSpec, stop: &Stop) -> Result<Created, Outcome> {
        if stop.is_asked() {
            return Err(Outcome::Stopped);
        }
        self.check_image(&spec.image)?;
        let identity = Identity::new(&self.common.worker_id, &spec.task_id, spec.execution_id.as_deref());
        let frame =
            Frame { settings: &self.settings, instance: self.common.owner.mark(), cleanup: self.common.cleanup };
        let describe = |name: String| {
            let described = job::description(frame, &identity, &name, spec);
            described.map_err(|flaw| failed(FailureReason::SidecarPrep, flaw.to_string())).map(|job| (name, job))
        };
        let names = [describe(identity.job_name())?, describe(identity.distinct_job_name())?];
        let ids = [spec.task_id.clone(), identity.execution_id().to_owned()];
        let (done, created) = oneshot::channel();
        let (own, stop_too) = (Arc::clone(self), stop.clone());
        self.cluster.runtime().spawn(async move {
            let created = own.make(names, &ids).await;
            if let Err(Ok(created)) = done.send(created)
                && !stop_too.is_abandoned()
            {
                own.delete(&created).await;
            }
        });
        let created = async {
            match created.await {
                Ok(created) => created.map_err(|problem| failed(FailureReason::JobCreate, problem)),
                Err(_) => Err(failed(FailureReason::JobCreate, "the worker gave up".into())),
            }
        };
        let stopped = async {
            stop.asked().await;
            Err(Outcome::Stopped)
        };
        created.or(stopped).await
    }

    fn check_image(&self, image: &str) -> Result<(), Outcome> {
        let allowed = &self.settings.allowed_images;
        if allowed.is_empty() {
            return Ok(());
        }
        let fits = |reference: Reference| allowed.iter().any(|pattern| reference.fits(pattern));
        if Reference::parse(image).is_ok_and(fits) {
            return Ok(());
        }
        let message = format!("cannot use image {}: allowed_images does not have it", quoted(image));
        Err(failed(FailureReason::ImagePull, message))
    }

    /// Creates a Job once, however often the cluster must be asked: under its plain name, or with a mark where a namesake
    /// has that.
    async fn make(self: &Arc<Self>, names: [(String, Value); 2], ids: &[String; 2]) -> Result<Created, String> {
        let [task_id, execution_id] = ids;
        let identity = Identity::new(&self.common.worker_id, task_id, Some(execution_id));
        for (name, description) in names {
            let call = Call::post(self.cluster.jobs(), description);
            let runtime = self.cluster.runtime();
            let (mut tries, mut is_open) = (Tries::new(runtime.now()), false);
            loop {
                let error = match self.cluster.once::<Job>(&call).await {
                    Ok(job) => return Ok(Created { name, uid: job.metadata.uid }),
                    Err(error) => error,
                };
                if error.is_taken() {
                    let path = format!("{}/{name}", self.cluster.jobs());
                    let there: Job = match self.cluster.ask(&Call::get(path)).await {
                        Ok(there) => there,
                        // It is gone meanwhile.
                        Err(error) if error.is_missing() => continue,
                        Err(error) => return Err(format!("the Job {name} cannot be looked at: {error}")),
                    };
                    // Its end may be told before the cluster says that it has finished.
                    let is_finished = there.condition("Complete").or_else(|| there.condition("Failed")).is_some()
                        || self.followers.is_done(&there.metadata.uid);
                    match identity.standing(&there.metadata.labels) {
                        // An answer was lost.
                        Standing::Ours if is_open || !is_finished => {
                            return Ok(Created { name, uid: there.metadata.uid });
                        }
                        Standing::Ours => self.clear(&name, &there.metadata.uid).await?,
                        Standing::Namesake => break,
                        Standing::Foreign => return Err(format!("there is a Job {name}, and it is not ours")),
                    }
                    continue;
                }
                is_open |= error.is_open();
                match tries.next(runtime.now(), &error) {
                    Some(at) => runtime.sleep_until(at).await,
                    None => {
                        if is_open {
                            self.clear_later(name, ids.clone());
                        }
                        return Err(format!("the Job cannot be created: {error}"));
                    }
                }
            }
        }
        Err("other tasks' Jobs have both names that this one could have".into())
    }

    /// Removes a finished Job of this very execution, and waits until it is gone.
    async fn clear(self: &Arc<Self>, name: &str, uid: &str) -> Result<(), String> {
        let runtime = self.cluster.runtime();
        let until = runtime.now().plus(GONE_LIMIT);
        self.delete(&Created { name: name.to_owned(), uid: uid.to_owned() }).await;
        loop {
            let path = format!("{}/{name}", self.cluster.jobs());
            match self.cluster.ask::<Job>(&Call::get(path)).await {
                Err(error) if error.is_missing() => return Ok(()),
                Ok(there) if there.metadata.uid != uid => return Ok(()),
                _ if runtime.now() >= until => {
                    return Err(format!("an earlier Job {name} is in the way and does not go"));
                }
                _ => runtime.sleep_until(runtime.now().plus(Duration::from_millis(500))).await,
            }
        }
    }

    /// Deletes a Job with its Pod. What cannot be deleted in time is told, and is deleted later.
    async fn delete(self: &Arc<Self>, created: &Created) -> Vec<Failure> {
        let Err(error) = self.cluster.ask::<Value>(&self.deletion(created)).await else { return Vec::new() };
        if is_gone(&error) {
            return Vec::new();
        }
        self.delete_later(created.clone());
        vec![Failure::new(FailureReason::Cleanup, format!("cannot delete the Job {}: {error}", created.name))]
    }

    fn delete_later(self: &Arc<Self>, created: Created) {
        let own = Arc::clone(self);
        self.cluster.runtime().spawn(async move {
            let runtime = own.cluster.runtime();
            loop {
                runtime.sleep_until(runtime.now().plus(DELETE_AGAIN)).await;
                match own.cluster.once::<Value>(&own.deletion(&created)).await {
                    Err(error) if !is_gone(&error) => {}
                    _ => break,
                }
            }
        });
    }

    /// Removes a Job of this execution that may be there, or may still come: it is told that it could not be created.
    fn clear_later(self: &Arc<Self>, name: String, ids: [String; 2]) {
        let own = Arc::clone(self);
        self.cluster.runtime().spawn(async move {
            let [task_id, execution_id] = &ids;
            let identity = Identity::new(&own.common.worker_id, task_id, Some(execution_id));
            let runtime = own.cluster.runtime();
            runtime.sleep_until(runtime.now().plus(LATE_CREATION)).await;
            loop {
                match own.cluster.once::<Job>(&Call::get(format!("{}/{name}", own.cluster.jobs()))).await {
                    Ok(there) if identity.standing(&there.metadata.labels) == Standing::Ours => {
                        own.delete(&Created { name, uid: there.metadata.uid }).await;
                        break;
                    }
                    Ok(_) => break,
                    Err(error) if is_gone(&error) => break,
                    Err(_) => runtime.sleep_until(runtime.now().plus(DELETE_AGAIN)).await,
                }
            }
        });
    }

    /// What deletes a Job with its Pod; whatever else has its name by now stays.
    fn deletion(&self, Created { name, uid }: &Created) -> Call {
        let mut options = delete_options();
        if let Some(options) = options.as_object_mut() {
            options.insert("preconditions".into(), serde_json::json!({"uid": uid}));
            options.insert("gracePeriodSeconds".into(), self.common.cancel_grace_period.as_secs().into());
        }
        Call::delete(format!("{}/{name}", self.cluster.jobs()), options)
    }

    /// Logs the end of what the task's container wrote, without secrets.
    async fn log_output(&self, pod: &str, spec: &TaskSpec, log: &Arc<dyn TaskLog>) {
        let path = self.cluster.core(&format!("pods/{pod}/log"));
        let call = Call::get(format!("{path}?container={TASK}&tailLines={OUTPUT_LINES}"));
        let read = self.cluster.within(OUTPUT_LIMIT, async {
            let mut opened = self.cluster.open(&call).await?;
            let [most, all] = MOST_OUTPUT;
            let text = tail(&mut opened, most, all).await?;
            super::cluster::refused(&opened, &text)?;
            Ok(text)
        });
        match read.await {
            Ok(text) => {
                let text = redact(text, spec.env.iter().map(|(name, value)| (name, value.expose())));
                let text = futures_lite::io::Cursor::new(text);
                let runtime = self.cluster.runtime();
                let written = forward(runtime, Some(text), Arc::clone(log));
                let written = async {
                    let _ = written.await;
                };
                written.or(runtime.sleep_until(runtime.now().plus(OUTPUT_LIMIT))).await;
            }
            // It was removed with its output, or the Role does not show it.
            Err(ApiError::Status { status: 403 | 404, .. }) => {}
            Err(error) => warn!(task_id = spec.task_id, "cannot show what the container wrote: {error}"),
        }
    }
}

/// Whether what was to be deleted is gone, or its name is another's by now.
const fn is_gone(error: &ApiError) -> bool {
    matches!(error, ApiError::Status { status: 404 | 409, .. })
}

/// The end of a task of which nothing can be seen any more. Its Job goes on.
fn unwatched(why: &str) -> Ending {
    let outcome = failed(FailureReason::JobWatch, format!("the Job cannot be watched: {why}"));
    Ending { outcome, warning: None, gives_up: false }
}
