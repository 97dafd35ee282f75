//! [`Tasks`] on smol: the default build of the worker.
//!
//! The run loop has the calling thread for itself and waits for its connection there ([`Smol::drive`]), so that a frame
//! from the server reaches it without a change of threads. Tasks run on two threads of their own, whatever their number;
//! the reactor, with their processes, has one too.

mod blocking;
mod run_loop;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use blocking::Blocking;

use futures_lite::future::block_on;
use oz_worker::reactor::Tasks;
use run_loop::RunLoop;
pub use run_loop::Stream;
use smol::Executor;

/// The threads that run tasks: one that is busy starting a process must not hold up all others.
const THREADS: usize = 2;
/// The threads for work that may block; smol's pool for it would grow to 500.
const BLOCKING: usize = 2;
/// Enough for the deepest future of the worker many times over.
const STACK: usize = 512 << 10;

/// Tasks on smol's executor. A clone is another handle to the same.
#[derive(Debug, Clone)]
pub struct Smol {
    tasks: Arc<TaskThreads>,
    blocking: Blocking,
    run_loop: Arc<RunLoop>,
}

/// The threads that run tasks. Each has an executor of its own, because one that is shared wakes all its threads at every
/// step of every task, in case there is more to do. A task stays with its thread, and what it spawns too.
#[derive(Debug)]
struct TaskThreads {
    executors: [Executor<'static>; THREADS],
    next: AtomicUsize,
}

thread_local! {
    /// Which of the threads that run tasks this one is, if any.
    static HOME: Cell<Option<usize>> = const { Cell::new(None) };
}

impl Smol {
    /// Starts the threads that run tasks, and those for work that may block.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn new() -> io::Result<Self> {
        let (tasks, blocking) = (TaskThreads::start()?, Blocking::start(BLOCKING, STACK)?);
        Ok(Self { tasks, blocking, run_loop: Arc::new(RunLoop::new()?) })
    }
}

impl Tasks for Smol {
    type Stream = Stream;

    fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        self.run_loop.block_on(future)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.executor().spawn(task).detach();
    }

    fn unblock<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static {
        self.blocking.run(work)
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        let stream = Stream::connect(address).await?;
        stream.get_ref().set_nodelay(true)?;
        Ok(stream)
    }
}

impl TaskThreads {
    fn start() -> io::Result<Arc<Self>> {
        let threads = Arc::new(Self { executors: Default::default(), next: AtomicUsize::new(0) });
        for home in 0..THREADS {
            let threads = Arc::clone(&threads);
            let name = format!("oz-tasks-{}", home + 1);
            thread::Builder::new().name(name).stack_size(STACK).spawn(move || threads.run(home))?;
        }
        Ok(threads)
    }

    /// Parks instead of waiting on the reactor, which has a thread of its own. A task that panics takes no other with it.
    fn run(&self, home: usize) {
        HOME.set(Some(home));
        let run = || block_on(self.executor().run(std::future::pending::<()>()));
        while catch_unwind(AssertUnwindSafe(run)).is_err() {}
    }

    /// Where a task that is spawned here belongs.
    fn executor(&self) -> &Executor<'static> {
        let [first, others @ ..] = &self.executors;
        let home = HOME.get().unwrap_or_else(|| self.next.fetch_add(1, Ordering::Relaxed) % THREADS);
        home.checked_sub(1).and_then(|other| others.get(other)).unwrap_or(first)
    }
}
