//! The processes of a machine: they exit, crash, hang, ignore signals, flood their output, and leave others behind.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};
use futures_lite::future::poll_fn;
use oz_worker_runtime::{self as runtime, Command, Exit, Signal};

use crate::executor::{Executor, Machine};
use crate::journal::Journal;
use crate::watch::Watch;

/// What a pipe holds before its writer waits, as on Linux.
const PIPE: usize = 64 << 10;
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Agent,
    /// An agent in a container, which an engine starts a while after it was asked to.
    Container,
    /// A script before the agent.
    Setup,
    /// A script after the agent.
    Teardown,
    /// Hands a task over.
    Dispatch,
    Cancel,
}

/// The processes of one machine. A clone is another handle to the same.
#[derive(Clone)]
pub struct Processes {
    executor: Executor,
    journal: Journal,
    watch: Watch,
    machine: Machine,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    faulty: bool,
    /// Whether processes hang in the kernel: they neither end nor die.
    stuck: bool,
    next: u64,
    processes: BTreeMap<u64, Entry>,
}

struct Entry {
    tree: Option<u64>,
    group: u64,
    /// The task whose agent it is.
    agent_of: Option<String>,
    /// The process whose output it holds open.
    output: u64,
    exit: Option<Exit>,
    /// How long after SIGTERM it ends; never when it ignores it.
    heeds: Option<Duration>,
    unread: usize,
    waiter: Option<Waker>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Processes {
    /// A machine on which nothing runs.
    pub fn new(executor: &Executor, journal: &Journal, watch: &Watch, machine: Machine) -> Self {
        let (executor, journal, watch) = (executor.clone(), journal.clone(), watch.clone());
        Self { executor, journal, watch, machine, state: Arc::default() }
    }

    /// Whether processes misbehave from now on.
    pub fn set_faulty(&self, faulty: bool) {
        self.lock().faulty = faulty;
    }

    /// Whether processes hang in the kernel from now on: they neither end by themselves nor die of SIGKILL.
    pub fn set_stuck(&self, stuck: bool) {
        self.lock().stuck = stuck;
    }

    pub fn alive(&self) -> usize {
        self.lock().processes.values().filter(|entry| entry.exit.is_none()).count()
    }

    pub fn tree(&self) -> Tree {
        let mut state = self.lock();
        state.next += 1;
        Tree { host: self.clone(), number: state.next }
    }

    /// Whether anything in a group is alive.
    pub fn group_is_alive(&self, group: u64) -> bool {
        self.any(|entry| entry.group == group)
    }

    /// Starts a process.
    ///
    /// # Errors
    /// By chance.
    pub fn start(&self, command: &Command, tree: Option<&Tree>) -> io::Result<Process> {
        let what = What::of(command);
        self.watch.begun(&what.task);
        let faulty = self.lock().faulty;
        if faulty && self.executor.chance(4) {
            let error = self.executor.random(|random| {
                random.choice([io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied, io::ErrorKind::WouldBlock])
            });
            self.journal.note(|| format!("host: {:?} of {} cannot start", what.kind, what.execution));
            return Err(error.unwrap_or(io::ErrorKind::NotFound).into());
        }
        let tree = tree.map(|tree| tree.number);
        self.watch.started(what.kind, &what.task, &what.execution);
        let leader = self.enter(tree, &what.task, None, None, faulty);
        if what.kind == Kind::Agent
            && let Some(entry) = self.lock().processes.get_mut(&leader)
        {
            entry.agent_of = Some(what.task.clone());
        }
        let length = self.draw_length(what.kind, faulty).filter(|_| !self.lock().stuck);
        let exit = self.draw_exit(faulty);
        let shown = length.map_or_else(|| "never ends".to_owned(), |length| format!("runs {length:?}, {exit:?}"));
        self.journal.note(|| format!("host: {:?} of {} starts as {leader}: {shown}", what.kind, what.execution));
        if let Some(length) = length {
            self.end_after(leader, length, exit);
        }
        if faulty && tree.is_some() && self.executor.chance(25) {
            self.leave_something_behind(leader, tree, &what.task);
        }
        self.write_output(leader, faulty);
        let input = command.input.then(|| Input { reads: self.executor.chance(80) });
        Ok(Process { host: self.clone(), number: leader, input, output: true })
    }

    /// One more process; without a group it leads one of its own.
    fn enter(&self, tree: Option<u64>, task: &str, group: Option<u64>, output: Option<u64>, faulty: bool) -> u64 {
        let ignores = faulty && self.executor.chance(20);
        let longest = if faulty { Duration::from_secs(40) } else { Duration::from_secs(1) };
        let heeds = (!ignores).then(|| self.executor.duration(Duration::from_millis(1), longest));
        let mut state = self.lock();
        state.next += 1;
        let number = state.next;
        let (group, output) = (group.unwrap_or(number), output.unwrap_or(number));
        let entry = Entry {
            tree,
            group,
            agent_of: None,
            output,
            exit: None,
            heeds,
            unread: 0,
            waiter: None,
            reader: None,
            writer: None,
        };
        state.processes.insert(number, entry);
        drop(state);
        if tree.is_some() {
            self.watch.entered(number, task);
        }
        number
    }

    fn draw_length(&self, kind: Kind, faulty: bool) -> Option<Duration> {
        // Teardown is waited for as long as it takes (`docs/backends.md`), so one that never ends keeps its slot.
        let never = faulty && kind != Kind::Teardown && self.executor.chance(10);
        let longest = match kind {
            Kind::Agent if faulty => 4 * 3600,
            Kind::Agent => 600,
            _ if faulty => 90,
            _ => 3,
        };
        (!never).then(|| self.executor.duration(Duration::from_micros(500), Duration::from_secs(longest)))
    }

    fn draw_exit(&self, faulty: bool) -> Exit {
        let drawn = if faulty { self.executor.random(|random| random.u32(..100)) } else { 0 };
        match drawn {
            ..75 => Exit::Code(0),
            75..92 => Exit::Code(self.executor.random(|random| random.i32(1..256))),
            _ => Exit::Signal(self.executor.random(|random| random.i32(1..32))),
        }
    }

    /// A descendant, in the same group or hidden in one of its own, that may hold the output open.
    fn leave_something_behind(&self, leader: u64, tree: Option<u64>, task: &str) {
        let group = self.executor.chance(50).then_some(leader);
        let output = self.executor.chance(50).then_some(leader);
        let number = self.enter(tree, task, group, output, true);
        if self.executor.chance(50) {
            let length = self.executor.duration(Duration::from_millis(1), Duration::from_secs(600));
            self.end_after(number, length, Exit::Code(0));
        }
    }

    fn write_output(&self, leader: u64, faulty: bool) {
        let flood = faulty && self.executor.chance(10);
        let writes = self.executor.random(|random| random.usize(..if flood { 40 } else { 3 }));
        let largest = if flood { PIPE } else { 200 };
        let host = self.clone();
        self.executor.spawn(self.machine, async move {
            for _ in 0..writes {
                let pause = host.executor.duration(Duration::from_micros(10), Duration::from_secs(1));
                host.executor.sleep(if flood { Duration::ZERO } else { pause }).await;
                let length = host.executor.random(|random| random.usize(1..=largest));
                if !host.write(leader, length).await {
                    break;
                }
            }
        });
    }

    /// Writes when there is room; false when the process has ended.
    async fn write(&self, number: u64, length: usize) -> bool {
        poll_fn(|cx| {
            let mut state = self.lock();
            let Some(entry) = state.processes.get_mut(&number).filter(|entry| entry.exit.is_none()) else {
                return Poll::Ready(false);
            };
            if entry.unread >= PIPE {
                entry.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            entry.unread += length;
            entry.reader.take().into_iter().for_each(Waker::wake);
            Poll::Ready(true)
        })
        .await
    }

    fn end_after(&self, number: u64, length: Duration, exit: Exit) {
        let host = self.clone();
        self.executor.spawn(self.machine, async move {
            host.executor.sleep(length).await;
            host.end(number, exit);
        });
    }

    fn end(&self, number: u64, exit: Exit) {
        let mut state = self.lock();
        let Some(entry) = state.processes.get_mut(&number).filter(|entry| entry.exit.is_none()) else { return };
        entry.exit = Some(exit);
        let (output, agent_of) = (entry.output, entry.agent_of.take());
        let mut woken: Vec<_> = entry.waiter.take().into_iter().chain(entry.writer.take()).collect();
        woken.extend(state.processes.get_mut(&output).and_then(|entry| entry.reader.take()));
        drop(state);
        self.watch.left(number);
        if let Some(task) = agent_of.filter(|_| exit == Exit::Code(0)) {
            self.watch.succeeded(&task);
        }
        self.journal.note(|| format!("host: {number} ended: {exit:?}"));
        woken.into_iter().for_each(Waker::wake);
    }

    /// Sends a signal to everything alive that is `chosen`.
    fn signal(&self, signal: Signal, chosen: impl Fn(&Entry) -> bool) {
        let state = self.lock();
        let faulty = state.faulty;
        if state.stuck {
            return;
        }
        let receivers = state.processes.iter().filter(|(_, entry)| entry.exit.is_none() && chosen(entry));
        let receivers: Vec<_> = receivers.map(|(number, entry)| (*number, entry.heeds)).collect();
        drop(state);
        for (number, heeds) in receivers {
            match signal {
                Signal::Kill => {
                    // Now and then one hangs in the kernel.
                    let hangs = faulty && self.executor.chance(2);
                    let longest = if hangs { Duration::from_secs(8) } else { Duration::from_millis(20) };
                    let after = self.executor.duration(Duration::from_micros(20), longest);
                    self.end_after(number, after, Exit::Signal(SIGKILL));
                }
                Signal::Terminate => {
                    if let Some(after) = heeds {
                        self.end_after(number, after, Exit::Signal(SIGTERM));
                    }
                }
            }
        }
    }

    fn any(&self, chosen: impl Fn(&Entry) -> bool) -> bool {
        self.lock().processes.values().any(|entry| entry.exit.is_none() && chosen(entry))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// What a command is, and for which task.
struct What {
    kind: Kind,
    task: String,
    execution: String,
}

impl What {
    fn of(command: &Command) -> Self {
        let text = |text: &std::ffi::OsString| text.to_string_lossy().into_owned();
        let variable = |name: &str| command.env.get(name).map(|value| value.to_string_lossy().into_owned());
        let kind = match command.args.get(1).filter(|_| command.program.ends_with("sh")).map(text).as_deref() {
            Some("setup") => Kind::Setup,
            Some("teardown") => Kind::Teardown,
            Some("dispatch") => Kind::Dispatch,
            Some("cancel") => Kind::Cancel,
            _ => Kind::Agent,
        };
        let named = command.args.iter().skip_while(|arg| *arg != "--task-id").nth(1).map(text);
        let task = variable("OZ_RUN_ID").or(named).unwrap_or_default();
        let execution = variable("OZ_EXECUTION_ID").or_else(|| variable("EXECUTION")).unwrap_or_default();
        Self { kind, task, execution }
    }
}

/// A process, as the worker holds it.
pub struct Process {
    host: Processes,
    number: u64,
    input: Option<Input>,
    output: bool,
}

impl runtime::Process for Process {
    type Input = Input;
    type Output = Output;

    fn id(&self) -> u32 {
        u32::try_from(self.number).unwrap()
    }

    fn errors(&mut self) -> Option<Output> {
        None
    }

    fn input(&mut self) -> Option<Input> {
        self.input.take()
    }

    fn output(&mut self) -> Option<Output> {
        std::mem::take(&mut self.output).then(|| Output { host: self.host.clone(), number: self.number })
    }

    async fn wait(&mut self) -> io::Result<Exit> {
        poll_fn(|cx| {
            let mut state = self.host.lock();
            let Some(entry) = state.processes.get_mut(&self.number) else {
                return Poll::Ready(Err(io::ErrorKind::NotFound.into()));
            };
            if let Some(exit) = entry.exit {
                return Poll::Ready(Ok(exit));
            }
            entry.waiter = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn signal_group(&self, signal: Signal) {
        self.host.signal(signal, |entry| entry.group == self.number);
    }
}

/// All processes of one task.
pub struct Tree {
    host: Processes,
    number: u64,
}

impl runtime::Tree for Tree {
    fn is_empty(&self) -> bool {
        !self.host.any(|entry| entry.tree == Some(self.number))
    }

    fn kill(&self) {
        self.host.signal(Signal::Kill, |entry| entry.tree == Some(self.number));
    }
}

/// Standard input: read, or never read.
pub struct Input {
    reads: bool,
}

impl AsyncWrite for Input {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.reads { Poll::Ready(Ok(bytes.len())) } else { Poll::Pending }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The output of a process and of what holds it open.
pub struct Output {
    host: Processes,
    number: u64,
}

impl AsyncRead for Output {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut state = self.host.lock();
        let held = state.processes.values().any(|entry| entry.exit.is_none() && entry.output == self.number);
        let Some(entry) = state.processes.get_mut(&self.number) else { return Poll::Ready(Ok(0)) };
        if entry.unread == 0 {
            if !held {
                return Poll::Ready(Ok(0));
            }
            entry.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = entry.unread.min(buffer.len());
        for line in buffer[..length].chunks_mut(80) {
            line.fill(b'x');
            line[line.len() - 1] = b'\n';
        }
        entry.unread -= length;
        if let Some(writer) = entry.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(length))
    }
}
