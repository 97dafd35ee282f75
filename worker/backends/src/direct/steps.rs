//! The processes of a task, from the start of the first until nothing is left of any: their output in the log, stopping
//! them, what they leave running.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use async_channel::Receiver;
use futures_io::AsyncRead;
use futures_lite::FutureExt;
use futures_lite::future::poll_fn;
use oz_worker_telemetry::TaskTrace;

use super::Stop;
use super::output::TaskOutput;
use crate::runtime::{Command, Exit, Process, Runtime, Signal, Tree};

/// How much output is read at once. One buffer per thread, not per task: most tasks are silent most of the time.
const CHUNK: usize = 32 << 10;
/// How long a task waits when it has used up its share of the log: with that share, some 4 MiB of log a second. More would
/// fill any disk, and take the processor from others.
const SHARE_PAUSE: Duration = Duration::from_millis(2);
/// After how many such waits in a row the log is stuck, and lines are dropped instead.
const MOST_PAUSES: u32 = 50;
/// How long a task waits that writes faster than it is read, with or without line breaks: 64 MiB a second at most.
const CHUNK_PAUSE: Duration = Duration::from_micros(500);
/// How long the last output of a task may take to be read after its last process ended.
const LAST_OUTPUT_LIMIT: Duration = Duration::from_secs(1);
/// How long killed processes may take to die before the worker goes on without them.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// How a step ended.
#[derive(Debug)]
pub(super) enum StepEnd {
    /// The process ended by itself.
    Exited(Exit),
    /// It was stopped.
    Stopped,
    /// It could not be started, or not be awaited.
    Error(io::Error),
}

/// Which step of a task a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Before the agent. What it leaves running (a database, say) is there for the agent and for teardown.
    Setup,
    /// The agent. When it has ended, what it left running is ended too.
    Agent,
    /// After the agent. Only the worker's end stops it.
    Teardown,
}

/// The processes of one task, step by step.
pub(super) struct Steps<'a, R: Runtime> {
    runtime: &'a R,
    task_id: String,
    trace: TaskTrace,
    grace: Duration,
    stop: &'a Stop,
    tree: R::Tree,
    /// The processes of the steps that are over. Kept, because the tree knows descendants by their groups.
    over: Vec<R::Process>,
    /// Closed when the output of a step has been read to its end.
    outputs: Vec<Receiver<()>>,
}

impl<'a, R: Runtime> Steps<'a, R> {
    /// No step yet. `grace` is how long after SIGTERM comes SIGKILL when `stop` asks to stop.
    pub(super) fn new(runtime: &'a R, task_id: &str, trace: TaskTrace, grace: Duration, stop: &'a Stop) -> Self {
        let (task_id, tree) = (task_id.to_owned(), runtime.tree());
        Self { runtime, task_id, trace, grace, stop, tree, over: Vec::new(), outputs: Vec::new() }
    }

    /// Runs `command` to its end, or until the task is to stop.
    pub(super) async fn run(&mut self, step: Step, command: Command) -> StepEnd {
        let mut process = match self.runtime.start(&command, Some(&self.tree)) {
            Ok(process) => process,
            Err(error) => return StepEnd::Error(error),
        };
        drop(command);
        if step == Step::Agent {
            self.trace.backend_started();
        }
        self.outputs.push(forward(self.runtime, process.output(), &self.task_id, &self.trace));
        let exited = async { Some(process.wait().await) };
        let stopped = async {
            match step {
                Step::Setup | Step::Agent => self.stop.asked().await,
                Step::Teardown => self.stop.abandoned().await,
            }
            None
        };
        let end = match exited.or(stopped).await {
            Some(Ok(exit)) => StepEnd::Exited(exit),
            Some(Err(error)) => StepEnd::Error(error),
            None => {
                self.terminate(&mut process).await;
                StepEnd::Stopped
            }
        };
        if step != Step::Setup || matches!(end, StepEnd::Stopped) {
            process.signal_group(Signal::Kill);
        }
        self.over.push(process);
        end
    }

    /// Asks a process group to end and waits until it has, for as long as the grace period lasts.
    async fn terminate(&self, process: &mut R::Process) {
        process.signal_group(Signal::Terminate);
        let until = self.runtime.now().plus(self.grace);
        let leader = async {
            let _ = process.wait().await;
        };
        leader.or(self.runtime.sleep_until(until)).or(self.stop.abandoned()).await;
        // The rest of the group has the rest of the time. Usually there is none, which is quick to see.
        let mut pause = Duration::from_millis(1);
        while !self.tree.is_empty()
            && process.group_is_alive()
            && self.runtime.now() < until
            && !self.stop.is_abandoned()
        {
            let next = self.runtime.now().plus(pause).min(until);
            self.runtime.sleep_until(next).or(self.stop.abandoned()).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Kills whatever is left of the task, and waits until it is gone and its last output is read.
    pub(super) async fn clear(self) {
        let until = self.runtime.now().plus(KILL_LIMIT);
        let mut pause = Duration::from_micros(500);
        while !self.tree.is_empty() {
            if self.runtime.now() >= until {
                tracing::warn!(
                    task_id = self.task_id,
                    trace_id = self.trace.id(),
                    "a process of the task did not die of SIGKILL within 5 s; going on without it"
                );
                break;
            }
            self.tree.kill();
            self.runtime.sleep_until(self.runtime.now().plus(pause)).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        let read = async {
            for output in &self.outputs {
                let _ = output.recv().await;
            }
        };
        read.or(self.runtime.sleep_until(self.runtime.now().plus(LAST_OUTPUT_LIMIT))).await;
    }
}

/// Writes what comes out of a pipe to the log until its other ends are closed, beside the caller. What is given back is
/// closed then.
pub(super) fn forward<R: Runtime>(
    runtime: &R,
    pipe: Option<<R::Process as Process>::Output>,
    task_id: &str,
    trace: &TaskTrace,
) -> Receiver<()> {
    let (open, closed) = async_channel::bounded(1);
    if let Some(pipe) = pipe {
        let output = TaskOutput::new(task_id, trace);
        let own = runtime.clone();
        runtime.spawn(async move {
            read_lines(&own, pipe, output).await;
            open.close();
        });
    }
    closed
}

async fn read_lines<R: Runtime>(runtime: &R, mut pipe: impl AsyncRead + Unpin, mut output: TaskOutput) {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    loop {
        let read = poll_fn(|cx| {
            BUFFER.with_borrow_mut(|buffer| {
                buffer.resize(CHUNK, 0);
                let Poll::Ready(read) = Pin::new(&mut pipe).poll_read(cx, buffer) else { return Poll::Pending };
                Poll::Ready(read.map(|length| {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    let taken = output.write(bytes, false);
                    (length, bytes.get(taken..).unwrap_or_default().to_vec())
                }))
            })
        });
        let Ok((length @ 1.., mut rest)) = read.await else { break };
        let mut pauses = 0;
        while !rest.is_empty() {
            runtime.sleep_until(runtime.now().plus(SHARE_PAUSE)).await;
            pauses += 1;
            let taken = output.write(&rest, pauses > MOST_PAUSES);
            pauses = if taken > 0 { 0 } else { pauses };
            rest.drain(..taken);
        }
        if length == CHUNK {
            runtime.sleep_until(runtime.now().plus(CHUNK_PAUSE)).await;
        } else {
            futures_lite::future::yield_now().await;
        }
    }
    output.finish();
}

/// An exit in words.
pub(super) struct InWords(pub(super) Exit);

impl fmt::Display for InWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Exit::Code(code) => write!(f, "exited with code {code}"),
            Exit::Signal(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}
