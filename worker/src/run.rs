//! The run loop: the only place where inputs and outputs of the core meet.
//!
//! Drain outputs, wait for one input, hand it in. Everything here runs on the caller's thread; tasks run beside it. The
//! signals are polled here too, so that a request to stop is heard whatever else is stuck.

mod notices;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_core::Stream;
use futures_lite::FutureExt;
use futures_lite::future::poll_fn;
use oz_worker_backends::Backend;
use oz_worker_backends::command::Handed;
use oz_worker_backends::contract::{Earlier, Latch, Report, Resumed, Stop, Task, TaskEvent};
use oz_worker_core::agent::TaskSpec;
use oz_worker_core::time::Instant;
use oz_worker_core::{Failure, Input, Notice, Output, RunId, Worker};
use oz_worker_runtime::{Host, StopSignals};
use oz_worker_telemetry::{Recorder, TaskTrace};

use crate::link::{Link, LinkEvent};
use crate::logs;

/// How many tasks may wait to be started while more can be read.
const MOST_STARTING: usize = 64;
/// How long tasks that are killed when the worker leaves may take to be cleaned up.
const LEAVE_LIMIT: Duration = Duration::from_secs(6);
/// How long after the first signal cancel commands are waited for, when nothing else takes longer. Within the bound that
/// `docs/guarantees.md` sets for the whole way out.
const CANCEL_LIMIT: Duration = Duration::from_secs(20);

enum Event {
    /// Its backend says something of it, which is among what was [`Told`].
    Told,
    /// Its backend is done with it.
    Ended { task_id: String, run: RunId, cleanup: Vec<Failure> },
    /// A dispatched task was cancelled, or could not be.
    Cancelled { task_id: String, result: Result<(), String> },
    /// A task of an earlier worker's was taken up.
    Found(Earlier),
    /// The backend let go what it had kept of an end that is told.
    Settled,
}

/// What backends say of tasks that go on. It is heard before anything else that happens, and nothing has to happen for it:
/// most of it changes nothing that could be seen before the task's end, and each wake costs more than all that is done then.
#[derive(Default)]
struct Told {
    queue: Mutex<VecDeque<(String, RunId, TaskEvent)>>,
    /// Whether the run loop is to be woken for it.
    wakes: AtomicBool,
}

impl Told {
    fn queue(&self) -> MutexGuard<'_, VecDeque<(String, RunId, TaskEvent)>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is said; gives whether it must be heard now.
    fn note(&self, task_id: &str, run: RunId, event: TaskEvent) -> bool {
        let wakes = matches!(event, TaskEvent::CleanupFailed(_)) || self.wakes.load(Ordering::Relaxed);
        self.queue().push_back((task_id.to_owned(), run, event));
        wakes
    }
}

/// What the run loop waits for.
enum Happening {
    Signal(&'static str),
    Link(LinkEvent),
    Event(Event),
    Timeout,
}

pub struct RunLoop<R: Host> {
    runtime: R,
    link: Link<R>,
    backend: Arc<Backend<R>>,
    recorder: Recorder,
    signals: R::StopSignals,
    tasks: BTreeMap<String, Running>,
    /// Set when the worker leaves: every task still running is to be killed.
    leaving: Latch,
    events: (Sender<Event>, Pin<Box<Receiver<Event>>>),
    told: Arc<Told>,
    /// How many dispatched tasks are being cancelled.
    cancelling: usize,
    /// Of how many ends that are told the backend lets go what it kept.
    settling: usize,
    /// When the first signal came that asks the worker to stop.
    stopping_since: Option<Instant>,
    /// Whether SIGTERM or SIGINT came.
    was_urged: bool,
    /// Tasks that are started as soon as nothing is there to be read: a cancellation may be.
    starting: Vec<(RunId, Box<TaskSpec>, TaskTrace)>,
    timer: Option<Timer>,
}

/// A task that its backend is not done with.
struct Running {
    run: RunId,
    /// Setting it asks the task to stop.
    stop: Latch,
}

struct Timer {
    at: Instant,
    sleep: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<R: Host> RunLoop<R> {
    /// A run loop over these; `signals` ask the worker to stop.
    pub fn new(runtime: R, link: Link<R>, backend: Backend<R>, recorder: Recorder, signals: R::StopSignals) -> Self {
        let (sender, receiver) = async_channel::unbounded();
        Self {
            runtime,
            link,
            backend: Arc::new(backend),
            recorder,
            signals,
            tasks: BTreeMap::new(),
            leaving: Latch::default(),
            events: (sender, Box::pin(receiver)),
            told: Arc::default(),
            cancelling: 0,
            settling: 0,
            stopping_since: None,
            was_urged: false,
            starting: Vec::new(),
            timer: None,
        }
    }

    /// Runs `worker` until it is done.
    pub async fn run(mut self, mut worker: Worker) {
        let mut now = self.runtime.now();
        let mut happened = None;
        let (backend, found) = (Arc::clone(&self.backend), self.events.0.clone());
        self.runtime.spawn(async move { backend.find(|earlier| drop(found.try_send(Event::Found(earlier)))).await });
        loop {
            while let Some(output) = worker.poll_output() {
                if matches!(output, Output::Exit) {
                    return self.leave().await;
                }
                self.act(output);
            }
            let told = self.told.queue().pop_front();
            if let Some((task_id, run, event)) = told {
                worker.handle(now, said(&task_id, run, event));
                continue;
            }
            match happened.take() {
                None => {
                    let timeout = worker.poll_timeout();
                    self.recorder.alive(timeout.map_or(Duration::ZERO, |at| at.since(now)));
                    happened = Some(self.next(timeout).await);
                    self.recorder.alive(Duration::ZERO);
                    now = self.runtime.now();
                }
                Some(Happening::Timeout) => worker.handle(now, Input::Timeout),
                Some(Happening::Signal(signal)) if !self.hears(signal) => {}
                Some(Happening::Signal(signal)) => {
                    self.stopping_since.get_or_insert(now);
                    self.told.wakes.store(true, Ordering::Relaxed);
                    worker.handle(now, Input::Stop(signal));
                }
                Some(Happening::Link(event)) => hand_in(&mut worker, now, event),
                Some(Happening::Event(event)) => self.tell(&mut worker, now, event),
            }
        }
    }

    /// Whether a signal asks for anything new. Whoever lets a worker go may send SIGHUP besides (systemd does, and a terminal that
    /// closes): only SIGTERM and SIGINT, and only when one came before, ask to be quicker.
    fn hears(&mut self, signal: &str) -> bool {
        let urges = matches!(signal, "SIGTERM" | "SIGINT");
        let was_urged = self.was_urged;
        self.was_urged |= urges;
        self.stopping_since.is_none() || urges && was_urged
    }

    fn tell(&mut self, worker: &mut Worker, now: Instant, event: Event) {
        match event {
            Event::Told => {}
            Event::Ended { task_id, run, cleanup } => {
                self.tasks.remove(&task_id);
                worker.handle(now, Input::TaskEnded { task_id: &task_id, run, cleanup });
            }
            Event::Cancelled { task_id, result } => {
                self.cancelling -= 1;
                if let Err(problem) = result {
                    worker.handle(now, Input::CancelFailed { task_id: &task_id, problem });
                }
            }
            Event::Found(earlier) => {
                let (task_id, execution_id) = (earlier.task_id.as_str(), earlier.execution_id.as_deref());
                worker.handle(now, Input::Found { task_id, execution_id, age: earlier.age() });
            }
            Event::Settled => self.settling -= 1,
        }
    }

    fn act(&mut self, output: Output) {
        match output {
            Output::Dial => self.link.dial(),
            Output::Drop => self.link.drop_connection(),
            Output::Send(frame) => self.link.send(frame),
            Output::Close => self.link.close(),
            Output::StartTask { run, spec } => {
                let stop = Latch::default();
                self.tasks.insert(spec.task_id.clone(), Running { run, stop });
                let trace = self.recorder.claimed(&spec);
                self.starting.push((run, spec, trace));
            }
            Output::StopTask { task_id, run } => {
                if let Some(running) = self.tasks.get(&task_id).filter(|running| running.run == run) {
                    running.stop.set();
                }
            }
            Output::CancelDispatched { task_id, execution_id } => self.cancel_dispatched(task_id, execution_id),
            Output::Metric(event) => self.recorder.record(event),
            Output::Notice(notice) => {
                match notice {
                    Notice::NotReady { .. } => self.told.wakes.store(true, Ordering::Relaxed),
                    Notice::Ready => self.told.wakes.store(self.stopping_since.is_some(), Ordering::Relaxed),
                    _ => {}
                }
                let trace_id = self.recorder.note(&notice);
                notices::log(notice, trace_id.as_deref());
            }
            Output::Settled { task_id, execution_id } => self.settle(&task_id, execution_id.as_deref()),
            Output::ResumeTask { run, task_id, execution_id } => self.resume_task(run, task_id, execution_id),
            // Nothing is recorded yet: the worker was not told to.
            Output::Persist { .. } | Output::Exit => {}
        }
    }

    fn start_tasks(&mut self) {
        for (run, spec, trace) in std::mem::take(&mut self.starting) {
            self.start_task(run, spec, trace);
        }
    }

    fn start_task(&mut self, run: RunId, mut spec: Box<TaskSpec>, trace: TaskTrace) {
        let task_id = spec.task_id.clone();
        let Some(asked) = self.tasks.get(&task_id).map(|running| running.stop.clone()) else { return };
        trace.pass_on(&mut spec.env);
        let report = self.report(&task_id, run);
        let (backend, stop) = (Arc::clone(&self.backend), Stop::new(asked, self.leaving.clone()));
        let log = logs::task(&task_id, trace.id());
        self.follow(task_id, run, async move {
            trace.started();
            backend.run(Task { spec, trace, stop, report, log }).await
        });
    }

    fn resume_task(&mut self, run: RunId, task_id: String, execution_id: Option<String>) {
        let asked = Latch::default();
        self.tasks.insert(task_id.clone(), Running { run, stop: asked.clone() });
        let report = self.report(&task_id, run);
        let (backend, stop) = (Arc::clone(&self.backend), Stop::new(asked, self.leaving.clone()));
        let (trace, log) = (self.recorder.resumed(&task_id), logs::task(&task_id, None));
        let resumed = Resumed { task_id: task_id.clone(), execution_id, trace, stop, report, log };
        self.follow(task_id, run, async move { backend.resume(resumed).await });
    }

    /// The way back from the backend.
    fn report(&self, task_id: &str, run: RunId) -> Report {
        let (told, hears, of) = (Arc::clone(&self.told), self.events.0.clone(), task_id.to_owned());
        Report::new(move |event| {
            if told.note(&of, run, event) {
                let _ = hears.try_send(Event::Told);
            }
        })
    }

    /// Lets a backend work for a task, and hears when it is done.
    fn follow(&self, task_id: String, run: RunId, work: impl Future<Output = Vec<Failure>> + Send + 'static) {
        let events = self.events.0.clone();
        // On the heap by itself: what one future is given and waits for as another takes its room twice.
        let work = AssertUnwindSafe(Box::pin(work)).catch_unwind();
        let mut running = Box::pin(async move {
            // A task is never lost, not even to a bug of ours: the core knows what an end means that nothing came before.
            let cleanup = work.await.unwrap_or_default();
            let _ = events.try_send(Event::Ended { task_id, run, cleanup });
        });
        // The first step is taken here: what the task asks a lane for is on its way before another thread is awake.
        if running.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            self.runtime.spawn(running);
        }
    }

    fn settle(&mut self, task_id: &str, execution_id: Option<&str>) {
        let Some(settling) = self.backend.settle(task_id, execution_id) else { return };
        let events = self.events.0.clone();
        self.settling += 1;
        self.runtime.spawn(async move {
            let _ = AssertUnwindSafe(settling).catch_unwind().await;
            let _ = events.try_send(Event::Settled);
        });
    }

    fn cancel_dispatched(&mut self, task_id: String, execution_id: Option<String>) {
        let (backend, events) = (Arc::clone(&self.backend), self.events.0.clone());
        let trace = self.recorder.cancelling(&task_id);
        self.cancelling += 1;
        let log = logs::task(&task_id, trace.id());
        self.runtime.spawn(async move {
            let execution_id = execution_id.as_deref();
            let handed = Handed { task_id: &task_id, execution_id, trace: &trace, log: &log };
            let cancelling = AssertUnwindSafe(backend.cancel_dispatched(&handed)).catch_unwind();
            let cancelled = cancelling.await.unwrap_or_else(|_| Err("a bug of the worker's".to_owned()));
            trace.cancelled(&cancelled);
            let _ = events.try_send(Event::Cancelled { task_id, result: cancelled });
        });
    }

    /// Waits for whatever happens first.
    async fn next(&mut self, timeout: Option<Instant>) -> Happening {
        poll_fn(|cx| {
            if let Poll::Ready(signal) = self.signals.poll_next(cx) {
                return Poll::Ready(Happening::Signal(signal));
            }
            if let Poll::Ready(Some(event)) = self.events.1.as_mut().poll_next(cx) {
                return Poll::Ready(Happening::Event(event));
            }
            if self.starting.len() >= MOST_STARTING {
                // The claims first: starting a process takes far longer than a write.
                self.link.write_now();
                self.start_tasks();
            }
            if let Poll::Ready(event) = self.link.poll(cx) {
                return Poll::Ready(Happening::Link(event));
            }
            self.start_tasks();
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

    /// Kills every task that still runs and waits until nothing of it is left, and until cancel commands are done and ends
    /// are settled.
    async fn leave(mut self) {
        self.leaving.set();
        let runtime = self.runtime.clone();
        let mut latest = runtime.now().plus(LEAVE_LIMIT);
        if let Some(since) = self.stopping_since.filter(|_| self.cancelling > 0) {
            latest = latest.max(since.plus(CANCEL_LIMIT));
        }
        let cleaning = async {
            while !self.tasks.is_empty() || self.cancelling > 0 || self.settling > 0 {
                match self.events.1.recv().await {
                    Ok(Event::Ended { task_id, .. }) => drop(self.tasks.remove(&task_id)),
                    Ok(Event::Cancelled { task_id, result }) => {
                        self.cancelling -= 1;
                        if let Err(problem) = result {
                            notices::log(Notice::CancelFailed { task_id, problem }, None);
                        }
                    }
                    Ok(Event::Settled) => self.settling -= 1,
                    Ok(Event::Told | Event::Found(_)) => {}
                    // Somebody of us holds the other end.
                    Err(_) => break,
                }
            }
            self.backend.release().await;
        };
        cleaning.or(runtime.sleep_until(latest)).await;
    }
}

fn said(task_id: &str, run: RunId, event: TaskEvent) -> Input<'_> {
    match event {
        TaskEvent::Started => Input::TaskStarted { task_id, run },
        TaskEvent::Finished(outcome) => Input::TaskFinished { task_id, run, outcome },
        TaskEvent::CleanupFailed(failure) => Input::CleanupFailed { task_id, failure },
    }
}

fn hand_in(worker: &mut Worker, now: Instant, event: LinkEvent) {
    match event {
        LinkEvent::Connected => worker.handle(now, Input::Connected),
        LinkEvent::DialFailed(error) => worker.handle(now, Input::DialFailed(error.to_string())),
        LinkEvent::Disconnected(end) => worker.handle(now, Input::Disconnected(end.to_string())),
        LinkEvent::Text(text) => worker.handle(now, Input::Text(&text)),
        LinkEvent::Binary(size) => worker.handle(now, Input::Binary(size)),
        LinkEvent::Ping => worker.handle(now, Input::Ping),
        LinkEvent::Pong(payload) => worker.handle(now, Input::Pong(&payload)),
        LinkEvent::Received => worker.handle(now, Input::Received),
        LinkEvent::Taken => worker.handle(now, Input::Taken),
        LinkEvent::Written => worker.handle(now, Input::Written),
    }
}
