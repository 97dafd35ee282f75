//! One task: its image, its sidecars, its container, from the first call to the last.

use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use futures_lite::FutureExt;
use oz_worker_contract::ends::Key;
use oz_worker_contract::reference::Reference;
use oz_worker_contract::turns::Turn;
use oz_worker_contract::{Resumed, Stop, Task, failed};
use oz_worker_core::agent::TaskSpec;
use oz_worker_core::metrics::FailureReason;
use oz_worker_core::secret::Variables;
use oz_worker_core::{Failure, Outcome};
use oz_worker_runtime::Host;
use oz_worker_telemetry::{TaskStep, TaskTrace};
use tracing::warn;

use super::Shared;
use super::calls::{Call, Created};
use super::container::{self, Additions};
use super::creation;
use super::earlier::TakenUp;
use super::ending::Followed;
use super::engine::PATIENCE;
use super::error::EngineError;
use super::images::ImageError;
use super::labels;
use super::refusals::Refusals;
use super::removal;
use super::sidecars::Prepared;
use super::state::Seen;
use super::wait;

/// How long whoever is asked to stop waits for a container that is being made.
const CREATE_PATIENCE: Duration = Duration::from_secs(5);
/// The wait before a container is made anew.
const PAUSE: Duration = Duration::from_millis(100);

/// Why there is no container.
enum Unmade {
    /// Its image or its volumes were removed meanwhile.
    Gone,
    Error(EngineError),
    /// There is one that must not run, and it cannot be removed.
    Left(Outcome),
}

/// A container that was made for a task. When nobody takes it, it is removed.
pub struct Unstarted<R: Host> {
    shared: Arc<Shared<R>>,
    id: Option<String>,
}

impl<R: Host> Unstarted<R> {
    fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_default()
    }

    fn take(mut self) -> String {
        self.id.take().unwrap_or_default()
    }
}

impl<R: Host> Drop for Unstarted<R> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            let shared = Arc::clone(&self.shared);
            let runtime = shared.engine.runtime().clone();
            let working = shared.aside.working();
            runtime.spawn(async move {
                removal::remove_or_later(&shared.engine, &id).await;
                drop(working);
            });
        }
    }
}

impl<R: Host> Shared<R> {
    /// Runs a task to its end.
    pub(super) async fn run(self: &Arc<Self>, task: Task) -> Vec<Failure> {
        let Task { spec, trace, stop, report, log } = task;
        let (stop, report, log) = (&stop, &report, &log);
        let open = self.ends.open(Key::new(&spec.task_id, spec.execution_id.as_deref()));
        if stop.is_asked() {
            report.finished(Outcome::Stopped);
            return Vec::new();
        }
        // A pull may take minutes, and says nothing about whether tasks can be started.
        if self.engine.answers() {
            report.started();
        }
        // On the heap: a task needs what it takes to start for a moment only.
        let starting = Followed { task_id: &spec.task_id, stop, report, log };
        let container = match Box::pin(self.start(&spec, &trace, &starting)).await {
            Ok(container) => container,
            Err(outcome) => {
                report.finished(outcome);
                return Vec::new();
            }
        };
        let (task_id, env) = kept(spec);
        self.follow(container, None, &Followed { task_id: &task_id, stop, report, log }, open, Some(env)).await
    }

    /// Takes up a task that an earlier worker started.
    pub(super) async fn resume(self: &Arc<Self>, resumed: Resumed) -> Vec<Failure> {
        let Resumed { task_id, execution_id, trace, stop, report, log } = resumed;
        let followed = Followed { task_id: &task_id, stop: &stop, report: &report, log: &log };
        let open = self.ends.open(Key::new(&task_id, execution_id.as_deref()));
        let Some(TakenUp { container, end }) = self.taken_up(&task_id, execution_id.as_deref()) else {
            report.finished(failed(FailureReason::ContainerWait, "the container is gone".into()));
            return Vec::new();
        };
        report.started();
        let stopped = async {
            stop.asked().await;
            false
        };
        if end.is_none() && removal::remove_unstarted(&self.engine, &container).or(stopped).await {
            let message = "the worker was killed before it could start the container";
            report.finished(failed(FailureReason::ContainerStart, message.into()));
            return Vec::new();
        }
        trace.step(&TaskStep::Running { node: None });
        self.follow(container, end, &followed, open, None).await
    }

    /// Gets everything that the task needs, and starts its container. Each step is on the heap by itself: most of a hundred
    /// tasks that are assigned at once wait here for their turn, and hold what the next step takes only once they take it.
    async fn start(
        self: &Arc<Self>,
        spec: &TaskSpec,
        trace: &TaskTrace,
        followed: &Followed<'_>,
    ) -> Result<String, Outcome> {
        let stop = followed.stop;
        let mut refusals = Refusals::default();
        loop {
            let reference = Box::pin(self.image(spec, trace)).or(stopped(stop)).await?;
            followed.report.started();
            let sidecars = Box::pin(self.sidecars(spec, trace)).or(stopped(stop)).await?;
            let turn = self.turn_to_start().or(stopped(stop)).await?;
            let late = async {
                stop.asked().await;
                self.engine.runtime().sleep_until(self.engine.runtime().now().plus(CREATE_PATIENCE)).await;
                Err(Unmade::Gone)
            };
            let made = Box::pin(self.make(spec, &reference, &sidecars, followed)).or(late).await;
            if !matches!(&made, Err(Unmade::Error(error)) if error.is_passing()) {
                turn.is_answered(self.engine.runtime().now());
            }
            // The container has them now.
            drop(sidecars);
            if stop.is_asked() {
                return Err(Outcome::Stopped);
            }
            let container = match made {
                Ok(container) => container,
                Err(unmade) => {
                    let message = match unmade {
                        Unmade::Gone if refusals.let_go() => None,
                        Unmade::Error(error) if refusals.doubt(&error) => None,
                        Unmade::Gone => Some(
                            "its image or its volumes were removed again and again before it could start".to_owned(),
                        ),
                        Unmade::Error(error) => Some(format!("cannot create the container: {error}")),
                        Unmade::Left(outcome) => return Err(outcome),
                    };
                    if let Some(message) = message {
                        return Err(failed(FailureReason::ContainerCreate, message));
                    }
                    self.engine.pause(PAUSE).await;
                    continue;
                }
            };
            match Box::pin(self.launch(container.id(), stop)).await {
                Ok(()) => {
                    trace.step(&TaskStep::Running { node: None });
                    return Ok(container.take());
                }
                // A prune came between.
                Err(error) if Box::pin(self.is_lost(&error, container.id())).await && refusals.let_go() => {
                    Box::pin(self.discard(container)).or(stopped(stop)).await?;
                }
                Err(error) => {
                    let outcome = failed(FailureReason::ContainerStart, format!("cannot start the container: {error}"));
                    return Err(Box::pin(self.give_up(container, outcome)).await);
                }
            }
        }
    }

    /// Waits in line: what it takes to make a container and to start it is taken by few at once.
    async fn turn_to_start(&self) -> Result<Turn<()>, Outcome> {
        self.starts.next(self.engine.runtime(), PATIENCE).await.ok_or_else(|| {
            let silent = EngineError::Silent(PATIENCE);
            failed(FailureReason::ContainerCreate, format!("cannot create the container: {silent}"))
        })
    }

    /// Whether a container could not be started since it is not there any more, or about to go. What else its image lacks may
    /// be answered in the same way.
    async fn is_lost(&self, error: &EngineError, container: &str) -> bool {
        let is_refused = error.status().is_some();
        is_refused && ((error.is_gone() && !error.is_missing()) || wait::is_going(&self.engine, container).await)
    }

    /// Removes a container that will not run, and gives the reason.
    async fn give_up(&self, container: Unstarted<R>, outcome: Outcome) -> Outcome {
        // Kept for whoever wants to see why, as everything is then.
        if self.common.cleanup {
            removal::remove_or_later(&self.engine, &container.take()).await;
        } else {
            removal::mark_as_told(&self.engine, &container.take()).await;
        }
        outcome
    }

    async fn image(&self, spec: &TaskSpec, trace: &TaskTrace) -> Result<Reference, Outcome> {
        let shown = oz_worker_text::line::quoted(&spec.image);
        let fail = |problem: String| failed(FailureReason::ImagePull, format!("cannot use image {shown}: {problem}"));
        let reference = Reference::parse(&spec.image).map_err(|error| fail(error.to_string()))?;
        let allowed = &self.settings.allowed_images;
        if !allowed.is_empty() && !allowed.iter().any(|pattern| reference.fits(pattern)) {
            return Err(fail("allowed_images does not have it".into()));
        }
        let image = self.images.obtain(&reference, trace).await;
        image.map(|_| reference).map_err(|error: ImageError| fail(error.to_string()))
    }

    async fn sidecars(&self, spec: &TaskSpec, trace: &TaskTrace) -> Result<Vec<Prepared<R>>, Outcome> {
        let mut prepared = Vec::new();
        for sidecar in &spec.sidecars {
            match self.sidecars.prepare(sidecar, trace).await {
                Ok(sidecar) => prepared.push(sidecar),
                Err(error) => {
                    let image = oz_worker_text::line::quoted(&sidecar.image);
                    let at = oz_worker_text::line::quoted(&sidecar.mount_path);
                    let message = format!("cannot prepare sidecar {image} for {at}: {error}");
                    return Err(failed(FailureReason::SidecarPrep, message));
                }
            }
        }
        Ok(prepared)
    }

    /// Makes the container.
    async fn make(
        self: &Arc<Self>,
        spec: &TaskSpec,
        reference: &Reference,
        sidecars: &[Prepared<R>],
        followed: &Followed<'_>,
    ) -> Result<Unstarted<R>, Unmade> {
        let mounts: Vec<_> = sidecars.iter().map(|sidecar| sidecar.mount.clone()).collect();
        let additions = Additions {
            volumes: &self.settings.volumes,
            options: self.settings.container_options.as_ref().map(|options| &options.0),
            labels: &self.extra_labels,
            as_binds: self.engine.is_podman(),
        };
        let description = container::description(spec, &mounts, &additions, &self.owned());
        // Beside the task: what is made after it was stopped is removed by its owner.
        let (done, result) = oneshot::channel();
        let own = Arc::clone(self);
        self.engine.runtime().spawn(async move {
            let instance = own.owned().instance;
            let name = labels::made(instance, own.engine.number());
            let made = creation::make(&own.engine, &name, instance, description).await;
            let made = made.map(|Created { id, warnings }| (Unstarted { shared: own, id: Some(id) }, warnings));
            let _ = done.send(made);
        });
        let (container, warnings) = match result.await {
            Ok(Ok(made)) => made,
            Ok(Err(error)) if is_part_gone(&error) => return Err(Unmade::Gone),
            Ok(Err(error)) => return Err(Unmade::Error(error)),
            Err(_) => return Err(Unmade::Error(EngineError::Form)),
        };
        for warning in warnings.into_iter().flatten().take(10) {
            let warning = oz_worker_text::line::beginning(&warning, 300);
            warn!(task_id = followed.task_id, image = %reference, "the engine says of the task's container: {warning}");
        }
        let unmade = match self.sidecars.are_whole(sidecars).await {
            Ok(true) => return Ok(container),
            Ok(false) => Unmade::Gone,
            Err(error) => Unmade::Error(error),
        };
        Box::pin(self.discard(container)).await.map_err(Unmade::Left)?;
        Err(unmade)
    }

    /// Removes a container in whose place another is to be made: it would keep what is to be thrown away, and a worker that
    /// finds both after a crash would tell an end of each.
    async fn discard(&self, container: Unstarted<R>) -> Result<(), Outcome> {
        let mut patience = self.engine.patience();
        while let Err(error) = removal::remove(&self.engine, container.id()).await {
            if !patience.has_more(&self.engine).await {
                let message = format!("cannot remove a container to create another: {error}");
                return Err(failed(FailureReason::ContainerCreate, message));
            }
        }
        container.take();
        Ok(())
    }

    /// Starts a container once, however often the engine must be asked. It may run afterwards, or have run, unless this is an
    /// error.
    async fn launch(&self, container: &str, stop: &Stop) -> Result<(), EngineError> {
        let mut patience = self.engine.patience();
        loop {
            let error = match self.engine.once(&Call::post(format!("/containers/{container}/start"))).await {
                Err(error) if error.is_passing() => error,
                result => return result.map(drop),
            };
            // Whoever is asked to stop stops what may run.
            let stopped = async {
                stop.asked().await;
                Some(Seen::Running)
            };
            match wait::settled(&self.engine, container).or(stopped).await {
                // One that is gone may have run: nothing is started a second time.
                Some(Seen::Running | Seen::Exited { .. }) | None => return Ok(()),
                Some(Seen::Created | Seen::Unknown) => {}
            }
            if !patience.has_more(&self.engine).await {
                return Err(error);
            }
        }
    }
}

/// Ends when the task is to stop, as one that was.
async fn stopped<T>(stop: &Stop) -> Result<T, Outcome> {
    stop.asked().await;
    Err(Outcome::Stopped)
}

/// What is needed of a task that runs.
fn kept(spec: Box<TaskSpec>) -> (String, Variables) {
    let TaskSpec { task_id, env, .. } = *spec;
    (task_id, env)
}

/// Whether a creation failed since its image or a volume is not there any more.
fn is_part_gone(error: &EngineError) -> bool {
    let words = error.words();
    let missing = ["no such image", "no such volume", "image not known"];
    // Engine 29 says 500 of an image whose layers are gone.
    (error.is_missing() && missing.iter().any(|text| words.contains(text))) || words.contains("parent snapshot")
}
