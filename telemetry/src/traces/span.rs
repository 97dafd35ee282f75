//! The span of one task, and what whoever works for the task knows of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{Span as _, SpanContext, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::Span;
use oz_worker_core::metrics::{FailurePhase, FailureReason};
use oz_worker_core::secret::{Secret, Variables};

/// The variables that carry a W3C trace context (OpenTelemetry specification, "Environment Variables as Context
/// Propagation Carriers").
const VARIABLES: [&str; 2] = ["TRACEPARENT", "TRACESTATE"];

/// One span and its place in the trace.
#[derive(Debug)]
pub(crate) struct TaskSpan {
    context: SpanContext,
    trace_id: Box<str>,
    longest_text: usize,
    span: Mutex<Span>,
}

impl TaskSpan {
    pub(super) fn new(span: Span, longest_text: usize) -> Self {
        let context = span.span_context().clone();
        let trace_id = context.trace_id().to_string().into();
        Self { context, trace_id, longest_text, span: Mutex::new(span) }
    }

    pub(super) const fn context(&self) -> &SpanContext {
        &self.context
    }

    /// 32 hexadecimal digits.
    pub(super) fn trace_id(&self) -> &str {
        &self.trace_id
    }

    pub(super) fn event(&self, name: &'static str, attributes: Vec<KeyValue>) {
        self.span().add_event(name, attributes);
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
    pub(super) fn fail(&self, name: &'static str, phase: FailurePhase, reason: FailureReason, message: &str) {
        self.failure(name, phase, reason, message);
        self.end(Status::error(cut(message, self.longest_text)));
    }

    /// From here on nothing changes the span.
    pub(super) fn end(&self, status: Status) {
        let mut span = self.span();
        span.set_status(status);
        span.end();
    }

    fn span(&self) -> MutexGuard<'_, Span> {
        self.span.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The trace of a task, for whoever works for it. Knows and does nothing when tracing is off.
#[derive(Debug, Clone, Default)]
pub struct TaskTrace(pub(crate) Option<Arc<TaskSpan>>);

impl TaskTrace {
    /// The trace's id, 32 hexadecimal digits, for the log.
    pub fn id(&self) -> Option<&str> {
        self.0.as_ref().map(|span| span.trace_id())
    }

    /// The variables that make what a process traces a part of this trace; none when tracing is off.
    pub fn variables(&self) -> Variables {
        let mut variables = EnvInjector(Variables::default());
        if let Some(span) = &self.0 {
            let context = Context::new().with_remote_span_context(span.context.clone());
            TraceContextPropagator::new().inject_context(&context, &mut variables);
        }
        variables.0
    }

    /// Replaces the trace context in an environment, which stays sorted by name, by this one.
    pub fn pass_on(&self, env: &mut Variables) {
        if self.0.is_some() {
            env.retain(|name| !VARIABLES.contains(&name));
            env.extend(self.variables());
            env.sort();
        }
    }

    /// The worker has begun with the task.
    pub fn started(&self) {
        self.event("task.started");
    }

    /// The backend has started the agent, or the dispatch command.
    pub fn backend_started(&self) {
        self.event("backend.started");
    }

    /// The cancel command is done, or failed for this reason in words.
    pub fn cancelled(&self, result: &Result<(), String>) {
        let Some(span) = &self.0 else { return };
        match result {
            Ok(()) => span.end(Status::Ok),
            Err(problem) => {
                span.fail("cancel.failed", FailurePhase::Cleanup, FailureReason::CancelCommand, problem);
            }
        }
    }

    fn event(&self, name: &'static str) {
        if let Some(span) = &self.0 {
            span.event(name, Vec::new());
        }
    }
}

/// At most so many characters of a text.
pub(super) fn cut(text: &str, longest: usize) -> String {
    text.chars().take(longest).collect()
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
struct EnvInjector(Variables);

impl Injector for EnvInjector {
    fn set(&mut self, key: &str, value: String) {
        // A trace state is empty more often than not, and is left out then.
        if !value.is_empty() {
            self.0.set(key.to_ascii_uppercase(), value);
        }
    }
}
