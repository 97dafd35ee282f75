//! One process of a task, from its start until nothing of it is left: output to the log, stopping, what it leaves behind.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use futures_io::AsyncRead;
use futures_lite::FutureExt;
use futures_lite::future::poll_fn;

use super::Stop;
use super::output::TaskOutput;
use crate::runtime::{Command, Exit, Process, Runtime, Signal, Tree};

/// How much output is read at once. One buffer per thread, not per task: most tasks are silent most of the time.
const CHUNK: usize = 32 << 10;
/// How long the last output of a task may take to be read after its last process ended.
const LAST_OUTPUT_LIMIT: Duration = Duration::from_secs(1);
/// How long killed processes may take to die before the worker goes on without them.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// How a step ended.
#[derive(Debug)]
pub(super) enum StepEnd {
    /// The process ended by itself.
    Exited(Exit),
    /// It was stopped because the task is to stop.
    Stopped,
    /// It could not be started, or not be awaited.
    Error(io::Error),
}

/// How long a step may run and how it is stopped.
pub(super) struct Limits<'a> {
    /// The request to stop, and how long after SIGTERM comes SIGKILL; `None` for a step that only the worker's end stops.
    pub(super) grace: Option<Duration>,
    /// The task's stop.
    pub(super) stop: &'a Stop,
}

/// Runs `command` in `tree`; afterwards nothing in the tree is alive.
pub(super) async fn run<R: Runtime>(
    runtime: &R,
    command: Command,
    tree: &R::Tree,
    output: &mut TaskOutput,
    limits: Limits<'_>,
) -> StepEnd {
    let mut process = match runtime.start(&command, Some(tree)) {
        Ok(process) => process,
        Err(error) => return StepEnd::Error(error),
    };
    drop(command);
    let pipe = process.output();
    let mut forwarding = pin!(forward(pipe, output));
    let mut forwarded = false;
    let end = beside(&mut forwarded, forwarding.as_mut(), async {
        let exited = async { Some(process.wait().await) };
        let stopped = async {
            match limits.grace {
                Some(_) => limits.stop.asked().await,
                None => limits.stop.abandoned().await,
            }
            None
        };
        let end = match exited.or(stopped).await {
            Some(Ok(exit)) => StepEnd::Exited(exit),
            Some(Err(error)) => StepEnd::Error(error),
            None => {
                let grace = limits.grace.unwrap_or_default();
                terminate(runtime, &process, tree, grace, limits.stop).await;
                StepEnd::Stopped
            }
        };
        process.signal_group(Signal::Kill);
        clear(runtime, tree).await;
        end
    });
    let end = end.await;
    if !forwarded {
        forwarding.or(runtime.sleep_until(runtime.now().plus(LAST_OUTPUT_LIMIT))).await;
    }
    end
}

/// Asks a process group to end and waits until the whole tree has, for `grace` at most.
async fn terminate<R: Runtime>(runtime: &R, process: &R::Process, tree: &R::Tree, grace: Duration, stop: &Stop) {
    process.signal_group(Signal::Terminate);
    let until = runtime.now().plus(grace);
    let mut pause = Duration::from_millis(2);
    while !tree.is_empty() && runtime.now() < until && !stop.is_abandoned() {
        let next = runtime.now().plus(pause).min(until);
        runtime.sleep_until(next).or(stop.abandoned()).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Kills whatever is left in a tree and waits until it is gone.
async fn clear<R: Runtime>(runtime: &R, tree: &R::Tree) {
    let until = runtime.now().plus(KILL_LIMIT);
    let mut pause = Duration::from_micros(500);
    while !tree.is_empty() {
        if runtime.now() >= until {
            tracing::warn!("a process of the task did not die of SIGKILL within 5 s; going on without it");
            return;
        }
        tree.kill();
        runtime.sleep_until(runtime.now().plus(pause)).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Writes what comes out of a pipe to the log until its other ends are closed.
pub(super) async fn forward(pipe: Option<impl AsyncRead + Unpin>, output: &mut TaskOutput) {
    thread_local! {
        static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    let Some(mut pipe) = pipe else { return };
    loop {
        let read = poll_fn(|cx| {
            BUFFER.with_borrow_mut(|buffer| {
                buffer.resize(CHUNK, 0);
                let Poll::Ready(read) = Pin::new(&mut pipe).poll_read(cx, buffer) else { return Poll::Pending };
                Poll::Ready(read.inspect(|length| output.write(buffer.get(..*length).unwrap_or_default())))
            })
        });
        if !matches!(read.await, Ok(1..)) {
            break;
        }
        // A task that floods its output takes turns with the others.
        futures_lite::future::yield_now().await;
    }
    output.finish();
}

/// Runs `main` to its end and `side` as far as it gets meanwhile; `side_done` says whether that was its end.
pub(super) async fn beside<T>(
    side_done: &mut bool,
    mut side: Pin<&mut impl Future<Output = ()>>,
    main: impl Future<Output = T>,
) -> T {
    let mut main = pin!(main);
    poll_fn(|cx| {
        if !*side_done {
            *side_done = side.as_mut().poll(cx).is_ready();
        }
        main.as_mut().poll(cx)
    })
    .await
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
