//! What becomes of a Job that nobody needs any more: it is deleted, or marked as one whose end was told.

use std::sync::Arc;

use oz_worker_core::Failure;
use oz_worker_core::metrics::FailureReason;
use oz_worker_runtime::Host;
use serde_json::{Value, json};
use tracing::warn;

use super::Shared;
use super::begin::delete_options;
use super::cluster::{ApiError, Call};
use super::held::{Created, Ended, Key};
use super::names::TOLD;

impl<R: Host> Shared<R> {
    /// Lets go what was kept of an execution for later workers, once its end is not told any more. None: there is nothing.
    pub(super) fn settle(
        self: &Arc<Self>,
        task_id: &str,
        execution_id: Option<&str>,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        let key = Key::new(task_id, execution_id);
        // One that was taken up and is not to be resumed: the server has moved on from it.
        let superseded = self.held.resumed(&key).map(|created| Ended { created, goes: true, report: None });
        let Ended { created, goes, report } = superseded.or_else(|| self.held.settled(&key))?;
        let own = Arc::clone(self);
        Some(async move {
            if !goes {
                return own.mark_as_told(&created).await;
            }
            for failure in own.delete(&created).await {
                if let Some(report) = &report {
                    report.cleanup_failed(failure);
                } else {
                    warn!("{}", failure.message);
                }
            }
        })
    }

    /// Marks a Job as one whose end was told: no later worker takes it up.
    pub(super) async fn mark_as_told(&self, Created { name, uid, .. }: &Created) {
        if !self.can_patch() {
            return;
        }
        let metadata = json!({"uid": uid, "annotations": {TOLD: "true"}});
        let path = self.cluster.job(name);
        match self.cluster.ask::<Value>(&Call::patch(path, json!({"metadata": metadata}))).await {
            Ok(_) => {}
            Err(error) if error.is_forbidden() => self.cannot_patch(),
            // Gone, or another's by now.
            Err(error) if error.is_missing() || error.is_conflict() => {}
            Err(error) => warn!("cannot mark the Job {name} as one whose end was told: {error}"),
        }
    }

    /// Deletes a Job with its Pod; whatever else has its name by now stays.
    pub(super) async fn delete(&self, Created { name, uid, .. }: &Created) -> Vec<Failure> {
        let mut options = delete_options();
        if let Some(options) = options.as_object_mut() {
            options.insert("preconditions".into(), json!({"uid": uid}));
            options.insert("gracePeriodSeconds".into(), self.common.cancel_grace_period.as_secs().into());
        }
        let call = Call::delete(self.cluster.job(name), options);
        match self.cluster.ask::<Value>(&call).await {
            // Gone, or another's by now.
            Ok(_) | Err(ApiError::Status { status: 404 | 409, .. }) => Vec::new(),
            Err(error) => vec![Failure::new(FailureReason::Cleanup, format!("cannot delete the Job {name}: {error}"))],
        }
    }
}
