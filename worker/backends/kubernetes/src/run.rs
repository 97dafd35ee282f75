//! One task from its Job to its end: a Job that is created for it, or one that an earlier worker created.

use std::sync::Arc;
use std::time::Duration;

use futures_channel::mpsc::UnboundedReceiver;
use futures_channel::oneshot;
use futures_lite::{FutureExt, StreamExt};
use oz_worker_contract::ends::Key;
use oz_worker_contract::output::TaskLog;
use oz_worker_contract::{Report, Resumed, Stop, Task, failed};
use oz_worker_core::agent::TaskSpec;
use oz_worker_core::metrics::FailureReason;
use oz_worker_core::secret::Variables;
use oz_worker_core::{Failure, Outcome};
use oz_worker_runtime::Host;
use oz_worker_telemetry::{TaskStep, TaskTrace};
use tracing::warn;

use super::begin::{events, pods};
use super::cluster::Call;
use super::creation::Made;
use super::followers::{Expected, Sighting};
use super::held::{Created, Ended};
use super::names::INSTANCE;
use super::objects::Job;
use super::verdict::{Ending, Limits, Next, Verdict};
use super::{LookedAt, Shared};

/// How long it may take to see whether a task has ended already.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// How long the events may take that are asked for before a failure is told.
const EVENTS_LIMIT: Duration = Duration::from_secs(3);
/// How long a deletion may hold up the end of a task that gave up.
const DELETE_LIMIT: Duration = Duration::from_secs(5);

/// How following a Job ended.
enum End {
    /// The task ended.
    Told(Ending),
    /// Another worker has the Job, which was seen so last.
    Anothers(Box<Job>),
}

/// A task whose Job is followed.
struct Followed<'a> {
    /// That it was created, unless it was taken up.
    expected: Option<Expected>,
    task_id: &'a str,
    execution_id: Option<&'a str>,
    /// The environment that it was started with, if it was not taken up.
    variables: Option<&'a Variables>,
    trace: &'a TaskTrace,
    stop: &'a Stop,
    report: &'a Report,
    log: &'a Arc<dyn TaskLog>,
}

/// What is needed of a task once it has its Job.
struct Kept {
    task_id: String,
    execution_id: Option<String>,
    variables: Variables,
}

impl Kept {
    fn of(spec: Box<TaskSpec>) -> Self {
        let spec = *spec;
        Self { task_id: spec.task_id, execution_id: spec.execution_id, variables: spec.env }
    }
}

impl<R: Host> Shared<R> {
    pub(super) async fn run(self: &Arc<Self>, task: Task) -> Vec<Failure> {
        let Task { spec, trace, stop, report, log } = task;
        trace.step(&TaskStep::Creating);
        // On the heap: a task needs what it takes to create its Job for a moment only.
        let Made { created, expected } = match Box::pin(self.create(&spec, &stop)).await {
            Ok(made) => made,
            Err(outcome) => {
                report.finished(outcome);
                return Vec::new();
            }
        };
        if stop.is_asked() {
            // It is not known to have begun: it is told to have been stopped, also by a worker that leaves.
            report.finished(Outcome::Stopped);
            return self.delete_surely(&created).await;
        }
        let Kept { task_id, execution_id, variables } = Kept::of(spec);
        let (execution_id, variables) = (execution_id.as_deref(), Some(&variables));
        let (trace, stop, report, log) = (&trace, &stop, &report, &log);
        let expected = Some(expected);
        let followed = Followed { expected, task_id: &task_id, execution_id, variables, trace, stop, report, log };
        self.follow(created, followed).await
    }

    /// Takes up a task that an earlier worker started.
    pub(super) async fn resume(self: &Arc<Self>, resumed: Resumed) -> Vec<Failure> {
        let Resumed { task_id, execution_id, trace, stop, report, log } = resumed;
        let execution_id = execution_id.as_deref();
        let Some(created) = self.held.resumed(&Key::new(&task_id, execution_id)) else {
            report.finished(failed(FailureReason::JobWatch, "the worker was killed, and the Job is gone".into()));
            return Vec::new();
        };
        let (variables, trace, stop, report, log) = (None, &trace, &stop, &report, &log);
        let expected = None;
        let followed = Followed { expected, task_id: &task_id, execution_id, variables, trace, stop, report, log };
        self.follow(created, followed).await
    }

    /// Follows a Job to its end, or until the task is to stop.
    async fn follow(self: &Arc<Self>, created: Created, followed: Followed<'_>) -> Vec<Failure> {
        let Followed { expected, task_id, execution_id, variables, trace, stop, report, log } = followed;
        let mut verdict = Verdict::new(self.limits(), self.cluster.runtime().now());
        let mut sightings = self.followers.follow(&created.uid);
        drop(expected);
        let looked_at = LookedAt { followers: Arc::clone(&self.followers), uid: created.uid.clone() };
        // The Job is there, and goes on whatever becomes of this worker.
        report.started();
        let ended = async {
            loop {
                if let Some(end) = self.step(&created, &mut verdict, &mut sightings).await {
                    return Some(end);
                }
                trace.step(&verdict.step());
            }
        };
        let stopped = async {
            stop.asked().await;
            None
        };
        let end = Box::pin(ended).or(stopped).await;
        // Before it is told: the next assignment of this execution must know that this Job is done with.
        drop(looked_at);
        let Ending { outcome, warning, gives_up } = match end {
            Some(End::Told(ending)) => ending,
            Some(End::Anothers(job)) => {
                warn!(task_id, "another worker took up the Job {}, and tells how it ends", created.name);
                // If that one goes too, it is there to be taken up again.
                self.followers.let_go(job, verdict.into_pod());
                report.finished(Outcome::Dispatched);
                return Vec::new();
            }
            // The worker leaves, and its Jobs run on.
            None if stop.is_abandoned() => {
                report.finished(Outcome::Stopped);
                return Vec::new();
            }
            None => {
                let Some(ending) = Box::pin(self.end_before(&created, &mut verdict)).await else {
                    report.finished(Outcome::Stopped);
                    return self.delete_surely(&created).await;
                };
                ending
            }
        };
        if let Some(warning) = warning {
            warn!(task_id, "{warning}");
        }
        if gives_up {
            // What is told to have failed must not start afterwards.
            let late = async {
                self.cluster.runtime().sleep_until(self.cluster.runtime().now().plus(DELETE_LIMIT)).await;
            };
            let own = Arc::clone(self);
            let (done, deleted) = oneshot::channel();
            self.cluster.runtime().spawn(async move {
                let failures = own.delete_surely(&created).await;
                let _ = done.send(failures);
            });
            let deleted = async {
                let _ = deleted.await;
            };
            deleted.or(late).await;
            report.finished(outcome);
            return Vec::new();
        }
        let has_output = matches!(&outcome, Outcome::Failed(failure)
            if matches!(failure.reason, FailureReason::ContainerExit | FailureReason::ContainerOom));
        // It stays until the server has heard: if this worker dies before, the next one tells it.
        let goes = outcome == Outcome::Completed && self.common.cleanup;
        let deadline = self.own_deadline().and_then(|ttl| verdict.outlived().map(|lasted| lasted + ttl));
        let ended = Ended { created: created.clone(), goes, deadline, report: Some(report.clone()) };
        self.held.end(Key::new(task_id, execution_id), ended);
        report.finished(outcome);
        if has_output
            && verdict.has_reads_left()
            && let Some(pod) = verdict.pod_name()
        {
            Box::pin(self.log_output(pod, &created, variables, task_id, log)).await;
        }
        Vec::new()
    }

    /// How long a Job stays that has failed, in seconds, where nothing else says when it must end.
    fn own_deadline(&self) -> Option<u64> {
        let settings = &self.settings;
        let has_none = self.common.cleanup && settings.active_deadline_seconds.is_none();
        has_none.then(|| settings.ttl_seconds_after_finished.into())
    }

    const fn limits(&self) -> Limits {
        Limits {
            image_pull_grace: self.settings.image_pull_grace,
            pod_start_timeout: self.settings.pod_start_timeout,
            unschedulable_timeout: self.settings.unschedulable_timeout,
        }
    }

    /// Waits for what is seen next, and looks.
    async fn step(
        &self,
        created: &Created,
        verdict: &mut Verdict,
        sightings: &mut UnboundedReceiver<Sighting>,
    ) -> Option<End> {
        let runtime = self.cluster.runtime();
        let until = match verdict.look(runtime.now()) {
            Next::End(ending) => return Some(End::Told(ending)),
            Next::Ask(uid) => {
                let asked = self.cluster.within(EVENTS_LIMIT, events(&self.cluster, &uid)).await;
                verdict.events(asked.unwrap_or_default());
                return None;
            }
            Next::Look => {
                match pods(&self.cluster, &created.uid).await {
                    Ok(pods) => verdict.looked(runtime.now(), pods),
                    // Nothing is given up for what may be over by now.
                    Err(error) => return Some(unwatched(&error.to_string())),
                }
                return None;
            }
            Next::LookAtJob => return self.look_at_job(created, verdict).await,
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
            Some(Sighting::Job(job)) if self.is_anothers(created, job.annotation(INSTANCE)) => {
                return Some(End::Anothers(job));
            }
            Some(Sighting::Job(mut job)) => {
                job.metadata.annotations.clear();
                verdict.job(now, *job);
            }
            Some(Sighting::JobGone(last)) => verdict.job_gone(now, last.map(|last| *last)),
            Some(Sighting::Pod(pod)) => verdict.pod(now, *pod),
            Some(Sighting::PodGone(uid, last)) => verdict.pod_gone(now, &uid, last.map(|last| *last)),
            Some(Sighting::Blind(why)) => return Some(unwatched(&why)),
        }
        None
    }

    /// Reads the Job for what no watch has shown of it. Whether it can be read or not: how its container ended is known.
    async fn look_at_job(&self, created: &Created, verdict: &mut Verdict) -> Option<End> {
        let read = self.cluster.ask::<Job>(&Call::get(self.cluster.job(&created.name))).await;
        let now = self.cluster.runtime().now();
        match read {
            Ok(job) if job.metadata.uid != created.uid => verdict.job_gone(now, None),
            Ok(job) if self.is_anothers(created, job.annotation(INSTANCE)) => {
                return Some(End::Anothers(Box::new(job)));
            }
            Ok(job) => verdict.looked_at_job(now, Some(job)),
            Err(error) if error.is_missing() => verdict.job_gone(now, None),
            Err(_) => verdict.looked_at_job(now, None),
        }
        None
    }

    /// How a task had ended by itself when it was to be stopped, and no watch had told of it yet.
    async fn end_before(&self, created: &Created, verdict: &mut Verdict) -> Option<Ending> {
        let read = self.cluster.within(LOOK_LIMIT, pods(&self.cluster, &created.uid)).await.ok()?;
        let now = self.cluster.runtime().now();
        verdict.looked(now, read);
        verdict.own_end(now)
    }

    /// Whether a worker that came after this one has a Job. A watch may still show who had it before.
    fn is_anothers(&self, created: &Created, instance: &str) -> bool {
        !instance.is_empty() && instance != self.instance && created.before.as_deref() != Some(instance)
    }
}

/// The end of a task of which nothing can be seen any more. Its Job goes on.
fn unwatched(why: &str) -> End {
    let outcome = failed(FailureReason::JobWatch, format!("the Job cannot be watched: {why}"));
    End::Told(Ending { outcome, warning: None, gives_up: false })
}
