//! The processes of a task, from the start of the first until nothing is left of any: their output in the log, stopping
//! them, what they leave running.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot::Receiver;
use futures_lite::FutureExt;
use oz_worker_contract::Stop;
use oz_worker_contract::machine::{ProcessOf, TreeOf, begun, start};
use oz_worker_contract::output::{TaskLog, forward};
use oz_worker_runtime::{Command, Exit, Host, Lane, Machine, Process, Signal, Tree};
use oz_worker_telemetry::{TaskStep, TaskTrace};

/// How long the last output of a task may take to be read after its last process ended.
const LAST_OUTPUT_LIMIT: Duration = Duration::from_secs(1);
/// How long a teardown may take to be started; a task whose end is known does not wait for a machine that is stuck.
const TEARDOWN_START_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) enum StepEnd {
    /// The process ended by itself.
    Exited(Exit),
    Stopped,
    /// It could not be started, or not be awaited.
    Error(io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Before the agent. What it leaves running (a database, say) is there for the agent and for teardown.
    Setup,
    /// The agent. When it has ended, what it left running is ended too.
    Agent,
    /// After the agent. Only the worker's end stops it.
    Teardown,
}

impl Step {
    /// Whether it is to stop.
    fn is_stopped(self, stop: &Stop) -> bool {
        match self {
            Self::Setup | Self::Agent => stop.is_asked(),
            Self::Teardown => stop.is_abandoned(),
        }
    }

    /// Ends when it is to stop.
    async fn stopped(self, stop: &Stop) {
        match self {
            Self::Setup | Self::Agent => stop.asked().await,
            Self::Teardown => stop.abandoned().await,
        }
    }
}

/// The processes of one task, step by step.
pub(super) struct Steps<'a, R: Host> {
    pub(super) runtime: &'a R,
    pub(super) trace: &'a TaskTrace,
    pub(super) log: &'a Arc<dyn TaskLog>,
    /// From SIGTERM to SIGKILL when `stop` asks to stop.
    pub(super) grace: Duration,
    pub(super) stop: &'a Stop,
    pub(super) tree: Arc<TreeOf<R>>,
    /// The processes of the steps that are over. Kept, because the tree knows descendants by their groups.
    pub(super) over: Vec<ProcessOf<R>>,
    /// Ended when the output of a step has been read to its end.
    pub(super) outputs: Vec<Receiver<()>>,
}

impl<R: Host> Steps<'_, R> {
    /// Runs `command` to its end, or until the task is to stop.
    pub(super) async fn run(&mut self, step: Step, command: Command) -> StepEnd {
        let given_up = async {
            let stopped = step.stopped(self.stop);
            if step == Step::Teardown {
                stopped.or(self.runtime.sleep_until(self.runtime.now().plus(TEARDOWN_START_LIMIT))).await;
            } else {
                stopped.await;
            }
        };
        let heard = self.stop.clone();
        let is_wanted = move || !step.is_stopped(&heard);
        let trace = self.trace.clone();
        let runs = move || {
            trace.step(match step {
                Step::Setup => &TaskStep::SettingUp,
                Step::Agent => &TaskStep::Running { node: None },
                Step::Teardown => &TaskStep::TearingDown,
            });
        };
        let start = start(self.runtime, command, Some(&self.tree), is_wanted, runs);
        match begun(self.runtime, start, given_up).await {
            Some(Ok(process)) => self.follow(step, process).await,
            Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => StepEnd::Stopped,
            Some(Err(error)) => StepEnd::Error(error),
            None if step == Step::Teardown => {
                StepEnd::Error(io::Error::new(io::ErrorKind::TimedOut, "it was not started within 10 s"))
            }
            None => StepEnd::Stopped,
        }
    }

    /// Waits for the end of a process that was started, or until the task is to stop.
    pub(super) async fn follow(&mut self, step: Step, mut process: ProcessOf<R>) -> StepEnd {
        self.outputs.push(forward(self.runtime, process.output(), Arc::clone(self.log)));
        let exited = async { Some(process.wait().await) };
        let stopped = async {
            step.stopped(self.stop).await;
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
    async fn terminate(&self, process: &mut ProcessOf<R>) {
        process.signal_group(Signal::Terminate);
        let until = self.runtime.now().plus(self.grace);
        let leader = async {
            let _ = process.wait().await;
        };
        leader.or(self.runtime.sleep_until(until)).or(self.stop.abandoned()).await;
        // The rest of the group has the rest of the time. Usually there is none, which is quick to see.
        let group = process.id();
        let rest = async {
            let mut pause = Duration::from_millis(1);
            loop {
                let tree = Arc::clone(&self.tree);
                let look = move |machine: &R::Machine| !tree.is_empty() && machine.group_is_alive(group);
                if !self.runtime.on(Lane::Finish, look).await {
                    break;
                }
                self.runtime.sleep_until(self.runtime.now().plus(pause)).await;
                pause = (pause * 2).min(Duration::from_millis(100));
            }
        };
        rest.or(self.runtime.sleep_until(until)).or(self.stop.abandoned()).await;
    }
}

/// Waits until what the steps wrote has been read to its end, for a moment.
pub(super) async fn read_out<R: Host>(runtime: &R, outputs: Vec<Receiver<()>>) {
    let read = async {
        for output in outputs {
            let _ = output.await;
        }
    };
    read.or(runtime.sleep_until(runtime.now().plus(LAST_OUTPUT_LIMIT))).await;
}
