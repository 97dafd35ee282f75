//! [`Runtime`] on smol: the default build of the worker.
//!
//! The run loop has the calling thread for itself and waits on the reactor there ([`Smol::drive`]), so that a frame from
//! the server reaches it without a change of threads. Tasks run on two threads of their own, whatever their number.

mod process;
mod relay;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use atomic_waker::AtomicWaker;
use futures_lite::StreamExt;
use futures_lite::future::block_on;
use oz_worker::Runtime;
use oz_worker::host::{HostFiles, Owner, Processes, Tree};
use oz_worker::runtime::{Command, StopSignals};
use oz_worker_core::time::Instant;
use rustix::time::{ClockId, clock_gettime};
use smol::{Async, Executor, Timer};

pub use process::Process;
use relay::Relayed;

/// The threads that run tasks: one that is busy starting a process must not hold up all others.
const THREADS: usize = 2;
/// The threads for work that may block; smol's pool for it would grow to 500.
const BLOCKING: usize = 2;
/// How long a wait may go on without a look at the clock: how late the end of one is noticed that fell into a suspend of
/// the machine.
const LOOK: Duration = Duration::from_secs(5);
/// How often orphans that ended while no task did are reaped.
const REAP_INTERVAL: Duration = Duration::from_secs(15);
/// Enough for the deepest future of the worker many times over.
const STACK: usize = 512 << 10;

/// The runtime. A clone is another handle to the same.
#[derive(Debug, Clone)]
pub struct Smol {
    executor: Arc<Executor<'static>>,
    blocking: Arc<Executor<'static>>,
    processes: Processes,
    run_loop: Arc<AtomicWaker>,
}

impl Smol {
    /// Starts the threads that run tasks, and those for work that may block.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn new() -> io::Result<Self> {
        let (executor, blocking) = (start_threads("oz-tasks", THREADS)?, start_threads("oz-blocking", BLOCKING)?);
        Ok(Self { executor, blocking, processes: Processes::default(), run_loop: Arc::default() })
    }

    /// Runs `future` on the calling thread, which waits on the reactor for everybody meanwhile.
    pub fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        relay::block_on(&self.run_loop, future)
    }
}

impl Runtime for Smol {
    type Stream = Async<TcpStream>;
    type Process = Process;
    type Tree = Tree;
    type Files = HostFiles;
    type StopSignals = Signals;

    fn now(&self) -> Instant {
        now()
    }

    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send + Unpin + 'static {
        Sleep { at, timer: Timer::after(at.since(now()).min(LOOK)) }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.executor.spawn(Relayed::new(Box::pin(task), Arc::clone(&self.run_loop))).detach();
    }

    fn unblock<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static {
        self.blocking.spawn(async move { work() })
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let name = (host.to_owned(), port);
        self.unblock(move || name.to_socket_addrs().map(Iterator::collect)).await
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Self::Stream> {
        let stream = Async::<TcpStream>::connect(address).await?;
        stream.get_ref().set_nodelay(true)?;
        Ok(stream)
    }

    fn stop_signals(&self) -> io::Result<Signals> {
        let wanted = [async_signal::Signal::Term, async_signal::Signal::Int];
        Ok(Signals(async_signal::Signals::new(wanted)?))
    }

    fn adopt(&self, owner: &Owner) -> io::Result<usize> {
        let processes = self.processes.clone();
        self.spawn(async move {
            loop {
                Timer::after(REAP_INTERVAL).await;
                processes.reap();
            }
        });
        self.processes.adopt(owner)
    }

    fn release(&self) {
        self.processes.close();
    }

    fn files(&self) -> HostFiles {
        HostFiles
    }

    fn tree(&self) -> Tree {
        self.processes.tree()
    }

    fn start(&self, command: &Command, tree: Option<&Tree>) -> io::Result<Process> {
        Process::new(self.processes.start(command, tree)?)
    }
}

/// An executor, and the threads that run it.
fn start_threads(name: &str, count: usize) -> io::Result<Arc<Executor<'static>>> {
    let executor = Arc::new(Executor::new());
    for number in 1..=count {
        let executor = Arc::clone(&executor);
        // Parks instead of waiting on the reactor: that is the calling thread's, see `Smol::drive`. A task that panics
        // takes no other with it.
        let run = move || {
            while catch_unwind(AssertUnwindSafe(|| block_on(executor.run(std::future::pending::<()>())))).is_err() {}
        };
        thread::Builder::new().name(format!("{name}-{number}")).stack_size(STACK).spawn(run)?;
    }
    Ok(executor)
}

/// The time since boot, suspends included.
fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0));
    Instant::new(Duration::new(seconds, nanos))
}

/// Ends at its moment. The reactor's timers stand still while the machine is suspended, so none is trusted for long.
struct Sleep {
    at: Instant,
    timer: Timer,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        while Pin::new(&mut self.timer).poll(cx).is_ready() {
            let left = self.at.since(now());
            if left.is_zero() {
                return Poll::Ready(());
            }
            self.timer.set_after(left.min(LOOK));
        }
        Poll::Pending
    }
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Signals(async_signal::Signals);

impl StopSignals for Signals {
    async fn next(&mut self) -> &'static str {
        match self.0.next().await {
            Some(Ok(async_signal::Signal::Int)) => "SIGINT",
            Some(Ok(_)) => "SIGTERM",
            // The pipe behind it broke, which the kernel does not do; asking again would spin.
            Some(Err(_)) | None => std::future::pending().await,
        }
    }
}
