//! What becomes of a Job that nobody needs any more: it is deleted, or marked as one whose end was told.

use std::sync::Arc;
use std::time::Duration;

use oz_worker_contract::ends::Key;
use oz_worker_core::Failure;
use oz_worker_core::metrics::FailureReason;
use oz_worker_runtime::Host;
use serde_json::{Value, json};
use tracing::warn;

use super::Shared;
use super::begin::delete_options;
use super::cluster::Call;
use super::error::ApiError;
use super::held::{Created, Ended};
use super::names::{Identity, Standing, TOLD};
use super::objects::Job;

/// How often a deletion that failed is tried again.
const INTERVAL: Duration = Duration::from_secs(30);
/// How long an API server may work on a creation whose answer nobody waits for (`--request-timeout`), and a little.
const LATE_CREATION: Duration = Duration::from_secs(65);

impl<R: Host> Shared<R> {
    /// Lets go what was kept of an execution for later workers, once its end is not told any more. None: there is nothing.
    pub(super) fn settle(
        self: &Arc<Self>,
        task_id: &str,
        execution_id: Option<&str>,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        let key = Key::new(task_id, execution_id);
        // One that was taken up and is not to be resumed: the server has moved on from it.
        let superseded =
            self.held.resumed(&key).map(|created| Ended { created, goes: true, deadline: None, report: None });
        let Ended { created, goes, deadline, report } = superseded.or_else(|| self.held.settled(&key))?;
        let own = Arc::clone(self);
        Some(async move {
            if !goes {
                return own.mark_as_told(&created, deadline).await;
            }
            for failure in own.delete_surely(&created).await {
                if let Some(report) = &report {
                    report.cleanup_failed(failure);
                } else {
                    warn!("{}", failure.message);
                }
            }
        })
    }

    /// Marks a Job as one whose end was told: no later worker takes it up. With a deadline it ends, and its TTL begins.
    pub(super) async fn mark_as_told(&self, Created { name, uid, .. }: &Created, deadline: Option<u64>) {
        if !self.can_patch() {
            return;
        }
        let mut changes = json!({"metadata": {"uid": uid, "annotations": {TOLD: "true"}}});
        if let (Some(seconds), Some(changes)) = (deadline, changes.as_object_mut()) {
            changes.insert("spec".into(), json!({"activeDeadlineSeconds": seconds}));
        }
        let path = self.cluster.job(name);
        match self.cluster.ask::<Value>(&Call::patch(path, &changes)).await {
            Ok(_) => {}
            Err(error) if error.is_forbidden() => self.cannot_patch(),
            // Gone, or another's by now.
            Err(error) if error.is_missing() || error.is_conflict() => {}
            Err(error) => warn!("cannot mark the Job {name} as one whose end was told: {error}"),
        }
    }

    /// Deletes a Job with its Pod; whatever else has its name by now stays.
    pub(super) async fn delete(&self, created: &Created) -> Vec<Failure> {
        match self.cluster.ask::<Value>(&self.deletion(created)).await {
            Err(error) if !is_gone(&error) => {
                let message = format!("cannot delete the Job {}: {error}", created.name);
                vec![Failure::new(FailureReason::Cleanup, message)]
            }
            _ => Vec::new(),
        }
    }

    /// The same; what cannot be deleted in time is told, and is deleted later.
    pub(super) async fn delete_surely(self: &Arc<Self>, created: &Created) -> Vec<Failure> {
        let failures = self.delete(created).await;
        if !failures.is_empty() {
            let (own, created) = (Arc::clone(self), created.clone());
            self.cluster.runtime().spawn(async move { own.delete_later(&created).await });
        }
        failures
    }

    async fn delete_later(&self, created: &Created) {
        let runtime = self.cluster.runtime();
        loop {
            runtime.sleep_until(runtime.now().plus(INTERVAL)).await;
            match self.cluster.once::<Value>(&self.deletion(created)).await {
                Err(error) if !is_gone(&error) => {}
                _ => break,
            }
        }
    }

    /// Removes the Job of an execution that may be there, or may still come: it is told that it could not be created.
    pub(super) async fn clear_later(&self, name: &str, identity: Identity<'_>) {
        let runtime = self.cluster.runtime();
        runtime.sleep_until(runtime.now().plus(LATE_CREATION)).await;
        loop {
            match self.cluster.once::<Job>(&Call::get(self.cluster.job(name))).await {
                Ok(there) if identity.standing(&there.metadata.labels) == Standing::Ours => {
                    let created = Created::of(&there);
                    if !self.delete(&created).await.is_empty() {
                        self.delete_later(&created).await;
                    }
                    break;
                }
                Ok(_) => break,
                Err(error) if is_gone(&error) => break,
                Err(_) => runtime.sleep_until(runtime.now().plus(INTERVAL)).await,
            }
        }
    }

    /// What deletes a Job with its Pod; whatever else has its name by now stays.
    fn deletion(&self, Created { name, uid, .. }: &Created) -> Call {
        let mut options = delete_options();
        if let Some(options) = options.as_object_mut() {
            options.insert("preconditions".into(), json!({"uid": uid}));
            options.insert("gracePeriodSeconds".into(), self.common.cancel_grace_period.as_secs().into());
        }
        Call::delete(self.cluster.job(name), &options)
    }
}

/// Whether what was to be deleted is gone, or its name is another's by now.
const fn is_gone(error: &ApiError) -> bool {
    matches!(error, ApiError::Status { status: 404 | 409, .. })
}
