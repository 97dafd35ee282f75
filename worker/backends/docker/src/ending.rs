//! From the start of a task's container to its removal: its end, or its stop, and what it wrote when it failed.

use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use futures_lite::FutureExt;
use oz_worker_contract::ends::Open;
use oz_worker_contract::last_output::{self, MOST_READ};
use oz_worker_contract::output::TaskLog;
use oz_worker_contract::redaction::redact;
use oz_worker_contract::{Report, Stop, failed};
use oz_worker_core::metrics::FailureReason;
use oz_worker_core::secret::Variables;
use oz_worker_core::{Failure, Outcome};
use oz_worker_runtime::Host;
use serde::Deserialize;
use tracing::warn;

use super::calls::Call;
use super::error::EngineError;
use super::reply::within;
use super::state::Seen;
use super::tail::Tail;
use super::wait::{self, ContainerEnd};
use super::{Shared, removal, state};

/// How long it may take to see whether a container has ended already.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// How long one call may take that stops a container.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What is the same for a task that is started and one that is taken up.
pub(super) struct Followed<'a> {
    pub task_id: &'a str,
    pub stop: &'a Stop,
    pub report: &'a Report,
    pub log: &'a Arc<dyn TaskLog>,
}

/// The container of a task that has ended by itself.
pub(super) struct Ended {
    container: String,
    /// Who hears when it cannot be removed.
    report: Report,
    /// Ends when what it wrote is in the log.
    is_shown: oneshot::Receiver<()>,
}

impl<R: Host> Shared<R> {
    /// Follows a container that was started to its end, if that is not known yet, and clears up after it.
    pub(super) async fn follow(
        self: &Arc<Self>,
        container: String,
        end: Option<ContainerEnd>,
        followed: &Followed<'_>,
        open: Open<'_, Ended>,
        variables: Option<Variables>,
    ) -> Vec<Failure> {
        let ended = async {
            match end {
                Some(end) => Some(end),
                None => Some(wait::end(&self.engine, &container).await),
            }
        };
        let stopped = async {
            followed.stop.asked().await;
            None
        };
        let outcome = match ended.or(stopped).await {
            Some(ContainerEnd::Exited { exit_code, is_oom }) => state::outcome(exit_code, is_oom),
            Some(ContainerEnd::Gone) => {
                failed(FailureReason::ContainerWait, "somebody removed the container before its end was known".into())
            }
            None => {
                let end = Box::pin(self.end_before(&container, followed.stop)).await;
                if end.is_none() {
                    Box::pin(self.terminate(&container, followed.stop)).await;
                }
                end.unwrap_or(Outcome::Stopped)
            }
        };
        // What was stopped must not be taken up as one that ended by itself, nor what a worker that leaves has told to be
        // stopped.
        if outcome == Outcome::Stopped || followed.stop.is_abandoned() {
            followed.report.finished(outcome);
            return Box::pin(self.remove(&container)).await;
        }
        // It stays until the server has heard: if this worker dies before, the next one tells it.
        let (shown, is_shown) = oneshot::channel();
        let ended = Ended { container: container.clone(), report: followed.report.clone(), is_shown };
        if let Some(ended) = open.end(ended) {
            self.let_go_beside(ended);
        }
        let is_failed = matches!(outcome, Outcome::Failed(_));
        followed.report.finished(outcome);
        if is_failed {
            Box::pin(self.log_output(&container, followed, variables)).or(followed.stop.abandoned()).await;
        }
        drop::<oneshot::Sender<()>>(shown);
        Vec::new()
    }

    /// Lets go a container whose end is not told any more: it is removed, or marked.
    pub(super) async fn let_go(&self, ended: Ended) {
        let Ended { container, report, is_shown } = ended;
        // It is removed with its output.
        let _ = is_shown.await;
        for failure in self.remove(&container).await {
            report.cleanup_failed(failure);
        }
    }

    /// The same beside everything else.
    fn let_go_beside(self: &Arc<Self>, ended: Ended) {
        let (own, working) = (Arc::clone(self), self.aside.working());
        self.engine.runtime().spawn(async move {
            own.let_go(ended).await;
            drop(working);
        });
    }

    /// How a container had ended by itself when it was to be stopped, and nobody had heard of it yet.
    async fn end_before(&self, container: &str, stop: &Stop) -> Option<Outcome> {
        if stop.is_abandoned() {
            return None;
        }
        let seen = async { wait::look(&self.engine, container).await.ok().flatten() };
        let runtime = self.engine.runtime();
        let late = async {
            runtime.sleep_until(runtime.now().plus(LOOK_LIMIT)).or(stop.abandoned()).await;
            None
        };
        match seen.or(late).await {
            Some(Seen::Exited { exit_code, is_oom }) => Some(state::outcome(exit_code, is_oom)),
            _ => None,
        }
    }

    /// SIGTERM, the grace period, SIGKILL.
    async fn terminate(&self, container: &str, stop: &Stop) {
        let runtime = self.engine.runtime();
        let until = runtime.now().plus(self.common.cancel_grace_period);
        let kill = |signal: &str| {
            let call = Call::post(format!("/containers/{container}/kill?signal={signal}")).silence(Some(STOP_LIMIT));
            async move {
                let late = async {
                    runtime.sleep_until(runtime.now().plus(STOP_LIMIT)).await;
                    false
                };
                let killed = async { removal::is_killed(&self.engine.once(&call).await) };
                killed.or(late).await
            }
        };
        if !stop.is_abandoned() {
            kill("SIGTERM").await;
            let ended = async {
                wait::end(&self.engine, container).await;
                true
            };
            let late = async {
                runtime.sleep_until(until).or(stop.abandoned()).await;
                false
            };
            if ended.or(late).await {
                return;
            }
        }
        if !kill("SIGKILL").await && !self.common.cleanup {
            // Nobody removes it, so nothing else ends it.
            removal::kill_beside(Arc::clone(&self.engine), container.to_owned());
        }
    }

    /// Logs the end of what a container wrote, without secrets.
    async fn log_output(&self, container: &str, followed: &Followed<'_>, variables: Option<Variables>) {
        let runtime = self.engine.runtime();
        match within(runtime, Some(last_output::LIMIT), self.fit_output(container, variables)).await {
            Ok(text) => last_output::show(runtime, text, followed.log).await,
            // It was removed with its output.
            Err(error) if error.is_missing() => {}
            Err(error) => warn!(task_id = followed.task_id, "cannot show what the container wrote: {error}"),
        }
    }

    /// The end of what a container wrote, without the values of its variables: of these, or of those that it has.
    async fn fit_output(&self, container: &str, variables: Option<Variables>) -> Result<Vec<u8>, EngineError> {
        let variables = match variables {
            Some(variables) => variables,
            None => self.variables_of(container).await?,
        };
        let text = last_output::read(|lines| self.output(container, lines)).await?;
        Ok(redact(text, variables.iter().map(|(name, value)| (name, value.expose()))))
    }

    /// What a container was told by its maker: the secrets in its output.
    async fn variables_of(&self, container: &str) -> Result<Variables, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Inspected {
            config: Config,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Config {
            #[serde(default)]
            env: Option<Vec<String>>,
        }
        let inspected: Inspected = self.engine.ask(&Call::get(format!("/containers/{container}/json"))).await?;
        let pairs = inspected.config.env.into_iter().flatten();
        Ok(pairs
            .filter_map(|pair| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
            .collect())
    }

    /// The end of so many last lines. None: they are too long.
    async fn output(&self, container: &str, lines: u32) -> Result<Option<Vec<u8>>, EngineError> {
        let path = format!("/containers/{container}/logs?stdout=1&stderr=1&tail={lines}");
        let mut reply = self.engine.open(&Call::get(path)).await?;
        let (mut tail, mut read) = (Tail::default(), 0);
        while let Some(chunk) = reply.chunk().await? {
            let chunk = chunk.as_ref();
            tail.take(chunk);
            read += chunk.len() as u64;
            if read > MOST_READ {
                return Ok(None);
            }
        }
        Ok(Some(tail.finish()))
    }

    /// Removes a container that is not needed any more, or marks it where everything is kept.
    async fn remove(&self, container: &str) -> Vec<Failure> {
        if !self.common.cleanup {
            removal::mark_as_told(&self.engine, container).await;
            return Vec::new();
        }
        let failure = removal::remove(&self.engine, container).await.err().map(|error| {
            let message = format!("cannot remove container {container}: {error}; it is tried again");
            Failure::new(FailureReason::Cleanup, message)
        });
        if failure.is_some() {
            removal::remove_later(Arc::clone(&self.engine), container.to_owned());
        }
        failure.into_iter().collect()
    }
}
