//! Creating the Job of a task: once, however often the cluster must be asked.

use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use futures_lite::FutureExt;
use oz_worker_contract::reference::Reference;
use oz_worker_contract::{Stop, failed};
use oz_worker_core::Outcome;
use oz_worker_core::agent::TaskSpec;
use oz_worker_core::metrics::FailureReason;
use oz_worker_runtime::Host;
use oz_worker_text::line::quoted;

use super::Shared;
use super::cluster::{Call, CallTurn, Kind};
use super::error::{ApiError, Tries};
use super::followers::Expected;
use super::held::Created;
use super::job::{self, Frame};
use super::names::{INSTANCE, Identity, Standing};
use super::objects::Job;

/// How long a finished Job that stands in the way may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(60);
/// How long the watch may take to tell of a Job that was created and is gone already.
const WATCH_DELAY: Duration = Duration::from_secs(2);

/// A Job that was created. To be followed before `expected` is dropped: it may be gone already.
pub struct Made {
    pub created: Created,
    pub expected: Expected,
}

/// Whose Job is created, and who may not want it any more.
struct Of {
    task_id: String,
    execution_id: Option<String>,
    stop: Stop,
}

impl<R: Host> Shared<R> {
    /// Creates the Job of a task. It goes on beside the task: what is there after the task was stopped is deleted.
    pub(super) async fn create(self: &Arc<Self>, spec: &TaskSpec, stop: &Stop) -> Result<Made, Outcome> {
        if stop.is_asked() {
            return Err(Outcome::Stopped);
        }
        self.check_image(&spec.image)?;
        let fail = |problem| Err(failed(FailureReason::JobCreate, problem));
        // In line there is nothing of a Job yet, and whoever is stopped leaves.
        let turn = match self.turn_unless(stop).await {
            Some(Ok(turn)) => turn,
            Some(Err(error)) => return fail(format!("the Job cannot be created: {error}")),
            None => return Err(Outcome::Stopped),
        };
        let identity = Identity::new(&self.common.worker_id, &spec.task_id, spec.execution_id.as_deref());
        let frame = Frame { settings: &self.settings, instance: &self.instance, cleanup: self.common.cleanup };
        let describe = |name: String| {
            let described = job::description(frame, &identity, &name, spec);
            let call = described.map(|job| Call::post(self.cluster.jobs(), &job));
            call.map_err(|flaw| failed(FailureReason::SidecarPrep, flaw.to_string())).map(|call| (name, call))
        };
        let calls = [describe(identity.job_name())?, describe(identity.distinct_job_name())?];
        let of = Of { task_id: spec.task_id.clone(), execution_id: spec.execution_id.clone(), stop: stop.clone() };
        let (done, created) = oneshot::channel();
        let (own, working) = (Arc::clone(self), self.aside.working());
        self.cluster.runtime().spawn(async move {
            let mut open = None;
            let made = own.make(turn, calls, &of, &mut open).await;
            let left = open.filter(|_| made.is_err());
            // Nobody waits any more: the task was told to have been stopped.
            if let Err(Ok(Made { created, .. })) = done.send(made) {
                own.delete_surely(&created).await;
            }
            drop(working);
            if let Some(name) = left {
                // It may be there all the same.
                let identity = Identity::new(&own.common.worker_id, &of.task_id, of.execution_id.as_deref());
                own.clear_later(&name, identity).await;
            }
        });
        let created = async {
            match created.await {
                Ok(Ok(made)) => Ok(made),
                // It may have failed only since nobody wanted it any more.
                _ if stop.is_asked() => Err(Outcome::Stopped),
                Ok(Err(problem)) => fail(problem),
                Err(_) => fail("the worker gave up".into()),
            }
        };
        let stopped = async {
            stop.asked().await;
            Err(Outcome::Stopped)
        };
        created.or(stopped).await
    }

    /// Waits until it is the turn of a creation. None: nobody wants it any more.
    async fn turn_unless(&self, stop: &Stop) -> Option<Result<CallTurn<R>, ApiError>> {
        let stopped = async {
            stop.asked().await;
            None
        };
        stopped.or(async { Some(self.cluster.turn(Kind::Create).await) }).await
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
    /// has that. `open` is afterwards the name of a Job that may be there, since an answer was lost. It is not tried again once
    /// nobody wants it.
    async fn make(
        &self,
        turn: CallTurn<R>,
        calls: [(String, Call); 2],
        of: &Of,
        open: &mut Option<String>,
    ) -> Result<Made, String> {
        let identity = Identity::new(&self.common.worker_id, &of.task_id, of.execution_id.as_deref());
        let mut turn = Some(turn);
        for (name, call) in calls {
            let runtime = self.cluster.runtime();
            let mut tries = Tries::new(runtime.now());
            *open = None;
            let expected = self.followers.expect(&name);
            loop {
                // Between two tries it is the others' turn.
                let own_turn = match turn.take() {
                    Some(turn) => Some(Ok(turn)),
                    None => self.turn_unless(&of.stop).await,
                };
                // No answer said that it was created, but the watch does. Somebody may have deleted it since.
                if open.is_some()
                    && let Some(job) = expected.seen(&self.instance)
                {
                    return Ok(Made { created: Created::of(&job), expected });
                }
                let error = match own_turn {
                    Some(Ok(turn)) => match self.cluster.once_in::<Job>(Some(turn), &call).await {
                        Ok(job) => return Ok(Made { created: Created::of(&job), expected }),
                        Err(error) => error,
                    },
                    Some(Err(error)) => error,
                    None => ApiError::Unwanted,
                };
                if error.is_taken() {
                    let path = self.cluster.job(&name);
                    let there: Job = match self.cluster.ask(&Call::get(path)).await {
                        Ok(there) => there,
                        // It is gone meanwhile.
                        Err(error) if error.is_missing() => {
                            if open.is_some() {
                                runtime.sleep_until(runtime.now().plus(WATCH_DELAY)).await;
                            }
                            continue;
                        }
                        Err(error) => return Err(format!("the Job {name} cannot be looked at: {error}")),
                    };
                    match identity.standing(&there.metadata.labels) {
                        Standing::Ours if self.is_over(&there, of, open.is_some()) => self.clear(&there).await?,
                        Standing::Ours => match self.claim(&there).await {
                            Ok(Some(created)) => return Ok(Made { created, expected }),
                            // Changed meanwhile: whatever is there now is looked at anew.
                            Ok(None) => {}
                            Err(error) => return Err(format!("the Job {name} cannot be taken up: {error}")),
                        },
                        Standing::Namesake => break,
                        Standing::Foreign => return Err(format!("there is a Job {name}, and it is not ours")),
                    }
                    continue;
                }
                if error.is_open() {
                    *open = Some(name.clone());
                }
                let Some(at) = tries.next(runtime.now(), &error) else {
                    // It may be there all the same.
                    let created = if open.is_some() { self.made(&name, &identity).await } else { None };
                    return match created {
                        Some(created) => Ok(Made { created, expected }),
                        None => Err(format!("the Job cannot be created: {error}")),
                    };
                };
                of.stop.asked().or(runtime.sleep_until(at)).await;
            }
        }
        Err("other tasks' Jobs have both names that this one could have".into())
    }

    /// The Job that a creation made whose answer was lost, if it can be seen.
    async fn made(&self, name: &str, identity: &Identity<'_>) -> Option<Created> {
        let there: Job = self.cluster.once(&Call::get(self.cluster.job(name))).await.ok()?;
        let is_it = identity.standing(&there.metadata.labels) == Standing::Ours
            && there.annotation(INSTANCE) == self.instance
            && !self.followers.is_done(&there.metadata.uid);
        is_it.then(|| Created::of(&there))
    }

    /// Whether a Job of this very execution is done with, and the task to run once more; otherwise it is this run's. `is_open`:
    /// we may have created it just now, and the answer was lost.
    fn is_over(&self, there: &Job, of: &Of, is_open: bool) -> bool {
        // Its end may be told before the cluster says that it has finished.
        let is_finished = there.is_finished() || self.followers.is_done(&there.metadata.uid);
        let instance = there.annotation(INSTANCE);
        // What another worker left, and could not tell. An execution without an id may be another one.
        let is_untold = of.execution_id.is_some()
            && !there.is_told()
            && !instance.is_empty()
            && instance != self.instance
            && !self.followers.is_done(&there.metadata.uid);
        is_finished && !is_open && !is_untold
    }

    /// Removes a finished Job of this very execution, and waits until it is gone.
    async fn clear(&self, finished: &Job) -> Result<(), String> {
        let created = Created::of(finished);
        let (name, uid) = (&created.name, &created.uid);
        let runtime = self.cluster.runtime();
        let until = runtime.now().plus(GONE_LIMIT);
        self.delete(&created).await;
        loop {
            let path = self.cluster.job(name);
            match self.cluster.ask::<Job>(&Call::get(path)).await {
                Err(error) if error.is_missing() => return Ok(()),
                Ok(there) if there.metadata.uid != *uid => return Ok(()),
                _ if runtime.now() >= until => {
                    return Err(format!("an earlier Job {name} is in the way and does not go"));
                }
                _ => runtime.sleep_until(runtime.now().plus(Duration::from_millis(500))).await,
            }
        }
    }
}
