//! What the spans say, with an exporter that keeps them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SpanData, SpanExporter};
use oz_worker_core::agent::InstanceShape;
use oz_worker_core::flaw::{Flaw, FlawKind};
use oz_worker_core::metrics::RejectReason;
use oz_worker_core::secret::{Secret, Variables};

use opentelemetry::propagation::Extractor;

use super::span::EnvExtractor;
use super::*;
use crate::task_trace::TaskTrace;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

impl Kept {
    fn spans(&self) -> Vec<SpanData> {
        self.0.lock().unwrap().clone()
    }

    fn only(&self) -> SpanData {
        let mut spans = self.spans();
        assert_eq!(spans.len(), 1, "{spans:#?}");
        spans.remove(0)
    }
}

fn claimed(traces: &Arc<Traces>, spec: &TaskSpec) -> TaskTrace {
    TaskTrace::new(Some((Arc::clone(traces), traces.claimed(spec))), None, &spec.task_id)
}

fn tracing(sampler: Sampler) -> (Arc<Traces>, Kept) {
    let kept = Kept::default();
    let provider = SdkTracerProvider::builder().with_sampler(sampler).with_simple_exporter(kept.clone()).build();
    let identity = Identity {
        version: "1".into(),
        worker_id: "w1".into(),
        backend: "direct".into(),
        max_concurrent_tasks: 1,
        host_name: String::new(),
        status_page: false,
    };
    (Arc::new(Traces::new(&provider, &identity, 20)), kept)
}

pub(crate) fn task(env: &[(&str, &str)]) -> TaskSpec {
    TaskSpec {
        task_id: "T".into(),
        execution_id: None,
        title: "a title".into(),
        harness: None,
        args: Vec::new(),
        env: env.iter().copied().collect(),
        image: String::new(),
        sidecars: Vec::new(),
        shape: InstanceShape::default(),
        task: Secret::default(),
    }
}

fn value<'a>(env: &'a Variables, name: &str) -> &'a str {
    env.get(name).unwrap().expose()
}

fn ended(result: TaskResult, failure: Option<Failure>) -> Notice {
    Notice::Ended { task_id: "T".into(), result, duration: Duration::ZERO, failure, active: 0 }
}

fn failure(reason: FailureReason, message: &str) -> Failure {
    Failure { reason, exit_code: 3, message: message.into() }
}

fn events(span: &SpanData) -> Vec<&str> {
    span.events.iter().map(|event| event.name.as_ref()).collect()
}

fn text(attributes: &[KeyValue]) -> String {
    let attributes = attributes.iter().map(|attribute| format!("{}={}", attribute.key, attribute.value));
    attributes.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_task_has_one_span_from_its_claim_to_its_end() {
    let (traces, kept) = tracing(Sampler::AlwaysOn);
    let trace = claimed(&traces, &task(&[]));
    trace.started();
    trace.step(&TaskStep::Running { node: None });
    assert!(kept.spans().is_empty());
    let id = traces.note(&ended(TaskResult::Succeeded, None)).unwrap();
    let spans = kept.spans();
    assert!(spans.iter().map(|span| span.name.as_ref()).eq(["oz_worker.task.run", "oz_worker.task"]));
    let span = spans[1].clone();
    assert_eq!(text(&span.attributes), "task.id=T task.title=a title worker.id=w1 worker.backend=direct");
    assert_eq!(events(&span), ["task.assigned", "task.claimed", "task.started", "backend.started", "task.completed"]);
    assert!(span.events.iter().is_sorted_by_key(|event| event.timestamp));
    assert!(span.start_time <= span.events[0].timestamp && span.events[4].timestamp <= span.end_time);
    assert_eq!((span.status, span.span_context.trace_id().to_string()), (Status::Ok, id.clone()));
    // What is told of it later names its trace too.
    assert_eq!(traces.note(&Notice::CancelUnknown { task_id: "T".into() }), Some(id));
    assert_eq!(traces.note(&Notice::CancelUnknown { task_id: "U".into() }), None);
}

#[test]
fn what_failed_stands_in_the_span_and_its_texts_are_cut() {
    let (traces, kept) = tracing(Sampler::AlwaysOn);
    traces.claimed(&TaskSpec { title: "ä".repeat(21), ..task(&[]) });
    let cleanup = failure(FailureReason::TeardownCommand, "left a mess");
    traces.note(&Notice::CleanupFailed { task_id: "T".into(), failure: cleanup });
    let cancel = failure(FailureReason::CancelCommand, "still there");
    traces.note(&Notice::CleanupFailed { task_id: "T".into(), failure: cancel });
    let cause = failure(FailureReason::AgentInvocation, "the agent exited with code 3");
    traces.note(&ended(TaskResult::Failed, Some(cause)));
    let span = kept.only();
    assert!(text(&span.attributes).contains(&format!("task.title={} ", "ä".repeat(20))));
    let told: Vec<_> = span.events.iter().skip(2).map(|event| (event.name.as_ref(), text(&event.attributes))).collect();
    let expected = [
        ("cleanup.failed", "failure.phase=cleanup failure.reason=teardown_command error.message=left a mess"),
        ("cancel.failed", "failure.phase=cleanup failure.reason=cancel_command error.message=still there"),
        ("task.failed", "failure.phase=backend failure.reason=agent_invocation error.message=the agent exited wit"),
    ];
    assert_eq!(told, expected.map(|(name, attributes)| (name, attributes.to_owned())));
    assert_eq!(span.status, Status::error("the agent exited wit"));
}

#[test]
fn a_cancelled_task_is_no_error() {
    let (traces, kept) = tracing(Sampler::AlwaysOn);
    traces.claimed(&task(&[]));
    traces.note(&Notice::CancelRequested { task_id: "T".into() });
    traces.note(&ended(TaskResult::Cancelled, None));
    let span = kept.only();
    assert_eq!(events(&span)[2..], ["task.cancellation_requested", "task.cancelled"]);
    assert_eq!(span.status, Status::Ok);
}

#[test]
fn a_task_that_never_held_a_slot_has_a_span_too() {
    let (traces, kept) = tracing(Sampler::AlwaysOn);
    let rejected = Notice::Rejected {
        task_id: "T".into(),
        title: "a title".into(),
        reason: RejectReason::AtCapacity,
        active: 1,
        is_repeated: true,
    };
    let id = traces.note(&rejected).unwrap();
    let span = kept.only();
    assert_eq!((events(&span), &span.status), (vec!["task.assigned", "task.rejected"], &Status::Ok));
    assert_eq!(text(&span.events[1].attributes), "reason=at_capacity");
    assert_eq!(span.span_context.trace_id().to_string(), id);
    let flaw = Flaw { field: "task".into(), kind: FlawKind::Missing };
    let malformed = Notice::MalformedAssignment { task_id: "M".into(), size: 9, flaw, is_answered: true };
    traces.note(&malformed);
    let span = kept.spans().remove(1);
    assert_eq!(
        (events(&span), &span.status),
        (vec!["task.assigned", "task.failed"], &Status::error("task is missing"))
    );
    assert_eq!(
        text(&span.events[1].attributes),
        "failure.phase=assignment failure.reason=unknown error.message=task is missing"
    );
}

#[test]
fn the_span_of_a_rejected_execution_is_not_that_of_the_one_which_runs() {
    let (traces, kept) = tracing(Sampler::AlwaysOn);
    let running = traces.claimed(&task(&[]));
    let (reason, active) = (RejectReason::AlreadyRunning, 1);
    let rejected = Notice::Rejected { task_id: "T".into(), title: String::new(), reason, active, is_repeated: false };
    assert_ne!(traces.note(&rejected).unwrap(), running.trace_id());
    traces.note(&ended(TaskResult::Succeeded, None));
    assert_eq!(events(&kept.spans()[1]), ["task.assigned", "task.claimed", "task.completed"]);
}

#[test]
fn cancelling_a_task_that_was_handed_over_is_a_span_below_the_tasks_own() {
    let (traces, kept) = tracing(Sampler::AlwaysOn);
    traces.claimed(&task(&[]));
    traces.note(&ended(TaskResult::Dispatched, None));
    let cancellation = TaskTrace::new(Some((Arc::clone(&traces), traces.cancelling("T"))), None, "T");
    cancellation.cancelled(&Err("the cancel command exited with code 3".into()));
    let spans = kept.spans();
    assert_eq!((spans.len(), spans[1].name.as_ref()), (2, "oz_worker.task_cancellation"));
    assert_eq!(events(&spans[0])[2..], ["task.dispatched"]);
    assert_eq!(events(&spans[1]), ["task.cancellation_requested", "cancel.failed"]);
    assert_eq!(spans[1].parent_span_id, spans[0].span_context.span_id());
    assert_eq!(spans[1].span_context.trace_id(), spans[0].span_context.trace_id());
    let failed = Notice::CancelFailed { task_id: "T".into(), problem: String::new() };
    assert_eq!(traces.note(&failed), cancellation.id().map(ToOwned::to_owned));
}

#[test]
fn a_trace_context_in_the_tasks_environment_is_the_parent_and_the_task_gets_the_span() {
    let (traces, kept) = tracing(Sampler::AlwaysOn);
    let mut spec = task(&[("A", "1"), ("TRACEPARENT", PARENT), ("TRACESTATE", "k=v"), ("Z", "2")]);
    let trace = claimed(&traces, &spec);
    trace.pass_on(&mut spec.env);
    traces.note(&ended(TaskResult::Succeeded, None));
    let span = kept.only();
    assert_eq!(span.parent_span_id.to_string(), "00f067aa0ba902b7");
    let own = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", span.span_context.span_id());
    assert_eq!(spec.env, task(&[("A", "1"), ("TRACEPARENT", &own), ("TRACESTATE", "k=v"), ("Z", "2")]).env);
}

#[test]
fn what_is_no_trace_context_is_replaced_by_one() {
    let (traces, _) = tracing(Sampler::AlwaysOn);
    for parent in ["", "nonsense", "00-00000000000000000000000000000000-0000000000000000-01"] {
        let mut spec = task(&[("TRACEPARENT", parent), ("TRACESTATE", "\u{1}")]);
        let trace = claimed(&traces, &spec);
        trace.pass_on(&mut spec.env);
        assert_eq!(spec.env, trace.variables());
        assert!(value(&spec.env, "TRACEPARENT").contains(trace.id().unwrap()));
    }
}

#[test]
fn a_trace_that_is_not_sampled_is_passed_on_as_such_and_not_exported() {
    let (traces, kept) = tracing(Sampler::AlwaysOff);
    let trace = claimed(&traces, &task(&[]));
    assert!(value(&trace.variables(), "TRACEPARENT").ends_with("-00"));
    assert_eq!(traces.note(&ended(TaskResult::Succeeded, None)).as_deref(), trace.id());
    assert!(kept.spans().is_empty());
}

#[test]
fn without_tracing_the_environment_stays_as_it_is() {
    let mut env = task(&[("TRACEPARENT", "theirs")]).env;
    TaskTrace::default().pass_on(&mut env);
    assert_eq!(value(&env, "TRACEPARENT"), "theirs");
    assert!(TaskTrace::default().variables().is_empty());
}

#[test]
fn spans_that_are_open_when_the_worker_leaves_are_ended() {
    let (traces, kept) = tracing(Sampler::AlwaysOn);
    let _held = (traces.claimed(&task(&[])), traces.cancelling("D"));
    traces.end_all();
    let spans = kept.spans();
    assert_eq!(spans.len(), 2);
    assert!(spans.iter().all(|span| span.status == Status::error("the worker left")));
}

#[test]
fn the_trace_of_a_task_with_an_endless_id_is_not_remembered() {
    let (traces, _) = tracing(Sampler::AlwaysOn);
    for (length, is_remembered) in [(LONGEST_ID, true), (LONGEST_ID + 1, false)] {
        let task_id = "x".repeat(length);
        traces.claimed(&TaskSpec { task_id: task_id.clone(), ..task(&[]) });
        let (result, duration) = (TaskResult::Succeeded, Duration::ZERO);
        traces.note(&Notice::Ended { task_id: task_id.clone(), result, duration, failure: None, active: 0 });
        assert_eq!(traces.note(&Notice::CancelUnknown { task_id }).is_some(), is_remembered);
    }
}

#[test]
fn a_context_is_read_from_the_variables_of_its_name_and_written_under_them() {
    let env: Variables = [("TRACEPARENT", PARENT), ("HOME", "/")].into_iter().collect();
    let extractor = EnvExtractor(&env);
    assert_eq!(extractor.keys(), ["TRACEPARENT", "HOME"]);
    assert_eq!((extractor.get("traceparent"), extractor.get("home")), (Some(PARENT), None));
}

#[test]
fn each_step_is_a_span_below_the_tasks_and_what_goes_on_is_no_other() {
    let (traces, kept) = tracing(Sampler::AlwaysOn);
    let trace = claimed(&traces, &task(&[]));
    let image = |name: &str, percent| TaskStep::Pulling { image: name.into(), percent };
    for step in [
        image("one", None),
        image("one", Some(40)),
        image("another, with a long name", None),
        TaskStep::Running { node: Some("node-7".into()) },
    ] {
        trace.step(&step);
    }
    traces.note(&ended(TaskResult::Failed, Some(failure(FailureReason::ContainerExit, "3"))));
    trace.step(&TaskStep::TearingDown);
    let spans = kept.spans();
    let shown: Vec<_> =
        spans.iter().map(|span| (span.name.as_ref(), text(&span.attributes), span.status.clone())).collect();
    let failed = Status::error("3");
    assert_eq!(
        shown[..3],
        [
            ("oz_worker.task.pull", "container.image.name=one".to_owned(), Status::Unset),
            ("oz_worker.task.pull", "container.image.name=another, with a long".to_owned(), Status::Unset),
            ("oz_worker.task.run", "k8s.node.name=node-7".to_owned(), failed.clone()),
        ]
    );
    assert_eq!((shown[3].0, &shown[3].2, shown.len()), ("oz_worker.task", &failed, 4));
    let task = &spans[3];
    assert_eq!(events(task), ["task.assigned", "task.claimed", "backend.started", "task.failed"]);
    for step in &spans[..3] {
        assert_eq!(step.parent_span_id, task.span_context.span_id());
        assert_eq!(step.span_context.trace_id(), task.span_context.trace_id());
    }
}

#[test]
fn what_follows_the_end_is_not_what_failed() {
    let (traces, kept) = tracing(Sampler::AlwaysOn);
    let trace = claimed(&traces, &task(&[]));
    trace.step(&TaskStep::Running { node: None });
    trace.step(&TaskStep::TearingDown);
    traces.note(&ended(TaskResult::Failed, Some(failure(FailureReason::AgentInvocation, "3"))));
    let spans = kept.spans();
    let shown: Vec<_> = spans.iter().map(|span| (span.name.as_ref(), span.status.clone())).collect();
    assert_eq!(shown[..2], [("oz_worker.task.run", Status::Unset), ("oz_worker.task.teardown", Status::Unset)]);
}

#[test]
fn the_step_of_a_task_that_runs_on_when_the_worker_leaves_ends_with_it() {
    let (traces, kept) = tracing(Sampler::AlwaysOn);
    claimed(&traces, &task(&[])).step(&TaskStep::Creating);
    traces.end_all();
    let spans = kept.spans();
    assert!(spans.iter().map(|span| span.name.as_ref()).eq(["oz_worker.task.create", "oz_worker.task"]));
    assert_eq!(events(&spans[1]), ["task.assigned", "task.claimed"], "nothing of it has started");
}
