//! [`Runtime`] on smol: the default build of the worker.
//!
//! The run loop has the calling thread for itself and waits on the reactor there ([`Smol::drive`]), so that a frame from
//! the server reaches it without a change of threads. Tasks run on two threads of their own, whatever their number.

mod process;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant as Monotonic};

use futures_lite::StreamExt;
use futures_lite::future::block_on;
use oz_worker::Runtime;
use oz_worker::host::{Owner, Processes, Tree};
use oz_worker::runtime::{Command, StopSignals};
use oz_worker_core::time::Instant;
use rustix::time::{ClockId, clock_gettime};
use smol::lock::Semaphore;
use smol::{Async, Executor, Timer};

pub use process::Process;

/// The threads that run tasks: one that is busy starting a process must not hold up all others.
const THREADS: usize = 2;
/// How much work that may block runs at once; smol's pool for it would grow to 500 threads.
const BLOCKING: usize = 2;
/// Enough for the deepest future of the worker many times over.
const STACK: usize = 512 << 10;

/// The runtime. A clone is another handle to the same.
#[derive(Debug, Clone)]
pub struct Smol {
    executor: Arc<Executor<'static>>,
    blocking: Arc<Semaphore>,
    processes: Processes,
}

impl Smol {
    /// Starts the threads that run tasks.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn new() -> io::Result<Self> {
        let executor = Arc::new(Executor::new());
        for number in 1..=THREADS {
            let executor = Arc::clone(&executor);
            // Parks instead of waiting on the reactor: that is the calling thread's, see `drive`.
            let run = move || block_on(executor.run(std::future::pending::<()>()));
            thread::Builder::new().name(format!("oz-tasks-{number}")).stack_size(STACK).spawn(run)?;
        }
        Ok(Self { executor, blocking: Arc::new(Semaphore::new(BLOCKING)), processes: Processes::default() })
    }

    /// Runs `future` on the calling thread, which waits on the reactor for everybody meanwhile.
    pub fn drive<T>(future: impl Future<Output = T>) -> T {
        smol::block_on(future)
    }
}

impl Runtime for Smol {
    type Stream = Async<TcpStream>;
    type Process = Process;
    type Tree = Tree;
    type StopSignals = Signals;

    fn now(&self) -> Instant {
        now()
    }

    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send + Unpin + 'static {
        // Reactor timers stand still while the machine sleeps, so what is left is counted anew each time.
        Sleep { at, timer: Timer::after(at.since(now())) }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.executor.spawn(task).detach();
    }

    fn unblock<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static {
        let blocking = Arc::clone(&self.blocking);
        async move {
            let _permit = blocking.acquire().await;
            smol::unblock(work).await
        }
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
        self.processes.adopt(owner)
    }

    fn release(&self) {
        self.processes.close();
    }

    fn tree(&self) -> Tree {
        self.processes.tree()
    }

    fn start(&self, command: &Command, tree: Option<&Tree>) -> io::Result<Process> {
        Process::new(self.processes.start(command, tree)?)
    }
}

/// The time since boot, suspends included.
fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0));
    Instant::new(Duration::new(seconds, nanos))
}

/// Ends at its moment.
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
            self.timer.set_at(Monotonic::now() + left);
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
