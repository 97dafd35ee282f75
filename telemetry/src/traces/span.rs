//! The span of one task and that of the step it is in, and the trace context that an environment carries.

use std::sync::{Mutex, MutexGuard, PoisonError};

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{Span as _, SpanContext, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::Span;
use oz_worker_core::metrics::{FailurePhase, FailureReason};
use oz_worker_core::secret::{Secret, Variables};

use crate::step::TaskStep;

/// The variables that carry a W3C trace context (OpenTelemetry specification, "Environment Variables as Context
/// Propagation Carriers").
pub(crate) const VARIABLES: [&str; 2] = ["TRACEPARENT", "TRACESTATE"];

/// One span and its place in the trace.
#[derive(Debug)]
pub(crate) struct TaskSpan {
    context: SpanContext,
    trace_id: Box<str>,
    longest_text: usize,
    open: Mutex<Open>,
}

/// What can still be added to.
#[derive(Debug)]
struct Open {
    span: Span,
    /// The step that the task is in.
    step: Option<(TaskStep, Span)>,
    /// Whether the agent or the dispatch command was started.
    has_started: bool,
}

impl TaskSpan {
    pub(super) fn new(span: Span, longest_text: usize) -> Self {
        let context = span.span_context().clone();
        let trace_id = context.trace_id().to_string().into();
        let open = Open { span, step: None, has_started: false };
        Self { context, trace_id, longest_text, open: Mutex::new(open) }
    }

    pub(crate) const fn context(&self) -> &SpanContext {
        &self.context
    }

    /// 32 hexadecimal digits.
    pub(crate) fn trace_id(&self) -> &str {
        &self.trace_id
    }

    pub(crate) fn event(&self, name: &'static str, attributes: Vec<KeyValue>) {
        self.open().span.add_event(name, attributes);
    }

    /// Something about the task failed; its result stands.
    pub(super) fn failure(&self, name: &'static str, phase: FailurePhase, reason: FailureReason, message: &str) {
        let attributes = vec![
            KeyValue::new("failure.phase", phase.as_str()),
            KeyValue::new("failure.reason", reason.as_str()),
            KeyValue::new("error.message", cut(message, self.longest_text)),
        ];
        self.event(name, attributes);
    }

    /// The end of what failed.
    pub(crate) fn fail(&self, name: &'static str, phase: FailurePhase, reason: FailureReason, message: &str) {
        self.failure(name, phase, reason, message);
        self.end(Status::error(cut(message, self.longest_text)));
    }

    /// The task is in this step now. `begin` makes the span of a step.
    pub(super) fn step(&self, step: &TaskStep, begin: impl FnOnce(&TaskStep) -> Span) {
        let mut open = self.open();
        if !open.span.is_recording() || open.step.as_ref().is_some_and(|(before, _)| before.goes_on(step)) {
            return;
        }
        if let Some((_, mut before)) = open.step.take() {
            before.end();
        }
        if step.is_start() && !std::mem::replace(&mut open.has_started, true) {
            open.span.add_event("backend.started", Vec::new());
        }
        open.step = Some((step.clone(), begin(step)));
    }

    /// From here on nothing changes the span, and no step follows.
    pub(crate) fn end(&self, status: Status) {
        let mut open = self.open();
        if let Some((step, mut span)) = open.step.take() {
            // It is the one that failed, and what was left to be done when the worker left.
            if matches!(status, Status::Error { .. }) && !step.is_after_the_end() {
                span.set_status(status.clone());
            }
            span.end();
        }
        open.span.set_status(status);
        open.span.end();
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// At most so many characters of a text.
pub(super) fn cut(text: &str, longest: usize) -> String {
    text.chars().take(longest).collect()
}

/// The variables that carry this trace context.
pub(crate) fn variables_of(context: &SpanContext) -> Variables {
    let mut variables = EnvInjector::default();
    let context = Context::new().with_remote_span_context(context.clone());
    TraceContextPropagator::new().inject_context(&context, &mut variables);
    variables.0
}

/// The trace context that an environment carries; an empty one when there is none, or it is none.
pub(super) fn parent_in(env: &Variables) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &EnvExtractor(env))
}

/// An environment as OpenTelemetry reads a context from it. Its names there are those of HTTP.
pub(super) struct EnvExtractor<'a>(pub(super) &'a Variables);

impl Extractor for EnvExtractor<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let name = VARIABLES.into_iter().find(|name| name.eq_ignore_ascii_case(key))?;
        self.0.get(name).map(Secret::expose)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.names().collect()
    }
}

/// The same for writing.
#[derive(Default)]
struct EnvInjector(Variables);

impl Injector for EnvInjector {
    fn set(&mut self, key: &str, value: String) {
        // A trace state is empty more often than not, and is left out then.
        if !value.is_empty() {
            self.0.set(key.to_ascii_uppercase(), value);
        }
    }
}
