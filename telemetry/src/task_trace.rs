//! What whoever works for a task says of its way, and what it knows of the task's trace.

use std::sync::Arc;

use opentelemetry::trace::Status as SpanStatus;
use oz_worker_core::metrics::{FailurePhase, FailureReason};
use oz_worker_core::secret::Variables;

use crate::status::Status;
use crate::step::TaskStep;
use crate::traces::Traces;
use crate::traces::span::{TaskSpan, VARIABLES, variables_of};

/// One task as its trace and the page tell it. Knows and does nothing of a trace when tracing is off, and shows nothing where
/// there is no page. A clone is another handle to the same.
#[derive(Debug, Clone, Default)]
pub struct TaskTrace {
    traced: Option<(Arc<Traces>, Arc<TaskSpan>)>,
    shown: Option<(Arc<Status>, Arc<str>)>,
}

impl TaskTrace {
    /// Of the task with this id.
    pub(crate) fn new(
        traced: Option<(Arc<Traces>, Arc<TaskSpan>)>,
        status: Option<&Arc<Status>>,
        task_id: &str,
    ) -> Self {
        Self { traced, shown: status.map(|status| (Arc::clone(status), task_id.into())) }
    }

    /// The trace's id, 32 hexadecimal digits, for the log.
    pub fn id(&self) -> Option<&str> {
        self.span().map(TaskSpan::trace_id)
    }

    /// The variables that make what a process traces a part of this trace; none when tracing is off.
    pub fn variables(&self) -> Variables {
        self.span().map(|span| variables_of(span.context())).unwrap_or_default()
    }

    /// Replaces the trace context in an environment, which stays sorted by name, by this one.
    pub fn pass_on(&self, env: &mut Variables) {
        if self.traced.is_some() {
            env.retain(|name| !VARIABLES.contains(&name));
            env.extend(self.variables());
            env.sort();
        }
    }

    /// The worker has begun with the task.
    pub fn started(&self) {
        if let Some(span) = self.span() {
            span.event("task.started", Vec::new());
        }
    }

    /// The task is in this step from now on, or still. Means nothing once the task has ended.
    pub fn step(&self, step: &TaskStep) {
        if let Some((traces, span)) = &self.traced {
            traces.step(span, step);
        }
        if let Some((status, task_id)) = &self.shown {
            status.step(task_id, step);
        }
    }

    /// The cancel command is done, or failed for this reason in words.
    pub fn cancelled(&self, result: &Result<(), String>) {
        let Some(span) = self.span() else { return };
        match result {
            Ok(()) => span.end(SpanStatus::Ok),
            Err(problem) => {
                span.fail("cancel.failed", FailurePhase::Cleanup, FailureReason::CancelCommand, problem);
            }
        }
    }

    fn span(&self) -> Option<&TaskSpan> {
        self.traced.as_ref().map(|(_, span)| span.as_ref())
    }
}
