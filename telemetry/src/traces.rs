//! One span per task: what happened to it, from its assignment to its end. `docs/metrics.md`, Traces.

pub(crate) mod span;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use opentelemetry::trace::{SpanContext, SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use oz_worker_core::agent::TaskSpec;
use oz_worker_core::metrics::{FailurePhase, FailureReason, TaskResult};
use oz_worker_core::recent::Recent;
use oz_worker_core::{Failure, Notice};

use crate::identity::Identity;
use crate::step::TaskStep;
use span::{TaskSpan, cut, parent_in};

const TASK: &str = "oz_worker.task";
/// The span of the cancel command for a task that a remote runtime has: the task's own span ended when it was handed over.
const CANCELLATION: &str = "oz_worker.task_cancellation";

/// How many traces of ended tasks are remembered: as many as the core remembers dispatched tasks, which a cancellation can
/// still reach.
const REMEMBERED: usize = 4096;
/// The longest task id that is remembered for that, in bytes; the real ones have 36.
const LONGEST_ID: usize = 256;

/// Takes down what happens to each task.
#[derive(Debug)]
pub(crate) struct Traces {
    tracer: SdkTracer,
    /// The attributes of every span, the task's own left out.
    worker: [KeyValue; 2],
    /// How many characters of a text are exported at most.
    longest_text: usize,
    tasks: Mutex<TaskSpans>,
}

#[derive(Debug)]
struct TaskSpans {
    /// The tasks that hold a slot.
    active: BTreeMap<String, Arc<TaskSpan>>,
    /// The traces of those that did, or were declined: what is told of them later names them too.
    ended: Recent<SpanContext>,
    /// The cancel commands that run.
    cancelling: Vec<Weak<TaskSpan>>,
}

impl TaskSpans {
    fn remember(&mut self, task_id: &str, span: &TaskSpan) {
        if task_id.len() <= LONGEST_ID {
            self.ended.insert(task_id, span.context().clone());
        }
    }
}

impl Traces {
    pub(crate) fn new(provider: &SdkTracerProvider, identity: &Identity, longest_text: usize) -> Self {
        Self {
            tracer: provider.tracer("oz-agent-worker"),
            worker: [
                KeyValue::new("worker.id", identity.worker_id.clone()),
                KeyValue::new("worker.backend", identity.backend.clone()),
            ],
            longest_text,
            tasks: Mutex::new(TaskSpans {
                active: BTreeMap::new(),
                ended: Recent::new(REMEMBERED),
                cancelling: Vec::new(),
            }),
        }
    }

    /// Begins the span of a task that is claimed. Its parent is the trace context in the task's environment, if any.
    pub(crate) fn claimed(&self, spec: &TaskSpec) -> Arc<TaskSpan> {
        let span = self.begin(TASK, &spec.task_id, &spec.title, &parent_in(&spec.env));
        span.event("task.assigned", Vec::new());
        span.event("task.claimed", Vec::new());
        self.tasks().active.insert(spec.task_id.clone(), Arc::clone(&span));
        span
    }

    /// Begins the span of the cancel command for a task that was handed over.
    pub(crate) fn cancelling(&self, task_id: &str) -> Arc<TaskSpan> {
        let mut tasks = self.tasks();
        let task = tasks.ended.get(task_id).cloned();
        let parent = task.map_or_else(Context::new, |task| Context::new().with_remote_span_context(task));
        let span = self.begin(CANCELLATION, task_id, "", &parent);
        span.event("task.cancellation_requested", Vec::new());
        tasks.cancelling.retain(|cancelling| cancelling.strong_count() > 0);
        tasks.cancelling.push(Arc::downgrade(&span));
        span
    }

    /// The task is in this step from now on, or still.
    pub(crate) fn step(&self, task: &TaskSpan, step: &TaskStep) {
        task.step(step, |step| {
            let parent = Context::new().with_remote_span_context(task.context().clone());
            let attribute = step
                .attribute()
                .map(|KeyValue { key, value, .. }| KeyValue::new(key, cut(&value.as_str(), self.longest_text)));
            let builder = self.tracer.span_builder(step.span()).with_attributes(attribute);
            self.tracer.build_with_context(builder, &parent)
        });
    }

    /// Takes down what a notice says about a task, and gives the id of the task's trace when it has one.
    pub(crate) fn note(&self, notice: &Notice) -> Option<String> {
        match notice {
            Notice::Rejected { task_id, title, reason, .. } => {
                let reason = KeyValue::new("reason", reason.as_str());
                // The server gives it to another worker: nothing has failed.
                Some(self.never_ran(task_id, title, |span| {
                    span.event("task.rejected", vec![reason]);
                    span.end(Status::Ok);
                }))
            }
            Notice::MalformedAssignment { task_id, flaw, is_answered: true, .. } => {
                let (phase, reason) = (FailurePhase::Assignment, FailureReason::Unknown);
                Some(self.never_ran(task_id, "", |span| span.fail("task.failed", phase, reason, &flaw.to_string())))
            }
            Notice::CancelRequested { task_id } => {
                self.while_active(task_id, |span| span.event("task.cancellation_requested", Vec::new()))
            }
            Notice::CleanupFailed { task_id, failure: Failure { reason, message, .. } } => {
                let name = match reason {
                    FailureReason::CancelCommand => "cancel.failed",
                    _ => "cleanup.failed",
                };
                self.while_active(task_id, |span| span.failure(name, FailurePhase::Cleanup, *reason, message))
            }
            Notice::Ended { task_id, result, failure, .. } => self.ended(task_id, *result, failure.as_ref()),
            Notice::Claimed { task_id, .. }
            | Notice::MalformedAssignment { task_id, is_answered: false, .. }
            | Notice::AssignedAgain { task_id }
            | Notice::CancelTooLate { task_id }
            | Notice::CancelUnknown { task_id }
            | Notice::NotReady { task_id }
            | Notice::Resumed { task_id, .. }
            | Notice::Interrupted { task_id, .. }
            | Notice::TooOldToTell { task_id, .. }
            | Notice::CancelFailed { task_id, .. }
            | Notice::LeavingUnproven { task_id } => self.while_active(task_id, |_| ()),
            Notice::Connected { .. }
            | Notice::ConnectionStays
            | Notice::DialFailed { .. }
            | Notice::Disconnected { .. }
            | Notice::BadFrame(_)
            | Notice::Ready
            | Notice::Draining { .. }
            | Notice::DrainTimedOut { .. }
            | Notice::Stopping { .. } => None,
        }
    }

    /// Ends every span that is still open: the worker leaves.
    pub(crate) fn end_all(&self) {
        let mut tasks = self.tasks();
        let cancelling: Vec<_> = tasks.cancelling.drain(..).filter_map(|span| span.upgrade()).collect();
        for span in std::mem::take(&mut tasks.active).into_values().chain(cancelling) {
            span.end(Status::error("the worker left"));
        }
    }

    fn begin(&self, name: &'static str, task_id: &str, title: &str, parent: &Context) -> Arc<TaskSpan> {
        let mut attributes = vec![KeyValue::new("task.id", cut(task_id, self.longest_text))];
        if !title.is_empty() {
            attributes.push(KeyValue::new("task.title", cut(title, self.longest_text)));
        }
        attributes.extend_from_slice(&self.worker);
        let builder = self.tracer.span_builder(name).with_kind(SpanKind::Consumer).with_attributes(attributes);
        Arc::new(TaskSpan::new(self.tracer.build_with_context(builder, parent), self.longest_text))
    }

    /// The whole span of a task that was assigned and never held a slot. Gives its trace's id.
    fn never_ran(&self, task_id: &str, title: &str, how_it_ended: impl FnOnce(&TaskSpan)) -> String {
        let span = self.begin(TASK, task_id, title, &Context::new());
        span.event("task.assigned", Vec::new());
        how_it_ended(&span);
        self.tasks().remember(task_id, &span);
        span.trace_id().to_owned()
    }

    /// Adds to the span of a task while it is active. Gives the id of its trace, also when it has ended.
    fn while_active(&self, task_id: &str, what_happened: impl FnOnce(&TaskSpan)) -> Option<String> {
        let tasks = self.tasks();
        if let Some(span) = tasks.active.get(task_id) {
            what_happened(span);
            return Some(span.trace_id().to_owned());
        }
        tasks.ended.get(task_id).map(|context| context.trace_id().to_string())
    }

    fn ended(&self, task_id: &str, result: TaskResult, failure: Option<&Failure>) -> Option<String> {
        let mut tasks = self.tasks();
        let span = tasks.active.remove(task_id)?;
        let name = match result {
            TaskResult::Succeeded => "task.completed",
            TaskResult::Failed => "task.failed",
            TaskResult::Cancelled => "task.cancelled",
            TaskResult::Dispatched => "task.dispatched",
        };
        if let Some(Failure { reason, message, .. }) = failure {
            span.fail(name, FailurePhase::Backend, *reason, message);
        } else {
            span.event(name, Vec::new());
            span.end(Status::Ok);
        }
        tasks.remember(task_id, &span);
        Some(span.trace_id().to_owned())
    }

    fn tasks(&self) -> MutexGuard<'_, TaskSpans> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
