//! The run loop: the only place where inputs and outputs of the core meet.
//!
//! Drain outputs, wait for one input, hand it in. Everything here runs on the caller's thread; tasks run beside it.

mod notices;

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_core::Stream;
use futures_lite::FutureExt;
use futures_lite::future::poll_fn;
use oz_worker_core::agent::TaskSpec;
use oz_worker_core::metrics::FailureReason;
use oz_worker_core::time::Instant;
use oz_worker_core::{Failure, Input, Outcome, Output, RunId, TaskEnd, Worker};
use oz_worker_telemetry::Recorder;

use crate::backend::{Backend, Stop};
use crate::link::{Link, LinkEvent};
use crate::runtime::{Runtime, StopSignals};

/// How long tasks that are killed when the worker leaves may take to be cleaned up.
const LEAVE_LIMIT: Duration = Duration::from_secs(6);

/// What happened outside the connection.
enum Event {
    TaskStarted { task_id: String, run: RunId },
    TaskFinished { task_id: String, run: RunId, outcome: Outcome },
    TaskEnded { task_id: String, run: RunId, cleanup: Vec<Failure> },
    CancelFailed { task_id: String, problem: String },
    Stop(&'static str),
}

/// What the run loop waits for.
enum Happening {
    Link(LinkEvent),
    Event(Event),
    Timeout,
}

/// Everything the run loop acts on.
pub struct RunLoop<R: Runtime> {
    runtime: R,
    link: Link<R>,
    backend: Arc<Backend<R>>,
    recorder: Recorder,
    /// The running tasks; closing a sender asks the task to stop.
    tasks: BTreeMap<String, (RunId, Sender<()>)>,
    /// Closed when the worker leaves: every task still running is to be killed.
    leaving: (Sender<()>, Receiver<()>),
    events: (Sender<Event>, Pin<Box<Receiver<Event>>>),
    timer: Option<Timer>,
}

struct Timer {
    at: Instant,
    sleep: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<R: Runtime> RunLoop<R> {
    /// A run loop over these; `signals` ask the worker to stop.
    pub fn new(
        runtime: R,
        link: Link<R>,
        backend: Backend<R>,
        recorder: Recorder,
        mut signals: impl StopSignals,
    ) -> Self {
        let (sender, receiver) = async_channel::unbounded();
        let on_signal = sender.clone();
        runtime.spawn(async move { while on_signal.send(Event::Stop(signals.next().await)).await.is_ok() {} });
        Self {
            runtime,
            link,
            backend: Arc::new(backend),
            recorder,
            tasks: BTreeMap::new(),
            leaving: async_channel::bounded(1),
            events: (sender, Box::pin(receiver)),
            timer: None,
        }
    }

    /// Runs `worker` until it is done.
    pub async fn run(mut self, mut worker: Worker) {
        let mut now = self.runtime.now();
        loop {
            while let Some(output) = worker.poll_output() {
                if matches!(output, Output::Exit) {
                    return self.leave().await;
                }
                self.act(output);
            }
            let timeout = worker.poll_timeout();
            self.recorder.alive(timeout.map_or(Duration::ZERO, |at| at.since(now)));
            let happening = self.next(timeout).await;
            self.recorder.alive(Duration::ZERO);
            now = self.runtime.now();
            match happening {
                Happening::Timeout => worker.handle(now, Input::Timeout),
                Happening::Link(event) => hand_in(&mut worker, now, event),
                Happening::Event(Event::Stop(signal)) => worker.handle(now, Input::Stop(signal)),
                Happening::Event(Event::TaskStarted { task_id, run }) => {
                    worker.handle(now, Input::TaskStarted { task_id: &task_id, run });
                }
                Happening::Event(Event::TaskFinished { task_id, run, outcome }) => {
                    worker.handle(now, Input::TaskFinished { task_id: &task_id, run, outcome });
                }
                Happening::Event(Event::TaskEnded { task_id, run, cleanup }) => {
                    self.tasks.remove(&task_id);
                    worker.handle(now, Input::TaskEnded { task_id: &task_id, run, cleanup });
                }
                Happening::Event(Event::CancelFailed { task_id, problem }) => {
                    worker.handle(now, Input::CancelFailed { task_id: &task_id, problem });
                }
            }
        }
    }

    fn act(&mut self, output: Output) {
        match output {
            Output::Dial => self.link.dial(),
            Output::Drop => self.link.drop_connection(),
            Output::Send(frame) => self.link.send(frame),
            Output::Close => self.link.close(),
            Output::StartTask { run, spec } => self.start_task(run, spec),
            Output::StopTask { task_id, run } => {
                if let Some((_, stop)) = self.tasks.get(&task_id).filter(|(known, _)| *known == run) {
                    stop.close();
                }
            }
            Output::CancelDispatched { task_id, execution_id } => self.cancel_dispatched(task_id, execution_id),
            // Nothing is recorded or taken up yet: the worker was neither told to nor restored.
            Output::Persist { .. } | Output::ResumeTask { .. } => {}
            Output::Metric(event) => self.recorder.record(event),
            Output::Notice(notice) => {
                let trace_id = self.recorder.note(&notice);
                notices::log(notice, trace_id.as_deref());
            }
            Output::Exit => {}
        }
    }

    fn start_task(&mut self, run: RunId, mut spec: Box<TaskSpec>) {
        // The claim first: starting a process takes far longer than a write.
        self.link.write_now();
        let trace = self.recorder.claimed(&spec);
        trace.pass_on(&mut spec.env);
        let (stop, asked) = async_channel::bounded(1);
        let task_id = spec.task_id.clone();
        self.tasks.insert(task_id.clone(), (run, stop));
        let (backend, events) = (Arc::clone(&self.backend), self.events.0.clone());
        let stop = Stop::new(asked, self.leaving.1.clone());
        self.runtime.spawn(async move {
            trace.started();
            let started = Event::TaskStarted { task_id: task_id.clone(), run };
            let _ = events.send(started).await;
            let running = AssertUnwindSafe(backend.run(*spec, trace, stop)).catch_unwind();
            // A task is never lost, not even to a bug of ours.
            let TaskEnd { outcome, cleanup } = running.await.unwrap_or_else(|_| TaskEnd {
                outcome: Outcome::Failed(Failure {
                    reason: FailureReason::Unknown,
                    exit_code: 0,
                    message: "internal error of the worker; its log has the details".into(),
                }),
                cleanup: Vec::new(),
            });
            let finished = Event::TaskFinished { task_id: task_id.clone(), run, outcome };
            let _ = events.send(finished).await;
            let _ = events.send(Event::TaskEnded { task_id, run, cleanup }).await;
        });
    }

    fn cancel_dispatched(&self, task_id: String, execution_id: Option<String>) {
        let (backend, events) = (Arc::clone(&self.backend), self.events.0.clone());
        let trace = self.recorder.cancelling(&task_id);
        self.runtime.spawn(async move {
            let cancelled = backend.cancel_dispatched(&task_id, execution_id.as_deref(), &trace).await;
            trace.cancelled(&cancelled);
            if let Err(problem) = cancelled {
                let _ = events.send(Event::CancelFailed { task_id, problem }).await;
            }
        });
    }

    /// Waits for whatever happens first.
    async fn next(&mut self, timeout: Option<Instant>) -> Happening {
        poll_fn(|cx| {
            if let Poll::Ready(Some(event)) = self.events.1.as_mut().poll_next(cx) {
                return Poll::Ready(Happening::Event(event));
            }
            if let Poll::Ready(event) = self.link.poll(cx) {
                return Poll::Ready(Happening::Link(event));
            }
            self.poll_timer(timeout, cx).map(|()| Happening::Timeout)
        })
        .await
    }

    /// Ready at `at`, or earlier when the timer was set before the time was put off: most inputs put it off, and setting
    /// it anew each time costs more than an input without effect now and then.
    fn poll_timer(&mut self, at: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = at else { return Poll::Pending };
        let runtime = &self.runtime;
        let armed = self.timer.take().filter(|timer| timer.at <= at);
        let mut timer = armed.unwrap_or_else(|| Timer { at, sleep: Box::pin(runtime.sleep_until(at)) });
        let due = timer.sleep.as_mut().poll(cx);
        if due.is_pending() {
            self.timer = Some(timer);
        }
        due
    }

    /// Kills every task that still runs and waits until nothing of it is left.
    async fn leave(mut self) {
        self.leaving.0.close();
        let runtime = self.runtime.clone();
        let cleaning = async {
            while !self.tasks.is_empty() {
                if let Ok(Event::TaskEnded { task_id, .. }) = self.events.1.recv().await {
                    self.tasks.remove(&task_id);
                }
            }
        };
        cleaning.or(runtime.sleep_until(runtime.now().plus(LEAVE_LIMIT))).await;
        runtime.release();
    }
}

fn hand_in(worker: &mut Worker, now: Instant, event: LinkEvent) {
    match event {
        LinkEvent::Connected => worker.handle(now, Input::Connected),
        LinkEvent::DialFailed(error) => worker.handle(now, Input::DialFailed(error.to_string())),
        LinkEvent::Disconnected(cause) => worker.handle(now, Input::Disconnected(cause)),
        LinkEvent::Text(text) => worker.handle(now, Input::Text(&text)),
        LinkEvent::Binary(size) => worker.handle(now, Input::Binary(size)),
        LinkEvent::Ping => worker.handle(now, Input::Ping),
        LinkEvent::Pong(payload) => worker.handle(now, Input::Pong(&payload)),
        LinkEvent::Written => worker.handle(now, Input::Written),
    }
}
